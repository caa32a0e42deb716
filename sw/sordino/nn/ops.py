"""Operators that stay one node in an exported graph: a ReLU with thresholds, and rounding to a fixed step."""

import torch
from torch import Tensor

__all__ = ["LEAST", "passing", "round_to_step", "threshold_relu"]

LEAST = 1.4e-45
"""The least positive float32."""


def passing(values: Tensor, excess: Tensor) -> Tensor:
    """`values` where `excess >= 0`, else 0; the gradient to `values` is that of the mask, `excess` gets none.

    One vectorised pass: PyTorch's Boolean masks take several times as long on a CPU.
    """
    return torch.ops.aten.threshold_backward(values, excess.detach(), -LEAST)


def _per_channel(x: Tensor, threshold: Tensor, what: str = "threshold_relu: threshold") -> Tensor:
    """Shapes a threshold of shape [] or [channels] so that it broadcasts along dimension 1 of `x`."""
    if threshold.dim() == 0:
        return threshold
    torch._check(x.dim() >= 2, lambda: f"{what} per channel needs (N, C, ...), not {x.dim()} dimensions")
    torch._check(
        threshold.dim() == 1 and threshold.shape[0] == x.shape[1],
        lambda: f"{what} has shape {tuple(threshold.shape)}, expected [] or [{x.shape[1]}]",
    )
    return threshold.reshape(1, -1, *[1] * (x.dim() - 2))


@torch.library.custom_op("sordino::threshold_relu", mutates_args=())
def _threshold_relu(x: Tensor, threshold: Tensor) -> Tensor:
    return passing(x, x - _per_channel(x, threshold).clamp_min(LEAST))


@_threshold_relu.register_fake
def _(x: Tensor, threshold: Tensor) -> Tensor:
    _per_channel(x, threshold)
    return torch.empty_like(x)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(output)


def _backward(ctx, grad: Tensor):
    (y,) = ctx.saved_tensors
    return torch.ops.aten.threshold_backward(grad, y, 0), None


_threshold_relu.register_autograd(_backward, setup_context=_keep)


def threshold_relu(x: Tensor, threshold: Tensor) -> Tensor:
    """FATReLU: `y = x` where `x > 0` and `x >= threshold`, else 0.

    Parameters
    ----------
    x : float tensor (N, C) or (N, C, H, W)
    threshold : float tensor of shape [] or [C], in the units of `x`

    The gradient is that of the identity where `x` passed and 0 elsewhere; the threshold gets none. Quantisation snaps
    each threshold to `(n - 1/2) * scale`, so that it equals "integers below n are silent".

    Source: Kurtz et al., "Inducing and Exploiting Activation Sparsity for Fast Neural Network Inference", ICML 2020.
    """
    return torch.ops.sordino.threshold_relu(x, threshold)


@torch.library.custom_op("sordino::round_to_step", mutates_args=())
def _round_to_step(x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    q = _per_channel(x, step, "round_to_step: step")
    return (x / q).round_().clamp_(lo, hi).mul_(q)


@_round_to_step.register_fake
def _(x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    _per_channel(x, step, "round_to_step: step")
    return torch.empty_like(x)


def _keep_inside(ctx, inputs, output):
    x, step, ctx.lo, ctx.hi = inputs
    q = _per_channel(x, step)
    ctx.save_for_backward((x >= (ctx.lo - 0.5) * q) & (x <= (ctx.hi + 0.5) * q))


def _straight_through(ctx, grad: Tensor):
    (inside,) = ctx.saved_tensors
    return grad * inside, None, None, None


_round_to_step.register_autograd(_straight_through, setup_context=_keep_inside)


def round_to_step(x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    """`clip(round(x / step), lo, hi) * step`: fixes the quantisation of a tensor in the model itself.

    Parameters
    ----------
    x : float tensor (N, C) or (N, C, H, W)
    step : positive float tensor of shape [] or [C]
    lo, hi : the integers' range; `lo=0` includes a ReLU

    `sordino.quantize` takes `step` for the scale of the tensor, so that the array computes these very values; a step per
    channel is moved into the weights before and behind. The gradient to `x` is 1 where nothing is clipped; `step` gets none.
    """
    return torch.ops.sordino.round_to_step(x, step, lo, hi)
