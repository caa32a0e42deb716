"""The A* lookahead: estimated delay and base cost from a wire to a place, from searches on the empty device.

One table for each category of wires, by how many columns and rows away the place is (after K. Murray et al., VTR 8, ACM TRETS 2020,
5.2)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from .graph import LOCAL, Graph, sort_by
from .heap import pop, push

__all__ = ["Lookahead"]

_REACH = 30
"""Columns and rows that are searched. Beyond, each tile adds the mean slope of the outer half."""

_SAMPLES, _APART = 3, 10
"""Logic tiles from which searches start, and the steps between them in the list of tiles ordered by distance from the middle."""


class Lookahead(NamedTuple):
    """`delay`, `cost`: (categories, 2 rows - 1, 2 columns - 1) float32, ps; at [category of the wire, row of the place - row of the
    wire + rows - 1, the same for columns]."""

    delay: NDArray[np.float32]
    cost: NDArray[np.float32]

    @classmethod
    def of(cls, graph: Graph) -> "Lookahead":
        """Measured on a graph."""
        chip = graph.chip
        delay, cost = (
            np.full((len(graph.categories), 2 * chip.rows - 1, 2 * chip.columns - 1), np.inf, np.float32) for _ in range(2)
        )
        reach = min(_REACH, chip.rows // 2 - 4, chip.columns // 2 - 4)
        for place in _places(graph):
            _measure(graph, place, reach, delay, cost)
        for table in (delay, cost):
            _complete(table, reach)
        return cls(delay, cost)


def _places(graph: Graph) -> list[int]:
    """Logic tiles around the middle."""
    chip = graph.chip
    kinds, many = np.unique(chip.type_of, return_counts=True)
    logic = np.flatnonzero(chip.type_of == kinds[many.argmax()])
    apart = np.abs(logic % chip.columns - chip.columns // 2) + np.abs(logic // chip.columns - chip.rows // 2)
    near = logic[np.argsort(apart, kind="stable")]
    return [int(near[k * _APART]) for k in range(_SAMPLES) if k * _APART < len(near)]


def _measure(graph: Graph, place: int, reach: int, delay: NDArray[np.float32], cost: NDArray[np.float32]) -> None:
    """Lowers the tables to what a path to the inputs of the tile `place` takes, from all wires within `reach` tiles."""
    chip, nodes = graph.chip, graph.nodes
    column, row = place % chip.columns, place // chip.columns
    x, y = nodes["x"].astype(np.int32), nodes["y"].astype(np.int32)
    inside = (np.abs(x - column) <= reach) & (np.abs(y - row) <= reach) & (nodes["category"] != LOCAL)
    which = np.flatnonzero(inside)
    local = np.full(len(nodes), -1, np.int32)
    local[which] = np.arange(len(which))
    tail, head, edge_delay, edge_cost = _edges_between(graph.start, graph.edges, nodes, local, which)
    start, order = sort_by(head, len(which))
    tail, edge_delay, edge_cost = tail[order], edge_delay[order], edge_cost[order]
    # The searches run backwards, and begin with the last pip, into an input of the place.
    inputs = (nodes["category"] == LOCAL) & (x == column) & (y == row)
    for table, weight_time, weight_cost in ((delay, 1.0, 0.0), (cost, 0.0, 1.0)):
        least = np.full(len(which), np.inf, np.float32)
        _last_pips(graph.start, graph.edges, nodes, local, which, inputs, weight_time, weight_cost, least)
        _search(start, tail, (weight_time * edge_delay + weight_cost * edge_cost).astype(np.float32), least)
        at = (nodes["category"][which], row - y[which] + chip.rows - 1, column - x[which] + chip.columns - 1)
        np.minimum.at(table, at, least)


@compiled
def _edges_between(start, edges, nodes, local, which):
    """Edges between the wires `which` (n,) int64, whose numbers among themselves are in `local` (wires,) int32; `start`, `edges`,
    `nodes` as in `Graph`. Returns tail and head (m,) int32 by those numbers, delay and base cost (m,) float32, ps."""
    count = 0
    for w in which:
        for e in range(start[w], start[w + 1]):
            count += local[edges[e].head] >= 0
    tail, head = np.empty(count, np.int32), np.empty(count, np.int32)
    time, cost = np.empty(count, np.float32), np.empty(count, np.float32)
    count = 0
    for w in which:
        for e in range(start[w], start[w + 1]):
            to = edges[e].head
            if local[to] >= 0:
                tail[count], head[count] = local[w], local[to]
                time[count], cost[count] = edges[e].delay + edges[e].load, nodes[to].base_cost
                count += 1
    return tail, head, time, cost


@compiled
def _last_pips(start, edges, nodes, local, which, inputs, weight_time, weight_cost, least):
    """Lowers `least` (n,) float32 to the weighted cost of a pip into a wire of `inputs` (wires,) bool; the others as in
    `_edges_between`."""
    for w in which:
        for e in range(start[w], start[w + 1]):
            to = edges[e].head
            if inputs[to]:
                cost = weight_time * (edges[e].delay + edges[e].load) + weight_cost * nodes[to].base_cost
                least[local[w]] = min(least[local[w]], cost)


@compiled
def _search(start, tail, weight, least):
    """Dijkstra's algorithm, backwards over edges sorted by head (`start` (n + 1,) int64, `tail` (m,) int32, `weight` (m,) float32):
    lowers `least` (n,) float32 from the wires for which it is finite."""
    key, item = np.empty(len(tail) + len(least), np.float32), np.empty(len(tail) + len(least), np.int32)
    size = 0
    for w in range(len(least)):
        if least[w] < np.inf:
            size = push(key, item, size, least[w], w)
    while size:
        cost, w = key[0], item[0]
        size = pop(key, item, size)
        if cost > least[w]:
            continue
        for e in range(start[w], start[w + 1]):
            to = tail[e]
            if cost + weight[e] < least[to]:
                least[to] = cost + weight[e]
                size = push(key, item, size, least[to], to)


def _complete(table: NDArray[np.float32], reach: int) -> None:
    """Fills what no search has shown: within `reach` by the least of all categories, further away by the slope."""
    middle_y, middle_x = table.shape[1] // 2, table.shape[2] // 2
    box = table[:, middle_y - reach : middle_y + reach + 1, middle_x - reach : middle_x + reach + 1]
    least = box.min(axis=0)
    assert np.isfinite(least).all(), "every place is reached by some category of wires"
    np.copyto(box, least, where=~np.isfinite(box))
    half = reach // 2
    slope = float(np.mean([least[0, reach] - least[half, reach], least[reach, 0] - least[reach, half]])) / (reach - half)
    dy = np.arange(table.shape[1]) - middle_y
    dx = np.arange(table.shape[2]) - middle_x
    inner_y, inner_x = np.clip(dy, -reach, reach), np.clip(dx, -reach, reach)
    beyond = np.abs(dy - inner_y)[:, None] + np.abs(dx - inner_x)
    table[:] = box[:, (inner_y + reach)[:, None], inner_x + reach] + slope * beyond
