"""From planned layers and their scales to the integer graph."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import GraphModule, Node

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError

from .. import graph as g
from .activation import Activation
from .arguments import arguments, constant
from .exported import Scale, Weights
from .norm import affine
from .plan import Layer, Plan, layer_names, operator_name
from .scales import WIDE_MAX, approximate, exact_factor
from .source import where

__all__ = ["Lowered", "lower"]

BIAS_MAX = 1 << 30
"""Bias beyond this saturates every output anyway (see `scales.MAX_FACTOR_SHIFT`)."""

NARROW_ERROR = 2.0**-10
"""Weights of pooling and the like take one cycle a tap if 8 bits meet this relative error, else two."""

SNAP_ERROR = 1e-5
"""Relative error that float32 scales may bring to a snapped factor."""


@dataclass
class Lowered:
    """The integer graph, and for each of its values the planned layer that makes it."""

    graph: g.Graph
    layers: dict[str, Layer]


def lower(
    module: GraphModule,
    plan: Plan,
    arch: ArchConfig,
    scale_of: Callable[[Node], Scale],
    weights_of: Callable[[Layer], Weights],
) -> Lowered:
    """Emits one node per layer.

    `scale_of` gives the scale of an `out` node or of a table's input, `weights_of` the integers of a convolution or
    fully connected layer. Raises `CompileError` where a factor cannot be represented.
    """
    return _Lowering(module, plan, arch, scale_of, weights_of).run()


class _Lowering:
    def __init__(self, module: GraphModule, plan: Plan, arch: ArchConfig, scale_of, weights_of):
        self.module, self.plan, self.arch = module, plan, arch
        self.scale_of, self.weights_of = scale_of, weights_of
        self.values: dict[Node, g.Value] = {}
        self.nodes: list[g.Node] = []
        self.layers: dict[str, Layer] = {}

    def run(self) -> Lowered:
        for name, layer in zip(layer_names(self.plan), self.plan.layers, strict=True):
            value = g.Value(name, layer.shape, *self._type(layer))
            inputs = tuple(self.values[n].name for n in layer.inputs)
            emit = getattr(self, f"_{layer.kind}")
            self.nodes.append(emit(layer, value, inputs, where(layer.core)))
            self.values[layer.out] = value
            self.layers[value.name] = layer
        graph = g.Graph(self.arch, self.nodes, [self.values[n].name for n in self.plan.outputs])
        graph.check()
        return Lowered(graph, self.layers)

    def _type(self, layer: Layer) -> tuple[float, bool]:
        scale = self.scale_of(layer.out)
        return scale.scale, scale.signed

    def _fail(self, layer: Layer, text: str) -> CompileError:
        return CompileError(f"{operator_name(layer.core)} {layer.core.name!r} ({where(layer.core)}): {text}")

    # -- requantisation --------------------------------------------------------------------------------------------

    def _target(self, layer: Layer) -> Scale:
        """Scale of what the requantiser produces: the table's input where there is a table."""
        if not layer.activation.table:
            return self.scale_of(layer.out)
        if layer.kind != "activation":
            assert layer.pre is not None
            return self.scale_of(layer.pre)
        target = self.scale_of(layer.inputs[0])
        if not target.signed:
            raise self._fail(
                layer, "a table is indexed by signed integers, but its input is unsigned. Quantise the model with sordino.quantize."
            )
        return target

    def _requant(self, layer: Layer, bias, mantissa, shift) -> g.Requant:
        act, target = layer.activation, self._target(layer)
        lo, hi = (max(target.lo, -128), min(target.hi, 127)) if act.table else self.arch.act_range(target.signed)
        lo, hi = max(lo, _bound(act.lo, target.scale)), min(hi, _bound(act.hi, target.scale))
        channels = layer.shape[0]
        return g.Requant(
            np.asarray(bias, np.int64),
            np.asarray(mantissa, np.int64),
            np.asarray(shift, np.int64),
            min(lo, hi),
            hi,
            self._threshold(layer, channels),
            self._table(layer, target) if act.table else None,
        )

    def _threshold(self, layer: Layer, channels: int) -> np.ndarray:
        """Integers n with T = (n - 1/2) * scale; the quantiser has snapped T."""
        t = layer.activation.threshold
        if t is None:
            return np.zeros(channels, np.int64)
        real = constant(self.module, arguments(t)["threshold"]).double().numpy()
        out = self.scale_of(layer.out)
        return threshold_steps(np.broadcast_to(real, (channels,)), out.scale, self.arch.act_range(out.signed)[1])

    def _table(self, layer: Layer, target: Scale) -> np.ndarray:
        out = self.scale_of(layer.out)
        index = torch.arange(-128, 128, dtype=torch.float32)
        lo, hi = self.arch.act_range(out.signed)
        # As PyTorch computes it: float32, with its rounding of halves to even.
        real = Activation(table=layer.activation.table).function(index * torch.tensor(target.scale, dtype=torch.float32))
        return torch.round(real * torch.tensor(1.0 / out.scale, dtype=torch.float32)).clamp(lo, hi).numpy().astype(np.int16)

    def _identity(self, layer: Layer) -> g.Requant:
        c, m = layer.shape[0], self.arch.mantissa_bits - 1
        return self._requant(layer, np.zeros(c), np.full(c, 1 << m), np.full(c, m))

    # -- layers ----------------------------------------------------------------------------------------------------

    def _input(self, layer, value, inputs, source):
        return g.Input(value, inputs, source=source)

    def _conv(self, layer: Layer, value, inputs, source):
        if layer.norm:
            raise self._fail(layer, "its batch norm was not folded before quantisation. Quantise the model with sordino.quantize.")
        weights = self.weights_of(layer)
        s_in, target = self.scale_of(layer.inputs[0]).scale, self._target(layer)
        unit = s_in * weights.scale
        mantissa, shift, error = exact_factor(unit / target.scale, self.arch)
        if error.max() > SNAP_ERROR:
            c = int(error.argmax())
            raise self._fail(
                layer,
                f"channel {c} needs the factor {unit[c] / target.scale:g} between accumulator and output, which is not a mantissa of "
                f"{self.arch.mantissa_bits} bits times a power of two up to 1. Quantise the model with sordino.quantize for "
                f"{self.arch.name}; if it was, the layer's outputs are far smaller than its weights: scale them up.",
            )
        bias = np.zeros(len(unit)) if layer.bias is None else constant(self.module, layer.bias).numpy() / unit
        requant = self._requant(layer, np.rint(bias).clip(-BIAS_MAX, BIAS_MAX), mantissa, shift)
        residual = None
        if layer.residual:
            ratio = layer.signs[1] * self.scale_of(layer.inputs[1]).scale / unit
            residual = np.rint(ratio).clip(-WIDE_MAX, WIDE_MAX).astype(np.int64)
        integers = weights.integers.reshape(len(weights.integers), -1, *layer.window.kernel)
        cin = layer.inputs and self.values[layer.inputs[0]].shape[0]
        if layer.kind == "conv" and layer.groups == cin == value.shape[0] and cin > 1:
            return g.Depthwise(
                value,
                inputs,
                integers[:, 0].astype(np.int64),
                layer.window,
                requant,
                residual_weight=residual,
                source=source,
            )
        return g.Conv(value, inputs, integers, layer.window, requant, layer.groups, residual, source=source)

    _linear = _conv

    def _scaled(self, layer: Layer, value, inputs, source, label: str, divisor: int = 1):
        """Pooling, affine layers and adds: factors are chosen here, not by training."""
        s_out, channels = self._target(layer).scale, layer.shape[0]
        gain, offset = affine(self.module, layer.norm, channels)
        signs = layer.signs or (1,)
        factors = np.stack(
            [sign * gain * self.scale_of(n).scale / s_out / divisor for sign, n in zip(signs, layer.inputs, strict=True)]
        )
        weights, mantissa, shift, error = approximate(factors, self.arch, 127)
        wide = error > NARROW_ERROR
        if wide:
            weights, mantissa, shift, _ = approximate(factors, self.arch, WIDE_MAX)
        bias = np.rint(np.ldexp(offset / s_out / mantissa, shift)).clip(-BIAS_MAX, BIAS_MAX)
        taps = np.broadcast_to(weights[0][:, None, None], (channels, *layer.window.kernel)).copy()
        return g.Depthwise(
            value,
            inputs,
            taps,
            layer.window,
            self._requant(layer, bias, mantissa, shift),
            wide,
            residual_weight=weights[1] if layer.residual else None,
            label=label,
            source=source,
        )

    def _pool(self, layer: Layer, value, inputs, source):
        kh, kw = layer.window.kernel
        return self._scaled(layer, value, inputs, source, "avgpool", kh * kw)

    def _affine(self, layer: Layer, value, inputs, source):
        return self._scaled(layer, value, inputs, source, "affine")

    def _add(self, layer: Layer, value, inputs, source):
        return self._scaled(layer, value, inputs, source, "add")

    def _moved(self, layer: Layer, value, inputs, source, label: str):
        one = np.ones((layer.shape[0], 1, 1), np.int64)
        return g.Depthwise(value, inputs, one, layer.window, self._identity(layer), repeat=layer.repeat, label=label, source=source)

    def _upsample(self, layer: Layer, value, inputs, source):
        return self._moved(layer, value, inputs, source, "upsample")

    def _pad(self, layer: Layer, value, inputs, source):
        return self._moved(layer, value, inputs, source, "pad")

    def _activation(self, layer: Layer, value, inputs, source):
        return self._moved(layer, value, inputs, source, "activation")

    def _maxpool(self, layer: Layer, value, inputs, source):
        return g.MaxPool(value, inputs, layer.window, self._identity(layer), source=source)

    def _concat(self, layer: Layer, value, inputs, source):
        return g.Concat(value, inputs, source=source)

    def _slice(self, layer: Layer, value, inputs, source):
        return g.Slice(value, inputs, layer.start, layer.start + layer.shape[0], source=source)

    def _flatten(self, layer: Layer, value, inputs, source):
        return g.Flatten(value, inputs, source=source)


def _bound(real: float, scale: float) -> int:
    """A clamp's bound in integers, rounded as PyTorch's quantiser rounds it."""
    return int(np.clip(np.rint(np.float64(real) / scale), -(1 << 20), 1 << 20))


def threshold_steps(threshold: np.ndarray, scale: float, largest: int) -> np.ndarray:
    """The least integer n that passes a real threshold T: (n - 1/2) * scale is nearest to T; 0..`largest`, the largest activation."""
    return np.rint(np.maximum(threshold, 0) / scale + 0.5).clip(0, largest).astype(np.int64)
