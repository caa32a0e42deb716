"""Plain ReLU, L1 and STAR: formulas, gradients, and what `sparsify` does to a model."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sordino as sd
from sordino.nn import DAL, L1, STAR, WTA, PlainReLU, density, penalty, search_thresholds
from sordino.train import accuracy


def spread(*shape, seed=0):
    """Double values in -2..2, none of them within 0.01 of 0 or of 0.5, where the functions have their steps."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double) * 4 - 2
    for edge in (0.0, 0.5):
        near = (x - edge).abs() < 0.01
        x = torch.where(near, x + 0.05, x)
    return x


def star(threshold, **options):
    layer = STAR(**options).double()
    layer.threshold = torch.as_tensor(threshold, dtype=torch.double)
    return layer


class Net(nn.Module):
    """Two ReLUs of different widths, one of them nested."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.fc1 = nn.Linear(4 * 36, 8)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(self.head(x).flatten(1))))


class Block(nn.Sequential):
    def __init__(self, cin, cout):
        super().__init__(nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU())


class Deep(nn.Module):
    """Four ReLUs: stem.1, body.0.1, body.1.1, relu."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU())
        self.body = nn.Sequential(Block(8, 8), Block(8, 8))
        self.fc1, self.relu, self.fc2 = nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 10)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(self.body(self.stem(x)).flatten(1))))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return F.relu(self.fc(x))


class Mixed(Functional):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.fc(self.fc(x).relu()))


class Shared(nn.Module):
    """One ReLU module in two places of different width."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(4, 3), nn.Linear(3, 5), nn.ReLU()

    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(x))))


# -- formulas and gradients ------------------------------------------------------------------------------------------


def test_forward_functions():
    x = torch.tensor([[-1.0, 0.0, 0.2, 0.5, 0.9]], dtype=torch.double)
    assert PlainReLU()(x).tolist() == [[0, 0, 0.2, 0.5, 0.9]]
    assert L1()(x).tolist() == [[0, 0, 0.2, 0.5, 0.9]]
    assert star(0.5)(x).tolist() == [[0, 0, 0, 0.5, 0.9]]


def test_star_in_training_may_pass_what_evaluation_cuts():
    x = torch.tensor([[-1.0, 0.2, 0.9]], dtype=torch.double)
    layer = star(0.5, forward="relu")
    assert layer.train()(x).tolist() == [[0, 0.2, 0.9]]
    assert layer.eval()(x).tolist() == [[0, 0, 0.9]]


@pytest.mark.parametrize("threshold", [0.5, [0.5, 0.3, 0.9]], ids=["layer", "channel"])
@pytest.mark.parametrize("forward", ["relu", "threshold"])
def test_star_penalty_is_the_formula(threshold, forward):
    x = spread(4, 3, 2, 2)
    layer = star(threshold, strength=0.25, forward=forward, per="layer" if threshold == 0.5 else "channel")
    layer.train()(x)
    t = torch.as_tensor(threshold, dtype=torch.double).reshape(-1, 1, 1)
    near = x.abs() * ((x > 0) & (x < t))
    torch.testing.assert_close(layer.take_penalty(), 0.25 * near.sum() / 4)
    assert layer.take_penalty() is None


@pytest.mark.parametrize(
    "layer", [PlainReLU(), L1(0.3), star(0.5, strength=0.3), star(0.5, strength=0.3, forward="relu")], ids=repr
)
def test_gradients_equal_finite_differences(layer):
    layer.train()

    def loss(x):
        y = layer(x)
        cost = layer.take_penalty()
        return y.square().sum() + (0 if cost is None else cost)

    assert torch.autograd.gradcheck(loss, spread(3, 4).requires_grad_(), eps=1e-4)


def test_penalty_gradient_of_star_is_in_the_band_only():
    x = torch.tensor([[-1.0, 0.1, 0.4, 0.6, 2.0]], dtype=torch.double, requires_grad=True)
    layer = star(0.5, strength=2.0).train()
    layer(x)
    layer.take_penalty().backward()
    assert x.grad.tolist() == [[0, 2, 2, 0, 0]]


def test_no_penalty_in_evaluation():
    model = sd.sparsify(Net(), "l1").eval()
    model(torch.rand(2, 1, 8, 8))
    assert penalty(model) is None


def test_penalty_is_the_sum_over_layers_and_calls():
    model = sd.sparsify(Shared(), "l1", strength=0.5).train()
    x = torch.rand(6, 4)
    a = model.a(x).relu()
    b = model.b(a).relu()
    model(x)
    torch.testing.assert_close(penalty(model), 0.5 * (a.sum() + b.sum()) / 6)
    assert penalty(model) is None


# -- sparsify --------------------------------------------------------------------------------------------------------


def test_sparsify_copies_and_replaces_everywhere():
    model = Net()
    sparse = sd.sparsify(model, "l1", strength=0.5)
    assert isinstance(model.relu, nn.ReLU) and isinstance(model.head[1], nn.ReLU)
    assert isinstance(sparse.relu, L1) and isinstance(sparse.head[1], L1) and sparse.relu.strength == 0.5
    sparse.fc1.weight.data.zero_()
    assert model.fc1.weight.abs().sum() > 0
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(sd.sparsify(model, "relu")(x), model(x))


def test_sparsify_replaces_a_model_that_is_a_relu_and_other_methods():
    assert isinstance(sd.sparsify(nn.ReLU(), "l1"), L1)
    assert isinstance(sd.sparsify(sd.sparsify(Net(), "l1"), "star").relu, STAR)


def test_sparsify_without_calibration_keeps_a_module_that_is_called_twice_and_the_training_mode():
    sparse = sd.sparsify(Shared().eval(), "star")
    assert [name for name, _ in sd.nn.sites(sparse)] == ["relu"] and not sparse.relu.training


def test_options_by_module_path():
    sparse = sd.sparsify(Net(), "star", strength={"relu": 0.5}, quantile=0.7)
    assert (sparse.relu.strength, sparse.head[1].strength) == (0.5, STAR().strength)
    assert sparse.relu.quantile == sparse.head[1].quantile == 0.7


# -- a method for each layer -------------------------------------------------------------------------------------------


def kinds(model):
    return {name: type(m).__name__ for name, m in sd.nn.sites(model)}


def test_each_layer_gets_the_method_of_its_pattern():
    sparse = sd.sparsify(Deep(), {"stem.*": "star", "body.?.1": ("l1", {"strength": 0.5}), "relu": None})
    assert kinds(sparse) == {"stem.1": "STAR", "body.0.1": "L1", "body.1.1": "L1", "relu": "ReLU"}
    assert sparse.body[0][1].strength == sparse.body[1][1].strength == 0.5 and sparse.body[0][1] is not sparse.body[1][1]


def test_the_path_goes_before_patterns_and_these_before_the_rest():
    sparse = sd.sparsify(Deep(), {"*": "l1", "body.*": "star", "body.1.1": None})
    assert kinds(sparse) == {"stem.1": "L1", "body.0.1": "STAR", "body.1.1": "ReLU", "relu": "L1"}


def test_types_stand_for_what_is_inside_them():
    assert kinds(sd.sparsify(Deep(), {Block: "wta", "*": "l1"})) == {
        "stem.1": "L1",
        "body.0.1": "WTA",
        "body.1.1": "WTA",
        "relu": "L1",
    }
    mixed = sd.sparsify(Deep(), {Block: "wta", "stem.1": "l1"})
    assert kinds(mixed)["relu"] == "ReLU"
    again = sd.sparsify(mixed, {L1: "star", nn.ReLU: "hoyer"})
    assert kinds(again) == {"stem.1": "STAR", "body.0.1": "WTA", "body.1.1": "WTA", "relu": "Hoyer"}


def test_keys_that_agree_may_overlap():
    assert kinds(sd.sparsify(Deep(), {"body.*": "l1", "*.1": ("l1", {})}))["body.0.1"] == "L1"


def test_common_options_go_to_the_methods_that_have_them():
    sparse = sd.sparsify(Deep(), {"stem.1": "star", "body.0.1": ("l1", {"strength": 0.5}), "*": "wta"}, strength=0.1, quantile=0.7)
    assert (sparse.stem[1].strength, sparse.stem[1].quantile, sparse.body[0][1].strength) == (0.1, 0.7, 0.5)
    assert sparse.relu.rate == WTA().rate
    by_path = sd.sparsify(Deep(), {"*": ("l1", {"strength": {"relu": 0.5}})})
    assert (by_path.relu.strength, by_path.stem[1].strength) == (0.5, L1().strength)


def test_penalties_of_all_methods_add_up():
    sparse = sd.sparsify(
        Deep(), {"stem.*": ("l1", {"strength": 0.5}), Block: "hoyer", "relu": "wta"}, cost={"stem.1": 2.0, "body.0.1": 1.0}
    )
    x = torch.rand(5, 1, 8, 8)
    sparse.train()(x)
    stem = sparse.stem(x)
    first = sparse.body[0](stem)
    expected = 2 * 0.5 * stem.sum() / 5 + sparse.body[0][1].cost(first, first)
    penalty(sparse)
    sparse(x)
    torch.testing.assert_close(penalty(sparse), expected)


@pytest.mark.parametrize("cost", ["fanout", "cycles", "measured"])
def test_costs_weigh_the_layers_with_a_method(cost):
    x = torch.rand(16, 1, 8, 8)
    torch.manual_seed(0)
    model = Deep().eval()
    sparse = sd.sparsify(
        model, {"stem.*": "l1", Block: "star"}, calibration=x, cost=sd.cost(model, x) if cost == "measured" else cost
    )
    layers = {n: m for n, m in sd.nn.sites(sparse) if not isinstance(m, nn.ReLU)}
    assert list(layers) == ["stem.1", "body.0.1", "body.1.1"]
    counts = {n: c for n, (c, _) in density(sparse, x).items() if n in layers}
    assert sum(counts[n] * m.cost_weight for n, m in layers.items()) / sum(counts.values()) == pytest.approx(1.0)


def test_layers_that_stay_are_not_calibrated_anew():
    x = torch.rand(20, 1, 8, 8)
    once = sd.sparsify(Deep(), {"relu": ("star", {"quantile": 0.5})}, calibration=x)
    once.relu.threshold.fill_(0.125)
    twice = sd.sparsify(once, {Block: "dal"}, calibration=x)
    assert twice.relu.threshold == 0.125 and isinstance(twice.body[0][1], DAL) and twice.body[0][1].ready


def test_a_mixed_network_trains_resumes_and_runs_on_the_array(digits, tmp_path):
    torch.manual_seed(0)
    plain, data = Deep(), [tuple(t[:128] for t in part) for part in (digits.train, digits.validation)]
    methods = {
        "stem.*": ("star", {"strength": 1e-4}),
        "body.0.*": "wta",
        "body.1.*": ("dal", {"per": "layer"}),
        "relu": "channel-thresholds",
    }

    def train(epochs, **options):
        model = sd.sparsify(plain, methods, calibration=digits.train[0][:128], cost="fanout")
        return model, lambda: sd.train.fit(model, *data, epochs, lr=3e-3, progress=False, **options)

    whole, run = train(3)
    run()
    calls = []

    def interrupted(model, data):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return accuracy(model, data)

    _, run = train(3, checkpoint=tmp_path / "state", score=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    resumed, run = train(3, checkpoint=tmp_path / "state")
    run()
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    exported = torch.export.export(whole, (data[1][0],)).module()(data[1][0])
    assert exported.shape == (128, 10)
    quantised = sd.quantize(whole, data[0][0])
    assert sd.compare(sd.Accelerator(sd.compile(quantised)), quantised.graph, data[1][0][:8])


@pytest.mark.parametrize(
    ("methods", "options", "text"),
    [
        ({}, {}, r"sparsify: the mapping of methods is empty; give it a pattern, such as .*"),
        ({"head.*": "l1"}, {}, r"sparsify: 'head\.\*' matches no activation; there are stem\.1, body\.0\.1, body\.1\.1, relu"),
        ({nn.Tanh: "l1"}, {}, r"sparsify: the type Tanh matches no activation; there are stem\.1, .*"),
        ({3: "l1"}, {}, r"sparsify: a key must be a pattern of module paths or a type of module, not 3"),
        ({"*": 3}, {}, r"sparsify: a choice must be a method's name, \(name, options\) or None, not 3"),
        ({"*": "l3"}, {}, r"unknown sparsity method 'l3': the methods are .*"),
        (
            {"body.*": "l1", "*.1": "star"},
            {},
            r"sparsify: 'body\.\*' and '\*\.1' both match 'body\.0\.1' and give it different methods\. Add 'body\.0\.1' itself, .*",
        ),
        (
            {Block: "l1", "body.*": ("l1", {"strength": 1.0})},
            {},
            r"sparsify: the type Block and 'body\.\*' both match 'body\.0\.1' and give it different methods\. .*",
        ),
        (
            {"*": ("l1", {"rate": 0.5})},
            {},
            r"sparsify: method 'l1' has no option 'rate'; its options are strength \(and calibration\)",
        ),
        (
            {"*": "l1", "relu": "star"},
            {"rate": 0.5},
            r"sparsify: none of the methods 'l1', 'star' has an option 'rate'",
        ),
        (
            {"*": "l1", "relu": "wta"},
            {"strength": {"relu": 1.0}},
            r"sparsify: strength names 'relu', whose method 'wta' has no such option",
        ),
        ({"stem.1": "l1"}, {"strength": {"relu": 1.0}}, r"sparsify: strength names 'relu', which gets no method"),
        ({"*": None}, {"strength": 1.0}, r"sparsify: no layer gets a method that could take 'strength'"),
    ],
)
def test_refusals_of_mixed_methods(methods, options, text):
    with pytest.raises(sd.InputError, match=f"^{text}$"):
        sd.sparsify(Deep(), methods, **options)


# -- calibration and refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_calibration_sets_the_quantile_of_positive_inputs(per):
    torch.manual_seed(0)
    x, model = torch.rand(40, 1, 8, 8), Net()
    sparse = sd.sparsify(model, "star", calibration=x, quantile=0.25, per=per)
    inputs = model.fc1(model.head(x).flatten(1)).detach()
    if per == "layer":
        positive = inputs[inputs > 0].sort().values
        assert sparse.relu.threshold == positive[len(positive) // 4]
        assert sparse.relu.threshold.shape == ()
    else:
        assert sparse.relu.threshold.shape == (8,) and sparse.head[1].threshold.shape == (4,)
        for c in range(8):
            positive = inputs[:, c][inputs[:, c] > 0].sort().values
            assert sparse.relu.threshold[c] == (positive[int(0.25 * len(positive))] if len(positive) else 0)


def test_thresholds_per_channel_come_back_from_a_state_dict():
    sparse = sd.sparsify(Net(), "star", calibration=torch.rand(20, 1, 8, 8), per="channel")
    again = sd.sparsify(Net(), "star", per="channel")
    again.load_state_dict(sparse.state_dict())
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(again.eval()(x), sparse.eval()(x))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: sd.sparsify(Net(), "l2"), r"unknown sparsity method 'l2': the methods are .*relu.*"),
        (lambda: sd.sparsify(Net(), "l1", width=3), r"sparsify: method 'l1' has no option 'width'; its options are strength .*"),
        (
            lambda: sd.sparsify(Net(), "l1", strength={"no": 1.0}),
            r"sparsify: strength names 'no', which is no activation that is replaced; there are head\.1, relu",
        ),
        (lambda: sd.sparsify(Net(), "l1", strength=-1.0), r"L1: strength must not be negative, not -1\.0"),
        (lambda: sd.sparsify(Net(), "star", quantile=1.0), r"STAR: quantile must be in \[0, 1\), not 1\.0"),
        (lambda: sd.sparsify(Net(), "star", per="pixel"), r"STAR: per must be 'layer' or 'channel', not 'pixel'"),
        (lambda: sd.sparsify(Net(), "star", forward="x"), r"STAR: forward must be 'relu' or 'threshold', not 'x'"),
        (
            lambda: sd.sparsify(nn.Linear(2, 2), "l1"),
            r"sparsify: the model has no activation to replace\. Call a ReLU, .*",
        ),
        (lambda: sd.sparsify(Net(), "star", calibration=torch.rand(0, 1, 8, 8)), r"calibrate: the calibration set is empty; .*"),
        (
            lambda: sd.calibrate(sd.sparsify(Shared(), "star", per="channel"), torch.rand(9, 4)),
            r"STAR: one activation module is called on tensors of 3 and 5 channels, so it cannot have a threshold per channel\. .*",
        ),
    ],
)
def test_refusals(call, text):
    with pytest.raises(sd.InputError, match=f"^{text}$"):
        call()


def test_functional_relu_without_calibration_is_refused_with_its_line():
    line = re.escape(f"{__file__}:")
    with pytest.raises(
        sd.InputError, match=rf"^sparsify: .* The model calls ReLU as a function \({line}\d+\)\. Give calibration=x, .*$"
    ) as caught:
        sd.sparsify(Functional(), "l1")
    number = int(re.search(r"\.py:(\d+)\)", str(caught.value)).group(1))
    assert "F.relu" in Path(__file__).read_text().splitlines()[number - 1]


def test_functional_relu_beside_modules_is_warned_of():
    with pytest.warns(
        UserWarning, match=r"left 1: relu in 1 places \(.*test_sparsify\.py:\d+\): found by running .* give calibration="
    ):
        sparse = sd.sparsify(Mixed(), "l1")
    assert isinstance(sparse.relu, L1)


# -- counting and searching ------------------------------------------------------------------------------------------


def test_density_counts():
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 3, bias=False), nn.ReLU())
    model[1].weight.data = torch.eye(3)
    x = torch.tensor([[1.0, -1.0, 0.0], [2.0, 3.0, -4.0]])
    assert density(model.train(), x, batch_size=1) == {"0": (3, 6), "2": (3, 6)}
    assert model.training


def test_search_raises_thresholds_as_far_as_the_floor_allows(digits):
    torch.manual_seed(0)
    model = Net()
    sd.train.fit(model, digits.train, digits.validation, 3, lr=3e-3, progress=False)
    sparse = sd.sparsify(model, "star", calibration=digits.train[0], quantile=0.1)
    before = sum(n for n, _ in density(sparse, digits.validation[0]).values())
    floor = accuracy(sparse, digits.validation) - 0.02
    start = {n: m.threshold.clone() for n, m in sd.nn.sites(sparse)}
    chosen = search_thresholds(sparse, digits.validation[0], lambda m: accuracy(m, digits.validation), floor)
    after = sum(n for n, _ in density(sparse, digits.validation[0]).values())
    assert chosen and after < before and accuracy(sparse, digits.validation) >= floor
    for name, layer in sd.nn.sites(sparse):
        assert (layer.threshold > start[name]) == (name in chosen)


def test_search_changes_nothing_below_the_floor(digits):
    torch.manual_seed(0)
    sparse = sd.sparsify(Net(), "star", calibration=digits.train[0][:50], quantile=0.2)
    before = {k: v.clone() for k, v in sparse.state_dict().items()}
    assert search_thresholds(sparse, digits.validation[0][:50], lambda m: 0.0, floor=0.5) == {}
    assert all(torch.equal(v, before[k]) for k, v in sparse.state_dict().items())
