"""Global placement: where units would be for the least wire, and spread until they have room.

Wire is the half perimeter of each net's box, by the bound-to-bound model (P. Spindler et al., Kraftwerk2, TCAD 2008): solved,
spread, and solved again with an anchor at each unit's spread place, stronger every time (M.-C. Kim et al., SimPL, TCAD 2012)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .linear import conjugate_gradients, laplacian_of
from .problem import Problem

__all__ = ["Places", "Room", "Wires", "optimise", "spread"]

Places = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y, (units,) float64 each, in tiles of the grid."""

_ANCHOR = 0.1
"""Weight of an anchor after the first round; grows by as much with each."""

_REGULARISATION = 1e-6
"""Added to the diagonal where there are no anchors: units without a path to a fixed one would be undetermined."""

_TOLERANCE, _ROUNDS = 1e-3, 200
"""Of conjugate gradients."""

_UNANCHORED = 3
"""Times that the bound-to-bound model is solved in the first round: its weights depend on the places."""


@dataclass(frozen=True)
class Room:
    """What units take, and tiles have: LUTs and flip-flops.

    taken : 2 x (units,) float64; free : 2 x (rows, columns) float64
    """

    taken: Places
    free: Places


class Wires:
    """The nets of a problem, between its units."""

    def __init__(self, problem: Problem):
        nets, self.units = problem.nets, problem.units
        net = np.repeat(np.arange(len(nets.start) - 1), np.diff(nets.start))
        pairs = np.unique(net * self.units + problem.unit[nets.cell])
        self.net, self.unit = pairs // self.units, pairs % self.units
        self.size = np.bincount(self.net)
        self.start = np.concatenate([[0], np.cumsum(self.size)])
        self._squares = problem.laplacian

    def relaxed(self, fixed: Places) -> Places:
        """The places of least squared wire length of all units before the fixed ones."""
        free = self.units - len(fixed[0])
        matrix = (self._squares[:free, :free] + _REGULARISATION * sparse.identity(free)).tocsr()
        x, y = (_solve(matrix, -(self._squares[:free, free:] @ f), np.full(free, f.mean() if len(f) else 1.0)) for f in fixed)
        return x, y

    def length(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        """Half perimeters of all nets, units at `x`, `y` (units,)."""
        ends = (
            np.maximum.reduceat(v[self.unit], self.start[:-1]) - np.minimum.reduceat(v[self.unit], self.start[:-1]) for v in (x, y)
        )
        return float(sum(end.sum() for end in ends))

    def system(self, v: NDArray[np.float64], free: int) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
        """Matrix and right-hand side of one coordinate for the first `free` units, the others fixed at `v`."""
        at = v[self.unit]
        order = np.lexsort((at, self.net))
        first, last = order[self.start[:-1]], order[self.start[1:] - 1]
        inner = np.ones(len(at), bool)
        inner[first] = inner[last] = False
        net, unit = self.net[inner], self.unit[inner]
        low, high = self.unit[first], self.unit[last]
        a = np.concatenate([unit, unit, low])
        b = np.concatenate([low[net], high[net], high])
        weight = 1 / (self.size - 1)
        weight = np.concatenate([weight[net], weight[net], weight]) / np.maximum(np.abs(v[a] - v[b]), 1.0)
        laplacian = laplacian_of(a, b, weight, self.units)[:free]
        return laplacian[:, :free].tocsr(), -(laplacian[:, free:] @ v[free:])


def _solve(matrix: sparse.csr_matrix, right: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return conjugate_gradients(matrix, right, x, _TOLERANCE, _ROUNDS)


def optimise(
    wires: Wires, room: Room, places: Places, anchors: Places | None, fixed: Places, rounds: int, begin: int = 0
) -> tuple[Places, Places]:
    """`rounds` of solving and spreading, anchors as strong as from round `begin` on.

    `places`, and `anchors` if there are any: of the units that move; `fixed`: of the others, which come after them. Returns where
    the units would be, and where they have room."""
    free = len(places[0])
    at = [np.concatenate([p, f]) for p, f in zip(places, fixed, strict=True)]
    for k in range(begin, begin + rounds):
        for _ in range(1 if anchors else _UNANCHORED):
            for axis in range(2):
                matrix, right = wires.system(at[axis], free)
                now = at[axis][:free]
                if anchors:
                    pull = _ANCHOR * k / np.maximum(np.abs(now - anchors[axis]), 1.0)
                    matrix, right = (matrix + sparse.diags(pull)).tocsr(), right + pull * anchors[axis]
                else:
                    matrix = (matrix + _REGULARISATION * sparse.identity(free)).tocsr()
                at[axis][:free] = _solve(matrix, right, now)
        anchors = spread((at[0][:free], at[1][:free]), room)
    assert anchors is not None
    return (at[0][:free], at[1][:free]), anchors


def spread(places: Places, room: Room) -> Places:
    """Moves units apart until no region holds more than it has room for, in as far as there is any; order is kept.

    Regions are halved, the longer side first; where a half is overfull, the cut gives the excess to the other.
    """
    rows, columns = room.free[0].shape
    sums = [np.pad(free.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0))) for free in room.free]
    end = 1e-3
    at = (np.clip(places[0], 0, columns - end), np.clip(places[1], 0, rows - end))

    def halve(units, x0, x1, y0, y1):
        if not len(units) or (x1 - x0 <= 1 and y1 - y0 <= 1):
            return
        axis = 0 if x1 - x0 >= y1 - y0 else 1
        low, high = ((x0, x1), (y0, y1))[axis]
        middle = (low + high) // 2
        halves = ((x0, middle, y0, y1), (middle, x1, y0, y1)) if axis == 0 else ((x0, x1, y0, middle), (x0, x1, middle, y1))
        v = at[axis]
        units = units[np.argsort(v[units], kind="stable")]
        least, most = 0, len(units)
        for taken, total in zip(room.taken, sums, strict=True):
            filled = np.concatenate([[0.0], np.cumsum(taken[units])])  # by the first units, from none to all
            left, right = (total[d, b] - total[c, b] - total[d, a] + total[c, a] for a, b, c, d in halves)
            stretch = max(1.0, filled[-1] / max(left + right, 1e-9))
            most = min(most, int(np.searchsorted(filled, left * stretch + 1e-9, side="right")) - 1)
            least = max(least, int(np.searchsorted(filled, filled[-1] - right * stretch - 1e-9)))
        cut = int(np.clip(np.searchsorted(v[units], middle), min(least, most), max(least, most)))
        for part, a, b, half in ((units[:cut], low, middle, halves[0]), (units[cut:], middle, high, halves[1])):
            if len(part):
                first, last = v[part[0]], v[part[-1]]
                if first < a or last >= b:
                    v[part] = a + (v[part] - first) / (last - first) * (b - a - end) if last > first else np.clip(first, a, b - end)
                halve(part, *half)

    halve(np.arange(len(at[0])), 0, columns, 0, rows)
    return at
