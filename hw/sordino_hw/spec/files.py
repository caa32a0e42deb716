"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SordinoError

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike, error: type[SordinoError]) -> Iterator[Path]:
    """The path of an empty file that takes the place of `path` when the block is left without an exception.

    On failure nothing is left behind and an existing file is kept. Raises `error` where the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
    except OSError as reason:
        raise error(f"cannot write {path}: {reason.strerror}. Choose a folder that exists and is writable.") from None
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors writes files for their owner alone
        temporary.replace(path)
    except OSError as reason:
        raise error(f"cannot write {path}: {reason.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)
