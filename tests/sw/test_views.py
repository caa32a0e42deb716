"""Views in the middle of a network: what a chain of them amounts to, and that the array computes it exactly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sordino as sd
from agreement import assert_agreement
from random_layers import ARCHS
from sordino.quantization import layerwise, quantize
from sordino.runtime.accelerator import Accelerator
from sordino_compiler.driver import compile_graph

torch.set_num_threads(1)


class Between(nn.Module):
    """A view between two convolutions, so that nothing but the array can do it."""

    def __init__(self, view, channels: int = 8, out: int = 4, linear: bool = False):
        super().__init__()
        self.first, self.view = nn.Conv2d(3, channels, 3, padding=1), view
        shape = view(torch.zeros(2, channels, 6, 5)).shape
        self.last = (
            nn.Linear(shape[1], out)
            if len(shape) == 2
            else nn.Conv1d(shape[1], out, 1)
            if len(shape) == 3
            else nn.Conv2d(shape[1], out, 1)
        )

    def forward(self, x):
        return self.last(self.view(F.relu(self.first(x))))


def shuffle(x, g):
    n, c, h, w = x.size()
    return x.view(n, g, c // g, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


READ = {  # no operation of its own
    "every second channel": lambda y: y[:, ::2],
    "channels by a list": lambda y: y[:, [5, 0, 7, 2]],
    "channels by index_select": lambda y: torch.index_select(y, 1, torch.tensor([1, 4, 6])),
    "channels the other way round": lambda y: y.flip(1),
    "channels rolled": lambda y: y.roll(3, 1),
    "one channel": lambda y: y[:, 3:4],
    "channel by select and unsqueeze": lambda y: y.select(1, 2).unsqueeze(1),
    "channels by unbind": lambda y: torch.unbind(y, 1)[4].unsqueeze(1),
    "uneven split": lambda y: y.split([1, 5, 2], 1)[1],
    "uneven chunks": lambda y: y.chunk(3, 1)[2],
    "narrow": lambda y: y.narrow(1, -3, 2),
    "channel shuffle by views": lambda y: shuffle(y, 2),
    "channel shuffle": lambda y: F.channel_shuffle(y, 4),
    "crop": lambda y: y[:, :, 1:-1, 2:],
    "every second pixel": lambda y: y[..., ::2, 1::2],
    "crop by negative padding of views": lambda y: y.narrow(2, 1, 3)[:, 1::3],
    "one row": lambda y: y[:, :, 2],
    "last step": lambda y: y.flatten(2)[:, :, -1],
    "one pixel": lambda y: y[:, :, 0, 0],
    "rows and columns joined": lambda y: y.flatten(2),
    "rows for columns": lambda y: y.transpose(2, 3),
    "columns shown as rows": lambda y: y.flatten(2).unflatten(2, (5, 6)),
    "flatten": lambda y: y.flatten(1),
    "flatten, channels last": lambda y: y.permute(0, 2, 3, 1).flatten(1),
    "flatten in two steps": lambda y: y.flatten(2).flatten(1),
    "some of a flattened value": lambda y: y.flatten(1)[:, 7:120:3],
    "nearest, half the size": lambda y: F.interpolate(y, scale_factor=0.5),
    "in the shape of itself": lambda y: F.relu(y.view_as(y)).reshape_as(y)[:, 1:],
    "five dimensions and back": lambda y: y.unsqueeze(2).squeeze(2),
    "einops-like": lambda y: y.view(-1, 2, 4, 6, 5).movedim(2, 1).flatten(1, 2)[:, 1:7],
}
MOVED = {  # operations that copy
    "columns the other way round": lambda y: y.flip(3),
    "rows rolled": lambda y: y.roll(2, 2),
    "turned": lambda y: y.rot90(1, (2, 3)),
    "pixel shuffle": lambda y: F.pixel_shuffle(y, 2),
    "pixel unshuffle": lambda y: F.pixel_unshuffle(y[..., :4], 2),
    "nearest to any size": lambda y: F.interpolate(y, size=(9, 7)),
    "nearest, exact, to a smaller size": lambda y: F.interpolate(y, size=(4, 5), mode="nearest-exact"),
    "nearest in one dimension": lambda y: F.interpolate(y.flatten(2), size=45),
    "channels repeated": lambda y: y.repeat(1, 2, 1, 1),
    "pixels repeated": lambda y: y.repeat(1, 1, 2, 3),
    "channels interleaved": lambda y: y.repeat_interleave(2, 1),
    "one channel for all": lambda y: y[:, :1].expand(-1, 3, -1, -1),
    "channels for rows": lambda y: y.transpose(1, 2),
    "channels last": lambda y: y.flatten(2).transpose(1, 2),
    "a vector as a map": lambda y: y.flatten(1)[:, :48].reshape(-1, 12, 2, 2),
}
REPEATED = {
    "nearest, twice the size": lambda y: F.interpolate(y, scale_factor=2),
    "one pixel for all": lambda y: y[..., :1, :1].expand(-1, -1, 4, 7),
}
ALL = READ | MOVED | REPEATED


@pytest.mark.parametrize("name", ALL)
def test_view(name):
    torch.manual_seed(len(name))
    model = Between(ALL[name])
    q = quantize(model, torch.randn(16, 3, 6, 5), "ulx3s-85f")
    kinds = [n.label for n in q.graph.nodes]
    assert ("move" in kinds) == (name in MOVED) and len(kinds) <= 4, kinds
    x = torch.randn(4, 3, 6, 5)
    rows = layerwise(q, x)
    assert max(row.largest for row in rows) <= 1 and max(row.share for row in rows) < 0.2
    inputs = q.quantise_inputs(x)
    expected = q.graph.run(inputs)[q.graph.outputs[0]]
    program = sd.compile(q)
    program.check()
    found = Accelerator(program)(x)
    assert found.shape == model(x).shape
    np.testing.assert_array_equal(np.rint(found.numpy().reshape(expected.shape) / q.outputs[0].scale), expected)


def test_a_squeeze_without_dimensions_leaves_the_batch():
    torch.manual_seed(2)
    model = Between(lambda y: F.avg_pool2d(y, (6, 5)).squeeze())
    x = torch.randn(16, 3, 6, 5)
    q = quantize(model, x, "ulx3s-85f")
    found = Accelerator(sd.compile(q))
    for part in (x, x[:1]):
        assert found(part).shape == q(part).shape == (len(part), *model(x).shape[1:])
        assert sd.compare(q.graph, found, part)


RTL = ("channel shuffle", "every second pixel", "rows for columns", "flatten, channels last", "columns the other way round", "pixel unshuffle",
       "nearest to any size", "channels last")  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if i < 2 else pytest.mark.slow) for i, name in enumerate(RTL)])
def test_view_on_the_gateware(name):
    torch.manual_seed(1)
    q = quantize(Between(ALL[name]), torch.randn(8, 3, 6, 5), ARCHS[4])
    inputs = q.quantise_inputs(torch.randn(1, 3, 6, 5))
    for options in ({}, {"dense": True, "reuse": False}):
        assert_agreement(compile_graph(q.graph, **options), q.graph, inputs, f"{name}, {options}")
