"""Which site each block RAM and multiplier takes: first by how strongly they pull at one another, then by the wires they have.

Macros sit in a few rows far apart, so that the rest of a placement follows from where they are: a lane's accumulators half a
device away from its multiplier is what no later step repairs.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from ..netlist import Kind
from .problem import Problem, clique_edges, laplacian_of

__all__ = ["affinity", "arrange", "places_of", "reassign", "site_affinity"]

_PULL = 1e-3
"""Of every unit towards nowhere, so that units without a way to a macro are determined."""

_ROUNDS = 1000
"""Of conjugate gradients at most; large presets take a hundred."""

PROPOSALS = 1300
"""Exchanges tried for each macro. More lowers the sum further and the wires no more: macros then lie closer than their logic has room."""


def affinity(
    a: NDArray[np.int64], b: NDArray[np.int64], weight: NDArray[np.float64], units: int, free: int, tolerance: float = 1e-2
) -> NDArray[np.float64]:
    """How strongly the units from `free` on pull at one another through those before.

    Edges from `a` to `b`. Returns (units - free,) squared, symmetric, zero on the diagonal: with the free units at the places of
    least squared wire length, that length is the sum of affinity times squared distance (the Schur complement of the graph's
    Laplacian). Solved by conjugate gradients, to `tolerance` of the right-hand sides.
    """
    laplacian = laplacian_of(a, b, weight, units)
    inner = (laplacian[:free][:, :free] + _PULL * sparse.identity(free)).tocsr()
    outer = -laplacian[:free][:, free:].toarray()
    inverse = 1 / inner.diagonal()[:, None]
    x, residual = np.zeros_like(outer), outer.copy()
    direction = inverse * residual
    energy = (residual * direction).sum(axis=0)
    norm = np.linalg.norm(outer, axis=0) + 1e-30
    for _ in range(_ROUNDS):
        if (np.linalg.norm(residual, axis=0) <= tolerance * norm).all():
            break
        image = inner @ direction
        step = energy / np.maximum((direction * image).sum(axis=0), 1e-30)
        x += step * direction
        residual -= step * image
        scaled = inverse * residual
        before, energy = energy, (residual * scaled).sum(axis=0)
        direction = scaled + (energy / np.maximum(before, 1e-30)) * direction
    pull = outer.T @ x - laplacian[free:][:, free:].toarray()
    pull = np.maximum((pull + pull.T) / 2, 0)
    np.fill_diagonal(pull, 0)
    return np.asarray(pull)


def site_affinity(problem: Problem) -> NDArray[np.float64]:
    """`affinity` of the block RAMs and multipliers, in the order of `problem.blocks`."""
    return affinity(*clique_edges(problem), problem.units, problem.logic_units)


@njit(cache=True)
def _exchange(weight, first, last, x, y, site, movable, trials, seed):
    """Simulated annealing of |dx| + |dy| times `weight`, in place; places first[i] to last[i] - 1 are of the kind of i."""
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
    for _ in range(300):
        a = movable[np.random.randint(len(movable))]
        temperature += abs(change(a, first[a] + np.random.randint(last[a] - first[a]))) / 300
    cooling = 1e-4 ** (1 / trials)
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
    """Puts macros where affinity times distance adds up to little, by simulated annealing.

    `pull` (n, n) as of `affinity`; `kinds` (n,); `places[kind]` (sites, 2), the sites of a kind in tiles, at least as many as
    macros. Distance is |dx| + |dy|, as wires run. Returns each macro's index among its kind's sites.
    """
    random = np.random.default_rng(seed)
    # Sites that stay empty hold macros that nothing pulls at.
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
        _exchange(weight, first, last, x, y, site, real, PROPOSALS * len(real), seed)
    chosen = np.zeros(len(kinds), np.int64)
    chosen[owner[real]] = site[real]
    return chosen


def _by_kind(kinds, places):
    return [(np.flatnonzero(kinds == kind), sites) for kind, sites in places.items()]


@njit(cache=True)
def _wire(block, sites, first, of, start, unit_of_pin, x, y, cost):
    """cost[i, s]: what the boxes of the nets of unit block[i] grow by if it sits at site s."""
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
    """The sites of least wire, kind by kind, if nothing else moved: units at `x`, `y` (units,) in tiles of the grid."""
    nets, kinds = problem.nets, problem.packed.kind[problem.blocks]
    unit_of_pin = problem.unit[nets.cell]
    net_of_pin = np.repeat(np.arange(len(nets.start) - 1), np.diff(nets.start))
    pairs = np.unique(unit_of_pin * len(nets.start) + net_of_pin)
    first = np.searchsorted(pairs // len(nets.start), np.arange(problem.units + 1))
    chosen = np.zeros(len(kinds), np.int64)
    for who, sites in _by_kind(kinds, places):
        cost = np.zeros((len(who), len(sites)))
        _wire(problem.logic_units + who, sites, first, pairs % len(nets.start), nets.start, unit_of_pin, x, y, cost)
        rows, columns = linear_sum_assignment(cost)
        chosen[who[rows]] = columns
    return chosen


def places_of(problem: Problem) -> dict[int, NDArray[np.float64]]:
    """The sites of each kind of macro, in tiles of the grid."""
    return {int(kind): problem.grid.relative(problem.sites(kind)) for kind in (Kind.MEMORY, Kind.MULTIPLIER)}
