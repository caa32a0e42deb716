"""Compiled functions: their cache changes with every source that they may contain, and is nowhere where others can write."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sordino_hw import compiled

ROOT = Path(__file__).parents[2]

CALLER = """
from made.inner.callee import value
from sordino_hw.compiled import compiled

@compiled
def call(x):
    return x + value()

@compiled(nogil=True)
def free(x):
    return x - value()
"""
CALLEE = """
from sordino_hw.compiled import compiled

@compiled
def value():
    return {}
"""


@pytest.fixture
def made(tmp_path, monkeypatch) -> Path:
    """A package whose function in one file calls one in another."""
    inner = tmp_path / "made" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").write_text("")
    (inner / "caller.py").write_text(CALLER)
    (inner / "callee.py").write_text(CALLEE.format(1))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("SORDINO_CACHE", str(tmp_path / "cache"))
    return inner


def call(made: Path) -> tuple[list[int], int]:
    """In a new process: values of both functions, and how many functions came from the cache."""
    code = "from made.inner.caller import call, free; print(call(10), free(10)); print(sum(len(f.stats.cache_hits) for f in (call, free)))"
    path = os.pathsep.join([str(made.parents[1]), str(ROOT / "hw")])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values, hits = done.stdout.splitlines()
    return [int(v) for v in values.split()], int(hits)


def test_a_change_in_another_file_is_seen(made):
    """numba alone would go on with what it kept of the caller. What is not changed is not compiled again, and old folders go."""
    assert call(made) == ([11, 9], 0)
    assert call(made) == ([11, 9], 2)
    (made / "callee.py").write_text(CALLEE.format(5))
    assert call(made) == ([15, 5], 0)
    assert len([*(made / "__pycache__").glob("numba-inner-*")]) == 1


@pytest.mark.parametrize("reason", ["file", "open", "foreign"])
def test_unsafe_folders_are_not_used(reason, made, monkeypatch):
    """Where something else is in the way, others may write, or it is somebody else's: the user's cache is next, then none."""
    call(made)
    (folder,) = (made / "__pycache__").glob("numba-inner-*")
    compiled.cache_folder.cache_clear()
    assert compiled.cache_folder(made) == folder and folder.stat().st_mode & 0o077 == 0
    user = Path(os.environ["SORDINO_CACHE"]) / "numba" / folder.name

    def spoil(path: Path) -> None:
        if reason == "file":
            path.rename(path.with_name("away"))
            path.write_text("")
        elif reason == "open":
            path.chmod(0o777)

    if reason == "foreign":
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
        compiled.cache_folder.cache_clear()
        assert compiled.cache_folder(made) is None
        return
    spoil(folder)
    compiled.cache_folder.cache_clear()
    assert compiled.cache_folder(made) == user and user.is_dir()
    spoil(user)
    compiled.cache_folder.cache_clear()
    assert compiled.cache_folder(made) is None
    assert call(made) == ([11, 9], 0) and call(made) == ([11, 9], 0), "compiled anew in each process"


def test_a_named_folder_is_taken(made, tmp_path, monkeypatch):
    """And what others keep there stays, while it is in use."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "named"))
    other, old = (tmp_path / "named" / f"numba-inner-{age}" for age in ("new", "old"))
    for folder in (other, old):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    compiled.cache_folder.cache_clear()
    folder = compiled.cache_folder(made)
    assert folder is not None and folder.parent == tmp_path / "named" and other.exists() and not old.exists()
    assert call(made) == ([11, 9], 0) and any(folder.rglob("*.nbi"))


def test_functions_without_a_package(tmp_path):
    """Such as those of a script: the file alone counts."""
    (tmp_path / "script.py").write_text(CALLEE.format(3) + "\nprint(value())\n")
    path = str(ROOT / "hw")
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert done.stdout == "3\n", done.stderr


def test_compiled_functions_call_those_of_their_own_subpackage():
    """The digest is of that alone. By the imports of all files that have compiled functions."""
    found = 0
    for place, package in (("hw", "sordino_hw"), ("sim", "sordino_sim"), ("compiler", "sordino_compiler"), ("sw", "sordino")):
        for file in sorted((ROOT / place / package).rglob("*.py")):
            tree = ast.parse(file.read_text())
            used = {
                n.id
                for f in ast.walk(tree)
                if isinstance(f, ast.FunctionDef) and _is_compiled(f)
                for n in ast.walk(f)
                if isinstance(n, ast.Name)
            }
            found += bool(used)
            subpackage = file.relative_to(ROOT / place).parts[:2]
            depth = len(file.relative_to(ROOT / place).parts)
            for node in ast.walk(tree):
                names = {alias.asname or alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
                if names & (used - {"compiled"}) and node.module != "numpy":
                    inside = node.level and depth - node.level >= len(subpackage)
                    assert inside or (node.module or "").startswith(".".join(subpackage)), f"{file}: {names & used}"
    assert found > 10


def _is_compiled(function: ast.FunctionDef) -> bool:
    return any(getattr(d.func if isinstance(d, ast.Call) else d, "id", "") == "compiled" for d in function.decorator_list)
