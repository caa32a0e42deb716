"""`Operation`: one CONV or VEC with everything that it needs, before it has addresses in the memories of a program segment."""

from dataclasses import dataclass, field, replace

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import REGISTERS, Flag, Mode, Opcode

from .mapping import Mapping

__all__ = ["Images", "Operation", "Parameters", "View"]


@dataclass(frozen=True)
class View:
    """A value in activation memory: word addresses, and the slot of every channel."""

    name: str
    buffer: str
    shape: tuple[int, int, int]
    base: int
    row_pitch: int
    pixel_pitch: int
    slots: np.ndarray
    buffer_pitch: int
    """Words of a pixel of the buffer; less than `pixel_pitch` in a flattened value."""
    memory: range
    """Words of the activation memory that the buffer takes."""
    fold: int = 1
    """Neighbouring pixels of a row that share a word (see `schedule.folding`)."""

    def address(self, y: int, x: int, column: int) -> int:
        """Word address of a pixel's word column, which may lie in the padding."""
        return self.base + y * self.row_pitch + x * self.pixel_pitch + column

    def part(self, rows: range, columns: range) -> "View":
        """Some rows and columns of pixels, evenly spaced."""
        return replace(
            self,
            shape=(self.shape[0], len(rows), len(columns)),
            base=self.base + rows.start * self.row_pitch + columns.start * self.pixel_pitch,
            row_pitch=rows.step * self.row_pitch,
            pixel_pitch=columns.step * self.pixel_pitch,
        )

    def words(self, columns) -> frozenset[tuple[str, int]]:
        """Names for word columns of the buffer, to track which stores an operation must wait for."""
        return frozenset((self.buffer, c % self.buffer_pitch) for c in columns)


@dataclass(frozen=True)
class Images:
    """What an operation multiplies with: its opcode and mode, the registers that step through its images, and the images.

    `weight` int8 [slices, rows, lanes]; `mask` bool [slices, rows, lanes] (CONV).
    """

    opcode: Opcode
    mode: Mode
    registers: dict[str, int]
    weight: np.ndarray | None = None
    first_row: int = 0
    """Rows that W_BASE lies before the weights."""
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Parameters:
    """Requantiser rows: int64 [slices, rows, ppu] each."""

    bias: np.ndarray
    mantissa: np.ndarray
    shift: np.ndarray
    threshold: np.ndarray

    def image(self) -> np.ndarray:
        """All four: int64 [slices, rows, 4, ppu]."""
        return np.stack([self.bias, self.mantissa, self.shift, self.threshold], 2)


@dataclass(frozen=True)
class Operation:
    """Registers without the addresses in the segment's memories, and the images that those will point at.

    The images of the SLICES slices: `weight` int8 [slices, rows, lanes]; `mask` bool [slices, rows, lanes] (CONV);
    `residual` int8 [slices, 2, lanes]. `table` int16 [256].
    """

    layer: int
    where: str
    """Node and source, for messages."""
    opcode: Opcode
    mode: Mode
    flags: Flag
    registers: dict[str, int]
    macs_per_event: tuple[int, ...]
    """By slice."""
    weight: np.ndarray | None = None
    first_row: int = 0
    """Rows that W_BASE lies before the image."""
    mask: np.ndarray | None = None
    residual: np.ndarray | None = None
    parameters: Parameters | None = None
    table: np.ndarray | None = None
    reads: frozenset = field(default_factory=frozenset)
    writes: frozenset = field(default_factory=frozenset)
    sources: tuple[View, ...] = ()
    """The values that it reads."""
    target: View | None = None
    """The value that it writes."""

    @property
    def mapping(self) -> Mapping:
        """How the operation uses the cores."""
        r = self.registers
        return Mapping(r["SPLIT"], r["SLICES"], r["RUN"], bool(self.flags & Flag.WINDOW))

    def check(self) -> None:
        """The spec of an operation: raises `CompileError` unless every register holds its value."""
        for name, value in self.registers.items():
            r = REGISTERS[name]
            if r.region:
                continue
            low, high = (-(1 << (r.bits - 1)), (1 << (r.bits - 1)) - 1) if r.signed else (0, (1 << r.bits) - 1)
            if not low <= value <= high:
                raise CompileError(
                    f"{self.where}: register {name} ({r.doc}) cannot hold {value}: it goes from {low} to {high}. "
                    "Use a smaller kernel, stride, dilation, padding or input."
                )

    def worst_cycles(self, arch: ArchConfig) -> int:
        """An upper bound of the operation's cycles, whatever the activations.

        As if one group took all outputs: every in-bounds word, each waiting for its time slot at a read port, with every lane as
        an event (two vector cycles for VEC), the scan of every span at one occupancy row a cycle, the residual of every
        slice, the drain, or the time slot of the store, without overlap, with margins for filling the pipeline at each span, output
        and operation.
        """
        r = self.registers
        spans = r["KH"] * r["KX"]
        pixels = spans * r["SPAN"] * r["WORDS"]
        slots = max(1, r["SPLIT"] // arch.ports)
        events = pixels * (arch.lanes + arch.lanes // 8 if self.opcode is Opcode.CONV else 2)
        residual = r["SLICES"] * (slots + 6)
        per_output = events + pixels * slots + spans * 4 + residual + 2 * max(r["DRAIN"], arch.cores) + arch.cores + 32
        return r["OH"] * r["OW"] * per_output + 256
