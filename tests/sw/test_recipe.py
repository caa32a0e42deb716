"""The recipe that tasks and studies share: which phases a method gets, and when thresholds are searched."""

import pytest
import torch
from torch import nn

import sordino as sd
from sordino.experiments.recipe import Phase, Search, train_sparse


def network(method: str) -> nn.Module:
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return sd.sparsify(plain, method, calibration=torch.rand(16, 4) - 0.5)


@pytest.mark.parametrize(
    ("method", "rest", "expected"),
    [
        ("l1", 0.0, [Phase("sparse", 9, 1.0)]),
        ("l1", 0.25, [Phase("sparse", 6, 1.0), Phase("recovery", 3, 0.25)]),
        ("star", 0.0, [Phase("sparse", 6, 1.0), Phase("recovery", 3, 0.0)]),
    ],
    ids=["zeros need the penalty", "part of the penalty stays", "zeros stay"],
)
def test_phases(method, rest, expected):
    seen, model, searched = [], network(method), []

    def search() -> Search:
        searched.append(len(seen))  # thresholds are searched once the training is done
        return Search(torch.rand(16, 4) - 0.5, lambda m: 1.0, 2.0, {})

    train_sparse(model, seen.append, 6, 3, search, rest=rest)
    assert seen == expected and searched == ([len(seen)] if method == "star" else [])


def test_thresholds_rise_as_far_as_the_score_allows():
    x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    for floor, raised in ((0.5, True), (1.5, False)):
        torch.manual_seed(0)
        model = network("star")
        before = model[1].threshold.clone()
        train_sparse(model, lambda phase: None, 1, 1, lambda floor=floor: Search(x, lambda m: 1.0, floor, {"1": 2.0}))
        assert bool((model[1].threshold > before).any()) is raised
