"""Nodes to operations: one per word column of output channels, tile of inputs and band of outputs."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sordino_hw.arch import ArchConfig
from sordino_hw.errors import CompileError
from sordino_hw.isa import ADDR_BITS, REGISTERS, Flag, Mode, Opcode
from sordino_hw.numbers import split_wide

from ..graph import Conv, Depthwise, MaxPool, Node, Requant, Window
from .layout import Relayout
from .operation import Operation, Parameters, View
from .tiles import STEP_MAX, Tile, bands, choose_tiles

__all__ = ["lower"]

STATE = frozenset({("accumulator state", 0)})
OFF = 255
"""Threshold of lanes without a channel: their output is zero."""


def lower(node: Node, layer: int, inputs: list[View], out: View, arch: ArchConfig, dense: bool) -> Iterator[Operation]:
    """The operations of a layer, in order. Raises `CompileError` for what no tiling can make fit."""
    where = f"{node.kind} {node.out.name!r}{f' ({node.source})' if node.source else ''}"
    assert isinstance(node, Conv | Depthwise | MaxPool)
    node, inputs = _as_one_row(node, inputs)
    columns = out.slots // arch.lanes
    for column in np.unique(columns):
        channels = np.flatnonzero(columns == column)
        group = _Group(node, layer, where, inputs, out, channels, int(column), arch, dense)
        for op in group.operations():
            _check_registers(op)
            yield op


def _as_one_row(node: Conv | Depthwise | MaxPool, inputs: list[View]) -> tuple[Conv | Depthwise | MaxPool, list[View]]:
    """A kernel that is the whole input, as a single kernel row: the input's rows follow each other in memory.

    One span is walked then, not one for each row: linear layers after a flatten, global pooling.
    """
    x, w = inputs[0], node.window
    pixels = x.shape[1] * x.shape[2]
    contiguous = x.row_pitch == x.shape[2] * x.pixel_pitch
    if w.kernel != x.shape[1:] or any(w.padding) or w.dilation != (1, 1) or not contiguous or pixels > STEP_MAX:
        return node, inputs
    row = replace(x, shape=(x.shape[0], 1, pixels), row_pitch=pixels * x.pixel_pitch)
    window = Window((1, pixels), padding=w.padding)
    if isinstance(node, MaxPool):
        return replace(node, window=window), [row, *inputs[1:]]
    weight = node.weight.reshape(*node.weight.shape[:-2], 1, pixels)
    return replace(node, window=window, weight=weight), [row, *inputs[1:]]


def _equal_taps(weight: np.ndarray) -> bool:
    """Whether every channel [c, kh, kw] has one weight for all its taps, as in average pooling."""
    return bool((weight == weight[:, :1, :1]).all())


def _check_registers(op: Operation) -> None:
    for name, value in op.registers.items():
        r = REGISTERS[name]
        if r.bits == ADDR_BITS:
            continue
        low, high = (-(1 << (r.bits - 1)), (1 << (r.bits - 1)) - 1) if r.signed else (0, (1 << r.bits) - 1)
        if not low <= value <= high:
            raise CompileError(
                f"{op.where}: register {name} ({r.doc}) cannot hold {value}: it goes from {low} to {high}. "
                "Use a smaller kernel, stride, dilation, padding or input."
            )


class _Group:
    """The output channels of one word column, and how their operations are made."""

    def __init__(
        self,
        node: Conv | Depthwise | MaxPool,
        layer: int,
        where: str,
        inputs: list[View],
        out: View,
        channels: np.ndarray,
        column: int,
        arch: ArchConfig,
        dense: bool,
    ):
        self.node, self.layer, self.where, self.arch = node, layer, where, arch
        self.x, self.out, self.channels, self.column = inputs[0], out, channels, column
        self.residual = inputs[1] if len(inputs) > 1 else None
        self.lanes = out.slots[channels] % arch.lanes
        self.drain = int(self.lanes.max()) // arch.ppu + 1
        self.dense = dense
        self.window: Window = node.window
        self.wide = isinstance(node, Depthwise) and node.wide
        self.inputs = self._input_channels()
        """Input channels that reach these outputs."""

    def _input_channels(self) -> np.ndarray:
        n = self.node
        if not isinstance(n, Conv):
            return self.channels
        size_in, size_out = n.weight.shape[1], len(n.weight) // n.groups
        return np.concatenate([np.arange(g * size_in, (g + 1) * size_in) for g in np.unique(self.channels // size_out)])

    # -- operations ------------------------------------------------------------------------------------------------

    def operations(self) -> Iterator[Operation]:
        tiles = self._tiles()
        repeat = getattr(self.node, "repeat", (1, 1))
        state = self.arch.state_depth // self.drain if len(tiles) > 1 else None
        for rows, cols in bands(self.out.shape[1:], repeat, state, self.where, self.arch):
            for i, tile in enumerate(tiles):
                yield self._operation(tile, rows, cols, first=i == 0, last=i == len(tiles) - 1)

    def _tiles(self) -> list[Tile]:
        n, lanes, arch = self.node, self.arch.lanes, self.arch
        residual = 0 if self.residual is None else 2
        equal = isinstance(n, Depthwise) and _equal_taps(n.weight[self.channels])

        def fits(t: Tile) -> bool:
            if max(t.words, len(t.ky), len(t.kx)) > STEP_MAX:
                return False
            if isinstance(n, MaxPool):
                return t.taps == n.window.kernel[0] * n.window.kernel[1]
            if isinstance(n, Depthwise):
                return (1 if equal else t.taps) * (1 + n.wide) + residual <= arch.weight_depth
            rows = t.taps * t.words
            return rows * len(t.lanes) + residual <= arch.weight_depth and rows <= arch.mask_depth

        tiles = choose_tiles(self.x.slots[self.inputs], self.window.kernel, lanes, fits)
        if tiles is None:
            raise CompileError(
                f"{self.where}: not even one tap fits architecture {arch.name!r} with its {arch.weight_depth} weight rows, or "
                f"the kernel exceeds {STEP_MAX} rows or columns. Use a smaller kernel, or an ArchConfig with a larger weight_depth."
            )
        return tiles

    def _operation(self, tile: Tile, rows: range, cols: range, first: bool, last: bool) -> Operation:
        n, x, (sy, sx), (dy, dx) = self.node, self.x, self.window.stride, self.window.dilation
        ry, rx = getattr(n, "repeat", (1, 1))
        top, left = self.window.padding[:2]
        kh, kw, words = len(tile.ky), len(tile.kx), tile.words
        merged = kw == 1 or (dx == 1 and x.pixel_pitch == words)
        spans, span = (1, kw) if merged else (kw, 1)
        iy0 = rows.start // ry * sy - top + tile.ky.start * dy
        ix0 = cols.start // rx * sx - left + tile.kx.start * dx
        registers: dict[str, int] = {}
        registers.update(OH=len(rows), OW=len(cols), KH=kh, KX=spans, SPAN=span, WORDS=words, H=x.shape[1], W=x.shape[2])
        registers.update(IY0=iy0, IX0=ix0, SY=sy, SX=sx, DY=dy, DX=dx, REPY=ry, REPX=rx, DRAIN=self.drain)
        registers.update(A_BASE=x.address(iy0, ix0, tile.columns.start), A_OY=sy * x.row_pitch, A_OX=sx * x.pixel_pitch)
        registers.update(A_KY=dy * x.row_pitch, A_KX=dx * x.pixel_pitch)
        flags = Flag.DENSE if self.dense else Flag(0)
        op = Operation(self.layer, self.where, Opcode.CONV, Mode.MAC, flags, registers, self._macs_per_event())
        op = self._event_images(op, tile, span) if isinstance(n, Conv) else self._vector_images(op, tile, span)
        op = replace(op, reads=x.words(tile.columns))
        if not (first and last):
            registers["S_BASE"] = 0
        if not first:
            op = replace(op, flags=op.flags | Flag.SOURCE, reads=op.reads | STATE)
        if not last:
            return replace(op, flags=op.flags | Flag.SINK, writes=STATE)
        return self._post_process(op, rows.start, cols.start)

    def _post_process(self, op: Operation, oy: int, ox: int) -> Operation:
        """Residual, requantiser and store of an output's last operation."""
        n, out, r = self.node, self.out, op.registers
        if not isinstance(n, MaxPool) and n.residual_weight is not None and self.residual is not None:
            v = self.residual
            column = int(v.slots[self.channels[0]]) // self.arch.lanes
            r |= {"R_BASE": v.address(oy, ox, column), "R_OY": v.row_pitch, "R_OX": v.pixel_pitch}
            halves = np.zeros((2, self.arch.lanes), np.int8)
            halves[:, self.lanes] = np.array([split_wide(int(w)) for w in n.residual_weight[self.channels]]).T
            op = replace(op, flags=op.flags | Flag.RESIDUAL, residual=halves, reads=op.reads | v.words([column]))
        r |= {"O_BASE": out.address(oy, ox, self.column), "O_OY": out.row_pitch, "O_OX": out.pixel_pitch}
        r |= {"LO": n.requant.lo, "HI": n.requant.hi}
        if n.requant.table is not None:
            op = replace(op, flags=op.flags | Flag.TABLE, table=n.requant.table.astype(np.int16))
        return replace(op, parameters=self._parameters(n.requant), writes=out.words([self.column]))

    def _parameters(self, q: Requant) -> Parameters:
        def rows(values: np.ndarray, fill: int) -> np.ndarray:
            full = np.full(self.drain * self.arch.ppu, fill, np.int64)
            full[self.lanes] = values[self.channels]
            return full.reshape(self.drain, self.arch.ppu)

        return Parameters(rows(q.bias, 0), rows(q.mantissa, 0), rows(q.shift, 0), rows(q.threshold, OFF))

    # -- images ----------------------------------------------------------------------------------------------------

    def _event_images(self, op: Operation, tile: Tile, span: int) -> Operation:
        """Weight rows ordered (kernel row, kernel column, word, lane) from the tile's first lane on, and their masks."""
        n, lanes = self.node, self.arch.lanes
        assert isinstance(n, Conv)
        kh, kw, words, rows = len(tile.ky), len(tile.kx), tile.words, len(tile.lanes)
        image = np.zeros((kh, kw, words, rows, lanes), np.int8)
        real = np.zeros((words, rows), bool)
        size_in, size_out = n.weight.shape[1], len(n.weight) // n.groups
        for g in np.unique(self.channels // size_out):
            slots = self.x.slots[g * size_in : (g + 1) * size_in]
            chosen = np.flatnonzero(np.isin(slots // lanes, tile.columns))
            word, lane = slots[chosen] // lanes - tile.columns.start, slots[chosen] % lanes - tile.lanes.start
            mine = self.channels // size_out == g
            taps = n.weight[self.channels[mine]][:, chosen, tile.ky.start : tile.ky.stop, tile.kx.start : tile.kx.stop]
            image[:, :, word[:, None], lane[:, None], self.lanes[mine]] = taps.transpose(2, 3, 1, 0)
            real[word, lane] = True
        mask = np.zeros((kh, kw, words, lanes), bool)
        mask[..., tile.lanes.start : tile.lanes.stop] = real if self.dense else image.any(-1)
        op.registers.update(W_SPAN=span * words * rows, W_WORD=rows, M_SPAN=span * words)
        return replace(op, weight=image.reshape(-1, lanes), first_lane=tile.lanes.start, mask=mask.reshape(-1, lanes))

    def _vector_images(self, op: Operation, tile: Tile, span: int) -> Operation:
        """Weight rows ordered (kernel row, kernel column, half); one for all taps where they are equal."""
        n = self.node
        if isinstance(n, MaxPool):
            return replace(op, opcode=Opcode.VEC, mode=Mode.MAX)
        assert isinstance(n, Depthwise)
        taps = n.weight[self.channels, tile.ky.start : tile.ky.stop, tile.kx.start : tile.kx.stop].transpose(1, 2, 0)
        equal = _equal_taps(n.weight[self.channels])
        if equal:
            taps = taps[:1, :1]
        halves = 2 if self.wide else 1
        image = np.zeros((*taps.shape[:2], halves, self.arch.lanes), np.int8)
        if self.wide:
            high = (taps + 64) >> 7
            image[:, :, 0, self.lanes], image[:, :, 1, self.lanes] = taps - (high << 7), high
        else:
            image[:, :, 0, self.lanes] = taps
        op.registers.update(W_SPAN=0 if equal else span * halves, W_WORD=0 if equal else halves)
        mode = Mode.MAC2 if self.wide else Mode.MAC
        return replace(op, opcode=Opcode.VEC, mode=mode, weight=image.reshape(-1, self.arch.lanes))

    def _macs_per_event(self) -> int:
        n = self.node
        if isinstance(n, Relayout):
            return 0
        if isinstance(n, Conv):
            return len(self.channels) // len(np.unique(self.channels // (len(n.weight) // n.groups)))
        return int(isinstance(n, Depthwise) and n.label == "depthwise")
