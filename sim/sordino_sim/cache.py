"""Where builds are cached: a folder that nobody else can write, because simulators in it are code that will run.

`SORDINO_CACHE` names another folder than the user's cache folder. Where the home folder cannot be written, and
`SORDINO_CACHE` is not set, a private folder beside the system's temporary files takes its place.
"""

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from sordino_hw.spec.errors import ToolError

__all__ = ["cache_dir", "is_trusted", "locked", "prune", "touch"]

_OTHERS = stat.S_IWGRP | stat.S_IWOTH

MAX_AGE = 90 * 24 * 3600.0
"""Seconds after its last use from which on a build is removed."""
MAX_BYTES = 4 << 30
"""Bytes of builds of one kind from which on those that were not used for longest are removed."""


def cache_dir(kind: str) -> Path:
    """The folder for one kind of build, such as "rtl". It need not exist; `locked` makes it."""
    named = os.environ.get("SORDINO_CACHE")
    if named:
        return Path(named) / kind
    folder = Path(platformdirs.user_cache_dir("sordino"))
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        folder = Path(tempfile.gettempdir()) / f"sordino-{os.geteuid()}"
    return folder / kind


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file of a cache's folder, which it makes. The file stays: removing it would let two in.

    Raises `ToolError` if the folder cannot be written, or if others can write it.
    """
    with contextlib.ExitStack() as stack:
        try:
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check(path.parent)
            lock = stack.enter_context(open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w"))
        except OSError as error:
            raise ToolError(
                f"The folder {path.parent} for built simulators cannot be written ({error.strerror}). "
                "Name another in SORDINO_CACHE."
            ) from None
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check(folder: Path) -> None:
    """Makes sure that nobody else can put files into a folder of a cache: one of our own loses others' permission to write.

    What others put there before is still theirs, and `is_trusted` tells it. Raises `ToolError` for a folder of somebody else, and
    for one that somebody else could exchange.
    """
    state, parent = folder.stat(), folder.parent.stat()
    if state.st_uid == os.geteuid() and state.st_mode & _OTHERS:
        folder.chmod(stat.S_IMODE(state.st_mode) & ~_OTHERS)
    for place, reason in (
        (folder, "it belongs to somebody else" if state.st_uid not in (os.geteuid(), 0) else ""),
        (folder, "others than you can write it" if folder.stat().st_mode & _OTHERS else ""),
        (folder.parent, "everybody can write it" if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX else ""),
    ):
        if reason:
            raise ToolError(
                f"The folder {place} is not safe for built simulators, which are programs that will run: {reason}. "
                f"Take the others' permission away (chmod go-w {place}), or name a folder of your own in SORDINO_CACHE."
            )


def is_trusted(path: Path) -> bool:
    """Whether a cached file is there, and neither is another user's nor can be written by one. Its folder is checked, too.

    Raises `ToolError` if the folder is not safe.
    """
    try:
        state = path.lstat()
    except OSError:
        return False
    check(path.parent)
    return stat.S_ISREG(state.st_mode) and state.st_uid in (os.geteuid(), 0) and not state.st_mode & _OTHERS


def touch(path: Path) -> None:
    """Notes that a build was used; see `prune`."""
    with contextlib.suppress(OSError):
        os.utime(path)


def prune(folder: Path, pattern: str, max_age: float = MAX_AGE, max_bytes: int = MAX_BYTES) -> list[Path]:
    """Removes builds that were not used for `max_age` seconds, and those unused for longest beyond `max_bytes` in all.

    Returns what it removed. A library that a process has loaded stays usable to it.
    """
    files, removed, total, now = [], [], 0, time.time()
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            state = path.stat()
            files.append((state.st_mtime, state.st_size, path))
    for used, size, path in sorted(files, reverse=True):
        total += size
        if now - used > max_age or total > max_bytes:
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
