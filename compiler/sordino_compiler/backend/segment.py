"""Operations to segments: deals out instruction, weight, mask, parameter and table memory, and places the WAITs.

A segment is loaded as a whole and takes operations as long as all they need fits beside what is there; equal images are
kept once. Activations and accumulator state live on between segments.
"""

from collections.abc import Iterable

import numpy as np

from sordino_hw.arch import ArchConfig
from sordino_hw.asm import Assembler
from sordino_hw.errors import CompileError
from sordino_hw.isa import Opcode
from sordino_hw.program import Op, Segment

from .operation import Operation

__all__ = ["pack"]

CYCLE_LIMIT_MAX = (1 << 32) - 1


class _Pool:
    """Rows of one memory, handed out from row 0 on; an image that is there already is shared."""

    def __init__(self, depth: int, what: str, field: str):
        self.depth, self.what, self.field = depth, what, field
        self.rows = 0
        self.images: list[np.ndarray] = []
        self._known: dict[bytes, int] = {}

    def missing(self, images: Iterable[np.ndarray]) -> int:
        """Rows that adding the images would take."""
        return sum(len(i) for i in {i.tobytes(): i for i in images if i.tobytes() not in self._known}.values())

    def add(self, image: np.ndarray) -> int:
        """The first row of an image."""
        key = image.tobytes()
        if key not in self._known:
            self._known[key] = self.rows
            self.images.append(image)
            self.rows += len(image)
        return self._known[key]

    def image(self, empty: np.ndarray) -> np.ndarray:
        return np.concatenate([empty, *self.images])


class _Builder:
    """One segment under construction."""

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        self.asm = Assembler()
        self.ops: list[Op] = []
        self.cycles = 256
        self.unstored: set = set()
        """What was written since the last WAIT."""
        self.weights = _Pool(arch.weight_depth, "weight rows", "weight_depth")
        self.masks = _Pool(arch.mask_depth, "weight-mask rows", "mask_depth")
        self.params = _Pool(arch.param_depth, "requantiser parameter rows", "param_depth")
        self.tables = _Pool(arch.tables * 256, "table entries", "tables")

    def _images(self, op: Operation) -> list[tuple[_Pool, list[np.ndarray]]]:
        p = op.parameters
        return [
            (self.weights, [i for i in (op.weight, op.residual) if i is not None]),
            (self.masks, [] if op.mask is None else [op.mask]),
            (self.params, [] if p is None else [np.stack([p.bias, p.mantissa, p.shift, p.threshold], 1)]),
            (self.tables, [] if op.table is None else [op.table]),
        ]

    def shortage(self, op: Operation) -> str:
        """What is missing for one more operation, as `needed of what (available; field)`; empty where it fits."""
        words = len(self.asm.words) + len(op.registers) + 5 + 3
        needs = [(pool.rows + pool.missing(images), pool.depth, pool.what, pool.field) for pool, images in self._images(op)]
        needs.append((words, self.arch.imem_depth, "instructions", "imem_depth"))
        needs.append((len(self.ops) + 2, self.arch.perf_depth, "records of the performance log", "perf_depth"))
        needs.append((self.limit(op), CYCLE_LIMIT_MAX, "cycles at worst", "lanes"))
        return ", ".join(f"{need} {what} (available: {have}; {field})" for need, have, what, field in needs if need > have)

    def limit(self, *more: Operation) -> int:
        """The cycle limit: twice the bound of every operation and of the instructions."""
        return 2 * (self.cycles + sum(op.worst_cycles(self.arch.lanes) for op in more))

    def add(self, op: Operation) -> None:
        r = dict(op.registers)
        if op.weight is not None:
            r["W_BASE"] = self.weights.add(op.weight) - op.first_lane
        if op.mask is not None:
            r["M_BASE"] = self.masks.add(op.mask)
        if op.residual is not None:
            r["R_W"] = self.weights.add(op.residual)
        if op.parameters is not None:
            p = op.parameters
            r["P_BASE"] = self.params.add(np.stack([p.bias, p.mantissa, p.shift, p.threshold], 1))
        if op.table is not None:
            r["TABLE"] = self.tables.add(op.table) // 256
        if op.reads & self.unstored:
            self.asm.wait()
            self.unstored = set()
        self.unstored |= op.writes
        if op.opcode is Opcode.CONV:
            self.asm.conv(op.flags, **r)
        else:
            self.asm.vec(op.mode, op.flags, **r)
        self.ops.append(Op(op.layer, op.macs_per_event))
        self.cycles += op.worst_cycles(self.arch.lanes)

    def finish(self) -> Segment:
        self.asm.halt()
        a = self.arch
        params = self.params.image(np.zeros((0, 4, a.ppu), np.int64)).astype(np.int32)
        return Segment(
            imem=self.asm.imem,
            weight=self.weights.image(np.zeros((0, a.lanes), np.int8)),
            mask=self.masks.image(np.zeros((0, a.lanes), np.bool_)),
            bias=params[:, 0].copy(),
            mantissa=params[:, 1].copy(),
            shift=params[:, 2].copy(),
            threshold=params[:, 3].copy(),
            table=self.tables.image(np.zeros(0, np.int16)),
            ops=self.ops,
            cycle_limit=self.limit(),
        )


def pack(operations: Iterable[Operation], arch: ArchConfig) -> list[Segment]:
    """Packs operations, in order, into as few segments as a single pass finds; at least one.

    Raises `CompileError` for an operation that does not fit an empty segment.
    """
    segments: list[Segment] = []
    builder = _Builder(arch)
    for op in operations:
        if builder.ops and builder.shortage(op):
            segments.append(builder.finish())
            builder = _Builder(arch)
        shortage = builder.shortage(op)
        if shortage:
            raise CompileError(
                f"{op.where}: one operation of it needs {shortage} of architecture {arch.name!r}. "
                "Use a smaller layer or an ArchConfig with larger memories."
            )
        builder.add(op)
    segments.append(builder.finish())
    return segments
