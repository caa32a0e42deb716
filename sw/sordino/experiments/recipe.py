"""The recipe of all sparse training: train with the penalty, recover accuracy without it, search for thresholds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..nn import STAR, SparseActivation, search_thresholds

__all__ = ["Phase", "Search", "train_sparse"]


@dataclass(frozen=True)
class Phase:
    """A part of the training."""

    name: str
    """`sparse` or `recovery`."""
    epochs: int
    penalty_weight: float
    """As in `train.fit`."""


@dataclass(frozen=True)
class Search:
    """Arguments of `nn.search_thresholds`."""

    x: Tensor
    score: Callable[[nn.Module], float]
    floor: float
    weights: Mapping[str, float]


def train_sparse(
    model: nn.Module,
    train: Callable[[Phase], None],
    sparse: int,
    recovery: int,
    search: Callable[[], Search] | None = None,
    *,
    rest: float = 0.0,
) -> None:
    """Trains a network whose activations are replaced already, in place.

    Parameters
    ----------
    train : trains the network for one phase
    sparse, recovery : epochs with the penalty, and after them
    search : makes the arguments of the search for thresholds; called only if the network has a layer of STAR. None: no search
    rest : the weight of the penalty during recovery. If it is 0 and the method does not keep its zeros without a penalty
        (`SparseActivation.keeps_zeros`), there is no recovery, and all epochs have the whole penalty.
    """
    keeps = all(m.keeps_zeros for m in model.modules() if isinstance(m, SparseActivation))
    if not (keeps or rest):
        sparse, recovery = sparse + recovery, 0
    train(Phase("sparse", sparse, 1.0))
    if recovery:
        train(Phase("recovery", recovery, rest))
    if search is not None and any(isinstance(m, STAR) for m in model.modules()):
        found = search()
        search_thresholds(model, found.x, found.score, found.floor, dict(found.weights))
