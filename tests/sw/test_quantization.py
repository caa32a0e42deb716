"""Whole networks: PyTorch, the integer graph and the compiled binary; QAT; what callers get wrong."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from sordino.nn import threshold_relu
from sordino.quantization import finish_qat, layerwise, prepare_qat, quantize, top1_agreement
from sordino_compiler.driver import compile_graph
from sordino_compiler.ops import Conv, Lanewise
from sordino_compiler.quantised import from_exported
from sordino_hw.spec.arch import preset
from sordino_hw.spec.errors import CompileError, InputError
from sordino_hw.spec.numbers import multiplier
from sordino_sim.golden.model import Golden

torch.set_num_threads(1)


def cbr(cin, cout, k=3, act=nn.ReLU, **options):
    return nn.Sequential(nn.Conv2d(cin, cout, k, padding=k // 2, bias=False, **options), nn.BatchNorm2d(cout), act())


class ResNetBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = cbr(3, 8)
        self.a, self.b = cbr(8, 16, stride=2), cbr(16, 16, act=nn.Identity)
        self.down = cbr(8, 16, 1, nn.Identity, stride=2)
        self.c, self.d = cbr(16, 16), cbr(16, 16, act=nn.Identity)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.b(self.a(x))
        y += self.down(x)
        y = F.relu(y, inplace=True)
        z = F.relu(self.d(self.c(y)) + y)
        return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1))


class InvertedResidual(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.stem = cbr(3, 8, act=act)
        self.expand, self.depth = cbr(8, 24, 1, act), cbr(24, 24, act=act, groups=24)
        self.project = cbr(24, 8, 1, nn.Identity)

    def forward(self, x):
        x = self.stem(x)
        return x + self.project(self.depth(self.expand(x)))


class CSP(nn.Module):
    """A YOLO-like block: split, bottleneck, concatenation."""

    def __init__(self):
        super().__init__()
        self.stem, self.m = cbr(3, 16, act=nn.SiLU), nn.Sequential(cbr(8, 8, 1, nn.SiLU), cbr(8, 8, act=nn.SiLU))
        self.out = cbr(24, 8, 1, nn.SiLU)

    def forward(self, x):
        a, b = self.stem(x).chunk(2, 1)
        return self.out(torch.cat([a, b, b + self.m(b)], 1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.mid, self.up = cbr(3, 8), cbr(8, 16), cbr(24, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = self.down(x)
        b = self.mid(F.max_pool2d(a, 2))
        return self.out(self.up(torch.cat([a, F.interpolate(b, scale_factor=2.0)], 1)))


class Speech(nn.Module):
    """One-dimensional convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv1d(3, 8, 5, 2, padding=2), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 3, padding="same", dilation=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.n(self.a(x))), 2)
        return self.head(F.relu(self.b(x)).mean(-1))


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(128, 5)
        self.register_buffer("threshold", torch.linspace(0.05, 0.3, 8))

    def forward(self, x):
        x = threshold_relu(self.b(threshold_relu(self.a(x), self.threshold)), torch.tensor(0.1))
        return self.head(x.flatten(1))


NETWORKS = {
    "resnet": (ResNetBlock, (3, 8, 8)),
    "mobilenet, silu": (lambda: InvertedResidual(nn.SiLU), (3, 8, 8)),
    "mobilenet, hardswish": (lambda: InvertedResidual(nn.Hardswish), (3, 8, 8)),
    "csp": (CSP, (3, 8, 8)),
    "u-net": (UNet, (3, 8, 8)),
    "speech": (Speech, (3, 32)),
    "sparse": (Sparse, (3, 8, 8)),
}


def trained_norms(model, x):
    """Gives batch norms statistics, and makes gains of both signs."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(m.weight, -1.3, 1.3)
            nn.init.uniform_(m.bias, -0.3, 0.3)
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(x)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name):
    torch.manual_seed(1)
    make, shape = NETWORKS[name]
    x = torch.randn(32, *shape)
    model = trained_norms(make(), x)
    q = quantize(model, x)
    test = torch.randn(8, *shape)
    for row in layerwise(q, test):
        assert row.largest <= 1, row
    with torch.no_grad():
        real = model.eval()(test)
    assert ((real - q(test)).norm() / real.norm()) < 0.1
    # The compiled binary computes what the graph does.
    integers = q.quantise_inputs(test)
    expected = q.graph.run(integers)
    result = Golden(compile_graph(q.graph)).run(integers)
    for out in q.graph.outputs:
        assert np.array_equal(result.outputs[out], expected[out])


def test_residuals_are_fused_and_norms_folded():
    q = quantize(ResNetBlock(), torch.randn(8, 3, 8, 8))
    nodes = {n.out.name: n for n in q.graph.nodes}
    assert not any("batch_norm" in str(n.target) for n in q.module.graph.nodes)
    assert [n for n in nodes if getattr(nodes[n], "residual_weight", None) is not None] == ["b.0", "d.0"]
    assert nodes["d.0"].inputs == ("c.0", "b.0")
    assert len(nodes) == 9  # input, stem, a, b with the sum, down, c, d with the sum, average, head


def test_scales_are_shared_and_zero_points_zero():
    q = quantize(UNet(), torch.randn(8, 3, 8, 8))
    values = q.graph.values
    parts = next(n for n in q.graph.nodes if n.kind == "concat").inputs
    assert len({values[p].scale for p in parts}) == 1
    quantisers = [n for n in q.module.graph.nodes if "quantize_per_tensor" in str(n.target)]
    assert quantisers and all(n.args[2] == 0 for n in quantisers)


@pytest.mark.parametrize("arch", ["ulx3s-85f", "icebreaker"])
def test_weights_are_not_clipped_and_lose_at_most_an_eighth(arch):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    q = quantize(model, torch.rand(16, 3, 8, 8), arch)
    for layer, node in zip((model[0], model[2]), (n for n in q.graph.nodes if isinstance(n, Conv)), strict=True):
        s_in, s_out = q.graph.values[node.inputs[0]].scale, node.out.scale
        factor = np.array([multiplier(int(m), int(s)) for m, s in zip(node.requant.mantissa, node.requant.shift, strict=True)])
        scale = factor * s_out / s_in
        real = layer.weight.detach().numpy()
        assert np.abs(node.weight * scale[:, None, None, None] - real).max() <= scale.max() / 2 * 1.0001
        largest = np.abs(node.weight).reshape(len(real), -1).max(1)
        assert (largest <= 127).all() and (largest >= 127 * 8 / 9 - 1).all()


def test_activation_ranges_follow_the_architecture():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    for arch, unsigned, signed in (("ulx3s-85f", 255, 127), ("icebreaker", 127, 63)):
        q = quantize(model, torch.rand(16, 1, 8, 8), arch, method="minmax")
        got = q.graph.run(q.quantise_inputs(torch.rand(64, 1, 8, 8)))
        a, b, c = (got[n.out.name] for n in q.graph.nodes)
        assert (a.min(), b.min()) >= (0, 0) and max(a.max(), b.max()) <= unsigned and a.max() > unsigned - 3
        assert c.min() < 0 and np.abs(c).max() <= signed + 1


def test_thresholds_are_between_two_integers():
    torch.manual_seed(3)
    q = quantize(Sparse(), torch.randn(32, 3, 8, 8))
    node = next(n for n in q.graph.nodes if isinstance(n, Conv))
    assert np.abs((node.requant.threshold - 0.5) * node.out.scale - np.linspace(0.05, 0.3, 8)).max() <= node.out.scale / 2 * 1.001
    y = q.graph.run(q.quantise_inputs(torch.randn(16, 3, 8, 8)))[node.out.name]
    for c, n in enumerate(node.requant.threshold):
        passed = y[:, c][y[:, c] > 0]
        assert passed.min() == n


def test_a_fixed_batch_and_several_inputs_and_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(2, 4, 3)

        def forward(self, x, y):
            s = F.relu(self.a(x) + self.b(y))
            return s, s.view(1, 4 * 36)

    x, y = torch.rand(6, 1, 8, 8), torch.randn(6, 2, 8, 8)
    q = quantize(Two(), [(x, y)])
    assert q.module.meta["batch"] == 1
    maps, flat = q(x, y)
    assert maps.shape == (6, 4, 6, 6) and flat.shape == (6, 144)
    assert torch.equal(maps.flatten(1), flat)
    assert all(row.largest <= 1 for row in layerwise(q, x, y))


def test_calibration_takes_a_loader_with_labels():
    x = torch.rand(20, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.arange(20)), batch_size=7)
    a, b = quantize(model, loader), quantize(model, x.numpy(), batch_size=7)
    assert [v.scale for v in a.graph.values.values()] == [v.scale for v in b.graph.values.values()]


def test_methods_spend_the_range_differently():
    """Heavy tails: the largest value, all but a thousandth of the values, or the least mean squared error."""
    torch.manual_seed(4)
    x = torch.randn(256, 1, 8, 8) ** 5
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    models = {m: quantize(model, x, method=m, quantile=0.999) for m in ("minmax", "percentile", "mse")}
    tops = {m: q.inputs[0].scale * 127 for m, q in models.items()}
    assert tops["minmax"] == pytest.approx(float(x.abs().max()), rel=1e-6)
    assert tops["percentile"] == pytest.approx(float(x.abs().quantile(0.999)), rel=0.1)
    error = {m: np.square(q.quantise_inputs(x)["input"] * q.inputs[0].scale - x.numpy()).mean() for m, q in models.items()}
    assert error["mse"] < error["minmax"] and error["mse"] < error["percentile"]


def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return x, torch.tensor(data.target)


def small_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def fit(model, x, y, steps, rate):
    optimiser = torch.optim.Adam(model.parameters(), rate)
    for i in range(steps):
        batch = slice(i * 64 % 1280, i * 64 % 1280 + 64)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def test_digits_agree_and_qat_trains():
    torch.manual_seed(5)
    x, y = digits()
    model = small_net()
    fit(model, x, y, 120, 5e-3)
    model.eval()
    test, labels = x[1280:], y[1280:]
    accuracy = float((model(test).argmax(1) == labels).float().mean())
    q = quantize(model, x[:256])
    agreement = top1_agreement(q, test)
    assert agreement.share > 0.99 and len(agreement.disagreements) == round((1 - agreement.share) * len(test))
    assert all(
        max(map(abs, np.subtract(d["torch_logits"], d["integer_logits"]))) < 3 * q.outputs[0].scale for d in agreement.disagreements
    )
    assert float((q(test).argmax(1) == labels).float().mean()) > accuracy - 0.02

    before = copy.deepcopy(model.state_dict())
    qat = prepare_qat(model, x[:256])
    assert qat.training
    first = fit(qat, x, y, 1, 0.0)
    last = fit(qat, x, y, 40, 1e-3)
    assert last < first
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    trained = qat.eval()(test)
    done = finish_qat(qat)
    assert (done(test) - trained).abs().max() <= 4 * done.outputs[0].scale
    for row in layerwise(done, test[:32]):
        assert row.largest <= 1, row
    assert compile_graph(done.graph).outputs == done.graph.outputs


def test_qat_dropout_follows_the_mode():
    torch.manual_seed(6)
    qat = prepare_qat(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout(0.5)), torch.rand(8, 1, 8, 8))
    x = torch.rand(4, 1, 8, 8)
    assert not torch.equal(qat(x), qat(x))
    qat.eval()
    assert torch.equal(qat(x), qat(x))


NET = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
GOOD = torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], r"^the calibration set is empty\. Pass a tensor .* some hundred are enough\.$"),
        (torch.zeros(0, 1, 8, 8), r"^the calibration set is empty\. .*"),
        (GOOD * float("nan"), r"^calibration batch 0: it holds NaN or infinite values\. Check the preprocessing\.$"),
        ([GOOD, GOOD * float("inf")], r"^calibration batch 1: it holds NaN or infinite values\. .*"),
        (
            [GOOD, GOOD[:, :, 1:]],
            r"^calibration batch 1: shape \(4, 1, 7, 8\) does not match \(N, 1, 8, 8\) with N >= 1\. Reshape or resize it\.$",
        ),
        (["text"], r"^calibration batch 0 must be a tensor \(N, C, H, W\), or .*; found str\..*"),
        (5, r"^calibration must be a tensor, an array or an iterable of batches, found int\.$"),
        (
            torch.rand(64),
            r"^Sequential does not take calibration batch 0 \(shape \(64,\)\): layer '0' \(Conv2d\(1, 2, .* was given shape \(1,\): .*",
        ),
    ],
)
def test_bad_calibration(calibration, message):
    with pytest.raises(InputError, match=message):
        quantize(NET, calibration)


def test_unknown_method():
    with pytest.raises(InputError, match=r"^unknown calibration method 'best': choose one of mse, percentile, minmax\.$"):
        quantize(NET, GOOD, method="best")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), r"^the model takes 1 inputs, found 0\. Pass one tensor for each\.$"),
        ((GOOD[:, :, 1:],), r"^input: shape \(4, 1, 7, 8\) does not match .*"),
        ((np.array(["a"]),), r"^input: dtype <U1 does not hold real numbers\. .*"),
        (([1.0],), r"^input: expected a tensor or an array of shape \(N, 1, 8, 8\), found list\.$"),
        ((GOOD / 0,), r"^input: it holds NaN or infinite values\. .*"),
    ],
)
def test_bad_inputs(given, message):
    with pytest.raises(InputError, match=message):
        quantize(NET, GOOD)(*given)


def test_another_event_width_is_refused():
    q = quantize(NET, GOOD, "ulx3s-85f")
    with pytest.raises(
        CompileError,
        match=r"quantised to 0\.\.255, but activations of icebreaker \(event_bits=8\) are 0\.\.127\. Quantise .*arch='icebreaker'",
    ):
        from_exported(q.module, "icebreaker")
    assert from_exported(q.module, preset("ulx3s-85f")).outputs == q.graph.outputs


def test_a_graph_without_scales_is_refused():
    module = torch.export.export(NET.eval(), (GOOD,)).module()
    with pytest.raises(
        CompileError, match=r"^placeholder 'input\w*' .*: this tensor is not quantised\. Quantise the model with sordino\.quantize"
    ):
        from_exported(module, "ulx3s-85f")


def test_average_pooling_takes_one_cycle_a_tap_where_eight_bits_do():
    q = quantize(nn.Sequential(nn.ReLU(), nn.AvgPool2d(3), nn.Flatten()), GOOD)
    pool = next(n for n in q.graph.nodes if isinstance(n, Lanewise) and n.label == "avgpool")
    assert not pool.wide
    assert all(row.largest <= 1 for row in layerwise(q, GOOD))
