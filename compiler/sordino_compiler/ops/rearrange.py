"""Slices, flattening, and what changes nothing: decisions of the allocation, without instructions."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import Node

from ..fx.nodes import feature_shape
from ..graph import Reading
from ..slots import Layout, width
from .layer import Layer
from .operator import operator
from .planner import Planner

__all__ = ["Flatten", "FlattenLayer", "Slice", "SliceLayer"]


# -- meaning and layout ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice(Reading):
    """Channels `start` to `stop` of the input."""

    start: int
    stop: int

    kind: ClassVar[str] = "slice"

    def problems(self, ins, arch):
        (v,), shape = ins, self.out.shape
        if not 0 <= self.start < self.stop <= v.shape[0] or shape != (self.stop - self.start, *v.shape[1:]):
            yield f"shape {shape}"
        if (v.scale, v.signed, v.lowest) != (self.out.scale, self.out.signed, self.out.lowest):
            yield "another scale or sign than its input"

    def evaluate(self, inputs, arch):
        return inputs[0][:, self.start : self.stop]

    def layout(self, inputs, shapes, lanes, fold=1):
        x = inputs[0]
        return Layout(x.buffer, x.row_pitch, x.pixel_pitch, x.slots[self.start : self.stop])


@dataclass(frozen=True)
class Flatten(Reading):
    """(c, h, w) to (c * h * w, 1, 1), in that order."""

    kind: ClassVar[str] = "flatten"

    def problems(self, ins, arch):
        (v,) = ins
        if self.out.shape != (int(np.prod(v.shape)), 1, 1):
            yield f"shape {self.out.shape}"
        if (v.scale, v.signed, v.lowest) != (self.out.scale, self.out.signed, self.out.lowest):
            yield "another scale or sign than its input"

    def evaluate(self, inputs, arch):
        return inputs[0].reshape(len(inputs[0]), -1, 1, 1)

    def layout(self, inputs, shapes, lanes, fold=1):
        (c, h, w), x = shapes[0], inputs[0]
        columns = [i // x.fold * x.pixel_pitch * lanes + i % x.fold * c for i in range(w)]
        pixels = [y * x.row_pitch * lanes + column for y in range(h) for column in columns]
        slots = tuple(pixel + s for s in x.slots for pixel in pixels)
        pitch = width(slots, lanes)
        return Layout(x.buffer, pitch, pitch, slots)


# -- from PyTorch ----------------------------------------------------------------------------------------------------


def _like(node: Node) -> torch.Tensor:
    value = node.meta["val"]
    return value[0] if isinstance(value, list | tuple) else value


def _axis(node: Node, a: dict[str, Any]) -> int:
    return int(a["dim"] if a["dim"] is not None else 0) % len(_like(node).shape)


def channel_axis(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Splitting works along the channels (dim=1). Use dim=1."""
    axis = _axis(node, a)
    return None if axis == 1 else f"dim={axis}"


@dataclass
class SliceLayer(Layer):
    """Some neighbouring channels."""

    start: int
    """First channel."""

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return Slice(value, inputs, self.start, self.start + self.shape[0], source=source)


def channel_axis_or_all(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Slices take channels (dim=1); along other dimensions they take everything. Crop outside the model."""
    whole = list(_like(node).shape[1:]) == list(a["self"].meta["val"].shape[1:])
    axis = _axis(node, a)
    start, end = a["start"], a.get("end")
    everything = whole and (axis != 0 or (start in (0, None) and (end is None or end == (1 << 63) - 1)))
    return None if axis == 1 or everything else f"dim={axis}"


def unit_step(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Slices take neighbouring channels (step 1). Reorder the channels of the layer before."""
    return None if a.get("step", 1) == 1 else f"step {a['step']}"


@operator("aten.slice", "aten.narrow", becomes="allocation", constraints=(channel_axis_or_all, unit_step))
def slice_(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x = a["self"]
    source = planner.value(x)
    if feature_shape(node) == feature_shape(x):
        planner.alias[node] = source
        return
    start = a["start"] or 0
    start = start + feature_shape(x)[0] if start < 0 else start
    planner.add(SliceLayer(node, node, [source], feature_shape(node), start))


@operator("aten.split", "aten.split_with_sizes", "aten.chunk", becomes="allocation", constraints=(channel_axis,))
def split(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    planner.alias[node] = planner.value(a["self"])


def part_of_split(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Parts are taken of torch.split and torch.chunk only."""
    parts = node.args[0]
    name = str(getattr(parts, "target", ""))
    return None if any(k in name for k in ("aten.split", "aten.chunk")) else f"a part of {name}"


@operator("getitem", becomes="allocation (a part of a split)", constraints=(part_of_split,))
def part(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    parts, index = node.args
    assert isinstance(parts, Node) and isinstance(index, int)
    sizes = [int(v.shape[1]) for v in parts.meta["val"]]
    index = index % len(sizes)
    planner.add(SliceLayer(node, node, [planner.value(parts)], feature_shape(node), sum(sizes[:index])))


@dataclass
class FlattenLayer(Layer):
    """(N, C, H, W) to (N, C*H*W)."""

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return Flatten(value, inputs, source=source)


def flatten_only(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Reshapes flatten everything but the batch, to (N, C*H*W), or add or drop dimensions of size 1 behind the channels. Use
    torch.flatten(x, 1)."""
    x = next(iter(a.values()))
    before, after = x.meta["val"].shape, node.meta["val"].shape
    flat = len(after) == 2
    moved = feature_shape(x) != feature_shape(node)
    # An unsqueezed (N, C, 1, L) holds the same as (N, C, L); a channel axis that changes its size does not.
    good = str(before[0]) == str(after[0]) and (flat or not moved)
    return None if good else f"{tuple(map(str, before))} to {tuple(map(str, after))}"


@operator(
    "aten.flatten",
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.squeeze",
    "aten.unsqueeze",
    "aten.unflatten",
    becomes="allocation; a flatten in front of a fully connected layer permutes its weights",
    constraints=(flatten_only,),
    flattens=True,
)
def reshape(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x = next(iter(a.values()))
    source = planner.value(x)
    if feature_shape(node) == feature_shape(x):
        planner.alias[node] = source
    else:
        planner.add(FlattenLayer(node, node, [source], feature_shape(node)))


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
)
def identity(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    planner.same(node, next(iter(a.values())))
