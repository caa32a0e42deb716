"""In which structure a network returns its results: tuples, lists and dicts of values and of constants."""

import keyword
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..documents import typed

__all__ = ["Group", "Leaf", "Literal", "Tree", "described", "flat", "leaves", "paths", "restore", "tree_document", "tree_from"]

MOST_DEPTH = 32
MOST_LEAVES = 1 << 12


@dataclass(frozen=True)
class Leaf:
    """A value by name. With `joined`, its first dimension is joined with the batch: [N, k, ...] is returned as [N * k, ...]."""

    name: str
    joined: bool = False


@dataclass(frozen=True)
class Literal:
    """None, a truth value, a number or a text."""

    value: bool | int | float | str | None


@dataclass(frozen=True)
class Group:
    """A `list`, `tuple`, `dict` (its keys texts or numbers) or `namedtuple` (its keys the fields, `name` its type's)."""

    kind: str
    items: tuple["Tree", ...]
    keys: tuple[str | int, ...] = ()
    name: str = ""


Tree = Leaf | Literal | Group


def flat(tree: Tree) -> Iterator[Leaf | Literal]:
    """Leaves and literals in order."""
    if isinstance(tree, Group):
        for item in tree.items:
            yield from flat(item)
    else:
        yield tree


def leaves(tree: Tree) -> Iterator[Leaf]:
    """Every value that is returned, in order."""
    return (x for x in flat(tree) if isinstance(x, Leaf))


def paths(tree: Tree, at: str = "") -> Iterator[tuple[str, Leaf | Literal]]:
    """Leaves and literals, each with its keys and positions from the outside in, joined by points: `boxes.0`; the only one has none."""
    if not isinstance(tree, Group):
        yield at, tree
        return
    for i, item in enumerate(tree.items):
        key = str(tree.keys[i]) if tree.keys else str(i)
        yield from paths(item, f"{at}.{key}" if at else key)


def restore(tree: Tree, value: Callable[[Leaf], Any]) -> Any:
    """The structure in Python, with `value` of each leaf."""
    if isinstance(tree, Leaf):
        return value(tree)
    if isinstance(tree, Literal):
        return tree.value
    items = [restore(item, value) for item in tree.items]
    if tree.kind == "dict":
        return dict(zip(tree.keys, items, strict=True))
    if tree.kind == "namedtuple":
        return namedtuple(tree.name, map(str, tree.keys))(*items)  # type: ignore[misc]
    return items if tree.kind == "list" else tuple(items)


def described(tree: Tree) -> str:
    """The structure in a line, as Python writes it."""
    if isinstance(tree, Leaf):
        return tree.name
    if isinstance(tree, Literal):
        return repr(tree.value)
    items = [described(x) for x in tree.items]
    if tree.kind == "dict":
        return "{" + ", ".join(f"{k!r}: {x}" for k, x in zip(tree.keys, items, strict=True)) + "}"
    if tree.kind == "namedtuple":
        return f"{tree.name}({', '.join(f'{k}={x}' for k, x in zip(tree.keys, items, strict=True))})"
    return f"[{', '.join(items)}]" if tree.kind == "list" else f"({', '.join(items)}{',' * (len(items) == 1)})"


def tree_document(tree: Tree) -> dict[str, Any]:
    """The structure as JSON values."""
    if isinstance(tree, Leaf):
        return {"value": tree.name, "joined": tree.joined}
    if isinstance(tree, Literal):
        return {"literal": tree.value}
    return {"group": tree.kind, "items": [tree_document(x) for x in tree.items], "keys": list(tree.keys), "name": tree.name}


def tree_from(d: Any) -> Tree:
    """Inverse of `tree_document`. Raises `TypeError` and `ValueError`."""
    return _tree(d, 0, [0])


def _tree(d: Any, depth: int, count: list[int]) -> Tree:
    d = typed(dict, d, "returns")
    count[0] += 1
    if depth > MOST_DEPTH or count[0] > MOST_LEAVES:
        raise ValueError(f"what is returned has over {MOST_DEPTH} levels or {MOST_LEAVES} parts")
    if set(d) == {"value", "joined"}:
        return Leaf(typed(str, d["value"], "value"), typed(bool, d["joined"], "joined"))
    if set(d) == {"literal"}:
        if type(d["literal"]) not in (bool, int, float, str, type(None)):
            raise TypeError("a literal is None, a truth value, a number or a text")
        return Literal(d["literal"])
    if set(d) != {"group", "items", "keys", "name"}:
        raise TypeError(f"a part of what is returned has the keys {sorted(d)}")
    items = tuple(_tree(x, depth + 1, count) for x in typed(list, d["items"], "items"))
    keys = typed(list, d["keys"], "keys")
    group = Group(typed(str, d["group"], "group"), items, tuple(keys), typed(str, d["name"], "name"))
    _check(group)
    return group


def _check(group: Group) -> None:
    keyed = group.kind in ("dict", "namedtuple")
    if group.kind not in ("list", "tuple") and not keyed:
        raise ValueError(f"there is no structure {group.kind!r}")
    if len(group.keys) != (len(group.items) if keyed else 0) or len(set(group.keys)) != len(group.keys):
        raise ValueError(f"{len(group.keys)} keys of {len(group.items)} items")
    if not all(type(k) in (str, int) for k in group.keys):
        raise TypeError("a key is a text or a whole number")
    if group.kind == "namedtuple" and not all(_identifier(n) for n in (group.name, *group.keys)):
        raise ValueError("names of a namedtuple are identifiers without an underscore in front")


def _identifier(name: Any) -> bool:
    return (
        type(name) is str and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_") and len(name) < 100
    )
