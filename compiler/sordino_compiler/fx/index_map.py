"""Index maps: where each element of a value comes from that a chain of views makes of another one.

A view is followed by running it on positions in place of activations. So a map is exact for every operator that only moves
values, whatever the dimensions in between: reshapes, permutations, slices, flips, repetitions, and resizing to the nearest.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node, map_arg

from .nodes import constant, feature_shape, is_constant, is_size

__all__ = ["BATCH", "IndexMap", "apply", "concrete", "fixed", "followed", "positions", "whole"]

BATCH = 2
"""Images of a free batch with which maps are followed: two, so that a view that mixes images is seen."""


@dataclass(frozen=True)
class IndexMap:
    """What views have made of the value of `source`."""

    source: Node
    found: Any
    """float64, as the views shape it (a list of tensors behind a split): the position in the flattened source, batch included."""
    batch: int
    """Images in it."""

    @cached_property
    def problem(self) -> str:
        """Why it is no activation: dimensions, or the batch; empty where it is one."""
        x = self.found
        if not isinstance(x, Tensor):
            return "several tensors at once"
        if not 2 <= x.dim() <= 4:
            return f"{x.dim()} dimensions, the batch included"
        first, *others = x.reshape(len(x), -1)
        size = float(positions(self.source, self.batch)[0].numel())
        apart = len(x) == self.batch and all(torch.equal(other, first + i * size) for i, other in enumerate(others, 1))
        return "" if apart and bool((first < size).all()) else "the batch is not the first dimension any more"

    @property
    def reshaped(self) -> bool:
        """Whether it is the whole source in order, the batch first, in whatever shape: an output that the host reshapes."""
        x = self.found
        return isinstance(x, Tensor) and len(x) == self.batch and torch.equal(x.ravel(), positions(self.source, self.batch).ravel())

    @property
    def index(self) -> Tensor:
        """int64 [c, h, w]: the position of each element in one image of the source, flattened. There must be no `problem`."""
        x = self.found[0]
        c, *size = x.shape
        h, w = (1, 1, *size)[-2:] if len(size) < 2 else size
        return x.reshape(c, h, w).long()


def concrete(size: Any, batch: int) -> int:
    """A size of an exported graph, as a number, for so many images."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def positions(source: Node, batch: int) -> Tensor:
    """The positions of a value's elements, float64, in its own shape."""
    shape = [concrete(s, batch) for s in source.meta["val"].shape]
    return torch.arange(prod(shape), dtype=torch.float64).reshape(shape)


def apply(module: GraphModule, node: Node, x: Node, value: Any, batch: int) -> Any:
    """The node's operator on `value` in place of `x`, its only activation."""

    def evaluate(n: Node) -> Any:
        if n is x:
            return value
        if is_size(n):
            return concrete(n.meta["val"], batch)
        found = constant(module, n)
        return found if found.dim() else found.item()

    with torch.no_grad():
        return node.target(*map_arg(node.args, evaluate), **map_arg(node.kwargs, evaluate))  # type: ignore[operator]


def followed(module: GraphModule, node: Node, x: Node, before: IndexMap) -> IndexMap:
    """The map of a view `node` of `x`, whose map is `before`."""
    # What the exported graph asks of strides holds for the model's values, not for ours.
    now = before.found.contiguous() if isinstance(before.found, Tensor) else before.found
    return replace(before, found=apply(module, node, x, now, before.batch))


def whole(index: Tensor, source: Node) -> bool:
    """Whether a map takes every element of the source, in order and in the source's shape."""
    return tuple(index.shape) == feature_shape(source) and torch.equal(index.ravel(), torch.arange(index.numel()))


def fixed(node: Node, x: Node) -> bool:
    """Whether a view's other arguments are constants or sizes, so that it can be followed."""
    return all(n is x or is_size(n) or is_constant(n) for n in node.all_input_nodes)
