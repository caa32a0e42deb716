"""What a study is to run: its settings, which all of its workers share, and its points."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sordino_hw.spec.arch import preset
from sordino_hw.spec.errors import InputError

from ...sparsity.cost import COSTS
from .ladders import ladder
from .tasks import STUDY_TASKS

__all__ = ["Point", "Settings", "points"]


@dataclass(frozen=True, order=True)
class Point:
    """One trial: a method at a strength, the weights of its penalties, and a seed."""

    method: str
    strength: float
    cost: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} x {self.strength:g}, {self.cost}, seed {self.seed}"


@dataclass(frozen=True)
class Settings:
    """What every trial of a study has in common. Raises `InputError` for values out of range."""

    task: str = "digits-wide"
    arch: str = "ulx3s-85f"
    plain_epochs: int = 12
    sparse_epochs: int = 16
    batch_size: int = 64
    train_images: int | None = None
    """Training images (or clips), the first ones; None for all."""
    timing_images: int = 64
    """Test images (of a clip: frames) whose cycles are counted."""
    budget: float = 0.01
    """Accuracy on validation data that a method may lose against plain ReLU at the strength that the table shows."""
    every: int = 2
    """Epochs from one measurement of cycles per event to the next, with cost "cycles"."""
    share: float = 0.25
    """Share of the activations that this measurement removes (`sordino.cost`)."""

    def __post_init__(self) -> None:
        if self.task not in STUDY_TASKS:
            raise InputError(f"study: unknown task {self.task!r}: there are {', '.join(STUDY_TASKS)}")
        preset(self.arch)
        for name in ("plain_epochs", "sparse_epochs", "batch_size", "timing_images", "every"):
            if getattr(self, name) < 1:
                raise InputError(f"study: {name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 < self.share <= 1:
            raise InputError(f"study: share must be above 0 and at most 1, not {self.share!r}")
        if self.train_images is not None and self.train_images < 16:
            raise InputError(f"study: train_images must be at least 16, not {self.train_images!r}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def points(methods: Iterable[str], strengths: Iterable[float], costs: Iterable[str], seeds: Iterable[int]) -> list[Point]:
    """Every combination, seeds innermost. Plain ReLU has neither strength nor cost, and is always there; a threshold or a
    rate without penalty has no cost. Raises `InputError` for an unknown name or a strength that is not positive."""
    found, seeds, strengths, costs = [], list(seeds), list(strengths), list(costs)
    for cost in costs:
        if cost not in COSTS:
            raise InputError(f"study: unknown cost {cost!r}: there are {', '.join(COSTS)}")
    if not seeds or not strengths or not costs:
        raise InputError("study: at least one strength, one cost and one seed are needed")
    for method in dict.fromkeys(("relu", *methods)):
        for strength in strengths if method != "relu" else (1.0,):
            ladder(method, strength)
            for cost in costs if method not in ("relu", "fatrelu", "wta") else ("uniform",):
                found += [Point(method, float(strength), cost, seed) for seed in seeds]
    return found
