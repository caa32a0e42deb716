"""Views: operators that only show, repeat or reorder values. A chain of them is followed as a whole, by its index map.

What the chain amounts to is decided where something else reads it: nothing, another reading of the same memory, an address mode,
or a `Move`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch.fx import Node

from ..fx.index_map import IndexMap, fixed, followed, whole
from ..fx.nodes import feature_shape
from .layer import Layer
from .move import MoveLayer
from .operator import operator
from .pieces import MOST_PIECES, count
from .planner import Planner
from .rearrange import Flatten, Slice
from .resize import UpsampleLayer

__all__ = ["ORDERS", "RESHAPES", "FlattenLayer", "SliceLayer", "realise", "unreadable"]


@dataclass
class SliceLayer(Layer):
    """Some channels, at evenly spaced pixels."""

    channels: tuple[int, ...]
    first: int
    steps: tuple[int, int] | None

    reads_in_place: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return Slice(value, inputs, self.channels, self.first, self.steps, source=source)


@dataclass
class FlattenLayer(Layer):
    """(N, C, H, W) to (N, F), in any order."""

    index: np.ndarray | None

    reads_in_place: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return Flatten(value, inputs, self.index, source=source)


# -- what a map amounts to -------------------------------------------------------------------------------------------


def realise(planner: Planner, node: Node, view: IndexMap) -> None:
    """Gives `node` a layer, or an alias; which `unreadable` finds nothing wrong with."""
    source, index = planner.value(view.source), view.index.numpy()
    shape, size = feature_shape(node), feature_shape(source)
    if whole(view.index, source):
        planner.alias[node] = source
        return
    common: dict[str, Any] = {"core": node, "out": node, "inputs": [source], "shape": shape}
    known = (source, shape, index.tobytes())
    if known in planner.realised:
        planner.alias[node] = planner.alias[planner.realised[known]]
        return
    planner.realised[known] = node
    for form in (_slice, _flatten, _repeat):
        layer = form(index, size, common)
        if layer is not None:
            planner.add(layer)
            return
    planner.add(MoveLayer(index=index, size=size, **common))


def _slice(index: np.ndarray, size: tuple[int, int, int], common: dict) -> Layer | None:
    """A reading of some channels at evenly spaced pixels."""
    c, h, w = index.shape
    channel, pixel = np.divmod(index, size[1] * size[2])
    down, right = (int(pixel[0, min(1, h - 1), 0] - pixel[0, 0, 0]), int(pixel[0, 0, min(1, w - 1)] - pixel[0, 0, 0]))
    first = int(pixel[0, 0, 0])
    even = first + np.arange(h)[:, None] * down + np.arange(w) * right
    channels = channel[:, 0, 0]
    alike = bool((pixel == even).all() and (channel == channels[:, None, None]).all())
    if not alike or min(down, right) < 0 or len(np.unique(channels)) < c:
        return None
    if np.array_equal(pixel[0].ravel(), np.arange(size[1] * size[2])) and (h, w) == size[1:]:
        return SliceLayer(channels=tuple(map(int, channels)), first=0, steps=None, **common)
    return SliceLayer(channels=tuple(map(int, channels)), first=first, steps=(down, right), **common)


def _flatten(index: np.ndarray, size: tuple[int, int, int], common: dict) -> Layer | None:
    """A reading of elements at a single pixel."""
    flat = index.ravel()
    if index.shape[1:] != (1, 1) or len(np.unique(flat)) < len(flat):
        return None
    return FlattenLayer(index=None if np.array_equal(flat, np.arange(np.prod(size))) else flat, **common)


def _repeat(index: np.ndarray, size: tuple[int, int, int], common: dict) -> Layer | None:
    """Every pixel repeated over rows and columns."""
    (_, h, w), (_, oh, ow) = size, index.shape
    if index.shape[0] != size[0] or oh % h or ow % w or max(oh // h, ow // w) > 255:
        return None
    repeated = np.arange(np.prod(size)).reshape(size).repeat(oh // h, 1).repeat(ow // w, 2)
    return UpsampleLayer(repeat=(oh // h, ow // w), **common) if np.array_equal(index, repeated) else None


def unreadable(node: Node, view: IndexMap) -> tuple[str, str] | None:
    """What keeps the array from reading a view of `node`: the rule, and what was found; None if nothing does."""
    if view.problem:
        return _DIMENSIONS, f"{view.problem}, in {tuple(map(str, getattr(node.meta.get('val'), 'shape', ())))}"
    index, size = view.index.numpy(), feature_shape(view.source)
    common: dict[str, Any] = {"core": node, "out": node, "inputs": [], "shape": index.shape}
    if any(form(index, size, common) for form in (_slice, _flatten, _repeat)):
        return None
    needed = count(index, size)
    return (_PIECES, f"{needed} operations from {size} to {index.shape}") if needed > MOST_PIECES else None


_DIMENSIONS = (
    "Views are followed through any dimensions, but what reads them needs (N, F), (N, C, L) or (N, C, H, W), the batch first. "
    "Bring them back to one of these before, or return the value in front of the view and go on from there on the host."
)
_PIECES = (
    f"A rearrangement of values takes at most {MOST_PIECES} operations, one for each set of evenly spaced rows and columns. Do it in "
    "front of the first layer or behind the last one, on the host, or on fewer channels or pixels."
)


# -- from PyTorch ----------------------------------------------------------------------------------------------------


def constant_positions(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A view's sizes and positions are constants, not computed from activations, and no value is left out by a mask of its own. Use
    numbers, or a buffer of integers."""
    x = node.all_input_nodes[0]
    if not fixed(node, x):
        return "positions computed from an input"
    try:
        followed(planner.module, node, x, planner.seen(x))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


RESHAPES = ("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as")
ORDERS = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "numpy_T", "mT", "matrix_H", "adjoint")
_PARTS = ("slice", "narrow", "select", "index_select", "index", "split", "split_with_sizes", "chunk", "tensor_split", "hsplit",
          "vsplit", "dsplit", "unbind", "diagonal", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes")  # fmt: skip
_MOVES = ("flip", "fliplr", "flipud", "rot90", "roll", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle")
_REPEATS = ("expand", "expand_as", "repeat", "tile", "repeat_interleave")
_NEAREST = ("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d")


def view(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    planner.follow(node, node.all_input_nodes[0])


for _names, _becomes in (
    (RESHAPES, "allocation; a flatten in front of a fully connected layer permutes its weights; else a move"),
    (ORDERS, "allocation where channels stay channels, or all become a vector; else a move"),
    (_PARTS, "allocation: channels in any order, rows and columns in even steps"),
    (_MOVES, "channels: allocation; pixels: a move"),
    (_REPEATS, "pixels: an address mode; channels: a move"),
    (_NEAREST, "whole factors: an address mode of VEC (1x1), or allocation; others: a move"),
):
    _full = [f"aten.{name}" for name in _names]
    operator(*_full, becomes=_becomes, constraints=(constant_positions,), views=True)(view)

operator("getitem", becomes="allocation (a part of a split)", constraints=(constant_positions,), views=True)(view)
