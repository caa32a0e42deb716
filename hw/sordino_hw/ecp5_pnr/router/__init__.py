"""A timing-driven router for the ECP5: `graph` has the wires and pips of the device, `lookahead` guides the A* search, `negotiate`
routes all nets by negotiated congestion. `route` is all of it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...spec.errors import ToolError
from ..chip import Chip
from ..netlist import Kind, Packed, Pin
from ..timing import TimingGraph
from .graph import SLICES, Graph, Rule
from .lookahead import Lookahead
from .negotiate import Demand, Negotiation

__all__ = ["NoRoute", "RouteOptions", "Routing", "route"]

Progress = Callable[[str], None]

_BEL = re.compile(r"X(\d+)/Y(\d+)/(.+)")
_SLICE = re.compile(r"SLICE([ABCD])\.")


class NoRoute(ToolError):
    """Not all nets have a path."""


class RouteOptions(NamedTuple):
    """Of a negotiation. The defaults were tuned on `ulx3s-85f`; `ecp5-25f` took them over.

    rounds : it is given up after so many
    polish : rounds that go on without a shorter longest path, once no wire is shared
    congestion, growth, most : congestion factor of the first round, what it is multiplied by from round to round, and its greatest
        value
    history : after each so many rounds, a wire that is shared gains once more its base cost per round
    sharpness, critical : criticality is a path's share of the target to the power `sharpness`, and at most `critical`
    memory : a connection keeps this part of its criticality from the round before, so that one that became fast stays fast
    late, slow, grace : connections on paths that take at least the share `late` of the target are rerouted in every round if they
        take more than `slow` times what they would on an empty device and `grace` ps"""

    rounds: int = 150
    polish: int = 12
    congestion: float = 0.5
    growth: float = 1.4
    most: float = 6.0
    history: float = 5.0
    sharpness: float = 3.0
    critical: float = 0.98
    memory: float = 0.9
    late: float = 0.9
    slow: float = 1.25
    grace: float = 300.0

    def criticality(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of connections on paths that take so much of the target."""
        return np.minimum(share**self.sharpness, self.critical)


@dataclass(frozen=True)
class Routing:
    """`routes`: for each net, by its number in `Packed.nets`, what nextpnr reads as its attribute ROUTING; `longest`: the longest
    path of each of `TimingGraph.clocks`, ns."""

    routes: dict[int, str]
    longest: tuple[float, ...]


def route(
    packed: Packed,
    bels: Mapping[int, str],
    chip: Chip,
    timing: TimingGraph,
    speed: int = 6,
    options: RouteOptions | None = None,
    progress: Progress | None = None,
) -> Routing:
    """Routes all nets but those of the clock network. `bels`: the bel of each cell that is not fixed, as `place` returns it.
    `timing` has the periods to work towards; `speed`: the speed grade whose wire delays count. The same arguments give the same
    routes.

    Raises `ToolError` for a database or a bel that makes no sense, and `NoRoute` where a net has no path.
    """
    places = _places(packed, bels, chip)
    graph = Graph.of(chip, speed, _rules(packed, places, chip))
    numbers, connections, demand = _demand(packed, places, graph)
    if not numbers:
        return Routing({}, tuple(0.0 for _ in timing.clocks))
    negotiation = Negotiation(graph, Lookahead.of(graph), demand)
    analysis = _Analysis(timing, connections)
    longest, paths = _negotiate(packed, negotiation, analysis, options or RouteOptions(), progress or (lambda note: None))
    routes = {net: _named(graph, int(demand.source[k]), paths[k]) for k, net in enumerate(numbers)}
    return Routing(routes, longest)


class _Analysis(NamedTuple):
    """Timing of the connections that are routed: `connections` (n,) int64 are their numbers among those of all nets."""

    timing: TimingGraph
    connections: NDArray[np.int64]

    def run(self, delay: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n,) the longest path through each connection as a share of the clock's period; `delay` (n,) ps."""
        edges = self.timing.edges
        everything = int(max(self.connections.max(), edges.connection.max(initial=0))) + 1
        wire, share = np.zeros(everything), np.zeros(everything)
        wire[self.connections] = delay * 1e-3
        self.timing.analyse_routed(wire)
        np.maximum.at(share, edges.connection, self.timing.share)
        return share[self.connections]


def _negotiate(
    packed: Packed, negotiation: Negotiation, analysis: _Analysis, options: RouteOptions, say: Progress
) -> tuple[tuple[float, ...], list[NDArray[np.int32]]]:
    """The best routing that was found: the longest path of each clock, ns, and the edges of each net."""
    timing = analysis.timing
    share = analysis.run(negotiation.least)
    criticality = options.criticality(share)
    rip_up = np.ones(len(share), bool)
    congestion, waited, overused = options.congestion, 0, 0
    best: tuple[float, tuple[float, ...], list[NDArray[np.int32]]] | None = None
    for number in range(options.rounds):
        if (lost := negotiation.round(rip_up, criticality, congestion)) >= 0:
            net = _described(packed, int(analysis.connections[lost]))
            raise NoRoute(f"no pips lead along {net}: one of its ends is at a bel that cannot have it, or is a clock's.")
        share = analysis.run(negotiation.delay)
        overused = negotiation.overused
        say(f"routing, round {number + 1}: {overused:,} shared wires, {timing.report()}")
        if not overused:
            waited += 1
            if best is None or timing.worst < best[0]:
                best, waited = (timing.worst, tuple(timing.longest.tolist()), negotiation.edges()), 0
            if timing.worst <= 1 or waited > options.polish:
                break
        negotiation.add_history(1 + number / options.history)
        congestion = min(congestion * options.growth, options.most)
        criticality = np.maximum(options.criticality(share), options.memory * criticality)
        rip_up = negotiation.congested
        rip_up |= (share >= options.late) & (negotiation.delay > options.slow * negotiation.least + options.grace)
    if best is None:
        raise NoRoute(f"{overused:,} wires are still wanted by several nets after {options.rounds} rounds.")
    return best[1], best[2]


def _named(graph: Graph, source: int, edges: NDArray[np.int32]) -> str:
    """A net's wires and pips, as nextpnr writes them."""
    steps = (f"{graph.wire_name(int(graph.edges['head'][edge]))};{graph.pip_name(int(edge))};1" for edge in edges)
    return ";".join((f"{graph.wire_name(source)};;1", *steps))


class _Place(NamedTuple):
    column: int
    row: int
    bel: str


def _places(packed: Packed, bels: Mapping[int, str], chip: Chip) -> list[_Place]:
    places = []
    for cell, name in enumerate(packed.names):
        bel = packed.bel(cell, bels)
        if not (match := _BEL.fullmatch(bel)) or int(match[1]) >= chip.columns or int(match[2]) >= chip.rows:
            raise ToolError(f"{name} is placed at {bel!r}, which is no bel of {chip.name}.")
        places.append(_Place(int(match[1]), int(match[2]), match[3]))
    return places


def _rules(packed: Packed, places: list[_Place], chip: Chip) -> NDArray[np.uint8]:
    """(tiles, SLICES) uint8 of `Rule`: the inputs of carry cells and of distributed RAMs are not all alike."""
    rules = np.full((len(chip.type_of), SLICES), Rule.ALL, np.uint8)
    for cell, mode in enumerate(packed.mode):
        at = places[cell]
        if packed.kind[cell] == Kind.LUT and mode not in ("", "LOGIC") and (match := _SLICE.match(at.bel)):
            rule = Rule.CARRY if mode == "CCU2" else Rule.NONE
            rules[at.row * chip.columns + at.column, "ABCD".index(match[1])] = rule
    return rules


def _demand(packed: Packed, places: list[_Place], graph: Graph) -> tuple[list[int], NDArray[np.int64], Demand]:
    """Numbers of the nets, numbers of the connections among all of `packed`, and both as wires."""
    chip = graph.chip
    bels: dict[int, dict[str, dict[str, int]]] = {}

    def wire(pin: Pin) -> int:
        at = places[pin.cell]
        tile = at.row * chip.columns + at.column
        kind = int(chip.type_of[tile])
        if kind not in bels:
            bels[kind] = chip.bels(kind)
        try:
            return int(graph.first[tile]) + bels[kind][at.bel][pin.port]
        except KeyError:
            raise ToolError(
                f"{chip.name} has no pin {pin.port} at {at.bel} of tile {at.column}, {at.row}, where {packed.names[pin.cell]} is."
            ) from None

    numbers, connections, source, first, sink = [], [], [], [0], []
    count = 0
    for number, net in enumerate(packed.nets):
        users = [(count + k, user) for k, user in enumerate(net.users) if not packed.is_clock_buffer(user.cell)]
        count += len(net.users)
        if users:
            numbers.append(number)
            source.append(wire(net.driver))
            connections += [k for k, _ in users]
            sink += [wire(user) for _, user in users]
            first.append(len(sink))
    return numbers, np.array(connections), Demand(np.array(source, np.int32), np.array(first, np.int64), np.array(sink, np.int32))


def _described(packed: Packed, connection: int) -> str:
    for net in packed.nets:
        if connection < len(net.users):
            user = net.users[connection]
            return f"the net from {packed.names[net.driver.cell]}.{net.driver.port} to {packed.names[user.cell]}.{user.port}"
        connection -= len(net.users)
    raise IndexError(connection)
