"""Functions compiled by numba, kept on disk under a digest of all the sources that they may contain.

numba's own cache looks at the file of a function alone. A compiled function contains those that it calls, so that a change in one
file would leave stale code of others behind. Here the name of the cache's folder has a digest of all sources of the function's
subpackage, such as `sordino_hw.ecp5_pnr`; a compiled function calls compiled functions of its own subpackage only."""

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numba
import platformdirs

__all__ = ["cache_folder", "compiled"]

F = TypeVar("F", bound=Callable[..., Any])

_KEPT_DAYS = 30
"""Folders of other sources that were not used for so long are removed from a user's cache."""


def compiled(function: F | None = None, *, nogil: bool = False) -> Any:
    """Decorator, with or without arguments: `numba.njit` with a cache that is never stale.

    `nogil`: other Python threads run meanwhile. Where no folder can be used, see `cache_folder`, each process compiles anew.
    """
    if function is None:
        return functools.partial(compiled, nogil=nogil)
    folder = cache_folder(_sources(function))
    if folder is None:
        return numba.njit(nogil=nogil)(function)
    # numba reads this setting when it decorates a function, and not later.
    config: Any = numba.config
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        return numba.njit(cache=True, nogil=nogil)(function)
    except RuntimeError:  # "no locator available": the folder has gone, and nothing else is writable
        return numba.njit(nogil=nogil)(function)
    finally:
        config.CACHE_DIR = before


def _sources(function: Callable[..., Any]) -> Path:
    """The folder of a function's subpackage; its file alone if it is in none."""
    package = ".".join(function.__module__.split(".")[:2])
    path = Path(getattr(sys.modules.get(package), "__file__", None) or function.__code__.co_filename)
    return path.parent if path.name == "__init__.py" else path


@functools.cache
def cache_folder(sources: Path) -> Path | None:
    """The folder for what is compiled from `sources`, a file or a folder of them; made if need be. None where there is no safe one.

    It is in `NUMBA_CACHE_DIR` if that is set, else in `__pycache__` beside the sources, else in the user's cache (`SORDINO_CACHE`). It
    must belong to the user, and nobody else may write there, because numba runs what it finds in it.
    """
    files = sorted(sources.rglob("*.py")) if sources.is_dir() else [sources]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(sources.parent)).encode() + b"\0" + file.read_bytes() + b"\0")
    name = f"numba-{sources.stem}-{digest.hexdigest()[:16]}"
    for parent, kept in _parents(sources):
        folder = parent / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(folder):
                continue
            os.utime(folder)
        except OSError:
            continue
        _prune(folder, f"numba-{sources.stem}-*", kept)
        return folder
    return None


def _parents(sources: Path) -> Iterator[tuple[Path, float]]:
    """Where caches may be, and how many seconds folders of other sources are kept there after their last use."""
    seconds = _KEPT_DAYS * 86400.0
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(named), seconds
    yield (sources if sources.is_dir() else sources.parent) / "__pycache__", 0.0
    yield Path(os.environ.get("SORDINO_CACHE") or platformdirs.user_cache_dir("sordino")) / "numba", seconds


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return stat.S_ISDIR(found.st_mode) and ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _prune(folder: Path, pattern: str, kept: float) -> None:
    with contextlib.suppress(OSError):
        for other in folder.parent.glob(pattern):
            if other != folder and not other.is_symlink() and time.time() - other.stat().st_mtime > kept:
                shutil.rmtree(other, ignore_errors=True)
