"""The trainer: determinism, exact resumption, budgets, refusals; and the digits' split."""

import csv
import dataclasses
import importlib.util
import time

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sordino as sd
from sordino.train import accuracy, fit


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))


def jitter(x, generator):
    return x + 0.05 * torch.randn(x.shape, generator=generator)


def train(digits, model=None, **changes):
    model = network() if model is None else model
    options = {"epochs": 4, "lr": 5e-3, "augment": jitter, "progress": False, **changes}
    return model, fit(model, digits.train, digits.validation, **options)


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_training_learns_and_keeps_a_history(digits):
    model, history = train(digits)
    assert accuracy(model, digits.validation) > 0.85
    assert [e.epoch for e in history.epochs] == [0, 1, 2, 3] and history.best == 3
    last = history.epochs[-1]
    assert last.score == accuracy(model, digits.validation) and last.loss < history.epochs[0].loss and last.penalty == 0
    counts = sd.nn.density(model, digits.validation[0])["3"]
    assert last.density == counts[0] / counts[1] and last.events == counts[0] / 300


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator(digits):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    a, first = train(digits, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    b, second = train(digits, epochs=2)
    c, _ = train(digits, epochs=2, seed=1)
    assert same(a, b) and first == second and not same(a, c)


def test_an_interrupted_training_resumes_exactly(digits, tmp_path):
    whole, expected = train(digits)
    calls = 0

    def interrupted(model, data):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return accuracy(model, data)

    path = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        train(digits, score=interrupted, checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]
    resumed, history = train(digits, checkpoint=path)
    assert same(resumed, whole) and history == expected
    again, unchanged = train(digits, checkpoint=path)
    assert same(again, whole) and unchanged == expected


def test_checkpoints_of_another_training_and_damaged_ones_are_refused(digits, tmp_path):
    path = tmp_path / "training.pt"
    train(digits, epochs=1, checkpoint=path)
    with pytest.raises(sd.InputError, match=r"^.*training\.pt: the checkpoint is of another training \(seed: 0 / 7\)\. .*$"):
        train(digits, epochs=1, seed=7, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        sd.InputError, match=r"^.*training\.pt: not a readable training checkpoint \(.*\)\. Delete it to start anew\.$"
    ):
        train(digits, epochs=1, checkpoint=path)
    with pytest.raises(sd.InputError, match=r"^cannot write .*: No such file or directory\. Choose a folder .*$"):
        train(digits, epochs=1, checkpoint=tmp_path / "no" / "training.pt")


def test_a_budget_keeps_the_sparsest_epoch_that_reaches_it(digits):
    model = sd.sparsify(network(), "l1", strength=1e-2)
    _, history = train(digits, model, epochs=6, budget=0.6)
    good = [e for e in history.epochs if e.score >= 0.6]
    assert good and history.epochs[history.best].events == min(e.events for e in good)
    assert accuracy(model, digits.validation) == history.epochs[history.best].score


def test_a_budget_out_of_reach_stops_early_and_leaves_the_model(digits):
    model = network()
    _, history = train(digits, model, epochs=9, budget=1.1, patience=2)
    assert len(history.epochs) == 2 and history.best == -1 and same(model, network())


def test_penalties_make_it_sparser_and_weigh_in(digits):
    plain, _ = train(digits, sd.sparsify(network(), "l1", strength=0.3), penalty_weight=0.0)
    sparse, history = train(digits, sd.sparsify(network(), "l1", strength=0.3))
    a, b = (sd.nn.density(m, digits.validation[0])["3"][0] for m in (plain, sparse))
    assert b < 0.7 * a and history.epochs[-1].penalty > 0


def test_any_dataset_loss_and_score_will_do():
    x = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))
    model = nn.Linear(3, 1)

    def score(model, data):
        return -float(sum((model(a[None]) - b).square() for a, b in data))

    history = fit(model, data, data, 200, lr=0.05, loss=nn.functional.mse_loss, score=score, progress=False)
    assert history.epochs[-1].score > -0.05 and dataclasses.asdict(history.epochs[-1])["events"] == 0


# -- metrics -----------------------------------------------------------------------------------------------------------


def sparse_network():
    """A threshold of each layer, and one per channel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))
    x = sd.data.digits().train[0]
    return sd.sparsify(model, {"2": "star", "4": "channel-thresholds"}, calibration=x, strength=1e-3)


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_metrics_are_the_figures_of_each_epoch(digits, tmp_path):
    model, history = train(digits, sparse_network(), metrics=tmp_path / "a" / "b")
    found = rows(tmp_path / "a" / "b")
    assert [{k: float(v) for k, v in row.items()} for row in found] == [e.row() for e in history.epochs]
    last, record = history.epochs[-1], found[-1]
    assert list(record)[:9] == ["epoch", "loss", "penalty", "score", "density", "events", "task_loss", "lr", "seconds"]
    assert last.loss == pytest.approx(last.task_loss + last.penalty) and last.penalty > 0 and last.seconds > 0
    assert history.epochs[0].lr == 5e-3 > last.lr > 0
    counts = sd.nn.density(model, digits.validation[0])
    assert last.densities == {path: n / size for path, (n, size) in counts.items()} and list(counts) == ["2", "4"]
    theta = model[4].theta.detach().abs()
    assert float(record["threshold/2/mean"]) == float(model[2].threshold)
    assert [float(record[f"threshold/4/{k}"]) for k in ("least", "mean", "largest")] == [
        float(f(theta)) for f in (torch.min, torch.mean, torch.max)
    ]


@pytest.mark.parametrize("damage", ["none", "cut", "more", "gone"])
def test_metrics_of_a_resumed_training_have_every_epoch_once(digits, tmp_path, damage):
    """Whatever a crash left of the file: half a line, an epoch that the checkpoint has not, or nothing."""
    _, expected = train(digits, sparse_network())
    train_on = lambda **more: train(digits, sparse_network(), checkpoint=tmp_path / "state", metrics=tmp_path / "run", **more)  # noqa: E731
    calls = []

    def interrupted(model, data):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return accuracy(model, data)

    with pytest.raises(KeyboardInterrupt):
        train_on(score=interrupted)
    path = tmp_path / "run" / "metrics.csv"
    text = path.read_text()
    assert text.endswith("\n") and text.count("\n") == 3
    if damage == "cut":
        path.write_text(text[:-20])
    elif damage == "more":
        path.write_text(text + text.splitlines()[-1].replace("1,", "2,", 1) + "\n")
    elif damage == "gone":
        path.unlink()
    # TensorBoard orders the files of one second by name, and so the tenth file of a process before the ninth.
    time.sleep(1 - time.time() % 1)
    train_on()
    assert [{k: v for k, v in map_floats(row).items() if k != "seconds"} for row in rows(tmp_path / "run")] == [
        {k: v for k, v in e.row().items() if k != "seconds"} for e in expected.epochs
    ]
    if importlib.util.find_spec("tensorboard") is not None:
        seen = events(tmp_path / "run")
        assert seen["loss"] == [(e.epoch, pytest.approx(e.loss)) for e in expected.epochs]
        assert set(seen) == set(expected.epochs[0].row()) - {"epoch"}


def map_floats(row):
    return {k: float(v) for k, v in row.items()}


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_metrics_without_tensorboard_are_the_csv_file(digits, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else real(name, *a))
    train(digits, epochs=1, metrics=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_metrics_that_cannot_be_written_are_refused_before_training(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sd.InputError, match=r"^cannot write .*file: File exists\. Choose a folder that can be made and written\.$"):
        train(digits, metrics=tmp_path / "file")


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals(digits):
    x, y = digits.train
    with pytest.raises(sd.InputError, match=r"^fit: the training and the validation data must not be empty$"):
        fit(network(), (x[:0], y[:0]), digits.validation, 1, progress=False)
    with pytest.raises(sd.InputError, match=r"^fit: epochs must be at least 1, not 0$"):
        fit(network(), digits.train, digits.validation, 0, progress=False)
    with pytest.raises(sd.InputError, match=r"^fit: the loss became nan\. Check the data for NaNs, .*$"):
        fit(network(), (x * float("nan"), y), digits.validation, 1, progress=False)


# -- digits ----------------------------------------------------------------------------------------------------------


def test_no_image_is_in_two_parts(digits):
    parts = [{tuple(image.flatten().tolist()) for image in part[0]} for part in (digits.train, digits.validation, digits.test)]
    assert [len(part[0]) for part in (digits.train, digits.validation, digits.test)] == [1047, 300, 450]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_digits_are_tensors_in_range_with_every_class(digits):
    for x, y in (digits.train, digits.validation, digits.test):
        assert x.dtype == torch.float32 and x.shape[1:] == (1, 8, 8) and float(x.min()) == 0 and float(x.max()) == 1
        assert y.dtype == torch.int64 and set(y.tolist()) == set(range(10))


def test_upsampling():
    small, nearest, smooth = (sd.data.digits(), sd.data.digits(16, "nearest"), sd.data.digits(16))
    assert torch.equal(nearest.test[0], small.test[0].repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert smooth.test[0].shape == (450, 1, 16, 16) and torch.equal(smooth.test[1], small.test[1])
    for arguments, text in (
        ((4,), r"digits: size must be at least 8, not 4"),
        ((16, "cubic"), r"digits: mode must be .*, not 'cubic'"),
    ):
        with pytest.raises(sd.InputError, match=f"^{text}$"):
            sd.data.digits(*arguments)
