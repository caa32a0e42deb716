"""Simulated annealing of a legal placement. See `state` for its cost, `moves` for what a step proposes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ..fabric import SLOTS
from ..netlist import Kind
from ..timing import TimingGraph
from .legal import Slots
from .moves import move_block, move_lone, move_macro, move_tile
from .problem import Problem
from .state import BIN, Cells, Congestion, Critical, Macros, Sites, State, Work, chance, measure_all

__all__ = ["Annealer", "Schedule"]

_TILE_SHARE = 0.05
"""Share of proposals that exchange whole logic tiles."""
_MACRO_WEIGHT, _BLOCK_WEIGHT = 1.5, 2.0
"""How often a placement macro, and a hard block, is proposed, a lone unit being about 1."""

_CRITICAL, _SHARPNESS, _MOST, _LEAST = 3.0, 8.0, 5.0, 0.05
"""Weight of a connection on a path that takes all of the target, the power of the path's share of it, the greatest factor, and the
weight below which time does not count. Found by trial on `ulx3s-85f`."""

_ACCEPTED = 0.44
"""Share of accepted moves at which annealing makes most progress (J. Lam, J.-M. Delosme, DAC 1988); the move range is set for
it."""
_LEAST_RANGE = 2.0

Report = Callable[[int, int, int, float], None]


class Schedule(NamedTuple):
    """Temperatures in tiles of wire; `proposals` for each unit and temperature; `move_range`, in tiles, is what it begins with."""

    first: float = 2.0
    last: float = 0.03
    steps: int = 60
    proposals: int = 30
    move_range: int = 10


@compiled
def _anneal(state, critical, begin, proposals, move_range, temperature, macro_share, block_share):
    """`proposals` moves numbered from `begin` on (int); `move_range` int, tiles; `temperature`, `macro_share`, `block_share`
    float64. Returns the share of lone units' moves that were accepted."""
    accepted, tried = 0, 0
    for step in range(begin, begin + proposals):
        choice = chance(state.work.state)
        if choice < block_share:
            move_block(state, critical, move_range, step, temperature)
        elif choice < block_share + macro_share:
            move_macro(state, critical, move_range, step, temperature)
        elif choice < block_share + macro_share + _TILE_SHARE:
            move_tile(state, critical, move_range, step, temperature)
        elif len(state.lone):
            done = move_lone(state, critical, move_range, step, temperature)
            tried += done >= 0
            accepted += done == 1
    return accepted / max(tried, 1)


class Annealer:
    """A placement that is legal, and improves.

    x, y : (cells,) int32, columns and rows of the device at any time
    slots : see `legal`
    """

    def __init__(
        self, problem: Problem, slots: Slots, root: NDArray[np.int64], sites: NDArray[np.int64], timing: TimingGraph, seed: int
    ):
        """`slots`, and `root` (macros,), the first tile of each placement macro, as from `legal`; `sites` (blocks,) index of each
        hard block's site among those of its kind."""
        packed, grid, nets = problem.packed, problem.grid, problem.nets
        self.problem, self.timing, self.slots = problem, timing, slots
        count = len(packed.names)
        self._sites = _site_table(problem, sites)
        self.x, self.y = x, y = _places(problem, slots, self._sites)
        pins = np.where(np.isin(packed.kind, (Kind.LUT, Kind.FF)), np.diff(nets.first), 0).astype(float)
        box, cost = np.zeros((len(nets.weight), 4), np.int32), np.zeros(len(nets.weight))
        measure_all(nets, x, y, box, cost)
        most = 2 * SLOTS + 4 * max((len(members) for members in packed.macros), default=0)
        self._state = State(
            grid,
            nets,
            slots,
            Cells(x, y, packed.macro, packed.partner, packed.enable, packed.control, pins),
            _macro_table(problem, root),
            self._sites,
            _congestion(problem, x, y, pins),
            box,
            cost,
            problem.lone,
            Work.of(count, len(cost), most, seed),
        )
        self._steps = 0

    @property
    def wire(self) -> int:
        """Half perimeters of all nets, in tiles."""
        box = self._state.box
        return int((box[:, 1] - box[:, 0] + box[:, 3] - box[:, 2]).sum())

    @property
    def sites(self) -> NDArray[np.int64]:
        """(blocks,) index of each hard block's site among those of its kind."""
        at = self._sites.of[self.problem.blocks]
        return np.asarray(at - self._sites.first[at])

    def run(self, schedule: Schedule, report: Report | None = None) -> float:
        """Anneals. Returns the longest path of all clocks by the estimate, in ns.

        `report` is called with the temperatures done, all temperatures, wire and the longest path.
        """
        units = max(self.problem.units, 1)
        macro_share = _MACRO_WEIGHT * len(self.problem.packed.macros) / units
        block_share = _BLOCK_WEIGHT * len(self.problem.blocks) / units
        cooling = (schedule.last / schedule.first) ** (1 / schedule.steps)
        temperature, move_range = schedule.first, float(schedule.move_range)
        for step in range(schedule.steps):
            longest = self.timing.analyse(self.x, self.y)
            if report:
                report(step, schedule.steps, self.wire, longest)
            count = schedule.proposals * units
            accepted = _anneal(
                self._state, self._critical(), self._steps, count, int(move_range), temperature, macro_share, block_share
            )
            self._steps += count
            move_range = min(max(move_range * (1 - _ACCEPTED + accepted), _LEAST_RANGE), float(schedule.move_range))
            temperature *= cooling
        return self.timing.analyse(self.x, self.y)

    def _critical(self) -> Critical:
        edges = self.timing.edges
        weight = _CRITICAL * np.minimum(self.timing.share**_SHARPNESS, _MOST) * edges.wired
        heavy = np.flatnonzero(weight > _LEAST)
        a = np.concatenate([edges.driver[heavy], edges.sink[heavy]])
        b = np.concatenate([edges.sink[heavy], edges.driver[heavy]])
        order = np.argsort(a, kind="stable")
        first = np.searchsorted(a[order], np.arange(len(self.x) + 1)).astype(np.int64)
        return Critical(first, b[order].astype(np.int32), np.concatenate([weight[heavy]] * 2)[order])


def _places(problem: Problem, slots: Slots, sites: Sites) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(cells,) columns and rows of the device."""
    grid, blocks = problem.grid, problem.blocks
    x, y = np.zeros(len(slots.of), np.int32), np.zeros(len(slots.of), np.int32)
    logic = slots.of >= 0
    x[logic], y[logic] = grid.x[slots.of[logic] // SLOTS], grid.y[slots.of[logic] // SLOTS]
    x[blocks], y[blocks] = sites.x[sites.of[blocks]], sites.y[sites.of[blocks]]
    return x, y


def _congestion(problem: Problem, x: NDArray[np.int32], y: NDArray[np.int32], pins: NDArray[np.float64]) -> Congestion:
    grid = problem.grid
    across = int(grid.x.max()) // BIN + 1
    squares = across * (max(int(grid.y.max()), int(y.max(initial=0))) // BIN + 1)
    tiles = np.bincount(grid.y // BIN * across + grid.x // BIN, minlength=squares)
    used = np.bincount(y // BIN * across + x // BIN, weights=pins, minlength=squares).astype(float)
    return Congestion(used, np.maximum(tiles * problem.pins_per_tile, 1.0), across)


def _site_table(problem: Problem, chosen: NDArray[np.int64]) -> Sites:
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
    return Sites(np.array([s.x for s in flat], np.int32), np.array([s.y for s in flat], np.int32), holds, of, first, last)


def _macro_table(problem: Problem, root: NDArray[np.int64]) -> Macros:
    macros = problem.packed.macros
    members = [member for macro in macros for member in macro]
    column, slot, cell = (np.array([getattr(m, name) for m in members], np.int32) for name in ("column", "slot", "cell"))
    shapes: dict[tuple[tuple[int, int], ...], int] = {}
    shape = [shapes.setdefault(tuple((m.column, m.slot) for m in macro), len(shapes)) for macro in macros]
    first = np.cumsum([0, *(len(macro) for macro in macros)]).astype(np.int64)
    return Macros(first, column, slot, cell, root, np.array(shape, np.int32))
