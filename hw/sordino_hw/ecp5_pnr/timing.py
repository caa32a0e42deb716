"""How long signals take: what the placer and the router follow, nextpnr's own analysis being the result.

Delays of cells are those of speed grade 6 in Project Trellis' database; other grades differ by a common factor, near enough.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..spec.errors import ToolError
from .netlist import Kind, Packed

__all__ = ["Edges", "TimingGraph", "wire_delay"]

_CLOCK_TO_OUTPUT = {Kind.FF: 0.525, Kind.MEMORY: 0.973, Kind.MULTIPLIER: 0.735}
_LUT = 0.236
_CARRY = {("F", False): _LUT, ("F", True): 0.443, ("FCO", False): 0.447, ("FCO", True): 0.071}
"""By output, and whether the input is the carry."""
_RAM_SETUP = {"WRE": 0.392, "WD": 0.0, "WAD0": 0.0, "WAD1": 0.0, "WAD2": 0.0, "WAD3": 0.0}
_WRITER = {"D0": "WADO0", "B0": "WADO1", "C0": "WADO2", "A0": "WADO3", "C1": "WDO0", "A1": "WDO1", "D1": "WDO2", "B1": "WDO3"}
"""Of a distributed RAM's write port: where an input comes out."""
_LUT_INPUTS = frozenset(("A", "B", "C", "D", "FCI"))
_MULTIPLY = 3.927
_MULTIPLIER_SETUP = {"A": 0.084, "B": 0.084, "CE": 0.252, "RST": 0.095}
_MEMORY_SETUP = {"ADA": 0.251, "ADB": 0.205, "DIA": 0.218, "DIB": 0.134, "CEA": 0.211, "CEB": 0.34, "OCEA": 0.226, "OCEB": 0.253,
                 "RSTA": 0.579, "RSTB": 0.585, "WEA": 0.139, "CSA": 0.02}  # fmt: skip
"""By port, numbers left out; the others have none."""


@njit(cache=True)
def wire_delay(dx, dy):
    """Nanoseconds of a wire over so many tiles: a fit to what `router` finds for the connections of a `ulx3s-85f` that are urgent."""
    distance = abs(dx) + abs(dy)
    return 0.75 + 0.058 * distance if distance else 0.5


class Edges(NamedTuple):
    """Ways from a net through a cell to the cell's output net, or to a register (`to` is -1), sources first.

    driver, sink : cells between which the wire runs; logic : ns in the sink; wired : whether there is a wire at all
    connection : which one it is, counting the users of all nets
    start : (nets,) ns after the clock edge at which a register's output shows, or -1
    """

    source: NDArray[np.int32]
    to: NDArray[np.int32]
    driver: NDArray[np.int32]
    sink: NDArray[np.int32]
    logic: NDArray[np.float64]
    wired: NDArray[np.bool_]
    connection: NDArray[np.int32]
    start: NDArray[np.float64]


@njit(cache=True)
def _estimate(edges, x, y, delay):
    """Logic and wire of each edge, cells at `x`, `y`."""
    for i in range(len(delay)):
        delay[i] = edges.logic[i]
        if edges.wired[i]:
            a, b = edges.driver[i], edges.sink[i]
            delay[i] += wire_delay(x[a] - x[b], y[a] - y[b])


@njit(cache=True)
def _analyse(edges, delay, target, arrival, required, share):
    """Arrival times of all nets, and for each edge the longest path through it as a share of `target` (ns). Returns the longest."""
    arrival[:] = edges.start
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
            longest = max(longest, at)
        elif at > arrival[to]:
            arrival[to] = at
    for k in range(count):
        i = count - 1 - k
        source = edges.source[i]
        share[i] = 0.0
        if arrival[source] < 0:
            continue
        limit = longest if edges.to[i] < 0 else required[edges.to[i]]
        if limit < np.inf:
            share[i] = (longest - (limit - delay[i] - arrival[source])) / target
            required[source] = min(required[source], limit - delay[i])
    return longest


class TimingGraph:
    """The paths between registers of a packed netlist. Raises `ToolError` for a loop of logic."""

    def __init__(self, packed: Packed):
        self.edges = _edges(packed)
        self._arrival = np.zeros(len(self.edges.start))
        self._required = np.zeros(len(self.edges.start))
        self._delay = np.zeros(len(self.edges.source))
        self.share = np.zeros(len(self.edges.source))
        """(edges,) the longest path through an edge over the target, as of the last analysis."""

    def analyse(self, x: NDArray[np.int32], y: NDArray[np.int32], target: float) -> float:
        """The longest path in ns, cells at `x`, `y` and wires by `wire_delay`; `share` follows from `target`, ns too."""
        _estimate(self.edges, x, y, self._delay)
        return self._follow(target)

    def analyse_routed(self, wire: NDArray[np.float64], target: float) -> float:
        """The longest path in ns, `wire` (connections,) ns being known; `share` follows from `target`."""
        np.add(self.edges.logic, wire[self.edges.connection], out=self._delay)
        return self._follow(target)

    def _follow(self, target: float) -> float:
        return float(_analyse(self.edges, self._delay, target, self._arrival, self._required, self.share))


def _edges(packed: Packed) -> Edges:
    kind, home = packed.kind, packed.home
    start = np.full(len(packed.nets), -1.0)
    outputs: dict[int, list[tuple[int, str]]] = {}
    for number, net in enumerate(packed.nets):
        driver = kind[net.driver.cell]
        through = driver in (Kind.LUT, Kind.WRITER) or packed.mode[net.driver.cell] == "NOREG"
        if driver in _CLOCK_TO_OUTPUT and not through:
            start[number] = _CLOCK_TO_OUTPUT[Kind(driver)]
        elif through and not net.constant:
            outputs.setdefault(net.driver.cell, []).append((number, net.driver.port))
    found: list[tuple[int, int, int, int, float, bool, int]] = []
    first = np.cumsum([0, *(len(net.users) for net in packed.nets)])
    for number, net in enumerate(packed.nets):
        driver = net.driver.cell
        if net.constant or kind[driver] == Kind.FIXED:
            continue
        inside = net.driver.port == "FCO" or kind[driver] == Kind.WRITER
        for user, (cell, port) in enumerate(net.users):
            if kind[cell] == Kind.FIXED:
                continue
            ends = (int(home[driver]), int(home[cell]))
            for to, delay in _through(packed, cell, port, outputs.get(cell, ())):
                found.append((number, to, *ends, delay, not inside and port != "DI", first[number] + user))
    table = np.array(found, [("s", "i4"), ("t", "i4"), ("d", "i4"), ("c", "i4"), ("l", "f8"), ("w", "?"), ("n", "i4")])
    table = table[np.argsort(_levels(table["s"], table["t"], len(packed.nets))[table["s"]], kind="stable")]
    columns = {name: np.ascontiguousarray(table[key]) for name, key in zip(Edges._fields, "stdclwn", strict=False)}
    return Edges(**columns, start=start)


def _through(packed: Packed, cell: int, port: str, outputs: "list[tuple[int, str]] | tuple[()]") -> list[tuple[int, float]]:
    """Where an input leads: (output net, or -1 for a register; ns)."""
    kind = packed.kind[cell]
    if kind == Kind.FF:
        return [(-1, 0.424 if port == "LSR" else 0.0)]
    name = port.rstrip("0123456789")
    if kind == Kind.MULTIPLIER:
        if packed.mode[cell] == "NOREG":
            return [(net, _MULTIPLY) for net, _ in outputs] if name in ("A", "B") else []
        return [(-1, _MULTIPLIER_SETUP.get(name, 0.0))]
    if kind == Kind.MEMORY:
        return [(-1, _MEMORY_SETUP.get(name, 0.0))]
    if kind == Kind.WRITER:
        return [(net, 0.0) for net, output in outputs if output == _WRITER[port]]
    if port in _LUT_INPUTS:
        if packed.mode[cell] == "CCU2":
            return [(net, _CARRY[output, port == "FCI"]) for net, output in outputs]
        return [(net, _LUT) for net, _ in outputs]
    return [(-1, _RAM_SETUP[port])] if port in _RAM_SETUP else []


def _levels(source: NDArray[np.int32], to: NDArray[np.int32], nets: int) -> NDArray[np.int32]:
    """(nets,) the most edges on a way to a net."""
    level = np.zeros(nets, np.int32)
    inner = to >= 0
    for _ in range(nets + 1):
        deeper = level.copy()
        np.maximum.at(deeper, to[inner], level[source[inner]] + 1)
        if (deeper == level).all():
            return level
        level = deeper
    raise ToolError("the netlist has a loop of logic without a register: the placer cannot time it.")
