"""Two processes train one model: as one process would, equal in both, and with one set of files."""

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import METHODS, network, read, train
from torch import distributed

from sordino.nn.shares import share_of_batch, whole_mean
from sordino.train import is_main
from sordino.train.parallel import Processes

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left, started as a user would."""
    folder = tmp_path_factory.mktemp("distributed")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", WORKER, folder]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_come_to_what_one_comes_to(folder, method):
    """Shares of 8 and 8 of each batch, and of the last one 1 and 0; the first process's weights where they differ."""
    model = network(method, **METHODS[method])
    expected = train(model)
    state, history = read(folder, method, 0)
    for name, value in model.state_dict().items():
        if method == "wta" and name.endswith("threshold"):  # it follows a quantile of each share
            torch.testing.assert_close(state[name], value, rtol=0.05, atol=0)
        else:
            torch.testing.assert_close(state[name], value, rtol=1e-10, atol=1e-12)
    assert len(history.epochs) == 2 and history.best == 1
    for ours, theirs in zip(history.epochs, expected.epochs, strict=True):
        for field in dataclasses.fields(ours):
            if field.name not in ("seconds", "watched"):
                assert getattr(ours, field.name) == pytest.approx(getattr(theirs, field.name), rel=1e-10), field.name


@pytest.mark.parametrize("name", [*METHODS, "normed", "resumed", "stopped", "hooked"])
def test_both_end_with_the_same_weights_and_history(folder, name):
    (a, first), (b, second) = read(folder, name, 0), read(folder, name, 1)
    assert equal(a, b) and first == second


def test_a_training_of_two_resumes_exactly(folder):
    (whole, expected), (resumed, history) = read(folder, "normed", 0), read(folder, "resumed", 0)
    assert equal(whole, resumed) and history == expected and len(history.epochs) == 4


def test_both_stop_early_and_keep_the_first_ones_weights(folder):
    state, history = read(folder, "stopped", 1)
    assert len(history.epochs) == 2 and history.best == -1
    assert equal(state, network("l1", strength=1.0).state_dict())


def test_the_first_writes_metrics_and_checkpoint(folder):
    assert (folder / "state").exists()
    rows = list(csv.DictReader((folder / "metrics" / "metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert len(list((folder / "metrics").iterdir())) <= 2  # the file, and one of events


def test_a_refusal_of_the_first_is_everybodys(folder):
    first, second = ((folder / f"error.{rank}").read_text() for rank in (0, 1))
    assert first == second and "another training (epochs: 4 / 5)" in first


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("whole", [1, 4, 16])
def test_shares_are_all_there_is(count, whole):
    shares = [Processes(rank, count).share(whole) for rank in range(count)]
    assert shares[0][0] == 0 and shares[-1][1] == whole
    assert [end for _, end in shares[:-1]] == [begin for begin, _ in shares[1:]]
    sizes = [end - begin for begin, end in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_is_main_whatever_started_it(monkeypatch):
    assert is_main()
    monkeypatch.setenv("RANK", "1")
    assert is_main()  # a lone variable is not torchrun
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not is_main()


def test_the_mean_of_a_whole_batch_weighs_shares_by_their_images(monkeypatch):
    x = torch.tensor([[1.0, 3.0], [5.0, 3.0]])
    assert whole_mean(x) == x.mean()
    monkeypatch.setattr(distributed, "all_reduce", lambda sums: sums.add_(torch.tensor([7.0, 1.0], dtype=torch.double)))
    with share_of_batch(2):
        assert whole_mean(x) == pytest.approx((3 * 2 + 7) / 3)
