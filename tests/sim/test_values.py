"""Functions of one value, sums and extrema of two, and constants per position: from PyTorch to the golden model, one of each kind to the RTL."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agreement import assert_agreement
from random_layers import ARCHS
from sordino import compare
from sordino.quantization import finish_qat, layerwise, prepare_qat, quantize
from sordino_compiler.driver import compile_graph
from sordino_compiler.graph import Graph, Input, Requant, Value, Window
from sordino_compiler.ops.extremum import Extremum
from sordino_compiler.ops.fused import Activation
from sordino_hw.spec.errors import CompileError
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)


class Net(nn.Module):
    """A convolution, a function of its output `y`, and a convolution; `s.q` is one number per channel, `s.p` one per value."""

    def __init__(self, function, one_dimensional: bool = False):
        super().__init__()
        conv = nn.Conv1d if one_dimensional else nn.Conv2d
        self.c, self.d = conv(3, 9, 3, padding=1), conv(9, 4, 1)
        self.function = function
        size = (5,) if one_dimensional else (6, 5)
        self.q = nn.Parameter(torch.linspace(0.5, 1.5, 9).view(9, *[1] * len(size)))
        self.p = nn.Parameter(torch.linspace(-0.7, 0.6, 9 * int(np.prod(size))).view(1, 9, *size))

    def forward(self, x):
        return self.function(self, self.c(x))


def then(f):
    return lambda s, y: s.d(f(y))


TABLES = {
    "hardswish by hand": lambda y: y * F.relu6(y + 3) / 6,
    "swish": lambda y: y * torch.sigmoid(1.7 * y),
    "where": lambda y: torch.where(y > 0, y, 0.1 * y),
    "where, zeros": lambda y: torch.where(y > 0.2, y, torch.zeros_like(y)),
    "mask": lambda y: (y > 0.2).float() * y,
    "mask of a tensor": lambda y: (y > torch.tensor(0.2)) * y,
    "masked_fill": lambda y: y.masked_fill(y < -0.1, -0.2),
    "softsign": F.softsign,
    "sqrt": lambda y: torch.sqrt(F.relu(y) + 0.1),
    "reciprocal": lambda y: 1 / (1 + y.abs()),
    "exp": lambda y: torch.exp(-y.abs()),
    "log": lambda y: torch.log(y.square() + 0.5),
    "powers": lambda y: y**2 - 0.3 * y**3 + 2**y,
    "shrinks": lambda y: F.hardshrink(F.softshrink(F.tanhshrink(y), 0.01), 0.02),
    "selu, celu": lambda y: F.selu(F.celu(y, 0.5)),
    "logsigmoid": F.logsigmoid,
    "rrelu": F.rrelu,
    "sine": lambda y: torch.sin(3 * y),
    "steps": lambda y: torch.floor(y * 4) / 4 + y.int().float(),
    "threshold below zero": lambda y: F.threshold(y, -0.2, -0.4),
    "in place": lambda y: y.exp_().clamp_(max=3).sub_(1),
    "methods": lambda y: y.sigmoid().mul(y).neg().add(0.1),
    "leaky relu as a maximum": lambda y: torch.max(y, 0.1 * y),
    "sum of functions": lambda y: F.relu(y) + F.relu(y - 0.5) + 0.5 * y,
}

OTHERS = {
    "clamps": (lambda s, y: s.d(y.clamp(-1, 2)) + s.d(y.clamp(0.1, 0.3)) + s.d(F.hardtanh(y, -0.2, 0.1)), "activation"),
    "clamp between tensors": (lambda s, y: s.d(torch.clamp(y, min=-s.q / 4, max=s.q / 3)), "affine"),
    "clamp above an activation": (lambda s, y: s.d(torch.clamp(y, min=F.max_pool2d(y, 3, 1, 1) * 0.5)), "maximum"),
    "maximum of a number": (lambda s, y: s.d(torch.maximum(torch.tensor(0.2), y)), "conv"),
    "maximum": (lambda s, y: torch.maximum(s.d(y), s.d(F.relu(y))), "maximum"),
    "minimum, one pixel": (lambda s, y: s.d(torch.min(F.relu(y.mean((2, 3), keepdim=True)), F.relu(y))), "minimum"),
    "maxout": (lambda s, y: torch.max(y[:, :4], y[:, 4:8]), "maximum"),
    "slopes per channel by where": (lambda s, y: s.d(torch.where(y > 0, y, s.q / 5 * y)), "prelu"),
    "swish with two readers": (lambda s, y: (s.d(y * (g := torch.sigmoid(y))), g), "activation"),
    "position": (lambda s, y: s.d(F.relu(y) + s.p), "conv"),
    "position, expanded": (lambda s, y: s.d(F.relu(y) + s.p.expand(y.shape[0], -1, -1, -1)), "conv"),
    "position, one channel, subtracted": (lambda s, y: s.d(y - s.p[:, :1]), "add"),
    "position, column": (lambda s, y: s.d(s.p[0, :, :, :1] - y), "conv"),
    "channel by expand_as": (lambda s, y: s.d(F.max_pool2d(y, 2) + s.q.expand_as(F.max_pool2d(y, 2))), "affine"),
    "one pixel added": (lambda s, y: s.d((y := F.relu(y)) + y.mean((2, 3), keepdim=True)), "add"),
    "one pixel added to a convolution": (lambda s, y: s.d(y) - s.d(y.mean((2, 3), keepdim=True)), "conv"),
    "one row, one column": (lambda s, y: s.d(y + F.max_pool2d(y, (6, 1)) - F.max_pool2d(y, (1, 5))), "add"),
    "one channel added": (lambda s, y: s.d(F.relu(y + y[:, 1:2])), "slice"),
    "alpha, fused": (lambda s, y: torch.add(s.d(y), s.d(F.relu(y)), alpha=-0.3), "conv"),
    "alpha": (lambda s, y: s.d(torch.sub(F.max_pool2d(y, 3, 1, 1), y, alpha=0.7)), "add"),
    "alpha of constants": (lambda s, y: s.d(torch.rsub(torch.add(F.relu(y), s.q, alpha=0.5), 1.0, alpha=2)), "affine"),
    "constant over an activation": (lambda s, y: s.d(s.q / (1 + y.square())), "affine"),
}  # fmt: skip


def agree(model: nn.Module, shape=(3, 6, 5), arch="ulx3s-85f", rtl: bool = False):
    """Quantises and compiles: PyTorch, integer graph and golden model, or all models. Returns the graph."""
    x = torch.randn(16, *shape)
    q = quantize(model, x, arch)
    rows = layerwise(q, x)
    assert max(row.largest for row in rows) <= 1, rows
    assert compare(model, q, x)
    inputs = q.quantise_inputs(x[:1])
    if rtl:
        for options in ({}, {"dense": True, "reuse": False}):
            assert_agreement(compile_graph(q.graph, **options), q.graph, inputs, f"{options}")
    expected, found = q.graph.run(inputs), Golden(compile_graph(q.graph)).run(inputs).outputs
    assert all(np.array_equal(found[name], expected[name]) for name in q.graph.outputs)
    return q.graph


@pytest.mark.parametrize("name", TABLES)
def test_one_table(name):
    torch.manual_seed(len(name))
    graph = agree(Net(then(TABLES[name])))
    assert [n.label for n in graph.nodes] == ["input", "conv", "conv"]
    assert [n.requant.table is not None for n in graph.nodes[1:]] == [True, False]


@pytest.mark.parametrize("name", OTHERS)
def test_other_forms(name):
    torch.manual_seed(len(name))
    function, kind = OTHERS[name]
    assert kind in [n.label for n in agree(Net(function)).nodes]


def test_one_dimension():
    torch.manual_seed(0)
    agree(Net(lambda s, y: s.d(F.relu(y) + s.p) + s.d(y - y.mean(2, keepdim=True) + y[:, :1]), one_dimensional=True), (3, 5))


@pytest.mark.parametrize(
    ("arch", "function"),
    [
        (ARCHS[4], lambda s, y: s.d(y * F.relu6(y + 3) / 6 + F.relu(y.mean((2, 3), keepdim=True)))),
        (ARCHS[1], lambda s, y: s.d(torch.minimum(torch.maximum(y, F.max_pool2d(y, (6, 1))), F.max_pool2d(y, (1, 5))))),
        (ARCHS[2], lambda s, y: s.d(F.relu(y) + s.p)),
    ],
    ids=["a table, one pixel added", "extrema of rows and columns", "a constant per position"],
)
def test_rtl(arch, function):
    torch.manual_seed(1)
    agree(Net(function), arch=arch, rtl=True)


@pytest.mark.parametrize("arch", [ARCHS[0], ARCHS[1], ARCHS[3]], ids=lambda arch: arch.name)
@pytest.mark.parametrize("signed", [False, True])
def test_extrema_are_exact_to_the_ends_of_the_range(arch, signed):
    lo, hi = arch.act_range(signed)
    ends = np.array([lo, lo + 1, 0, hi - 1, hi])
    a, b = (v.reshape(1, 1, 5, 5) for v in np.meshgrid(ends, ends))
    values = [Value(name, (1, 5, 5), 1.0, signed) for name in "abxy"]
    common = {
        "inputs": ("a", "b"),
        "window": Window((1, 1)),
        "requant": Requant.identity(1, arch, signed),
        "residual_weight": np.ones(1, np.int64),
    }
    nodes = [*(Input(v, ()) for v in values[:2]), *(Extremum(out=v, largest=v.name == "x", **common) for v in values[2:])]
    graph = Graph(arch, nodes, ["x", "y"])
    found = Golden(compile_graph(graph)).run({"a": a.astype(np.int16), "b": b.astype(np.int16)}).outputs
    assert np.array_equal(found["x"], np.maximum(a, b)) and np.array_equal(found["y"], np.minimum(a, b))


def test_a_function_is_continued_where_it_is_not_a_number():
    x = torch.arange(-128, 128, dtype=torch.float32) / 16

    def tabulated(f) -> Tensor:
        return Activation(table=(f,)).tabulated(x)

    assert (tabulated(torch.sqrt)[:128] == 0).all() and tabulated(torch.sqrt)[128 + 64] == 2
    assert (tabulated(torch.log)[:129] == -torch.inf).all()
    assert (tabulated(lambda v: torch.sqrt(v - 1))[:144] == 0).all()
    assert (tabulated(lambda v: v * torch.nan) == 0).all()


def test_infinities_become_the_largest_activations():
    torch.manual_seed(0)
    model = Net(then(lambda y: y.abs().log()))
    q = quantize(model, torch.randn(16, 3, 6, 5))
    table, out = q.graph.nodes[1].requant.table, q.graph.nodes[1].out
    assert table.min() == table[-q.table_entry(out.name).lo] == out.range(q.arch)[0] < -128


def test_constants_per_position_and_inside_tables_are_trained():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 6, 5)
    model = Net(lambda s, y: s.d(torch.sin(s.k * y) + s.p))
    model.k = nn.Parameter(torch.tensor(2.0))
    qat = prepare_qat(model, x, "ulx3s-85f")
    optimiser = torch.optim.SGD(qat.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in qat.named_parameters()}
    for _ in range(2):
        optimiser.zero_grad()
        qat(x).square().mean().backward()
        optimiser.step()
    after = dict(qat.named_parameters())
    assert not torch.equal(before["prepared.k"], after["prepared.k"]) and not torch.equal(before["prepared.p"], after["prepared.p"])
    k = float(after["prepared.k"].detach())
    q = finish_qat(qat)
    assert max(row.largest for row in layerwise(q, x)) <= 1
    entry, out = q.table_entry(q.graph.nodes[1].out.name), q.graph.nodes[1].out
    index = torch.arange(entry.lo, entry.hi + 1) * entry.scale
    expected = (torch.sin(k * index) / out.scale).round().clamp(*out.range(q.arch))
    assert np.abs(q.graph.nodes[1].requant.table - expected.numpy()).max() <= 1


FOLDED = {
    "product": lambda s, y: y * s.q,
    "quotient of a number": lambda s, y: y / -0.3,
    "chain": lambda s, y: 2 - (s.q * y + 0.3) / 1.5 - s.q,
    "negation, alpha": lambda s, y: torch.rsub(-y, s.q, alpha=0.5),
    "before a clamp": lambda s, y: F.relu6(torch.add(y, s.q, alpha=2) * 1.3),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("bias", [False, True])
def test_constants_behind_a_convolution_are_folded_into_it(name, bias):
    torch.manual_seed(len(name))
    model = Net(lambda s, y: s.d(FOLDED[name](s, y)))
    model.c = nn.Conv2d(3, 9, 3, padding=1, bias=bias)
    assert [n.label for n in agree(model).nodes] == ["input", "conv", "conv"]


def test_folded_constants_are_trained():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 6, 5)
    qat = prepare_qat(Net(lambda s, y: s.d(F.relu(y * s.q + s.q))), x, "ulx3s-85f")
    qat(x).square().mean().backward()
    assert dict(qat.named_parameters())["prepared.q"].grad.abs().min() > 0
    assert max(row.largest for row in layerwise(finish_qat(qat), x)) <= 1


REMEDIES = {
    "a row and a column": (
        lambda s, y: s.d(F.max_pool2d(y, (6, 1)) + F.max_pool2d(y, (1, 5))),
        "Bring both to the same shape",
        lambda s, y: s.d(F.interpolate(F.max_pool2d(y, (6, 1)), (6, 5)) + F.max_pool2d(y, (1, 5))),
    ),
    "a constant per channel inside": (
        lambda s, y: s.d(torch.pow(F.relu(y) + 1, s.q)),
        "a constant per channel may be added or multiplied before the function or behind it",
        lambda s, y: s.d(torch.exp(s.q * torch.log(F.relu(y) + 1))),
    ),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_remedies(name):
    refused, message, remedy = REMEDIES[name]

    def between_layers(function):
        model = Net(function)
        model.d = nn.Conv2d(9, 4, 3, padding=1)  # what stands behind the last layer runs on the host
        return model

    with pytest.raises(CompileError, match=message):
        quantize(between_layers(refused), torch.randn(4, 3, 6, 5))
    agree(between_layers(remedy))


@pytest.mark.parametrize("arch", ["ulx3s-85f", "icebreaker"])
def test_asymmetric_ranges_pass_through_every_kind_of_reader(arch):
    """Behind a table most integers lie above 0; what reads them must neither clip nor misplace them."""
    torch.manual_seed(2)

    def readers(s, y):
        y = F.silu(3 * y)
        pooled = F.max_pool2d(y, 3, 1, 1)
        parts = torch.cat([y, pooled], 1)
        return (
            s.d(F.prelu(y, s.q.flatten() / 4)) + s.d(torch.maximum(y, pooled)),
            torch.sin(y),
            F.avg_pool2d(parts, 2),
            y[:, 2:5] - pooled[:, 4:7],
        )

    graph = agree(Net(readers), arch=arch)
    (value,) = (n.out for n in graph.nodes if n.label == "conv" and n.requant.table is not None)
    lo, hi = value.range(graph.arch)
    assert value.lowest == lo and -lo < hi // 4 and hi - lo + 1 == 1 << graph.arch.act_bits


def test_the_index_of_a_table_covers_what_enters_it():
    torch.manual_seed(3)
    model = Net(then(lambda y: torch.sqrt(F.relu(y) + 0.1)))
    x = torch.randn(16, 3, 6, 5)
    q = quantize(model, x)
    node = q.graph.nodes[1]
    entry = q.table_entry(node.out.name)
    assert (entry.lo, entry.hi, entry.table_offset) == (0, 255, 128)
    assert len(np.unique(node.requant.table)) > 140
    assert (node.requant.lo, node.requant.hi) == (-128, 127)


def test_more_tables_than_the_array_holds_are_loaded_segment_by_segment():
    torch.manual_seed(4)
    functions = (torch.sin, torch.tanh, F.silu)

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in functions)

        def forward(self, x):
            for layer, f in zip(self.layers, functions, strict=True):
                x = f(layer(x))
            return x

    program = compile_graph(agree(Chain()))
    assert program.arch.tables < len(functions)
    assert [len(s.table) // 256 for s in program.segments] == [program.arch.tables] * len(functions)
