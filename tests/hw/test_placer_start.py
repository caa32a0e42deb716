"""Where the placer begins: sites of block RAMs and multipliers, and logic spread between them."""

import itertools

import numpy as np
import pytest
from packed_netlists import Netlist, half_perimeter, nets_of, random_netlist, small_fabric
from scipy import sparse

from sordino_hw.ecp5_pnr.netlist import Kind
from sordino_hw.ecp5_pnr.placer.linear import conjugate_gradients, laplacian_of
from sordino_hw.ecp5_pnr.placer.problem import Problem
from sordino_hw.ecp5_pnr.placer.sites import _REGULARISATION, affinity, arrange, places_of, reassign, site_affinity
from sordino_hw.ecp5_pnr.placer.spread import Room, Wires, optimise, spread

FABRIC = small_fabric()

# Sites


def test_affinity_is_the_schur_complement(rng):
    """Against the whole Laplacian, solved densely: edges at random."""
    units, free = 30, 26
    a, b = (rng.integers(units, size=90) for _ in range(2))
    a, b = a[a != b], b[a != b]
    weight = rng.random(len(a))
    half = np.zeros((units, units))
    for i, j, w in zip(a, b, weight, strict=True):
        half[i, j] += w
        half[j, i] += w
    laplacian = np.diag(half.sum(axis=0)) - half
    inner, outer = laplacian[:free, :free] + _REGULARISATION * np.eye(free), laplacian[:free, free:]
    expected = outer.T @ np.linalg.solve(inner, outer) - laplacian[free:, free:]
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(affinity(laplacian_of(a, b, weight, units), free, 1e-9), expected, atol=1e-6)


def test_cliques(rng, tmp_path):
    """Each net of fewer than sixty cells is a clique of its units."""
    problem = Problem.of(random_netlist(rng, luts=150).packed(tmp_path), FABRIC)
    sizes = [len(members) for members in nets_of(problem)]
    assert max(sizes) >= 60, "there is a net that is too wide"
    expected = np.zeros((problem.units, problem.units))
    for members in nets_of(problem):
        for i, j in itertools.combinations(members, 2):
            if len(members) < 60 and problem.unit[i] != problem.unit[j]:
                expected[problem.unit[i], problem.unit[j]] += 1 / (len(members) - 1)
    both = expected + expected.T
    np.testing.assert_allclose(problem.laplacian.toarray(), np.diag(both.sum(axis=0)) - both, atol=1e-11)


def between(made: Netlist, a: int, names: list[str], count: int) -> None:
    """Block RAMs in a row, with `count` LUTs from each to the next."""
    for k, name in enumerate(names):
        out = made.net()
        made.block(name, "DP16KD", [a], [out])
        for i in range(count if k + 1 < len(names) else 0):
            out = made.lut(f"{name}_{i}", out)
        a = out


@pytest.mark.parametrize("count", [3, 5])
def test_a_chain_of_hard_blocks_lies_in_order(count, tmp_path):
    made = Netlist()
    between(made, made.clock, [f"memory_{k}" for k in range(count)], 3)
    problem = Problem.of(made.packed(tmp_path), FABRIC)
    columns = arrange(site_affinity(problem), problem.packed.kind[problem.blocks], places_of(problem), seed=1)
    steps = np.diff(columns)
    assert (steps > 0).all() or (steps < 0).all()
    site = problem.sites(Kind.MEMORY)
    length = abs(site[columns[-1]].x - site[columns[0]].x)
    shortest = min(site[k + count - 1].x - site[k].x for k in range(6 - count))
    assert length == shortest, "no longer than need be"


def test_hard_blocks_stay_on_sites_of_their_kind(rng):
    pull = rng.random((12, 12))
    kinds, places = np.array([2] * 7 + [3] * 5), {2: rng.random((10, 2)), 3: rng.random((5, 2))}
    chosen = arrange(pull + pull.T, kinds, places, seed=3)
    assert sorted(chosen[7:]) == list(range(5)) and len(set(chosen[:7])) == 7 and max(chosen[:7]) < 10
    np.testing.assert_array_equal(chosen, arrange(pull + pull.T, kinds, places, seed=3))


def test_arranging_pays(rng):
    """Two clusters that pull within themselves alone: none of their hard blocks is left among the others."""
    pull = np.kron(np.eye(2), np.ones((8, 8))) - np.eye(16)
    order = rng.permutation(16)
    places = {2: np.array([(x, 0.0) for x in range(16)])}
    chosen = arrange(pull[np.ix_(order, order)], np.full(16, 2), places, seed=2)
    assert {frozenset(chosen[order < 8]), frozenset(chosen[order >= 8])} == {frozenset(range(8)), frozenset(range(8, 16))}


def test_reassigning_finds_the_least_wire(rng, tmp_path):
    """Against every assignment of sites, each block's wire counted as if the others stayed."""
    problem = Problem.of(random_netlist(rng).packed(tmp_path), FABRIC)
    places, kinds = places_of(problem), problem.packed.kind[problem.blocks]
    x, y = rng.uniform(0, 12, problem.units), rng.uniform(0, 10, problem.units)
    nets = [{int(problem.unit[cell]) for cell in members} for members in nets_of(problem)]

    def wire(block: int, site: int) -> float:
        unit, at = problem.logic_units + block, [x.copy(), y.copy()]
        at[0][unit], at[1][unit] = places[int(kinds[block])][site]
        return sum(half_perimeter(net, *at) - half_perimeter(net - {unit}, *at) for net in nets if unit in net)

    chosen = reassign(problem, places, x, y)
    for kind in places:
        blocks = np.flatnonzero(kinds == kind)
        assert len(set(chosen[blocks])) == len(blocks) == 3
        sites = range(len(places[kind]))
        cost = {(block, site): wire(block, site) for block in blocks for site in sites}
        least = min(sum(map(cost.get, zip(blocks, order, strict=True))) for order in itertools.permutations(sites, len(blocks)))
        assert sum(cost[block, chosen[block]] for block in blocks) == pytest.approx(least, rel=1e-12)


# Spreading


def tiles_of(x, y) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(y).astype(int), np.floor(x).astype(int)


def test_spreading_leaves_no_tile_overfull(rng):
    """Whole units in whole tiles: nothing is over where there is room, and nothing lies where there is none."""
    free = rng.integers(0, 9, (7, 13)).astype(float)
    count = int(0.9 * free.sum())
    nothing = np.zeros(count)
    x, y = np.clip(rng.normal(5, 1, count), 0, 13), np.clip(rng.normal(3, 0.3, count), 0, 7)
    at = spread((x, y), Room((np.ones(count), nothing), (free, np.ones_like(free))))
    held = np.zeros_like(free)
    np.add.at(held, tiles_of(*at), 1)
    assert (held <= free).all() and held.sum() == count


def test_spreading_units_of_any_size(rng):
    """A cut through units is off by less than one of them, of which a half passes on at most half: twice the largest in all."""
    count = 400
    taken, free = rng.uniform(0.2, 3, count), np.full((8, 16), 8.0)
    assert taken.sum() < 0.9 * free.sum()
    x, y = rng.uniform(4, 7, count), rng.uniform(2, 4, count)
    at = spread((x, y), Room((taken, np.zeros(count)), (free, free)))
    held = np.zeros_like(free)
    np.add.at(held, tiles_of(*at), taken)
    assert held.max() <= 8 + 2 * 3
    assert np.abs(held.sum(axis=1) - 8 * 16).max() < 8 * 16, "no row is twice as full as it can be"


def test_spreading_keeps_the_order(rng):
    count = 90
    x = rng.normal(6, 0.5, count)
    room = Room((np.ones(count), np.ones(count)), (np.full((1, 12), 8.0), np.full((1, 12), 8.0)))
    after, _ = spread((x, np.zeros(count)), room)
    assert (np.diff(after[np.argsort(x)]) >= 0).all() and np.bincount(after.astype(int)).max() <= 8
    assert after.max() < 12 and after.min() >= 0


def test_what_has_room_stays(rng):
    x, y = np.arange(12) + rng.uniform(0, 0.998, 12), rng.uniform(0, 0.998, 12)  # places keep 0.001 from the device's edge
    tiles = np.full((1, 12), 1.0)
    at = spread((x, y), Room((np.ones(12), np.ones(12)), (tiles, tiles)))
    np.testing.assert_array_equal(at, (x, y))


def test_wire_is_half_the_perimeter(rng, tmp_path):
    problem = Problem.of(random_netlist(rng).packed(tmp_path), FABRIC)
    x, y = rng.uniform(0, 12, problem.units), rng.uniform(0, 10, problem.units)
    nets = [problem.unit[members] for members in nets_of(problem)]
    assert Wires(problem).length(x, y) == pytest.approx(sum(half_perimeter(net, x, y) for net in nets), rel=1e-12)


def test_bound_to_bound_is_the_wire_at_the_given_places(rng, tmp_path):
    """The squares, weighted as they are, add up to the length of the nets; and what is fixed goes to the right-hand side."""
    problem = Problem.of(random_netlist(rng).packed(tmp_path), FABRIC)
    wires, units = Wires(problem), problem.units
    v = rng.permutation(2 * units)[:units].astype(float)
    matrix, right = wires.system(v, units)
    assert v @ (matrix @ v) == pytest.approx(wires.length(v, np.zeros(units)), rel=1e-12) and not right.any()
    np.testing.assert_allclose((matrix - matrix.T).toarray(), 0, atol=1e-15)
    free = problem.logic_units
    part, right = wires.system(v, free)
    np.testing.assert_allclose(part @ v[:free] - right, (matrix @ v)[:free], atol=1e-9)


@pytest.mark.parametrize("columns", [None, 3])
def test_conjugate_gradients(columns, rng):
    """Of one right-hand side, or several at once: to a thousandth of each. One that is zero stays zero."""
    half = rng.random((40, 40))
    matrix = sparse.csr_matrix(half @ half.T + np.eye(40))
    right = rng.normal(size=40 if columns is None else (40, columns))
    if columns:
        right[:, 1] = 0
    x = conjugate_gradients(matrix, right, np.zeros_like(right), 1e-3, 200)
    assert (np.linalg.norm(matrix @ x - right, axis=0) <= 1.01e-3 * np.linalg.norm(right, axis=0) + 1e-12).all()
    assert not columns or not x[:, 1].any()
    assert np.linalg.norm(conjugate_gradients(matrix, right, x, 1e-3, 0) - x) == 0, "no rounds, no change"


def test_units_between_fixed_ones(tmp_path):
    """A chain of LUTs from one block RAM to another: as long as they are apart, and spread as the tiles have room."""
    made = Netlist()
    between(made, made.clock, ["left", "right"], 30)
    problem = Problem.of(made.packed(tmp_path), FABRIC)
    wires, count = Wires(problem), problem.logic_units
    middle, ends = (np.full(count, 6.0), np.full(count, 5.0)), (np.array([0.5, 11.5]), np.array([5.0, 5.0]))
    tiles = np.full((10, 12), 4.0)
    free, anchors = optimise(wires, Room((np.ones(count), np.zeros(count)), (tiles, tiles)), middle, None, ends, 10)
    assert wires.length(*(np.concatenate([f, e]) for f, e in zip(free, ends, strict=True))) < 1.05 * 11
    held = np.zeros_like(tiles)
    np.add.at(held, tiles_of(*anchors), 1)
    assert held.max() <= 5 and held.sum() == count == 30
