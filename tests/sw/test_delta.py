"""Delta inference on the integer graph: exact without thresholds, and its counts."""

import numpy as np
import pytest
import torch
from torch import nn

import sordino as sd
from sordino.experiments.study.delta import delta_run


@pytest.fixture(scope="module")
def quantised():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    return sd.quantize(model.eval(), torch.rand(16, 1, 8, 8))


def clips_of(quantised, x):
    return {n: v.reshape(*x.shape[:2], *v.shape[1:]) for n, v in quantised.quantise_inputs(x.flatten(0, 1)).items()}


def test_differences_add_up_to_what_whole_frames_give(quantised):
    x = torch.rand(3, 5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    x[:, 2] = x[:, 1]
    inputs = clips_of(quantised, x)
    found = delta_run(quantised.graph, inputs)
    wanted = quantised.graph.run({n: v.reshape(-1, *v.shape[2:]) for n, v in inputs.items()})
    for name, y in found.outputs.items():
        assert np.array_equal(y.reshape(-1, *y.shape[2:]), wanted[name])


def test_events_and_products_are_counted_by_hand(quantised):
    """One pixel in a corner changes once: its window positions times the filters, and nothing later if nothing changes."""
    x = torch.zeros(1, 4, 1, 8, 8)
    x[:, 2:, 0, 0, 0] = 1.0
    found = delta_run(quantised.graph, clips_of(quantised, x))
    first = next(iter(found.layers.values()))
    assert (first.plain, first.first, first.later) == (0.5, 0.0, 1 / 3)
    assert first.products == (0.5 * 6, 0.0, 6 / 3)  # stride 2, padding 1: a corner pixel is in one window
    x[:] = 0.5
    still = delta_run(quantised.graph, clips_of(quantised, x))
    assert all(e.later == 0 and e.first == e.plain for e in still.layers.values())
    totals = still.totals()
    assert totals["later_events"] == 0 and totals["delta_events"] == pytest.approx(totals["plain_events"] / 4)


def test_a_threshold_sends_when_the_change_since_the_last_sending_reaches_it(quantised):
    name = quantised.inputs[0].name
    x = np.zeros((1, 5, 1, 8, 8), np.int64)
    x[0, :, 0, 3, 3] = [10, 12, 13, 14, 10]
    found = delta_run(quantised.graph, {name: x}, {name: 4})
    held = x.copy()
    held[0, :, 0, 3, 3] = [10, 10, 10, 14, 10]
    wanted = quantised.graph.run({name: held[0]})
    for output, y in found.outputs.items():
        assert np.array_equal(y[0], wanted[output])
    assert next(iter(found.layers.values())).later == pytest.approx(2 / 4)


def test_what_is_refused(quantised):
    name = quantised.inputs[0].name
    x = np.zeros((1, 2, 1, 8, 8), np.int64)
    for thresholds in ({name: 0}, {"nothing": 2}):
        with pytest.raises(sd.InputError, match="threshold"):
            delta_run(quantised.graph, {name: x}, thresholds)
    with pytest.raises(sd.InputError, match="as many clips and frames"):
        delta_run(quantised.graph, {name: x[0]})
