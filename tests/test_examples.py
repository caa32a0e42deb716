"""The examples run, from another folder, without a warning."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_own_network(tmp_path):
    command = [sys.executable, "-W", "error", EXAMPLES / "own_network.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if "cycles an image" in line] == ["dense mode", "plain ReLU", "STAR"]
    assert [line for line in lines if line.startswith("equal: ")]
    assert (tmp_path / "own_network.sdn").exists()
