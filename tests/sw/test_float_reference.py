"""The float module is the reference: batch norms with any readers, `compare` with it, and what `quantize` warns of."""

import random
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import sordino as sd
from sordino import zoo
from sordino.quantization import finish_qat, flow, prepare_qat
from sordino_compiler.capture import capture
from sordino_compiler.capture.norms import fold_norms, freeze
from sordino_compiler.fx.nodes import operator_name
from sordino_compiler.ops.layer import Weighted
from sordino_compiler.plan import plan

torch.set_num_threads(1)


class Fn(nn.Module):
    """Layers by name, and a function of them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def conv(cin=3, cout=8, k=3, **options):
    return nn.Conv2d(cin, cout, k, padding=k // 2, **options)


def norm(channels=8, **options):
    return nn.BatchNorm2d(channels, **options)


def dense(s, x):
    x = s.c(x)
    for b in s.blocks:
        x = torch.cat([x, b(x)], 1)
    return s.o(x)


def pruned():
    model = Fn(lambda s, x: s.d(F.relu(s.b(s.c(x)))), c=conv(), b=norm(), d=conv(8, 4))
    prune.l1_unstructured(model.b, "weight", 0.5)
    prune.l1_unstructured(model.c, "weight", 0.5)
    return model


def functional(s, x):
    y = s.c(x)
    return y + F.relu(F.batch_norm(y, s.b.running_mean, s.b.running_var, s.b.weight, s.b.bias, False, 0.0, s.b.eps))


MODELS = {
    "convolution read by a norm and a sum": lambda: Fn(lambda s, x: (y := s.c(x)) + s.d(F.relu(s.b(y))), c=conv(), b=norm(), d=conv(8, 8)),
    "convolution and its norm are outputs": lambda: Fn(lambda s, x: (y := s.c(x), s.b(y)), c=conv(), b=norm()),
    "two norms of one convolution's output": lambda: Fn(lambda s, x: F.relu(s.a(y := s.c(x))) + s.b(y), c=conv(), a=norm(), b=norm()),
    "a convolution called twice, two norms": lambda: Fn(
        lambda s, x: (F.relu(s.a(s.c(F.relu(s.p(x))))), F.relu(s.b(s.c(F.max_pool2d(s.p(x), 2))))), p=conv(), c=conv(8, 8), a=norm(), b=norm()
    ),
    "a convolution called twice, one norm": lambda: Fn(lambda s, x: s.a(s.c(y := s.p(x))) + s.c(F.relu(y)), p=conv(), c=conv(8, 8), a=norm()),
    "a norm called twice": lambda: Fn(lambda s, x: s.a(s.c(y := s.p(x))) + s.a(s.d(y)), p=conv(), c=conv(8, 8), d=conv(8, 8), a=norm()),
    "norm of a norm": lambda: Fn(lambda s, x: s.d(F.relu(s.b(s.a(s.c(x))))), c=conv(bias=False), a=norm(), b=norm(), d=conv(8, 4)),
    "norm of a norm that is read": lambda: Fn(lambda s, x: s.b(y := s.a(s.c(x))) + s.d(y), c=conv(), a=norm(), b=norm(), d=conv(8, 8)),
    "dense block": lambda: Fn(
        dense, c=conv(), o=conv(24, 4, 1), blocks=nn.ModuleList(nn.Sequential(norm(8 + 8 * k), nn.ReLU(), conv(8 + 8 * k, 8, bias=False)) for k in range(2))
    ),
    "norm of the input": lambda: Fn(lambda s, x: F.relu(s.c(s.b(x))), b=norm(3), c=conv()),
    "norm of the input, and a function of it": lambda: Fn(lambda s, x: s.c(F.gelu(s.b(x[:, :1]))), b=norm(1), c=conv(1)),
    "norm behind an activation": lambda: Fn(lambda s, x: s.d(s.b(F.relu(s.c(x)))), c=conv(), b=norm(), d=conv(8, 4)),
    "norm behind a constant that is computed from the first parameter": lambda: Fn(
        lambda s, x: F.relu(s.b(s.c(x * s.gain[0].view(1, -1, 1, 1)))), gain=nn.ParameterList([torch.rand(3) + 0.5]), c=conv(), b=norm()
    ),
    "norm behind a dropout": lambda: Fn(lambda s, x: s.b(s.p(s.c(x))), c=conv(), p=nn.Dropout(), b=norm()),
    "norm behind pooling": lambda: Fn(lambda s, x: F.relu(s.b(F.avg_pool2d(s.c(x), 2))), c=conv(), b=norm()),
    "norm behind a sum": lambda: Fn(lambda s, x: s.d(F.relu(s.b(s.c(x) + s.e(x)))), c=conv(), e=conv(k=1), b=norm(), d=conv(8, 4)),
    "norm behind a slice": lambda: Fn(lambda s, x: s.d(s.b(F.relu(s.c(x))[:, 2:6])), c=conv(), b=norm(4), d=conv(4, 4)),
    "norm at the end": lambda: Fn(lambda s, x: s.b(F.relu(s.d(F.relu(s.c(x))))), c=conv(), d=conv(8, 4), b=norm(4)),
    "norm without affine parameters": lambda: Fn(lambda s, x: (y := s.c(x)) + F.relu(s.b(y)), c=conv(), b=norm(affine=False)),
    "functional norm": lambda: Fn(functional, c=conv(), b=norm()),
    "pruned norm and convolution": pruned,
    "fully connected": lambda: Fn(
        lambda s, x: s.m(F.relu(s.b(s.l(x.flatten(1))))), l=nn.Linear(192, 16, bias=False), b=nn.BatchNorm1d(16), m=nn.Linear(16, 5)
    ),
    "fully connected, read twice": lambda: Fn(
        lambda s, x: s.m(F.relu(s.b(y := s.l(x.flatten(1)))) + y), l=nn.Linear(192, 16), b=nn.BatchNorm1d(16), m=nn.Linear(16, 5)
    ),
    "depthwise": lambda: Fn(lambda s, x: (y := s.d(s.c(x))) + F.relu(s.b(y)), c=conv(), d=conv(8, 8, groups=8), b=norm()),
}  # fmt: skip


def settle(model, x):
    """Statistics from data, gains and offsets of a spread as after training."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.momentum = None
            m.reset_running_stats()
            for p in m.parameters():
                nn.init.uniform_(
                    p, *((0.5, 1.5) if p is m._parameters.get("weight", m._parameters.get("weight_orig")) else (-0.5, 0.5))
                )
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval()


def made(name):
    torch.manual_seed(len(name))
    x = torch.randn(24, 3, 8, 8) + 0.3
    return settle(MODELS[name](), x), x


def held(model, quantised, x, least=20.0):
    """Every layer of every stage is near the float module's, down to the binary's integers."""
    found = sd.compare(model, quantised, x)
    assert found, found.fault
    assert {row.stage for row in found.layers} == {"exported", "quantised", "integers"}
    assert min(row.own for row in found.layers) > least, str(found)
    golden = sd.compare(model, sd.Accelerator(sd.compile(quantised)), x[:4])
    assert golden and {row.stage for row in golden.layers} == {"exported", "golden"}
    assert min(row.own for row in golden.layers) > least - 3, str(golden)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_norms_are_what_the_float_module_computes(name):
    model, x = made(name)
    quantised = sd.quantize(model, x)
    found = held(model, quantised, x)
    assert min(row.total for row in found.layers) > 20, str(found)
    real, rounded = model(x), quantised(x)
    for a, b in zip(*([t] if isinstance(t, torch.Tensor) else t for t in (real, rounded)), strict=True):
        assert (a - b).norm() < 0.1 * a.norm()


@pytest.mark.parametrize("name", MODELS)
def test_folding_leaves_the_function_and_no_norm(name):
    model, x = made(name)
    module = capture(model, x)
    fold_norms(module)
    freeze(module)
    assert not any("batch_norm" in operator_name(n) for n in module.graph.nodes)
    assert not any(layer.norm for layer in plan(module).layers if isinstance(layer, Weighted))
    expected, found = model(x), module(x)
    for a, b in zip(*([t] if isinstance(t, torch.Tensor) else t for t in (expected, found)), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    assert [n.name for n in module.graph.nodes if n.op == "get_attr" and ".running" in str(n.target)] == []


def test_what_is_quantised_does_not_follow_the_model():
    model, x = made("convolution read by a norm and a sum")
    quantised = sd.quantize(model, x)
    before = quantised(x)
    settle(model, x * 3)
    nn.init.ones_(model.c.bias)
    assert torch.equal(quantised(x), before)


@pytest.mark.parametrize(
    "name",
    [
        "convolution read by a norm and a sum",
        "a convolution called twice, two norms",
        "norm of a norm",
        "fully connected, read twice",
        "pruned norm and convolution",
    ],
)
def test_qat_keeps_the_norms(name):
    model, x = made(name)
    qat = prepare_qat(model, x)
    done = finish_qat(qat)
    assert sd.compare(model, done, x), sd.compare(model, done, x).fault
    qat = prepare_qat(model, x)
    before = {k: v.detach().clone() for k, v in qat.prepared.named_parameters()}
    optimiser = torch.optim.SGD(qat.parameters(), 0.05)
    y = qat(x)
    sum(t.square().mean() for t in ([y] if isinstance(y, torch.Tensor) else y)).backward()
    optimiser.step()
    moved = {k for k, v in qat.prepared.named_parameters() if not torch.equal(v, before[k])}
    norms = {f"{k}.{p}" for k, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for p in m._parameters}
    assert norms <= moved
    qat.eval()
    expected, found = qat(x), finish_qat(qat)(x)
    for a, b in zip(*([t] if isinstance(t, torch.Tensor) else t for t in (expected, found)), strict=True):
        assert (a - b).norm() < 0.1 * a.norm()


class RandomNorms(nn.Module):
    """Convolutions, some called again, norms, activations, sums and concatenations, each of any tensor before."""

    def __init__(self, rng: random.Random):
        super().__init__()
        self.layers, self.steps = nn.ModuleList(), []
        channels = [3]
        for _ in range(rng.randint(4, 9)):
            kind, back = (
                rng.choice(["conv", "conv", "again", "norm", "norm", "norm", "relu", "add", "cat"]),
                rng.randrange(len(channels)),
            )
            same = [i for i, c in enumerate(channels) if c == channels[back]]
            again = [i for i, m in enumerate(self.layers) if isinstance(m, nn.Conv2d) and m.in_channels == channels[back]]
            use, out, layer = rng.choice(same), channels[back], nn.Identity()
            if kind == "again" and again:
                use = rng.choice(again)
                out = self.layers[use].out_channels
            elif kind in ("conv", "again"):
                kind, out = "conv", rng.choice([4, 8])
                layer = conv(channels[back], out, rng.choice([1, 3]), bias=rng.random() < 0.5)
            elif kind == "norm":
                layer = norm(out, affine=rng.random() < 0.8)
            elif kind == "cat":
                out = channels[back] + channels[use]
            self.layers.append(layer)
            self.steps.append((kind, back, use))
            channels.append(out)
        self.head = conv(channels[-1], 3, 1)

    def forward(self, x):
        values = [x]
        for layer, (kind, back, use) in zip(self.layers, self.steps, strict=True):
            y = values[back]
            if kind == "again":
                y = self.layers[use](y)
            elif kind == "relu":
                y = F.relu(y)
            elif kind == "add":
                y = y + values[use]
            elif kind == "cat":
                y = torch.cat([y, values[use]], 1)
            values.append(layer(y))
        return self.head(values[-1]), values[len(values) // 2]


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s < 16 else pytest.mark.slow) for s in range(160)])
def test_random_norms(seed):
    torch.manual_seed(seed)
    x = torch.randn(16, 3, 6, 6) + 0.2
    model = settle(RandomNorms(random.Random(seed)), x)
    held(model, sd.quantize(model, x, ("ulx3s-85f", "icebreaker")[seed % 2]), x)


# -- the zoo ---------------------------------------------------------------------------------------------------------

SMALL = {"pilotnet": None, "mobilenet_v1": 64, "resnet18": 64, "mobilenet_v2": 64, "yolox_nano": 64}
LARGE = {"deeplabv3plus_mobilenet": 96, "resnet50": 64, "vgg11_bn": 224, "yolox_tiny": 64, "ssd300_vgg16": None}
ZOO = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


@pytest.mark.parametrize("name", ZOO)
def test_no_layer_of_the_zoo_falls_away(name):
    torch.manual_seed(0)
    entry, size = zoo.entry(name), (SMALL | LARGE)[name]
    shape = entry.shape if size is None else (entry.shape[0], size, size)
    x = F.interpolate(torch.randn(4, shape[0], -(-shape[1] // 8), -(-shape[2] // 8)), shape[1:], mode="bilinear")
    if name == "deeplabv3plus_mobilenet":
        # Images of different brightness: the norm behind its global mean divides by how much the four images differ.
        x = x * torch.rand(4, 1, 1, 1).mul(2) + torch.randn(4, 3, 1, 1)
    model = settle(zoo.model(name, **entry.array), x)
    quantised = sd.quantize(model, x)
    found = sd.compare(model, quantised.graph if name in SMALL else quantised, x[:1])
    assert found and len(found.layers) >= 10, found.fault


# -- compare ---------------------------------------------------------------------------------------------------------


def test_compare_shows_every_layer_through_every_stage():
    model, x = made("convolution read by a norm and a sum")
    found = sd.compare(model, sd.quantize(model, x), x)
    assert [(row.stage, row.name) for row in found.layers] == [
        ("exported", "all outputs"),
        *(("quantised", n) for n in ("x", "c", "b", "d")),
        *(("integers", n) for n in ("x", "c", "b", "d")),
    ]
    assert found.images == 24 and found.fault is None
    assert "Signal to noise against the float module, in dB (24 images)" in str(found)
    assert re.search(r"quantised │ b +│ b, test_float_reference.py:\d+ │ \d\d\.\d", str(found))


def test_compare_takes_the_graph_and_an_accelerator():
    model, x = made("dense block")
    quantised = sd.quantize(model, x)
    assert {row.stage for row in sd.compare(model, quantised.graph, x.numpy()).layers} == {"exported", "integers"}
    acc = sd.Accelerator(sd.compile(quantised), backend="timing")
    assert {row.stage for row in sd.compare(model, acc, x[:2]).layers} == {"exported", "timing"}


def test_compare_refuses_another_module():
    model, x = made("norm of a norm")
    quantised = sd.quantize(model, x)
    with pytest.raises(
        sd.InputError, match=r"^compare: layer 'd' .* has no counterpart in Fn .*Give the float module that was quantised\.$"
    ):
        sd.compare(made("norm of the input")[0], quantised, x)
    with pytest.raises(sd.InputError, match=r"^compare: two float modules; give the module first, .*"):
        sd.compare(model, model, x)
    with pytest.raises(sd.InputError, match=r"^compare: two float modules; give the module first, .*"):
        sd.compare(quantised, model, x)


# -- warnings --------------------------------------------------------------------------------------------------------


def test_a_layer_that_falls_away_is_named(monkeypatch):
    """A layer whose weights change their sign between the float graph and quantisation."""

    def wrong(module):
        fold_norms(module)
        node = [n for n in module.graph.nodes if operator_name(n) == "aten.conv2d"][-1]
        with module.graph.inserting_before(node):
            weight = module.graph.call_function(torch.ops.aten.neg.default, (node.args[1],))
        weight.meta["val"] = node.args[1].meta["val"]
        node.update_arg(1, weight)

    model, x = made("convolution read by a norm and a sum")
    monkeypatch.setattr(flow, "fold_norms", wrong)
    with pytest.warns(
        sd.QuantizationWarning,
        match=r"falls away from the float module at layer 'd' \(d, test_float_reference\.py:\d+\): -?\d\.\d dB",
    ) as seen:
        sd.quantize(model, x)
    assert len(seen) == 1 and seen[0].filename == __file__


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = conv()

    def forward(self, x):
        return self.c(x) if torch.compiler.is_exporting() else self.c(x) * 1.1


def test_a_module_that_exports_something_else_is_told():
    with pytest.warns(sd.QuantizationWarning, match=r"^The exported graph's outputs differ from the model's own \(20\.8 dB"):
        sd.quantize(Noisy(), torch.randn(8, 3, 8, 8))


IMAGES = torch.linspace(-1, 1, 8 * 192).reshape(8, 3, 8, 8).sin() * torch.linspace(0.1, 2, 8).reshape(8, 1, 1, 1)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (
            IMAGES[:1],
            r"^The calibration data is one image, so the range of activations is that of this image\. Calibrate with some hundred .*",
        ),
        (torch.full((4, 3, 8, 8), 0.5), r"^The calibration data is 0\.5 everywhere, so .* not known\. Calibrate with .*"),
        (IMAGES[3:4].repeat(4, 1, 1, 1), r"^The calibration data is the same image again and again, so .*"),
        ([IMAGES[:1], IMAGES[:1]], r"^The calibration data is the same image again and again, so .*"),
        (
            IMAGES * 1e-6,
            r"^All images of the calibration data give the same output \(the largest magnitude of an input is 1\.\d+e-06\): .*",
        ),
    ],
)
def test_useless_calibration_data_is_told(calibration, message):
    torch.manual_seed(0)
    model = nn.Sequential(conv(), nn.ReLU(), conv(8, 4), nn.AdaptiveAvgPool2d(1))
    with pytest.warns(sd.QuantizationWarning, match=message) as seen:
        sd.quantize(model, calibration)
    assert len(seen) == 1 and seen[0].filename == __file__


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [sd.quantize, prepare_qat])
def test_norms_without_statistics_are_refused(verb):
    x = torch.randn(4, 3, 8, 8)
    model = nn.Sequential(conv(), nn.Sequential(norm(track_running_stats=False), nn.ReLU()), conv(8, 4))
    message = r"aten\.batch_norm 'batch_norm' \(1\.0\): A batch norm's mean and variance are constants, .* Build it with track_running_stats=True and .* Found: no running_mean and no running_var\."
    with pytest.raises(sd.CompileError, match=message):
        verb(model, x)
    assert re.search(message, sd.check(model, x).problem)
    remedy = nn.Sequential(conv(), nn.Sequential(norm(track_running_stats=True), nn.ReLU()), conv(8, 4))
    verb(settle(remedy, x), x)


def broken(change):
    model = nn.Sequential(conv(), norm(), nn.ReLU(), conv(8, 4))
    with torch.no_grad():
        change(model)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m[0].weight[2, 1].fill_(float("nan")),
            r"^the model holds values that are NaN or infinite \(0\.weight: 9 of 216\)\. .*",
        ),
        (
            lambda m: (m[1].running_var[3:5].fill_(float("inf")), m[3].bias[0].fill_(float("nan"))),
            r"^the model holds values that are NaN or infinite \((1\.running_var: 2 of 8; 3\.bias: 1 of 4|3\.bias: 1 of 4; 1\.running_var: 2 of 8)\)\. ",
        ),
        (
            lambda m: m[1].running_var[:3].fill_(-1.0),
            r"^aten\.batch_norm 'batch_norm' \(1\): weight / sqrt\(running_var \+ eps\) is not finite in 3 channels\. .* repair running_var or set eps\.$",
        ),
    ],
)
@pytest.mark.parametrize("verb", [sd.quantize, prepare_qat])
def test_parameters_that_are_not_finite_are_named(verb, change, message):
    with pytest.raises(sd.CompileError, match=message):
        verb(broken(change), torch.randn(4, 3, 8, 8))


def test_activations_that_are_not_finite_are_named():
    model = broken(lambda m: m[0].weight.mul_(1e38))
    with pytest.raises(
        sd.InputError, match=r"^tensor 'relu' \(2\): [\d,]+ of 2,048 activations are NaN or infinite on this data, .*"
    ):
        sd.quantize(model, torch.randn(4, 3, 8, 8) * 1e3)
