"""Sparsity methods: values and gradients against their formulas, then export, quantisation and the golden model."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import sordino as sd
from sordino import nn as sn
from sordino.nn import compiled, send_on_delta
from sordino.nn.selection import kth_largest
from sordino.quantization import finish_qat, layerwise, prepare_qat
from sordino_compiler.capture import capture
from sordino_hw.spec.errors import CompileError, InputError

PENALISED = [
    ("l1", {}),
    ("hoyer", {}),
    ("transformed-l1", {"a": 0.3}),
    ("arts", {}),
    ("channel-thresholds", {"strength": 1e-3}),
    ("cats", {"temporal": 1e-3}),
    ("dal", {"sp_rate": 1e-2}),
]
RELU = ("relu", "l1", "hoyer", "transformed-l1", "arts")
"""In evaluation a ReLU, like CATS: in the default run that one speaks for them."""
DEPLOYED = [
    *(pytest.param(name, {}, marks=[pytest.mark.slow] if name in RELU else []) for name in sn.METHODS),
    ("dal", {"per": "layer"}),
    ("channel-thresholds", {"per": "layer"}),
    ("wta", {"scope": "channel", "rate": 0.4}),
    ("wta", {"scope": "position", "rate": 0.25}),
    ("wta", {"rate": 1.0}),
]


@pytest.fixture(autouse=True)
def _seeded(seed):
    torch.manual_seed(seed[1])


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        y = self.relu1(self.a(x))
        return self.c(self.relu2(self.b(y) + y))


def layer(name, *inputs, **options):
    made = sn.METHODS[name](**options)
    if inputs:
        made.calibrate(inputs)
    return made.double().train()


def column(parameter, x):
    """A parameter [] or [C], or [C, H, W], against `x` (N, C, H, W)."""
    return parameter.reshape(-1, 1, 1) if parameter.dim() == 1 else parameter


def positive(*shape):
    """Inputs away from the ReLU's corner, both signs."""
    x = torch.rand(shape, dtype=torch.float64) + 0.1
    return x * torch.randint(0, 2, shape).mul(2).sub(1)


# -- penalties: values and gradients -------------------------------------------------------------------------------


def test_hoyer_is_the_formula_and_its_gradient():
    x, hoyer = positive(2, 3, 4, 4).requires_grad_(), layer("hoyer", strength=0.5)
    hoyer(x)
    cost = hoyer.take_penalty()
    y = x.detach().relu().flatten(1)
    s1, s2 = y.sum(1, keepdim=True), y.square().sum(1, keepdim=True)
    assert cost.item() == pytest.approx(0.5 * (s1**2 / s2).mean().item())
    cost.backward()
    expected = 0.5 / 2 * (y > 0) * 2 * (s1 / s2) * (1 - y * s1 / s2)
    assert torch.allclose(x.grad.flatten(1), expected)


def test_hoyer_counts_equal_activations_and_forgives_silence():
    hoyer = layer("hoyer", strength=1.0)
    hoyer(torch.tensor([[3.0, 3.0, 3.0, -1.0]], requires_grad=True))
    assert hoyer.take_penalty().item() == pytest.approx(3)
    x = torch.full((1, 4), -1.0, requires_grad=True)
    hoyer(x)
    cost = hoyer.take_penalty()
    cost.backward()
    assert cost.item() == 0 and bool((x.grad == 0).all())


def test_transformed_l1_is_the_formula_and_its_gradient():
    x, tl1 = positive(2, 3, 4, 4).requires_grad_(), layer("transformed-l1", strength=0.5, a=0.3)
    tl1(x)
    cost = tl1.take_penalty()
    y = x.detach().relu()
    assert cost.item() == pytest.approx((0.5 * 1.3 * y / (0.3 + y)).sum().item() / 2)
    cost.backward()
    assert torch.allclose(x.grad, 0.5 / 2 * (y > 0) * 0.3 * 1.3 / (0.3 + y) ** 2)


def test_transformed_l1_lies_between_the_count_and_l1():
    x = torch.tensor([[0.5, 2.0, -1.0]])
    y = x.relu()
    count, l1 = (layer("transformed-l1", strength=1.0, a=a).cost(x, y).item() for a in (1e-6, 1e6))
    assert count == pytest.approx(2, rel=1e-4) and l1 == pytest.approx(2.5, rel=1e-4)


@pytest.mark.parametrize("name, options", [("hoyer", {}), ("transformed-l1", {}), ("l1", {}), ("cats", {"frames": 2})])
def test_smooth_penalties_pass_gradcheck(name, options):
    x = positive(2, 2, 2, 2)
    made = layer(name, x, **options)
    assert gradcheck(lambda x: made.cost(x, made.activate(x)), x.requires_grad_())


@pytest.mark.parametrize("name, options", PENALISED, ids=[n for n, _ in PENALISED])
def test_descending_the_penalty_lowers_it(name, options):
    model = sd.sparsify(net()[:2], name, calibration=torch.randn(8, 3, 6, 6), **options).train()
    x = torch.randn(8, 3, 6, 6)
    begin = model[1].step.mean().item() if name == "dal" else None
    optimiser, seen = torch.optim.SGD(model.parameters(), 0.05), []
    for _ in range(12):
        optimiser.zero_grad()
        with sn.frames(4):
            model(x)
        value = sn.penalty(model)
        value.backward()
        optimiser.step()
        coefficient = float(model[1].coefficient) if name == "arts" else 1
        seen.append(value.item() / coefficient)
    if name == "dal":  # its gradient to q is flipped on purpose: q rises, until differences are 0
        assert model[1].step.mean() > begin
    else:
        assert seen[-1] < seen[0]


def test_arts_raises_its_coefficient_until_the_target():
    arts = layer("arts", torch.ones(4, 10), strength=1e-3, target=0.5, rate=0.1, momentum=1.0)
    dense, sparse = torch.ones(4, 10, requires_grad=True), torch.eye(4, 10).requires_grad_()
    arts(dense)
    assert arts.take_penalty().item() == pytest.approx(1e-3 * 10)
    assert arts.coefficient.item() == pytest.approx(1e-3 * np.exp(0.1))  # d / (target * d0) - 1 = 1
    arts(sparse)
    assert arts.coefficient.item() == pytest.approx(1e-3 * np.exp(0.1 - 0.1 * (1 - 0.1 / 0.5)))
    for _ in range(200):
        arts(dense)
    assert arts.coefficient.item() == arts.most
    fresh = layer("arts")
    fresh.load_state_dict(arts.state_dict())
    assert fresh.coefficient == arts.coefficient and fresh.reference == 1


# -- learned thresholds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3, 1, 1)])
def test_hard_threshold_and_its_written_gradient(shape):
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    t = torch.full(shape, 0.6, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    y = sn.hard_threshold(x, t, 0.5)
    y.backward(g)
    mask = x.detach() >= 0.6
    assert torch.equal(y.detach(), x.detach() * mask) and torch.equal(x.grad, g * mask)
    near = (x.detach() - 0.6).abs() < 0.15
    assert near.any() and torch.allclose(t.grad, (-g * near / 0.5).sum_to_size(shape))


def test_hard_threshold_gradient_is_that_of_the_mean():
    """Over evenly spread inputs the surrogate's mean is the finite difference of the mean output."""
    x = torch.linspace(0, 2, 200_001, dtype=torch.float64)
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    sn.hard_threshold(x, t, 0.4).mean().backward()
    high, low = (sn.hard_threshold(x, t.detach() + d, 0.4).mean() for d in (0.01, -0.01))
    assert t.grad.item() == pytest.approx(((high - low) / 0.02).item(), rel=1e-3)


def test_channel_thresholds_start_at_the_median_and_pay_by_the_formula():
    x = torch.randn(6, 3, 5, 5, dtype=torch.float64) + 1
    x[:, 2] = -1
    made = layer("channel-thresholds", x, strength=0.1, raising=2.0)
    expected = [x[:, c][x[:, c] > 0].median().item() for c in range(2)]
    assert made.theta.tolist() == pytest.approx([*expected, made.floor])
    made.theta.data[2] = 0.5
    made(x)
    cost = made.take_penalty()
    t = made.theta.detach()
    assert cost.item() == pytest.approx(0.1 * (x.relu().sum().item() / 6 + 2 * (1 / t**2).sum().item()))
    cost.backward()
    assert torch.allclose(made.theta.grad, -0.1 * 2 * 2 / t**3)


def test_channel_thresholds_train_as_they_evaluate():
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    made = layer("channel-thresholds", x)
    assert torch.equal(made(x), made.eval()(x))


def test_learned_layers_ask_for_calibration():
    x = torch.randn(2, 3, 4, 4)
    for name in ("channel-thresholds", "dal", "cats"):
        model = sd.sparsify(net(), name)
        assert torch.isfinite(model(torch.randn(2, 3, 8, 8))).all()
        with pytest.raises(InputError, match=r"start from data; call sordino\.sparsify with calibration="):
            sn.METHODS[name]().train()(x)
    sn.DAL(per="layer", step=0.5).train()(x)  # nothing to learn from data


def test_learned_layers_resume_from_a_state_dict():
    x = torch.randn(4, 3, 8, 8)
    for name in ("channel-thresholds", "dal", "wta"):
        model = sd.sparsify(net(), name, calibration=x)
        fresh = sd.sparsify(net(), name)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh(x), model(x)) and fresh[1].ready


# -- FATReLU -------------------------------------------------------------------------------------------------------


def test_fatrelu_sweep_stops_at_the_floor():
    x = torch.randn(16, 3, 8, 8)
    model = sd.sparsify(net(), "fatrelu", calibration=x)
    assert not [p for p in model.parameters() if p.shape == ()]
    plain = sd.sparsify(net(), "relu")
    plain.load_state_dict(model.state_dict(), strict=False)

    def score(m):
        return -float((m(x) - plain(x)).square().mean().detach())

    free = sn.sweep_thresholds(model, x, score, quantiles=[0.8, 0.0, 0.4])
    assert [p.quantile for p in free] == [0, 0.4, 0.8] and free[0].score == 0
    densities = [p.density for p in free]
    assert densities[0] > densities[1] > densities[2]
    assert sum(n for n, _ in sn.density(model, x).values()) < sum(n for n, _ in sn.density(plain, x).values())
    kept = sn.sweep_thresholds(model, x, score, floor=free[1].score, quantiles=[0.0, 0.4, 0.8])
    assert kept == free
    assert score(model) == free[1].score


# -- winners take all ----------------------------------------------------------------------------------------------


def test_wta_keeps_the_top_of_each_scope():
    x = torch.rand(3, 8, 5, 5) + 0.1
    top = {s: sn.WTA(0.25, s)(x) for s in ("layer", "channel", "position")}
    for image, y in zip(x, top["layer"], strict=True):
        assert int((y > 0).sum()) == 50 and y[y > 0].min() >= image[y == 0].max()
    alive = top["channel"].sum((2, 3)) > 0
    assert alive.sum(1).tolist() == [2, 2, 2]
    assert torch.equal(top["channel"], x * alive[..., None, None])
    means = x.mean((2, 3))
    assert all(m[a].min() > m[~a].max() for m, a in zip(means, alive, strict=True))
    assert bool(((top["position"] > 0).sum(1) == 2).all())
    assert torch.equal(top["position"].amax(1), x.amax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [5, 700, 2051])
def test_the_kth_largest_of_each_row_is_that_of_sorting(dtype, n):
    """Of rows with ties, zeros, neighbouring floats and infinities, long enough for the counting and too short for it."""
    x = torch.randn(9, n)
    x[1] = -x[1].abs()
    x[2, ::2] = 0.0
    x[3] = x[3].round()
    x[4] = 1 + torch.arange(n).remainder(7) * 2.0**-23
    x[5, 0], x[5, 1] = float("inf"), -float("inf")
    x[6] = x[6].abs() * 1e-40
    x[7] = 3.0
    x = x.to(dtype)
    order = x.sort(-1, descending=True).values.clamp_min(0)
    for rank in {1, 2, n // 3, n // 2, n - 1, n}:
        assert torch.equal(kth_largest(x, rank), order[:, rank - 1 : rank])
    ranks = torch.randint(1, n + 1, (9,))
    assert torch.equal(kth_largest(x, ranks), order.gather(1, ranks[:, None] - 1))
    assert torch.equal(kth_largest(x.reshape(3, 3, n), 2), order[:, 1:2].reshape(3, 3, 1))
    assert torch.equal(kth_largest(x.T, 3), x.T.sort(-1, descending=True).values.clamp_min(0)[:, 2:3])


@pytest.mark.parametrize("scope", ["layer", "channel", "position"])
def test_wta_gradient_passes_winners_only(scope):
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    made = layer("wta", rate=0.4, scope=scope)
    y = made(x)
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0).double()) and 0 < x.grad.mean() <= 0.5


def test_wta_schedule_falls_from_one_to_the_rate():
    made = sn.WTA(0.2, schedule=10).train()
    rates = []
    for _ in range(12):
        rates.append(made.rate_now())
        made(torch.rand(1, 40))
    assert rates[0] == 1 and rates[5] == pytest.approx(0.6) and rates[10] == rates[11] == 0.2
    assert all(a >= b for a, b in pairwise(rates))
    assert made.eval().rate_now() == 0.2


@pytest.mark.parametrize("scope", ["layer", "channel", "position"])
def test_wta_thresholds_have_the_same_mean_rate(scope):
    x = torch.randn(8, 6, 5, 5) * torch.linspace(0.5, 2, 6)[:, None, None]
    made = sn.WTA(0.3, scope)
    made.calibrate([x[:4], x[4:]])
    found = made.difference([x[:4], x[4:]])
    assert found.threshold == pytest.approx(found.exact, abs=1 / x.numel())
    assert 0 < found.changed < 2 * found.exact and 0 < found.error < 1
    y, z = made.eval()(x), sn.threshold_relu(x, made.threshold)
    assert found.changed == pytest.approx(((y != 0) != (z != 0)).float().mean().item())


def test_wta_follows_its_thresholds_in_training_and_refuses_to_export_without():
    made = sn.WTA(0.3, every=2)
    with pytest.raises(Exception, match="no threshold to export yet"):
        torch.export.export(made.eval(), (torch.rand(2, 40),))
    made.train()
    for _ in range(3):
        made(torch.rand(4, 500))
    assert made.threshold.item() == pytest.approx(0.7, abs=0.05)


# -- temporal methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["layer", "channel", "neuron"])
def test_dal_forward_and_published_gradients(per):
    x = (torch.randn(6, 3, 4, 4, dtype=torch.float64) * 2).requires_grad_()
    made = layer("dal", x.detach(), per=per, relative=0.4, levels=6)
    assert tuple(made.theta.shape) == {"layer": (), "channel": (3,), "neuron": (3, 4, 4)}[per]
    made.theta.data.neg_()  # q = |theta|
    q, g = column(made.step.detach(), x), torch.randn(6, 3, 4, 4, dtype=torch.float64)
    y = made(x)
    y.backward(g)
    steps = (x.detach().relu() / q).round()
    assert bool((steps > 6).any())
    assert torch.allclose(y.detach(), steps.clamp(max=6) * q)
    assert torch.equal(x.grad, g * ((x > 0) & (steps <= 6)))
    flipped = -(g * steps.clamp(max=6)).sum_to_size(q.shape).reshape(made.theta.shape)
    assert torch.allclose(made.theta.grad, -flipped)  # once more for the sign of theta


def test_dal_loss_is_the_formula_and_raises_the_step():
    x = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    made = layer("dal", x, sp_rate=0.1, fan_out=72.0, per="channel", frames=4)
    y = made(x).detach().unflatten(0, (2, 4))
    cost = made.take_penalty()
    assert cost.item() == pytest.approx(0.1 * 72 * (y[:, 1:] - y[:, :-1]).abs().mean().item())
    cost.backward()
    assert bool((made.theta.grad < 0).all())  # descent raises q


@pytest.mark.parametrize("name", ["dal", "cats"])
def test_frames_come_from_the_shape_the_option_or_the_context(name):
    x = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    flat = x.flatten(0, 1)
    options = {"dal": {"per": "layer", "step": 0.2}, "cats": {"threshold": 0.5}}[name]
    made = layer(name, **options)
    outputs, costs = [], []
    outputs.append(made(x).flatten(0, 1))
    costs.append(made.take_penalty())
    with sn.frames(3):
        outputs.append(made(flat))
        costs.append(made.take_penalty())
    optional = layer(name, **options, frames=3)
    outputs.append(optional(flat))
    costs.append(optional.take_penalty())
    assert all(torch.equal(outputs[0], y) for y in outputs) and all(costs[0] == c for c in costs)
    still = made(flat)
    assert torch.equal(still, outputs[0]) == (name == "dal")  # CATS holds values from frame to frame, DAL does not
    with pytest.raises(InputError, match="a batch of 6 is no whole number of clips of 4 frames"), sn.frames(4):
        made(flat)


def test_cats_sends_on_delta_and_never_drifts():
    x = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64).cumsum(1) * 0.3
    made = layer("cats", threshold=0.4, spatial=0.5, temporal=0.25)
    y = made(x)
    z = x.relu()
    assert torch.equal(y[:, 0], z[:, 0]) and bool(((y - z).abs() < 0.4).all())
    sent = (y[:, 1:] != y[:, :-1]).double().mean()
    assert 0 < sent < (z[:, 1:] != z[:, :-1]).double().mean()
    expected = 0.5 * y.sum() / 12 + 0.25 * (y[:, 1:] - y[:, :-1]).abs().sum() / 10
    assert made.take_penalty().item() == pytest.approx(expected.item())


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_cats_gradients_are_those_of_the_recursion(per):
    x = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    g = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    made = layer("cats", x.flatten(0, 1), per=per, relative=1.0, spatial=0.2, temporal=0.3)
    theta = made.theta.detach().clone().requires_grad_()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (made(a) * g).sum().add(made.take_penalty()).backward()
    sent = [b[:, 0].relu()]
    for t in range(1, 6):
        d = b[:, t].relu() - sent[-1]
        rise, fall = (sn.hard_threshold(s * d, column(theta, d), made.width) for s in (1, -1))
        sent.append(sent[-1] + rise - fall)
    y = torch.stack(sent, 1)
    penalty = 0.2 * y.sum() / 12 + 0.3 * (y[:, 1:] - y[:, :-1]).abs().sum() / 10
    ((y * g).sum() + penalty).backward()
    assert torch.allclose(a.grad, b.grad) and torch.allclose(made.theta.grad, theta.grad) and bool((theta.grad != 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape, theta", [((3, 5, 4, 6, 6), (4, 1, 1)), ((3, 5, 4, 6, 6), ()), ((3, 5, 7), (7,)), ((3, 1, 7), ())])
@pytest.mark.parametrize("threads", [1, 2])
def test_cats_compiled_loop_equals_the_tensor_operations(dtype, shape, theta, threads, monkeypatch):
    monkeypatch.setattr(compiled, "LARGE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, t = torch.randn(shape, dtype=dtype), torch.rand(theta, dtype=dtype) + 0.1
    x[0, 0].flatten()[0], x[1, -1] = 0.0, x[1, 0]
    grads = torch.randn(shape, dtype=dtype), torch.tensor(0.3, dtype=dtype), torch.tensor(-0.2, dtype=dtype)
    ours, theirs = send_on_delta._forward_compiled(x, t), send_on_delta._forward(x, t)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1:], theirs[1:])
    back = [f(x, ours[0], t, 0.5, *grads) for f in (send_on_delta._backward_compiled, send_on_delta._backward)]
    torch.testing.assert_close(*back)
    assert shape[1] == 1 or bool((back[0][1] != 0).any())


def test_cats_lets_nans_through():
    x = torch.randn(1, 3, 8)
    x[0, 1, 2] = float("nan")
    for f in (send_on_delta._forward_compiled, send_on_delta._forward):
        sent, moved, total = f(x, torch.tensor(0.1))
        assert sent[0, 1:, 2].isnan().all() and int(sent.isnan().sum()) == 2 and moved.isnan() and total.isnan()


def test_clips_and_changes():
    x = torch.randn(2, 1, 3, 8, 8).expand(-1, 4, -1, -1, -1).clone()
    x[:, 2:] += 0.5
    model = sn.Clips(sd.sparsify(net(), "relu")).eval()
    assert torch.allclose(model(x), torch.stack([model.model(x[:, t]) for t in range(4)]).mean(0), atol=1e-6)
    counts = sn.changes(model, x)
    changed, total = counts["model.1"]
    assert total == 2 * 3 * 8 * 64 and 0 < changed <= total // 3  # of three transitions, one shows a change
    coarse = sn.Clips(sd.sparsify(net(), "dal", per="layer", step=5.0)).eval()
    assert sn.changes(coarse, x)["model.1"][0] < changed


def test_fan_out_counts_the_products_of_an_activation():
    assert sn.fan_out(net(), torch.randn(1, 3, 8, 8)) == {"1": 4 * 9, "5": 10}
    assert sn.fan_out(Residual(), torch.randn(1, 3, 6, 6)) == {"relu1": 8 * 9, "relu2": 6}


# -- to the array --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options", DEPLOYED)
def test_export_quantise_compile_and_run(name, options):
    x = torch.randn(12, 3, 8, 8)
    model = sd.sparsify(net(), name, calibration=x, **options)
    first = torch.export.export(model[:2], (x,)).module()(x)
    if name != "wta" or options.get("rate") == 1:
        assert torch.equal(first, model[:2](x))  # WTA's ranking becomes thresholds
    quantised = sd.quantize(model, x)
    integers = quantised.torch_values(x)["0"]
    assert (integers != 0).mean() == pytest.approx((first != 0).double().mean().item(), abs=0.01)
    assert max(row.largest for row in layerwise(quantised, x)) <= 1
    assert sd.compare(sd.Accelerator(sd.compile(quantised)), quantised.graph, x)


@pytest.mark.parametrize("name", ["channel-thresholds", "dal", "wta"])
def test_methods_survive_quantisation_aware_training(name):
    x = torch.randn(8, 3, 8, 8)
    qat = prepare_qat(sd.sparsify(net(), name, calibration=x), x)
    optimiser = torch.optim.SGD(qat.parameters(), 1e-3)
    before = [p.detach().clone() for p in qat.parameters()]
    qat(x).square().mean().backward()
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, qat.parameters(), strict=True))
    quantised = finish_qat(qat)
    assert sd.compare(sd.Accelerator(sd.compile(quantised)), quantised.graph, x)


def test_dal_steps_are_the_scales_of_the_array():
    x = torch.randn(8, 3, 8, 8)
    model = nn.Sequential(sn.DAL(per="layer", step=0.04, rectify=False), *sd.sparsify(net(), "dal", calibration=x, per="layer"))
    graph = sd.quantize(model.eval(), x).graph
    assert graph.inputs[0].scale == model[0].step.item() and graph.inputs[0].signed
    scales = [v.scale for v in graph.values.values()]
    assert model[2].step.item() in scales and model[6].step.item() in scales


def test_dal_steps_per_channel_move_into_the_weights():
    """Without any other quantisation: the same integers at one step per tensor, and the same output."""
    x = torch.randn(8, 3, 8, 8)
    model = sd.sparsify(net(), "dal", calibration=x)
    module = capture(model, x)
    recorder = Recorder(module)
    with torch.no_grad():
        assert torch.allclose(recorder.run(x), model(x), atol=1e-5)
        integers = [model[:2](x) / column(model[1].step, x), model[:6](x) / column(model[5].step, x)]
    assert len(recorder.rounded) == 2
    for (y, step), expected in zip(recorder.rounded, integers, strict=True):
        assert step.dim() == 0 and expected.max() > 3
        wanted = nn.functional.max_pool2d(expected, 2) if y.shape != expected.shape else expected
        assert torch.equal((y / step).round(), wanted.round())


class Recorder(torch.fx.Interpreter):
    """Keeps what `round_to_step` returns, and its step."""

    def run(self, *inputs):
        self.rounded = []
        return super().run(*inputs)

    def call_function(self, target, args, kwargs):
        y = super().call_function(target, args, kwargs)
        if "round_to_step" in str(target):
            self.rounded.append((y, args[1]))
        return y


def test_dal_steps_per_channel_pass_pooling_upsampling_and_depthwise_layers():
    x = torch.randn(6, 3, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )
    model = sd.sparsify(model, "dal", calibration=x).eval()
    with torch.no_grad():
        assert torch.allclose(capture(model, x)(x), model(x), atol=1e-5)
    quantised = sd.quantize(model, x, arch="icebreaker")  # 8-bit events: 127 steps
    assert max(row.largest for row in layerwise(quantised, x)) <= 1
    assert sd.compare(sd.Accelerator(sd.compile(quantised)), quantised.graph, x)


def test_dal_across_a_concatenation_needs_the_same_step():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)
            self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.c(torch.cat([self.relu1(self.a(x)), self.relu2(self.b(x))], 1))

    x = torch.randn(6, 3, 6, 6)
    quantised = sd.quantize(sd.sparsify(Two(), "dal", per="layer", step=0.1), x)
    assert sd.compare(sd.Accelerator(sd.compile(quantised)), quantised.graph, x)
    with pytest.raises(CompileError, match=r"the model fixes different steps for them \(0\.1\d* and 0\.3\d*\)"):
        sd.quantize(sd.sparsify(Two(), "dal", per="layer", step={"relu1": 0.1, "relu2": 0.3}), x)


def test_dal_across_a_residual_needs_one_step_per_layer():
    x = torch.randn(8, 3, 6, 6)
    quantised = sd.quantize(sd.sparsify(Residual(), "dal", calibration=x, per="layer"), x)
    assert sd.compare(sd.Accelerator(sd.compile(quantised)), quantised.graph, x)
    with pytest.raises(CompileError, match="Use one step per layer here: per='layer'"):
        sd.quantize(sd.sparsify(Residual(), "dal", calibration=x), x)
    with pytest.raises(InputError, match="a step per neuron is for software only"):
        sd.quantize(sd.sparsify(net(), "dal", calibration=torch.randn(8, 3, 8, 8), per="neuron"), torch.randn(8, 3, 8, 8))


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("hoyer", {"strength": -1}, "Hoyer: strength must not be negative, not -1"),
        ("transformed-l1", {"a": 0}, "TransformedL1: a must be positive, not 0"),
        ("fatrelu", {"quantile": 1}, r"FATReLU: quantile must be in \[0, 1\), not 1"),
        ("arts", {"target": 0}, "ARTS: target must be above 0 and at most 1, not 0"),
        ("arts", {"strength": 2.0}, "ARTS: 0 < least <= strength <= most does not hold for 1e-08, 2.0, 1.0"),
        ("channel-thresholds", {"per": "neuron"}, "ChannelThresholds: per must be 'channel' or 'layer', not 'neuron'"),
        ("wta", {"rate": 0}, "WTA: rate must be above 0 and at most 1, not 0"),
        ("wta", {"scope": "row"}, "WTA: scope must be one of 'layer', 'channel', 'position', not 'row'"),
        ("dal", {"step": -1.0}, "DAL: the start value must be positive, not -1.0"),
        ("cats", {"width": 0}, "CATS: relative and width must be positive, not 0.25, 0"),
    ],
)
def test_options_out_of_range_are_named(name, options, text):
    with pytest.raises(InputError, match=f"^{text}$"):
        sn.METHODS[name](**options)
