"""CATS: learned temporal thresholds with spatial and temporal penalties."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sordino_hw.errors import InputError

from .base import register
from .learned import Learned, gather_channels, spread
from .ops import passing
from .temporal import Temporal, total_change

__all__ = ["CATS"]


class _SendOnDelta(torch.autograd.Function):
    """The recursion of `CATS` over (batch, time, ...), frame by frame, so that its temporaries stay small."""

    @staticmethod
    def forward(ctx, z: Tensor, theta: Tensor, width: float) -> Tensor:  # type: ignore[override]
        sent = torch.empty_like(z)
        sent[:, 0] = z[:, 0]
        for t in range(1, z.shape[1]):
            d = z[:, t] - sent[:, t - 1]
            torch.add(sent[:, t - 1], passing(d, d.abs().sub_(theta)), out=sent[:, t])
        ctx.save_for_backward(z, sent, theta)
        ctx.width = width
        return sent

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        z, sent, theta = ctx.saved_tensors
        half, slope = theta * (ctx.width / 2), torch.zeros_like(theta)
        given = torch.empty_like(grad)
        reached = grad[:, -1]
        for t in range(grad.shape[1] - 1, 0, -1):
            # What reaches O_t, from its readers and from O_{t+1}, goes to Z_t if that was sent, else on to O_{t-1}.
            d = z[:, t] - sent[:, t - 1]
            excess = d.abs().sub_(theta)
            given[:, t] = passing(reached, excess)
            if ctx.needs_input_grad[1]:
                slope -= passing(d.sign_().mul_(reached), torch.sub(half, excess.abs())).sum_to_size(theta.shape)
            reached = grad[:, t - 1] + reached - given[:, t]
        given[:, 0] = reached
        return given, slope / ctx.width, None


@register("cats", "ReLU with a learned threshold on what changes between frames, and spatial and temporal penalties")
class CATS(Temporal, Learned):
    """A neuron sends its change when it is at least a trained threshold, and is silent otherwise:

        Z_t = max(x_t, 0),  d_t = Z_t - O_{t-1},  O_t = O_{t-1} + d_t * 1[|d_t| >= theta],  O_0 = Z_0
        loss += spatial * sum |O_t| + temporal * sum |O_t - O_{t-1}|

    both sums over a frame's activations, mean over batch and frames (for the second one, the first frame left out).

    The reference O_{t-1} is what the readers have, so the error stays below theta and does not add up. Gradients go
    through the recursion as written; that to theta is, as in `hard_threshold`, `-sign(d_t) / width` where
    `||d_t| - theta| <= width * theta / 2`.

    Parameters
    ----------
    spatial, temporal : weights of the penalties, not negative
    per : "layer" (published) or "channel"
    threshold : where theta starts; None sets it from the data, see `relative`
    relative : theta starts at this share of the mean positive activation of its layer or channel
    width : width of the surrogate gradient as a share of theta, positive
    frames : frames of a clip; None takes them from the context (see `Temporal`)

    For one frame there is no change, and the layer is a ReLU: this is what is exported and compiled frame by frame.
    theta takes effect where differences are sent, as the threshold of their store.

    Source: CATS, a combined activation and temporal suppression, trains one temporal threshold per layer with spatial and
    temporal penalties; its formulas were not at hand. The recursion (send on delta), the norms and the gradient are a
    reading of that sentence, and no fidelity is claimed.

    Raises `InputError` for options outside their range, and for training without calibration.
    """

    def __init__(
        self,
        spatial: float = 1e-5,
        temporal: float = 1e-5,
        per: str = "layer",
        threshold: float | None = None,
        relative: float = 0.25,
        width: float = 0.5,
        frames: int | None = None,
    ):
        super().__init__(frames, per=per, scopes=("layer", "channel"), start=threshold)
        if not spatial >= 0 or not temporal >= 0:
            raise InputError(f"CATS: spatial and temporal must not be negative, not {spatial!r}, {temporal!r}")
        if not relative > 0 or not width > 0:
            raise InputError(f"CATS: relative and width must be positive, not {relative!r}, {width!r}")
        self.spatial, self.temporal, self.relative, self.width = spatial, temporal, relative, width

    def begin(self, inputs: Sequence[Tensor]) -> Tensor:
        values = gather_channels(inputs, "CATS") if self.per == "channel" else torch.cat([x.flatten() for x in inputs])[None]
        size = values.relu()
        mean = size.sum(1) / size.count_nonzero(1).clamp_min(1)
        mean = mean.where(mean > 0, mean.max().where(mean.max() > 0, 1.0))
        theta = torch.full_like(mean, self.start) if self.start is not None else self.relative * mean
        return theta if self.per == "channel" else theta[0]

    def activate(self, x: Tensor) -> Tensor:
        z = x.relu()
        if not self.usable() or torch.compiler.is_exporting():
            return z
        clips = self.clips(z)
        if clips.shape[1] < 2:
            return z
        return _SendOnDelta.apply(clips, spread(self.theta.abs(), z), self.width).flatten(0, 1)

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        total = self.spatial * y.sum() / len(y)
        clips = self.clips(y)
        if clips.shape[1] < 2:
            return total
        return total + self.temporal / (clips.shape[0] * (clips.shape[1] - 1)) * total_change(clips)

    def extra_repr(self) -> str:
        return f"spatial={self.spatial:g}, temporal={self.temporal:g}, per={self.per!r}, width={self.width:g}"
