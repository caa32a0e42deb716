"""Padding: by zeros, by another value, by the edges, of channels, and negative padding, which crops."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import arguments, feature_rank, feature_shape, is_constant, operator_name
from ..graph import Window
from .affine import ScaledLayer
from .conv import Conv
from .lanewise import Lanewise, moved
from .layer import Layer
from .operator import operator
from .planner import Padding, Planner
from .regions import Reach, Region, Regions, Span, span_window, spans

__all__ = ["ChannelPad", "EdgePadLayer", "PadLayer", "ValuePadLayer"]


# -- meaning and layers ----------------------------------------------------------------------------------------------


@dataclass
class PadLayer(Layer):
    """Zeros around a value that no layer behind it could take as its own padding."""

    padding: Padding

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        window = Window((1, 1), padding=self.padding)
        return moved(self, low, "pad", window=window, out=value, inputs=inputs, source=source)


@dataclass(frozen=True, kw_only=True)
class ChannelPad(Conv):
    """Channels of zeros before and behind those of a value: a 1x1 convolution with weights of 1."""

    kind: ClassVar[str] = "pad"

    @property
    def macs(self) -> int:
        return 0

    def described(self, ins):
        return self.label

    def macs_per_event(self, slices):
        return [0 for _ in slices]


@dataclass
class ChannelPadLayer(Layer):
    """Channels of zeros before and behind those of a value, and zeros around it."""

    before: int
    padding: Padding

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        channels = low.values[self.inputs[0]].shape[0]
        weight = np.zeros((self.shape[0], channels, 1, 1), np.int8)
        weight[self.before : self.before + channels, :, 0, 0] = np.eye(channels)
        window = Window((1, 1), padding=self.padding)
        return ChannelPad(out=value, inputs=inputs, weight=weight, window=window, requant=low.identity(self), source=source)


@dataclass
class ValuePadLayer(ScaledLayer):
    """A value other than 0 around another one, whose rows and columns are written as constants."""

    padding: Padding
    value: float

    label: ClassVar[str] = "pad"

    @property
    def keeps_sign(self) -> bool:
        return self.value >= 0

    def lower(self, low, value, inputs, source):
        (c, h, w), (top, left, _, _) = low.values[self.inputs[0]].shape, self.padding
        _, oh, ow = self.shape
        inside = range(top, top + h), range(left, left + w)
        edges = [
            (range(top), range(ow)),
            (range(top + h, oh), range(ow)),
            (inside[0], range(left)),
            (inside[0], range(left + w, ow)),
        ]
        common = {"inputs": inputs, "source": source}
        copy = self.lanewise(low, Window((1, 1)), 1, out=replace(value, shape=(c, h, w)), **common)
        regions = [Region(*inside, copy)]
        for rows, columns in edges:
            if rows and columns:
                out = replace(value, shape=(c, len(rows), len(columns)))
                regions.append(Region(rows, columns, self._constant(low, (h, w), out=out, **common)))
        return Regions.of(value, inputs, regions, source)

    def _constant(self, low, size: tuple[int, int], **common: Any) -> Lanewise:
        """The padding's value everywhere: a bias, and a tap that lies below the input."""
        target, (_, rows, columns) = low.target(self), common["out"].shape
        steps = int(np.clip(self.value / target.scale, target.lo, target.hi).round())
        requant = low.identity(self)
        window = Window((1, 1), padding=(-size[0], -size[1], rows, columns))
        return Lanewise(
            weight=np.ones((self.shape[0], 1, 1), np.int64),
            window=window,
            requant=replace(requant, bias=requant.bias + steps),
            label=self.label,
            **common,
        )


@dataclass
class EdgePadLayer(Layer):
    """Rows and columns of the value itself around it: reflected, repeated, or from the other side.

    The columns are written first, beside the rows that the value has; then whole rows are copied within the output.
    """

    padding: Padding
    mode: str

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        (c, h, w), (top, left, bottom, right) = low.values[self.inputs[0]].shape, self.padding
        size, inside = self.shape[1:], range(top, top + h)
        every, all_columns = Span(range(h), 0, 1, 1), Span(range(size[1]), 0, 1, 1)
        regions = []

        def copy(rows: Span, columns: Span, of: tuple[int, int], to: range, reads_output: bool) -> None:
            out = replace(value, shape=(c, len(rows.outputs), len(columns.outputs)))
            window, repeat = span_window(rows, columns, of), (rows.repeat, columns.repeat)
            names = (value.name,) if reads_output else inputs
            node = moved(self, low, "pad", window=window, repeat=repeat, out=out, inputs=names, source=source)
            regions.append(Region(to, columns.outputs, node, reads_output))

        for columns in spans([Reach(int(i), 1) for i in self._along(w, left, right)], repeats=True):
            copy(every, columns, (h, w), inside, reads_output=False)
        rows = self._along(h, top, bottom) + top
        for first, part in ((0, rows[:top]), (top + h, rows[top + h :])):
            for span in spans([Reach(int(i), 1) for i in part], repeats=True):
                outputs = range(first + span.outputs.start, first + span.outputs.stop, span.outputs.step)
                copy(span, all_columns, size, outputs, reads_output=True)
        return Regions.of(value, inputs, regions, source)

    def _along(self, size: int, before: int, after: int) -> np.ndarray:
        """The input that each output of an axis is."""
        modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        return np.pad(np.arange(size), (before, after), mode=modes[self.mode])  # type: ignore[call-overload]


# -- forms -----------------------------------------------------------------------------------------------------------

_aten = torch.ops.aten


def crops_first(module: GraphModule, node: Node) -> None:
    """Negative padding becomes slices in front of the rest; `aten.pad` pads by zeros around channels, `aten.constant_pad_nd` otherwise."""
    a = arguments(node)
    x, pads, rank = a["self"], list(a["pad"]), len(a["self"].meta["val"].shape)
    if not all(isinstance(p, int) for p in pads) or (a.get("mode") or "constant") != "constant":
        return
    for i, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        if min(before, after) < 0 and i < rank:
            args = (x, rank - i, max(-before, 0), x.meta["val"].shape[rank - i] + min(after, 0))
            with module.graph.inserting_before(node):
                x = module.graph.call_function(_aten.slice.Tensor, args)
            x.meta = {**node.meta, "val": _aten.slice.Tensor(args[0].meta["val"], *args[1:])}
    rest = [max(p, 0) for p in pads]
    if x is not a["self"] and not any(rest):
        node.replace_all_uses_with(x)
        module.graph.erase_node(node)
        return
    plain = not a.get("value") and not any(rest[2 * (rank - 2) :])
    node.target = _aten.pad.default if plain else _aten.constant_pad_nd.default
    node.args, node.kwargs = (x, rest) if plain else (x, rest, a.get("value") or 0), {}


_MODES = {"aten.reflection_pad": "reflect", "aten.replication_pad": "replicate", "aten._pad_circular": "circular"}


def by_mode(module: GraphModule, node: Node) -> None:
    """The operators of single modes become `aten.pad`."""
    a = arguments(node)
    mode = next(mode for name, mode in _MODES.items() if operator_name(node).startswith(name))
    node.target, node.args, node.kwargs = _aten.pad.default, (a["self"], list(list(a.values())[1]), mode), {}


# -- rules -----------------------------------------------------------------------------------------------------------


def within_an_image(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Padding is within an image, by whole numbers that are fixed when the model is exported, and leaves something. Pad the batch
    outside of the model."""
    pads, rank = list(a["pad"]), feature_rank(node)
    if not all(isinstance(p, int) for p in pads) or not is_constant(a.get("value")):
        return f"padding {pads}"
    return f"padding {pads} of {rank + 1} dimensions" if any(pads[2 * rank :]) or min(node.meta["val"].shape[1:]) < 1 else None


def known_mode(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Padding that reflects, replicates or goes around takes rows and columns, and is not negative. Crop by a slice in front of it."""
    mode, pads = a.get("mode") or "constant", list(a["pad"])
    good = mode == "constant" or (min(pads) >= 0 and not any(pads[2 * (feature_rank(node) - 1) :]))
    return None if good else f"mode {mode!r} with padding {pads}"


def zero_channels(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Channels are padded by zeros. Pad by 0, and add a constant with one value per channel."""
    value, pads = a.get("value") or 0, list(a["pad"])
    return f"value {value}" if value and any(pads[2 * (feature_rank(node) - 1) :]) else None


def finite_value(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A padding's value is finite, but in front of a max pooling, without ceil_mode, whose windows all hold some of the input. Use the
    least value that occurs, or the pooling's own padding."""
    value = float(a.get("value") or 0)
    return None if math.isfinite(value) else f"value {value}"


def _sides(a: dict[str, Any]) -> Padding:
    left, right, top, bottom = (*list(a["pad"])[: 2 * (len(a["self"].meta["val"].shape) - 2)], 0, 0, 0, 0)[:4]
    return top, left, bottom, right


# -- from PyTorch ----------------------------------------------------------------------------------------------------


_RULES = (within_an_image, known_mode, zero_channels, finite_value)


@operator(
    "aten.pad",
    becomes="zeros: padding of the layer after it, else VEC (1x1); reflect, replicate, circular: VEC (1x1), one for each set of rows and "
    "columns that move alike",
    constraints=_RULES,
    rewrite=crops_first,
    homogeneous=True,
)
def pad(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    mode = a.get("mode") or "constant"
    if mode == "constant":
        planner.pad(node, a["self"], _sides(a))
    else:
        planner.add(EdgePadLayer(node, node, [planner.value(a["self"])], feature_shape(node), _sides(a), mode))


@operator(
    "aten.constant_pad_nd",
    becomes="another value than 0: VEC (1x1), one for each edge; channels of zeros: CONV (1x1)",
    constraints=_RULES,
    rewrite=crops_first,
)
def constant_pad(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source, padding, shape = planner.value(a["self"]), _sides(a), feature_shape(node)
    channels = list(a["pad"])[2 * (feature_rank(node) - 1) :]
    if any(channels):
        planner.add(ChannelPadLayer(node, node, [source], shape, channels[0], padding))
    else:
        planner.add(ValuePadLayer(node, node, [source], shape, padding, float(a["value"])))


@operator(
    "aten.reflection_pad1d",
    "aten.reflection_pad2d",
    "aten.replication_pad1d",
    "aten.replication_pad2d",
    "aten._pad_circular",
    becomes="as aten.pad",
    rewrite=by_mode,
)
def pad_by_mode(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    raise AssertionError("`by_mode` leaves no such call")
