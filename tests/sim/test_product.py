"""Products of two activations, from PyTorch to the RTL: gates, squeeze and excitation, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sordino as sd
from agreement import assert_agreement
from raw_ops import ARCHS
from sordino.quantization import finish_qat, layerwise, prepare_qat, quantize
from sordino_compiler.driver import compile_graph
from sordino_compiler.factors import greatest_factor
from sordino_compiler.graph import Graph, Input, Requant, Value, Window
from sordino_compiler.ops.product import Product
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import Flag, Mode, Region, Trap
from sordino_sim.rtl.machine import Rtl

torch.set_num_threads(1)
CLUSTER, SMALL = ARCHS[1], ARCHS[4]
assert CLUSTER.products and SMALL.products and SMALL.profile == "small"


# -- the operation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [CLUSTER, SMALL], ids=lambda arch: arch.name)
def test_traps(arch):
    """The gateware checks what `asm.decode_segment` does."""
    ones = ("OH", "OW", "KH", "KX", "SPAN", "WORDS", "H", "W", "REPY", "REPX", "DRAIN", "SPLIT", "SLICES", "RUN")
    with Rtl(arch, quiet=True) as rtl:
        for cause, changes in ((Trap.NONE, {}), *((Trap.CONFIG, {name: 2}) for name in ("KH", "KX", "SPAN", "WORDS"))):
            a = Assembler()
            a.vec(Mode.PRODUCT, Flag.RESIDUAL, **dict.fromkeys(ones, 1) | changes)
            a.halt()
            rtl.write(Region.IMEM, a.imem)
            assert rtl.run(1000).trap is cause, changes
        without = a.imem.copy()
        without[-2] &= ~np.uint32(Flag.RESIDUAL)
        rtl.write(Region.IMEM, without)
        assert rtl.run(1000).trap is Trap.OPCODE


def random_graph(rng: np.random.Generator, arch) -> tuple[Graph, dict[str, np.ndarray]]:
    """A product of two inputs, the second of which may be broadcast along any dimension."""
    shape = tuple(int(rng.integers(1, n)) for n in (3 * arch.lanes, 6, 6))
    gate = tuple(1 if rng.random() < 0.5 else n for n in shape)
    values = [Value(name, s, 1.0, bool(rng.random() < 0.5)) for name, s in (("x", shape), ("s", gate))]
    c, signed = shape[0], bool(rng.random() < 0.5)
    lo, hi = arch.act_range(signed)
    requant = Requant(
        rng.integers(-1000, 1000, c),
        rng.integers(1 << (arch.mantissa_bits - 1), 1 << arch.mantissa_bits, c),
        rng.integers(3, 12, c) + arch.mantissa_bits,
        lo,
        hi,
        rng.integers(0, 5, c),
    )
    y = Product(out=Value("y", shape, 1.0, signed), inputs=("x", "s"), window=Window((1, 1)), requant=requant)
    graph = Graph(arch, [*(Input(v, ()) for v in values), y], ["y"])
    drawn = {v.name: rng.integers(*arch.act_range(v.signed), (1, *v.shape), endpoint=True) for v in values}
    return graph, {name: (x * (rng.random(x.shape) < rng.choice([0.1, 0.6, 1.0]))).astype(np.int16) for name, x in drawn.items()}


@pytest.mark.parametrize("arch", [CLUSTER, SMALL], ids=lambda arch: arch.name)
def test_random(seed, arch):
    rng = np.random.default_rng([*seed, arch.lanes, arch.cores])
    for case in range(6):
        graph, inputs = random_graph(rng, arch)
        expected = graph.nodes[2].requant.apply(inputs["x"].astype(np.int64) * inputs["s"], arch)
        np.testing.assert_array_equal(graph.run(inputs)["y"], expected)
        program = compile_graph(graph, dense=case == 0)
        program.check()
        assert_agreement(program, graph, inputs, f"{seed}, {case}")


# -- from PyTorch --------------------------------------------------------------------------------------------------


class Excitation(nn.Module):
    """Squeeze and excitation, as in MobileNetV3, between two convolutions."""

    def __init__(self, channels: int = 12):
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 4, 1)
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        x = F.hardswish(self.conv(x))
        s = F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return self.after(x * F.hardsigmoid(self.excite(s)))


class Gate(nn.Module):
    """A product of functions of one convolution."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.mask, self.function = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 1, 1), function

    def forward(self, x):
        return self.function(self, self.conv(x), x)


GATES = {
    "maps": lambda m, y, x: torch.tanh(y) * F.relu(m.conv(F.relu(x))),
    "one channel": lambda m, y, x: y * torch.sigmoid(m.mask(y)),
    "in the other order": lambda m, y, x: torch.sigmoid(y.mean((2, 3), keepdim=True)) * y,
    "a clamp behind": lambda m, y, x: F.relu(y * torch.sigmoid(y.amax((2, 3), keepdim=True))),
    "a table behind": lambda m, y, x: torch.tanh(y * torch.sigmoid(y.mean((2, 3), keepdim=True))),
    "a vector": lambda m, y, x: y.mean((2, 3)) * torch.sigmoid(y.amax((2, 3))),
}


def check_model(model: nn.Module, arch, count: int, rtl: bool = True) -> None:
    """Quantises, compares layer by layer with the fake-quantised model, and compiles."""
    x = torch.randn(24, 3, 6, 5)
    q = quantize(model, x, arch)
    assert [n.label for n in q.graph.nodes].count("product") == count
    rows = layerwise(q, torch.randn(4, 3, 6, 5))
    assert max(row.largest for row in rows) <= 1 and max(row.share for row in rows) < 0.2
    if rtl:
        inputs = q.quantise_inputs(torch.randn(1, 3, 6, 5))
        assert_agreement(compile_graph(q.graph), q.graph, inputs, arch.name)


@pytest.mark.parametrize("arch", [CLUSTER, SMALL], ids=lambda arch: arch.name)
def test_squeeze_and_excitation(arch):
    torch.manual_seed(0)
    check_model(Excitation().eval(), arch, 1)


@pytest.mark.parametrize("name", GATES)
def test_gates(name):
    torch.manual_seed(1)
    check_model(Gate(GATES[name]).eval(), CLUSTER, 1, rtl=name == "one channel")


def test_accuracy():
    """The product is as exact as its 8-bit operands and result: within 1 dB of a product of floats that are rounded alike."""
    torch.manual_seed(2)
    model, x = Excitation(16).eval(), torch.randn(64, 3, 8, 8)
    q = quantize(model, x[:32], sd.PRESETS["ulx3s-85f"].replace(products=True))
    error = (q(x[32:]) - model(x[32:])).square().mean()
    assert 10 * torch.log10(model(x[32:]).var() / error) > 30


def test_quantisation_aware_training():
    torch.manual_seed(3)
    x = torch.randn(16, 3, 6, 5)
    prepared = prepare_qat(Excitation(), x, CLUSTER)
    for _ in range(2):
        prepared(x).square().mean().backward()
    graph = finish_qat(prepared).graph
    assert [n.label for n in graph.nodes].count("product") == 1


def test_the_greatest_factor():
    for arch in (CLUSTER, sd.PRESETS["ulx3s-85f"]):
        low = 1 << (arch.mantissa_bits - 1)
        for factor in (1e-5, 0.3, 1.0, 2.0**-7, 14.9, 1000.0):
            found = greatest_factor(factor, arch)
            mantissa, _ = np.frexp(found)
            assert found <= factor and float(mantissa * 2 * low).is_integer()
            assert found >= min(factor * low / (low + 1), 2 * low - 1)


# -- refusals, and their remedies ----------------------------------------------------------------------------------


def behind(model: nn.Module, channels: int) -> nn.Module:
    """The model with most of the work behind it, so that the host does not take its end."""
    return nn.Sequential(model, nn.Conv2d(channels, 96, 3, padding=1)).eval()


def test_an_architecture_without_products():
    model, x = behind(Excitation(), 4), torch.randn(8, 3, 6, 5)
    text = r"aten\.mul 'mul' \(0, test_product\.py:\d+\): Architecture 'ulx3s-85f' multiplies .* arch='ulx3s-85f,products=true' .*"
    with pytest.raises(CompileError, match=text):
        quantize(model, x, "ulx3s-85f")
    report = sd.check(model, x[:1], arch="ulx3s-85f")
    assert not report.ok and "products=true" in report.problem
    assert sd.check(model, x[:1], arch="ulx3s-85f,products=true").ok
    assert quantize(Excitation().eval(), x, "ulx3s-85f").graph.outputs  # the host takes what is behind the gate
    graph, _ = random_graph(np.random.default_rng(0), CLUSTER)
    graph.arch = CLUSTER.replace(products=False)
    with pytest.raises(CompileError, match=r"^product 'y': Architecture 'custom' multiplies activations by constants only"):
        graph.check()


def test_shapes():
    x = torch.randn(8, 3, 6, 5)
    outer = behind(Gate(lambda m, y, x: y.mean(3, keepdim=True) * y.mean(2, keepdim=True)), 9)
    with pytest.raises(
        CompileError,
        match=r"one of which has the shape of the product .* Found: two activations of shapes \(9, 6, 1\) and \(9, 1, 5\)",
    ):
        quantize(outer, x, CLUSTER)


def test_a_product_that_shares_its_scale():
    x = torch.randn(16, 3, 6, 5)

    def joined(factor):
        return behind(Gate(lambda m, y, x: torch.cat((F.relu(y), factor(y * torch.sigmoid(y.mean((2, 3), keepdim=True)))), 1)), 18)

    with pytest.raises(CompileError, match=r"a scale of its own, .* torch\.cat\(\(a, \(x \* s\) \* 1\.0\)\)"):
        quantize(joined(lambda y: y), x, CLUSTER)
    q = quantize(joined(lambda y: y * 1.0), x, CLUSTER)
    assert max(row.largest for row in layerwise(q, x[:4])) <= 1
    compile_graph(q.graph)


def test_a_quotient():
    x = torch.randn(16, 3, 6, 5)
    with pytest.raises(CompileError, match=r"write x \* torch\.reciprocal\(y\), .* Found: two activations"):
        quantize(behind(Gate(lambda m, y, x: y / (1 + m.mask(y).relu())), 9), x, CLUSTER)
    model = behind(Gate(lambda m, y, x: y * torch.reciprocal(1 + m.mask(y).relu())), 9)
    assert max(row.largest for row in layerwise(quantize(model, x, CLUSTER), x[:4])) <= 1
