"""`Operator`: what the compiler knows of one operator of the exported graph, and the table of all of them.

The modules of this package enter their operators when they are imported; `ops/__init__.py` imports all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from ..fx.nodes import operator_name
from .planner import Planner

__all__ = ["OPERATORS", "Constraint", "Operator", "operator", "rule", "traits"]

Constraint = Callable[[Planner, Node, dict[str, Any]], str | None]
"""None if the node keeps the rule, else what was found. Its docstring is what the user reads, and a row of
`docs/reference/operators.md`: it states the rule and what to do."""


@dataclass(frozen=True)
class Operator:
    """One operator, or several that are planned alike."""

    names: tuple[str, ...]
    """Without overload: `aten.conv2d`."""
    becomes: str
    """What it becomes on the array, for `sordino check` and `docs/reference/operators.md`."""
    constraints: tuple[Constraint, ...]
    plan: Callable[[Planner, Node, dict[str, Any]], None]
    """Adds a layer for the node, or extends one; the node keeps all rules. Takes the arguments by name."""
    rewrite: Callable[[GraphModule, Node], None] | None = None
    """Brings a call into the form that is planned, in place, before anything else looks at the graph."""
    weighted: bool = False
    """Whether its arguments `weight`, output channels first, and `bias` are trained: a gain per channel may go into them."""
    homogeneous: bool = False
    """Whether f(k x) = k f(x) in each channel for k > 0."""
    views: bool = False
    """Whether it only shows, repeats or reorders the values of its first operand: see `fx.index_map`."""
    monotone: bool = False
    """Whether it does not decrease, and works on every element alike."""


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, becomes: str, constraints: tuple[Constraint, ...] = (), **traits: Any):
    """Enters a function, `Operator.plan`, for the operators of these names."""

    def register(plan):
        entry = Operator(names, becomes, constraints, plan, **traits)
        OPERATORS.update(dict.fromkeys(names, entry))
        return plan

    return register


def rule(constraint: Constraint) -> str:
    """The text of a constraint, on one line."""
    return " ".join((constraint.__doc__ or "").split())


def traits(node: Any) -> Operator | None:
    """The entry of a node's operator."""
    return OPERATORS.get(operator_name(node)) if isinstance(node, Node) else None
