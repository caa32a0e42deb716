"""Optuna's journal files after a crash: a line that was cut off must not lock out what is finished."""

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileSymlinkLock

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing

__all__ = ["repair"]


def repair(path: Path) -> str | None:
    """Sets damaged lines of a journal aside, into `PATH.torn`, and returns a sentence that says so; None if it is whole.

    A writer whose disk is full or that is killed leaves the start of a record without the end of its line, and whoever writes
    next goes on in that line. The record behind the torn one is kept: it took effect for everybody, the torn one for nobody.
    Optuna counts records to number trials, so no whole record is ever dropped. A file of which no line is a record is left
    alone: it is no journal.
    """
    if not path.is_file() or _whole(path.read_bytes()):
        return None
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # a line without an end may be one that is being written
    try:
        data = path.read_bytes()
        kept, torn = _split(data)
        if not torn or not kept:
            return None
        aside = path.with_name(path.name + ".torn")
        with aside.open("ab") as file:
            file.write(b"\n".join(torn) + b"\n")
        if data.startswith(kept):
            os.truncate(path, len(kept))  # needs no space on a disk that may still be full
        else:
            with replacing(path, InputError) as temporary:
                temporary.write_bytes(kept)
    finally:
        lock.release()
    return (
        f"{path}: {len(torn)} records were cut off while they were written; they are set aside in {aside}, and all others are kept."
    )


def _whole(data: bytes) -> bool:
    return (data.endswith(b"\n") and all(_record(line) is not None for line in data.splitlines())) or not data


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "op_code" in found else None


def _split(data: bytes) -> tuple[bytes, list[bytes]]:
    """The whole records, a line each, and what is left of torn ones."""
    kept, torn = [], []
    for line in data.splitlines(keepends=True):
        if line.endswith(b"\n") and _record(line) is not None:
            kept.append(line)
            continue
        start = line.find(b"{", 1)
        while start > 0 and (not line.endswith(b"\n") or _record(line[start:]) is None):
            start = line.find(b"{", start + 1)
        if start > 0:
            kept.append(line[start:])
        torn.append((line[:start] if start > 0 else line).rstrip(b"\n"))
    return b"".join(kept), torn
