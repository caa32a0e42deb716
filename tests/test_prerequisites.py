"""`make setup` says what is missing, and what to do about it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / ".ci" / "prerequisites"


def check(path: Path, python: str):
    bash = shutil.which("bash")
    assert bash
    return subprocess.run([bash, SCRIPT], capture_output=True, text=True, env={"PATH": str(path), "PYTHON": python})


def programs(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or "/bin/true")
    return folder


def test_everything_is_there(tmp_path):
    done = check(programs(tmp_path, "g++", "make", "perl", "git"), sys.executable)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_is_missing(tmp_path):
    done = check(tmp_path, "python3")
    assert done.returncode == 2
    assert done.stderr == (
        "sordino: python3 was not found. Install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3\n"
    )


def test_python_is_too_old(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi\n')
    old.chmod(0o755)
    done = check(Path(f"{tmp_path}{os.pathsep}{os.defpath}"), "python3")
    assert done.returncode == 2
    assert done.stderr == (
        "sordino: Python 3.9.2 is too old: 3.11 or newer is needed. Install one and name it: make setup PYTHON=python3.11\n"
    )


def test_compiler_is_missing(tmp_path):
    done = check(programs(tmp_path, "make", "git"), sys.executable)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "sordino: g++ perl not found; Verilator needs a C++ compiler, make and perl. On Debian and Ubuntu: "
    )
