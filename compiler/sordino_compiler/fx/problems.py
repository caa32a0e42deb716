"""Refusals: every problem of a model, collected, each with its node, its source line and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from sordino_hw.spec.errors import CompileError

__all__ = ["Problem", "refuse"]


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a model from being compiled."""

    node: str
    """Name of the node in the exported graph."""
    operator: str
    source: str
    text: str
    """What the limit is, what was found, and what to do."""

    def __str__(self) -> str:
        return f"{self.operator} {self.node!r} ({self.source}): {self.text}"


def refuse(problems: Sequence[Problem]) -> None:
    """Raises one `CompileError` that names all problems; returns if there are none."""
    if len(problems) == 1:
        raise CompileError(str(problems[0]))
    if problems:
        listed = " ".join(f"({i}) {p}" for i, p in enumerate(problems, 1))
        raise CompileError(f"{len(problems)} parts of the model cannot be compiled. {listed}")
