"""Sites of the hard blocks: first by affinity, how strongly they pull at one another through the logic between them, then by the
wires they have.

Hard blocks sit in a few rows far apart, so that the rest of a placement follows from where they are. A lane's accumulators half a
device away from its multiplier are what no later step repairs."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from ...compiled import compiled
from ..netlist import Kind
from .linear import conjugate_gradients
from .problem import Problem

__all__ = ["affinity", "arrange", "places_of", "reassign", "site_affinity"]

_REGULARISATION = 1e-3
"""Added to the diagonal of the Laplacian, which makes it non-singular: units without a path to a hard block would be
undetermined."""

_ROUNDS = 1000
"""Of conjugate gradients at most; large presets take a hundred."""

_PROPOSALS = 1300
"""Exchanges tried for each hard block. More lowers the sum further and the wires no more: hard blocks then lie closer than their
logic has room."""

_SAMPLES, _COLDEST = 300, 1e-4
"""Annealing of the sites begins at the mean change of so many exchanges, and ends at this part of it."""


def affinity(laplacian: sparse.csr_matrix, free: int, tolerance: float = 1e-2) -> NDArray[np.float64]:
    """How strongly the units from `free` on pull at one another through those before; `laplacian` (units, units), of the nets
    between all.

    Returns (units - free, units - free), symmetric, zero on the diagonal: with the free units at the places of least squared wire
    length, that length is the sum of affinity times squared distance (the Schur complement of the Laplacian). Solved to `tolerance`
    of the right-hand sides."""
    inner = (laplacian[:free][:, :free] + _REGULARISATION * sparse.identity(free)).tocsr()
    outer = -laplacian[:free][:, free:].toarray()
    x = conjugate_gradients(inner, outer, np.zeros_like(outer), tolerance, _ROUNDS)
    pull = outer.T @ x - laplacian[free:][:, free:].toarray()
    pull = np.maximum((pull + pull.T) / 2, 0)
    np.fill_diagonal(pull, 0)
    return np.asarray(pull)


def site_affinity(problem: Problem) -> NDArray[np.float64]:
    """`affinity` of the hard blocks, in the order of `problem.blocks`."""
    return affinity(problem.laplacian, problem.logic_units)


@compiled
def _exchange(weight, first, last, x, y, site, movable, trials, seed):
    """Simulated annealing of |dx| + |dy| times `weight` (n, n) float64, in place: exchanges entries of `x`, `y` (n,) float64 and
    `site` (n,) int64. Entries first[i] to last[i] - 1 (n,) int64 are of the kind of i; one of `movable` (m,) int64 takes part in
    each of `trials` (int) exchanges."""
    np.random.seed(seed)
    count = len(x)

    def change(a, b):
        total = 0.0
        for j in range(count):
            if j != a and j != b:
                other = abs(x[j] - x[b]) + abs(y[j] - y[b]) - abs(x[j] - x[a]) - abs(y[j] - y[a])
                total += (weight[a, j] - weight[b, j]) * other
        return total

    temperature = 0.0
    for _ in range(_SAMPLES):
        a = movable[np.random.randint(len(movable))]
        temperature += abs(change(a, first[a] + np.random.randint(last[a] - first[a]))) / _SAMPLES
    cooling = _COLDEST ** (1 / trials)
    for _ in range(trials):
        a = movable[np.random.randint(len(movable))]
        b = first[a] + np.random.randint(last[a] - first[a])
        if a == b:
            continue
        delta = change(a, b)
        if delta < 0 or np.random.random() < np.exp(-delta / temperature):
            x[a], x[b] = x[b], x[a]
            y[a], y[b] = y[b], y[a]
            site[a], site[b] = site[b], site[a]
        temperature *= cooling


def arrange(
    pull: NDArray[np.float64], kinds: NDArray[np.int64], places: dict[int, NDArray[np.float64]], seed: int
) -> NDArray[np.int64]:
    """Puts hard blocks where affinity times distance adds up to little, by simulated annealing.

    `pull` (n, n) as of `affinity`; `kinds` (n,) int64; `places[kind]` (sites, 2) float64, the sites of a kind in tiles, at least as
    many as hard blocks. Distance is |dx| + |dy|, as wires run. Returns (n,) int64, each one's index among its kind's sites."""
    random = np.random.default_rng(seed)
    # Sites that stay empty hold blocks that nothing pulls at.
    owner = np.concatenate([np.pad(who, (0, len(sites) - len(who)), constant_values=-1) for who, sites in _by_kind(kinds, places)])
    weight = np.zeros((len(owner), len(owner)))
    real = np.flatnonzero(owner >= 0)
    weight[np.ix_(real, real)] = pull[np.ix_(owner[real], owner[real])]
    bounds = np.cumsum([0, *(len(sites) for sites in places.values())])
    first, last = (np.repeat(ends, np.diff(bounds)) for ends in (bounds[:-1], bounds[1:]))
    site = np.concatenate([random.permutation(len(sites)) for sites in places.values()])
    where = np.concatenate([sites[site[a:b]] for sites, a, b in zip(places.values(), bounds[:-1], bounds[1:], strict=True)])
    x, y = where.T.copy()
    if len(real) > 1:
        _exchange(weight, first, last, x, y, site, real, _PROPOSALS * len(real), seed)
    chosen = np.zeros(len(kinds), np.int64)
    chosen[owner[real]] = site[real]
    return chosen


def _by_kind(
    kinds: NDArray[np.int64], places: dict[int, NDArray[np.float64]]
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Of each kind: which of `kinds` are of it, and its sites."""
    return [(np.flatnonzero(kinds == kind), sites) for kind, sites in places.items()]


@compiled
def _wire(block, sites, first, of, start, unit_of_pin, x, y, cost):
    """Adds to `cost` (n, sites) float64 what the half perimeters of the nets of unit block[i] (n,) int64 grow by if it sits at
    sites[s] (sites, 2) float64.
    Nets of a unit are of[first[u] : first[u + 1]], units of a net unit_of_pin[start[net] : start[net + 1]], all int64; units are at
        `x`, `y` (units,)."""
    for i in range(len(block)):
        for j in range(first[block[i]], first[block[i] + 1]):
            net = of[j]
            x0, x1, y0, y1 = np.inf, -np.inf, np.inf, -np.inf
            for pin in range(start[net], start[net + 1]):
                u = unit_of_pin[pin]
                if u != block[i]:
                    x0, x1, y0, y1 = min(x0, x[u]), max(x1, x[u]), min(y0, y[u]), max(y1, y[u])
            for s in range(len(sites)):
                sx, sy = sites[s, 0], sites[s, 1]
                cost[i, s] += max(0.0, x0 - sx) + max(0.0, sx - x1) + max(0.0, y0 - sy) + max(0.0, sy - y1)


def reassign(
    problem: Problem, places: dict[int, NDArray[np.float64]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The sites of least wire, kind by kind, if nothing else moved (a linear assignment): units at `x`, `y` (units,) in tiles of
    the grid. Returns (blocks,) int64, the index of each hard block's site among those of its kind."""
    kinds = problem.packed.kind[problem.blocks].astype(np.int64)
    start, unit_of_pin = problem.nets.start, problem.unit[problem.nets.cell]
    first, of = problem.nets_of_units
    chosen = np.zeros(len(kinds), np.int64)
    for who, sites in _by_kind(kinds, places):
        cost = np.zeros((len(who), len(sites)))
        _wire(problem.logic_units + who, sites, first, of, start, unit_of_pin, x, y, cost)
        rows, columns = linear_sum_assignment(cost)
        chosen[who[rows]] = columns
    return chosen


def places_of(problem: Problem) -> dict[int, NDArray[np.float64]]:
    """Kind of hard block -> (sites, 2), in tiles of the grid."""
    return {int(kind): problem.grid.relative(problem.sites(kind)) for kind in (Kind.MEMORY, Kind.MULTIPLIER)}
