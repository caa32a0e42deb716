"""Negotiated congestion: nets may share wires at first, and wires that several nets use cost more from round to round, until none
is shared (L. McMurchie, C. Ebeling, PathFinder, FPGA 1995). A round rips up and reroutes single connections, not whole nets (E.
Vansteenkiste et al., CRoute, FPL 2013). The more critical a connection, the more delay counts for it, and the less the cost of
wires."""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ...spec.errors import ToolError
from .graph import LOCAL, Graph
from .heap import pop, push
from .lookahead import Lookahead

__all__ = ["Demand", "Negotiation"]

_MARGIN = 4
"""Tiles around the box of a net's pins in which its wires may be. Where there is no path within, one is searched on the whole
device."""

_PRUNE_FACTOR, _PRUNE_PS = np.float32(1.2), np.float32(400.0)
"""A search starts from those wires of the net's routing tree whose estimate is at most so many times the best one's, or so many ps
above it. In large trees all others would only lengthen the search."""

_LOOKAHEAD_FACTOR = np.float32(1.15)
"""Of weighted A*: searches are shorter, and paths at most so many times as costly as the best."""

_LEAST_DELAY_WEIGHT = np.float32(0.15)
"""Weight of delay for a connection of criticality 0. Without it, the tree of a large net goes all around the device, which its
critical connections then have to follow."""

_EDGES, _TOO_LONG = 100, -2
"""Edges of all paths for each connection, at most, and what is returned if there would be more."""


class Demand(NamedTuple):
    """What is to be connected: net n, driven at wire source[n], has the connections first[n] to first[n + 1] - 1, each to a wire
    sink[...].

    source : (nets,) int32; first : (nets + 1,) int64; sink : (connections,) int32
    """

    source: NDArray[np.int32]
    first: NDArray[np.int64]
    sink: NDArray[np.int32]

    @property
    def net(self) -> NDArray[np.int64]:
        """(connections,) the net of each."""
        return np.repeat(np.arange(len(self.source)), np.diff(self.first))


class _Paths(NamedTuple):
    """Edges from source to sink of each connection c: edge[start[c] : start[c] + length[c]]."""

    start: NDArray[np.int64]
    length: NDArray[np.int32]
    edge: NDArray[np.int32]


class _Device(NamedTuple):
    """See `Graph` and `Lookahead`; `nodes` is the negotiation's own copy."""

    nodes: NDArray[np.void]
    start: NDArray[np.int64]
    edges: NDArray[np.void]
    up_start: NDArray[np.int64]
    up: NDArray[np.int32]
    lookahead: Lookahead


class _Work(NamedTuple):
    """Working memory.

    key, item : the heap, (wires + edges,) float32 and int32; `item` holds edges of a path at other times
    members : (wires,) int32, wires of a routing tree, parents first
    children : (wires,) int32, of each wire of a tree
    reached : (wires,) int32, number of the search in which the wire, which is local, led to the sink
    counts : (2,) int64, searches and trees so far
    """

    key: NDArray[np.float32]
    item: NDArray[np.int32]
    members: NDArray[np.int32]
    children: NDArray[np.int32]
    reached: NDArray[np.int32]
    counts: NDArray[np.int64]


class _Terms(NamedTuple):
    """Of a round.

    criticality : (connections,) float32
    congestion : a wire costs so many times its base cost more for each net that already has it
    boxes : (nets, 4) int32, columns and rows, first and last, in which a net may be; whole : (4,) int32, those of the device
    """

    criticality: NDArray[np.float32]
    congestion: np.float32
    boxes: NDArray[np.int32]
    whole: NDArray[np.int32]


@compiled
def _mark_entry(device, reached, queue, sink, step):
    """Marks in `reached` (wires,) int32, by the number `step`, the local wires from which the wire `sink` is reached. `queue` (n,)
    int32 is overwritten. Returns the one that is entered from other tiles."""
    reached[sink] = step
    queue[0] = sink
    count, k = 1, 0
    while k < count:
        w = queue[k]
        k += 1
        for e in range(device.up_start[w], device.up_start[w + 1]):
            if reached[device.up[e]] != step:
                reached[device.up[e]] = step
                queue[count] = device.up[e]
                count += 1
    return queue[count - 1]


@compiled
def _estimate(lookahead, category, dy, dx, delay_weight, cost_weight):
    """Weighted lookahead (float32) from a wire of `category` to the place at index `dy`, `dx` of its tables (int)."""
    return _LOOKAHEAD_FACTOR * (delay_weight * lookahead.delay[category, dy, dx] + cost_weight * lookahead.cost[category, dy, dx])


@compiled
def _search(device, work, count, tree, sink, criticality, congestion, box, pruned):
    """A* from the first `count` wires of `work.members`, those of the routing tree numbered `tree`, to the wire `sink`, within
    `box` (4,) int32. `pruned`: from the promising wires of the tree only. `criticality`, `congestion` float32. Returns whether
    there is a path; `parent` and `via` of its wires lead back to the tree."""
    nodes, edges, lookahead = device.nodes, device.edges, device.lookahead
    key, item, reached, members = work.key, work.item, work.reached, work.members
    work.counts[0] += 1
    step = np.int32(work.counts[0])
    entry = _mark_entry(device, reached, members[count:], sink, step)
    column, row = np.int32(nodes[entry].x), np.int32(nodes[entry].y)
    # From the place of a wire to the index in the tables.
    up, left = row + lookahead.delay.shape[1] // 2, column + lookahead.delay.shape[2] // 2
    cost_weight = np.float32(1.0) - criticality
    delay_weight = criticality + _LEAST_DELAY_WEIGHT * cost_weight
    size, limit = 0, np.float32(np.inf)
    for k in range(count):
        w = members[k]
        n = nodes[w]
        n.cost = delay_weight * n.time
        rest = np.float32(0.0)
        if n.category != LOCAL:
            rest = _estimate(lookahead, n.category, up - n.y, left - n.x, delay_weight, cost_weight)
        elif reached[w] != step:
            continue
        if n.cost + rest < limit:
            size = push(key, item, size, n.cost + rest, w)
            if pruned:
                limit = min(limit, _PRUNE_FACTOR * (n.cost + rest) + _PRUNE_PS)
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
        cost, entered = n.cost, n.category == LOCAL
        for e in range(device.start[w], device.start[w + 1]):
            to = edges[e].head
            m = nodes[to]
            if m.category == LOCAL:
                if (not entered and (m.x != column or m.y != row)) or reached[to] != step:
                    continue
            elif m.x < box[0] or m.x > box[1] or m.y < box[2] or m.y > box[3]:
                continue
            if m.tree == tree or m.step == -step:
                continue
            delay = edges[e].delay + edges[e].load
            new = cost + delay_weight * delay + cost_weight * m.base_cost * (np.float32(1.0) + congestion * m.used)
            if m.step == step and m.cost <= new:
                continue
            m.step, m.cost, m.parent, m.via = step, new, w, e
            rest = np.float32(0.0)
            if m.category != LOCAL:
                rest = _estimate(lookahead, m.category, up - m.y, left - m.x, delay_weight, cost_weight)
            size = push(key, item, size, new + rest, to)
    return False


@compiled
def _add(device, members, count, tree, parent, via):
    """Adds the wire at the end of the edge `via` to the tree, as `members[count]` (int32), below the wire `parent`. Returns the
    number of the tree's wires."""
    w = device.edges[via].head
    n = device.nodes[w]
    n.tree, n.parent, n.via, n.used = tree, parent, via, n.used + 1
    n.time = device.nodes[parent].time + device.edges[via].delay + device.edges[via].load
    members[count] = w
    return count + 1


@compiled
def _rip_up(device, work, demand, net, rip_up, paths):
    """Gives up the wires of all connections of a net, and takes those of the connections that stay again. `rip_up` (connections,)
    bool. Returns the number of the new tree and of its wires, in `work.members`."""
    nodes, edges, members = device.nodes, device.edges, work.members
    first, last = demand.first[net], demand.first[net + 1]
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
        if not rip_up[c]:
            at = members[0]
            for k in range(paths.start[c], paths.start[c] + paths.length[c]):
                e = paths.edge[k]
                if nodes[edges[e].head].tree != tree:
                    count = _add(device, members, count, tree, at, e)
                at = edges[e].head
    return tree, count


@compiled
def _reroute(device, work, demand, order, net, rip_up, terms, paths):
    """Rips up and reroutes the connections `rip_up` (connections,) bool of a net, in the order `order` (connections,) int64.
    Returns the first that has no path, or -1, and the number of the tree's wires."""
    nodes = device.nodes
    tree, count = _rip_up(device, work, demand, net, rip_up, paths)
    for k in range(demand.first[net], demand.first[net + 1]):
        c = order[k]
        sink = demand.sink[c]
        if not rip_up[c] or nodes[sink].tree == tree:
            continue
        criticality = terms.criticality[c]
        found = _search(device, work, count, tree, sink, criticality, terms.congestion, terms.boxes[net], True)
        if not found and not _search(device, work, count, tree, sink, criticality, terms.congestion, terms.whole, False):
            return c, count
        depth, w = 0, sink
        while nodes[w].tree != tree:
            work.item[depth] = w
            depth += 1
            w = nodes[w].parent
        for i in range(depth):
            n = nodes[work.item[depth - 1 - i]]
            count = _add(device, work.members, count, tree, n.parent, n.via)
    return -1, count


@compiled
def _time_tree(device, work, count):
    """Sets `time` of the first `count` wires of `work.members`: only now is it known how many edges leave each."""
    nodes, edges, members, children = device.nodes, device.edges, work.members, work.children
    for k in range(count):
        children[members[k]] = 0
    for k in range(1, count):
        children[nodes[members[k]].parent] += 1
    for k in range(1, count):
        n = nodes[members[k]]
        n.time = nodes[n.parent].time + edges[n.via].delay + edges[n.via].load * children[n.parent]


@compiled
def _round(device, work, demand, sequence, order, rip_up, terms, old, new, delay):
    """Rips up and reroutes connections, net by net in the order `sequence` (nets,) int64; the others as in `_reroute`. Writes all
    paths to `new` and ps to `delay` (connections,) float32. Returns the first connection without a path, `_TOO_LONG`, or -1."""
    nodes = device.nodes
    at = 0
    for net in sequence:
        first, last = demand.first[net], demand.first[net + 1]
        if not rip_up[first:last].any():
            for c in range(first, last):
                new.start[c], new.length[c] = at, old.length[c]
                for k in range(old.length[c]):
                    new.edge[at + k] = old.edge[old.start[c] + k]
                at += old.length[c]
            continue
        failed, count = _reroute(device, work, demand, order, net, rip_up, terms, old)
        if failed >= 0:
            return failed
        _time_tree(device, work, count)
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


@compiled
def _congested(device, paths, found):
    """Sets `found` (connections,) bool where a path has a wire that several nets use."""
    for c in range(len(found)):
        found[c] = False
        for k in range(paths.start[c], paths.start[c] + paths.length[c]):
            if device.nodes[device.edges[paths.edge[k]].head].used > 1:
                found[c] = True
                break


class Negotiation:
    """The paths of all connections, improved round by round.

    delay : (connections,) float32, ps, as they are routed
    least : (connections,) float32, ps on an empty device, by the lookahead
    """

    def __init__(self, graph: Graph, lookahead: Lookahead, demand: Demand):
        self.demand = demand
        self._device = _Device(graph.nodes.copy(), graph.start, graph.edges, graph.up_start, graph.up, lookahead)
        self._base_cost = graph.nodes["base_cost"]
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
        self._distance = np.abs(x[source] - x[demand.sink]) + np.abs(y[source] - y[demand.sink])
        self._sequence = np.argsort(-np.diff(demand.first), kind="stable")
        self.least = _least(graph, lookahead, source, demand.sink)

    @property
    def overused(self) -> int:
        """Wires that more than one net uses."""
        return int((self._device.nodes["used"] > 1).sum())

    @property
    def congested(self) -> NDArray[np.bool_]:
        """(connections,) those with such a wire."""
        found = np.zeros(len(self.demand.sink), bool)
        _congested(self._device, self._paths[0], found)
        return found

    def round(self, rip_up: NDArray[np.bool_], criticality: NDArray[np.float64], congestion: float) -> int:
        """Rips up the connections `rip_up` and reroutes them. `criticality` (connections,) from 0 to less than 1; `congestion`: a
        wire costs so many times its base cost more for each net that already has it. Returns a connection that has no path, or -1.

        Raises `ToolError` where the paths are longer than there is memory for.
        """
        # Within a net critical connections are routed first, then the nearest.
        order = np.lexsort((self._distance, -np.round(criticality, 1), self.demand.net))
        terms = _Terms(criticality.astype(np.float32), np.float32(congestion), self._boxes, self._whole)
        old, new = self._paths
        failed = _round(self._device, self._work, self.demand, self._sequence, order, rip_up, terms, old, new, self.delay)
        if failed == _TOO_LONG:
            raise ToolError(
                f"the connections take more than {_EDGES} wires each: the cells are too far apart. "
                "Take a smaller architecture, or another seed."
            )
        self._paths.reverse()
        return int(failed)

    def add_history(self, weight: float) -> None:
        """Raises the cost of wires that several nets use, for good: by `weight` times their base cost for each net too many."""
        nodes = self._device.nodes
        over = np.flatnonzero(nodes["used"] > 1)
        nodes["base_cost"][over] += np.float32(weight) * self._base_cost[over] * (nodes["used"][over] - np.float32(1))

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


def _least(graph: Graph, lookahead: Lookahead, source: NDArray[np.int32], sink: NDArray[np.int32]) -> NDArray[np.float32]:
    nodes = graph.nodes
    rows, columns = (nodes[axis][sink].astype(int) - nodes[axis][source] for axis in "yx")
    category = nodes["category"][source]
    inside = category == LOCAL  # carries, and the write ports of distributed RAMs, have wires of their own
    table = lookahead.delay[
        np.where(inside, 0, category), rows + lookahead.delay.shape[1] // 2, columns + lookahead.delay.shape[2] // 2
    ]
    return np.where(inside, np.float32(0), table)


def _boxes(demand: Demand, x: NDArray[np.int32], y: NDArray[np.int32], whole: NDArray[np.int32]) -> NDArray[np.int32]:
    boxes = np.zeros((len(demand.source), 4), np.int32)
    for k, axis in enumerate((x, y)):
        low, high = (ufunc.reduceat(axis[demand.sink], demand.first[:-1]) for ufunc in (np.minimum, np.maximum))
        low, high = np.minimum(low, axis[demand.source]), np.maximum(high, axis[demand.source])
        boxes[:, 2 * k : 2 * k + 2] = np.clip(np.stack([low - _MARGIN, high + _MARGIN], axis=1), 0, whole[2 * k + 1])
    return boxes
