"""The how-tos are true: their blocks run, and those that add something touch what they say and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sordino as sd
from sordino_hw.fpga.tools import missing_tools

ROOT = Path(__file__).parent.parent
HOWTOS = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def execute(*command, cwd, packages=()):
    """Runs a command with this environment's programs; `packages` come before the installed ones."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    env["PYTHONPATH"] = os.pathsep.join([str(cwd), *map(str, packages), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def follow(page: str, folder: Path):
    """Goes through a page of docs/: a Python block that begins with a file's name is written there, every other block runs."""
    for language, code in BLOCK.findall((ROOT / "docs" / page).read_text()):
        name = re.match(r"# ([\w/]+\.py)\n", code)
        if language == "sh":
            execute("bash", "-euo", "pipefail", "-c", code, cwd=folder)
        elif name:
            (folder / name.group(1)).parent.mkdir(parents=True, exist_ok=True)
            (folder / name.group(1)).write_text(code)
        else:
            execute(sys.executable, "-c", code, cwd=folder)


@pytest.mark.slow
def test_own_network(tmp_path):
    follow("how-to/own-network.md", tmp_path)
    assert (tmp_path / "net.sdn").exists() and (tmp_path / "net.html").exists()


@pytest.mark.slow
def test_sounds(tmp_path):
    follow("tutorials/sounds.md", tmp_path)
    total = {name: json.loads((tmp_path / f"{name}.json").read_text())["stats"]["total"] for name in ("plain", "star")}
    assert total["star"]["density"] < total["plain"]["density"] and total["star"]["cycles"] < total["plain"]["cycles"]


def test_refused_model_is_refused_with_the_text_of_the_page(tmp_path, monkeypatch):
    follow("how-to/why-is-my-model-refused.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = __import__("refused").Net()
    problem = sd.check(model, torch.zeros(1, 3, 16, 16)).problem
    page = (HOWTOS / "why-is-my-model-refused.md").read_text()
    assert " ".join(problem.split()) in " ".join(re.sub(r"^>", "", page, flags=re.MULTILINE).split())


def test_adding_a_sparsity_method_touches_the_files_of_its_page(tmp_path):
    """The page applied to a copy of the package: only the files that it names change, and everything finds the method."""
    page = (HOWTOS / "add-a-sparsity-method.md").read_text()
    copy = tmp_path / "sw" / "sordino"
    shutil.copytree(ROOT / "sw" / "sordino", copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = {p: p.read_bytes() for p in copy.rglob("*.py")}
    method, use = (code for language, code in BLOCK.findall(page) if language == "python")
    (copy / "nn" / "log_sum.py").write_text(method)
    for file, added in re.findall(r"^--- sw/sordino/(\S+)\n\+(.*\n)", page, re.MULTILINE):
        lines = (copy / file).read_text().splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if line.startswith(added[:6]))  # beside its like
        (copy / file).write_text("".join([*lines[:at], added, *lines[at:]]))
    changed = {p for p in copy.rglob("*.py") if before.get(p) != p.read_bytes()}
    assert {f"sw/sordino/{p.relative_to(copy)}" for p in changed} == set(re.findall(r"^\| \[?`(sw/[\w/.]+)`", page, re.MULTILINE))

    check = """
assert sd.__file__.startswith(FOLDER), sd.__file__
from sordino.experiments.study import LADDERS, ladder
assert set(LADDERS) == set(sd.nn.METHODS) and ladder("log-sum", 2.0) == {"strength": 6e-3}
assert sd.nn.METHODS["log-sum"].__name__ == "LogSum" and program.layers
"""
    execute(sys.executable, "-c", use + check.replace("FOLDER", repr(str(tmp_path))), cwd=tmp_path, packages=[tmp_path / "sw"])


def patched(page: str, root: Path):
    """Applies the `diff` blocks of a page to the files that they name: each is some lines as they were, and as they are then."""
    for file, block in re.findall(r"^```diff\n--- (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        lines, text = block.splitlines(), (root / file).read_text()
        old, new = ("\n".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        assert text.count(old) == 1, f"{file} must have this once:\n{old}"
        (root / file).write_text(text.replace(old, new))


def test_changing_a_stage_touches_the_files_of_its_page(tmp_path):
    """The page applied to a copy of the gateware: only the files that it names change, its bench passes, and a core has the stage."""
    page = (HOWTOS / "change-a-stage.md").read_text()
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("hw/sordino_hw", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.py")}
    stage, measure = (code for language, code in BLOCK.findall(page) if language == "python")
    (tmp_path / "hw/sordino_hw/gateware/small/threshold.py").write_text(stage)
    patched(page, tmp_path)
    changed = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.py") if before.get(p) != p.read_bytes()}
    assert changed == set(re.findall(r"^\| \[?`((?:hw|tests)/[\w/.]+)`", page.partition("## 1.")[0], re.MULTILINE))

    (bench,) = (code for language, code in BLOCK.findall(page) if language == "sh")
    assert "4 passed" in execute("bash", "-euo", "pipefail", "-c", bench, cwd=tmp_path, packages=[tmp_path / "hw"])
    built = """
from amaranth.hdl import Fragment
from sordino_hw.gateware.post.ppu import Ppu
from sordino_hw.gateware.small import threshold
from sordino_hw.spec.arch import preset
assert threshold.__file__.startswith(FOLDER), threshold.__file__
made = []
threshold.SmallThreshold.elaborate = lambda self, platform, elaborate=threshold.SmallThreshold.elaborate: made.append(self) or elaborate(self, platform)
for name in ("icebreaker", "ecp5-25f"):
    Fragment.get(Ppu(preset(name)), None)
assert len(made) == preset("icebreaker").ppu
"""
    execute(sys.executable, "-c", built.replace("FOLDER", repr(str(tmp_path))), cwd=tmp_path, packages=[tmp_path / "hw"])
    if not missing_tools(("yosys",)):
        sizes = execute(sys.executable, "-c", measure, cwd=tmp_path, packages=[tmp_path / "hw"])
        assert re.findall(r"^(\w+) \{.*'SB_LUT4': \d+", sizes, re.MULTILINE) == ["Threshold", "SmallThreshold"]
