"""`Move`: values to other channels and pixels, where no reading of the memory shows them there."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import numpy as np

from ..emit.operation import View
from ..graph import Computation, Window
from ..slots import compact, packed
from .conv import Relayout
from .lanewise import Lanewise
from .layer import Layer
from .pieces import Piece, pieces

__all__ = ["Move", "MoveLayer"]


# -- meaning and instructions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Move(Computation):
    """Output element i is element `index[i]` of the flattened input, whose shape is `size`: int64 [c, h, w].

    One operation for each piece (see `pieces`): in vector mode where every channel stays what it is, else in event mode, with
    weights of 1.
    """

    index: np.ndarray
    size: tuple[int, int, int]

    kind: ClassVar[str] = "move"
    copies: ClassVar[bool] = True

    def accumulate(self, inputs):
        return inputs[0].reshape(len(inputs[0]), -1)[:, self.index]

    def bound(self, peaks):
        return np.full(self.out.shape[0], peaks[0], np.int64)

    def problems(self, ins, arch):
        (v,) = ins
        if self.size != v.shape:
            yield f"size {self.size} should be {v.shape}"
        if self.index.shape != self.out.shape or self.index.min() < 0 or self.index.max() >= np.prod(v.shape):
            yield f"index of shape {self.index.shape}, {self.index.min()}..{self.index.max()}"
        if (v.scale, v.signed, v.lowest) != (self.out.scale, self.out.signed, self.out.lowest):
            yield "another scale or range than its input"
        if self.window != Window((1, 1)) or self.residual_weight is not None:
            yield "it has no kernel and no residual"
        yield from super().problems(ins, arch)

    @property
    def keeps_channels(self) -> bool:
        """Whether all channels move alike, from pixel to pixel, and none becomes another."""
        c, h, w = self.size
        pixel = self.index - np.arange(len(self.index))[:, None, None] * h * w
        return len(self.index) == c and bool((pixel == pixel[0]).all() and (pixel[0] < h * w).all())

    def slots(self, inputs, lanes):
        c = self.out.shape[0]
        return compact(inputs[0].slots, lanes) if self.keeps_channels else packed(c, c, lanes)

    def parts(self, inputs, out, arch):
        (x,) = inputs
        for piece in pieces(self.index, self.size):
            if self.keeps_channels:
                node = Lanewise(weight=np.ones((self.out.shape[0], 1, 1), np.int64), label=self.kind, **self._common(piece, (1, 1)))
                yield node, [_at_once(piece, x)], out.part(piece.rows, piece.columns)
            else:
                for part in _with_one_kernel(piece):
                    node, view = self._event_mode(part, x)
                    yield node, [view], out.part(part.rows, part.columns)

    def _common(self, piece: Piece, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> dict:
        shape = (self.out.shape[0], len(piece.rows), len(piece.columns))
        window = Window(kernel, stride)
        return {
            "out": replace(self.out, shape=shape),
            "inputs": self.inputs,
            "window": window,
            "requant": self.requant,
            "source": self.source,
        }

    def _event_mode(self, piece: Piece, x: View) -> tuple[Relayout, View]:
        """A copy of channels that lie at one pixel of the source, or at several within a kernel."""
        c, top, left = len(piece.channels), int(piece.y.min()), int(piece.x.min())
        kernel = int(piece.y.max()) - top + 1, int(piece.x.max()) - left + 1
        weight = np.zeros((c, 1, *kernel), np.int8)
        weight[np.arange(c), 0, piece.y - top, piece.x - left] = 1
        if kernel == (1, 1):
            view, stride = _at_once(piece, x), (1, 1)
        else:
            stride = max(1, piece.down[0]), max(1, piece.right[1])
            rows, columns = ((len(r) - 1) * s + k for r, s, k in zip((piece.rows, piece.columns), stride, kernel, strict=True))
            view = x.part(range(top, top + rows), range(left, left + columns))
        view = replace(view, shape=(c, *view.shape[1:]), slots=x.slots[piece.channels])
        return Relayout(weight=weight, groups=c, **self._common(piece, kernel, stride)), view


def _at_once(piece: Piece, x: View) -> View:
    """The source's pixels of a piece all of whose channels lie at the same one."""

    def words(step: tuple[int, int]) -> int:
        return step[0] * x.row_pitch + step[1] * x.pixel_pitch

    shape = (x.shape[0], len(piece.rows), len(piece.columns))
    base = x.base + words((int(piece.y[0]), int(piece.x[0])))
    return replace(x, shape=shape, base=base, row_pitch=words(piece.down), pixel_pitch=words(piece.right))


def _with_one_kernel(piece: Piece) -> Iterator[Piece]:
    """The piece, or its pixels one by one where a kernel cannot walk along with the outputs."""
    together = (piece.y == piece.y[0]).all() and (piece.x == piece.x[0]).all()
    walks = piece.down[0] >= 0 == piece.down[1] and piece.right[1] >= 0 == piece.right[0]
    moves = (len(piece.rows) == 1 or piece.down[0] > 0) and (len(piece.columns) == 1 or piece.right[1] > 0)
    if together or (walks and moves):
        yield piece
        return
    for (i, row), (j, column) in product(enumerate(piece.rows), enumerate(piece.columns)):
        y = piece.y + i * piece.down[0] + j * piece.right[0]
        x = piece.x + i * piece.down[1] + j * piece.right[1]
        one = range(row, row + 1), range(column, column + 1)
        yield replace(piece, rows=one[0], columns=one[1], y=y, x=x, down=(0, 0), right=(0, 0))


# -- from PyTorch ----------------------------------------------------------------------------------------------------


@dataclass
class MoveLayer(Layer):
    """A rearrangement that takes operations."""

    index: np.ndarray
    size: tuple[int, int, int]

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        common = {"window": Window((1, 1)), "requant": low.identity(self), "source": source}
        return Move(index=self.index, size=self.size, out=value, inputs=inputs, **common)
