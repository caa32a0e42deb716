"""What methods with trainable thresholds or steps share: the parameter, its start from data, and a surrogate gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError

from .base import SparseActivation
from .ops import passing

__all__ = ["Learned", "gather_channels", "hard_threshold", "spread"]


def spread(parameter: Tensor, x: Tensor) -> Tensor:
    """Shapes a parameter [], [C] or [C, H, W] so that it broadcasts over `x` (N, C, ...)."""
    return parameter.reshape(-1, *[1] * (x.dim() - 2)) if parameter.dim() == 1 else parameter


class _HardThreshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, threshold: Tensor, width: float) -> Tensor:  # type: ignore[override]
        excess = x - threshold
        y = passing(x, excess)
        ctx.save_for_backward(excess, threshold, y)
        ctx.width = width
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        excess, threshold, y = ctx.saved_tensors
        slope = None
        if ctx.needs_input_grad[1]:
            near = threshold * (ctx.width / 2) - excess.abs()
            slope = passing(grad, near).sum_to_size(threshold.shape) / -ctx.width
        return torch.ops.aten.threshold_backward(grad, y, 0), slope, None


def hard_threshold(x: Tensor, threshold: Tensor, width: float) -> Tensor:
    """`y = x * 1[x >= T]`, with a gradient for T.

    Parameters
    ----------
    x : float tensor
    threshold : float tensor that broadcasts over `x`, positive
    width : the surrogate's width as a share of T

    dy/dx = 1[x >= T]. The true dy/dT is `-T delta(x - T)`; the delta becomes a box of width `width * T` and area 1, so
    dy/dT = `-1 / width` where `|x - T| <= width * T / 2`, else 0. It is the straight-through gradient that is common for
    thresholds; no method's source fixes it here, so that the width is an argument.
    """
    return _HardThreshold.apply(x, threshold, width)


def gather_channels(inputs: Sequence[Tensor], name: str) -> Tensor:
    """All values of tensors (N, C, ...) by channel: [C, n]. Raises `InputError` where their channels differ."""
    channels = sorted({x.shape[1] for x in inputs})
    if len(channels) > 1:
        raise InputError(
            f"{name}: one activation module is called on tensors of {' and '.join(map(str, channels))} channels, so it cannot have "
            "one parameter per channel. Give sordino.sparsify calibration=, so that each call gets a layer, or use per='layer'."
        )
    return torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1)


class Learned(SparseActivation):
    """A layer with one trainable positive number, `|theta|`, per layer ([]), channel ([C]) or neuron ([C, H, W]).

    Where it depends on data, `calibrate` makes it, so calibrate before the optimiser is made: `sd.sparsify(...,
    calibration=x)`. Without, the layer is a ReLU in evaluation and training it raises `InputError`.
    """

    def __init__(self, per: str, scopes: Sequence[str], start: float | None):
        super().__init__()
        name = type(self).__name__
        if per not in scopes:
            raise InputError(f"{name}: per must be {' or '.join(map(repr, scopes))}, not {per!r}")
        if start is not None and not start > 0:
            raise InputError(f"{name}: the start value must be positive, not {start!r}")
        self.per, self.start = per, start
        self.theta = nn.Parameter(torch.tensor(float("nan") if start is None else float(start)))
        self.ready = per == "layer" and start is not None

    def begin(self, inputs: Sequence[Tensor]) -> Tensor:
        """Where the parameter starts, from the layer's inputs (N, C, ...): a tensor of its shape."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate(self, inputs: Sequence[Tensor]) -> None:
        self.theta = nn.Parameter(self.begin(inputs).detach().clone(), self.theta.requires_grad)
        self.ready = True

    def watched(self) -> dict[str, Tensor]:
        return {"threshold": self.theta.abs()}

    def usable(self) -> bool:
        """Whether the parameter has its value. Raises `InputError` in training if it has not."""
        if not self.ready and self.training:
            raise InputError(
                f"{type(self).__name__}: its parameters (per={self.per!r}) start from data; call sordino.sparsify with "
                "calibration=, or sordino.calibrate(model, x), before training."
            )
        return self.ready

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # A calibrated layer has a shape that a new layer cannot know.
        saved = state_dict.get(prefix + "theta")
        if saved is not None:
            if saved.shape != self.theta.shape:
                self.theta = nn.Parameter(self.theta.new_zeros(saved.shape), self.theta.requires_grad)
            self.ready = not bool(saved.isnan().any())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
