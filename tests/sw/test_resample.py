"""Linear and cubic resizing, from PyTorch to the RTL."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import assert_agreement
from random_layers import ARCHS
from sordino.quantization import layerwise, quantize
from sordino_compiler.driver import compile_graph
from sordino_compiler.ops.resample import Resample, fractions, taps
from sordino_hw.spec.arch import PRESETS
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)

SIZES = {
    "twice": {"scale_factor": 2, "mode": "bilinear"},
    "twice, aligned corners": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    "three times": {"scale_factor": 3, "mode": "bilinear"},
    "four times the height": {"scale_factor": (4, 1), "mode": "bilinear"},
    "to a size": {"size": (11, 7), "mode": "bilinear"},
    "to a size, aligned corners": {"size": (9, 8), "mode": "bilinear", "align_corners": True},
    "to half the size": {"scale_factor": 0.5, "mode": "bilinear"},
    "smoothed": {"size": (3, 4), "mode": "bilinear", "antialias": True},
    "cubic": {"scale_factor": 2, "mode": "bicubic"},
    "one dimension": {"scale_factor": 2, "mode": "linear"},
}


class Net(nn.Module):
    """Resizing between two layers."""

    def __init__(self, options, act=None):
        super().__init__()
        self.first, self.last, self.options, self.act = (
            nn.Conv2d(3, 9, 3, padding=1),
            nn.Conv2d(9, 4, 1),
            options,
            act or nn.Identity(),
        )

    def forward(self, x):
        y = F.relu(self.first(x))
        y = (
            F.interpolate(y.flatten(2), **self.options).unsqueeze(2)
            if self.options["mode"] == "linear"
            else F.interpolate(y, **self.options)
        )
        return self.last(self.act(y))


@pytest.mark.parametrize("name", SIZES)
def test_quantised(name):
    torch.manual_seed(len(name))
    model, x = Net(SIZES[name]), torch.randn(16, 3, 6, 5)
    q = quantize(model, x, "ulx3s-85f")
    kinds = [n.label for n in q.graph.nodes]
    assert kinds.count("resample") in (1, 2)
    rows = layerwise(q, x)
    # A mean of four often lies half-way between two integers, of which PyTorch takes the even one.
    assert max(row.largest for row in rows) <= 1 and max(row.share for row in rows) < (0.35 if name == "to half the size" else 0.2)
    real, found = model(x).detach(), q(x)
    assert 10 * torch.log10(real.square().mean() / (real - found).square().mean()) > 33
    inputs, program = q.quantise_inputs(x[:4]), compile_graph(q.graph)
    program.check()
    out = q.graph.outputs[0]
    np.testing.assert_array_equal(Golden(program).run(inputs).outputs[out], q.graph.run(inputs)[out])


def test_what_is_fused_behind_it():
    torch.manual_seed(0)
    x = torch.randn(16, 3, 6, 5)
    for act in (nn.ReLU6(), nn.SiLU()):
        q = quantize(Net(SIZES["twice"], act), x, "icebreaker")
        rows = layerwise(q, x)
        assert [n.label for n in q.graph.nodes].count("resample") == 1 and max(row.largest for row in rows) <= 1


@pytest.mark.parametrize("name", [pytest.param("twice", marks=pytest.mark.slow), "to a size, aligned corners"])
def test_on_the_gateware(name):
    torch.manual_seed(1)
    q = quantize(Net(SIZES[name]), torch.randn(8, 3, 6, 5), ARCHS[4])
    inputs = q.quantise_inputs(torch.randn(1, 3, 6, 5))
    for options in ({}, {"dense": True, "reuse": False}):
        assert_agreement(compile_graph(q.graph, **options), q.graph, inputs, f"{name}, {options}")


def test_weights_sum_up_to_their_denominator():
    rng = np.random.default_rng(0)
    for limit in (127, 16383):
        matrix = rng.dirichlet(np.ones(4), 7)
        integers, denominator = fractions(matrix, limit)
        assert denominator == limit and (integers.sum(1) == limit).all() and np.abs(integers / limit - matrix).max() <= 2 / limit
    integers, denominator = fractions(np.array([[0.25, 0.75, 0], [0, 0.5, 0.5]]), 127)
    assert denominator == 4 and integers.tolist() == [[1, 3, 0], [0, 2, 2]]


def test_taps_make_the_matrix_again():
    rng = np.random.default_rng(1)
    matrix = rng.integers(-3, 4, (9, 5)) * (rng.random((9, 5)) < 0.4)
    again = np.zeros_like(matrix)
    for t in taps(matrix):
        for i, y in enumerate(t.outputs):
            first = t.first + i * t.step
            again[y, first : first + len(t.weight)] = t.weight
    np.testing.assert_array_equal(again, matrix)


def test_it_is_refused_where_it_takes_too_many_operations():
    from sordino_hw.spec.errors import CompileError

    x = torch.randn(2, 1, 1, 300)
    net = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.Upsample(size=(1, 299), mode="bilinear", align_corners=True), nn.Conv2d(1, 1, 3, padding=1)
    )
    with pytest.raises(
        CompileError, match=r"Linear and cubic resizing takes at most 256 operations.* Found: 298 operations from 1x300 to 1x299\."
    ):
        quantize(net, x)
    net[1] = nn.Upsample(size=(1, 150), mode="bilinear")  # as the message advises: fewer pixels, by a whole factor
    assert compile_graph(quantize(net, x, PRESETS["ulx3s-85f"]).graph)


def test_rules_of_the_node():
    from sordino_compiler.graph import Requant, Value, Window

    arch, v = PRESETS["ulx3s-85f"], Value("x", (2, 3, 3), 1.0, True)
    good = {
        "out": Value("y", (2, 3, 3), 1.0, True),
        "inputs": ("x",),
        "window": Window((1, 1)),
        "requant": Requant.identity(2, arch, True),
    }
    assert not list(Resample(rows=np.eye(3, dtype=int), columns=np.eye(3, dtype=int), **good).problems([v], arch))
    for rows, columns in ((np.eye(3)[:2], np.eye(3)), (np.eye(3)[:, :2], np.eye(3)), (np.eye(3) * 128, np.eye(3))):
        assert list(Resample(rows=rows.astype(int), columns=columns.astype(int), **good).problems([v], arch))
