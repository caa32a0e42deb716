"""Each supported operator: PyTorch's quantised model against the integer graph, layer by layer, on the same inputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sordino import compare
from sordino.nn import threshold_relu
from sordino.quantization import layerwise, quantize
from sordino_hw.spec.arch import PRESETS

torch.set_num_threads(1)


class Fn(nn.Module):
    """Layers by name, and a function of them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.m = nn.ModuleDict(layers)
        self.function = forward
        for name, t in (("channels", torch.linspace(0.05, 0.6, 8)),):
            self.register_buffer(name, t)

    def forward(self, *x):
        return self.function(self, *x)


def conv(cin=3, cout=8, k=3, **options):
    return nn.Conv2d(cin, cout, k, **{"padding": k // 2, **options})


def after(f, **options):
    """A convolution and then `f`."""
    return lambda: Fn(lambda s, x: f(s.m["c"](x)), c=conv(**options))


def standalone(f):
    """`f` on a tensor that two readers have, so that nothing can be fused."""

    def forward(s, x):
        y = s.m["c"](x)
        return f(y), s.m["d"](y)

    return lambda: Fn(forward, c=conv(), d=conv(8, 4, 1))


def normalised(**options):
    def make():
        m = Fn(lambda s, x: F.relu(s.m["b"](s.m["c"](x))), c=conv(**options), b=nn.BatchNorm2d(8))
        m.m["b"].running_mean.uniform_(-0.3, 0.3)
        m.m["b"].running_var.uniform_(0.2, 2)
        nn.init.uniform_(m.m["b"].weight, -1.5, 1.5)
        nn.init.uniform_(m.m["b"].bias, -0.5, 0.5)
        return m

    return make


def bare_norm():
    m = Fn(lambda s, x: F.relu(s.m["b"](F.max_pool2d(s.m["c"](x), 2))), c=conv(), b=nn.BatchNorm2d(8))
    m.m["b"].running_var.uniform_(0.2, 2)
    nn.init.uniform_(m.m["b"].weight, -1.5, 1.5)
    return m


MODELS = {
    "conv": after(lambda y: y),
    "conv stride, asymmetric kernel": lambda: Fn(lambda s, x: s.m["c"](x), c=nn.Conv2d(3, 8, (3, 5), (2, 1), (1, 2))),
    "conv dilation": after(lambda y: y, dilation=2, padding=2),
    "conv groups": lambda: Fn(lambda s, x: s.m["d"](F.relu(s.m["c"](x))), c=conv(), d=conv(8, 8, 3, groups=2)),
    "conv same, even kernel": after(lambda y: y, k=4, padding="same"),
    "conv same, dilated": after(lambda y: y, padding="same", dilation=2),
    "conv valid": after(lambda y: y, padding="valid"),
    "depthwise": lambda: Fn(lambda s, x: F.relu(s.m["d"](s.m["c"](x))), c=conv(), d=conv(8, 8, 3, groups=8, stride=2)),
    "depthwise, two outputs a channel": lambda: Fn(lambda s, x: s.m["d"](s.m["c"](x)), c=conv(), d=conv(8, 16, 3, groups=8)),
    "batch norm": normalised(),
    "batch norm, no bias": normalised(bias=False),
    "batch norm alone": bare_norm,
    "linear": lambda: Fn(lambda s, x: s.m["l"](F.relu(s.m["c"](x)).flatten(1)), c=conv(), l=nn.Linear(8 * 64, 10)),
    "linear after linear": lambda: Fn(
        lambda s, x: s.m["m"](F.relu(s.m["l"](x.reshape(x.shape[0], -1)))), l=nn.Linear(192, 20), m=nn.Linear(20, 5)
    ),
    "relu": after(F.relu),
    "relu in place": after(lambda y: F.relu_(y)),
    "relu6": after(lambda y: F.relu6(y * 1), bias=False),
    "hardtanh": after(lambda y: F.hardtanh(y, -0.2, 0.3)),
    "clamp": after(lambda y: y.clamp(-0.1, 0.4)),
    "clamp_min": after(lambda y: y.clamp_min(-0.1)),
    "threshold": after(lambda y: F.threshold(y, 0.2, 0.0)),
    "threshold_relu": after(lambda y: threshold_relu(y, torch.tensor(0.25))),
    "threshold_relu per channel": lambda: Fn(lambda s, x: threshold_relu(s.m["c"](x), s.channels), c=conv()),
    "threshold_relu, clamped": lambda: Fn(lambda s, x: threshold_relu(s.m["c"](x), s.channels).clamp(max=0.5), c=conv()),
    "silu": after(F.silu),
    "silu by hand": after(lambda y: y * torch.sigmoid(y)),
    "sigmoid": after(torch.sigmoid),
    "hardswish": after(F.hardswish),
    "hardsigmoid": after(F.hardsigmoid),
    "tanh": after(torch.tanh),
    "leaky_relu": after(lambda y: F.leaky_relu(y, 0.1)),
    "elu": after(F.elu),
    "gelu": after(F.gelu),
    "gelu tanh": after(lambda y: F.gelu(y, approximate="tanh")),
    "relu6 then silu": after(lambda y: F.silu(F.relu6(y))),
    "silu then relu6": after(lambda y: F.relu6(F.silu(y))),
    "silu alone": standalone(F.silu),
    "relu alone": standalone(F.relu),
    "relu6 alone": lambda: Fn(lambda s, x: s.m["c"](F.relu6(x * 9)), c=conv(k=1)),
    "clamp of the input": lambda: Fn(lambda s, x: s.m["c"](x.clamp(-0.013, 0.021)), c=conv(k=1)),
    "threshold_relu alone": standalone(lambda y: threshold_relu(y, torch.tensor(0.25))),
    "max_pool": after(lambda y: F.max_pool2d(y, 2)),
    "max_pool padded, relu behind": after(lambda y: F.relu(F.max_pool2d(y, 3, 2, 1))),
    "max_pool ceil": after(lambda y: F.max_pool2d(y, 3, 2, ceil_mode=True)),
    "max_pool dilated": after(lambda y: F.max_pool2d(y, 2, 1, 0, 2)),
    "avg_pool": after(lambda y: F.avg_pool2d(y, 2)),
    "avg_pool padded": after(lambda y: F.avg_pool2d(F.relu(y), 3, 2, 1)),
    "adaptive_avg_pool": after(lambda y: F.adaptive_avg_pool2d(y, (4, 2))),
    "global average, relu behind": after(lambda y: F.relu(F.adaptive_avg_pool2d(y, 1))),
    "mean": after(lambda y: y.mean((2, 3))),
    "mean keepdim": after(lambda y: y.mean((-1, -2), keepdim=True)),
    "add, fused": lambda: Fn(lambda s, x: F.relu(s.m["d"](y := F.relu(s.m["c"](x))) + y), c=conv(), d=conv(8, 8)),
    "add of two convolutions": lambda: Fn(lambda s, x: F.relu(s.m["c"](x) + s.m["d"](x)), c=conv(), d=conv(k=1)),
    "add then silu": lambda: Fn(lambda s, x: F.silu(s.m["c"](x) + s.m["d"](x)), c=conv(), d=conv(k=1)),
    "add into a depthwise": lambda: Fn(lambda s, x: s.m["d"](y := F.relu(s.m["c"](x))) + y, c=conv(), d=conv(8, 8, groups=8)),
    "subtract, fused": lambda: Fn(lambda s, x: s.m["d"](y := F.relu(s.m["c"](x))) - y, c=conv(), d=conv(8, 8)),
    "add alone": lambda: Fn(lambda s, x: F.relu(F.max_pool2d(s.m["c"](x), 3, 1, 1) + F.avg_pool2d(s.m["d"](x), 3, 1, 1)), c=conv(), d=conv()),
    "subtract alone": lambda: Fn(lambda s, x: F.max_pool2d(s.m["c"](x), 2) - F.max_pool2d(s.m["d"](x), 2), c=conv(), d=conv()),
    "cat": lambda: Fn(lambda s, x: s.m["e"](torch.cat([F.relu(s.m["c"](x)), s.m["d"](x)], 1)), c=conv(), d=conv(), e=conv(16, 4)),
    "split": lambda: Fn(
        lambda s, x: s.m["e"]((p := F.relu(s.m["c"](x)).split([2, 6], 1))[1]) + s.m["f"](p[0]), c=conv(), e=conv(6, 4), f=conv(2, 4)
    ),
    "chunk and slice": lambda: Fn(lambda s, x: torch.cat([(y := s.m["c"](x)).chunk(2, 1)[1], y[:, 1:3], y.narrow(1, -2, 2)], 1), c=conv()),
    "upsample": lambda: Fn(lambda s, x: s.m["d"](F.interpolate(F.relu(s.m["c"](x)), scale_factor=2)), c=conv(stride=2), d=conv(8, 4)),
    "pad folded": lambda: Fn(lambda s, x: s.m["d"](F.pad(s.m["c"](x), (1, 0, 2, 1))), c=conv(), d=conv(8, 4, padding=0)),
    "pad alone": after(lambda y: F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 2)),
    "multiply and add constants": after(lambda y: F.max_pool2d(y, 2) * 0.37 + 0.11),
    "per-channel constants": lambda: Fn(lambda s, x: (F.max_pool2d(s.m["c"](x), 2) - s.channels.view(8, 1, 1)) / s.channels.view(1, 8, 1, 1), c=conv()),
    "reflected constant": after(lambda y: 1 - F.max_pool2d(y, 2)),
    "input normalised in the model": lambda: Fn(lambda s, x: s.m["c"]((x - 0.45) / 0.22), c=conv()),
    "dropout": lambda: Fn(lambda s, x: s.m["e"](s.m["p"](F.relu(s.m["c"](x)))), c=conv(), p=nn.Dropout2d(), e=conv(8, 4)),
    "identity": after(lambda y: y.contiguous().clone()),
}  # fmt: skip


@pytest.mark.parametrize("arch", ["ulx3s-85f", pytest.param("icebreaker", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_operator(name, arch):
    torch.manual_seed(len(name))
    model = MODELS[name]()
    x = torch.rand(24, 3, 8, 8) * 2 - (0.7 if len(name) % 2 else 0)
    q = quantize(model, x, arch)
    test = torch.rand(16, 3, 8, 8) * 2 - (0.7 if len(name) % 2 else 0)
    rows = layerwise(q, test)
    assert rows
    for row in rows:
        assert row.largest <= 1, row
    # Rounding may differ at ties and in the last bit of float32, not everywhere.
    assert max(row.share for row in rows) < 0.2
    found = compare(model, q, test)
    assert found, found.fault
    # The integer graph is close to the float model, in steps of the output's scale.
    model.eval()
    y, yq = model(test), q(test)
    reals, roundeds = ((t,) if isinstance(t, torch.Tensor) else t for t in (y, yq))
    for real, rounded, value in zip(reals, roundeds, q.outputs, strict=True):
        assert (real - rounded).abs().mean() < 3 * value.scale * (2 if PRESETS[arch].event_bits == 8 else 1)
