"""Architectures from text: a preset's name, a preset with changed fields, or a TOML or JSON file.

A file has the fields of `ArchConfig`, and may name a preset as `base`: fields that it does not give are the base's, or the
defaults of `ArchConfig` where it names none.

    base = "ulx3s-85f"
    name = "wide memory"
    act_depth = 4096
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .arch import PRESETS, ArchConfig
from .errors import ArchError

__all__ = ["arch_of", "to_toml"]

_FIELDS = {f.name: f for f in dataclasses.fields(ArchConfig)}


def arch_of(text: str) -> ArchConfig:
    """The architecture that `text` names: `NAME`, `NAME,field=value,...`, `FILE.toml` or `FILE.json`.

    Raises `ArchError`, naming what is unknown, for everything else, and for values that break a rule of `ArchConfig`.
    """
    if text in PRESETS:
        return PRESETS[text]
    if text.endswith((".toml", ".json")):
        return _from_file(Path(text))
    name, _, changes = text.partition(",")
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {near[0]!r}? The" if near else "the"
        raise ArchError(
            f"unknown architecture {name!r}: {hint} presets are {', '.join(PRESETS)}; or give a preset with changed fields, such as "
            "ulx3s-85f,act_depth=4096, a .toml or .json file, or in Python an ArchConfig"
        )
    fields: dict[str, Any] = {}
    for change in changes.split(","):
        field, equals, value = (part.strip() for part in change.partition("="))
        if not equals:
            raise ArchError(
                f"architecture {text!r}: write each change as field=value, such as {name},act_depth=4096, not {change!r}"
            )
        if field in fields:
            raise ArchError(f"architecture {text!r}: {field} is given twice")
        fields[field] = _value(value)
    return _checked(text, {"name": text, **fields}, PRESETS[name])


def to_toml(arch: ArchConfig) -> str:
    """A file from which `arch_of` makes the same architecture."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in arch.to_dict().items())


def _from_file(path: Path) -> ArchConfig:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ArchError(f"architecture {path}: {reason}. Give a .toml or .json file with fields of ArchConfig.") from None
    try:
        fields = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    except ValueError as error:  # tomllib.TOMLDecodeError and json.JSONDecodeError are such
        raise ArchError(f"architecture {path}: not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(fields, dict):
        raise ArchError(f"architecture {path}: an object with fields of ArchConfig is expected, not {type(fields).__name__}")
    base = fields.pop("base", None)
    if base is not None and (not isinstance(base, str) or base not in PRESETS):
        raise ArchError(f"architecture {path}: base {base!r} is no preset; the presets are {', '.join(PRESETS)}")
    try:
        fields = {"name": path.stem, **ArchConfig.values_of(fields)}
    except ArchError as error:
        raise ArchError(f"{path}: {error}") from None
    return _checked(str(path), fields, PRESETS[base] if base is not None else ArchConfig())


def _checked(where: str, fields: Mapping[str, Any], base: ArchConfig) -> ArchConfig:
    for name in fields:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known fields are {', '.join(sorted(_FIELDS))}"
            raise ArchError(f"architecture {where}: unknown field {name!r}{hint}")
    return base.replace(**fields)


def _value(text: str) -> int | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text, 0)
    except ValueError:
        return text
