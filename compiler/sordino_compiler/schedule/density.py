"""Assumed densities: the fraction of activations that are not zero, of every value of a graph."""

from collections.abc import Mapping

import numpy as np

from sordino_hw.spec.errors import CompileError

from ..graph import Graph

__all__ = ["DEFAULT", "densities"]

DEFAULT = 0.5
"""Density of a value about which nothing is known."""


def densities(graph: Graph, given: float | Mapping[str, float]) -> dict[str, float]:
    """The density of every value: one for all, or as given by name.

    A value that is not named has that of what it is made of where it is a copy, a part or a concatenation, else
    `DEFAULT`. Raises `CompileError` for a density that is not from 0 to 1.
    """
    named = given if isinstance(given, Mapping) else dict.fromkeys(graph.values, given)
    for name, density in named.items():
        if not 0 <= density <= 1:
            raise CompileError(f"density of {name!r}: it must be from 0 to 1, not {density!r}.")
    out: dict[str, float] = {}
    for n in graph.nodes:
        name = n.out.name
        if name in named:
            out[name] = float(named[name])
        elif n.copies:
            channels = [graph.values[i].shape[0] for i in n.inputs]
            out[name] = float(np.average([out[i] for i in n.inputs], weights=channels))
        else:
            out[name] = DEFAULT
    return out
