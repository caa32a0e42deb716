"""Trainable thresholds per channel, after the SENECA training recipe."""

from collections.abc import Sequence

from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import register
from .learned import Learned, gather_channels, hard_threshold, spread
from .ops import threshold_relu

__all__ = ["ChannelThresholds"]


@register("channel-thresholds", "ReLU with a trainable threshold per channel and a penalty that raises it")
class ChannelThresholds(Learned):
    """`y = x * 1[x >= T_j]`, `T_j = |theta_j|` trainable for each channel j.

        loss += strength * (sum ReLU(x) + raising * sum_j 1 / T_j^2)

    the first sum over an image's inputs, mean over the batch. 1 / T^2 pushes the thresholds up, most where they are
    small; the task pushes them down through a surrogate gradient (see `hard_threshold`); the first term pushes the
    activations below them.

    Parameters
    ----------
    strength : the lambda of the layer, not negative
    raising : weight of the threshold term; 1 is the recipe's formula
    width : width of the surrogate gradient of T as a share of T, positive
    floor : least T in `1 / T^2`, positive, so that a channel that was silent on the calibration set cannot make it infinite
    per : "channel", or "layer" for one threshold

    T starts at the median of the channel's positive inputs on the calibration set. `strength=0` trains the thresholds on
    the task alone.

    Source: the sparsity training recipe of the SENECA neuromorphic processor (channel-wise trainable thresholds from the
    channel's median, and this penalty). Its text leaves three things open that are ours: the median is of the positive
    values (half of all values of a normalised layer are negative), ReLU(x) is taken before the threshold, and T's
    gradient.

    Raises `InputError` for options outside their range, and for training without calibration.
    """

    def __init__(self, strength: float = 1e-5, raising: float = 1.0, width: float = 0.5, floor: float = 1e-2, per: str = "channel"):
        super().__init__(per, ("channel", "layer"), None)
        if not strength >= 0 or not raising >= 0:
            raise InputError(f"ChannelThresholds: strength and raising must not be negative, not {strength!r}, {raising!r}")
        if not width > 0 or not floor > 0:
            raise InputError(f"ChannelThresholds: width and floor must be positive, not {width!r}, {floor!r}")
        self.strength, self.raising, self.width, self.floor = strength, raising, width, floor

    def begin(self, inputs: Sequence[Tensor]) -> Tensor:
        values = gather_channels(inputs, "ChannelThresholds")
        if self.per == "layer":
            values = values.reshape(1, -1)
        positive = values.where(values > 0, float("nan"))
        median = positive.nanmedian(1).values.nan_to_num(self.floor).clamp_min(self.floor)
        return median.squeeze(0) if self.per == "layer" else median

    def activate(self, x: Tensor) -> Tensor:
        if not self.usable():
            return x.relu()
        if self.training:
            return hard_threshold(x, spread(self.theta.abs(), x), self.width)
        return threshold_relu(x, self.theta.abs())

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        raising = self.theta.abs().clamp_min(self.floor).square().reciprocal().sum()
        return self.strength * (x.relu().sum() / len(x) + self.raising * raising)

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}, raising={self.raising:g}, width={self.width:g}, per={self.per!r}"
