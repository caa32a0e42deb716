"""JSON documents with checked types: plain types, tuples and dataclasses of them."""

import dataclasses
from typing import Any, get_args, get_origin, get_type_hints

from .text import printable

__all__ = ["record", "records", "typed"]


def typed(kind: Any, value: Any, name: str) -> Any:
    """`value` of a JSON document as `kind`: a plain type, or a tuple of one from a list. Raises `TypeError`."""
    if get_origin(kind) is tuple:
        items = get_args(kind)
        if type(value) is list and (items[-1] is ... or len(items) == len(value)):
            return tuple(typed(items[0], item, name) for item in value)
    elif type(value) is kind:
        return value
    elif kind is float and type(value) is int:
        return float(value)
    raise TypeError(f"{name} is {printable(repr(value))}")


def record(kind: type, fields: dict) -> Any:
    """A dataclass from its fields in a JSON document, types checked. Raises `TypeError`."""
    hints = get_type_hints(kind)
    hints = {f.name: hints[f.name] for f in dataclasses.fields(kind)}
    if type(fields) is not dict or set(fields) != set(hints):
        raise TypeError(f"{kind.__name__} is {printable(repr(fields))}")
    return kind(**{name: typed(hint, fields[name], f"{kind.__name__}.{name}") for name, hint in hints.items()})


def records(kind: type, documents: list) -> list:
    """A list of `record`s."""
    return [record(kind, fields) for fields in typed(list, documents, kind.__name__)]
