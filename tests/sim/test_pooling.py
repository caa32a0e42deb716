"""Pooling and reductions of every form: windows and divisors against PyTorch, then integers, golden model and RTL."""

from itertools import product

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
from sordino_compiler.driver import compile_graph
from sordino_compiler.graph import Window
from sordino_compiler.inspection import provisional_graph
from sordino_compiler.ops.average import pooled
from sordino_compiler.ops.regions import Reach, Regions, adaptive, span_window, spans
from sordino_hw.spec.errors import CompileError
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)


class Pool(nn.Module):
    """A convolution, a ReLU, and a function of its output."""

    def __init__(self, function, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel, padding=kernel // 2)
        self.function = function

    def forward(self, x):
        return self.function(F.relu(self.conv(x)))


# -- windows and divisors --------------------------------------------------------------------------------------------

axis = st.integers(1, 13)


def place(out: np.ndarray, row, column, values: np.ndarray) -> None:
    values = values.repeat(row.repeat, 2).repeat(column.repeat, 3)
    assert np.isnan(out[:, :, row.outputs][..., column.outputs]).all(), "an output is made twice"
    out[
        :,
        :,
        row.outputs.start : row.outputs.stop : row.outputs.step,
        column.outputs.start : column.outputs.stop : column.outputs.step,
    ] = values


@given(st.data(), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_average_windows_are_those_of_pytorch(data, ceil, counts):
    """Sizes, kernels, strides, padding, ceil_mode and count_include_pad at random."""
    sizes = [data.draw(axis) for _ in range(2)]
    kernel = [data.draw(st.integers(1, 5)) for _ in range(2)]
    stride = [data.draw(st.integers(1, 4)) for _ in range(2)]
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    kernel = [min(k, n + 2 * p) for k, n, p in zip(kernel, sizes, padding, strict=True)]
    padding = [min(p, k // 2) for p, k in zip(padding, kernel, strict=True)]
    x = torch.rand(1, 2, *sizes, dtype=torch.float64)
    if any(n + 2 * p < k for n, p, k in zip(sizes, padding, kernel, strict=True)):
        return
    want = F.avg_pool2d(x, kernel, stride, padding, ceil, counts).numpy()
    rows, columns = (
        pooled(out, n, k, s, (p, p), counts) for out, n, k, s, p in zip(want.shape[2:], sizes, kernel, stride, padding, strict=True)
    )
    out = np.full(want.shape, np.nan)
    for r, c in product(rows, columns):
        window = span_window(r, c, tuple(sizes))
        assert window.out_size(*sizes) == (len(r.outputs), len(c.outputs))
        place(out, r, c, window.patches(x.numpy()).sum((4, 5)) / (r.divisor * c.divisor))
    np.testing.assert_allclose(out, want, rtol=1e-12)


@given(st.tuples(axis, axis), st.tuples(axis, axis))
@settings(max_examples=100, deadline=None)
def test_adaptive_windows_are_those_of_pytorch(sizes, outputs):
    x = torch.rand(1, 2, *sizes, dtype=torch.float64)
    for repeats, want in ((True, F.adaptive_avg_pool2d(x, outputs)), (False, F.adaptive_max_pool2d(x, outputs))):
        out = np.full(want.shape, np.nan)
        rows, columns = (adaptive(o, n, repeats) for o, n in zip(outputs, sizes, strict=True))
        for r, c in product(rows, columns):
            patches = span_window(r, c, sizes).patches(x.numpy())
            place(out, r, c, patches.mean((4, 5)) if repeats else patches.max((4, 5)))
        np.testing.assert_allclose(out, want.numpy(), rtol=1e-12)


def test_few_regions_for_sizes_that_do_not_divide():
    assert len(adaptive(6, 13, repeats=True)) == 1, "three taps, two apart"
    assert len(adaptive(7, 1, repeats=True)) == 1, "one input, repeated"
    assert len(adaptive(7, 4, repeats=True)) == 2, "every second output reads one input, the others two"
    assert max(len(adaptive(o, n, repeats=True)) for n, o in ((512, 300), (1000, 617), (97, 41))) < 32
    assert spans([Reach(i, 3) for i in range(5)])[0].outputs == range(5)


@given(st.tuples(axis, axis), st.integers(1, 4), st.integers(1, 3), st.integers(-2, 3), st.integers(-2, 3))
@settings(max_examples=100, deadline=None)
def test_products_of_a_window_count_its_patches(size, kernel, stride, before, after):
    window = Window((kernel, kernel), (stride, stride), (before, after, after, before))
    if min(n + before + after for n in size) < kernel or min(n + min(before, 0) + min(after, 0) for n in size) < 1:
        return
    pixels = np.arange(1, size[0] * size[1] + 1).reshape(1, 1, *size)
    read = window.patches(pixels).ravel()
    want = np.bincount(read, minlength=pixels.size + 1)[1:].reshape(size)
    np.testing.assert_array_equal(window.products(*size), want)


# -- integers --------------------------------------------------------------------------------------------------------

MODELS = {
    "padding that does not count": lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
    "average over the edge": lambda y: F.avg_pool2d(y, 3, 2, ceil_mode=True),
    "average over the edge, all at once": lambda y: F.avg_pool2d(y, (3, 2), (2, 3), (1, 0), True, False),
    "divisor": lambda y: F.avg_pool2d(y, 2, divisor_override=3),
    "table behind regions": lambda y: F.silu(F.avg_pool2d(y - 0.3, 3, 2, 1, count_include_pad=False)),
    "constants behind regions": lambda y: F.avg_pool2d(y, 2, ceil_mode=True) * 0.7 + 0.2,
    "average in one dimension": lambda y: F.avg_pool1d(y.mean(2), 3, 2, 1, True, False),
    "adaptive average": lambda y: F.adaptive_avg_pool2d(y, (3, 7)),
    "adaptive average, larger": lambda y: F.adaptive_avg_pool2d(F.max_pool2d(y, 4), (5, 3)),
    "adaptive average of many regions": lambda y: F.adaptive_avg_pool2d(F.interpolate(y, scale_factor=2), (13, 11)),
    "adaptive maximum of many regions": lambda y: F.adaptive_max_pool2d(F.interpolate(y, scale_factor=2), (13, 11)),
    "adaptive maximum": lambda y: F.adaptive_max_pool2d(y, (3, 5)),
    "adaptive maximum, relu behind": lambda y: F.relu(F.adaptive_max_pool2d(y - 0.1, 1)),
    "maximum with places unread": lambda y: F.max_pool2d(y, 2, return_indices=True)[0],
    "amax": lambda y: y.amax((2, 3)),
    "amin": lambda y: (0.2 - y).amin((2, 3), keepdim=True),
    "max of rows": lambda y: y.max(2, keepdim=True).values,
    "min of rows": lambda y: y.min(2).values,
    "mean of columns": lambda y: y.mean(3, keepdim=True),
    "mean of rows": lambda y: torch.mean(y, 2),
    "sum": lambda y: y.sum((2, 3)),
    "mean of channels": lambda y: y.mean(1, keepdim=True),
    "maximum of channels": lambda y: y.amax(1, keepdim=True),
    "minimum of all": lambda y: (0.5 - y[:, :7]).amin((1, 2, 3), keepdim=True),
    "maximum of a stack": lambda y: torch.stack([y, F.avg_pool2d(y, 3, 1, 1)]).max(0).values,
    "mean of columns, dropped": lambda y: y.mean(3),
    "mean and mean": lambda y: y.mean(-1).mean(-1)[:, :, None, None],
    "sum of channels, dropped": lambda y: y.sum(1),
    "mean behind a reshape": lambda y: y.flatten(2).mean(-1),
    "maximum of two channels": lambda y: y.view(y.shape[0], 4, 2, 8, 9).max(2)[0],
    "mean of groups": lambda y: y.view(y.shape[0], 4, 2, 8, 9).mean(2, keepdim=True).flatten(1, 2),
    "mean of groups and pixels": lambda y: y.view(y.shape[0], 4, 2, 8, 9).mean((2, 3, 4)),
    "mean in groups": lambda y: y.view(y.shape[0], 4, 2, 8, 9).mean((3, 4)).flatten(1),
    "sum of a stack of channels": lambda y: torch.stack([y, y * 2], 2).sum(2),
    "larger of two": lambda y: torch.max(y, F.avg_pool2d(y, 3, 1, 1)),
    "larger than a number": lambda y: torch.max(y, torch.tensor(0.2)),
    "sum of all": lambda y: y.sum((1, 2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_pooling_on_integers(name):
    torch.manual_seed(len(name))
    model, x, test = Pool(MODELS[name]), torch.rand(24, 3, 8, 9) * 2 - 0.7, torch.rand(6, 3, 8, 9) * 2 - 0.7
    q = quantize(model, x, "ulx3s-85f")
    rows = layerwise(q, test)
    assert max(r.largest for r in rows) <= 1 and max(r.share for r in rows) < 0.2
    found = compare(model, q, test)
    assert found, found.fault
    assert (model.eval()(test) - q(test)).abs().mean() < 3 * q.outputs[0].scale
    (output,), inputs = q.graph.outputs, q.quantise_inputs(test)
    np.testing.assert_array_equal(Golden(compile_graph(q.graph)).run(inputs).outputs[output], q.graph.run(inputs)[output])


class Pools(nn.Module):
    """Every kind of pooling that becomes regions, of one input."""

    def forward(self, x):
        return (
            F.avg_pool2d(x, 3, 2, 1, True, False),
            F.adaptive_avg_pool2d(x, (9, 4)),
            F.adaptive_max_pool2d(x, (4, 5)),
            F.adaptive_avg_pool2d(F.max_pool2d(x, 5), (3, 6)),
        )


@pytest.mark.parametrize("arch", [ARCHS[1], pytest.param(ARCHS[4], marks=pytest.mark.slow)], ids=["one core", "several"])
def test_regions_on_the_rtl(arch):
    graph = provisional_graph(Pools(), torch.zeros(1, 5, 7, 8), arch)
    assert all(isinstance(n, Regions) for n in graph.nodes if n.out.name in graph.outputs[:3])
    rng = np.random.default_rng(0)
    inputs = {"x": rng.integers(0, 100, (2, 5, 7, 8)) * (rng.random((2, 5, 7, 8)) < 0.6)}
    assert_agreement(compile_graph(graph, reuse=False), graph, inputs, "pooling by regions")


def test_a_mean_and_a_maximum_of_a_long_signal():
    """Longer than a kernel's 255 columns: partial sums for the mean, two poolings for the maximum."""

    class Long(nn.Module):
        def forward(self, x):
            return x.mean(2), x.amax(2)

    graph = provisional_graph(Long(), torch.zeros(1, 4, 1000), "ulx3s-85f")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 101, (1, 4, 1, 1000))
    found = graph.run({"x": x})
    assert abs(found[graph.outputs[0]].ravel() - x.mean(3).ravel()).max() <= 0.5
    np.testing.assert_array_equal(found[graph.outputs[1]].ravel(), x.max(3).ravel())
    compile_graph(graph)


# -- refusals, and what they say to do -------------------------------------------------------------------------------


def both(y):
    return F.max_pool2d(y, 2, return_indices=True)


REFUSED = {
    "places": (both, lambda y: F.max_pool2d(y, 2), r"aten\.max_pool2d_with_indices .* Use return_indices=False; .*"),
    "places, upsampled": (both, lambda y: F.interpolate(F.max_pool2d(y, 2), scale_factor=2), r".* for unpooling use nn\.Upsample, .*"),
    "mean of the batch": (lambda y: y.mean(0), lambda y: y.mean((2, 3)), r".*not over the batch\. Name the dimensions: dim=\(2, 3\)\..*"),
    "place of a maximum": (lambda y: y.max(2), lambda y: y.amax(dim=(2, 3)), r"aten\.max .* Use x\.amax\(dim=\(2, 3\)\), .*"),
    "negative divisor": (
        lambda y: F.avg_pool2d(y, 2, divisor_override=-2),
        lambda y: -F.avg_pool2d(y, 2, divisor_override=2),
        r".*is positive\. Negate behind the pooling\. Found: divisor_override=-2\.",
    ),
    "huge adaptive window": (
        lambda y: F.adaptive_max_pool2d(F.interpolate(y.mean(3, keepdim=True), scale_factor=(40, 2)), 1),
        lambda y: F.adaptive_max_pool2d(F.max_pool2d(F.interpolate(y.mean(3, keepdim=True), scale_factor=(40, 2)), 2), 1),
        r"sordino\.adaptive_max_pool .* Put nn\.MaxPool2d\(2\) in front of it\. Found: windows of 320x2\.",
    ),
    "variance": (
        lambda y: y.var((2, 3)),
        lambda y: y.square().mean((2, 3)) - y.mean((2, 3)).square(),
        r"aten\.var .* x\.square\(\)\.mean\(d\) - x\.mean\(d\)\.square\(\) .*",
    ),
    "standard deviation": (
        lambda y: y.std((2, 3)),
        lambda y: y.square().mean((2, 3)) - y.mean((2, 3)).square(),
        r"aten\.std .* x\.square\(\)\.mean\(d\) - x\.mean\(d\)\.square\(\) .*",
    ),
    "norm": (lambda y: y.norm(dim=1), lambda y: y.square().sum(1, keepdim=True), r"aten\.linalg_vector_norm .* x\.square\(\)\.sum\(d, keepdim=True\), .*"),
    "median": (lambda y: y.median(2)[0], lambda y: y.mean(2), r"aten\.median .* mean or a maximum.*"),
}  # fmt: skip


def behind(y):
    """A large layer behind a value, or the sum of two: what stands before it cannot be left to the host."""
    y = y if isinstance(y, torch.Tensor) else y[0] + y[1]
    weight = torch.ones(256, y.shape[1], *(1 for _ in y.shape[2:]))
    return (F.linear, F.conv1d, F.conv2d)[y.dim() - 2](y, weight)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_pooling_and_its_remedy(name):
    refused, remedy, message = REFUSED[name]
    x = torch.rand(1, 3, 8, 9)
    with pytest.raises(CompileError, match=message) as error:
        provisional_graph(Pool(lambda y: behind(refused(y)), 1), x, "ulx3s-85f")
    assert name == "mean of the batch" or not str(error.value).startswith(("2 ", "3 ")), (
        "the results of one operator are not refused again"
    )
    compile_graph(provisional_graph(Pool(lambda y: behind(remedy(y)), 1), x, "ulx3s-85f"))
