"""nn.PReLU, from PyTorch to the RTL: slopes per tensor and per channel, at random."""

import numpy as np
import pytest
import torch
from torch import nn

from agreement import assert_agreement
from random_layers import ARCHS
from sordino.quantization import finish_qat, layerwise, prepare_qat, quantize
from sordino_compiler.driver import compile_graph
from sordino_compiler.emit.mapping import Mapping
from sordino_compiler.graph import Graph, Input, Requant, Value, Window
from sordino_compiler.ops.prelu import PReLU
from sordino_hw.spec.errors import CompileError
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)


class Net(nn.Module):
    """A convolution, a PReLU, and what reads it."""

    def __init__(self, slopes: torch.Tensor, after: nn.Module):
        super().__init__()
        self.conv = nn.Conv2d(3, 9, 3, padding=1)
        self.act = nn.PReLU(len(slopes))
        self.after = after
        with torch.no_grad():
            self.act.weight.copy_(slopes)

    def forward(self, x):
        return self.after(self.act(self.conv(x)))


SLOPES = {
    "one": torch.tensor([0.2]),
    "one, negative": torch.tensor([-0.5]),
    "per channel": torch.linspace(-0.4, 0.9, 9),
    "all alike": torch.full((9,), 0.25),
    "near 1": torch.linspace(0.99, 1.01, 9),
    "small and large": torch.tensor([0.0, 0.001, 0.01, 0.1, 1.0, 2.0, 5.0, -3.0, -0.001]),
}
AFTER = {
    "nothing": nn.Identity,
    "a convolution": lambda: nn.Conv2d(9, 5, 1),
    "a clamp": nn.ReLU6,
    "a table": nn.SiLU,
    "pooling": lambda: nn.MaxPool2d(2),
}


CASES = [
    ("one", "nothing", ARCHS[1]),
    ("one, negative", "pooling", ARCHS[4]),
    ("per channel", "nothing", ARCHS[4]),
    ("per channel", "a clamp", ARCHS[1]),
    ("all alike", "a table", ARCHS[4]),
    ("near 1", "a convolution", ARCHS[1]),
    ("small and large", "pooling", ARCHS[4]),
]


@pytest.mark.parametrize(("slopes", "after", "arch"), CASES)
def test_quantised(slopes, after, arch):
    torch.manual_seed(len(slopes) + len(after))
    model = Net(SLOPES[slopes], AFTER[after]())
    x = torch.randn(16, 3, 6, 5)
    q = quantize(model, x, arch)
    kinds = [n.label for n in q.graph.nodes]
    assert ("prelu" in kinds) == (len(SLOPES[slopes]) > 1)
    rows = layerwise(q, torch.randn(8, 3, 6, 5))
    assert max(row.largest for row in rows) <= 1 and max(row.share for row in rows) < 0.2
    inputs = q.quantise_inputs(torch.randn(1, 3, 6, 5))
    for options in ({}, {"dense": True, "reuse": False}):
        assert_agreement(compile_graph(q.graph, **options), q.graph, inputs, f"{slopes}, {after}, {arch.name}, {options}")


def random_graph(rng: np.random.Generator, arch) -> tuple[Graph, dict[str, np.ndarray]]:
    c, h, w = int(rng.integers(1, 3 * arch.lanes)), int(rng.integers(1, 7)), int(rng.integers(1, 7))
    signed, wide = bool(rng.random() < 0.8), bool(rng.random() < 0.5)
    lo, hi = arch.act_range(True)
    most = 16383 if wide else 127
    below = rng.integers(-16384, 16384, c) if rng.random() < 0.3 else rng.integers(-2 * most, 2 * most, c).clip(-16384, 16383)
    requant = Requant(
        rng.integers(-1000, 1000, c),
        rng.integers(1 << (arch.mantissa_bits - 1), 1 << arch.mantissa_bits, c),
        rng.integers(*(6, 16) if wide else (2, 10), c) + arch.mantissa_bits,
        lo,
        hi,
        rng.integers(0, 5, c),
    )
    requant = Requant(**{**vars(requant), "shift": requant.shift.clip(0, 31)})
    x = Value("x", (c, h, w), 1.0, signed)
    node = PReLU(
        out=Value("y", (c, h, w), 1.0, True),
        inputs=("x",),
        weight=rng.integers(-most, most + 1, c),
        below=below,
        wide=wide,
        window=Window((1, 1)),
        requant=requant,
    )
    low, high = arch.act_range(signed)
    values = rng.integers(low, high + 1, (2, c, h, w)) * (rng.random((2, c, h, w)) < rng.random())
    return Graph(arch, [Input(x, ()), node], ["y"]), {"x": values.astype(np.int16)}


@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
def test_random_nodes(arch, seed):
    rng = np.random.default_rng([*seed, ARCHS.index(arch)])
    for i in range(3):
        graph, inputs = random_graph(rng, arch)
        graph.check()
        mapping = Mapping(int(rng.choice([s for s in (1, 2, 4, 8) if s <= arch.cores])), 1, int(rng.integers(1, 9)))
        program = compile_graph(graph, dense=bool(rng.random() < 0.3), mapping=None if rng.random() < 0.5 else mapping)
        assert_agreement(program, graph, inputs, f"case {i}, {arch.name}")


def test_the_output_is_written_twice_into_one_buffer():
    """min(x, 0) takes no memory of its own: two buffers suffice for input and output."""
    graph, _ = random_graph(np.random.default_rng(0), ARCHS[0])
    program = compile_graph(graph)
    assert len(program.ops) == 2 * len({s // ARCHS[0].lanes for s in program.tensors["y"].slots})
    assert set(program.tensors) == {"x", "y"}


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Conv1d(3, 9, 3, padding=1), (3, 7)), (nn.Linear(3, 9), (3,)), (nn.Conv2d(3, 9, 1), (3, 4, 4))]
)
def test_one_slope_or_one_per_channel_in_any_dimensions(layer, shape, count):
    torch.manual_seed(count)
    model, x = nn.Sequential(layer, nn.PReLU(count, 0.2)), torch.randn(16, *shape)
    q = quantize(model, x)
    assert max(row.largest for row in layerwise(q, x)) <= 1
    inputs, (name,) = q.quantise_inputs(x), q.graph.outputs
    assert np.array_equal(Golden(compile_graph(q.graph)).run(inputs).outputs[name], q.graph.run(inputs)[name])


def test_refusal():
    class Computed(nn.Module):
        def forward(self, x):
            return nn.functional.prelu(x, x.amax((0, 2, 3)))

    with pytest.raises(
        CompileError, match=r"aten\.prelu .* The slopes of a PReLU are constants, .* Found: slopes computed from an input"
    ):
        quantize(Computed(), torch.randn(4, 3, 4, 4))


def test_slopes_are_trained():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 6, 5)
    qat = prepare_qat(Net(torch.full((9,), 0.25), nn.Identity()), x, "ulx3s-85f")
    optimiser = torch.optim.SGD(qat.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        qat(x).square().mean().backward()
        optimiser.step()
    slopes = dict(qat.named_parameters())["prepared.act.weight"]
    assert slopes.unique().numel() > 1
    assert max(row.largest for row in layerwise(finish_qat(qat), x)) <= 1
