"""nn.ConvTranspose2d, from PyTorch to the RTL: strides, padding, output padding, groups and dilation at random."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import assert_agreement
from random_layers import ARCHS
from sordino.quantization import finish_qat, layerwise, prepare_qat, quantize
from sordino_compiler.driver import compile_graph
from sordino_compiler.graph import Graph, Input, Requant, Value, Window
from sordino_compiler.inspection import inspect
from sordino_compiler.ops import Conv
from sordino_compiler.ops.conv_transpose import ConvTranspose
from sordino_hw.spec.errors import CompileError
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)


class Net(nn.Module):
    """A convolution, a transposed one, and what comes behind it."""

    def __init__(self, transposed: nn.Module, after: nn.Module | None = None):
        super().__init__()
        self.first = nn.Conv2d(3, transposed.in_channels, 3, padding=1)
        self.up = transposed
        self.after = after or nn.Identity()

    def forward(self, x):
        return self.after(self.up(torch.relu(self.first(x))))


def draw(rng: np.random.Generator) -> dict:
    """Parameters of an `nn.ConvTranspose2d` with at least one output for an input of 4 x 5."""
    while True:
        groups = int(rng.choice([1, 1, 2, 3, 8]))
        cin = groups * int(rng.integers(1, 3))
        cout = cin if groups == 8 else groups * int(rng.integers(1, 5))
        kernel, stride, dilation = (tuple(int(n) for n in rng.integers(1, top, 2)) for top in (5, 4, 3))
        padding = tuple(int(rng.integers(0, d * (k - 1) + 2)) for k, d in zip(kernel, dilation, strict=True))
        output_padding = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True))
        options = {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups, "dilation": dilation}
        sizes = [
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            for n, s, p, d, k, o in zip((4, 5), stride, padding, dilation, kernel, output_padding, strict=True)
        ]
        if min(sizes) >= 1:
            return {"in_channels": cin, "out_channels": cout, "kernel_size": kernel, **options}


@pytest.mark.parametrize("arch", [ARCHS[1], ARCHS[3], ARCHS[4]], ids=lambda arch: arch.name)
def test_random_parameters(arch, seed):
    rng = np.random.default_rng([*seed, ARCHS.index(arch)])
    for case in range(3):
        options = draw(rng)
        torch.manual_seed(case)
        after = (None, nn.BatchNorm2d(options["out_channels"]), nn.SiLU())[case % 3]
        model = Net(nn.ConvTranspose2d(**options, bias=case % 2 == 0), after).eval()
        if isinstance(after, nn.BatchNorm2d):
            after.running_mean.uniform_(-0.3, 0.3)
            after.running_var.uniform_(0.3, 2)
        q = quantize(model, torch.randn(16, 3, 4, 5), arch)
        rows = layerwise(q, torch.randn(8, 3, 4, 5))
        assert [row.kind for row in rows] == ["conv", "conv_transpose"], options
        assert max(row.largest for row in rows) <= 1 and max(row.share for row in rows) < 0.2, options
        inputs = q.quantise_inputs(torch.randn(1, 3, 4, 5))
        for flags in ({}, {"dense": True, "reuse": False}):
            assert_agreement(compile_graph(q.graph, **flags), q.graph, inputs, f"{options}, {arch.name}, {flags}")


class Residual(nn.Module):
    """The sum of a transposed convolution and another layer goes into its accumulators."""

    def __init__(self):
        super().__init__()
        self.down, self.up, self.beside = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(3, 6, 1)

    def forward(self, x):
        return torch.relu(self.up(torch.relu(self.down(x))) + torch.relu(self.beside(x)))


NAMED = {
    "DCGAN": lambda: Net(nn.ConvTranspose2d(8, 6, 4, 2, 1)),
    "segmentation head": lambda: Net(nn.ConvTranspose2d(5, 5, 4, 2, 1, groups=5, bias=False)),
    "strides beyond the kernel": lambda: Net(nn.ConvTranspose2d(4, 6, 1, 3, output_padding=2)),
    "stride and dilation alike": lambda: Net(nn.ConvTranspose2d(4, 6, 3, 2, 2, 1, dilation=2)),
    "one row": lambda: Net(nn.ConvTranspose2d(4, 6, (1, 3), (1, 2))),
    "a residual": Residual,
}


@pytest.mark.parametrize("name", NAMED)
def test_named(name):
    torch.manual_seed(len(name))
    model = NAMED[name]()
    q = quantize(model, torch.randn(16, 3, 6, 6), ARCHS[1])
    assert max(row.largest for row in layerwise(q, torch.randn(8, 3, 6, 6))) <= 1
    inputs = q.quantise_inputs(torch.randn(1, 3, 6, 6))
    assert_agreement(compile_graph(q.graph), q.graph, inputs, name)


@pytest.mark.parametrize("padding", [1, 2])
def test_padding_beyond_the_kernel(padding):
    """Outputs begin below the input's first row, also in the samples by which the mapping search tells cycles."""
    arch = next(a for a in ARCHS if a.cores == 2 and a.lanes == 24)
    torch.manual_seed(padding)
    q = quantize(Net(nn.ConvTranspose2d(30, 6, 1, 1, padding)), torch.randn(16, 3, 12, 12), arch)
    inputs = q.quantise_inputs(torch.randn(1, 3, 12, 12))
    assert_agreement(compile_graph(q.graph), q.graph, inputs, str(padding))


def test_along_a_length():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose1d(8, 4, 3, 2, 1, 1))
    q = quantize(model, torch.randn(16, 3, 9), "icebreaker")
    assert q.graph.nodes[-1].out.shape == (4, 1, 18)
    assert max(row.largest for row in layerwise(q, torch.randn(8, 3, 9))) <= 1
    inputs = q.quantise_inputs(torch.randn(2, 3, 9))
    assert np.array_equal(
        *(r[q.graph.outputs[0]] for r in (Golden(compile_graph(q.graph)).run(inputs).outputs, q.graph.run(inputs)))
    )


# -- the node --------------------------------------------------------------------------------------------------------


def node(rng: np.random.Generator, arch, options: dict, residual: bool) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph of one transposed convolution with these parameters of PyTorch's, and inputs of 4 x 5."""
    cin, cout, groups = options["in_channels"], options["out_channels"], options["groups"]
    (top, left), (below, right) = options["padding"], options["output_padding"]
    window = Window(options["kernel_size"], options["stride"], (top, left, top - below, left - right), options["dilation"])
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip((4, 5), window.stride, (top, left), window.dilation, window.kernel, (below, right), strict=True)
    ]
    weight = rng.integers(-128, 128, (cout, cin // groups, *window.kernel)) * (rng.random((cout, 1, *window.kernel)) < 0.8)
    m, shift = arch.mantissa_bits - 1, 11
    full = np.ones(cout, np.int64)
    lo, hi = arch.act_range(True)
    y = ConvTranspose(
        out=Value("y", (cout, *sizes), 1.0, True),
        inputs=("x", "r") if residual else ("x",),
        weight=weight.astype(np.int8),
        groups=groups,
        window=window,
        requant=Requant(rng.integers(-9999, 9999, cout), full << m, full * (shift + m), lo, hi, 0 * full),
        residual_weight=rng.integers(-16384, 16384, cout) if residual else None,
    )
    nodes = [
        Input(Value("x", (cin, 4, 5), 1.0, False), ()),
        *([Input(Value("r", y.out.shape, 1.0, True), ())] if residual else []),
        y,
    ]
    graph = Graph(arch, nodes, ["y"])
    graph.check()
    drawn = {v.name: rng.integers(*arch.act_range(v.signed), (2, *v.shape)) for v in graph.inputs}
    return graph, {n: (x * (rng.random(x.shape) < 0.6)).astype(np.int16) for n, x in drawn.items()}


def test_meaning_is_that_of_pytorch(seed):
    """The node's accumulators against `F.conv_transpose2d` in float64, which is exact here."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        options = draw(rng)
        graph, inputs = node(rng, ARCHS[0], options, residual=False)
        y, groups = graph.nodes[-1], options["groups"]
        by_input = torch.tensor(y.weight).double().unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        want = F.conv_transpose2d(torch.tensor(inputs["x"]).double(), by_input, None, *(options[n] for n in names))
        found = y.accumulate([inputs["x"].astype(np.int64)])
        assert np.array_equal(found, want.numpy()), options
        bound = y.bound([int(np.abs(inputs["x"]).max())])
        assert (np.abs(found).max((0, 2, 3)) <= bound).all(), options
        ones = torch.ones(1, options["in_channels"], 4, 5).double()
        macs = F.conv_transpose2d(ones, torch.ones_like(by_input), None, *(options[n] for n in names)).sum()
        assert y.products(4, 5).sum() * options["in_channels"] == int(macs), options


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
def test_random_nodes(arch, seed):
    rng = np.random.default_rng([*seed, ARCHS.index(arch)])
    for case in range(2):
        options = draw(rng)
        graph, inputs = node(rng, arch, options, residual=case % 2 == 1)
        assert_agreement(compile_graph(graph, dense=bool(rng.random() < 0.3)), graph, inputs, f"{options}, {arch.name}")


def test_no_zero_is_inserted():
    """Every non-zero activation becomes one event for each weight row that it meets: those of the taps inside the output."""
    rng = np.random.default_rng(0)
    options = {"in_channels": 8, "out_channels": 8, "kernel_size": (4, 4), "stride": (2, 2), "padding": (1, 1)}
    graph, inputs = node(rng, ARCHS[1], {**options, "output_padding": (0, 0), "groups": 1, "dilation": (1, 1)}, residual=False)
    y = graph.nodes[-1]
    y.weight[y.weight == 0] = 1
    program = compile_graph(graph)
    assert len(program.ops) == 4
    result = Golden(program).run(inputs)
    per_channel = y.products(4, 5) // 8
    assert result.events.sum() == ((inputs["x"] != 0).sum((0, 1)) * per_channel).sum()
    conv = next(y.residues())[0]
    assert isinstance(conv, Conv) and conv.window.kernel == (2, 2)


# -- quantisation ----------------------------------------------------------------------------------------------------


def test_quantisation_aware_training():
    torch.manual_seed(0)
    model = Net(nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(6))
    x = torch.randn(8, 3, 6, 6)
    qat = prepare_qat(model, x, "ulx3s-85f")
    before = {k: v.clone() for k, v in qat.named_parameters()}
    optimiser = torch.optim.SGD(qat.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        qat(x).square().mean().backward()
        optimiser.step()
    moved = [k for k, v in qat.named_parameters() if not torch.equal(v, before[k])]
    assert any("up" in k and "weight" in k for k in moved)
    assert max(row.largest for row in layerwise(finish_qat(qat), x)) <= 1


def test_refusals():
    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, 2, 2))

        def forward(self, x):
            return F.conv_transpose2d(x, self.weight * x.mean())

    with pytest.raises(
        CompileError, match=r"aten\.conv_transpose2d 'conv_transpose2d' .* Weights and biases .* computed from an input"
    ):
        quantize(Computed(), torch.randn(4, 3, 4, 4))
    far = Net(nn.ConvTranspose2d(3, 4, 2, 300))
    report = inspect(far, torch.zeros(1, 3, 4, 4))
    assert [n.reason for n in report.nodes if n.reason] == [
        "Stride and dilation are 1 to 255. Use smaller steps. Found: stride [300, 300]."
    ]
