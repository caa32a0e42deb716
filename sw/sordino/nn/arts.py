"""ARTS: an L1 penalty whose coefficient adapts while training goes on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import SparseActivation, register
from .shares import whole_mean

__all__ = ["ARTS"]


@register("arts", "ReLU with an L1 penalty whose coefficient adapts to the density that was reached")
class ARTS(SparseActivation):
    """`y = max(x, 0)`; `loss += c * sum |y|`, over an image, mean over the batch; `c` adapts at each training step.

    After each step, with `d` the layer's density (running mean) and `d0` its density before training:

        c <- clip(c * exp(rate * clip(d / (target * d0) - 1, -1, 1)), least, most)

    so that `c` grows while the layer is denser than `target * d0` and falls once it is sparser.

    Parameters
    ----------
    strength : the first `c`, positive
    target : density to reach, as a share of the density before training, above 0, at most 1 (1 / target is the suppression on
        top of ReLU; the published ones are 1.41 to 6.00)
    rate : how fast `c` adapts
    least, most : bounds of `c`; 0 < least <= most
    momentum : weight of a new batch in the running density

    `d0` is set by `calibrate`, else by the first training batch. The state (`coefficient`, `running`, `reference`) is
    in buffers: checkpoints resume exactly.

    Source: Zhu et al., "ARTS: An adaptive regularization training schedule for activation sparsity exploration",
    Euromicro DSD 2022. Its abstract says that the coefficient is altered adaptively through training; its rule was not at
    hand. The rule above is ours, and no fidelity is claimed.

    Raises `InputError` for options outside their range.
    """

    coefficient: Tensor
    running: Tensor
    reference: Tensor

    def __init__(
        self,
        strength: float = 1e-4,
        target: float = 0.5,
        rate: float = 0.02,
        least: float = 1e-8,
        most: float = 1.0,
        momentum: float = 0.1,
    ):
        super().__init__()
        if not 0 < target <= 1:
            raise InputError(f"ARTS: target must be above 0 and at most 1, not {target!r}")
        if not 0 < least <= strength <= most:
            raise InputError(f"ARTS: 0 < least <= strength <= most does not hold for {least!r}, {strength!r}, {most!r}")
        if not rate >= 0:
            raise InputError(f"ARTS: rate must not be negative, not {rate!r}")
        if not 0 < momentum <= 1:
            raise InputError(f"ARTS: momentum must be above 0 and at most 1, not {momentum!r}")
        self.strength, self.target, self.rate = strength, target, rate
        self.least, self.most, self.momentum = least, most, momentum
        self.register_buffer("coefficient", torch.tensor(float(strength)))
        self.register_buffer("running", torch.tensor(-1.0))
        self.register_buffer("reference", torch.tensor(-1.0))

    def activate(self, x: Tensor) -> Tensor:
        return x.relu()

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        used = self.coefficient.clone()
        self._adapt(y)
        return used * y.sum() / len(y)

    @torch.no_grad()
    def _adapt(self, y: Tensor) -> None:
        now = whole_mean(y.sign()).to(self.running.dtype)
        self.reference.copy_(torch.where(self.reference < 0, now, self.reference))  # a negative value: none yet
        self.running.copy_(torch.where(self.running < 0, now, torch.lerp(self.running, now, self.momentum)))
        error = self.running / (self.target * self.reference).clamp_min(1e-12) - 1
        self.coefficient.mul_((self.rate * error.clamp(-1, 1)).exp()).clamp_(self.least, self.most)

    def watched(self) -> dict[str, Tensor]:
        return {"coefficient": self.coefficient}

    @torch.no_grad()
    def calibrate(self, inputs: Sequence[Tensor]) -> None:
        positive = sum(int((x > 0).sum()) for x in inputs)
        self.reference.fill_(positive / max(1, sum(x.numel() for x in inputs)))

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}, target={self.target:g}, rate={self.rate:g}, least={self.least:g}, most={self.most:g}"
