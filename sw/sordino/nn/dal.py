"""Delta Activation Layer (DAL): activations on a grid whose step is trained for equal neighbouring frames."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import register
from .learned import Learned, gather_channels, spread
from .ops import round_to_step
from .temporal import Temporal, total_change

__all__ = ["DAL"]


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:  # type: ignore[override]
        ratio = x / step
        steps = ratio.round().clamp_(lo, hi)
        ctx.save_for_backward(ratio, steps)
        ctx.bounds, ctx.shape = (lo - 0.5 if lo else 0.0, hi + 0.5), step.shape
        return steps * step

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        ratio, steps = ctx.saved_tensors
        straight = torch.ops.aten.hardtanh_backward(grad, ratio, *ctx.bounds)
        return straight, -(grad * steps).sum_to_size(ctx.shape), None, None


@register("dal", "ReLU on a grid of trained step, with a penalty on what changes between frames")
class DAL(Temporal, Learned):
    """`O = round(Z / q) * q`, `Z = max(x, 0)`, `q = |theta|` trainable; the loss follows the differences of frames:

        loss += sp_rate * fan_out * mean |O_t - O_{t-1}|

    mean over batch, frames (the first left out) and neurons.

    Gradients, as published: dO/dZ = 1 (straight through), and that to q is sign-flipped, `-round(Z / q) * dO`, summed
    over what shares q: q is detached in the division and negated in the product, so that the sparsity term pushes q up.

    Parameters
    ----------
    sp_rate : weight of the loss, not negative (published: 1e-4, then 1e-6)
    fan_out : products that one event of the layer costs, the published `n_outputs`: `sordino.nn.fan_out(model, x)` gives it
        by module path
    per : "channel" (published default), "layer" or "neuron" (software only)
    step : where q starts (published: 1 to 4); None sets it from the data, see `relative`
    relative : q starts at this share of the mean positive activation of its layer, channel or neuron
    levels : largest |O / q|; the array's activations reach 255 (127 where `rectify` is false or `event_bits` is 8)
    rectify : False for a tensor that is not a ReLU's input, such as the network's input: Z = x, the grid is signed
    frames : frames of a clip; None takes them from the context (see `Temporal`)

    Training is dense, on quantised frames; only the loss sees differences. There is no threshold between frames, so
    sending `O_t - O_{t-1}` and adding it up is exactly equal to sending O_t.

    On the array q *is* the activation's scale: an activation is the integer O / q. With one q per layer this is
    the tensor's scale as it is. With one per channel the weights take the difference: the layer before makes
    channel c larger by s / q_c, the layer behind reads it q_c / s times, and s is the tensor's scale; the integers are
    still O / q_c. That needs weighted layers before and behind (through pooling and flattening); where a residual
    addition or a concatenation stands between, use per="layer". A step per neuron cannot be exported.

    Source: Yousefzadeh and Sifalakis, "Training for temporal sparsity in deep neural networks, application in video
    processing", arXiv 2107.07305. `levels` (with gradient 0 beyond it) and `relative` are ours.

    Raises `InputError` for options outside their range, training without calibration, and exporting a step per neuron.
    """

    def __init__(
        self,
        sp_rate: float = 1e-4,
        fan_out: float = 1.0,
        per: str = "channel",
        step: float | None = None,
        relative: float = 0.25,
        levels: int = 255,
        rectify: bool = True,
        frames: int | None = None,
    ):
        super().__init__(frames, per=per, scopes=("channel", "layer", "neuron"), start=step)
        if not sp_rate >= 0 or not fan_out >= 0:
            raise InputError(f"DAL: sp_rate and fan_out must not be negative, not {sp_rate!r}, {fan_out!r}")
        if not relative > 0 or levels < 1:
            raise InputError(f"DAL: relative must be positive and levels at least 1, not {relative!r}, {levels!r}")
        self.sp_rate, self.fan_out, self.relative, self.rectify = sp_rate, fan_out, relative, rectify
        self.lo, self.hi = (0, levels) if rectify else (-min(levels + 1, 128), min(levels, 127))

    @property
    def step(self) -> Tensor:
        """q: [], [C] or [C, H, W]."""
        return self.theta.abs()

    def begin(self, inputs: Sequence[Tensor]) -> Tensor:
        values = gather_channels(inputs, "DAL") if self.per == "channel" else torch.cat([x.flatten() for x in inputs])[None]
        if self.per == "neuron":
            values = torch.cat(list(inputs)).flatten(1).T
        size = values.relu() if self.rectify else values.abs()
        mean = size.sum(1) / size.count_nonzero(1).clamp_min(1)
        silent = mean == 0
        mean = mean.where(~silent, mean[~silent].mean() if bool((~silent).any()) else torch.ones_like(mean))
        q = torch.full_like(mean, self.start) if self.start is not None else self.relative * mean
        return q.reshape(inputs[0].shape[1:]) if self.per == "neuron" else q if self.per == "channel" else q[0]

    def watched(self) -> dict[str, Tensor]:
        return {"step": self.step}

    def activate(self, x: Tensor) -> Tensor:
        if not self.usable():
            return x.relu() if self.rectify else x
        if torch.compiler.is_exporting():
            if self.per == "neuron":
                raise InputError("DAL: a step per neuron is for software only; use per='channel' or per='layer' for the array.")
            return round_to_step(x, self.step, self.lo, self.hi)
        return _Round.apply(x, spread(self.step, x), self.lo, self.hi)

    def cost(self, x: Tensor, y: Tensor) -> Tensor | None:
        clips = self.clips(y)
        if clips.shape[1] < 2:
            return None
        return self.sp_rate * self.fan_out / clips[:, 1:].numel() * total_change(clips)

    def extra_repr(self) -> str:
        return f"sp_rate={self.sp_rate:g}, fan_out={self.fan_out:g}, per={self.per!r}, levels={self.hi}"
