"""Versions of the program document: what this Sordino writes, and how it reads older ones."""

from pathlib import Path

from .arch import newer, update
from .documents import typed
from .errors import BinaryError

__all__ = ["FORMAT_VERSION", "NEEDS", "current"]

FORMAT_VERSION = 4
"""Version 3, which had no host steps, is read too, and version 2, which had `input_shapes`, `output_shapes` and `Layer.mapping` in
`meta`."""

NEEDS = "0.1.0"
"""The first release of Sordino that reads `FORMAT_VERSION`."""


def current(d: dict, path: Path) -> dict:
    """A program document in the form of `FORMAT_VERSION`. Raises `BinaryError` for a version that is not read."""
    version = typed(int, d["version"], "version")
    if version in (2, 3):
        return (_from_version_2(d) if version == 2 else d) | {"host": None}
    if version > FORMAT_VERSION and isinstance(d.get("needs"), str) and newer(d["needs"]):
        raise BinaryError(f"{path}: format version {version}. {update(d['needs'])}, or compile the model again with this one.")
    if version != FORMAT_VERSION:
        raise BinaryError(f"{path}: format version {version}; this Sordino reads 2 to {FORMAT_VERSION}. Compile the model again.")
    if d["needs"] != NEEDS:
        raise ValueError(f"needs is {d['needs']!r}")
    return d


def _from_version_2(d: dict) -> dict:
    """Moves what version 2 had in `meta` to its fields."""
    meta = dict(typed(dict, d["meta"], "meta"))
    mappings = typed(dict, meta.pop("mapping", {}), "meta.mapping")
    shapes = {t["name"]: t["shape"] for t in typed(list, d["tensors"], "tensors")}
    return d | {
        "layers": [{**layer, "mapping": mappings.get(layer["name"], "")} for layer in typed(list, d["layers"], "layers")],
        "input_shapes": meta.pop("input_shapes", None) or [shapes[name] for name in d["inputs"]],
        "output_shapes": meta.pop("output_shapes", None) or [shapes[name] for name in d["outputs"]],
        "meta": meta,
    }
