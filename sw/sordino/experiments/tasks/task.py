"""What an example task is: a network, its data and a recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...data import Split
from ...train import Transform

__all__ = ["TASKS", "Recipe", "Task"]


@dataclass(frozen=True)
class Recipe:
    """Epochs and rates. `sparse` epochs carry the method's penalty, the `recovery` epochs after them do not."""

    plain: int = 30
    sparse: int = 15
    recovery: int = 15
    plain_lr: float = 2e-3
    sparse_lr: float = 1e-3
    batch_size: int = 32
    budget: float = 0.0025
    """Accuracy that the threshold search may cost, on augmented validation data."""
    options: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"l1": {"strength": 1e-6}, "star": {"strength": 1e-5, "quantile": 0.5}}
    )
    """Options by method; `strength` is multiplied with the cost of each activation."""


@dataclass(frozen=True)
class Task:
    """An example: a network factory, its data, and what its activations cost."""

    name: str
    summary: str
    build: Callable[[], nn.Module]
    data: Callable[[], Split]
    augment: Transform
    costs: Mapping[str, float]
    """Cycles that one non-zero activation costs, by module path of its activation: taps x groups of output channels."""
    recipe: Recipe


TASKS: dict[str, Task] = {}
"""Every task by name."""
