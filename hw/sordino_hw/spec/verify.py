"""The verifier: a program may use only what it brings along, what it stored before, and its inputs.

`verify` walks the instruction streams of a program, without values. Of every operation it finds which rows of which memory the
operation can touch, and refuses the program unless

- weight, mask, parameter and table rows lie in an image of the operation's own segment. Images of earlier segments do not count:
  a segment is loaded by itself, and what other programs left in the rows beyond is not known;
- activation words that it reads were stored before, by an input or an earlier operation; they persist between segments. No word is
  taken to be zero because nothing has stored it: it holds the last image's value, or another program's;
- accumulator state that it starts from was stored by an earlier operation, on the same core; state persists between segments;
- nothing that it reads is stored, and nothing that it stores is read or stored, by an operation that may still be in flight: a WAIT
  stands between; no two outputs of one operation are stored to one word; and of its own reads only an output's residual may be there;
- the words of every tensor are stored by the time that the tensor is read: after the program where its memory is kept, else after the
  last operation of its layer.

Nothing here grows with the numbers in registers: what an operation touches is expressed as runs of neighbouring rows, the number of
which is found before they are made, and `MOST_WORK` bounds their sum.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .asm import Step, decode_segment
from .errors import TrapError
from .geometry import centred
from .isa import Flag, Mode, Opcode, Region, address_bits, region_depth

if TYPE_CHECKING:
    from .program import Program, Segment

__all__ = ["MOST_WORK", "read_after", "verify"]

MOST_WORK = 1 << 28
"""Rows and runs that the verifier looks at in one program: seconds. Networks that fill the largest preset take a hundredth."""

MOST_AT_ONCE = 1 << 24
"""Of these, those of one operation: as many as the largest memories have rows, four times over."""

Rule = Callable[[object, str], None]
"""Called with a condition and the text of the error where it is false."""


def verify(program: "Program", rule: Rule) -> None:
    """Calls `rule` for everything that a sound program keeps to (see the module). Images, tensors and links are checked already."""
    _Verifier(program, rule).run()


# -- runs of rows --------------------------------------------------------------------------------------------------


def _merged(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs [start, stop) as the fewest that cover the same rows, ascending; empty ones are left out."""
    some = starts < stops
    starts, stops = starts[some], stops[some]
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order]) if len(order) else stops
    if not len(starts):
        return starts, stops
    first = np.append(True, starts[1:] > stops[:-1])
    return starts[first], stops[np.append(first[1:], True)]


@dataclass(frozen=True)
class _Runs:
    """The rows {r + c}, r in `offsets` and c in the runs [start, stop), modulo the address space."""

    offsets: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    @property
    def count(self) -> int:
        return len(self.offsets) * len(self.starts)

    def placed(self, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """All runs, their first row in the address space of `bits` bits."""
        starts = (self.offsets[:, None] + self.starts).ravel() & (1 << bits) - 1
        return starts, starts + np.tile(self.stops - self.starts, len(self.offsets))


_INPUT = ("OW", "KX", "SPAN", "WORDS", "W", "IX0", "SX", "DX", "REPX", "A_OX", "A_KX")
_ROWS = ("OH", "KH", "H", "IY0", "SY", "DY", "REPY", "A_BASE", "A_OY", "A_KY")


@lru_cache(maxsize=64)
def _row_offsets(values: tuple[int, ...], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(addresses of the input rows that any output reads, kernel rows that any output finds in bounds)."""
    r = dict(zip(_ROWS, values, strict=True))
    qy, ky = np.arange((r["OH"] - 1) // r["REPY"] + 1)[:, None], np.arange(r["KH"])
    iy = r["IY0"] + qy * r["SY"] + ky * r["DY"]
    valid = (iy >= 0) & (iy < r["H"])
    address = centred(r["A_BASE"], bits) + qy * centred(r["A_OY"], bits) + ky * centred(r["A_KY"], bits)
    return np.unique(address[valid]), np.flatnonzero(valid.any(0))


@lru_cache(maxsize=64)
def _column_runs(values: tuple[int, ...], bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first addresses and ends of the runs of words in an input row, bool [KX, SPAN]: pixels that any output finds in bounds)."""
    r = dict(zip(_INPUT, values, strict=True))
    qx, kx = np.arange((r["OW"] - 1) // r["REPX"] + 1)[:, None], np.arange(r["KX"])
    ix = r["IX0"] + qx * r["SX"] + kx * r["DX"]
    low, high = (-ix).clip(0, r["SPAN"]), (r["W"] - ix).clip(0, r["SPAN"])
    high = np.maximum(low, high)
    address = qx * centred(r["A_OX"], bits) + kx * centred(r["A_KX"], bits)
    starts, stops = _merged((address + low * r["WORDS"]).ravel(), (address + high * r["WORDS"]).ravel())
    edges = np.zeros((r["KX"], r["SPAN"] + 1), np.int64)
    columns = np.broadcast_to(kx, low.shape)
    np.add.at(edges, (columns, low), 1)
    np.add.at(edges, (columns, high), -1)
    return starts, stops, edges.cumsum(1)[:, :-1] > 0


def _words(r: dict[str, int], base: str, row: str, column: str, bits: int) -> _Runs:
    """The SLICES neighbouring words of each output, or of each residual."""
    ox = np.arange(r["OW"]) * centred(r[column], bits)
    starts, stops = _merged(ox, ox + r["SLICES"])
    return _Runs(np.unique(centred(r[base], bits) + np.arange(r["OH"]) * centred(r[row], bits)), starts, stops)


# -- memories ------------------------------------------------------------------------------------------------------


class _Memory:
    """When each row of a memory was last stored and read. Time is counted in WAITs; 0 is never, 1 before the program."""

    def __init__(self, depth: int):
        self.stored = np.zeros(depth, np.int32)
        self.used = np.zeros(depth, np.int32)

    def rows(self, starts: np.ndarray, stops: np.ndarray) -> tuple[slice, np.ndarray]:
        """Runs of rows as (the part of the memory they lie in, bool by row of the part)."""
        if not len(starts):
            return slice(0, 0), np.zeros(0, bool)
        first, size = int(starts.min()), int(stops.max() - starts.min())
        edges = np.bincount(starts - first, minlength=size + 1) - np.bincount(stops - first, minlength=size + 1)
        return slice(first, first + size), edges.cumsum()[:-1] > 0


class _Verifier:
    def __init__(self, program: "Program", rule: Rule):
        self.program, self.arch, self.complain = program, program.arch, rule
        self.work = 0
        self.now = 2
        self.act = _Memory(self.arch.act_depth)
        self.state: dict[int, _Memory] = {}
        self.where = ""

    def rule(self, ok: object, text: str) -> None:
        if not ok:
            self.complain(False, f"{self.where}{text}")

    def spend(self, work: int) -> None:
        self.work += work
        much = work > MOST_AT_ONCE or self.work > MOST_WORK
        self.rule(not much, "it touches more rows than can be verified, which no memory has")

    def run(self) -> None:
        program = self.program
        for name in program.inputs:
            addresses = program.addresses(name)
            self.spend(addresses.size)
            self.act.stored[addresses] = 1
        after: dict[int, list[str]] = {}
        for name, count in read_after(program).items():
            after.setdefault(count, []).append(name)
        absent = self.missing(after.get(0, ()))  # said last: it may follow from a fault in a stream
        done = 0
        for i, segment in enumerate(program.segments):
            masks = _Masks(segment)
            self.spend(segment.mask.size // 8)
            self.where = f"segment {i}: "
            operations = 0
            for step in self.steps(segment):
                if step.opcode in (Opcode.WAIT, Opcode.HALT):
                    self.now += 1
                    continue
                self.where = f"segment {i}, operation {operations}, instruction {step.pc}: "
                self.rule(operations < len(segment.ops), f"the table of operations has {len(segment.ops)} only")
                self.operation(segment, step, masks)
                operations, done = operations + 1, done + 1
                self.rule(not (text := self.missing(after.get(done, ()))), text)
            self.where = f"segment {i}: "
            self.rule(operations == len(segment.ops), f"{operations} operations, but {len(segment.ops)} in its table")
        self.where = ""
        self.rule(not absent, absent)

    def steps(self, segment: "Segment") -> Iterator[Step]:
        """The steps of a segment. What traps before any operation touches a memory is refused here."""
        try:
            yield from decode_segment(segment.imem, self.arch)
        except TrapError as trap:
            self.rule(False, str(trap))

    def missing(self, names: Iterable[str]) -> str:
        """What is wrong where the words of these tensors are not all stored by now; empty if they are."""
        for name in names:
            addresses = self.program.addresses(name)
            self.spend(addresses.size)
            missing = addresses[self.act.stored[addresses] == 0]
            if len(missing):
                return f"tensor {name!r} is read from activation words, such as {missing[0]}, that nothing has stored"
        return ""

    # -- an operation --------------------------------------------------------------------------------------------------

    def operation(self, segment: "Segment", step: Step, masks: "_Masks") -> None:
        r, bits = step.regs, address_bits(self.arch, Region.ACT)
        self.spend(r["OH"] * (r["KH"] + 1) + r["OW"] * (r["KX"] + 1) + r["KX"] * r["SPAN"])
        offsets, kernel_rows = _row_offsets(tuple(r[name] for name in _ROWS), bits)
        starts, stops, pixels = _column_runs(tuple(r[name] for name in _INPUT), bits)
        reads = [_Runs(offsets, starts, stops)] if len(offsets) else []
        self.constants(segment, step, kernel_rows, pixels, masks)
        for runs in reads:
            self.read(*self.place(runs, Region.ACT))
        if step.has(Flag.RESIDUAL):
            # Each output's residual may be the word that it is stored to: nothing else of the operation reads it.
            pairs = (("R_BASE", "O_BASE"), ("R_OY", "O_OY"), ("R_OX", "O_OX"))
            in_place = all(centred(r[a], bits) == centred(r[b], bits) for a, b in pairs) and not step.has(Flag.SINK)
            self.read(*self.place(_words(r, "R_BASE", "R_OY", "R_OX", bits), Region.ACT), in_place)
        self.states(step)
        if not step.has(Flag.SINK):
            self.store(*self.place(_words(r, "O_BASE", "O_OY", "O_OX", bits), Region.ACT), r["OH"] * r["OW"] * r["SLICES"])

    def place(self, runs: _Runs, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """The runs in a memory, all of them inside it."""
        self.spend(runs.count)
        starts, stops = runs.placed(address_bits(self.arch, region))
        depth = region_depth(self.arch, region)
        if len(stops) and stops.max() > depth:
            row = max(depth, int(starts[stops.argmax()]))
            self.rule(False, f"it touches row {row} of the {region.name} memory, which has {depth}")
        return starts, stops

    def read(self, starts: np.ndarray, stops: np.ndarray, in_place: bool = False) -> None:
        """The operation reads activation words; `in_place`: each for the very output that it stores there."""
        part, rows = self.act.rows(starts, stops)
        self.spend(len(rows))
        stored = self.act.stored[part]
        if (racing := rows & (stored == self.now)).any():
            row = part.start + int(racing.argmax())
            self.rule(False, f"it reads activation word {row}, which an operation before it may still store to; a WAIT is missing")
        if (absent := rows & (stored == 0)).any():
            row = part.start + int(absent.argmax())
            self.rule(False, f"it reads activation word {row}, which no input and no operation has stored")
        if not in_place:
            self.act.used[part][rows] = self.now

    def store(self, starts: np.ndarray, stops: np.ndarray, words: int) -> None:
        """The operation stores so many activation words."""
        memory = self.act
        part, rows = memory.rows(starts, stops)
        self.spend(len(rows))
        if (racing := rows & ((memory.stored[part] == self.now) | (memory.used[part] == self.now))).any():
            row = part.start + int(racing.argmax())
            self.rule(
                False,
                f"it stores activation word {row}, which it or an operation before it may still read or store to; a WAIT is missing",
            )
        self.rule(np.count_nonzero(rows) == words, "two of its outputs are stored to one word, and which one stays is not known")
        memory.stored[part][rows] = self.now

    def states(self, step: Step) -> None:
        """State rows: those that it starts from were stored before on the same core."""
        r = step.regs
        if not (step.has(Flag.SOURCE) or step.has(Flag.SINK)):
            return
        outputs = r["OH"] * r["OW"]
        for core in range(r["SPLIT"] * r["SLICES"]):
            turns = len(range(core % r["SPLIT"], outputs, r["SPLIT"]))
            if not turns:
                continue
            start = np.array([r["S_BASE"]])
            zero = np.zeros(1, np.int64)
            starts, stops = self.place(_Runs(zero, start, start + turns * r["DRAIN"]), Region.STATE)
            if core not in self.state:
                self.state[core] = _Memory(self.arch.state_depth)
            memory = self.state[core]
            part = slice(int(starts[0]), int(stops[0]))
            self.spend(part.stop - part.start)
            if step.has(Flag.SOURCE):
                stored = memory.stored[part]
                if (absent := stored == 0).any():
                    row = part.start + int(absent.argmax())
                    self.rule(False, f"it starts from state row {row} of core {core}, which no operation has stored")
                if (racing := stored == self.now).any():
                    row = part.start + int(racing.argmax())
                    self.rule(
                        False,
                        f"it starts from state row {row} of core {core}, which an operation before it may still store; a WAIT is missing",
                    )
            if step.has(Flag.SINK):
                memory.stored[part] = self.now

    def constants(self, segment: "Segment", step: Step, kernel_rows: np.ndarray, pixels: np.ndarray, masks: "_Masks") -> None:
        """Weights, masks, parameters and table of an operation lie in the images of its segment."""
        r, weights = step.regs, segment.weight.shape[1]
        kx, p = np.nonzero(pixels)
        self.spend(len(kernel_rows) * len(kx) * r["WORDS"] * (r["SPLIT"] * r["SLICES"] + 4))
        span = kernel_rows[:, None, None] * r["KX"] + kx[:, None]
        offset = p[:, None] * r["WORDS"] + np.arange(r["WORDS"])
        first = r["W_BASE"] + span * r["W_SPAN"] + offset * r["W_WORD"]
        if step.opcode is Opcode.CONV:
            rows = self.inside(r["M_BASE"] + span * r["M_SPAN"] + offset, Region.MASK, segment.mask.shape[1]).ravel()
            for core in range(r["SPLIT"] * r["SLICES"]):
                low, high = masks.low[core, rows], masks.high[core, rows]
                some = high >= 0
                first_row = self.inside(first.ravel()[some] + low[some], Region.WEIGHT, weights)
                self.inside(first_row + (high - low)[some], Region.WEIGHT, weights)
        elif step.mode in (Mode.MAC, Mode.MAC2):
            self.inside(first, Region.WEIGHT, weights)
            if step.mode is Mode.MAC2:
                self.inside(first + 1, Region.WEIGHT, weights)
        if step.has(Flag.RESIDUAL) and step.mode is not Mode.PRODUCT:
            self.inside(r["R_W"] + np.arange(2), Region.WEIGHT, weights)
        if not step.has(Flag.SINK):
            self.inside(r["P_BASE"] + np.arange(r["DRAIN"]), Region.PARAM, segment.bias.shape[1])
            if step.has(Flag.TABLE):
                tables = len(segment.table) // 256
                self.rule(r["TABLE"] < tables, f"it uses table {r['TABLE']}; the segment has {tables}")

    def inside(self, rows: np.ndarray, region: Region, count: int) -> np.ndarray:
        """The rows modulo the address space, each of them one of the `count` that the segment's image has."""
        rows = rows & (1 << address_bits(self.arch, region)) - 1
        last = int(rows.max(initial=-1))
        if last >= count:
            name = {Region.PARAM: "parameter"}.get(region, region.name.lower())
            self.rule(False, f"it uses {name} row {last}; the segment's image has {count}, and rows beyond it hold what ran before")
        return rows


class _Masks:
    """Of each mask row of each core its first and its last lane that is set: int64 [cores, rows]; 0 and -1 where none is."""

    def __init__(self, segment: "Segment"):
        mask = segment.mask
        some = mask.any(2)
        self.low = np.where(some, mask.argmax(2), 0)
        self.high = np.where(some, mask.shape[2] - 1 - mask[:, :, ::-1].argmax(2), -1)


def read_after(program: "Program") -> dict[str, int]:
    """Operations of the whole program after which each tensor can be read: all of them if its memory is kept, else those up to
    the last one of the layer that writes it; 0 for an input whose memory is reused."""
    ops = program.ops
    last = {op.layer: i + 1 for i, op in enumerate(ops)}
    return {name: len(ops) if t.kept else last.get(t.layer, 0) for name, t in program.tensors.items()}
