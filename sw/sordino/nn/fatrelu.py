"""FATReLU: a threshold without any training, and the sweep that chooses it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .base import density, layer_inputs, register
from .star import STAR

__all__ = ["FATReLU", "SweepPoint", "sweep_thresholds"]


@register("fatrelu", "ReLU with a threshold, chosen by a sweep, without training")
class FATReLU(STAR):
    """`y = x * 1[x >= T]` (T > 0), no penalty.

    Parameters
    ----------
    quantile : where `calibrate` puts T in the distribution of the layer's positive inputs, 0 (nothing cut) to 1
    per : "layer" (one T, shape []) or "channel" (one T a channel, shape [C])

    Needs no training: put it into a trained network and choose T by `sweep_thresholds` (one quantile for all layers) or
    `search_thresholds` (layer by layer, under an accuracy budget).

    Source: Kurtz et al., "Inducing and Exploiting Activation Sparsity for Fast Inference on Deep Neural Networks", ICML
    2020. Setting T through a quantile, and per channel, is ours.
    """

    def __init__(self, quantile: float = 0.3, per: str = "layer"):
        super().__init__(strength=0.0, quantile=quantile, per=per)

    def cost(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        return None

    def extra_repr(self) -> str:
        return f"quantile={self.quantile:g}, per={self.per!r}"


@dataclass(frozen=True)
class SweepPoint:
    """One quantile of a sweep, and what it came to."""

    quantile: float
    score: float
    density: float
    """Non-zero part of all activations on the calibration set."""


@torch.no_grad()
def sweep_thresholds(
    model: nn.Module,
    x: Tensor,
    score: Callable[[nn.Module], float],
    floor: float = float("-inf"),
    quantiles: Sequence[float] = tuple(q / 20 for q in range(20)),
) -> list[SweepPoint]:
    """Tries each quantile on all FATReLU layers of `model` at once; leaves the largest whose score is at least `floor`.

    Parameters
    ----------
    x : float tensor (N, ...), the calibration set; the quantiles are those of the layers' inputs before the sweep
    score : higher is better; on held-out data that is not the test set
    quantiles : each in [0, 1)

    Returns one point per quantile, in rising order. If none keeps the floor, the thresholds are left as they were.
    """
    layers = [m for m in model.modules() if isinstance(m, FATReLU)]
    before = [m.threshold for m in layers]
    for m in layers:
        m.threshold = torch.zeros_like(m.threshold)
    inputs = layer_inputs(model, x)
    points, best = [], before
    for q in sorted(quantiles):
        tried = [m.quantile_of(inputs[m], q) if m in inputs else t for m, t in zip(layers, before, strict=True)]
        for m, t in zip(layers, tried, strict=True):
            m.threshold = t
        counts = density(model, x).values()
        points.append(SweepPoint(q, score(model), sum(n for n, _ in counts) / max(1, sum(n for _, n in counts))))
        if points[-1].score >= floor:
            best = tried
    for m, t in zip(layers, best, strict=True):
        m.threshold = t
    return points
