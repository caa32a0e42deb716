"""Static timing analysis: what the placer and the router follow, nextpnr's own analysis being the result.

Each clock domain is analysed by itself: from its registers, through logic, to its registers. See `clocks` for paths between
domains."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..spec.errors import ToolError
from .cells import CellDelays
from .clocks import Clocks
from .netlist import Kind, Packed, Pin

__all__ = ["Edges", "TimingGraph", "wire_delay"]

_WRITER = {"D0": "WADO0", "B0": "WADO1", "C0": "WADO2", "A0": "WADO3", "C1": "WDO0", "A1": "WDO1", "D1": "WDO2", "B1": "WDO3"}
"""Of a distributed RAM's write port: where an input comes out."""
_LUT_INPUTS = frozenset(("A", "B", "C", "D", "FCI"))
_RAM_INPUTS = frozenset(("WRE", "WD", "WAD0", "WAD1", "WAD2", "WAD3"))
_DIGITS = "0123456789"

_WITHIN_TILE, _FIRST_TILE, _PER_TILE = 0.5, 0.75, 0.058
"""ns at speed grade 6 of a wire within a logic tile, and of one that leaves it: a constant part, and a part for each tile of
distance. A fit to what the router found for the critical connections of the preset `ulx3s-85f`."""


@compiled
def wire_delay(dx, dy):
    """Estimated ns of a wire over `dx` columns and `dy` rows (int), at speed grade 6. Returns float64."""
    distance = abs(dx) + abs(dy)
    return _FIRST_TILE + _PER_TILE * distance if distance else _WITHIN_TILE


class Edges(NamedTuple):
    """Timing edges: from a net through a cell to the cell's output net, or to a register (`to` is -1); sources first.

    source, to : (edges,) int32, nets
    driver, sink : (edges,) int32, cells between which the wire runs
    logic : (edges,) float64, ns in the sink, a register's setup time included
    wired : (edges,) bool, whether there is a wire at all
    connection : (edges,) int32, which connection it is, counting the users of all nets
    capture : (edges,) int32, the clock domain of the register, or -1
    start : (nets,) float64, ns after the clock edge at which a register's output shows, or -1
    launch : (nets,) int32, the clock domain of that register, or -1
    """

    source: NDArray[np.int32]
    to: NDArray[np.int32]
    driver: NDArray[np.int32]
    sink: NDArray[np.int32]
    logic: NDArray[np.float64]
    wired: NDArray[np.bool_]
    connection: NDArray[np.int32]
    capture: NDArray[np.int32]
    start: NDArray[np.float64]
    launch: NDArray[np.int32]


@compiled
def _estimate(edges, x, y, scale, delay):
    """Writes ns of logic and wire of each edge into `delay` (edges,) float64: cells at `x`, `y` (cells,) int32, wires `scale` times
    as slow as at speed grade 6."""
    for i in range(len(delay)):
        delay[i] = edges.logic[i]
        if edges.wired[i]:
            a, b = edges.driver[i], edges.sink[i]
            delay[i] += scale * wire_delay(x[a] - x[b], y[a] - y[b])


@compiled
def _analyse(edges, domain, delay, period, arrival, required, share):
    """One clock domain: arrival and required times (nets,) float64 ns; raises `share` (edges,) float64 to the longest path through
    each edge over `period` (ns). `delay` (edges,) float64 ns. Returns the longest path, ns, 0 if there is none."""
    for net in range(len(arrival)):
        arrival[net] = edges.start[net] if edges.launch[net] == domain else -1.0
    required[:] = np.inf
    longest = 0.0
    count = len(edges.source)
    for i in range(count):
        at = arrival[edges.source[i]]
        if at < 0:
            continue
        at += delay[i]
        to = edges.to[i]
        if to < 0:
            if edges.capture[i] == domain:
                longest = max(longest, at)
        elif at > arrival[to]:
            arrival[to] = at
    for k in range(count):
        i = count - 1 - k
        source = edges.source[i]
        if arrival[source] < 0:
            continue
        limit = np.inf
        if edges.to[i] >= 0:
            limit = required[edges.to[i]]
        elif edges.capture[i] == domain:
            limit = longest
        if limit < np.inf:
            share[i] = max(share[i], (longest - (limit - delay[i] - arrival[source])) / period)
            required[source] = min(required[source], limit - delay[i])
    return longest


class TimingGraph:
    """The paths between registers of a packed netlist, and what they may take.

    clocks : names of the clock domains
    periods : (clocks,) float64, the path of each to work towards, ns
    longest : (clocks,) float64, the longest path of each as of the last analysis, ns
    share : (edges,) float64, the longest path through an edge over its clock's period, as of the last analysis
    """

    def __init__(
        self, packed: Packed, delays: CellDelays, period: float, periods: Mapping[str, float] | None = None, wire_scale: float = 1.0
    ):
        """`periods`: ns of clocks, by name, other than `period`. `wire_scale`: how slow wires are, speed grade 6 being 1.

        Raises `ToolError` for a loop of logic, for a register whose clock is not known, and for a period of a clock that does not
        exist."""
        clocks = Clocks(packed)
        self.edges = _edges(packed, delays, clocks)
        self.clocks: Sequence[str] = tuple(clocks.names)
        if unknown := set(periods or {}) - set(self.clocks):
            raise ToolError(f"the design has no clock {min(unknown)}: its clocks are {', '.join(self.clocks) or 'none'}.")
        self.periods = np.array([(periods or {}).get(name, period) for name in self.clocks], float)
        self.longest = np.zeros(len(self.clocks))
        self._wire_scale = wire_scale
        self._arrival = np.zeros(len(self.edges.start))
        self._required = np.zeros(len(self.edges.start))
        self._delay = np.zeros(len(self.edges.source))
        self.share = np.zeros(len(self.edges.source))

    @property
    def worst(self) -> float:
        """The longest path over its clock's period, of the domain where that is most."""
        return float((self.longest / self.periods).max(initial=0.0))

    def analyse(self, x: NDArray[np.int32], y: NDArray[np.int32]) -> float:
        """Cells at `x`, `y` (cells,) and wires by `wire_delay`. Returns the longest path of all clocks, ns."""
        _estimate(self.edges, x, y, self._wire_scale, self._delay)
        return self._analyse()

    def analyse_routed(self, wire: NDArray[np.float64]) -> float:
        """With the delays of all connections, `wire` (connections,) float64 ns. Returns the longest path of all clocks, ns."""
        np.add(self.edges.logic, wire[self.edges.connection], out=self._delay)
        return self._analyse()

    def report(self) -> str:
        """The longest path of each clock, as of the last analysis."""
        if len(self.clocks) == 1:
            return f"{self.longest[0]:.1f} ns"
        return ", ".join(f"{name} {longest:.1f} ns" for name, longest in zip(self.clocks, self.longest, strict=True)) or "no clock"

    def _analyse(self) -> float:
        self.share[:] = 0.0
        for domain, period in enumerate(self.periods):
            self.longest[domain] = _analyse(self.edges, domain, self._delay, period, self._arrival, self._required, self.share)
        return float(self.longest.max(initial=0.0))


def _edges(packed: Packed, delays: CellDelays, clocks: Clocks) -> Edges:
    kind, home = packed.kind, packed.home
    start, launch = np.full(len(packed.nets), -1.0), np.full(len(packed.nets), -1, np.int32)
    outputs: dict[int, list[tuple[int, str]]] = {}
    for number, net in enumerate(packed.nets):
        driver = kind[net.driver.cell]
        if driver in (Kind.LUT, Kind.WRITER) or (driver == Kind.MULTIPLIER and packed.mode[net.driver.cell] == "NONE"):
            if not net.constant:
                outputs.setdefault(net.driver.cell, []).append((number, net.driver.port))
        elif driver != Kind.FIXED:
            start[number], launch[number] = _clock_to_output(packed, delays, net.driver), clocks.domain(net.driver)
    found: list[tuple[int, int, int, int, float, bool, int, int]] = []
    first = np.cumsum([0, *(len(net.users) for net in packed.nets)])
    for number, net in enumerate(packed.nets):
        driver = net.driver.cell
        if net.constant or kind[driver] == Kind.FIXED:
            continue
        inside = net.driver.port == "FCO" or kind[driver] == Kind.WRITER
        for user, pin in enumerate(net.users):
            if kind[pin.cell] == Kind.FIXED:
                continue
            ends = (int(home[driver]), int(home[pin.cell]))
            for to, delay in _through(packed, delays, pin, outputs.get(pin.cell, ())):
                capture = clocks.domain(pin) if to < 0 else -1
                found.append((number, to, *ends, delay, not inside and pin.port != "DI", first[number] + user, capture))
    layout = [("s", "i4"), ("t", "i4"), ("d", "i4"), ("c", "i4"), ("l", "f8"), ("w", "?"), ("n", "i4"), ("k", "i4")]
    table = np.array(found, layout)
    table = table[np.argsort(_levels(table["s"], table["t"], len(packed.nets))[table["s"]], kind="stable")]
    columns = {name: np.ascontiguousarray(table[key]) for name, key in zip(Edges._fields, "stdclwnk", strict=False)}
    return Edges(**columns, start=start, launch=launch)


def _clock_to_output(packed: Packed, delays: CellDelays, pin: Pin) -> float:
    kind, mode = packed.kind[pin.cell], packed.mode[pin.cell]
    if kind == Kind.MEMORY:
        return delays.memory(registered=pin.port.rstrip(_DIGITS)[-1] in mode)
    return delays.multiplier(mode) if kind == Kind.MULTIPLIER else delays.flip_flop


def _through(packed: Packed, delays: CellDelays, pin: Pin, outputs: Sequence[tuple[int, str]]) -> list[tuple[int, float]]:
    """Where an input leads: (output net, or -1 for a register; ns)."""
    kind, mode = packed.kind[pin.cell], packed.mode[pin.cell]
    if kind == Kind.FF:
        return [(-1, delays.flip_flop_setup(pin.port))]
    name = pin.port.rstrip(_DIGITS)
    if kind == Kind.MULTIPLIER:
        if mode == "NONE":
            return [(net, delays.multiplier(mode)) for net, _ in outputs] if name in ("A", "B") else []
        return [(-1, delays.multiplier_setup(mode, name))]
    if kind == Kind.MEMORY:
        return [(-1, delays.memory_setup(name))]
    if kind == Kind.WRITER:
        return [(net, 0.0) for net, output in outputs if output == _WRITER[pin.port]]
    if pin.port in _LUT_INPUTS:
        return [(net, delays.lut(pin.port, output, mode == "CCU2")) for net, output in outputs]
    return [(-1, delays.ram_setup(pin.port))] if pin.port in _RAM_INPUTS else []


def _levels(source: NDArray[np.int32], to: NDArray[np.int32], nets: int) -> NDArray[np.int32]:
    """(nets,) int32, the most edges on a path to each net; `source`, `to` (edges,)."""
    level = np.zeros(nets, np.int32)
    inner = to >= 0
    for _ in range(nets + 1):
        deeper = level.copy()
        np.maximum.at(deeper, to[inner], level[source[inner]] + 1)
        if (deeper == level).all():
            return level
        level = deeper
    raise ToolError("the netlist has a loop of logic without a register: the placer cannot time it.")
