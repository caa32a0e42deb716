"""What an event costs: against the RTL's own rules, and as the weight of a penalty in training."""

import numpy as np
import pytest
import torch
from torch import nn

import sordino as sd
from sordino.nn import sites
from sordino.sparsity.cost import COSTS
from sordino.train import fit

ONE = sd.ArchConfig(name="one core")
"""Here an event's cycle is not another core's too."""


class Unequal(nn.Module):
    """An activation whose readers have 64 channels (two groups of 32 lanes), one with 8, one with 10."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 64, 1)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(64, 8, 8)
        self.relu3 = nn.ReLU()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.relu3(self.conv3(self.relu2(self.conv2(self.relu1(self.conv1(x))))))
        return self.fc(x.flatten(1))


class Residual(nn.Module):
    """One module called twice, a pooling and an addition between activation and convolution."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 10, 4)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.last(self.pool(self.relu(self.second(x) + x))).flatten(1)


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return build().eval()


@pytest.fixture(scope="module")
def network():
    return seeded(Unequal)


@pytest.fixture(scope="module")
def images(digits):
    return digits.train[0][:64]


def test_an_event_costs_its_taps_and_groups(network, images):
    """Fully connected readers: an event is issued once for each group of output channels, and nothing else."""
    found = sd.cost(network, images, ONE)
    assert list(found.sites) == ["relu1", "relu2", "relu3"] and found.images == 8
    assert found.sites["relu2"].cycles_per_event == 1.0
    assert 0.9 <= found.sites["relu3"].cycles_per_event <= 1.0
    assert found.sites["relu1"].cycles_per_event <= 2.0
    accelerator = sd.Accelerator(sd.compile(sd.quantize(network, images, ONE)), "timing")
    accelerator(images[:8])
    assert found.cycles == accelerator.stats.total.cycles
    assert found.sites["relu2"].events == accelerator.stats.nonzero[found.sites["relu2"].tensors[0]]


def test_removing_every_event_of_the_last_layer_saves_its_busy_cycles(network, images):
    """Its reader issues one event a cycle, and its drain waits for nothing else."""
    site = sd.cost(network, images, ONE, share=1.0).sites["relu3"]
    accelerator = sd.Accelerator(sd.compile(sd.quantize(network, images, ONE)), "timing")
    accelerator(images[:8])
    last = accelerator.stats.layers[-1]
    assert last.causes["busy"] > 1
    assert site.cycles_per_event * site.events == pytest.approx(last.causes["busy"], abs=1.0)


def test_measuring_is_repeatable_and_leaves_the_model_alone(network, images):
    state = {k: v.clone() for k, v in network.state_dict().items()}
    a, b = (sd.cost(network, images, seed=3) for _ in range(2))
    assert a == b
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert a.to_dict()["sites"]["relu1"]["tensors"] == list(a.sites["relu1"].tensors)


def test_a_module_called_twice_and_an_activation_behind_a_pooling(images):
    found = sd.cost(seeded(Residual), images)
    (site,) = found.sites.values()
    assert len(site.tensors) == 2 and site.cycles_per_event > 0


def test_a_silent_activation_is_measured_by_waking_it(network, images):
    silent = seeded(Unequal)
    with torch.no_grad():
        silent.conv2.bias.fill_(-100.0)
    with pytest.warns(sd.QuantizationWarning, match="a layer is dead"):
        found = sd.cost(silent, images)
    assert found.sites["relu2"].events == 0
    assert found.sites["relu2"].cycles_per_event == pytest.approx(1.0, abs=0.05)


def test_programs_and_quantised_models_are_measured_by_tensor(network, images):
    quantised = sd.quantize(network, images)
    program = sd.compile(quantised)
    by_tensor, by_module = sd.cost(program, images), sd.cost(network, images)
    assert list(by_tensor.weights.values()) == list(sd.cost(quantised, images).weights.values()) == list(by_module.weights.values())
    with pytest.raises(sd.InputError, match=r"compiled for ulx3s-85f"):
        sd.cost(program, images, arch="icebreaker")


class Two(nn.Module):
    """Two inputs, whose activations meet."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(2, 8, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(512, 10)

    def forward(self, a, b):
        return self.fc((self.relu1(self.left(a)) + self.relu2(self.right(b))).flatten(1))


def test_a_model_with_two_inputs(images):
    x = images, torch.cat([images, 1 - images], 1)
    model = seeded(Two)
    found = sd.cost(model, x)
    assert list(found.sites) == ["relu1", "relu2"] and all(s.cycles_per_event > 0 for s in found.sites.values())
    program = sd.compile(sd.quantize(model, [tuple(t[i : i + 64] for t in x) for i in range(0, len(images), 64)]))
    assert sd.cost(program, x).cycles == found.cycles
    sparse = sd.sparsify(model, "star", calibration=x, cost="cycles")
    assert all(m.threshold > 0 and m.cost_weight > 0 for _, m in sites(sparse))
    assert weights(sd.sparsify(model, "l1", calibration=x, cost="fanout")) == {"relu1": 1.0, "relu2": 1.0}
    hook = sd.CostWeights(x, images=2)
    hook(sparse, 0)
    assert list(hook.measured[0][1]) == ["relu1", "relu2"]
    with pytest.raises(sd.InputError, match=r"^cost: the network has 2 inputs, but calibration holds 1 tensors$"):
        sd.cost(program, images)
    with pytest.raises(sd.InputError, match=r"^inputs must be tensors of equal length, 1 at least, not of \d+, 3$"):
        sd.cost(model, (images, x[1][:3]))


def test_a_model_elsewhere_is_measured_as_a_copy_on_the_cpu(network, images, monkeypatch):
    monkeypatch.setattr("sordino.sparsity.cost.device_of", lambda model: torch.device("meta"))
    copied = []
    monkeypatch.setattr(nn.Module, "cpu", lambda self: copied.append(self) or self)
    assert sd.cost(network, images).sites and copied and copied[0] is not network


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"images": 0}])
def test_arguments_out_of_range(network, images, options):
    with pytest.raises(sd.InputError, match=r"^cost: "):
        sd.cost(network, images, **options)


def test_a_model_that_does_not_compile_gets_the_ordinary_error(images):
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.last = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)

        def forward(self, x):
            return self.last(self.relu(self.first(x)).sort(3).values)

    with pytest.raises(sd.CompileError, match="sort"):
        sd.cost(Sorts(), images)
    with pytest.raises(sd.CompileError, match="sort"):
        sd.sparsify(Sorts(), "l1", calibration=images, cost="cycles")


# -- weights -----------------------------------------------------------------------------------------------------------


def weights(model):
    return {name: m.cost_weight for name, m in sites(model)}


@pytest.mark.parametrize("kind", COSTS)
def test_a_mean_event_weighs_one(network, images, kind):
    model = sd.sparsify(network, "l1", calibration=images, cost=kind)
    counts = sd.nn.density(model, images)
    total = sum(n for n, _ in counts.values())
    assert sum(counts[k][0] * w for k, w in weights(model).items()) / total == pytest.approx(1.0)


def test_weights_follow_what_they_are_named_after(network, images):
    fanout = weights(sd.sparsify(network, "l1", calibration=images, cost="fanout"))
    assert fanout["relu1"] / fanout["relu2"] == pytest.approx(64 / (8 * 8 * 8))
    measured = sd.cost(network, images)
    cycles = weights(sd.sparsify(network, "l1", calibration=images, cost=measured))
    assert cycles["relu1"] / cycles["relu2"] == pytest.approx(measured.weights["relu1"] / measured.weights["relu2"])


def test_the_weight_multiplies_the_penalty(network, images):
    plain = sd.sparsify(network, "l1", strength=0.5)
    own = sd.sparsify(network, "l1", strength=0.5, cost={"relu1": 2.0, "relu2": 0.0, "relu3": 3.0})
    costs = []
    for model in (plain, own):
        model.train()
        model(images)
        costs.append({name: float(m._penalty.detach()) for name, m in sites(model)})
        expected = sum(m.cost_weight * costs[-1][n] for n, m in sites(model))
        assert float(sd.nn.penalty(model).detach()) == pytest.approx(expected)
    assert costs[0] == costs[1] and weights(own) == {"relu1": 2.0, "relu2": 0.0, "relu3": 3.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [("speed", "cost must be one of"), ({"nobody": 1.0}, "'nobody' is no layer"), ({"relu1": -1.0}, "finite and not negative")],
)
def test_costs_that_are_refused(network, images, value, message):
    with pytest.raises(sd.InputError, match=message):
        sd.sparsify(network, "l1", calibration=images, cost=value)
    if value == "speed":
        with pytest.raises(sd.InputError, match="needs calibration"):
            sd.sparsify(network, "l1", cost="cycles")


def interrupted(kind):
    def call(self, model, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        kind.__call__(self, model, epoch)

    return type(kind.__name__, (kind,), {"__call__": call})


def test_training_measures_again_and_resumes_exactly(network, digits, images, tmp_path):
    data = tuple(t[:96] for t in digits.train), tuple(t[:64] for t in digits.validation)

    def run(checkpoint=None, kind=sd.CostWeights):
        model = sd.sparsify(network, "l1", strength=1e-3)
        hook = kind(images, every=2, images=2)
        history = fit(model, *data, 4, lr=1e-2, checkpoint=checkpoint, before_epoch=hook, progress=False)
        return model, hook, history

    model, hook, history = run()
    assert [epoch for epoch, _ in hook.measured] == [0, 2]
    assert hook.measured[0][1] != hook.measured[1][1] and weights(model) == hook.measured[1][1]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state", interrupted(sd.CostWeights))
    again, hook2, history2 = run(tmp_path / "state")
    assert history2.epochs == history.epochs and hook2.measured == hook.measured
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_cycle_weights_change_which_layer_falls_silent(network, digits, images):
    """The same strength, all on one layer or the other: the penalised layer ends the sparser of the two."""
    data = tuple(t[:192] for t in digits.train), tuple(t[:64] for t in digits.validation)
    found = {}
    for path in ("relu1", "relu2"):
        model = sd.sparsify(network, "l1", strength=1e-3, cost={path: 1.0})
        fit(model, *data, 3, lr=1e-2, progress=False)
        found[path] = {k: n / size for k, (n, size) in sd.nn.density(model, images).items()}
    assert found["relu1"]["relu1"] < found["relu2"]["relu1"] and found["relu2"]["relu2"] < found["relu1"]["relu2"]
    assert np.isfinite(list(found["relu1"].values())).all()
