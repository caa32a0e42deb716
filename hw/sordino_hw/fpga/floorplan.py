"""Where the block RAMs and the multipliers go, before the placer sees the netlist.

An analytical placer begins with what is fixed; a design with hardly any pins gives it nothing, so it begins with all cells in
one point, and the order in which it pulls multipliers and memories apart is arbitrary: a lane's accumulators end up half
a device away from its multiplier. Macros sit in a few rows, so where they go is a small problem that can be solved well.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..errors import ToolError
from ..files import replacing
from .devices import Site

__all__ = ["affinity", "arrange", "floorplan", "write_floorplan"]

WIDEST = 40
"""Cells of a net from which on it says nothing about where they belong."""

_PULL = 1e-3
"""Of every cell towards nowhere, so that cells without a way to a macro are determined."""

_ROUNDS = 1000
"""Of conjugate gradients at most; large presets take a hundred."""

_PROPOSALS = 1300
"""Exchanges tried for each macro."""

Cells = Mapping[str, Mapping[str, Any]]


def _laplacian(cells: Sequence[Mapping[str, Any]]) -> sparse.csr_matrix:
    """Of the graph of cells, a net of k cells being a clique of edges 1 / (k - 1)."""
    nets: dict[int, set[int]] = {}
    for i, cell in enumerate(cells):
        for bits in cell["connections"].values():
            for bit in bits:
                if isinstance(bit, int):
                    nets.setdefault(bit, set()).add(i)
    ends: list[NDArray[np.int64]] = [np.empty((2, 0), np.int64)]
    weights: list[NDArray[np.float64]] = [np.empty(0)]
    for net in nets.values():
        if 2 <= len(net) < WIDEST:
            members = np.fromiter(net, np.int64)
            ends.append(members[np.stack(np.triu_indices(len(net), 1))])
            weights.append(np.full(ends[-1].shape[1], 1 / (len(net) - 1)))
    half = sparse.coo_matrix((np.concatenate(weights), np.concatenate(ends, axis=1)), (len(cells), len(cells))).tocsr()
    both = half + half.T
    return sparse.diags(np.asarray(both.sum(axis=1)).ravel()).tocsr() - both


def affinity(cells: Sequence[Mapping[str, Any]], macros: Sequence[int], tolerance: float = 1e-3) -> NDArray[np.float64]:
    """How strongly macros pull at one another through the cells between them.

    `cells` as in Yosys' JSON, `macros` the indices of some. Returns (macros, macros), symmetric, zero on the diagonal: with
    all other cells at the places of least squared wire length, that length is the sum of affinity times squared distance
    (the Schur complement of the graph's Laplacian). Solved by conjugate gradients, to `tolerance` of the right-hand sides.
    """
    laplacian = _laplacian(cells)
    rest = np.setdiff1d(np.arange(len(cells)), macros)
    inner = (laplacian[rest][:, rest] + _PULL * sparse.identity(len(rest))).tocsr()
    outer = -laplacian[rest][:, macros].toarray()
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
    pull = outer.T @ x - laplacian[macros][:, macros].toarray()
    pull = np.maximum((pull + pull.T) / 2, 0)
    np.fill_diagonal(pull, 0)
    return pull


def arrange(
    pull: NDArray[np.float64], kinds: Sequence[str], places: Mapping[str, NDArray[np.float64]], seed: int
) -> NDArray[np.int64]:
    """Puts macros where affinity times distance adds up to little, by simulated annealing.

    `pull` (n, n) as of `affinity`; `kinds[i]` of macro i; `places[kind]` (sites, 2), the sites of a kind in tiles, at least
    as many as macros. Distance is |dx| + |dy|, as wires run. Returns each macro's index among its kind's sites.
    """
    random = np.random.default_rng(seed)
    count = len(kinds)
    # Sites that stay empty hold macros that nothing pulls at.
    everything = np.array([*kinds, *(kind for kind, sites in places.items() for _ in range(len(sites) - list(kinds).count(kind)))])
    weight = np.zeros((len(everything), len(everything)))
    weight[:count, :count] = pull
    group = {kind: np.flatnonzero(everything == kind) for kind in places}
    where, site = np.zeros((len(everything), 2)), np.zeros(len(everything), np.int64)
    for kind, members in group.items():
        site[members] = random.permutation(len(members))
        where[members] = places[kind][site[members]]

    def change(a: int, b: int) -> float:
        """Of the sum, if a and b changed places."""
        difference = weight[a] - weight[b]
        difference[[a, b]] = 0
        return float(difference @ (np.abs(where - where[b]) - np.abs(where - where[a])).sum(axis=1))

    trials = _PROPOSALS * count
    first = random.integers(count, size=trials)
    share = random.random(trials)
    second = [group[everything[a]][int(u * len(group[everything[a]]))] for a, u in zip(first, share, strict=True)]
    temperature = float(np.mean([abs(change(a, b)) for a, b in zip(first[:300], second[:300], strict=True)]))
    cooling = 1e-4 ** (1 / trials)
    for a, b, chance in zip(first, second, random.random(trials), strict=True):
        delta = change(a, b)
        if delta < 0 or (chance * temperature > 0 and delta < -temperature * np.log(chance)):
            where[[a, b]], site[[a, b]] = where[[b, a]], site[[b, a]]
        temperature *= cooling
    return site[:count]


def floorplan(
    cells: Cells, sites: Mapping[str, Sequence[Site]], seed: int, pull: Callable[[list[int]], NDArray[np.float64]] | None = None
) -> dict[str, str]:
    """Names of macros -> the basic elements (bels) that they are to take.

    `cells` by name, as in Yosys' JSON; `sites` by cell type. `pull` gives the affinity of the macros with the numbers that it gets, if
    it is not to be computed. Empty if there is nothing to place, or more than there are sites: the placer says that better.
    """
    names = list(cells)
    macros = [i for i, name in enumerate(names) if cells[name]["type"] in sites]
    kinds = [cells[names[i]]["type"] for i in macros]
    if len(macros) < 2 or any(kinds.count(kind) > len(sites[kind]) for kind in sites):
        return {}
    strength = pull(macros) if pull else affinity(list(cells.values()), macros)
    places = {kind: np.array([(site.x, site.y) for site in kind_sites], float) for kind, kind_sites in sites.items()}
    chosen = arrange(strength, kinds, places, seed)
    return {names[i]: sites[kind][site].bel for i, kind, site in zip(macros, kinds, chosen, strict=True)}


def write_floorplan(netlist: Path, placed: Path, sites: Mapping[str, Sequence[Site]], seed: int) -> None:
    """Writes the netlist of Yosys' JSON `netlist`, with the macros at fixed places, to `placed`.

    The affinity, which is the netlist's and the same for every seed, is kept beside it.
    """
    kept = netlist.with_suffix(".affinity.npy")

    def pull(macros: list[int]) -> NDArray[np.float64]:
        if kept.exists() and kept.stat().st_mtime_ns >= netlist.stat().st_mtime_ns:
            known: NDArray[np.float64] = np.load(kept, allow_pickle=False)
            return known
        computed = affinity(list(cells.values()), macros)
        with replacing(kept, ToolError) as path, path.open("wb") as file:
            np.save(file, computed)
        return computed

    document = json.loads(netlist.read_text())
    for module in document["modules"].values():
        if int(module.get("attributes", {}).get("top", "0"), 2):
            cells = module["cells"]
            for name, bel in floorplan(cells, sites, seed, pull).items():
                cells[name].setdefault("attributes", {})["BEL"] = bel
    placed.write_text(json.dumps(document))
