"""Operations to program segments: allocates instruction, weight, mask, parameter and table memory, and places the WAITs.

A segment is loaded as a whole and takes operations as long as all they need fits beside what is there; equal images are
kept once. An image takes the same rows in every core: those of the slice that the core works on, or zeros in a core that
idles. Activations and accumulator state live on between segments.
"""

from collections.abc import Iterable

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import Opcode
from sordino_hw.spec.program import Op, Segment

from .operation import Operation

__all__ = ["pack"]

CYCLE_LIMIT_MAX = (1 << 32) - 1


class _Image:
    """What an operation keeps in one memory: [cores, rows, ...], the same number of rows in every core."""

    def __init__(self, pool: str, array: np.ndarray):
        self.pool, self.array, self.key = pool, array, array.tobytes()

    @property
    def rows(self) -> int:
        return self.array.shape[1]


def _images(op: Operation, arch: ArchConfig) -> dict[str, _Image]:
    """The images of an operation, by the register that holds their address."""
    slices = np.arange(arch.cores) // op.registers["SPLIT"]

    def by_core(pool: str, image: np.ndarray) -> _Image:
        used = slices < len(image)
        cores = np.zeros((arch.cores, *image.shape[1:]), image.dtype)
        cores[used] = image[slices[used]]
        return _Image(pool, cores)

    found: dict[str, _Image] = {}
    if op.weight is not None:
        found["W_BASE"] = by_core("weight", op.weight)
    if op.mask is not None:
        found["M_BASE"] = by_core("mask", op.mask)
    if op.residual is not None:
        found["R_W"] = by_core("weight", op.residual)
    if op.parameters is not None:
        found["P_BASE"] = by_core("param", op.parameters.image())
    if op.table is not None:
        found["TABLE"] = _Image("table", op.table[None])
    return found


class _Pool:
    """Rows of one memory, allocated from row 0 on; an image that is there already is shared."""

    def __init__(self, depth: int, what: str, field: str, empty: np.ndarray):
        self.depth, self.what, self.field = depth, what, field
        self.rows = 0
        self.images: list[np.ndarray] = [empty]
        self._known: dict[bytes, int] = {}

    def missing(self, images: Iterable[_Image]) -> int:
        """Rows that adding the images would take."""
        return sum(i.rows for i in {i.key: i for i in images if i.key not in self._known}.values())

    def add(self, image: _Image) -> int:
        """The first row of an image."""
        if image.key not in self._known:
            self._known[image.key] = self.rows
            self.images.append(image.array)
            self.rows += image.rows
        return self._known[image.key]

    def image(self) -> np.ndarray:
        return np.concatenate(self.images, 1)


class _Builder:
    """One segment under construction."""

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        self.asm = Assembler()
        self.ops: list[Op] = []
        self.cycles = 256
        self.unstored: set = set()
        """What was written since the last WAIT."""
        self.unread: dict[str, range] = {}
        """Buffers that were read since the last WAIT, and their memory: a store there is a write-after-read hazard."""
        a, c = arch, arch.cores
        self.pools = {
            "weight": _Pool(a.weight_depth, "weight rows", "weight_depth", np.zeros((c, 0, a.lanes), np.int8)),
            "mask": _Pool(a.mask_depth, "weight-mask rows", "mask_depth", np.zeros((c, 0, a.lanes), np.bool_)),
            "param": _Pool(a.param_depth, "requantiser parameter rows", "param_depth", np.zeros((c, 0, 4, a.ppu), np.int64)),
            "table": _Pool(a.tables * 256, "table entries", "tables", np.zeros((1, 0), np.int16)),
        }

    def shortage(self, op: Operation, images: dict[str, _Image]) -> str:
        """What is missing for one more operation, as `needed of what (available; field)`; empty where it fits."""
        words = len(self.asm.words) + len(op.registers) + 5 + 3
        needs = []
        for name, pool in self.pools.items():
            rows = pool.rows + pool.missing(i for i in images.values() if i.pool == name)
            needs.append((rows, pool.depth, pool.what, pool.field))
        needs.append((words, self.arch.imem_depth, "instructions", "imem_depth"))
        needs.append((len(self.ops) + 2, self.arch.perf_depth, "records of the performance log", "perf_depth"))
        needs.append((self.limit(op), CYCLE_LIMIT_MAX, "cycles at worst", "lanes"))
        return ", ".join(f"{need} {what} (available: {have}; {field})" for need, have, what, field in needs if need > have)

    def limit(self, *more: Operation) -> int:
        """The cycle limit: twice the bound of every operation and of the instructions."""
        return 2 * (self.cycles + sum(op.worst_cycles(self.arch) for op in more))

    def add(self, op: Operation, images: dict[str, _Image]) -> None:
        r = op.registers | {name: self.pools[image.pool].add(image) for name, image in images.items()}
        if op.weight is not None:
            r["W_BASE"] -= op.first_row
        if op.table is not None:
            r["TABLE"] //= 256
        if op.reads & self.unstored or self._overwrites(op):
            self.asm.wait()
            self.unstored, self.unread = set(), {}
        self.unstored |= op.writes
        self.unread |= {v.buffer: v.memory for v in op.sources}
        if op.opcode is Opcode.CONV:
            self.asm.conv(op.flags, **r)
        else:
            self.asm.vec(op.mode, op.flags, **r)
        self.ops.append(Op(op.layer, op.macs_per_event))
        self.cycles += op.worst_cycles(self.arch)

    def _overwrites(self, op: Operation) -> bool:
        """Whether the operation stores where another buffer lies that was read since the last WAIT: a write-after-read hazard.

        Groups of cores do not wait for each other: one may store outputs of this operation while another still reads.
        """
        v = op.target
        return v is not None and any(
            name != v.buffer and memory.start < v.memory.stop and v.memory.start < memory.stop
            for name, memory in self.unread.items()
        )

    def finish(self) -> Segment:
        self.asm.halt()
        params = self.pools["param"].image().astype(np.int32)
        bias, mantissa, shift, threshold = (params[:, :, i].copy() for i in range(4))
        return Segment(
            imem=self.asm.imem,
            weight=self.pools["weight"].image(),
            mask=self.pools["mask"].image(),
            bias=bias,
            mantissa=mantissa,
            shift=shift,
            threshold=threshold,
            table=self.pools["table"].image()[0],
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
        images = _images(op, arch)
        if builder.ops and builder.shortage(op, images):
            segments.append(builder.finish())
            builder = _Builder(arch)
        shortage = builder.shortage(op, images)
        if shortage:
            raise CompileError(
                f"{op.where}: one operation of it needs {shortage} of architecture {arch.name!r}. "
                "Use a smaller layer or an ArchConfig with larger memories."
            )
        builder.add(op, images)
    segments.append(builder.finish())
    return segments
