"""Nets on the wires of a device, by negotiation: each takes the way that is best for itself, and wires that several want cost more from
round to round (L. McMurchie, C. Ebeling, PathFinder, FPGA 1995). A round lays single connections anew, not whole nets (E. Vansteenkiste
et al., CRoute, FPL 2013). Urgent connections look at delay, the others at the price of wires.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...spec.errors import ToolError
from .ahead import Ahead
from .graph import ENDS, Graph
from .heap import pop, push

__all__ = ["Demand", "Negotiation"]

_MARGIN = 4
"""Tiles around a net's pins in which it may go, unless there is no way."""

_ASIDE, _LEAST_ASIDE = np.float32(1.2), np.float32(400.0)
"""Of a net's tree, a search begins from the wires that promise at most so much more than the best of them, and so many ps."""

_GREED = np.float32(1.15)
"""Factor of the estimate of what is ahead: searches are shorter, ways a little longer."""

_HASTE = np.float32(0.15)
"""Weight of delay for a connection that has all the time: without it, the tree of a large net goes all around the device."""


_EDGES, _TOO_LONG = 100, -2
"""Edges of all ways for each connection, at most; and what says that there would be more."""


class Demand(NamedTuple):
    """What is to be connected: net n, from wire source[n], has the connections first[n] to first[n + 1], to wires sink[...]."""

    source: NDArray[np.int32]
    first: NDArray[np.int64]
    sink: NDArray[np.int32]

    @property
    def net(self) -> NDArray[np.int64]:
        """(connections,) the net of each."""
        return np.repeat(np.arange(len(self.source)), np.diff(self.first))


class _Paths(NamedTuple):
    """Edges of the ways from source to sink: edge[start[c] : start[c] + length[c]]."""

    start: NDArray[np.int64]
    length: NDArray[np.int32]
    edge: NDArray[np.int32]


class _Map(NamedTuple):
    """See `Graph` and `Ahead`; `nodes` is the negotiation's own."""

    nodes: NDArray[np.void]
    start: NDArray[np.int64]
    edges: NDArray[np.void]
    up_start: NDArray[np.int64]
    up: NDArray[np.int32]
    ahead: Ahead


class _Work(NamedTuple):
    """`key`, `item`: the heap; `members`: wires of a tree, parents first; `children`: of each; `reached`: number of the search in which
    a wire led to the sink; `counts`: searches, and trees."""

    key: NDArray[np.float32]
    item: NDArray[np.int32]
    members: NDArray[np.int32]
    children: NDArray[np.int32]
    reached: NDArray[np.int32]
    counts: NDArray[np.int64]


class _Terms(NamedTuple):
    """`urgency` (connections,); `pressure`: price of a wire for each net that has it, over its own; `boxes` (nets, 4): columns and
    rows, first and last, in which a net may go; `whole`: those of the device."""

    urgency: NDArray[np.float32]
    pressure: np.float32
    boxes: NDArray[np.int32]
    whole: NDArray[np.int32]


@njit(cache=True)
def _approach(map, reached, queue, sink, step):
    """Marks the wires from which all that follows is pins, the sink one of them. Returns the one that is entered from afar."""
    reached[sink] = step
    queue[0] = sink
    count, k = 1, 0
    while k < count:
        w = queue[k]
        k += 1
        for e in range(map.up_start[w], map.up_start[w + 1]):
            if reached[map.up[e]] != step:
                reached[map.up[e]] = step
                queue[count] = map.up[e]
                count += 1
    return queue[count - 1]


@njit(cache=True)
def _left(ahead, category, dy, dx, haste, patience):
    return _GREED * (haste * ahead.delay[category, dy, dx] + patience * ahead.price[category, dy, dx])


@njit(cache=True)
def _find(map, work, count, tree, sink, urgency, pressure, box, choosy):
    """The best way from the tree to the sink, `choosy`: from what is promising of it. Returns whether there is one: `parent` and `via` of
    its wires lead back."""
    nodes, edges, ahead = map.nodes, map.edges, map.ahead
    key, item, reached, members = work.key, work.item, work.reached, work.members
    work.counts[0] += 1
    step = np.int32(work.counts[0])
    entry = _approach(map, reached, members[count:], sink, step)
    column, row = np.int32(nodes[entry].x), np.int32(nodes[entry].y)
    # Of a difference of places to the index in the tables.
    up, left = row + ahead.delay.shape[1] // 2, column + ahead.delay.shape[2] // 2
    patience = np.float32(1.0) - urgency
    haste = urgency + _HASTE * patience
    size, limit = 0, np.float32(np.inf)
    for k in range(count):
        w = members[k]
        n = nodes[w]
        n.cost = haste * n.time
        rest = np.float32(0.0)
        if n.category != ENDS:
            rest = _left(ahead, n.category, up - n.y, left - n.x, haste, patience)
        elif reached[w] != step:
            continue
        if n.cost + rest < limit:
            size = push(key, item, size, n.cost + rest, w)
            if choosy:
                limit = min(limit, _ASIDE * (n.cost + rest) + _LEAST_ASIDE)
    while size:
        w = item[0]
        size = pop(key, item, size)
        if w == sink:
            return True
        n = nodes[w]
        if n.tree != tree:
            if n.step == -step:
                continue
            n.step = -step
        cost, entered = n.cost, n.category == ENDS
        for e in range(map.start[w], map.start[w + 1]):
            to = edges[e].head
            m = nodes[to]
            if m.category == ENDS:
                if (not entered and (m.x != column or m.y != row)) or reached[to] != step:
                    continue
            elif m.x < box[0] or m.x > box[1] or m.y < box[2] or m.y > box[3]:
                continue
            if m.tree == tree or m.step == -step:
                continue
            delay = edges[e].delay + edges[e].load
            new = cost + haste * delay + patience * m.price * (np.float32(1.0) + pressure * m.used)
            if m.step == step and m.cost <= new:
                continue
            m.step, m.cost, m.parent, m.via = step, new, w, e
            rest = np.float32(0.0)
            if m.category != ENDS:
                rest = _left(ahead, m.category, up - m.y, left - m.x, haste, patience)
            size = push(key, item, size, new + rest, to)
    return False


@njit(cache=True)
def _add(map, members, count, tree, parent, via):
    """The wire at the end of an edge becomes part of the tree. Returns the number of the tree's wires."""
    w = map.edges[via].head
    n = map.nodes[w]
    n.tree, n.parent, n.via, n.used = tree, parent, via, n.used + 1
    n.time = map.nodes[parent].time + map.edges[via].delay + map.edges[via].load
    members[count] = w
    return count + 1


@njit(cache=True)
def _lay(map, work, demand, order, net, torn, terms, paths):
    """Lays a net's torn connections. Returns the first that has no way, or -1, and the number of the tree's wires."""
    nodes, edges, members = map.nodes, map.edges, work.members
    first, last = demand.first[net], demand.first[net + 1]
    # All that the net had is free, and what it keeps is taken again.
    work.counts[1] += 1
    tree = np.int32(work.counts[1])
    for c in range(first, last):
        for k in range(paths.start[c], paths.start[c] + paths.length[c]):
            n = nodes[edges[paths.edge[k]].head]
            if n.tree != tree:
                n.tree = tree
                n.used -= 1
    work.counts[1] += 1
    tree = np.int32(work.counts[1])
    members[0] = demand.source[net]
    root = nodes[members[0]]
    root.tree, root.time, root.parent = tree, 0.0, -1
    count = 1
    for c in range(first, last):
        if not torn[c]:
            at = members[0]
            for k in range(paths.start[c], paths.start[c] + paths.length[c]):
                e = paths.edge[k]
                if nodes[edges[e].head].tree != tree:
                    count = _add(map, members, count, tree, at, e)
                at = edges[e].head
    for k in range(first, last):
        c = order[k]
        sink = demand.sink[c]
        if not torn[c] or nodes[sink].tree == tree:
            continue
        urgency = terms.urgency[c]
        found = _find(map, work, count, tree, sink, urgency, terms.pressure, terms.boxes[net], True)
        if not found and not _find(map, work, count, tree, sink, urgency, terms.pressure, terms.whole, False):
            return c, count
        depth, w = 0, sink
        while nodes[w].tree != tree:
            work.item[depth] = w
            depth += 1
            w = nodes[w].parent
        for i in range(depth):
            n = nodes[work.item[depth - 1 - i]]
            count = _add(map, members, count, tree, n.parent, n.via)
    return -1, count


@njit(cache=True)
def _time(map, work, count):
    """Delays from the source, now that it is known how many edges leave each wire."""
    nodes, edges, members, children = map.nodes, map.edges, work.members, work.children
    for k in range(count):
        children[members[k]] = 0
    for k in range(1, count):
        children[nodes[members[k]].parent] += 1
    for k in range(1, count):
        n = nodes[members[k]]
        n.time = nodes[n.parent].time + edges[n.via].delay + edges[n.via].load * children[n.parent]


@njit(cache=True)
def _round(map, work, demand, sequence, order, torn, terms, old, new, delay):
    """Lays all torn connections, net after net; `new` takes all paths. Returns the first connection without a way, or -1."""
    nodes = map.nodes
    at = 0
    for net in sequence:
        first, last = demand.first[net], demand.first[net + 1]
        if not torn[first:last].any():
            for c in range(first, last):
                new.start[c], new.length[c] = at, old.length[c]
                for k in range(old.length[c]):
                    new.edge[at + k] = old.edge[old.start[c] + k]
                at += old.length[c]
            continue
        failed, count = _lay(map, work, demand, order, net, torn, terms, old)
        if failed >= 0:
            return failed
        _time(map, work, count)
        for c in range(first, last):
            w = demand.sink[c]
            delay[c] = nodes[w].time
            depth = 0
            while nodes[w].parent >= 0:
                work.item[depth] = nodes[w].via
                depth += 1
                w = nodes[w].parent
            if at + depth > len(new.edge):
                return _TOO_LONG
            for k in range(depth):
                new.edge[at + k] = work.item[depth - 1 - k]
            new.start[c], new.length[c] = at, depth
            at += depth
    return -1


@njit(cache=True)
def _shared(map, paths, torn):
    for c in range(len(torn)):
        torn[c] = False
        for k in range(paths.start[c], paths.start[c] + paths.length[c]):
            if map.nodes[map.edges[paths.edge[k]].head].used > 1:
                torn[c] = True
                break


class Negotiation:
    """The ways of all connections, better from round to round.

    delay : (connections,) ps, as they are laid
    """

    def __init__(self, graph: Graph, ahead: Ahead, demand: Demand):
        self.demand = demand
        self._map = _Map(graph.nodes.copy(), graph.start, graph.edges, graph.up_start, graph.up, ahead)
        self._price = graph.nodes["price"]
        connections, wires, edges = len(demand.sink), len(graph.nodes), len(graph.edges)
        self.delay = np.zeros(connections, np.float32)
        room = _EDGES * (connections + 100)
        self._paths = [
            _Paths(np.zeros(connections, np.int64), np.zeros(connections, np.int32), np.zeros(room, np.int32)) for _ in range(2)
        ]
        self._work = _Work(
            np.zeros(wires + edges, np.float32),
            np.zeros(wires + edges, np.int32),
            np.zeros(wires, np.int32),
            np.zeros(wires, np.int32),
            np.zeros(wires, np.int32),
            np.zeros(2, np.int64),
        )
        x, y = (graph.nodes[axis].astype(np.int32) for axis in "xy")
        self._whole = np.array([0, graph.chip.columns - 1, 0, graph.chip.rows - 1], np.int32)
        self._boxes = _boxes(demand, x, y, self._whole)
        source = demand.source[demand.net]
        self._apart = np.abs(x[source] - x[demand.sink]) + np.abs(y[source] - y[demand.sink])
        self._sequence = np.argsort(-np.diff(demand.first), kind="stable")
        self.least = _least(graph, ahead, source, demand.sink)
        """(connections,) ps, on an empty device, by the estimate."""

    @property
    def overused(self) -> int:
        """Wires that more than one net has."""
        return int((self._map.nodes["used"] > 1).sum())

    @property
    def shared(self) -> NDArray[np.bool_]:
        """(connections,) those with such a wire."""
        torn = np.zeros(len(self.demand.sink), bool)
        _shared(self._map, self._paths[0], torn)
        return torn

    def round(self, torn: NDArray[np.bool_], urgency: NDArray[np.float64], pressure: float) -> int:
        """Lays the connections `torn` anew; `urgency` (connections,) from 0 to less than 1; `pressure`: price of a wire for each net
        that has it, over its own. Returns a connection that has no way, or -1."""
        # Within a net urgent connections are first, then the nearest.
        order = np.lexsort((self._apart, -np.round(urgency, 1), self.demand.net))
        terms = _Terms(urgency.astype(np.float32), np.float32(pressure), self._boxes, self._whole)
        old, new = self._paths
        failed = _round(self._map, self._work, self.demand, self._sequence, order, torn, terms, old, new, self.delay)
        if failed == _TOO_LONG:
            raise ToolError(f"the ways are longer than {_EDGES} wires for each connection: the cells are too far apart.")
        self._paths.reverse()
        return int(failed)

    def remember(self, weight: float) -> None:
        """Wires that several nets have cost more from now on: `weight` times their price for each net too many."""
        nodes = self._map.nodes
        over = np.flatnonzero(nodes["used"] > 1)
        nodes["price"][over] += np.float32(weight) * self._price[over] * (nodes["used"][over] - np.float32(1))

    def path(self, connection: int) -> NDArray[np.int32]:
        """Edges from the net's source to the connection's sink."""
        paths = self._paths[0]
        return paths.edge[paths.start[connection] :][: paths.length[connection]]

    def edges(self) -> list[NDArray[np.int32]]:
        """The edges of each net, every one once."""
        return [
            np.unique(np.concatenate([self.path(c) for c in range(first, last)]))
            for first, last in itertools.pairwise(self.demand.first)
        ]


def _least(graph: Graph, ahead: Ahead, source: NDArray[np.int32], sink: NDArray[np.int32]) -> NDArray[np.float32]:
    nodes = graph.nodes
    rows, columns = (nodes[axis][sink].astype(int) - nodes[axis][source] for axis in "yx")
    category = nodes["category"][source]
    inside = category == ENDS  # carries, and the write ports of distributed RAMs, have wires of their own
    table = ahead.delay[np.where(inside, 0, category), rows + ahead.delay.shape[1] // 2, columns + ahead.delay.shape[2] // 2]
    return np.where(inside, np.float32(0), table)


def _boxes(demand: Demand, x: NDArray[np.int32], y: NDArray[np.int32], whole: NDArray[np.int32]) -> NDArray[np.int32]:
    boxes = np.zeros((len(demand.source), 4), np.int32)
    for k, axis in enumerate((x, y)):
        low, high = (ufunc.reduceat(axis[demand.sink], demand.first[:-1]) for ufunc in (np.minimum, np.maximum))
        low, high = np.minimum(low, axis[demand.source]), np.maximum(high, axis[demand.source])
        boxes[:, 2 * k : 2 * k + 2] = np.clip(np.stack([low - _MARGIN, high + _MARGIN], axis=1), 0, whole[2 * k + 1])
    return boxes
