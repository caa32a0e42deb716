"""Random networks, with weights and inputs of any magnitude: PyTorch, the integer graph and the binary."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sordino import compare
from sordino.quantization import layerwise, quantize
from sordino_compiler.driver import compile_graph
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)

ACTIVATIONS = (F.relu, F.relu6, F.silu, F.hardswish, torch.tanh, F.leaky_relu)
CASES = [pytest.param(seed, marks=[] if seed < 24 else pytest.mark.slow) for seed in range(240)]


class RandomNetwork(nn.Module):
    """A chain of layers whose residuals and concatenations reach back to any tensor before."""

    def __init__(self, rng: random.Random):
        super().__init__()
        self.layers, self.steps = nn.ModuleList(), []
        channels = [rng.choice([1, 3, 5])]
        for _ in range(rng.randint(2, 6)):
            kind = rng.choice(["conv", "conv", "depthwise", "max", "average", "residual", "cat", "activation"])
            c, back = channels[-1], rng.randrange(len(channels))
            if kind == "conv":
                out = rng.choice([4, 8, 12])
                conv = nn.Conv2d(c, out, rng.choice([1, 3]), padding="same", bias=rng.random() < 0.5)
                with torch.no_grad():
                    conv.weight.mul_(10 ** rng.uniform(-2, 2))
                self.layers.append(nn.Sequential(conv, nn.BatchNorm2d(out)) if rng.random() < 0.4 else conv)
            elif kind == "depthwise":
                out = c
                self.layers.append(nn.Conv2d(c, c, 3, padding=1, groups=c))
            elif kind == "residual":
                out = channels[back]
                self.layers.append(nn.Conv2d(c, out, 3, padding=1))
            else:
                out = c + channels[back] if kind == "cat" else c
                self.layers.append(nn.Identity())
            self.steps.append((kind, back, rng.choice(ACTIVATIONS)))
            channels.append(out)
        self.channels = channels[0]
        self.head = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, x):
        values = [x]
        for (kind, back, activation), layer in zip(self.steps, self.layers, strict=True):
            y = layer(values[-1])
            if kind == "max":
                y = F.max_pool2d(y, 3, 1, 1)
            elif kind == "average":
                y = F.avg_pool2d(y, 3, 1, 1)
            elif kind == "residual":
                y = F.relu(y + values[back])
            elif kind == "cat":
                y = torch.cat([y, values[back]], 1)
            elif kind == "activation":
                y = activation(y)
            values.append(y)
        return self.head(values[-1])


@pytest.mark.filterwarnings("ignore:All images of the calibration data give the same output")  # a layer may be dead
@pytest.mark.parametrize("seed", CASES)
def test_random_network(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = RandomNetwork(rng)
    x = torch.randn(16, model.channels, 6, 6) * 10 ** rng.uniform(-2, 2)
    x = x.relu() if rng.random() < 0.5 else x
    model(x)
    q = quantize(model, x, ("ulx3s-85f", "icebreaker")[seed % 2], method=rng.choice(["mse", "minmax", "percentile"]))
    for row in layerwise(q, x):
        assert row.largest <= 1, row
    found = compare(model, q, x)
    assert found, found.fault
    if seed % 2 == 0:
        integers = q.quantise_inputs(x[:2])
        (name,) = q.graph.outputs
        assert np.array_equal(Golden(compile_graph(q.graph)).run(integers).outputs[name], q.graph.run(integers)[name])
