"""`sordino train` on a network and data of one's own: data formats, phases, going on after an interruption, what is refused."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

import sordino as sd
from sordino.cli import app
from sordino.experiments.own import read_data
from sordino.report.schema import validate

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()
        self.pool, self.fc = nn.AvgPool2d(4), nn.Linear(8 * 4, 2)

    def forward(self, x):
        return self.fc(self.pool(self.relu(self.conv(x))).flatten(1))

class Smooth(Net):
    def __init__(self):
        super().__init__()
        self.relu = nn.SiLU()

class Narrow(Net):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 1)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def stripes(count, seed):
    """Images [n, 1, 8, 8] uint8 of upright (label 0) and level stripes (label 1), with noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.integers(0, 80, (count, 1, 8, 8))
    x[y == 0, :, :, ::2] += 150
    x[y == 1, :, ::2, :] += 150
    return x.astype(np.uint8), y


@pytest.fixture
def arrays():
    (train_x, train_y), (test_x, test_y) = stripes(200, 0), stripes(50, 1)
    np.savez("data.npz", train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    return "data.npz"


@pytest.fixture
def folders():
    for split, count in (("train", 30), ("test", 10)):
        for i, (image, label) in enumerate(zip(*stripes(count, len(split)), strict=True)):
            path = Path("images", split, ("upright", "level")[label], f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)
    return "images"


def sordino(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def works(*arguments):
    result = sordino(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def refuses(text, *arguments):
    before = sorted(Path().rglob("*"))
    result = sordino(*arguments)
    assert result.exit_code == 2 and re.fullmatch(rf"sordino: {text}", result.stderr.splitlines()[-1]), result.stderr
    assert sorted(Path().rglob("*")) == before


def test_from_images_to_a_program(arrays):
    own = ("net.py:Net", "--data", arrays, "--example", "1,8,8")
    output = works(
        "train", *own, "--epochs", 12, "--lr", 0.02, "--prune", 0.3, "--qat", 2, "--json", "t.json", "-o", "net.safetensors"
    )
    assert "Program: net.sdn" in output and not Path("net.safetensors.state").exists()
    figures = json.loads(Path("t.json").read_text())
    assert figures["classes"] == 2 and figures["test_accuracy"] > 0.95 and figures["quantised"]
    assert len(figures["history"]) == 12 + 12 + 12 + 2
    x, y = np.load(arrays)["test_x"], np.load(arrays)["test_y"]
    logits = sd.Accelerator("net.sdn")(x.astype(np.float32) / 255)
    assert (logits.argmax(1) == y).mean() == pytest.approx(figures["test_accuracy"])
    np.save("x.npy", x.astype(np.float32) / 255)
    works("compile", "net.py:Net", "--weights", "net.safetensors", "-c", "x.npy", "-o", "again.sdn")
    assert (sd.Accelerator("again.sdn")(np.load("x.npy")).argmax(1) == y).mean() > 0.95


def test_a_smooth_activation_fades_on_request(arrays):
    own = ("train", "net.py:Smooth", "--data", arrays, "--example", "1,8,8", "--epochs", 6, "--lr", 0.02)
    refuses(r"sparsify: the model has no ReLU to replace; its activations are 'silu'\. .*", *own)
    works(*own, "--replace", "silu=blend", "--json", "t.json", "-o", "smooth.safetensors")
    figures = json.loads(Path("t.json").read_text())
    validate(Path("t.json").read_text(), "train")
    assert figures["replace"] == {"silu": "blend"} and figures["density"] < 0.7 and figures["test_accuracy"] > 0.9
    assert len(figures["history"]) == 6 + 3 + 6, "plain, blend, sparse"
    x, y = np.load(arrays)["test_x"].astype(np.float32) / 255, np.load(arrays)["test_y"]
    np.save("x.npy", x)
    works("compile", "net.py:Smooth", "--weights", "smooth.safetensors", "-c", "x.npy", "-o", "smooth.sdn")
    assert (sd.Accelerator("smooth.sdn")(x).argmax(1) == y).mean() > 0.9
    refuses(
        r"--replace silu=later: an activation is replaced =now, the default, or =blend, not =later\.",
        *own,
        "--replace",
        "silu=later",
    )


def test_class_folders(folders):
    split, classes = read_data(folders, (1, 8, 8))
    assert classes == 2 and len(split.train[0]) == 27 and len(split.validation[0]) == 3 and len(split.test[0]) == 10
    assert split.train[0].shape[1:] == (1, 8, 8) and split.train[0].max() <= 1
    output = works("train", "net.py:Net", "--data", folders, "-e", "1,8,8", "-m", "relu", "--epochs", 1)
    assert "Checkpoint: Net-relu.safetensors" in output
    for command in (("check",), ("compile",), ("train", "--from")):
        refuses(
            r"Net-relu\.safetensors: holds the weights of a network of your own\. Name its file and class: "
            r"sordino compile FILE\.py:NAME --weights Net-relu\.safetensors\.",
            *command,
            "Net-relu.safetensors",
        )


def test_it_goes_on_after_an_interruption_as_if_there_had_been_none(arrays):
    own = ["net.py:Net", "--data", arrays, "-e", "1,8,8", "--epochs", "6", "-m", "l1"]
    works("train", *own, "-o", "whole.safetensors")
    command = [sys.executable, "-c", "from sordino.cli import main; main()", "train", *own, "-o", "cut.safetensors"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    begin = time.monotonic()
    while not Path("cut.safetensors.state", "plain.pt").exists() and time.monotonic() - begin < 120 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert "The same command continues" in errors and "sordino: interrupted" in errors and "Traceback" not in errors
    assert not Path("cut.safetensors").exists() and not list(Path().rglob("*.part*"))
    refuses(
        r"cut\.safetensors\.state holds an interrupted training with other settings\. .*",
        "train",
        *own,
        "--lr",
        1,
        "-o",
        "cut.safetensors",
    )
    assert "Continuing the interrupted" in works("train", *own, "-o", "cut.safetensors")
    cut, whole = (load_file(f"{name}.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole) and set(cut) == set(whole)
    assert not Path("cut.safetensors.state").exists()


def test_refuses(arrays, folders):
    own = ("train", "net.py:Net", "--data", arrays, "-e", "1,8,8")
    refuses(r"train net\.py:Net: give images with labels and the shape of one, such as .*", "train", "net.py:Net")
    refuses(r"--data is for a network of your own, FILE\.py:NAME\.", "train", "digits", "--data", arrays)
    refuses(r"--prune is for a network of your own, FILE\.py:NAME\.", "train", "digits", "--prune", 0.5)
    refuses(r"--example 1,x: not a shape such as 3,32,32 .*", *own[:-1], "1,x")
    refuses(
        r"data\.npz: its images have the shape \(1, 8, 8\), but the network takes \(3, 8, 8\) \(--example\)\.", *own[:-1], "3,8,8"
    )
    refuses(
        r"net\.py:Narrow must give logits \[batch, classes\] for the 2 classes of the data; it gives \(1, 1\)\.",
        "train",
        "net.py:Narrow",
        *own[2:],
    )
    refuses(r"unknown sparsity method 'l3': .*", *own, "-m", "l3")
    refuses(r"train: the method relu has no option 'strength'", *own, "-m", "relu", "--strength", 1)
    refuses(r"no\.npz: no such file\.", "train", "net.py:Net", "--data", "no.npz", "-e", "1,8,8")
    np.savez("half.npz", train_x=np.zeros((2, 1, 8, 8)))
    refuses(r"half\.npz: it has no array train_y; .*", "train", "net.py:Net", "--data", "half.npz", "-e", "1,8,8")
    refuses(
        r"class folders: folder .*train is missing\. Expected layout: .*",
        "train",
        "net.py:Net",
        "--data",
        "images/train",
        "-e",
        "1,8,8",
    )
