"""Readings of a value in memory, and what changes nothing: decisions of the allocation, without instructions."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch.fx import Node

from ..graph import Reading
from ..slots import Layout, width
from .operator import operator
from .planner import Planner

__all__ = ["Flatten", "Slice"]


# -- meaning and layout ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice(Reading):
    """Some channels of the input at evenly spaced pixels, counted row by row.

    Channel i of output pixel (y, x) is channel `channels[i]` of pixel `first + y * steps[0] + x * steps[1]`; without `steps`,
    all pixels are what they are.
    """

    channels: tuple[int, ...]
    first: int = 0
    steps: tuple[int, int] | None = None

    kind: ClassVar[str] = "slice"

    def problems(self, ins, arch):
        (v,), (c, h, w) = ins, self.out.shape
        if (
            len(self.channels) != c
            or len(set(self.channels)) != c
            or not 0 <= min(self.channels) <= max(self.channels) < v.shape[0]
        ):
            yield f"channels {self.channels}"
        if self.steps is None:
            if (h, w) != v.shape[1:]:
                yield f"shape {self.out.shape}"
        elif min(self.first, *self.steps) < 0 or self.first + (h - 1) * self.steps[0] + (w - 1) * self.steps[1] >= np.prod(
            v.shape[1:]
        ):
            yield f"pixels from {self.first} in steps of {self.steps}"
        if (v.scale, v.signed, v.lowest) != (self.out.scale, self.out.signed, self.out.lowest):
            yield "another scale or range than its input"

    def _pixels(self) -> np.ndarray:
        """The input's pixels, int64 [h, w]."""
        assert self.steps is not None
        _, h, w = self.out.shape
        return self.first + np.arange(h)[:, None] * self.steps[0] + np.arange(w) * self.steps[1]

    def evaluate(self, inputs, arch):
        (x,) = inputs
        x = x[:, list(self.channels)]
        return x if self.steps is None else x.reshape(*x.shape[:2], -1)[:, :, self._pixels()]

    def layout(self, inputs, shapes, lanes, fold=1):
        (x,), (_, _, w) = inputs, shapes[0]
        slots = tuple(x.slots[c] for c in self.channels)
        if self.steps is None:
            return Layout(x.buffer, x.row_pitch, x.pixel_pitch, slots)
        pixels = self._pixels()
        words = pixels // w * x.row_pitch + pixels % w * x.pixel_pitch
        (_, height, width), first = self.out.shape, int(words[0, 0])
        down, right = int(words[min(1, height - 1), 0]) - first, int(words[0, min(1, width - 1)]) - first
        even = first + np.arange(height)[:, None] * down + np.arange(width) * right
        assert x.fold == 1 and np.array_equal(words, even), "its pixels are not evenly spaced in memory"
        return Layout(x.buffer, down, right, tuple(first * lanes + s for s in slots))


@dataclass(frozen=True)
class Flatten(Reading):
    """(c, h, w) to (n, 1, 1): element `index[i]` of the flattened input, int64 [n], each once; None: all, in order."""

    index: np.ndarray | None = None

    kind: ClassVar[str] = "flatten"

    def problems(self, ins, arch):
        (v,) = ins
        size = int(np.prod(v.shape))
        if self.index is None:
            if self.out.shape != (size, 1, 1):
                yield f"shape {self.out.shape}"
        elif self.out.shape != (len(self.index), 1, 1) or not 0 <= self.index.min() <= self.index.max() < size:
            yield f"shape {self.out.shape} of {len(self.index)} elements, {self.index.min()}..{self.index.max()}"
        elif len(np.unique(self.index)) != len(self.index):
            yield "an element twice"
        if (v.scale, v.signed, v.lowest) != (self.out.scale, self.out.signed, self.out.lowest):
            yield "another scale or range than its input"

    def evaluate(self, inputs, arch):
        flat = inputs[0].reshape(len(inputs[0]), -1, 1, 1)
        return flat if self.index is None else flat[:, self.index]

    def layout(self, inputs, shapes, lanes, fold=1):
        (c, h, w), x = shapes[0], inputs[0]
        columns = [i // x.fold * x.pixel_pitch * lanes + i % x.fold * c for i in range(w)]
        pixels = [y * x.row_pitch * lanes + column for y in range(h) for column in columns]
        slots = tuple(pixel + s for s in x.slots for pixel in pixels)
        if self.index is not None:
            slots = tuple(slots[i] for i in self.index)
        pitch = width(slots, lanes)
        return Layout(x.buffer, pitch, pitch, slots)


# -- from PyTorch ----------------------------------------------------------------------------------------------------


def float_tensor(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Activations are floating point before quantisation. Remove conversions to integers."""
    dtype = node.meta["val"].dtype
    return None if dtype.is_floating_point else str(dtype)


@operator(
    "aten.dropout",
    "aten.feature_dropout",
    "aten.alpha_dropout",
    "aten.feature_alpha_dropout",
    "aten.clone",
    "aten.contiguous",
    "aten.alias",
    "aten.detach",
    "aten.lift_fresh_copy",
    "aten.to",
    becomes="nothing",
    constraints=(float_tensor,),
    homogeneous=True,
    views=True,
)
def identity(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    planner.same(node, next(iter(a.values())))
