"""Graph to graph: what happens to the integer graph before it is scheduled. `PASSES` is the table of contents."""

from collections.abc import Callable

from sordino_hw.spec.errors import CompileError

from ..graph import Graph
from .accumulators import prove_accumulators
from .concats import nest_concats
from .copies import insert_copies
from .dead import drop_dead
from .flatten import fold_flatten

__all__ = ["PASSES", "prepare"]

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    fold_flatten,
    drop_dead,
    nest_concats,
    insert_copies,
    prove_accumulators,
)
"""In this order."""


def prepare(graph: Graph) -> Graph:
    """The graph after every pass, checked before and after each."""
    graph.check()
    if not graph.outputs:
        raise CompileError("the graph has no output: there is nothing to compile. Return a value from the model.")
    for each in PASSES:
        graph = each(graph)
        graph.check()
    return graph
