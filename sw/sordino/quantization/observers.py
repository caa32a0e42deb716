"""Fake-quantisers that know the array: zero-point 0, and weight scales whose factors the requantiser can represent.

One class serves post-training quantisation (it observes, then rounds) and quantisation-aware training (it does both
at each step). The scale is computed on demand from what was observed, and a weight's from those of its layer's input
and output, so they agree whenever the graph is converted.
"""

import math

import torch
from torch import Tensor

from sordino_compiler.factors import WIDE_MAX, snap_factor
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError, InputError

from ._torchao import FakeQuantizeBase

__all__ = ["METHODS", "ActivationQuantizer", "WeightQuantizer"]

METHODS = ("mse", "percentile", "minmax")
BINS = 4096


class ActivationQuantizer(FakeQuantizeBase):
    """Scale and range of one tensor (or of a group that shares one scale).

    Parameters
    ----------
    tensor : str
        Name by which `WeightQuantizer.link` finds it.
    arch : ArchConfig
    method : str
        What the largest integer stands for: `minmax` the largest magnitude seen, `percentile` the magnitude that
        `quantile` of the non-zero values do not exceed, `mse` the one with the least mean squared error.
    table_index : bool
        The values index a table: 8 bits, whatever the architecture's activations, and `asymmetric`.
    asymmetric : bool
        If negative values are seen, the integers reach as far on either side of 0 as the values do: as many of them as usual, and
        never fewer for the larger side.
    layer : str
        Where the tensor is made, for messages.

    Observing raises `InputError` for NaN and infinity.
    """

    def __init__(
        self,
        tensor: str,
        arch: ArchConfig,
        method: str = "mse",
        quantile: float = 0.9999,
        table_index: bool = False,
        asymmetric: bool = False,
        layer: str = "",
        dtype: torch.dtype = torch.int16,
        **_,
    ):
        super().__init__()
        self.tensor, self.arch, self.method, self.quantile = tensor, arch, method, quantile
        self.table_index, self.asymmetric, self.layer = table_index, asymmetric, layer or tensor
        self.dtype, self.qscheme, self.is_dynamic = dtype, torch.per_tensor_symmetric, False
        self.averaging = False
        self.register_buffer("negative", torch.zeros((), dtype=torch.bool))
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("ends", torch.zeros(2))
        self.register_buffer("counts", torch.zeros(BINS))
        self.register_buffer("span", torch.zeros(()))
        self._found: Tensor | None = None
        self._top = 0.0

    def bounds(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        self.calculate_qparams()
        return self._bounds(self._top)

    def _bounds(self, top: float) -> tuple[int, int]:
        """As `bounds`, for values that are clipped at the magnitude `top`."""
        below, above = (min(abs(float(end)), top) for end in self.ends)
        if not (self.table_index or (self.asymmetric and self.negative)) or below == above:
            return (-128, 127) if self.table_index else self.arch.act_range(bool(self.negative))
        last = 255 if self.table_index else (1 << self.arch.act_bits) - 1
        smaller = math.ceil(last * min(below, above) / (below + above))
        return (smaller - last, smaller) if below > above else (-smaller, last - smaller)

    def _steps(self, top: float) -> int:
        """The integer that stands for the magnitude `top`."""
        lo, hi = self._bounds(top)
        return hi if lo == -(hi + 1) else max(-lo, hi)

    @property
    def quant_min(self) -> int:
        return self.bounds()[0]

    @property
    def quant_max(self) -> int:
        return self.bounds()[1]

    def forward(self, x: Tensor) -> Tensor:
        if self.observer_enabled[0]:
            self._observe(x.detach())
        if self.fake_quant_enabled[0]:
            scale, _ = self.calculate_qparams()
            x = torch.fake_quantize_per_tensor_affine(x, float(scale), 0, *self.bounds())
        return x

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        self._found = None
        self.negative |= bool((x < 0).any())
        ends = torch.stack([x.min().clamp(max=0), x.max().clamp(min=0)]) if x.numel() else self.ends
        size = x.abs()
        top = size.max() if size.numel() else size.new_zeros(())
        if not bool(torch.isfinite(top)):
            raise InputError(
                f"tensor {self.tensor!r} ({self.layer}): {int((~torch.isfinite(x)).sum()):,} of {x.numel():,} activations are NaN or "
                "infinite on this data, in the float model already. Check the range of the inputs, and the layers up to this one."
            )
        if self.averaging and self.largest > 0:
            self.largest += 0.01 * (top - self.largest)
            self.ends += 0.01 * (ends - self.ends)
            return
        self.largest.copy_(torch.maximum(self.largest, top))
        self.ends.copy_(torch.stack([torch.minimum(self.ends[0], ends[0]), torch.maximum(self.ends[1], ends[1])]))
        if self.averaging or self.method == "minmax" or top == 0:
            return
        if self.span == 0:
            self.span.copy_(top)
        while top > self.span:  # twice the span, half the resolution
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts.zero_()[: BINS // 2] = merged
            self.span *= 2
        self.counts += torch.histc(size[size > 0].float(), BINS, 0, float(self.span))

    def calculate_qparams(self, **_) -> tuple[Tensor, Tensor]:
        """(scale float64 [1], zero-point 0)."""
        if self._found is None:
            top = float(self.largest)
            if not self.averaging and top > 0:
                top = {"minmax": lambda: top, "percentile": self._percentile, "mse": self._least_error}[self.method]()
            # A tensor that was always zero: any scale will do.
            self._top = max(top, 2.0**-60 if top else 1.0)
            self._found = torch.tensor([self._top / self._steps(self._top)], dtype=torch.float64)
        return self._found, torch.zeros(1, dtype=torch.int64)

    def _percentile(self) -> float:
        share = self.counts.double().cumsum(0) / self.counts.double().sum()
        index = int((share < self.quantile).sum())
        return min((index + 1) / BINS * float(self.span), float(self.largest))

    def _least_error(self) -> float:
        counts = self.counts.double()
        centre = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS * float(self.span)
        tops = torch.linspace(0.2, 1.0, 33, dtype=torch.float64) * float(self.largest)
        levels = torch.tensor([self._steps(float(top)) for top in tops])[:, None]
        step = tops[:, None] / levels
        error = (centre - torch.round(centre / step).clamp(max=levels) * step) ** 2
        return float(tops[(error * counts).sum(1).argmin()])

    def fix(self, scale: float) -> None:
        """Sets the scale, until more is observed."""
        self._found = torch.tensor([scale], dtype=torch.float64)

    def extra_repr(self) -> str:
        return f"{self.tensor}, {self.bounds()[0]}..{self.bounds()[1]}, largest={float(self.largest):g}"


class WeightQuantizer(FakeQuantizeBase):
    """int8 weights, -127..127, one scale per output channel (dimension 0).

    The scale is the least one that clips no weight and for which `s_in * s_w / s_out` is exactly a mantissa times a
    power of two: at most an eighth larger than the largest weight asks for (with the default mantissa).

    Parameters
    ----------
    layer : str
        Name for messages.
    source, target, residual : str
        Names of the `ActivationQuantizer`s of the layer's input, of what its requantiser produces, and of a fused
        residual.
    residual_gain : float
        By which the residual is multiplied.
    """

    quant_min, quant_max, ch_axis = -127, 127, 0

    def __init__(
        self,
        layer: str,
        source: str,
        target: str,
        arch: ArchConfig,
        residual: str | None = None,
        residual_gain: float = 1.0,
        dtype: torch.dtype = torch.int8,
        **_,
    ):
        super().__init__()
        self.layer, self.source, self.target, self.residual, self.arch = layer, source, target, residual, arch
        self.residual_gain = abs(residual_gain)
        self.dtype, self.qscheme, self.is_dynamic = dtype, torch.per_channel_symmetric, False
        self.is_per_channel = True
        self.register_buffer("largest", torch.zeros(0))
        self.links: tuple[ActivationQuantizer | None, ...] = ()

    def link(self, activations: dict[str, ActivationQuantizer]) -> None:
        """Finds the quantisers of the layer's tensors by name."""
        self.links = (
            activations[self.source],
            activations[self.target],
            activations[self.residual] if self.residual is not None else None,
        )

    def forward(self, w: Tensor) -> Tensor:
        if self.observer_enabled[0]:
            self.largest = w.detach().abs().flatten(1).amax(1)
        if self.fake_quant_enabled[0]:
            scale, zero = self.calculate_qparams()
            w = torch.fake_quantize_per_channel_affine(w, scale.to(w.device), zero.to(w.device, torch.int32), 0, -127, 127)
        return w

    def calculate_qparams(self, **_) -> tuple[Tensor, Tensor]:
        """(scales float32 [channels], zero-points 0)."""
        source, target, residual = self.links
        assert source is not None and target is not None
        s_in, s_out = float(source.calculate_qparams()[0]), float(target.calculate_qparams()[0])
        least = self.largest.double().cpu().numpy() / 127
        if residual is not None:
            # The residual's weight gain * s_r / (s_in * s_w) must stay within two cycles' range.
            least = least.clip(min=self.residual_gain * float(residual.calculate_qparams()[0]) / s_in / WIDE_MAX)
        factor = snap_factor(least * s_in / s_out, self.arch)
        top = (1 << self.arch.mantissa_bits) - 1
        if factor.max() > top:
            raise CompileError(
                f"{self.layer}: channel {int(factor.argmax())} needs a factor of {factor.max():g} from accumulator to output, but the "
                f"requantiser's largest is {top}. Its outputs are far smaller than its weights times its inputs: "
                "calibrate with data that reaches the layer's usual range, or scale the weights down."
            )
        scale = torch.from_numpy(factor * s_out / s_in).float()
        return scale, torch.zeros(len(scale), dtype=torch.int64)

    def extra_repr(self) -> str:
        return f"{self.layer}: {self.source} -> {self.target}"
