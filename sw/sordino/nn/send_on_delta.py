"""The recursion of CATS and its gradients."""

import numpy as np
import torch
from torch import Tensor

from sordino_hw.compiled import compiled

from .compiled import compilable, in_parts
from .ops import passing

__all__ = ["send_on_delta"]


def send_on_delta(x: Tensor, theta: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """Z_t = max(x_t, 0), d_t = Z_t - O_{t-1}, O_t = O_{t-1} + d_t * 1[|d_t| >= theta], O_0 = Z_0.

    x : float tensor (batch, time, ...); theta : positive, broadcasts over a frame. Returns O, sum |O_t - O_{t-1}| and
    sum |O|. Gradients go through the recursion; that to theta is `-sign(d_t) / width` where `||d_t| - theta| <= width *
    theta / 2`, as in `hard_threshold`.
    """
    return _SendOnDelta.apply(x, theta, width)


class _SendOnDelta(torch.autograd.Function):
    """ReLU and sums are in it, and it goes frame by frame, so that no temporary is as large as the activations."""

    @staticmethod
    def forward(ctx, x: Tensor, theta: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        sent, moved, total = _forward_compiled(x, theta) if compilable(x) else _forward(x, theta)
        ctx.save_for_backward(x, sent, theta)
        ctx.width = width
        return sent, moved, total

    @staticmethod
    def backward(ctx, grad: Tensor, grad_moved: Tensor, grad_total: Tensor):  # type: ignore[override]
        x, sent, theta = ctx.saved_tensors
        run = _backward_compiled if compilable(x) else _backward
        given, slope = run(x, sent, theta, ctx.width, grad, grad_moved, grad_total)
        return given, slope / ctx.width, None


# -- with tensor operations --------------------------------------------------------------------------------------------


def _forward(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sent = torch.empty_like(x)
    torch.clamp_min(x[:, 0], 0, out=sent[:, 0])
    moved = [x.new_zeros(())]
    for t in range(1, x.shape[1]):
        d = x[:, t].relu().sub_(sent[:, t - 1])
        move = passing(d, d.abs().sub_(theta))
        torch.add(sent[:, t - 1], move, out=sent[:, t])
        moved.append(move.abs_().sum())
    return sent, torch.stack(moved).sum(), sent.sum()


def _backward(
    x: Tensor, sent: Tensor, theta: Tensor, width: float, grad: Tensor, grad_moved: Tensor, grad_total: Tensor
) -> tuple[Tensor, Tensor]:
    half, slope = theta * (width / 2), torch.zeros_like(theta)
    given = torch.empty_like(x)
    later = grad[:, -1] + grad_total
    for t in range(x.shape[1] - 1, 0, -1):
        # What reaches O_t, from its readers, its change and O_{t+1}, goes to Z_t if that was sent, else on to O_{t-1}.
        d = x[:, t].relu().sub_(sent[:, t - 1])
        excess = d.abs().sub_(theta)
        sign = d.sign_()
        reached = torch.addcmul(later, passing(sign, excess), grad_moved)
        sending = passing(reached, excess)
        torch.ops.aten.threshold_backward.grad_input(sending, x[:, t], 0, grad_input=given[:, t])
        slope -= passing(sign.mul_(reached), half - excess.abs_()).sum_to_size(theta.shape)
        # The change's own part does not stay: it is as much of O_t as it is, negative, of O_{t-1}.
        later = later.sub_(sending).add_(grad[:, t - 1]).add_(grad_total)
    torch.ops.aten.threshold_backward.grad_input(later, x[:, 0], 0, grad_input=given[:, 0])
    return given, slope


# -- in one pass -------------------------------------------------------------------------------------------------------
# Inner loops run over a frame and are functions of their own, which LLVM vectorises. Sums are kept for each neuron.
# Comparisons are such that NaNs pass, as they do above.


@compiled(nogil=True)
def _send(x, last, theta, sent, moved, total):
    zero = x.dtype.type(0)
    for i in range(len(x)):
        d = (zero if x[i] <= zero else x[i]) - last[i]
        move = zero if abs(d) < theta[i] else d
        sent[i] = last[i] + move
        moved[i] += abs(move)
        total[i] += sent[i]


@compiled(nogil=True)
def _send_clips(x, theta, sent, moved, total):
    for b in range(x.shape[0]):
        for i in range(x.shape[2]):
            sent[b, 0, i] = 0 if x[b, 0, i] <= 0 else x[b, 0, i]
            total[i] += sent[b, 0, i]
        for t in range(1, x.shape[1]):
            _send(x[b, t], sent[b, t - 1], theta, sent[b, t], moved, total)


@compiled(nogil=True)
def _return(x, last, theta, half, grad, grad_moved, grad_total, given, slope, later):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(len(x)):
        d = (zero if x[i] <= zero else x[i]) - last[i]
        excess = abs(d) - theta[i]
        sign = one if d > zero else -one if d < zero else zero
        reached = later[i] + (zero if excess < zero else sign * grad_moved)
        sending = zero if excess < zero else reached
        given[i] = zero if x[i] <= zero else sending
        slope[i] -= zero if half[i] < abs(excess) else sign * reached
        later[i] += grad[i] + grad_total - sending


@compiled(nogil=True)
def _return_clips(x, sent, theta, half, grad, grad_moved, grad_total, given, slope):
    later = np.empty_like(theta)
    for b in range(x.shape[0]):
        last = x.shape[1] - 1
        for i in range(x.shape[2]):
            later[i] = grad[b, last, i] + grad_total
        for t in range(last, 0, -1):
            _return(x[b, t], sent[b, t - 1], theta, half, grad[b, t - 1], grad_moved, grad_total, given[b, t], slope, later)
        for i in range(x.shape[2]):
            given[b, 0, i] = 0 if x[b, 0, i] <= 0 else later[i]


def _flat(clips: Tensor) -> np.ndarray:
    """(batch, time, neurons)."""
    return clips.detach().contiguous().flatten(2).numpy()


def _frame(theta: Tensor, x: Tensor) -> np.ndarray:
    """theta of each neuron."""
    return theta.detach().to(x.dtype).expand(x.shape[2:]).contiguous().flatten().numpy()


def _forward_compiled(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    clips, thetas = _flat(x), _frame(theta, x)
    sent = np.empty_like(clips)

    def work(begin: int, end: int) -> np.ndarray:
        sums = np.zeros((2, len(thetas)), clips.dtype)
        _send_clips(clips[begin:end], thetas, sent[begin:end], *sums)
        return sums

    sums = np.stack(in_parts(len(clips), clips.size, work)).sum((0, 2))
    moved, total = torch.from_numpy(sums)
    return torch.from_numpy(sent).reshape(x.shape), moved, total


def _backward_compiled(
    x: Tensor, sent: Tensor, theta: Tensor, width: float, grad: Tensor, grad_moved: Tensor, grad_total: Tensor
) -> tuple[Tensor, Tensor]:
    clips, answers, grads, thetas = _flat(x), _flat(sent), _flat(grad), _frame(theta, x)
    moved, total = (clips.dtype.type(g.item()) for g in (grad_moved, grad_total))
    half = thetas * clips.dtype.type(width / 2)
    given = np.empty_like(clips)

    def work(begin: int, end: int) -> np.ndarray:
        slope = np.zeros_like(thetas)
        part = slice(begin, end)
        _return_clips(clips[part], answers[part], thetas, half, grads[part], moved, total, given[part], slope)
        return slope

    slope = torch.from_numpy(np.stack(in_parts(len(clips), clips.size, work)).sum(0))
    return torch.from_numpy(given).reshape(x.shape), slope.reshape(x.shape[2:]).sum_to_size(theta.shape)
