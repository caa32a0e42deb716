"""Operators that move elements, as host steps."""

import itertools
import math
from typing import Any

import numpy as np
from torch.fx import Node

from sordino_hw.spec.host.operations import Concat, Expand, Flip, Pad, Permute, Slice, Take

from ..fx.nodes import operator_name
from .lowering import Lowering, NotOnHost, Ref, Result, form, kind_of

__all__ = ["part"]


@form(
    *(f"aten.{n}" for n in ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")),
    *("aten._unsafe_view", "aten.view_copy", "aten._reshape_alias"),
)
def _reshape(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    kind, joined, place = kind_of(node.meta["val"], low.batch)
    if x.place or place:
        raise NotOnHost("it reshapes a value whose batch does not come first")
    return low.shaped(x, kind.shape, joined)


@form("aten.permute", "aten.transpose", "aten.swapaxes", "aten.swapdims", "aten.movedim", "aten.t", "aten.mT", "aten.numpy_T")
def _permute(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    order = list(range(x.rank))
    name = operator_name(node)
    if name == "aten.permute":
        order = [d % x.rank for d in a["dims"]]
    elif name == "aten.movedim":
        source, target = ([d % x.rank for d in np.atleast_1d(a[k]).tolist()] for k in ("source", "destination"))
        rest = iter(d for d in order if d not in source)
        order = [source[target.index(i)] if i in target else next(rest) for i in order]
    else:
        given = [v for v in list(a.values())[1:3] if isinstance(v, int)] or [-2, -1]
        i, j = (d % x.rank for d in given)
        order[i], order[j] = order[j], order[i]
    if x.joined and order[0] != 0:
        raise NotOnHost("it moves a dimension that is joined with the batch")
    return low.emit(Permute(tuple(order) if x.joined else tuple(x.axis(d) for d in order if d != x.place)), x)


@form("aten.expand", "aten.expand_as", "aten.broadcast_to")
def _expand(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    kind, joined, place = kind_of(node.meta["val"], low.batch)
    if (joined, place) != (x.joined, x.place) or len(kind.shape) != len(x.kind.shape):
        raise NotOnHost("it adds dimensions before the batch")
    return low.emit(Expand(kind.shape), x)


@form("aten.repeat", "aten.tile")
def _repeat(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    repeats = list(a["repeats"] if "repeats" in a else a["dims"])
    if len(repeats) != x.rank or repeats[0] != 1:
        raise NotOnHost("it repeats the batch, or adds dimensions before it")
    for d, n in enumerate(repeats):
        if n != 1:
            at = x.axis(d)
            x = low.emit(Take(at, tuple(range(x.kind.shape[at])) * n), x)
    return x


@form("aten.repeat_interleave")
def _interleave(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    if not isinstance(a.get("repeats"), int) or a.get("dim") is None:
        raise NotOnHost("it repeats by a tensor, or without a dimension")
    at = x.axis(a["dim"])
    return low.emit(Take(at, tuple(i for i in range(x.kind.shape[at]) for _ in range(a["repeats"]))), x)


# -- parts -------------------------------------------------------------------------------------------------------------


def part(low: Lowering, x: Ref, at: int, start: int, stop: int, step: int = 1) -> Ref:
    """Some positions of a dimension of the host."""
    if (start, step) == (0, 1) and stop >= x.kind.shape[at]:
        return x
    return low.emit(Slice(at, start, stop, step), x)


@form("aten.slice", "aten.narrow", "aten.slice_copy")
def _slice(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    dim = (a.get("dim") or 0) % x.rank
    start, stop, step = a.get("start") or 0, a.get("end"), a.get("step") or 1
    if any(isinstance(v, Node) for v in (start, stop)):
        raise NotOnHost("it takes positions that are computed")
    if dim == x.place and start == 0 and step == 1 and (stop is None or stop >= 1 << 62) and operator_name(node) != "aten.narrow":
        return x
    at = x.axis(dim)
    if operator_name(node) == "aten.narrow":
        stop = start + a["length"]
    start, stop, step = slice(start, stop, step).indices(x.kind.shape[at])
    return part(low, x, at, start, stop, step)


def _one(low: Lowering, x: Ref, at: int, index: int) -> Ref:
    """A position of a dimension, which goes."""
    size = x.kind.shape[at]
    y = part(low, x, at, index % size, index % size + 1)
    return low.shaped(y, (*x.kind.shape[:at], *x.kind.shape[at + 1 :]), x.joined)


@form("aten.select", "aten.select_copy")
def _select(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    return _one(low, x, x.axis(a["dim"]), int(low.number(a["index"])))


@form("aten.unbind")
def _unbind(low: Lowering, node: Node, a: dict[str, Any]) -> Result:
    x = low.ref(a["self"])
    at = x.axis(a.get("dim") or 0)
    return tuple(_one(low, x, at, i) for i in range(x.kind.shape[at]))


@form("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.tensor_split")
def _split(low: Lowering, node: Node, a: dict[str, Any]) -> Result:
    x = low.ref(a["self"])
    dim = (a.get("dim") or 0) % x.rank
    at = x.axis(dim)
    if x.place:
        raise NotOnHost("it splits a value whose batch does not come first")
    sizes = [int(v.shape[dim]) for v in node.meta["val"]]
    stops = list(itertools.accumulate(sizes))
    return tuple(part(low, x, at, stop - size, stop) for size, stop in zip(sizes, stops, strict=True))


@form("getitem")
def _getitem(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    given = low.values.get(node.args[0]) if isinstance(node.args[0], Node) else None
    if not isinstance(given, tuple) or not isinstance(node.args[1], int):
        raise NotOnHost("it takes a part of something that is no tuple")
    return given[node.args[1]]


@form("aten.index_select", "aten.index")
def _index(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    indices = a.get("indices") or [None] * (a["dim"] % x.rank) + [a["index"]]
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) != 1:
        raise NotOnHost("it takes positions of several dimensions at once")
    dim, index = given[0]
    positions = low.array(index)
    at = x.axis(dim)
    size = x.kind.shape[at]
    if positions.dtype == np.bool_:
        positions = np.flatnonzero(positions)
    if positions.ndim != 1 or not len(positions):
        raise NotOnHost("its positions are not a vector")
    return low.emit(Take(at, tuple(int(i) % size for i in positions)), x)


@form("aten.flip")
def _flip(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    return low.emit(Flip(tuple(x.axis(d) for d in a["dims"])), x)


@form("aten.roll")
def _roll(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    if not a.get("dims"):
        raise NotOnHost("it rolls all dimensions together")
    for shift, dim in zip(np.atleast_1d(a["shifts"]).tolist(), np.atleast_1d(a["dims"]).tolist(), strict=True):
        at = x.axis(dim)
        size = x.kind.shape[at]
        x = low.emit(Take(at, tuple((i - shift) % size for i in range(size))), x)
    return x


# -- several -----------------------------------------------------------------------------------------------------------


@form("aten.cat", "aten.concat", "aten.concatenate", "aten.stack")
def _cat(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    given = list(a["tensors"])
    refs = list(low.operands(*given)) if len(given) > 1 else [low.ref(given[0])]
    kind, joined, place = kind_of(node.meta["val"], low.batch)
    made = Ref("", kind, joined, place)
    at = made.axis(a.get("dim") or 0)
    if operator_name(node) == "aten.stack":
        refs = [low.shaped(r, (*r.kind.shape[:at], 1, *r.kind.shape[at:]), r.joined) for r in refs]
    whole = [
        low.emit(Expand((*kind.shape[:at], r.kind.shape[at], *kind.shape[at + 1 :])), r) if r.name in low.constants else r
        for r in refs
    ]
    return low.emit(Concat(at), *whole)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@form("aten.pad", "aten.constant_pad_nd")
def _pad(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    pairs = list(zip(a["pad"][::2], a["pad"][1::2], strict=True))
    rank = len(x.kind.shape)
    if any(isinstance(n, Node) for pair in pairs for n in pair) or len(pairs) > rank:
        raise NotOnHost("it pads the batch, or by computed sizes")
    before, after = [0] * rank, [0] * rank
    for at, (b, e) in zip(reversed(range(rank)), pairs, strict=False):
        x = part(low, x, at, max(0, -b), x.kind.shape[at] - max(0, -e))
        before[at], after[at] = max(0, b), max(0, e)
    if not any(before + after):
        return x
    value = low.number(a.get("value") or 0)
    return low.emit(Pad(tuple(before), tuple(after), _MODES[a.get("mode", "constant")], float(value)), x)


@form("aten.pixel_shuffle", "aten.pixel_unshuffle", "aten.channel_shuffle")
def _shuffle(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["self"])
    if x.joined or len(x.kind.shape) != 3:
        raise NotOnHost("it is not of (N, C, H, W)")
    c, h, w = x.kind.shape
    if operator_name(node) == "aten.channel_shuffle":
        y = low.emit(Permute((1, 0, 2, 3)), low.shaped(x, (a["groups"], c // a["groups"], h, w)))
    elif operator_name(node) == "aten.pixel_shuffle":
        r = a["upscale_factor"]
        y = low.emit(Permute((0, 3, 1, 4, 2)), low.shaped(x, (c // r**2, r, r, h, w)))
    else:
        r = a["downscale_factor"]
        y = low.emit(Permute((0, 2, 4, 1, 3)), low.shaped(x, (c, h // r, r, w // r, r)))
    return low.shaped(y, tuple(int(s) for s in node.meta["val"].shape[1:]))


@form("aten.upsample_nearest2d", "aten.upsample_nearest1d")
def _nearest(low: Lowering, node: Node, a: dict[str, Any]) -> Ref:
    x = low.ref(a["input"])
    sizes = [int(s) for s in node.meta["val"].shape[2:]]
    given = a.get("scale_factors") or [a.get(k) for k in ("scales_h", "scales_w", "scales") if k in a] or []
    factors = [f for f in given if f is not None] or [None] * len(sizes)
    for at, (size, factor) in enumerate(zip(sizes, factors, strict=False), 1):
        old = x.kind.shape[at]
        ratio = np.float32(1 / factor) if factor else np.float32(old / size)
        x = low.emit(Take(at, tuple(min(math.floor(np.float32(i) * ratio), old - 1) for i in range(size))), x)
    return x
