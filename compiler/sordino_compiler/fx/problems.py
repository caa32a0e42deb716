"""Refusals: every problem of a model, collected, each with its node, its source line and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from sordino_hw.spec.errors import CompileError

__all__ = ["Problem", "listed", "refuse"]

PLACES = 4
"""At most so many places of one problem are named; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a model from being compiled."""

    node: str
    """Name of the node in the exported graph."""
    operator: str
    source: str
    text: str
    """What the limit is, and what to do."""
    found: str = ""
    """What was found instead."""
    cut: str = ""
    """Where to cut the model, if that is the remedy."""

    @property
    def reason(self) -> str:
        """The limit, what was found, and what to do."""
        return _reason(self.text, self.found, self.cut)

    def __str__(self) -> str:
        return f"{self.operator} {self.node!r} ({self.source}): {self.reason}"


def listed(problems: Sequence[Problem]) -> list[str]:
    """A paragraph for each problem; where several nodes have the same one, one paragraph names them all."""
    same: dict[tuple[str, str], list[Problem]] = {}
    for p in problems:
        same.setdefault((p.operator, p.text), []).append(p)
    return [str(group[0]) if len(group) == 1 else _several(group) for group in same.values()]


def _several(group: Sequence[Problem]) -> str:
    places = [f"{p.node!r} ({p.source})" for p in group[:PLACES]]
    more = f" and {len(group) - PLACES} more" if len(group) > PLACES else ""
    found = list(dict.fromkeys(p.found for p in group if p.found))
    what = "; ".join(found[:PLACES]) + (f" and {len(found) - PLACES} more" if len(found) > PLACES else "")
    reason = _reason(group[0].text, what, group[0].cut)
    return f"{group[0].operator}, {len(group)} calls, {', '.join(places)}{more}: {reason}"


def _reason(text: str, found: str, cut: str) -> str:
    return " ".join(part for part in (text, f"Found: {found}." if found else "", cut) if part)


def refuse(problems: Sequence[Problem]) -> None:
    """Raises one `CompileError` that names all problems; returns if there are none."""
    texts = listed(problems)
    if len(texts) == 1:
        raise CompileError(texts[0])
    if texts:
        numbered = " ".join(f"({i}) {text}" for i, text in enumerate(texts, 1))
        raise CompileError(f"{len(texts)} parts of the model cannot be compiled. {numbered}")
