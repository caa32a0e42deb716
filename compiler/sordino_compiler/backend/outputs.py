"""A layer as the back end sees it, and the operations of some word columns of its outputs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import WINDOW_MAX, Flag, Mode, Opcode
from sordino_hw.spec.numbers import split_wide

from ..graph import Conv, Depthwise, MaxPool, Requant
from .events import event_images, reaching, trimmed
from .layout import Relayout
from .mapping import Mapping
from .operation import Operation, Parameters, View
from .tiles import STEP_MAX, Tile, bands, choose_tiles
from .vectors import equal_taps, vector_image

__all__ = ["Outputs", "Work"]

STATE = frozenset({("accumulator state", 0)})
OFF = 255
"""Threshold of lanes without a channel: their output is zero."""


@dataclass(frozen=True)
class Work:
    """A layer to be lowered: its node, and where its operands and its outputs lie."""

    node: Conv | Depthwise | MaxPool
    layer: int
    x: View
    residual: View | None
    out: View
    arch: ArchConfig
    dense: bool

    @property
    def where(self) -> str:
        """Node and source, for messages."""
        n = self.node
        return f"{n.kind} {n.out.name!r}{f' ({n.source})' if n.source else ''}"

    def channels(self, column: int) -> np.ndarray:
        """The output channels in a word column."""
        return np.flatnonzero(self.out.slots // self.arch.lanes == column)

    def inputs(self, column: int) -> np.ndarray:
        """The input channels that reach a word column of outputs."""
        channels = self.channels(column)
        return reaching(self.node, channels) if isinstance(self.node, Conv) else channels

    def residual_column(self, column: int) -> int:
        """The word column of the residual operand that is added to a word column of outputs; 0 without a residual."""
        return 0 if self.residual is None else int(self.residual.slots[self.channels(column)[0]]) // self.arch.lanes

    def blocks(self) -> list[range]:
        """The word columns of outputs, cut where one operation cannot cover the next too.

        An operation takes neighbouring columns of outputs and of the residual, which all read the same input words.
        """
        columns = [int(c) for c in np.unique(self.out.slots // self.arch.lanes)]
        if not isinstance(self.node, Conv):
            return [range(c, c + 1) for c in columns]
        words = {c: set(self.x.slots[self.inputs(c)] // self.arch.lanes) for c in columns}
        starts = [columns[0]]
        for a, b in pairwise(columns):
            step = self.residual_column(b) - self.residual_column(a)
            if b != a + 1 or words[a] != words[b] or step != (self.residual is not None):
                starts.append(b)
        return [range(a, max(c for c in columns if a <= c < b) + 1) for a, b in pairwise([*starts, columns[-1] + 1])]


class Outputs:
    """Some neighbouring word columns of a layer's outputs, one a slice, and how their operations are made."""

    def __init__(self, work: Work, columns: range, mapping: Mapping):
        self.work, self.columns, self.mapping = work, columns, mapping
        self.node, self.arch, self.window = work.node, work.arch, work.node.window
        self.channels = [work.channels(c) for c in columns]
        self.lanes = [work.out.slots[channels] % work.arch.lanes for channels in self.channels]
        self.drain = max(int(lanes.max()) for lanes in self.lanes) // work.arch.ppu + 1

    def operations(self) -> Iterator[Operation]:
        """The operations in order: tiles of the inputs within bands of the outputs."""
        for rows, cols in self.bands():
            for i, tile in enumerate(self.tiles):
                yield self._operation(tile, rows, cols, first=i == 0, last=i == len(self.tiles) - 1)

    def bands(self) -> Iterator[tuple[range, range]]:
        """Rows and columns of the outputs whose partial sums fit the state memories; all where there are none."""
        repeat = getattr(self.node, "repeat", (1, 1))
        state = self.mapping.split * (self.arch.state_depth // self.drain) if len(self.tiles) > 1 else None
        return bands(self.work.out.shape[1:], repeat, state, self.work.where, self.arch)

    @cached_property
    def tiles(self) -> list[Tile]:
        """The tiles of the inputs: one, or several with partial sums. Raises `CompileError` where none fit."""
        n, lanes, arch = self.node, self.arch.lanes, self.arch
        residual = 0 if self.work.residual is None else 2
        equal = isinstance(n, Depthwise) and equal_taps(n.weight[self.channels[0]])

        def fits(t: Tile) -> bool:
            if max(t.words, len(t.ky), len(t.kx)) > STEP_MAX:
                return False
            if isinstance(n, MaxPool):
                return t.taps == n.window.kernel[0] * n.window.kernel[1]
            if isinstance(n, Depthwise):
                return (1 if equal else t.taps) * (1 + n.wide) + residual <= arch.weight_depth
            rows = t.taps * t.words
            return rows * len(t.lanes) + residual <= arch.weight_depth and rows <= arch.mask_depth

        inputs = np.unique(np.concatenate([self.work.inputs(c) for c in self.columns]))
        tiles = choose_tiles(self.work.x.slots[inputs], self.window.kernel, lanes, fits)
        if tiles is None:
            raise CompileError(
                f"{self.work.where}: not even one tap fits architecture {arch.name!r} with its {arch.weight_depth} weight rows, or "
                f"the kernel exceeds {STEP_MAX} rows or columns. Use a smaller kernel, or an ArchConfig with a larger weight_depth."
            )
        return tiles

    def _operation(self, tile: Tile, rows: range, cols: range, first: bool, last: bool) -> Operation:
        n, x, (sy, sx), (dy, dx) = self.node, self.work.x, self.window.stride, self.window.dilation
        ry, rx = getattr(n, "repeat", (1, 1))
        top, left = self.window.padding[:2]
        kh, kw, words = len(tile.ky), len(tile.kx), tile.words
        windowed = self.mapping.window and self._window_fits(tile)
        merged = not windowed and (kw == 1 or (dx == 1 and x.pixel_pitch == words))
        spans, span = (1, kw) if merged else (kw, 1)
        iy0 = rows.start // ry * sy - top + tile.ky.start * dy
        ix0 = cols.start // rx * sx - left + tile.kx.start * dx
        registers: dict[str, int] = {}
        registers.update(OH=len(rows), OW=len(cols), KH=kh, KX=spans, SPAN=span, WORDS=words, H=x.shape[1], W=x.shape[2])
        registers.update(IY0=iy0, IX0=ix0, SY=sy, SX=sx, DY=dy, DX=dx, REPY=ry, REPX=rx, DRAIN=self.drain)
        registers.update(A_BASE=x.address(iy0, ix0, tile.columns.start), A_OY=sy * x.row_pitch, A_OX=sx * x.pixel_pitch)
        registers.update(A_KY=dy * x.row_pitch, A_KX=dx * x.pixel_pitch)
        registers.update(SPLIT=self.mapping.split, SLICES=len(self.columns), RUN=self.mapping.run if first and last else 1)
        flags = (Flag.DENSE if self.work.dense else Flag(0)) | (Flag.WINDOW if windowed else Flag(0))
        op = Operation(self.work.layer, self.work.where, Opcode.CONV, Mode.MAC, flags, registers, self._macs_per_event())
        op = replace(self._images(op, tile, span), reads=x.words(tile.columns), sources=(x,))
        if not (first and last):
            registers["S_BASE"] = 0
        if not first:
            op = replace(op, flags=op.flags | Flag.SOURCE, reads=op.reads | STATE)
        if not last:
            return replace(op, flags=op.flags | Flag.SINK, writes=STATE)
        return self._post_process(op, rows.start, cols.start)

    def _window_fits(self, tile: Tile) -> bool:
        """Whether a tile's words may be kept in the window, and neighbouring outputs share any."""
        small = max(len(tile.ky), len(tile.kx)) <= WINDOW_MAX and getattr(self.node, "repeat", (1, 1))[1] == 1
        overlap = len(tile.kx) > self.window.stride[1] and self.window.dilation[1] == 1
        return not isinstance(self.node, Conv) and small and overlap

    def _images(self, op: Operation, tile: Tile, span: int) -> Operation:
        """The operation with opcode, mode, weights, masks, and the registers that step through them."""
        n, r = self.node, op.registers
        if isinstance(n, MaxPool):
            return replace(op, opcode=Opcode.VEC, mode=Mode.MAX)
        if isinstance(n, Depthwise):
            image = vector_image(n, self.channels[0], self.lanes[0], tile, self.arch)
            equal, halves = equal_taps(n.weight[self.channels[0]]), 1 + n.wide
            r.update(W_SPAN=0 if equal else span * halves, W_WORD=0 if equal else halves)
            return replace(op, opcode=Opcode.VEC, mode=Mode.MAC2 if n.wide else Mode.MAC, weight=image[None])
        slices = zip(self.channels, self.lanes, strict=True)
        images = [event_images(n, self.work.x, *s, tile, self.arch, self.work.dense) for s in slices]
        weight, mask = (np.stack(part) for part in zip(*images, strict=True))
        weight, first = trimmed(weight, mask, tile, span)
        r.update(W_SPAN=weight.shape[2], W_WORD=len(tile.lanes), M_SPAN=span * tile.words)
        weight = weight.reshape(len(self.columns), -1, self.arch.lanes)
        return replace(op, weight=weight, first_row=tile.lanes.start + first, mask=mask)

    def _post_process(self, op: Operation, oy: int, ox: int) -> Operation:
        """Residual, requantiser and store of an output's last operation."""
        n, out, r = self.node, self.work.out, op.registers
        if not isinstance(n, MaxPool) and n.residual_weight is not None and self.work.residual is not None:
            v, column = self.work.residual, self.work.residual_column(self.columns.start)
            r |= {"R_BASE": v.address(oy, ox, column), "R_OY": v.row_pitch, "R_OX": v.pixel_pitch}
            halves = np.zeros((len(self.columns), 2, self.arch.lanes), np.int8)
            for image, channels, lanes in zip(halves, self.channels, self.lanes, strict=True):
                image[:, lanes] = split_wide(n.residual_weight[channels])
            reads = v.words(range(column, column + len(self.columns)))
            op = replace(op, flags=op.flags | Flag.RESIDUAL, residual=halves, reads=op.reads | reads, sources=(*op.sources, v))
        r |= {"O_BASE": out.address(oy, ox, self.columns.start), "O_OY": out.row_pitch, "O_OX": out.pixel_pitch}
        r |= {"LO": n.requant.lo, "HI": n.requant.hi}
        if n.requant.table is not None:
            op = replace(op, flags=op.flags | Flag.TABLE, table=n.requant.table.astype(np.int16))
        return replace(op, parameters=self._parameters(n.requant), writes=out.words(self.columns), target=out)

    def _parameters(self, q: Requant) -> Parameters:
        def rows(values: np.ndarray, fill: int) -> np.ndarray:
            full = np.full((len(self.columns), self.drain * self.arch.ppu), fill, np.int64)
            for row, channels, lanes in zip(full, self.channels, self.lanes, strict=True):
                row[lanes] = values[channels]
            return full.reshape(len(self.columns), self.drain, self.arch.ppu)

        return Parameters(rows(q.bias, 0), rows(q.mantissa, 0), rows(q.shift, 0), rows(q.threshold, OFF))

    def _macs_per_event(self) -> tuple[int, ...]:
        """By slice, or one number that holds for all."""
        n = self.node
        if not isinstance(n, Conv):
            return (int(isinstance(n, Depthwise) and n.label == "depthwise"),)
        if isinstance(n, Relayout):
            return (0,)
        group = len(n.weight) // n.groups
        slices = [len(channels) // len(np.unique(channels // group)) for channels in self.channels]
        return (slices[0],) if len(set(slices)) == 1 else (*slices, *(0,) * (self.arch.cores - len(slices)))
