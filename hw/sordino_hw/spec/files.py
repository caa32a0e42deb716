"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import SordinoError

__all__ = ["replacing"]

_FOLDER = "Choose a folder that exists and is writable."
_SPACE = "Free space there, or choose a folder on another disk."
_REMEDIES = {
    errno.ENOENT: _FOLDER,
    errno.ENOTDIR: _FOLDER,
    errno.EACCES: _FOLDER,
    errno.EPERM: _FOLDER,
    errno.EROFS: _FOLDER,
    errno.EISDIR: "Name a file in it.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Remove the symbolic link that leads to itself, or choose another name.",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "Raise the limit of file sizes (`ulimit -f`), or choose another disk.",
    errno.EPIPE: "Whatever read from it has ended.",
}


@contextmanager
def replacing(path: str | os.PathLike, error: type[SordinoError]) -> Iterator[Path]:
    """The path of an empty file that takes the place of `path` when the block is left without an exception.

    A symbolic link is followed: the file that it names is replaced, and the link stays. An existing file keeps its
    permissions. What is no regular file (a device such as /dev/stdout, a FIFO) is written in place at the end instead. On
    failure nothing is left behind and an existing file is kept. The data is on the disk before the old file goes.

    Raises `error` where the file cannot be written, a full disk included.
    """
    try:
        existing = os.stat(path) if os.path.exists(path) else None
        if existing is not None and stat.S_ISDIR(existing.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        in_place = existing is not None and not stat.S_ISREG(existing.st_mode)
        target = Path(path if in_place else os.path.realpath(path))  # a pipe behind /dev/stdout has no path of its own
        temporary = _create(Path(tempfile.gettempdir()) if in_place else target.parent, None if in_place else existing)
    except (OSError, ValueError) as reason:
        raise error(_message(path, reason)) from None
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # safetensors replaces the file by one for its owner alone
        if in_place:
            with temporary.open("rb") as data, os.fdopen(os.open(target, os.O_WRONLY), "wb") as device:
                shutil.copyfileobj(data, device)
        else:
            _flush(temporary)
            temporary.replace(target)
            with contextlib.suppress(OSError):  # some file systems cannot flush a folder
                _flush(target.parent)
    except (OSError, SafetensorError) as reason:
        raise error(_message(path, reason)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _create(folder: Path, existing: os.stat_result | None) -> Path:
    """A new empty file of an unpredictable name, with the permissions of `existing`, or those that new files have."""
    temporary = folder / f".sordino-{secrets.token_hex(8)}.part"
    mode = 0o666 if existing is None else stat.S_IMODE(existing.st_mode)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    try:
        if existing is not None:
            os.fchmod(file, mode)  # open() took away what the umask forbids
    finally:
        os.close(file)
    return temporary


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _message(path: str | os.PathLike, reason: Exception) -> str:
    """One paragraph: the file, what the system said, and the remedy where one is known."""
    code, text = getattr(reason, "errno", None), str(getattr(reason, "strerror", None) or reason)
    if code is None and (found := re.search(r"os error (\d+)", text)):  # as safetensors writes it
        code = int(found[1])
        text = os.strerror(code)
    return (
        f"cannot write {os.fspath(path)}: {text}. {_REMEDIES.get(code, '')}".rstrip() if code else f"cannot write {path}: {text}."
    )
