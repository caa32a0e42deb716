"""The golden machine: the cluster's memories, and what each instruction does to them, without time.

Its values are those of the gateware, bit for bit. A batch of machines runs one instruction stream, each on activation and
state memories of its own.

Which core group computes an output depends on time, which is not modelled here. So the cores that compute the same slice in
different groups must hold the same rows wherever an operation uses them; this is checked, and the first group's rows are
used. Only accumulator state belongs to one core: outputs with SOURCE or SINK are dispatched to the groups in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from threadpoolctl import ThreadpoolController

from sordino_hw.spec import numbers
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import Step, decode_segment
from sordino_hw.spec.errors import BinaryError, TrapError
from sordino_hw.spec.geometry import Geometry, coverage, geometry, modular, output_addresses, residual_addresses
from sordino_hw.spec.isa import TRAP_DOC, Flag, Mode, Opcode, Region, Trap
from sordino_hw.spec.program import Segment

__all__ = ["Counts", "Machine", "Observer"]

CHUNK = 1 << 20
"""Activations that are gathered at a time, so that the working set fits about the size of a processor's cache."""


class _OneThread:
    """Limits BLAS to one thread while any thread of the program is inside; after the last, BLAS has those it had before.

    GEMMs here are small, and on a busy machine the barriers of two threads cost ten times the work. A limiter for each user
    would not do: one that begins under another's limit ends by restoring that limit, for good.
    """

    def __init__(self) -> None:
        self._controller, self._lock, self._users, self._limiter = ThreadpoolController(), Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limiter = self._controller.limit(limits=1, user_api="blas")
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limiter is not None:
                self._limiter.restore_original_limits()
                self._limiter = None


_BLAS = _OneThread()


@dataclass
class Counts:
    """Counts of one run of a program segment by operation and slice: int64 [batch, operations, cores]; 0 for slices that an
    operation does not have."""

    events: np.ndarray
    """As `Result.events`."""
    nonzero: np.ndarray
    """As `events`, without zero activations in dense mode too."""


class Machine:
    """Memories as arrays, and `run`. All memories are zero at first, as in the gateware's simulation.

    Attributes
    ----------
    act : int16 [batch, act_depth, lanes]
        Write it through `store`, which sets the occupancy bits.
    occupancy : bool [batch, act_depth]
    state : int32 [batch, cores, state_depth, ppu]
    imem, weight, mask, bias, mantissa, shift, threshold, table
        As in `Segment`, at the memories' full depth.
    first : int
        For observers: index of this machine's first image in the whole batch.
    """

    def __init__(self, arch: ArchConfig, batch: int = 1, first: int = 0):
        self.arch, self.batch, self.first = arch, batch, first
        self.act = np.zeros((batch, arch.act_depth, arch.lanes), np.int16)
        self.occupancy = np.zeros((batch, arch.act_depth), bool)
        self.state = np.zeros((batch, arch.cores, arch.state_depth, arch.ppu), np.int32)
        self.imem = np.zeros(arch.imem_depth, np.uint32)
        self.weight = np.zeros((arch.cores, arch.weight_depth, arch.lanes), np.int8)
        self.mask = np.zeros((arch.cores, arch.mask_depth, arch.lanes), bool)
        params = (arch.cores, arch.param_depth, arch.ppu)
        self.bias, self.mantissa, self.shift, self.threshold = (np.zeros(params, np.int32) for _ in range(4))
        self.table = np.zeros(256 * arch.tables, np.int16)

    def load(self, segment: Segment) -> None:
        """Writes a program segment's memory images from row 0 on; rows beyond them keep their contents."""
        for name in ("imem", "table"):
            image = getattr(segment, name)
            getattr(self, name)[: len(image)] = image
        for name in ("weight", "mask", "bias", "mantissa", "shift", "threshold"):
            image = getattr(segment, name)
            getattr(self, name)[:, : image.shape[1]] = image

    def store(self, addresses: np.ndarray, words: np.ndarray) -> None:
        """Writes activation words [batch, n, lanes] to `addresses` [n]."""
        self.act[:, addresses] = words
        self.occupancy[:, addresses] = words.any(-1)

    def run(self, segment: Segment, observer: "Observer | None" = None) -> Counts:
        """Loads a program segment and runs it to its HALT.

        `observer(op, step, machine)` is called before every CONV and VEC, with the number of the operation.

        Raises `TrapError` with cause and pc. Addresses are checked for every word in bounds and every weight row in the mask, even if
        no activation needs them. The cycle limit is compared with a lower bound of the cycles: one per output, and one per
        `occ_width` words and core group. Raises `BinaryError` if core groups that must compute the same hold different rows.
        """
        self.load(segment)
        with _BLAS:
            return self._run(segment.cycle_limit, observer)

    def _run(self, cycle_limit: int, observer: "Observer | None") -> Counts:
        events: list[np.ndarray] = []
        nonzero: list[np.ndarray] = []
        cycles = 0
        for step in decode_segment(self.imem, self.arch):
            if step.opcode not in (Opcode.CONV, Opcode.VEC):
                continue
            outputs, spans = step.regs["OH"] * step.regs["OW"], step.regs["KH"] * step.regs["KX"]
            least = max(outputs, outputs * spans // step.regs["SPLIT"])  # known before any array is made
            if cycles + least > cycle_limit:
                raise _trap(Trap.CYCLES, step)
            g = geometry(step.regs, self.arch)
            cycles += max(least, g.in_bounds // (self.arch.occ_width * step.regs["SPLIT"]))
            if cycles > cycle_limit:
                raise _trap(Trap.CYCLES, step)
            operation = _Operation(self, step, g, len(events))
            if observer is not None:
                observer(len(events), step, self)
            for total, count in zip((events, nonzero), operation.count(), strict=True):
                total.append(count)
            operation.execute()
        empty = np.zeros((self.batch, 0, self.arch.cores), np.int64)
        return Counts(np.stack(events, 1), np.stack(nonzero, 1)) if events else Counts(empty, empty)


Observer = Callable[[int, Step, Machine], None]


def _trap(cause: Trap, step: Step) -> TrapError:
    return TrapError(f"trap {cause.name} at instruction {step.pc}: {TRAP_DOC[cause]}", cause, step.pc)


def _exact_dtype(weight: np.ndarray, act: np.ndarray) -> type[np.float32] | type[np.float64]:
    """The floating-point type in which the GEMM of activations `act` with `weight` [k, n] is exact.

    In any order of summation, each partial sum lies between the sum of the negative products and the sum of the positive ones.
    Both must fit the mantissa: 24 bits of a float32, or 53 of a float64, which no kernel that the registers allow exceeds.
    """
    high, low = max(0, int(act.max(initial=0))), max(0, -int(act.min(initial=0)))
    positive, negative = weight.clip(0).sum(0), (-weight).clip(0).sum(0)
    peak = max((positive * high + negative * low).max(initial=0), (positive * low + negative * high).max(initial=0))
    return np.float32 if peak <= 1 << 24 else np.float64


class _Operation:
    """One CONV or VEC. The constructor checks its addresses; then it is counted and executed."""

    def __init__(self, machine: Machine, step: Step, g: Geometry, number: int):
        self.m, self.arch, self.step, self.g, self.number = machine, machine.arch, step, g, number
        r, arch = step.regs, machine.arch
        self.slices = r["SLICES"]
        self.cores = np.arange(self.slices) * r["SPLIT"]
        self.channels = r["DRAIN"] * arch.ppu
        self.bounds(Trap.ACT_READ, arch.act_depth if g.wraps else g.last_address, arch.act_depth)

        rows = r["W_BASE"] + g.span * r["W_SPAN"] + g.offset * r["W_WORD"]
        if step.opcode is Opcode.CONV:
            mask_rows = modular(r["M_BASE"] + g.span * r["M_SPAN"] + g.offset, arch, Region.MASK)
            self.bounds(Trap.MASK, mask_rows, arch.mask_depth)
            self.replicated("mask", mask_rows)
            self.mask = machine.mask[self.cores[:, None], mask_rows]
            self.weight_rows = modular(rows[:, None] + np.arange(arch.lanes), arch, Region.WEIGHT)
            used = self.weight_rows[self.mask.any(0)]
        else:
            self.mask = np.ones((self.slices, g.taps, arch.lanes), bool)
            halves = {Mode.MAC: 1, Mode.MAC2: 2, Mode.MAX: 0, Mode.PRODUCT: 0}[step.mode]
            self.weight_rows = modular(rows[:, None] + np.arange(halves), arch, Region.WEIGHT)
            used = self.weight_rows.reshape(-1)
        if step.has(Flag.RESIDUAL):
            self.residual = residual_addresses(r, arch)
            self.bounds(Trap.ACT_READ, self.residual, arch.act_depth)
            halves = 0 if step.mode is Mode.PRODUCT else 2
            self.residual_rows = modular(r["R_W"] + np.arange(halves), arch, Region.WEIGHT)
            used = np.append(used, self.residual_rows)
        self.bounds(Trap.WEIGHT, used, arch.weight_depth)
        self.replicated("weight", used)
        if step.has(Flag.SOURCE) or step.has(Flag.SINK):
            turn, group = np.divmod(np.arange(g.outputs), r["SPLIT"])
            self.state_cores = group[:, None] + self.cores
            rows = r["S_BASE"] + turn[:, None] * r["DRAIN"] + np.arange(r["DRAIN"])
            self.state_rows = modular(rows, arch, Region.STATE)
            self.bounds(Trap.STATE, self.state_rows, arch.state_depth)
        if not step.has(Flag.SINK):
            self.param_rows = modular(r["P_BASE"] + np.arange(r["DRAIN"]), arch, Region.PARAM)
            self.bounds(Trap.PARAM, self.param_rows, arch.param_depth)
            for name in ("bias", "mantissa", "shift", "threshold"):
                self.replicated(name, self.param_rows)
            self.outputs = output_addresses(r, arch)
            self.bounds(Trap.ACT_WRITE, self.outputs, arch.act_depth)

    def replicated(self, name: str, rows: np.ndarray) -> None:
        """Raises `BinaryError` unless the cores of each slice hold the same values in these rows of the memory `name`, in all groups."""
        groups = self.step.regs["SPLIT"]
        memory = getattr(self.m, name)[: groups * self.slices]
        first = memory[::groups].repeat(groups, 0)
        if groups == 1 or np.array_equal(memory, first):
            return
        if not np.array_equal(memory[:, rows], first[:, rows]):
            raise BinaryError(
                f"operation {self.number}, instruction {self.step.pc}: its {groups} groups of cores would compute different values, "
                f"because their {name} memories differ in rows that it uses. Give core c of a segment's images the rows of core "
                f"c - c % {groups}, or compile the model again."
            )

    def bounds(self, cause: Trap, addresses, depth: int) -> None:
        if np.max(addresses, initial=-1) >= depth:
            raise _trap(cause, self.step)

    # -- counting --------------------------------------------------------------------------------------------------

    def count(self) -> tuple[np.ndarray, np.ndarray]:
        """Events, and events with a non-zero activation, by slice: each int64 [batch, cores]."""
        live = self.m.act[:, self.g.first_address : self.g.last_address + 1] != 0
        values = live.reshape(self.m.batch, -1).astype(np.float64)
        events, nonzero = (np.zeros((self.m.batch, self.arch.cores), np.int64) for _ in range(2))
        for i, mask in enumerate(self.mask):
            times = coverage(self.step.regs, self.arch, mask)
            nonzero[:, i] = values @ times.reshape(-1)
            events[:, i] = int(times.sum()) if self.step.has(Flag.DENSE) else nonzero[:, i]
        return events, nonzero

    # -- values ----------------------------------------------------------------------------------------------------

    def execute(self) -> None:
        """Computes and stores all outputs, some images and outputs at a time."""
        rows = max(1, CHUNK // max(1, self.g.taps * self.arch.lanes))
        outputs = min(rows, self.g.outputs)
        images = max(1, rows // outputs)
        accumulate = self.convolver() if self.step.opcode is Opcode.CONV else self.vector
        for n in range(0, self.g.outputs, outputs):
            part = slice(n, min(n + outputs, self.g.outputs))
            addresses = self.g.addresses(part)
            for b in range(0, self.m.batch, images):
                some = slice(b, b + images)
                acc = accumulate(some, addresses)
                if self.step.has(Flag.RESIDUAL):
                    self.residuals(some, part, acc)
                self.drain(some, part, acc)

    def residuals(self, some: slice, part: slice, acc: np.ndarray) -> None:
        """Adds residual words to accumulators int32 [images, n, slices, lanes], or, of a PRODUCT, multiplies by them."""
        word = self.m.act[some, self.residual[part]].astype(np.int32)
        if self.step.mode is Mode.PRODUCT:
            acc *= word
            return
        low, high = (self.m.weight[self.cores, row].astype(np.int32) for row in self.residual_rows)
        acc += word * numbers.join_wide(low, high)

    def convolver(self) -> Callable[[slice, np.ndarray], np.ndarray]:
        """The function (images, addresses [n, taps]) -> accumulators int32 [images, n, slices, lanes] of a CONV."""
        lanes = self.arch.lanes
        rows = np.zeros((self.g.taps, lanes, self.slices, lanes), np.int64)
        for i, mask in enumerate(self.mask):
            rows[:, :, i][mask] = self.m.weight[self.cores[i], self.weight_rows[mask]]
        weight = rows.reshape(-1, self.slices * lanes)
        dtype = _exact_dtype(weight, self.m.act[:, self.g.first_address : self.g.last_address + 1])
        matrix: np.ndarray = weight.astype(dtype)

        def convolve(some: slice, addresses: np.ndarray) -> np.ndarray:
            words = self.gather(some, addresses)
            images, n = words.shape[:2]
            product = words.reshape(images * n, len(matrix)).astype(dtype) @ matrix
            return product.astype(np.int64).astype(np.int32).reshape(images, n, self.slices, lanes)

        return convolve

    def gather(self, some: slice, addresses: np.ndarray) -> np.ndarray:
        """Activation words int16 [images, *addresses.shape, lanes]; zeros where the address is -1."""
        words = np.take(self.m.act[some], addresses, axis=1, mode="wrap")
        outside = addresses < 0
        if outside.any():
            words[:, outside] = 0
        return words

    def vector(self, some: slice, addresses: np.ndarray) -> np.ndarray:
        """Accumulators of a VEC: int32 [images, n, slices, lanes], which wraps as the hardware's does."""
        act = self.m.act[some]
        shape = (len(act), len(addresses), self.slices, self.arch.lanes)
        if self.step.mode is Mode.MAX:
            top = np.full((*shape[:2], self.arch.lanes), -(1 << 31), np.int32)
            for t in range(self.g.taps):
                inside = addresses[:, t] >= 0
                top[:, inside] = np.maximum(top[:, inside], act[:, addresses[inside, t]])
            top[:, (addresses < 0).all(1)] = 0
            return np.broadcast_to(top[:, :, None], shape)
        acc = np.zeros(shape, np.int32)
        if self.step.mode is Mode.PRODUCT and self.g.taps:
            acc[:] = self.gather(some, addresses[:, 0])[:, :, None]
            return acc
        for t, rows in enumerate(self.weight_rows):
            word = self.gather(some, addresses[:, t]).astype(np.int32)[:, :, None]
            halves = [self.m.weight[self.cores, row].astype(np.int32) for row in rows]
            acc += word * (halves[0] if len(halves) == 1 else numbers.join_wide(*halves))
        return acc

    def drain(self, some: slice, part: slice, acc: np.ndarray) -> None:
        """Moves accumulators int32 [images, n, slices, lanes] to state memory or, requantised, to activation memory."""
        m, r = self.m, self.step.regs
        v = acc[..., : self.channels]
        if self.step.has(Flag.SOURCE) or self.step.has(Flag.SINK):
            place = some, self.state_cores[part, :, None], self.state_rows[part, None]
            if self.step.has(Flag.SOURCE):
                v = v + m.state[place].reshape(v.shape)
            if self.step.has(Flag.SINK):
                m.state[place] = v.reshape(*v.shape[:3], r["DRAIN"], self.arch.ppu)
                return
        bias, mantissa, shift, threshold = (
            x[self.cores[:, None], self.param_rows].reshape(self.slices, -1).astype(np.int64)
            for x in (m.bias, m.mantissa, m.shift, m.threshold)
        )
        y = numbers.requantise(v.astype(np.int64), bias, mantissa, shift, self.arch)
        y = np.minimum(np.maximum(y, r["LO"]), r["HI"])
        if self.step.has(Flag.TABLE):
            y = m.table[256 * r["TABLE"] + (y + 128 & 255)].astype(np.int64)
        y[np.abs(y) < threshold] = 0
        words = np.zeros((*v.shape[:3], self.arch.lanes), np.int16)
        words[..., : self.channels] = numbers.wrap(y, self.arch.event_bits)
        m.act[some, self.outputs[part]] = words
        m.occupancy[some, self.outputs[part]] = words.any(-1)
