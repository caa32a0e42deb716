"""The state of an annealing as arrays, its placement cost, and the trial of a move.

The cost is the weighted half perimeter of all nets, plus the length of critical connections, plus the congestion of regions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from .legal import Slots
from .problem import Grid, Nets

__all__ = [
    "BIN",
    "Cells",
    "Congestion",
    "Critical",
    "Macros",
    "Sites",
    "State",
    "Work",
    "below",
    "chance",
    "measure_all",
    "try_moves",
]

BIN = 4
"""Congestion is counted in squares of so many tiles a side."""

_CONGESTION = 5.0
"""Weight of a square's pins beyond its limit, squared, over the limit. Found by trial on `ulx3s-85f`."""

_WIDE = 24
"""Pins of a net from which on its box is computed anew only when a pin at its rim moves, or one leaves it."""

_LEAVING_TILE = 3.0
"""Tiles of length that a critical connection has in addition once it leaves its driver's tile, within which wires are much faster.
`timing.wire_delay` counts about four for it."""

_TAKES_BOTH_ENDS = 0.5
"""A critical connection of which both cells move is seen from both ends."""


class Cells(NamedTuple):
    """(cells,) int32: column and row of the device, the index of the placement macro, the partner, numbers of control sets as in
    `Packed`; and (cells,) float64, pins that count for congestion."""

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    macro: NDArray[np.int32]
    partner: NDArray[np.int32]
    enable: NDArray[np.int32]
    control: NDArray[np.int32]
    pins: NDArray[np.float64]


class Macros(NamedTuple):
    """Placement macros. `first` (macros + 1,) int64: the first of each one's members; `column`, `slot`, `cell` (members,) int32;
    `root` (macros,) int64: first tile; `shape` (macros,) int32: equal for macros of equal members."""

    first: NDArray[np.int64]
    column: NDArray[np.int32]
    slot: NDArray[np.int32]
    cell: NDArray[np.int32]
    root: NDArray[np.int64]
    shape: NDArray[np.int32]


class Sites(NamedTuple):
    """Of hard blocks. `x`, `y` (sites,) int32; `holds` (sites,) int32: cell or -1; `of` (cells,) int32: site or -1; `first`, `last`
    (sites,) int64: bounds of the sites of a site's kind."""

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    holds: NDArray[np.int32]
    of: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


class Critical(NamedTuple):
    """Connections that time weighs, from both ends: of cell c, to `other[first[c] : first[c + 1]]`, with `weight`."""

    first: NDArray[np.int64]
    other: NDArray[np.int32]
    weight: NDArray[np.float64]


class Congestion(NamedTuple):
    """Squares of `BIN` tiles a side: (squares,) float64, pins that are `used` and their `limit`; `across`: squares in a row."""

    used: NDArray[np.float64]
    limit: NDArray[np.float64]
    across: int


class Work(NamedTuple):
    """Of one move.

    state : (1,) uint64, of the random numbers
    cell, to_x, to_y : (n,) int32, cells that move and where to
    old_x, old_y : (cells,) int32, where they were
    cell_step, net_step : (cells,) and (nets,) int64, number of the move in which they were last involved
    net, box, cost : (nets,) int32, (nets, 4) int32, (nets,) float64, nets that change, and their new boxes and costs
    source, target, luts, flip_flops : (n,) slots from and to which contents are transferred, and the contents
    spot : (2,) int64, column and row of the grid
    """

    state: NDArray[np.uint64]
    cell: NDArray[np.int32]
    to_x: NDArray[np.int32]
    to_y: NDArray[np.int32]
    old_x: NDArray[np.int32]
    old_y: NDArray[np.int32]
    cell_step: NDArray[np.int64]
    net_step: NDArray[np.int64]
    net: NDArray[np.int32]
    box: NDArray[np.int32]
    cost: NDArray[np.float64]
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    luts: NDArray[np.int32]
    flip_flops: NDArray[np.int32]
    spot: NDArray[np.int64]

    @classmethod
    def of(cls, cells: int, nets: int, slots: int, seed: int) -> "Work":
        """`slots`: how many a move may involve at most."""
        return cls(
            state=np.array([0x9E3779B97F4A7C15 * (2 * seed + 1) % 2**64], np.uint64),
            cell=np.zeros(2 * slots, np.int32),
            to_x=np.zeros(2 * slots, np.int32),
            to_y=np.zeros(2 * slots, np.int32),
            old_x=np.zeros(cells, np.int32),
            old_y=np.zeros(cells, np.int32),
            cell_step=np.full(cells, -1, np.int64),
            net_step=np.full(nets, -1, np.int64),
            net=np.zeros(nets, np.int32),
            box=np.zeros((nets, 4), np.int32),
            cost=np.zeros(nets),
            source=np.zeros(slots, np.int64),
            target=np.zeros(slots, np.int64),
            luts=np.zeros(slots, np.int32),
            flip_flops=np.zeros(slots, np.int32),
            spot=np.zeros(2, np.int64),
        )


class State(NamedTuple):
    """All of it. `box` (nets, 4) int32: first and last column, first and last row; `cost` (nets,) float64; `lone` (lone,) int32,
    see `Problem`."""

    grid: Grid
    nets: Nets
    slots: Slots
    cells: Cells
    macros: Macros
    sites: Sites
    congestion: Congestion
    box: NDArray[np.int32]
    cost: NDArray[np.float64]
    lone: NDArray[np.int32]
    work: Work


@compiled
def _random(state):
    """Xorshift (G. Marsaglia, 2003): the next value (uint64) from `state` (1,) uint64."""
    value = state[0]
    value ^= value << np.uint64(13)
    value ^= value >> np.uint64(7)
    value ^= value << np.uint64(17)
    state[0] = value
    return value


@compiled
def below(state, n):
    """A random int from 0 to n - 1; `state` (1,) uint64."""
    return int((_random(state) >> np.uint64(33)) % np.uint64(n))


@compiled
def chance(state):
    """A random float64 from 0 to less than 1; `state` (1,) uint64."""
    return (_random(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def _measure(nets, x, y, net, box):
    """Writes the box of a net into `box` (4,) int32, cells at `x`, `y` (cells,) int32. Returns its cost, float64."""
    cell = nets.cell[nets.start[net]]
    x0 = x1 = x[cell]
    y0 = y1 = y[cell]
    for i in range(nets.start[net] + 1, nets.start[net + 1]):
        cell = nets.cell[i]
        x0, x1, y0, y1 = min(x0, x[cell]), max(x1, x[cell]), min(y0, y[cell]), max(y1, y[cell])
    box[0], box[1], box[2], box[3] = x0, x1, y0, y1
    return nets.weight[net] * (x1 - x0 + y1 - y0)


@compiled
def measure_all(nets, x, y, box, cost):
    """Writes boxes (nets, 4) int32 and costs (nets,) float64 of all nets, cells at `x`, `y` (cells,) int32."""
    for net in range(len(cost)):
        cost[net] = _measure(nets, x, y, net, box[net])


@compiled
def _length(dx, dy):
    """Length of a critical connection over `dx` columns and `dy` rows (int), tiles, float64."""
    distance = abs(dx) + abs(dy)
    return distance + _LEAVING_TILE if distance else 0.0


@compiled
def _overflow(used, limit):
    """Cost of a square's congestion, float64."""
    over = max(0.0, used - limit)
    return _CONGESTION * over * over / limit


@compiled
def _shift(state, cell, x, y):
    """Moves a cell to column `x` and row `y`. Returns what the cost of congestion changes by, float64."""
    cells, congestion = state.cells, state.congestion
    a = cells.y[cell] // BIN * congestion.across + cells.x[cell] // BIN
    b = y // BIN * congestion.across + x // BIN
    cells.x[cell], cells.y[cell] = x, y
    pins = cells.pins[cell]
    if a == b or pins == 0:
        return 0.0
    change = -_overflow(congestion.used[a], congestion.limit[a]) - _overflow(congestion.used[b], congestion.limit[b])
    congestion.used[a] -= pins
    congestion.used[b] += pins
    return change + _overflow(congestion.used[a], congestion.limit[a]) + _overflow(congestion.used[b], congestion.limit[b])


@compiled
def _affected(state, count, step):
    """Lists in `work.net` the nets whose boxes may change when the first `count` cells of the work move. Returns how many."""
    nets, cells, work = state.nets, state.cells, state.work
    found = 0
    for i in range(count):
        cell = work.cell[i]
        ox, oy, nx, ny = cells.x[cell], cells.y[cell], work.to_x[i], work.to_y[i]
        if ox == nx and oy == ny:
            continue
        for j in range(nets.first[cell], nets.first[cell + 1]):
            net = nets.of[j]
            if work.net_step[net] == step:
                continue
            if nets.start[net + 1] - nets.start[net] > _WIDE:
                b = state.box[net]
                if b[0] < ox < b[1] and b[2] < oy < b[3] and b[0] <= nx <= b[1] and b[2] <= ny <= b[3]:
                    continue
            work.net_step[net] = step
            work.net[found] = net
            found += 1
    return found


@compiled
def _add_critical(state, critical, count, step, change):
    """`change` (float64) plus what the weighted length of critical connections changes by, the first `count` cells of the work
    having moved."""
    x, y, work = state.cells.x, state.cells.y, state.work
    for i in range(count):
        cell = work.cell[i]
        for j in range(critical.first[cell], critical.first[cell + 1]):
            other = critical.other[j]
            now = _length(x[cell] - x[other], y[cell] - y[other])
            if work.cell_step[other] == step:
                before = _length(work.old_x[cell] - work.old_x[other], work.old_y[cell] - work.old_y[other])
                change += _TAKES_BOTH_ENDS * critical.weight[j] * (now - before)
            else:
                change += critical.weight[j] * (now - _length(work.old_x[cell] - x[other], work.old_y[cell] - y[other]))
    return change


@compiled
def try_moves(state, critical, count, step, temperature):
    """Moves the first `count` cells of the work, and back again if that costs too much (Metropolis). `step`: number of the move;
    `temperature` float64. Returns whether they stay."""
    nets, cells, work = state.nets, state.cells, state.work
    x, y = cells.x, cells.y
    for i in range(count):
        cell = work.cell[i]
        work.old_x[cell], work.old_y[cell], work.cell_step[cell] = x[cell], y[cell], step
    found = _affected(state, count, step)
    change = 0.0
    for i in range(count):
        change += _shift(state, work.cell[i], work.to_x[i], work.to_y[i])
    for i in range(found):
        work.cost[i] = _measure(nets, x, y, work.net[i], work.box[i])
        change += work.cost[i] - state.cost[work.net[i]]
    change = _add_critical(state, critical, count, step, change)
    if change <= 0 or chance(work.state) < np.exp(-change / temperature):
        for i in range(found):
            state.cost[work.net[i]] = work.cost[i]
            state.box[work.net[i]] = work.box[i]
        return True
    for i in range(count):
        cell = work.cell[i]
        _shift(state, cell, work.old_x[cell], work.old_y[cell])
    return False
