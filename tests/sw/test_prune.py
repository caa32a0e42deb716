"""Pruned weight words: which ones, that they stay zero through training, export and quantisation, and that they cost nothing."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import sordino as sd
from sordino.nn import penalty
from sordino.sparsity.prune import masks
from sordino_sim.timing.model import Timing


class Net(nn.Module):
    """Every kind of layer: plain, grouped and depthwise convolutions, batch norm, fully connected."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 40, 3, padding=1)
        self.norm = nn.BatchNorm2d(40)
        self.depthwise = nn.Conv2d(40, 40, 3, padding=1, groups=40)
        self.grouped = nn.Conv2d(40, 24, 3, padding=1, groups=2)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(24 * 9, 10)

    def forward(self, x):
        x = self.relu1(self.norm(self.conv1(x)))
        x = self.relu3(self.grouped(self.relu2(self.depthwise(x))))
        return self.fc(self.pool(x).flatten(1))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Net()


@pytest.fixture
def images(rng):
    return torch.from_numpy(rng.random((24, 3, 6, 6), np.float32)), torch.from_numpy(rng.integers(0, 10, 24))


def zero_words(weight: np.ndarray, lanes: int, groups: int = 1) -> tuple[int, int]:
    """(words of zeros, words) of a weight [cout, cin / groups, ...], counted one by one."""
    size, zeros, total = len(weight) // groups, 0, 0
    for g in range(groups):
        for first in range(0, size, lanes):
            part = weight[g * size + first : g * size + min(first + lanes, size)].reshape(-1, weight[0].size)
            zeros, total = zeros + int((part == 0).all(0).sum()), total + part.shape[1]
    return zeros, total


def test_global_amount_is_met_over_all_event_layers(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pruned = sd.finish_pruning(sd.prune(model, "ulx3s-85f", 0.6))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    counts = [zero_words(getattr(pruned, n).weight.detach().numpy(), 32, g) for n, g in (("conv1", 1), ("grouped", 2), ("fc", 1))]
    zeros, total = np.sum(counts, 0)
    assert total == 2 * 27 + 2 * 20 * 9 + 216 and zeros == round(0.6 * total)
    assert torch.equal(pruned.depthwise.weight, model.depthwise.weight)
    assert {n: (t - z, t) for n, (z, t) in zip(("conv1", "grouped", "fc"), counts, strict=True)} == sd.weight_words(pruned)


def test_the_words_of_least_norm_go(model):
    pruned = sd.finish_pruning(sd.prune(model, "icebreaker", {"conv1": 0.5}))
    old, new = (m.conv1.weight.detach().numpy().reshape(5, 8, 27) for m in (model, pruned))
    norms, gone = np.linalg.norm(old, axis=1), (new == 0).all(1)
    assert gone.sum() == round(0.5 * norms.size)
    assert norms[gone].max() < norms[~gone].min()
    np.testing.assert_array_equal(new[np.broadcast_to(~gone[:, None], new.shape)], old[np.broadcast_to(~gone[:, None], old.shape)])
    assert torch.equal(pruned.fc.weight, model.fc.weight)


def test_scope_layer_prunes_each_layer_alike(model):
    words = sd.weight_words(sd.prune(model, amount=0.75, scope="layer", skip=["fc"]))
    assert all(kept == total - round(0.75 * total) for name, (kept, total) in words.items() if name != "fc")
    assert words["fc"][0] == words["fc"][1]


def test_the_largest_word_of_every_column_stays(model):
    pruned = sd.prune(model, amount=1.0)
    assert {n: kept for n, (kept, _) in sd.weight_words(pruned).items()} == {"conv1": 2, "grouped": 2, "fc": 1}


def test_zeros_stay_through_training_and_further_steps(model, images):
    pruned = sd.sparsify(sd.prune(model, amount=0.7), "l1", strength=1e-4)
    before = sd.weight_words(pruned)
    weights = {n: getattr(pruned, n).weight.detach().clone() for n in before}
    sd.train.fit(pruned, images, images, epochs=2, lr=1e-2, weight_decay=0.1, progress=False)
    assert sd.weight_words(pruned) == before
    for name, old in weights.items():
        new = getattr(pruned, name).weight
        assert torch.equal(new[old == 0], old[old == 0]) and not torch.equal(new, old)
    more = sd.prune(pruned, amount=0.8)
    assert sd.weight_words(sd.finish_pruning(pruned)) == sd.weight_words(pruned) == before
    assert all(torch.equal(masks(more)[k] & m, masks(more)[k]) for k, m in masks(pruned).items())


def test_zeros_stay_through_qat(model, images):
    pruned = sd.prune(model.eval(), amount=0.7)
    qat = sd.prepare_qat(pruned, images[0])
    optimiser = torch.optim.AdamW(qat.parameters(), 1e-2, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(qat(images[0]), images[1]).backward()
        optimiser.step()
    graph = sd.finish_qat(qat).graph
    check_integers(graph, pruned)


def check_integers(graph, pruned) -> None:
    """The integer weights have the pruned words, and no others beside words that rounding alone made zero."""
    convs = [n for n in graph.nodes if n.kind == "conv"]
    for node, (name, (kept, total)) in zip(convs, sd.weight_words(pruned).items(), strict=True):
        zeros, words = zero_words(node.weight, 32, node.groups)
        assert words == total and zeros == total - kept, name
        keep = masks(pruned)[f"{name}.weight"].reshape(node.weight.shape).numpy()
        assert not node.weight[~keep].any()


def test_both_operands_zeros_pay(model, images):
    """Events fall with the product of both densities, cycles with them, and every model agrees on the values."""
    runs = {}
    for amount in (0.0, 0.8):
        pruned = sd.prune(model.eval(), amount=amount, scope="layer")
        quantised = sd.quantize(pruned, images[0])
        check_integers(quantised.graph, pruned)
        x = quantised.quantise_inputs(images[0][:2])
        program = sd.compile(quantised)
        expected = quantised.graph.run(x)
        acc = sd.Accelerator(program, backend="timing")
        acc(images[0][:2])
        result = Timing(program).run(x)
        for name, values in result.outputs.items():
            np.testing.assert_array_equal(values, expected[name])
        runs[amount] = {layer.name: layer for layer in acc.stats.layers}
    for name, full in runs[0.0].items():
        if full.kind == "conv":
            sparse = runs[0.8][name]
            # Which taps lie in the padding depends on the words that stay; hence the margins.
            assert 0.1 < sparse.events / full.events / (sparse.density / full.density) < 0.35, name
            assert sparse.cycles < 0.5 * full.cycles, name


def test_penalty_of_the_group_lasso(model):
    """The penalty is the formula's, at every word by itself; the loss gets it, and its gradient is the formula's."""
    seen = {}

    def train(m):
        m.train()
        m(torch.zeros(1, 3, 6, 6))
        value = penalty(m)
        value.backward()
        seen["value"] = value.item()
        seen["gradient"] = m.conv1.parametrizations.weight.original.grad.clone()

    sd.prune(model, "icebreaker", {"conv1": 0.5}, "group_lasso", strength=0.25, train=train)
    words = model.conv1.weight.detach().reshape(5, 8, 27)
    assert seen["value"] == pytest.approx(0.25 * 8**0.5 * float(words.norm(dim=1).sum()), rel=1e-5)
    expected = 0.25 * 8**0.5 * words / words.norm(dim=1, keepdim=True)
    torch.testing.assert_close(seen["gradient"].reshape(5, 8, 27), expected)


def test_group_lasso_draws_words_to_zero_and_prunes_them(model, images):
    lost = {}

    def train(strength):
        def run(m):
            sd.train.fit(m, images, images, epochs=20, lr=2e-3, weight_decay=0, batch_size=8, progress=False)
            norms = m.fc.weight.detach().norm(dim=0).sort().values
            lost[strength] = float(norms[:108].sum() / norms.sum())

        return run

    for strength in (0.0, 1e-2):
        pruned = sd.prune(model, amount=0.5, method="group_lasso", scope="layer", strength=strength, train=train(strength))
        assert sd.weight_words(pruned)["fc"] == (108, 216)
    assert lost[1e-2] < 0.5 * lost[0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": 1.5}, "prune: amount must be from 0 to 1, not 1.5."),
        ({"amount": {"depthwise": 0.5}}, "prune: 'depthwise' is no layer that could be pruned; there are conv1, grouped, fc."),
        ({"skip": ["conv1", "grouped", "fc"]}, "prune: skip leaves no layer to prune."),
        ({"amount": {"fc": 0.5}, "skip": ["fc"]}, "prune: 'fc' stands in both amount and skip."),
        ({"method": "random"}, "prune: unknown method 'random': choose magnitude or group_lasso."),
        ({"scope": "channel"}, "prune: scope must be global or layer, not 'channel'."),
        (
            {"method": "group_lasso"},
            "prune: group_lasso needs train=, a function that trains the model it is given; magnitude takes none.",
        ),
    ],
)
def test_refusals(model, arguments, message):
    with pytest.raises(sd.InputError, match=f"^{re.escape(message)}$"):
        sd.prune(model, **arguments)
