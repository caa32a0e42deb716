"""The examples run, from another folder, without a warning; and so does the README's."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parent.parent


def test_own_network(tmp_path):
    command = [sys.executable, "-W", "error", ROOT / "examples" / "own_network.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if "cycles an image" in line] == ["dense mode", "plain ReLU", "STAR"]
    assert [line for line in lines if line.startswith("equal: ")]
    assert (tmp_path / "own_network.sdn").exists()


def test_distributed_in_one_process(tmp_path):
    command = [sys.executable, "-W", "error", ROOT / "examples" / "distributed.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [line.partition(":")[0] for line in run.stdout.splitlines() if ":" in line][-3:] == ["plain", "sparse", "on the array"]
    for name in ("plain", "sparse"):
        assert (tmp_path / "runs" / name / "metrics.csv").read_text().count("\n") == 9


def test_readme(rng, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    x = torch.from_numpy(rng.random((16, 1, 8, 8), "float32"))
    y = torch.from_numpy(rng.integers(0, 10, 16))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    names = {"model": model, "x": x, "y": y, "validation": (x, y), "x_test": x}
    exec(code, names)
    assert names["outputs"].shape == (16, 10)
    cycles, density, eta = capsys.readouterr().out.splitlines()[-1].split()
    assert float(cycles) > 0 and 0 <= float(density) <= 1 and 0 < float(eta) <= 1
