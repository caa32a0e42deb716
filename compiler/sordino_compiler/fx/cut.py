"""Where to cut a model before an operator that the array does not compute."""

from collections.abc import Callable, Iterable

from torch.fx import Node

from .nodes import operator_name
from .source import where

__all__ = ["cut"]


def cut(node: Node, reads: Iterable[Node], weighted: Callable[[Node], bool]) -> str:
    """What to do with `node`, which reads the activations `reads`, by its place among the layers with weights."""
    names = " and ".join(
        f"{operator_name(n)} {n.name!r} ({where(n)})" if n.op != "placeholder" else f"the input {n.name!r}" for n in reads
    )
    if not _any(node, lambda n: n.users, weighted):
        return f"No layer with weights follows: return the result of {names} from forward, and compute the rest on the host."
    if not _any(node, lambda n: n.all_input_nodes, weighted):
        return "No layer with weights comes before it: compute it on the host, and give its result to the model as the input."
    return (
        f"It stands between layers: cut the model there. One model returns the result of {names}, the host computes the operator, and a second "
        "model takes its result as the input."
    )


def _any(node: Node, following: Callable[[Node], Iterable[Node]], holds: Callable[[Node], bool]) -> bool:
    """Whether a node that is reached from `node` fulfils a condition."""
    seen, todo = {node}, [node]
    while todo:
        for n in following(todo.pop()):
            if n not in seen:
                if holds(n):
                    return True
                seen.add(n)
                todo.append(n)
    return False
