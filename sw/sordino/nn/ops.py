"""`sordino::threshold_relu`: ReLU with a threshold per channel, one node in an exported graph."""

import torch
from torch import Tensor

__all__ = ["threshold_relu"]


def _per_channel(x: Tensor, threshold: Tensor) -> Tensor:
    """Shapes a threshold of shape [] or [channels] so that it broadcasts along dimension 1 of `x`."""
    if threshold.dim() == 0:
        return threshold
    torch._check(x.dim() >= 2, lambda: f"threshold_relu: a threshold per channel needs (N, C, ...), not {x.dim()} dimensions")
    torch._check(
        threshold.dim() == 1 and threshold.shape[0] == x.shape[1],
        lambda: f"threshold_relu: threshold has shape {tuple(threshold.shape)}, expected [] or [{x.shape[1]}]",
    )
    return threshold.reshape(1, -1, *[1] * (x.dim() - 2))


@torch.library.custom_op("sordino::threshold_relu", mutates_args=())
def _threshold_relu(x: Tensor, threshold: Tensor) -> Tensor:
    return x * ((x > 0) & (x >= _per_channel(x, threshold))).to(x.dtype)


@_threshold_relu.register_fake
def _(x: Tensor, threshold: Tensor) -> Tensor:
    _per_channel(x, threshold)
    return torch.empty_like(x)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(output)


def _backward(ctx, grad: Tensor):
    (y,) = ctx.saved_tensors
    return grad * (y != 0).to(grad.dtype), None


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
