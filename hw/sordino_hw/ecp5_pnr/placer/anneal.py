"""Simulated annealing of a legal placement: wire, delay of critical wires, and crowding.

A step exchanges the contents of slots: a LUT, a flip-flop or a pair; whole tiles; a macro with what is in its way; or two block
RAMs or multipliers. Every step leaves the placement legal. Half of the proposals go to where a partner on a net is.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..netlist import SLOTS, Kind
from ..timing import TimingGraph
from .legal import Slots, may_share
from .problem import Grid, Nets, Problem

__all__ = ["Annealer", "Schedule"]

_BIN = 4
"""Crowding is counted in squares of so many tiles a side."""

_CROWDING = 5.0
"""Cost of a square's pins beyond `Problem.crowded`, squared, over what it may hold."""

_WIDE = 24
"""Pins of a net from which on its box is only computed anew when a pin at its rim moves."""

_DIRECTED, _TILES = 0.5, 0.05
"""Shares of proposals: towards a partner; of whole tiles."""

_APART = 3.0
"""Tiles that leaving its driver's tile costs a critical wire: only within a tile there are wires of next to no delay."""

_CRITICAL, _SHARPNESS, _MOST = 3.0, 8.0, 5.0
"""Weight of a wire on a path that takes all of the target, the power of the path's share of it, and the greatest factor."""


class Schedule(NamedTuple):
    """Temperatures in tiles of wire; `proposals` for each unit and temperature; `window`, in tiles, narrows by itself."""

    first: float = 2.0
    last: float = 0.03
    steps: int = 60
    proposals: int = 30
    window: int = 10


class _Cells(NamedTuple):
    x: NDArray[np.int32]
    y: NDArray[np.int32]
    macro: NDArray[np.int32]
    partner: NDArray[np.int32]
    enable: NDArray[np.int32]
    control: NDArray[np.int32]
    pins: NDArray[np.float64]


class _Macros(NamedTuple):
    """`first`, `column`, `slot`, `cell`: members; `root`: (macros,) first tile; `shape`: equal for macros of equal members."""

    first: NDArray[np.int64]
    column: NDArray[np.int32]
    slot: NDArray[np.int32]
    cell: NDArray[np.int32]
    root: NDArray[np.int64]
    shape: NDArray[np.int32]


class _Sites(NamedTuple):
    """`holds`: (sites,) cell or -1; `of`: (cells,) site or -1; `first`, `last`: bounds of the sites of a site's kind."""

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    holds: NDArray[np.int32]
    of: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


class _Critical(NamedTuple):
    """Wires that time weighs: of cell c, to `other[first[c] : first[c + 1]]`."""

    first: NDArray[np.int64]
    other: NDArray[np.int32]
    weight: NDArray[np.float64]


class _Crowd(NamedTuple):
    """`used`: (bins,) pins; `limit`: (bins,); `across`: bins in a row."""

    used: NDArray[np.float64]
    limit: NDArray[np.float64]
    across: int


class _Work(NamedTuple):
    """Of one step: cells that move and where to, what they were, boxes of their nets; transfers of slots."""

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


class _State(NamedTuple):
    grid: Grid
    nets: Nets
    slots: Slots
    cells: _Cells
    macros: _Macros
    sites: _Sites
    crowd: _Crowd
    box: NDArray[np.int32]
    cost: NDArray[np.float64]
    lone: NDArray[np.int32]
    work: _Work


@njit(cache=True)
def _random(state):
    value = state[0]
    value ^= value << np.uint64(13)
    value ^= value >> np.uint64(7)
    value ^= value << np.uint64(17)
    state[0] = value
    return value


@njit(cache=True)
def _below(state, n):
    return int((_random(state) >> np.uint64(33)) % np.uint64(n))


@njit(cache=True)
def _chance(state):
    return (_random(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def _measure(nets, x, y, net, box):
    """The box of a net into `box`; returns its cost."""
    cell = nets.cell[nets.start[net]]
    x0 = x1 = x[cell]
    y0 = y1 = y[cell]
    for i in range(nets.start[net] + 1, nets.start[net + 1]):
        cell = nets.cell[i]
        x0, x1, y0, y1 = min(x0, x[cell]), max(x1, x[cell]), min(y0, y[cell]), max(y1, y[cell])
    box[0], box[1], box[2], box[3] = x0, x1, y0, y1
    return nets.weight[net] * (x1 - x0 + y1 - y0)


@njit(cache=True)
def _measure_all(nets, x, y, box, cost):
    for net in range(len(cost)):
        cost[net] = _measure(nets, x, y, net, box[net])


@njit(cache=True)
def _length(dx, dy):
    distance = abs(dx) + abs(dy)
    return distance + _APART if distance else 0.0


@njit(cache=True)
def _crowding(used, limit):
    over = max(0.0, used - limit)
    return _CROWDING * over * over / limit


@njit(cache=True)
def _shift(state, cell, x, y):
    """Moves a cell; returns what crowding changes by."""
    cells, crowd = state.cells, state.crowd
    a = cells.y[cell] // _BIN * crowd.across + cells.x[cell] // _BIN
    b = y // _BIN * crowd.across + x // _BIN
    cells.x[cell], cells.y[cell] = x, y
    pins = cells.pins[cell]
    if a == b or pins == 0:
        return 0.0
    change = -_crowding(crowd.used[a], crowd.limit[a]) - _crowding(crowd.used[b], crowd.limit[b])
    crowd.used[a] -= pins
    crowd.used[b] += pins
    return change + _crowding(crowd.used[a], crowd.limit[a]) + _crowding(crowd.used[b], crowd.limit[b])


@njit(cache=True)
def _try(state, critical, count, step, temperature):
    """Moves the first `count` cells of the work, and back again if that costs too much; whether they stay."""
    nets, cells, work = state.nets, state.cells, state.work
    x, y = cells.x, cells.y
    found = 0
    for i in range(count):
        cell = work.cell[i]
        work.old_x[cell], work.old_y[cell], work.cell_step[cell] = x[cell], y[cell], step
    for i in range(count):
        cell = work.cell[i]
        ox, oy, nx, ny = x[cell], y[cell], work.to_x[i], work.to_y[i]
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
    change = 0.0
    for i in range(count):
        change += _shift(state, work.cell[i], work.to_x[i], work.to_y[i])
    for i in range(found):
        work.cost[i] = _measure(nets, x, y, work.net[i], work.box[i])
        change += work.cost[i] - state.cost[work.net[i]]
    for i in range(count):
        cell = work.cell[i]
        for j in range(critical.first[cell], critical.first[cell + 1]):
            other = critical.other[j]
            now = _length(x[cell] - x[other], y[cell] - y[other])
            if work.cell_step[other] == step:  # it moves too: seen from both ends
                before = _length(work.old_x[cell] - work.old_x[other], work.old_y[cell] - work.old_y[other])
                change += 0.5 * critical.weight[j] * (now - before)
            else:
                change += critical.weight[j] * (now - _length(work.old_x[cell] - x[other], work.old_y[cell] - y[other]))
    if change <= 0 or _chance(work.state) < np.exp(-change / temperature):
        for i in range(found):
            state.cost[work.net[i]] = work.cost[i]
            state.box[work.net[i]] = work.box[i]
        return True
    for i in range(count):
        cell = work.cell[i]
        _shift(state, cell, work.old_x[cell], work.old_y[cell])
    return False


@njit(cache=True)
def _exchange(state, critical, transfers, luts, flip_flops, step, temperature):
    """Carries out the work's transfers, a permutation of slots, for LUTs or flip-flops or both, if they are legal and pay."""
    slots, cells, work, grid = state.slots, state.cells, state.work, state.grid
    count = 0
    for i in range(transfers):
        tile = work.target[i] // 8
        work.luts[i], work.flip_flops[i] = slots.lut[work.source[i]], slots.flip_flop[work.source[i]]
        for cell in (work.luts[i] if luts else -1, work.flip_flops[i] if flip_flops else -1):
            if cell >= 0:
                work.cell[count], work.to_x[count], work.to_y[count] = cell, grid.x[tile], grid.y[tile]
                count += 1
    allowed = True
    if flip_flops:
        for i in range(transfers):
            slots.flip_flop[work.target[i]] = work.flip_flops[i]
        for i in range(transfers):
            tile = work.target[i] // 8
            if (i == 0 or tile != work.target[i - 1] // 8) and not may_share(tile, slots.flip_flop, cells.enable, cells.control):
                allowed = False
                break
    if allowed and _try(state, critical, count, step, temperature):
        for i in range(transfers):
            slot = work.target[i]
            if luts:
                slots.lut[slot] = work.luts[i]
                if work.luts[i] >= 0:
                    slots.of[work.luts[i]] = slot
            if flip_flops and work.flip_flops[i] >= 0:
                slots.of[work.flip_flops[i]] = slot
        return True
    if flip_flops:
        for i in range(transfers):
            slots.flip_flop[work.source[i]] = work.flip_flops[i]
    return False


@njit(cache=True)
def _aim(state, cell, column, row, window, jitter):
    """A place (column, row) of the grid into the work's `spot`: about a partner of `cell`, or anywhere in the window."""
    work, nets, grid = state.work, state.nets, state.grid
    work.spot[0] = column + _below(work.state, 2 * window + 1) - window
    work.spot[1] = row + _below(work.state, 2 * window + 1) - window
    if _chance(work.state) < _DIRECTED:
        degree = nets.first[cell + 1] - nets.first[cell]
        if degree:
            net = nets.of[nets.first[cell] + _below(work.state, degree)]
            pins = nets.start[net + 1] - nets.start[net]
            other = nets.cell[nets.start[net] + _below(work.state, pins)]
            if other != cell and pins <= 32:
                work.spot[0] = state.cells.x[other] - grid.first + _below(work.state, 2 * jitter + 1) - jitter
                work.spot[1] = grid.row_of[state.cells.y[other]] + _below(work.state, 2 * jitter + 1) - jitter
                return True
    return False


@njit(cache=True)
def _step_lone(state, critical, window, step, temperature):
    """A LUT, a flip-flop or a pair changes its slot with what is there. 1 if taken, 0 if not, -1 if it was no move."""
    slots, cells, work, grid = state.slots, state.cells, state.work, state.grid
    cell = state.lone[_below(work.state, len(state.lone))]
    a = slots.of[cell]
    tile = a // 8
    _aim(state, cell, tile % grid.columns, tile // grid.columns, window, 1)
    if not (0 <= work.spot[0] < grid.columns and 0 <= work.spot[1] < grid.rows):
        return -1
    b = (work.spot[1] * grid.columns + work.spot[0]) * 8 + _below(work.state, 8)
    if b // 8 == tile:
        return -1
    lut_a, lut_b, ff_a, ff_b = slots.lut[a], slots.lut[b], slots.flip_flop[a], slots.flip_flop[b]
    both = cells.partner[cell] >= 0
    luts = both or cell == lut_a
    flip_flops = both or cell == ff_a
    if luts and lut_b >= 0 and cells.partner[lut_b] >= 0:
        flip_flops = True
    if flip_flops and ((ff_b >= 0 and cells.partner[ff_b] >= 0) or (ff_a >= 0 and cells.partner[ff_a] >= 0)):
        luts = True
    if luts and ((lut_a >= 0 and cells.partner[lut_a] >= 0) or (lut_b >= 0 and cells.partner[lut_b] >= 0)):
        flip_flops = True
    for other in (lut_a if luts else -1, lut_b if luts else -1, ff_a if flip_flops else -1, ff_b if flip_flops else -1):
        if other >= 0 and cells.macro[other] >= 0:
            return -1
    work.source[0], work.target[0], work.source[1], work.target[1] = a, b, b, a
    return int(_exchange(state, critical, 2, luts, flip_flops, step, temperature))


@njit(cache=True)
def _step_tile(state, critical, window, step, temperature):
    """Two tiles without macros change places: flip-flops of a control set move together or not at all."""
    slots, cells, work, grid = state.slots, state.cells, state.work, state.grid
    cell = state.lone[_below(work.state, len(state.lone))]
    a = slots.of[cell] // 8
    _aim(state, cell, a % grid.columns, a // grid.columns, window, 1)
    if not (0 <= work.spot[0] < grid.columns and 0 <= work.spot[1] < grid.rows):
        return -1
    b = work.spot[1] * grid.columns + work.spot[0]
    if a == b:
        return -1
    for k in range(8):
        work.source[k], work.target[k] = 8 * a + k, 8 * b + k
        work.source[8 + k], work.target[8 + k] = 8 * b + k, 8 * a + k
    for k in range(16):
        for other in (slots.lut[work.source[k]], slots.flip_flop[work.source[k]]):
            if other >= 0 and cells.macro[other] >= 0:
                return -1
    return int(_exchange(state, critical, 16, True, True, step, temperature))


@njit(cache=True)
def _step_macro(state, critical, window, step, temperature):
    """A macro changes places with one of its shape, or with the lone units in its way, which take the slots that it leaves."""
    slots, cells, macros, work, grid = state.slots, state.cells, state.macros, state.work, state.grid
    number = _below(work.state, len(macros.root))
    root = macros.root[number]
    first, last = macros.first[number], macros.first[number + 1]
    width = macros.column[last - 1]
    member = first + _below(work.state, last - first)
    column, row = root % grid.columns, root // grid.columns
    if _aim(state, macros.cell[member], column, row, window, 2):
        work.spot[0] -= macros.column[member]
    if not (0 <= work.spot[0] < grid.columns - width and 0 <= work.spot[1] < grid.rows):
        return -1
    tile = work.spot[1] * grid.columns + work.spot[0]
    shift = (tile - root) * 8
    if shift == 0:
        return -1
    head = slots.lut[tile * 8]
    twin = -1
    if head >= 0 and cells.macro[head] >= 0:
        other = cells.macro[head]
        if macros.root[other] == tile and macros.shape[other] == macros.shape[number]:
            twin = other
    overlap = work.spot[1] == row and abs(work.spot[0] - column) <= width
    count = last - first
    if twin >= 0:
        for i in range(count):
            slot = (root + macros.column[first + i]) * 8 + macros.slot[first + i]
            work.source[i], work.target[i] = slot, slot + shift
            work.source[count + i], work.target[count + i] = slot + shift, slot
        transfers = 2 * count
    else:
        transfers = count
        for i in range(count):
            slot = (root + macros.column[first + i]) * 8 + macros.slot[first + i]
            work.source[i], work.target[i] = slot, slot + shift
            lut, flip_flop = slots.lut[slot + shift], slots.flip_flop[slot + shift]
            if lut >= 0 and cells.macro[lut] == number:
                continue
            if (lut >= 0 and cells.macro[lut] >= 0) or (flip_flop >= 0 and cells.macro[flip_flop] >= 0):
                return -1
            work.source[transfers] = slot + shift
            transfers += 1
        left = count
        for i in range(count):
            slot = work.source[i]
            behind = slot - shift
            own = overlap and 0 <= behind < len(slots.lut) and slots.lut[behind] >= 0 and cells.macro[slots.lut[behind]] == number
            if not own:  # nothing of the macro comes here
                if left == transfers:
                    return -1
                work.target[left] = slot
                left += 1
        if left != transfers:
            return -1
    if not _exchange(state, critical, transfers, True, True, step, temperature):
        return 0
    macros.root[number] = tile
    if twin >= 0:
        macros.root[twin] = root
    return 1


@njit(cache=True)
def _step_site(state, critical, window, step, temperature):
    """A block RAM or a multiplier goes to another site, with what is there coming back."""
    sites, work = state.sites, state.work
    a = _below(work.state, len(sites.holds))
    cell = sites.holds[a]
    if cell < 0:
        return -1
    b = -1
    for _ in range(12):
        b = sites.first[a] + _below(work.state, sites.last[a] - sites.first[a])
        if a != b and abs(sites.x[a] - sites.x[b]) <= max(window, 9) and abs(sites.y[a] - sites.y[b]) <= max(window, 24):
            break
        b = -1
    if b < 0:
        return -1
    other = sites.holds[b]
    work.cell[0], work.to_x[0], work.to_y[0] = cell, sites.x[b], sites.y[b]
    work.cell[1], work.to_x[1], work.to_y[1] = other, sites.x[a], sites.y[a]
    if not _try(state, critical, 1 if other < 0 else 2, step, temperature):
        return 0
    sites.holds[b], sites.holds[a], sites.of[cell] = cell, other, b
    if other >= 0:
        sites.of[other] = a
    return 1


@njit(cache=True)
def _anneal(state, critical, begin, proposals, window, temperature, macro_share, site_share):
    """Steps numbered from `begin` on; returns the share of lone units' moves that were taken."""
    taken, tried = 0, 0
    for step in range(begin, begin + proposals):
        choice = _chance(state.work.state)
        if choice < site_share:
            _step_site(state, critical, window, step, temperature)
        elif choice < site_share + macro_share:
            _step_macro(state, critical, window, step, temperature)
        elif choice < site_share + macro_share + _TILES:
            _step_tile(state, critical, window, step, temperature)
        elif len(state.lone):
            done = _step_lone(state, critical, window, step, temperature)
            tried += done >= 0
            taken += done == 1
    return taken / max(tried, 1)


class Annealer:
    """A placement that is legal, and gets better.

    `slots`, `root` as from `legal`; `sites` (blocks,) index of each block's site among its kind's. `x`, `y` (cells,) are columns
    and rows of the device at any time.
    """

    def __init__(
        self, problem: Problem, slots: Slots, root: NDArray[np.int64], sites: NDArray[np.int64], timing: TimingGraph, seed: int
    ):
        packed, grid, nets = problem.packed, problem.grid, problem.nets
        self.problem, self.timing, self.slots = problem, timing, slots
        count = len(packed.names)
        x, y = np.zeros(count, np.int32), np.zeros(count, np.int32)
        logic = slots.of >= 0
        x[logic], y[logic] = grid.x[slots.of[logic] // SLOTS], grid.y[slots.of[logic] // SLOTS]
        self._sites = _site_table(problem, sites)
        x[problem.blocks] = self._sites.x[self._sites.of[problem.blocks]]
        y[problem.blocks] = self._sites.y[self._sites.of[problem.blocks]]
        self.x, self.y = x, y
        pins = np.where(np.isin(packed.kind, (Kind.LUT, Kind.FF)), np.diff(nets.first), 0).astype(float)
        cells = _Cells(x, y, packed.macro, packed.partner, packed.enable, packed.control, pins)
        box, cost = np.zeros((len(nets.weight), 4), np.int32), np.zeros(len(nets.weight))
        _measure_all(nets, x, y, box, cost)
        across = int(grid.x.max()) // _BIN + 1
        bins = across * (max(int(grid.y.max()), int(y.max(initial=0))) // _BIN + 1)
        tiles = np.bincount(grid.y // _BIN * across + grid.x // _BIN, minlength=bins)
        limit = np.maximum(tiles * problem.crowded, 1.0)
        used = np.bincount(y // _BIN * across + x // _BIN, weights=pins, minlength=bins).astype(float)
        most = 16 + 4 * max((len(members) for members in packed.macros), default=0)
        work = _Work(
            state=np.array([0x9E3779B97F4A7C15 * (2 * seed + 1) % 2**64], np.uint64),
            cell=np.zeros(2 * most, np.int32),
            to_x=np.zeros(2 * most, np.int32),
            to_y=np.zeros(2 * most, np.int32),
            old_x=np.zeros(count, np.int32),
            old_y=np.zeros(count, np.int32),
            cell_step=np.full(count, -1, np.int64),
            net_step=np.full(len(cost), -1, np.int64),
            net=np.zeros(len(cost), np.int32),
            box=np.zeros((len(cost), 4), np.int32),
            cost=np.zeros(len(cost)),
            source=np.zeros(most, np.int64),
            target=np.zeros(most, np.int64),
            luts=np.zeros(most, np.int32),
            flip_flops=np.zeros(most, np.int32),
            spot=np.zeros(2, np.int64),
        )
        macros = _macro_table(problem, root)
        self._state = _State(
            grid, nets, slots, cells, macros, self._sites, _Crowd(used, limit, across), box, cost, problem.lone, work
        )
        self._steps = 0

    @property
    def wire(self) -> int:
        """Half perimeters of all nets, in tiles."""
        box = self._state.box
        return int((box[:, 1] - box[:, 0] + box[:, 3] - box[:, 2]).sum())

    @property
    def sites(self) -> NDArray[np.int64]:
        """(blocks,) index of each block's site among those of its kind."""
        at = self._sites.of[self.problem.blocks]
        return np.asarray(at - self._sites.first[at])

    def run(self, schedule: Schedule, target: float, progress=None) -> float:
        """Anneals; `target` is the longest path to work towards, in ns. Returns the longest path by the estimate, in ns.

        `progress` is called with the steps done, all steps, wire and longest path.
        """
        units = max(self.problem.units, 1)
        macro_share = 1.5 * len(self.problem.packed.macros) / units
        site_share = 2 * len(self.problem.blocks) / units
        cooling = (schedule.last / schedule.first) ** (1 / schedule.steps)
        temperature, window = schedule.first, float(schedule.window)
        for step in range(schedule.steps):
            longest = self.timing.analyse(self.x, self.y, target)
            if progress:
                progress(step, schedule.steps, self.wire, longest)
            count = schedule.proposals * units
            taken = _anneal(self._state, self._critical(), self._steps, count, int(window), temperature, macro_share, site_share)
            self._steps += count
            # Lam's rate: a window in which 44 % of the moves are taken moves the most.
            window = min(max(window * (1 - 0.44 + taken), 2.0), float(schedule.window))
            temperature *= cooling
        return self.timing.analyse(self.x, self.y, target)

    def _critical(self) -> _Critical:
        edges = self.timing.edges
        weight = _CRITICAL * np.minimum(self.timing.share**_SHARPNESS, _MOST) * edges.wired
        heavy = np.flatnonzero(weight > 0.05)
        a = np.concatenate([edges.driver[heavy], edges.sink[heavy]])
        b = np.concatenate([edges.sink[heavy], edges.driver[heavy]])
        order = np.argsort(a, kind="stable")
        first = np.searchsorted(a[order], np.arange(len(self.x) + 1)).astype(np.int64)
        return _Critical(first, b[order].astype(np.int32), np.concatenate([weight[heavy]] * 2)[order])


def _site_table(problem: Problem, chosen: NDArray[np.int64]) -> _Sites:
    kinds = (Kind.MEMORY, Kind.MULTIPLIER)
    sites = [problem.sites(kind) for kind in kinds]
    bounds = np.cumsum([0, *(len(s) for s in sites)])
    of = np.full(len(problem.unit), -1, np.int32)
    for k, kind in enumerate(kinds):
        which = problem.packed.kind[problem.blocks] == kind
        of[problem.blocks[which]] = chosen[which] + bounds[k]
    holds = np.full(bounds[-1], -1, np.int32)
    holds[of[problem.blocks]] = problem.blocks
    flat = [site for s in sites for site in s]
    first, last = (np.repeat(ends, np.diff(bounds)) for ends in (bounds[:-1], bounds[1:]))
    return _Sites(np.array([s.x for s in flat], np.int32), np.array([s.y for s in flat], np.int32), holds, of, first, last)


def _macro_table(problem: Problem, root: NDArray[np.int64]) -> _Macros:
    macros = problem.packed.macros
    members = [member for macro in macros for member in macro]
    column, slot, cell = (np.array([getattr(m, name) for m in members], np.int32) for name in ("column", "slot", "cell"))
    shapes: dict[tuple[tuple[int, int], ...], int] = {}
    shape = [shapes.setdefault(tuple((m.column, m.slot) for m in macro), len(shapes)) for macro in macros]
    first = np.cumsum([0, *(len(macro) for macro in macros)]).astype(np.int64)
    return _Macros(first, column, slot, cell, root, np.array(shape, np.int32))
