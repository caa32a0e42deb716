"""CATS: learned temporal thresholds with spatial and temporal penalties."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import register
from .learned import Learned, gather_channels, spread
from .send_on_delta import send_on_delta
from .temporal import Temporal

__all__ = ["CATS"]


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
        self._sums: list[Tensor] | None = None

    def begin(self, inputs: Sequence[Tensor]) -> Tensor:
        values = gather_channels(inputs, "CATS") if self.per == "channel" else torch.cat([x.flatten() for x in inputs])[None]
        size = values.relu()
        mean = size.sum(1) / size.count_nonzero(1).clamp_min(1)
        mean = mean.where(mean > 0, mean.max().where(mean.max() > 0, 1.0))
        theta = torch.full_like(mean, self.start) if self.start is not None else self.relative * mean
        return theta if self.per == "channel" else theta[0]

    def activate(self, x: Tensor) -> Tensor:
        self._sums = None
        if not self.usable() or torch.compiler.is_exporting():
            return x.relu()
        clips = self.clips(x)
        if clips.shape[1] < 2:
            return x.relu()
        y, *sums = send_on_delta(clips, spread(self.theta.abs(), x), self.width)
        if self.training and torch.is_grad_enabled():
            self._sums = sums
        return y.flatten(0, 1)

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        if self._sums is None:
            return self.spatial * y.sum() / len(y)
        (changed, total), self._sums = self._sums, None
        clips = self.clips(y)
        return self.spatial / len(y) * total + self.temporal / (clips.shape[0] * (clips.shape[1] - 1)) * changed

    def extra_repr(self) -> str:
        return f"spatial={self.spatial:g}, temporal={self.temporal:g}, per={self.per!r}, width={self.width:g}"
