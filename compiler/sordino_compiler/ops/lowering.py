"""`Lowering`: what a layer asks for while it becomes a node of the integer graph: scales, weights, post-processing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import GraphModule, Node

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.numbers import quantise

from ..fx.nodes import arguments, constant, operator_name
from ..fx.source import where
from ..graph import Requant, Value
from .fused import Activation
from .layer import Layer, Weighted

__all__ = ["BIAS_MAX", "Lowering", "Scale", "Weights", "threshold_steps"]

BIAS_MAX = 1 << 30
"""Bias beyond this saturates every output anyway (see `factors.MAX_FACTOR_SHIFT`)."""


@dataclass(frozen=True)
class Scale:
    """How a tensor is quantised: real value = integer x `scale`, integers in lo..hi."""

    scale: float
    lo: int
    hi: int

    @property
    def signed(self) -> bool:
        return self.lo < 0

    @property
    def lowest(self) -> int | None:
        """The least integer, where there are more of them on one side of 0 than on the other; None of a usual range."""
        return self.lo if self.signed and self.lo != -(self.hi + 1) else None

    @property
    def table_offset(self) -> int:
        """What is subtracted from the integers to index a table, which -128..127 do."""
        return 0 if self.lo >= -128 and self.hi <= 127 else self.lo + 128

    def range(self, arch: ArchConfig) -> tuple[int, int]:
        """Smallest and largest integer on `arch`, inclusive."""
        return arch.act_range(self.signed) if self.lowest is None else (self.lo, self.hi)


@dataclass(frozen=True)
class Weights:
    """Quantised weights: int8, and one scale per output channel (float64)."""

    integers: np.ndarray
    scale: np.ndarray


class Lowering:
    """One graph on its way from layers to integers.

    `scale_of` gives the scale of an `out` node or of a table's input, `weights_of` the integers of a weighted layer;
    `values` holds the values of the layers that are lowered, by their `out` nodes.
    """

    def __init__(
        self,
        module: GraphModule,
        arch: ArchConfig,
        scale_of: Callable[[Node], Scale],
        weights_of: Callable[[Weighted], Weights],
    ):
        self.module, self.arch = module, arch
        self.scale_of, self.weights_of = scale_of, weights_of
        self.values: dict[Node, Value] = {}

    def fail(self, layer: Layer, text: str) -> CompileError:
        """The error of a layer that cannot be represented."""
        return CompileError(f"{operator_name(layer.core)} {layer.core.name!r} ({where(layer.core)}): {text}")

    def target(self, layer: Layer) -> Scale:
        """Scale of what the requantiser produces: the table's input where there is a table."""
        if not layer.activation.table:
            return self.scale_of(layer.out)
        if layer.table_is_fused:
            assert layer.pre is not None
            return self.scale_of(layer.pre)
        return self.scale_of(layer.inputs[0])

    def requant(self, layer: Layer, bias, mantissa, shift) -> Requant:
        """The post-processing of a layer, with these parameters of the requantiser [channels]."""
        act, target = layer.activation, self.target(layer)
        mantissa, shift = np.asarray(mantissa, np.int64), np.asarray(shift, np.int64)
        lo, hi = (target.lo, target.hi) if act.table else target.range(self.arch)
        lo, hi = max(lo, _bound(act.lo, target.scale)), min(hi, _bound(act.hi, target.scale))
        if act.table:
            first = target.table_offset
            lo, hi = max(lo - first, -128), min(hi - first, 127)
            bias = np.rint(bias - np.ldexp(float(first) / np.maximum(mantissa, 1), shift)).clip(-BIAS_MAX, BIAS_MAX)
        channels = layer.shape[0]
        return Requant(
            np.asarray(bias, np.int64),
            mantissa,
            shift,
            min(lo, hi),
            hi,
            self._threshold(layer, channels),
            self._table(layer, target) if act.table else None,
        )

    def identity(self, layer: Layer) -> Requant:
        """The post-processing of a layer whose accumulators are its outputs."""
        c, m = layer.shape[0], self.arch.mantissa_bits - 1
        return self.requant(layer, np.zeros(c), np.full(c, 1 << m), np.full(c, m))

    def _threshold(self, layer: Layer, channels: int) -> np.ndarray:
        """Integers n with T = (n - 1/2) * scale; the quantiser has snapped T."""
        t = layer.activation.threshold
        if t is None:
            return np.zeros(channels, np.int64)
        real = constant(self.module, arguments(t)["threshold"]).double().numpy()
        out = self.scale_of(layer.out)
        return threshold_steps(np.broadcast_to(real, (channels,)), out.scale, out.range(self.arch)[1])

    def _table(self, layer: Layer, target: Scale) -> np.ndarray:
        out = self.scale_of(layer.out)
        index = torch.arange(-128, 128, dtype=torch.float32) + target.table_offset
        lo, hi = out.range(self.arch)
        real = Activation(table=layer.activation.table).tabulated(index * torch.tensor(target.scale, dtype=torch.float32))
        return quantise(real.numpy(), out.scale, lo, hi).astype(np.int16)


def _bound(real: float, scale: float) -> int:
    """A clamp's bound in integers, rounded as PyTorch's quantiser rounds it."""
    return int(np.clip(np.rint(np.float64(real) / scale), -(1 << 20), 1 << 20))


def threshold_steps(threshold: np.ndarray, scale: float, largest: int) -> np.ndarray:
    """The least integer n that passes a real threshold T: (n - 1/2) * scale is nearest to T; 0..`largest`, the largest activation."""
    return np.rint(np.maximum(threshold, 0) / scale + 0.5).clip(0, largest).astype(np.int64)
