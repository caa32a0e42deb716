"""Frames: how a layer knows that the rows of its batch are frames of clips."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

import torch
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError

from .base import SparseActivation, sites

__all__ = ["Clips", "Temporal", "changes", "frames", "total_change"]

_frames: ContextVar[int] = ContextVar("frames", default=1)


@contextmanager
def frames(count: int) -> Iterator[None]:
    """Within it, a batch (B * count, C, ...) is B clips of `count` frames each, the frames of a clip side by side.

    Raises `InputError` for a count below 1.
    """
    if count < 1:
        raise InputError(f"frames: a clip has at least 1 frame, not {count!r}")
    token = _frames.set(count)
    try:
        yield
    finally:
        _frames.reset(token)


class _TotalChange(torch.autograd.Function):
    """Frame by frame, so that its temporaries stay small."""

    @staticmethod
    def forward(ctx, clips: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(clips)
        frames = clips.unbind(1)
        return torch.stack([(b - a).abs_().sum() for a, b in pairwise(frames)]).sum()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        (clips,) = ctx.saved_tensors
        frames, result = clips.unbind(1), torch.empty_like(clips)
        result[:, 0] = 0
        for t, (a, b) in enumerate(pairwise(frames)):
            sign = (b - a).sign_().mul_(grad)
            result[:, t].sub_(sign)
            result[:, t + 1] = sign
        return result


def total_change(clips: Tensor) -> Tensor:
    """`sum |y_t - y_{t-1}|` over clips (batch, time, ...), all frames but the first: a scalar."""
    return _TotalChange.apply(clips)


class Temporal(SparseActivation):
    """A layer that looks at differences between the frames of a clip.

    It takes (batch, time, C, H, W), or (batch * time, C, ...) with the number of frames from its own option `frames`
    or, where that is None, from the context `sordino.nn.frames`. Outside of one every row is a clip of one frame.
    """

    def __init__(self, count: int | None, **arguments):
        super().__init__(**arguments)
        if count is not None and count < 1:
            raise InputError(f"{type(self).__name__}: frames must be at least 1 or None, not {count!r}")
        self.frames = count

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 5:
            return super().forward(x)
        batch, time = x.shape[:2]
        if self.frames not in (None, time):
            raise InputError(f"{type(self).__name__}: clips of {time} frames, but its option says frames={self.frames}")
        with frames(time):
            return super().forward(x.flatten(0, 1)).unflatten(0, (batch, time))

    def calibrate(self, inputs: Sequence[Tensor]) -> None:
        super().calibrate([x.flatten(0, 1) if x.dim() == 5 else x for x in inputs])

    def clips(self, x: Tensor) -> Tensor:
        """(batch * time, ...) as (batch, time, ...), with the frames that hold now. Raises `InputError` if they do not divide."""
        count = _frames.get() if self.frames is None else self.frames
        if len(x) % count:
            raise InputError(f"{type(self).__name__}: a batch of {len(x)} is no whole number of clips of {count} frames")
        return x.unflatten(0, (len(x) // count, count))


class Clips(nn.Module):
    """Runs a model of single images on clips, so that its temporal layers see the frames.

    Parameters
    ----------
    model : takes (N, C, H, W) and returns one tensor (N, ...)
    reduce : what becomes of the frames' outputs: "mean", "last", or None for all, (batch, time, ...)

    Takes (batch, time, C, H, W). For the array, compile `clips.model`: it runs frame by frame.
    """

    def __init__(self, model: nn.Module, reduce: str | None = "mean"):
        super().__init__()
        if reduce not in ("mean", "last", None):
            raise InputError(f"Clips: reduce must be 'mean', 'last' or None, not {reduce!r}")
        self.model, self.reduce = model, reduce

    def forward(self, x: Tensor) -> Tensor:
        torch._check(x.dim() == 5, lambda: f"Clips: (batch, time, C, H, W) wanted, found {tuple(x.shape)}")
        with frames(x.shape[1]):
            y = self.model(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return y.mean(1) if self.reduce == "mean" else y[:, -1] if self.reduce == "last" else y


@torch.no_grad()
def changes(model: nn.Module, x: Tensor, batch_size: int = 16) -> dict[str, tuple[int, int]]:
    """Activations that differ from the frame before: module path of each activation -> (changed, all), whole batch.

    `model` takes clips `x` (N, time, C, H, W), as `Clips` does. First frames are left out. This is the temporal
    counterpart of `density`: the events of delta inference.
    """
    counts = {name: [0, 0] for name, _ in sites(model)}

    def count(name: str):
        def hook(_module, _inputs, y):
            clips = y if y.dim() == 5 else y.unflatten(0, (-1, _frames.get()))
            counts[name][0] += int(torch.count_nonzero(clips[:, 1:] != clips[:, :-1]))
            counts[name][1] += clips[:, 1:].numel()

        return hook

    handles = [m.register_forward_hook(count(name)) for name, m in sites(model)]
    training = model.training
    try:
        model.eval()
        for part in x.split(batch_size):
            with frames(x.shape[1]):
                model(part)
    finally:
        model.train(training)
        for h in handles:
            h.remove()
    return {name: (a, b) for name, (a, b) in counts.items()}
