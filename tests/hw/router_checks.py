"""The wires of the smallest ECP5, and plain answers to what the router computes, for its tests."""

import functools
import heapq
from collections import Counter
from collections.abc import Callable

import numpy as np

from sordino_hw.ecp5_pnr.chip import Chip
from sordino_hw.ecp5_pnr.databases import chip_database
from sordino_hw.ecp5_pnr.fabric import Fabric
from sordino_hw.ecp5_pnr.router.graph import LOCAL, SLICES, Graph, Rule
from sordino_hw.ecp5_pnr.router.lookahead import Lookahead
from sordino_hw.ecp5_pnr.router.negotiate import Demand, Negotiation
from sordino_hw.fpga import DEVICES

DEVICE = DEVICES["ecp5-25f"]
CARRIES, RAMS = (20, 20), (24, 20)
"""Tiles with slices of other rules: the second slice, and the last."""


@functools.cache
def chip() -> Chip:
    return Chip.read(chip_database(DEVICE.size))


def tile(x: int, y: int) -> int:
    return y * chip().columns + x


@functools.cache
def graph() -> Graph:
    rules = np.full((len(chip().type_of), SLICES), Rule.ALL, np.uint8)
    rules[tile(*CARRIES), 1], rules[tile(*RAMS), 3] = Rule.CARRY, Rule.NONE
    return Graph.of(chip(), 6, rules)


@functools.cache
def lookahead() -> Lookahead:
    return Lookahead.of(graph())


@functools.cache
def fabric() -> Fabric:
    return Fabric.of(chip())


@functools.cache
def _bels(kind: int) -> dict[str, dict[str, int]]:
    return chip().bels(kind)


def bels_of(x: int, y: int) -> dict[str, dict[str, int]]:
    return _bels(int(chip().type_of[tile(x, y)]))


def wire(x: int, y: int, bel: str, port: str) -> int:
    """Number of the wire at a pin."""
    return int(graph().first[tile(x, y)]) + bels_of(x, y)[bel][port]


def tail(edge: int) -> int:
    """The wire that an edge comes from."""
    return int(np.searchsorted(graph().start, edge, "right")) - 1


def following(w: int) -> list[tuple[int, int]]:
    """Edges from a wire, and the wires they lead to."""
    first, last = graph().start[w : w + 2].tolist()
    return list(zip(range(first, last), graph().edges["head"][first:last].tolist(), strict=True))


def shortest(source: int, sink: int, inside: Callable[[int, int], bool]) -> int:
    """ps from a wire to a pin if every pip is the only one on its wire, over wires of tiles that are `inside`: Dijkstra's."""
    nodes, edges = graph().nodes, graph().edges
    best, todo = {source: 0}, [(0, source)]
    while todo:
        time, w = heapq.heappop(todo)
        if w == sink:
            return time
        if time > best[w]:
            continue
        for e, to in following(w):
            later = time + int(edges["delay"][e]) + int(edges["load"][e])
            if later < best.get(to, 1 << 30) and inside(int(nodes["x"][to]), int(nodes["y"][to])):
                best[to] = later
                heapq.heappush(todo, (later, to))
    raise AssertionError("no path")


def from_everywhere(place: int, reach: int, delays: bool) -> dict[int, float]:
    """What it takes from every wire within `reach` tiles to an input of the tile `place`, in delay or in base cost: Dijkstra's, backwards."""
    nodes, edges = graph().nodes, graph().edges
    x, y = nodes["x"].astype(int), nodes["y"].astype(int)
    column, row = place % chip().columns, place // chip().columns
    near = (abs(x - column) <= reach) & (abs(y - row) <= reach)
    ends = nodes["category"] == LOCAL
    into: dict[int, list[tuple[int, float]]] = {}
    for w in np.flatnonzero(near & ~ends).tolist():
        for e, to in following(w):
            if near[to]:
                cost = float(edges["delay"][e]) + float(edges["load"][e]) if delays else float(nodes["base_cost"][to])
                into.setdefault(to, []).append((w, cost))
    inputs = np.flatnonzero(ends & (x == column) & (y == row)).tolist()
    best = dict.fromkeys(inputs, 0.0)
    todo = [(0.0, w) for w in inputs]
    while todo:
        cost, w = heapq.heappop(todo)
        if cost > best[w]:
            continue
        for before, more in into.get(w, ()):
            if cost + more < best.get(before, np.inf):
                best[before] = cost + more
                heapq.heappush(todo, (best[before], before))
    return {w: cost for w, cost in best.items() if not ends[w]}


def crowded(rng: np.random.Generator, tiles: list[tuple[int, int]], nets: int, share: float) -> Demand:
    """Nets from outputs of LUTs and flip-flops to a `share` of the inputs of LUTs and flip-flops, all in `tiles`."""
    slots = [(x, y, f"SLICE{s}", k) for x, y in tiles for s in "ABCD" for k in "01"]
    sources = [wire(x, y, f"{s}.{part}{k}", port) for x, y, s, k in slots for part, port in (("K", "F"), ("FF", "Q"))]
    sinks = [wire(x, y, f"{s}.K{k}", port) for x, y, s, k in slots for port in "ABCD"]
    sinks += [wire(x, y, f"{s}.FF{k}", "M") for x, y, s, k in slots]
    sinks += [wire(x, y, f"{s}.FF0", "CE") for x, y, s, k in slots if k == "0"]
    sinks += [wire(x, y, "SLICEA.FF0", "LSR") for x, y in tiles]  # a tile has two resets, slices choose one
    source = rng.choice(sources, nets, replace=False)
    chosen = rng.permutation(sinks)[: int(share * len(sinks))]
    net = np.sort(np.concatenate([np.arange(nets), rng.integers(nets, size=len(chosen) - nets)]))
    first = np.searchsorted(net, np.arange(nets + 1))
    return Demand(source.astype(np.int32), first.astype(np.int64), chosen.astype(np.int32))


def settle(negotiation: Negotiation, criticality: np.ndarray, rounds: int = 100) -> int:
    """Rounds until no wire is overused; returns how many."""
    rip_up = np.ones(len(negotiation.demand.sink), bool)
    for k in range(rounds):
        assert negotiation.round(rip_up, criticality, min(0.5 * 1.4**k, 6.0)) == -1
        if not negotiation.overused:
            return k + 1
        negotiation.add_history(1.0)
        rip_up = negotiation.congested
    raise AssertionError(f"{negotiation.overused} wires are still overused")


def paths(negotiation: Negotiation) -> list[list[int]]:
    return [negotiation.path(c).tolist() for c in range(len(negotiation.demand.sink))]


def is_routed(negotiation: Negotiation) -> None:
    """Each path leads from source to sink, the paths of a net are a tree, delays are what follows from it, nets share no wire."""
    demand, edges = negotiation.demand, graph().edges
    owner: dict[int, int] = {}
    for net, (first, last) in enumerate(zip(demand.first[:-1].tolist(), demand.first[1:].tolist(), strict=True)):
        routed = {c: negotiation.path(c).tolist() for c in range(first, last)}
        used = {edge for path in routed.values() for edge in path}
        assert len({int(edges["head"][e]) for e in used}) == len(used), "one edge leads to each wire"
        taken = Counter(tail(e) for e in used)
        for w in {int(demand.source[net]), *(int(edges["head"][e]) for e in used)}:
            assert owner.setdefault(w, net) == net, "one net to each wire"
        for c, path in routed.items():
            at, time = int(demand.source[net]), 0
            for e in path:
                assert tail(e) == at
                time += int(edges["delay"][e]) + int(edges["load"][e]) * taken[at]
                at = int(edges["head"][e])
            assert at == demand.sink[c]
            assert negotiation.delay[c] == time
