"""Winners-take-all dropout (DASNet): the top-ranked activations stay, the rest is silent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import SparseActivation, register
from .learned import gather_channels
from .ops import LEAST, passing, threshold_relu
from .selection import kth_largest

__all__ = ["WTA", "WTADifference"]

SCOPES = ("layer", "channel", "position")


def _weakest(values: Tensor, rate: float) -> Tensor:
    """The weakest of the `ceil(rate * n)` largest along the last dimension, which is kept with size 1; 0 at least."""
    return kth_largest(values, max(1, math.ceil(rate * values.shape[-1] - 1e-9)))


@dataclass(frozen=True)
class WTADifference:
    """What the thresholds of a `WTA` layer change against the exact ranking, on given inputs."""

    exact: float
    """Mean rate of non-zero activations of the exact form."""
    threshold: float
    """The same of the form with thresholds."""
    changed: float
    """Share of the activations that are silent in one form and not in the other."""
    error: float
    """Norm of the difference of the outputs over the norm of the exact ones."""


@register("wta", "ReLU, of whose activations only the top-ranked stay (DASNet's winners-take-all dropout)")
class WTA(SparseActivation):
    """`y = max(x, 0) * winner`, the winners being the `ceil(rate * n)` top-ranked of n, for each input anew.

    Parameters
    ----------
    rate : share of winners of the layer, above 0, at most 1
    scope : what is ranked: "layer" (the C*H*W activations of an image), "channel" (whole feature maps, by their mean
        magnitude) or "position" (the C activations of one pixel)
    schedule : training steps over which the rate falls from 1 to `rate`, with a cosine; 0 for the full rate at once
    export : what `torch.export`, and so quantisation and compilation, sees: "threshold" or "exact"
    every : training steps from one update of the thresholds to the next

    In training and evaluation alike the ranking is exact, and the gradient passes winners only. No parameters; the
    number of steps (for the schedule) and the thresholds are buffers. Equal values share their rank, so that more than
    `rate` may win where activations are equal; zeros are silent anyhow.

    On the array, which does not rank, a calibrated threshold takes the place of the ranking: for scope "layer" one of
    the layer, else one per channel, such that the mean rate of non-zero activations is the same on the calibration
    set. Training follows the thresholds with a running mean every `every` steps, and `calibrate` sets them outright;
    `difference` says what they change. `rate=1` is exact: a ReLU. The exact form exports too but does not compile.

    Source: Yang et al., "DASNet: Dynamic Activation Sparsity for Neural Network Efficiency Improvement", arXiv
    1909.06964. What is ranked, the rates and the schedule were not at hand, so they are arguments, and the cosine is ours.

    Raises `InputError` for options outside their range.
    """

    threshold: Tensor
    steps: Tensor

    def __init__(self, rate: float = 0.5, scope: str = "layer", schedule: int = 0, export: str = "threshold", every: int = 16):
        super().__init__()
        if not 0 < rate <= 1:
            raise InputError(f"WTA: rate must be above 0 and at most 1, not {rate!r}")
        if scope not in SCOPES:
            raise InputError(f"WTA: scope must be one of {', '.join(map(repr, SCOPES))}, not {scope!r}")
        if schedule < 0 or every < 1:
            raise InputError(f"WTA: schedule must not be negative and every at least 1, not {schedule!r} and {every!r}")
        if export not in ("threshold", "exact"):
            raise InputError(f"WTA: export must be 'threshold' or 'exact', not {export!r}")
        self.rate, self.scope, self.schedule, self.export, self.every = rate, scope, schedule, export, every
        self.register_buffer("threshold", torch.full((), 0.0 if rate == 1 else float("nan")))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.ready = rate == 1

    @property
    def exports_another_form(self) -> bool:
        """Whether the exported graph has thresholds in place of the ranking."""
        return self.export == "threshold" and self.rate < 1

    def rate_now(self) -> float:
        """The share of winners at this step of training; `rate` in evaluation."""
        steps = int(self.steps)
        if not self.training or steps >= self.schedule:
            return self.rate
        return self.rate + (1 - self.rate) * 0.5 * (1 + math.cos(math.pi * steps / self.schedule))

    def activate(self, x: Tensor) -> Tensor:
        if self.export == "threshold" and torch.compiler.is_exporting():
            if not self.ready:
                raise InputError("WTA: it has no threshold to export yet; train it, or call sordino.calibrate(model, x) first.")
            return threshold_relu(x, self.threshold)
        rate = self.rate if torch.compiler.is_exporting() else self.rate_now()
        if self.training and torch.is_grad_enabled():
            if int(self.steps) % self.every == 0:
                self._follow(x.detach(), rate)
            self.steps += 1
        return self.winners(x, rate)

    def winners(self, x: Tensor, rate: float) -> Tensor:
        """The winners of max(x, 0), x (N, C, ...), everything else 0."""
        if rate == 1:
            return x.relu()
        if self.scope == "channel":
            y = x.relu()
            with torch.no_grad():
                size = y.flatten(2).mean(2) if y.dim() > 2 else y
                won = (size >= _weakest(size, rate)).to(y.dtype)
            return y * won.reshape(*won.shape, *[1] * (y.dim() - 2))
        with torch.no_grad():
            # Ranking before the ReLU is ranking behind it, with fewer ties.
            if self.scope == "layer":
                least = _weakest(x.flatten(1), rate).reshape(-1, *[1] * (x.dim() - 1))
            else:
                least = _weakest(x.movedim(1, -1), rate).movedim(-1, 1)
            excess = x - least.clamp_min(LEAST)
        return passing(x, excess)

    def watched(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold}

    @torch.no_grad()
    def calibrate(self, inputs: Sequence[Tensor]) -> None:
        self.threshold, self.ready = self._same_rate(inputs, self.rate), True

    def _follow(self, x: Tensor, rate: float) -> None:
        new = self._same_rate([x], rate)
        self.threshold = self.threshold.lerp(new, 0.25) if self.ready else new
        self.ready = True

    @torch.no_grad()
    def _same_rate(self, inputs: Sequence[Tensor], rate: float) -> Tensor:
        """The thresholds that pass as many of `inputs` (N, C, ...) as win: [] for scope "layer", else [C]."""
        relu = [x.relu() for x in inputs]
        won = [self.winners(x, rate) for x in inputs]
        if self.scope == "layer":
            values, winners = torch.cat([y.flatten() for y in relu])[None], sum(y.count_nonzero() for y in won)
            keep = torch.as_tensor(winners)[None]
        else:
            values = gather_channels(relu, "WTA")
            keep = gather_channels(won, "WTA").count_nonzero(1)
        last = kth_largest(values, keep.clamp_min(1))[:, 0]  # the weakest that passes
        next_ = kth_largest(values, (keep + 1).clamp_max(values.shape[1]))[:, 0]  # the strongest that does not
        cut = torch.where(keep == 0, last * 1.001, (last + next_) / 2)
        cut = torch.where(next_ > 0, cut, 0.0)  # nothing positive has to go
        return cut[0] if self.scope == "layer" else cut

    @torch.no_grad()
    def difference(self, inputs: Sequence[Tensor]) -> WTADifference:
        """What thresholds change on the layer's inputs, tensors (N, C, ...) as `sordino.nn.layer_inputs` gives them."""
        counts, square, size = [0, 0, 0], 0.0, 0.0
        for x in inputs:
            a, b = self.winners(x, self.rate), threshold_relu(x, self.threshold)
            for i, part in enumerate((a != 0, b != 0, (a != 0) != (b != 0))):
                counts[i] += int(part.sum())
            square += float((a - b).square().sum())
            size += float(a.square().sum())
        n = max(1, sum(x.numel() for x in inputs))
        return WTADifference(counts[0] / n, counts[1] / n, counts[2] / n, math.sqrt(square / size) if size else 0.0)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}, scope={self.scope!r}, schedule={self.schedule}, export={self.export!r}"

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # A calibrated layer has a threshold per channel: take its shape, which a new layer cannot know.
        saved = state_dict.get(prefix + "threshold")
        if saved is not None:
            self.threshold = torch.zeros_like(saved)
            self.ready = not bool(saved.isnan().any())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
