"""Random functions of one value: however they are composed, they are one table, and it holds the function."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sordino_compiler.capture import capture
from sordino_compiler.driver import compile_graph
from sordino_compiler.inspection import provisional_graph
from sordino_compiler.ops.functions import find_functions
from sordino_hw.spec.errors import CompileError
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)

UNARY = (
    torch.abs, torch.exp, torch.sin, torch.tanh, torch.floor, torch.neg, torch.sigmoid, F.relu, F.relu6, F.elu, F.gelu, F.softsign,
    F.mish, F.logsigmoid, lambda v: v**2, lambda v: v.clamp(-1, 0.5), lambda v: 1 - v, lambda v: 0.3 * v, lambda v: torch.sqrt(v.abs()),
    lambda v: (v + 2) / 3,
)  # fmt: skip
BINARY = (
    torch.add, torch.mul, torch.sub, torch.maximum, torch.minimum, lambda a, b: torch.where(a > 0.1, a, b),
    lambda a, b: (b < 0).float() * a, lambda a, b: torch.add(a, b, alpha=0.5), lambda a, b: a / (b.abs() + 1),
)  # fmt: skip
TREES = st.recursive(
    st.just(lambda v: v),
    lambda inner: (
        st.builds(lambda f, a: lambda v: f(a(v)), st.sampled_from(UNARY), inner)
        | st.builds(lambda f, a, b: lambda v: f(a(v), b(v)), st.sampled_from(BINARY), inner, inner)
    ),
    max_leaves=5,
)


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.c, self.d = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1)
        self.function = function

    def forward(self, x):
        return self.d(self.function(self.c(x)))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_any_composition_is_one_table(inner):
    def function(v):
        return torch.sin(inner(v))  # neither a clamp nor linear

    model, x = Net(function).eval(), torch.zeros(1, 2, 2, 3)
    module = capture(model, x)
    functions, inside = find_functions(module)
    ((end, f),) = functions.items()
    assert f.nodes[-1] is end and inside == set(f.nodes[:-1])
    graph = provisional_graph(model, x, "ulx3s-85f")
    assert [n.label for n in graph.nodes] == ["input", "conv", "conv"]
    node = graph.nodes[1]
    index = torch.arange(node.requant.lo, node.requant.hi + 1, dtype=torch.float32)
    expected = function(index).nan_to_num(0).round().clamp(*graph.arch.act_range(node.out.signed)).numpy()
    table = node.requant.table[128 + node.requant.lo : 129 + node.requant.hi]
    assert np.abs(table - expected).max() <= 1 and np.mean(table != expected) < 0.05
    inputs = {"x": np.random.default_rng(0).integers(*graph.arch.act_range(False), (2, 2, 2, 3)).astype(np.int16)}
    found = Golden(compile_graph(graph)).run(inputs).outputs
    assert all(np.array_equal(found[name], graph.run(inputs)[name]) for name in graph.outputs)


def labels(function) -> list[str]:
    return [n.label for n in provisional_graph(Net(function), torch.zeros(1, 2, 2, 3), "ulx3s-85f").nodes]


def test_what_has_an_operation_of_its_own_takes_no_table():
    for function in (
        F.relu,
        lambda v: v.clamp(-1, 2),
        lambda v: torch.maximum(v, torch.zeros(1)),
        lambda v: F.threshold(v, 0.1, 0),
    ):
        module = capture(Net(function).eval(), torch.zeros(1, 2, 2, 3))
        assert not find_functions(module)[0]
    assert labels(lambda v: 2 * v + v) == ["input", "conv", "affine", "add", "conv"]


def test_what_others_read_is_computed_once_for_them_and_again_inside_a_product():
    assert labels(lambda v: (g := torch.sigmoid(v)) * v + F.max_pool2d(g, 1)) == [
        "input", "conv", "activation", "activation", "maxpool", "add", "conv",
    ]  # fmt: skip


def test_random_numbers_are_in_no_table():
    with pytest.raises(CompileError, match=r"aten\.rand_like 'rand_like' .*: This operator is not supported"):
        labels(lambda v: torch.sin(torch.rand_like(v) * v))
