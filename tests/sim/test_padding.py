"""Padding by values, of channels and negative, and concatenation along every dimension: integers, golden model and RTL."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agreement import assert_agreement
from random_layers import ARCHS
from sordino import compare
from sordino.quantization import layerwise, quantize
from sordino_compiler.capture import capture
from sordino_compiler.driver import compile_graph
from sordino_compiler.edges import cut_at
from sordino_compiler.inspection import provisional_graph
from sordino_hw.spec.errors import CompileError
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)
INF = float("inf")


class Net(nn.Module):
    """A convolution, a ReLU, and a function of its output."""

    def __init__(self, function, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel, padding=kernel // 2)
        self.function = function

    def forward(self, x):
        return self.function(F.relu(self.conv(x)))


def mean(y):
    return F.avg_pool2d(y, 2)


def largest(y):
    return F.max_pool2d(y, 2)


def square(y):
    """Both poolings side by side, and below them the other way round."""
    return torch.cat([torch.cat([mean(y), largest(y)], 3), torch.cat([largest(y), mean(y)], 3)], 2)


def channels(y, *values):
    return torch.tensor(values).view(1, -1, 1, 1).expand(y.shape[0], -1, *y.shape[2:])


MODELS = {
    "a value": lambda y: F.pad(y, (1, 0, 2, 1), value=0.3),
    "a negative value": lambda y: mean(F.pad(y, (0, 1, 0, 1), value=-1.0)),
    "a value, table behind": lambda y: F.silu(F.pad(largest(y), (0, 1, 0, 1), value=-0.5)),
    "a value of a length": lambda y: F.pad(y.mean(2), (1, 2), value=0.1),
    "below all, for a maximum": lambda y: largest(F.pad(y, (0, 1, 0, 1), value=-1e4)),
    "below all, relu behind": lambda y: F.relu(largest(F.pad(y - 0.1, (0, 1, 0, 1), value=-INF))),
    "below all, padded again": lambda y: F.max_pool2d(F.pad(y, (0, 1, 0, 1), value=-INF), 3, 2, 1, return_indices=True)[0],
    "below all, of a length": lambda y: F.max_pool1d(F.pad(y.mean(2), (0, 1), value=-INF), 3, 2, 1),
    "windows in a value alone": lambda y: largest(F.pad(y, (2, 2, 2, 2), value=-1.0)),
    "reflected": lambda y: mean(F.pad(y, (1, 2, 3, 1), mode="reflect")),
    "replicated": lambda y: F.pad(y, (2, 3, 1, 3), mode="replicate"),
    "around": lambda y: F.pad(y, (3, 2, 2, 0), mode="circular"),
    "around a length": lambda y: F.pad(y.mean(2), (3, 2), mode="circular"),
    "a convolution's mode": lambda y: F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), torch.full((8, 1, 3, 3), 1 / 9), groups=8),
    "channels": lambda y: F.pad(y, (0, 0, 0, 0, 2, 3)),
    "channels and edges": lambda y: F.pad(y, (1, 2, 0, 1, 2, 3)),
    "fewer channels": lambda y: F.pad(y, (0, 0, 0, 0, -2, 1)),
    "cropped": lambda y: F.pad(y, (-1, -1, -2, -1)),
    "cropped and padded": lambda y: F.pad(y, (-1, 1, 2, -3)),
    "cropped, then padded by a convolution": lambda y: F.conv2d(
        F.pad(y, (-1, -1, -1, -1)), torch.full((8, 1, 3, 3), 1 / 9), padding=1, groups=8
    ),
    "rows": lambda y: torch.cat([F.relu(y - 0.1), F.max_pool2d(y, 3, 1, 1)], 2),
    "columns": lambda y: torch.cat([mean(y), largest(y), mean(y) * 2], 3),
    "columns of a length": lambda y: torch.cat([y.mean(2), y.amax(2)], 2),
    "the same twice": lambda y: torch.cat([y, y], 2),
    "rows of columns": square,
    "channels of rows": lambda y: torch.cat([torch.cat([mean(y), largest(y)], 2), F.interpolate(y.mean((2, 3), keepdim=True), (8, 4))], 1),
    "rows, read by a pooling": lambda y: F.avg_pool2d(square(y), 3, 2, 1),
    "zeros": lambda y: torch.cat([y, torch.zeros(y.shape[0], 3, 8, 9)], 1),
    "ones": lambda y: torch.cat([torch.ones_like(y), y], 1),
    "constants": lambda y: torch.cat([y, channels(y, 0.1, 0.2)], 1),
    "hstack": lambda y: torch.hstack([y, F.max_pool2d(y, 3, 1, 1)]),
    "sum of a stack": lambda y: torch.stack([y, F.max_pool2d(y, 3, 1, 1)]).sum(0),
    "mean of a stack": lambda y: torch.stack([y, F.max_pool2d(y, 3, 1, 1), F.avg_pool2d(y, 3, 1, 1)], 1).mean(1),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_on_integers(name):
    torch.manual_seed(len(name))
    model, x, test = Net(MODELS[name]), torch.rand(24, 3, 8, 9) * 2 - 0.7, torch.rand(6, 3, 8, 9) * 2 - 0.7
    q = quantize(model, x, "ulx3s-85f")
    rows = layerwise(q, test)
    # A factor's relative error of up to 2**-10 (`NARROW_ERROR`) moves a quarter of the roundings at most.
    assert max(r.largest for r in rows) <= 1 and max(r.share for r in rows) <= 0.25
    found = compare(model, q, test)
    assert found, found.fault
    assert (model.eval()(test) - q(test)).abs().mean() < 3 * q.outputs[0].scale
    (output,), inputs = q.graph.outputs, q.quantise_inputs(test)
    np.testing.assert_array_equal(Golden(compile_graph(q.graph)).run(inputs).outputs[output], q.graph.run(inputs)[output])


class Edges(nn.Module):
    """Every kind of padding and concatenation, of inputs."""

    def forward(self, x):
        y = square(x)
        return (
            F.pad(x, (1, 0, 2, 1), value=3.0),
            F.pad(x, (1, 0, 0, 1, 3, 4)),
            F.pad(x, (2, 1, 0, 2), mode="reflect"),
            F.pad(x, (3, 1, 2, 2), mode="replicate"),
            F.pad(x, (1, 3, 2, 0), mode="circular"),
            largest(F.pad(x, (0, 1, 0, 1), value=-INF)),
            y,
            torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(y, 2)], 1),
            torch.cat([x, x], 2),
        )


@pytest.mark.parametrize("arch", [ARCHS[1], pytest.param(ARCHS[4], marks=pytest.mark.slow)], ids=["one core", "several"])
def test_on_the_rtl(arch):
    example = torch.zeros(1, 5, 6, 8)
    # Nothing is left to the host, which would run what reads an input.
    cut = cut_at(capture(Edges(), example), (), ())
    graph = provisional_graph(Edges(), example, arch, cut)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (2, 5, 6, 8)) * (rng.random((2, 5, 6, 8)) < 0.6)
    assert_agreement(compile_graph(graph, reuse=False), graph, {"x": x}, "padding and concatenation")
    found = graph.run({"x": x})
    want = dict(zip((n.name for n in cut.returned), Edges()(torch.tensor(x, dtype=torch.float64)), strict=True))
    assert want.keys() == set(graph.outputs)
    for name, real in want.items():
        assert np.abs(found[name] - real.numpy()).max() <= 1, name


@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.sampled_from(["constant", "value", "reflect", "replicate", "circular"]),
    st.integers(4, 6),
    st.integers(4, 6),
)
@settings(max_examples=8, deadline=None)
def test_padding_at_random(pads, mode, h, w):
    class Pad(nn.Module):
        def forward(self, x):
            if mode == "value":
                return F.pad(x, pads[:4], value=7.0)
            return F.pad(x, pads if mode == "constant" else pads[:4], mode)

    x = torch.randint(0, 100, (2, 3, h, w), generator=torch.Generator().manual_seed(h * w))
    graph = provisional_graph(Pad(), torch.zeros(1, 3, h, w), "ulx3s-85f")
    np.testing.assert_array_equal(graph.run({"x": x.numpy()})[graph.outputs[0]], Pad()(x.double()).numpy())


REFUSED = {
    "infinite": (
        lambda y: mean(F.pad(y, (0, 1, 0, 1), value=-INF)),
        lambda y: mean(F.pad(y, (0, 1, 0, 1), value=-1.0)),
        r"aten\.constant_pad_nd .* Use the least value that occurs, .* Found: value -inf\.",
    ),
    "channels of a value": (
        lambda y: F.pad(y, (0, 0, 0, 0, 1, 1), value=2.0),
        lambda y: F.pad(y, (0, 0, 0, 0, 1, 1)) + torch.tensor([2.0, *[0.0] * 8, 2.0]).view(1, 10, 1, 1),
        r"aten\.constant_pad_nd .* Pad by 0, and add a constant with one value per channel\. Found: value 2\.0\.",
    ),
    "the batch": (
        lambda y: torch.cat([y, y], 0),
        lambda y: (y, y * 2),  # `behind` adds them
        r"aten\.cat .* Return the parts as outputs of their own, .* Found: dim=0\.",
    ),
}


def behind(y):
    """A large layer behind a value, or the sum of two: what stands before it cannot be left to the host."""
    y = y if isinstance(y, torch.Tensor) else y[0] + y[1]
    weight = torch.ones(256, y.shape[1], *(1 for _ in y.shape[2:]))
    return (F.linear, F.conv1d, F.conv2d)[y.dim() - 2](y, weight)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_its_remedy(name):
    refused, remedy, message = REFUSED[name]
    x = torch.rand(1, 3, 8, 9)
    with pytest.raises(CompileError, match=message):
        provisional_graph(Net(lambda y: behind(refused(y)), 1), x, "ulx3s-85f")
    compile_graph(provisional_graph(Net(lambda y: behind(remedy(y)), 1), x, "ulx3s-85f"))


def test_coordinates_are_a_further_input():
    """A constant that changes from pixel to pixel is refused; as an input it compiles."""

    class Coordinates(nn.Module):
        def __init__(self, given):
            super().__init__()
            self.conv, self.given = nn.Conv2d(5, 4, 3), given

        def forward(self, x, at=None):
            at = at if self.given else torch.linspace(-1, 1, 8).view(1, 1, 1, 8).expand(x.shape[0], 2, 8, 8)
            return self.conv(torch.cat([x, at], 1))

    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(CompileError, match=r"aten\.cat .* as a further input of the model\. Found: 1 constant parts along dim=1\."):
        provisional_graph(Coordinates(False), x, "ulx3s-85f")
    compile_graph(provisional_graph(Coordinates(True), (x, torch.rand(1, 2, 8, 8)), "ulx3s-85f"))
