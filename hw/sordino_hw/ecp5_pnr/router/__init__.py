"""A router for the ECP5, that knows which connections are urgent: `chip` reads nextpnr's database, `graph` has its wires, `ahead` what is
in front of a search, `negotiate` lays the nets. `route` is all of it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...spec.errors import ToolError
from ..netlist import Kind, Packed, Pin
from ..timing import TimingGraph
from .ahead import Ahead
from .chip import Chip
from .graph import SLICES, Graph, Rule
from .negotiate import Demand, Negotiation

__all__ = ["NoRoute", "Routing", "Terms", "route"]

Progress = Callable[[str], None]

_BEL = re.compile(r"X(\d+)/Y(\d+)/(.+)")
_SLICE = re.compile(r"SLICE([ABCD])\.")


class NoRoute(ToolError):
    """Not all nets have found a way."""


class Terms(NamedTuple):
    """Of a negotiation.

    rounds : after so many it is given up
    polish : rounds that go on without a shorter longest path, once every wire has one net
    pressure, growth, most : of the price of wires that a net has, in the first round, from round to round, and at most
    patience : rounds after which it counts twice, then three times and so on, that several nets have wanted a wire
    sharpness, urgent : urgency is the path's share of the target to the power `sharpness`, and at most `urgent`
    memory : of the last round's urgency, so much is kept: a connection that was made fast stays it
    late, slow, grace : connections on paths that take the share `late` of the target are laid anew if they take `slow` times what they
        would on an empty device, and `grace` ps more
    """

    rounds: int = 150
    polish: int = 12
    pressure: float = 0.5
    growth: float = 1.4
    most: float = 6.0
    patience: float = 5.0
    sharpness: float = 3.0
    urgent: float = 0.98
    memory: float = 0.9
    late: float = 0.9
    slow: float = 1.25
    grace: float = 300.0

    def urgency(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of connections on paths that take so much of the target."""
        return np.minimum(share**self.sharpness, self.urgent)


@dataclass(frozen=True)
class Routing:
    """`routes`: for each net, by its number in `Packed.nets`, what nextpnr reads as its attribute ROUTING; `longest`: path in ns."""

    routes: dict[int, str]
    longest: float


def route(
    packed: Packed,
    bels: Mapping[int, str],
    database: Path,
    timing: TimingGraph,
    target: float,
    terms: Terms | None = None,
    progress: Progress | None = None,
) -> Routing:
    """Routes all nets but those of the clock network. `bels`: the basic element of each cell that is not fixed, as `place` returns it.
    `database`: nextpnr's of the chip; `target`: the longest path to work towards, in ns. The same arguments give the same routes.

    Raises `ToolError` for a database that is none and for a place that is none, and `NoRoute` where nets find no way.
    """
    terms = terms or Terms()
    chip = Chip.read(database)
    places = _places(packed, bels, chip)
    graph = Graph.of(chip, 0, _rules(packed, places, chip))
    numbers, connections, demand = _demand(packed, places, graph)
    negotiation = Negotiation(graph, Ahead.of(graph), demand)
    clock = _Clock(timing, connections, target)
    longest, paths = _negotiate(packed, negotiation, clock, terms, progress or (lambda note: None))
    routes = {net: _named(graph, int(demand.source[k]), paths[k]) for k, net in enumerate(numbers)}
    return Routing(routes, longest)


class _Clock(NamedTuple):
    """How late connections are: `connections` are their numbers among those of all nets; `target` in ns."""

    timing: TimingGraph
    connections: NDArray[np.int64]
    target: float

    def analyse(self, delay: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
        """The longest path in ns, and of each connection the longest through it as a share of the target; `delay` in ps."""
        everything = int(max(self.connections.max(), self.timing.edges.connection.max())) + 1
        wire, share = np.zeros(everything), np.zeros(everything)
        wire[self.connections] = delay * 1e-3
        longest = self.timing.analyse_routed(wire, self.target)
        np.maximum.at(share, self.timing.edges.connection, self.timing.share)
        return longest, share[self.connections]


def _negotiate(
    packed: Packed, negotiation: Negotiation, clock: _Clock, terms: Terms, say: Progress
) -> tuple[float, list[NDArray[np.int32]]]:
    """The longest path of the best routing that was found, and the edges of each net."""
    _, share = clock.analyse(negotiation.least)
    urgency = terms.urgency(share)
    torn = np.ones(len(share), bool)
    pressure, waited, overused = terms.pressure, 0, 0
    best: tuple[float, list[NDArray[np.int32]]] | None = None
    for number in range(terms.rounds):
        if (lost := negotiation.round(torn, urgency, pressure)) >= 0:
            net = _described(packed, int(clock.connections[lost]))
            raise NoRoute(f"no switches lead along {net}: one of them is where it cannot be, or is a clock's.")
        longest, share = clock.analyse(negotiation.delay)
        overused = negotiation.overused
        say(f"routing, round {number + 1}: {overused:,} wires of several nets, {longest:.1f} ns")
        if not overused:
            waited += 1
            if best is None or longest < best[0]:
                best, waited = (longest, negotiation.edges()), 0
            if longest <= clock.target or waited > terms.polish:
                break
        negotiation.remember(1 + number / terms.patience)
        pressure = min(pressure * terms.growth, terms.most)
        urgency = np.maximum(terms.urgency(share), terms.memory * urgency)
        torn = negotiation.shared
        torn |= (share >= terms.late) & (negotiation.delay > terms.slow * negotiation.least + terms.grace)
    if best is None:
        raise NoRoute(f"{overused:,} wires are still wanted by several nets after {terms.rounds} rounds.")
    return best


def _named(graph: Graph, source: int, edges: NDArray[np.int32]) -> str:
    """A net's wires and switches, as nextpnr writes them."""
    steps = (f"{graph.wire_name(int(graph.edges['head'][edge]))};{graph.pip_name(int(edge))};1" for edge in edges)
    return ";".join((f"{graph.wire_name(source)};;1", *steps))


class _Place(NamedTuple):
    column: int
    row: int
    element: str


def _places(packed: Packed, bels: Mapping[int, str], chip: Chip) -> list[_Place]:
    places = []
    for cell, name in enumerate(packed.names):
        bel = packed.bel(cell, bels)
        if not (match := _BEL.fullmatch(bel)) or int(match[1]) >= chip.columns or int(match[2]) >= chip.rows:
            raise ToolError(f"{name} is placed at {bel!r}, which is no basic element of {chip.name}.")
        places.append(_Place(int(match[1]), int(match[2]), match[3]))
    return places


def _rules(packed: Packed, places: list[_Place], chip: Chip) -> NDArray[np.uint8]:
    """(tiles, SLICES): the inputs of carries and memories are not all alike."""
    rules = np.full((len(chip.type_of), SLICES), Rule.ALL, np.uint8)
    for cell, mode in enumerate(packed.mode):
        at = places[cell]
        if packed.kind[cell] == Kind.LUT and mode not in ("", "LOGIC") and (match := _SLICE.match(at.element)):
            rule = Rule.CARRY if mode == "CCU2" else Rule.NONE
            rules[at.row * chip.columns + at.column, "ABCD".index(match[1])] = rule
    return rules


def _demand(packed: Packed, places: list[_Place], graph: Graph) -> tuple[list[int], NDArray[np.int64], Demand]:
    """Numbers of the nets, numbers of the connections among all of `packed`, and both as wires."""
    chip = graph.chip
    elements: dict[int, dict[str, dict[str, int]]] = {}

    def wire(pin: Pin) -> int:
        at = places[pin.cell]
        tile = at.row * chip.columns + at.column
        kind = int(chip.type_of[tile])
        if kind not in elements:
            elements[kind] = chip.elements(kind)
        try:
            return int(graph.first[tile]) + elements[kind][at.element][pin.port]
        except KeyError:
            raise ToolError(
                f"{chip.name} has no pin {pin.port} at {at.element} of tile {at.column}, {at.row}, where {packed.names[pin.cell]} is."
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
