"""The gradual replacement of smooth activations during fine-tuning."""

from typing import Any

from torch import nn

from sordino_hw.spec.errors import InputError

from ..nn.base import SparseActivation

__all__ = ["Blend"]


class Blend:
    """For `sordino.train.fit(before_epoch=...)`: lets the activations that `sparsify(replace={...: "blend"})` replaces fade.

    A layer computes `(1 - b) f(x) + b g(x)`: `f` is the activation that it replaces, `g` the method's function. `b` is 0
    before training, and `(epoch + 1) / (epochs + 1)` in each of the first `epochs` epochs; afterwards it is 1 and the layer is `g`
    alone. Train for more than `epochs` epochs, since only then can the network be quantised. A training with
    a `budget` may keep an early epoch: blend in a training of its own before it.

    `then` is another hook to call after this one, such as `CostWeights`. Raises `InputError` for `epochs` below 1.
    """

    def __init__(self, epochs: int, then: Any = None):
        if epochs < 1:
            raise InputError(f"Blend: epochs must be at least 1, not {epochs!r}")
        self.epochs, self.then, self.level = epochs, then, 0.0

    def __call__(self, model: nn.Module, epoch: int) -> None:
        self._set(model, min(1.0, (epoch + 1) / (self.epochs + 1)))
        if self.then is not None:
            self.then(model, epoch)

    def _set(self, model: nn.Module, level: float) -> None:
        self.level = level
        for module in model.modules():
            if isinstance(module, SparseActivation):
                module.set_blend(level)

    def state_dict(self) -> dict[str, Any]:
        return {"level": self.level, "then": None if self.then is None else self.then.state_dict()}

    def load_state_dict(self, model: nn.Module, state: dict[str, Any]) -> None:
        self._set(model, state["level"])
        if self.then is not None:
            self.then.load_state_dict(model, state["then"])
