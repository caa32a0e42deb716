"""What the epochs of a training came to."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from ..nn.base import SparseActivation, density, sites
from .data import Data, images

__all__ = ["Epoch", "History", "Losses", "measure"]


@dataclass(frozen=True)
class Losses:
    """Means over the images of an epoch."""

    loss: float
    task_loss: float
    penalty: float


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. Losses are means over the epoch's images; `score` is on validation data."""

    epoch: int
    loss: float
    """What was minimised: `task_loss` plus `fit`'s `penalty_weight` times `penalty`."""
    penalty: float
    score: float
    density: float
    """Non-zero part of all activations that a method may replace, on the validation data; NaN if there are none."""
    events: float
    """Non-zero activations for one validation input, mean."""
    task_loss: float = math.nan
    lr: float = math.nan
    """Learning rate of the epoch's first step."""
    densities: dict[str, float] = field(default_factory=dict)
    """`density` of each activation, by module path."""
    watched: dict[str, dict[str, float]] = field(default_factory=dict)
    """`least`, `mean` and `largest` of each layer's thresholds, steps or coefficient, by name and module path: "threshold/relu1"."""
    seconds: float = field(default=math.nan, compare=False)
    """Training and measuring, wall clock."""

    def row(self) -> dict[str, float]:
        """Every figure by a flat name, such as "density/relu1" and "threshold/relu1/mean"."""
        flat = {k: v for k, v in vars(self).items() if not isinstance(v, dict)}
        flat |= {f"density/{path}": v for path, v in self.densities.items()}
        return flat | {f"{name}/{k}": v for name, values in self.watched.items() for k, v in values.items()}


@dataclass
class History:
    """The epochs of a training, and which one the model was left at (-1: as it was before)."""

    epochs: list[Epoch] = field(default_factory=list)
    best: int = -1

    def sparsest(self, record: Epoch, budget: float) -> bool:
        """Whether `record` reaches the budget with no more non-zero activations than the best so far."""
        return record.score >= budget and (self.best < 0 or not record.events > self.epochs[self.best].events)

    def exhausted(self, budget: float | None, patience: int | None) -> bool:
        """Whether the last `patience` epochs are all below the budget."""
        if budget is None or patience is None or len(self.epochs) < patience:
            return False
        return all(e.score < budget for e in self.epochs[-patience:])


@torch.no_grad()
def measure(
    model: nn.Module, validation: Data, score: Callable[[nn.Module, Data], float], epoch: int, losses: Losses, lr: float
) -> Epoch:
    """The record of an epoch, but for its `seconds`."""
    value = score(model, validation)
    x = images(validation)
    counts = density(model, x)
    nonzero, total = sum(n for n, _ in counts.values()), sum(n for _, n in counts.values())
    return Epoch(
        epoch,
        losses.loss,
        losses.penalty,
        value,
        nonzero / total if total else math.nan,
        nonzero / len(x),
        losses.task_loss,
        lr,
        {path: n / size for path, (n, size) in counts.items() if size},
        {
            f"{name}/{path}": {"least": float(t.min()), "mean": float(t.mean()), "largest": float(t.max())}
            for path, layer in sites(model)
            if isinstance(layer, SparseActivation)
            for name, t in layer.watched().items()
        },
    )
