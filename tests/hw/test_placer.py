"""The placer of the ECP5: units, legal slots, annealing, timing, and all of it together."""

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from packed_netlists import (
    SETUP,
    STARTS,
    Netlist,
    faults,
    half_perimeter,
    hops_of,
    nets_of,
    random_netlist,
    small_fabric,
    timing,
)

from sordino_hw.ecp5_pnr.chip import Chip
from sordino_hw.ecp5_pnr.databases import chip_database
from sordino_hw.ecp5_pnr.fabric import SLOTS, Fabric
from sordino_hw.ecp5_pnr.netlist import Kind, Packed, Pin
from sordino_hw.ecp5_pnr.placer import Schedule, place
from sordino_hw.ecp5_pnr.placer.anneal import Annealer
from sordino_hw.ecp5_pnr.placer.legal import Slots, place_lone, place_macros
from sordino_hw.ecp5_pnr.placer.problem import Grid, Problem, crossing
from sordino_hw.ecp5_pnr.timing import wire_delay
from sordino_hw.fpga import DEVICES
from sordino_hw.fpga.tools import run
from sordino_hw.spec.errors import ToolError

FABRIC = small_fabric()
SHORT = Schedule(steps=8, proposals=8)


def test_units_and_nets(rng, tmp_path):
    """A pair, a macro with its flip-flops and writer, and a block are a unit each; cells and nets know one another."""
    problem = Problem.of(random_netlist(rng).packed(tmp_path), FABRIC)
    packed, nets = problem.packed, problem.nets
    together = defaultdict(set)
    for cell, unit in enumerate(problem.unit):
        together[unit].add(packed.names[cell])
    assert together.pop(-1) == {"clk$tr_io", "$gbuf$clk"}
    expected = defaultdict(set)
    for name in packed.names:
        if not name.startswith(("clk$", "$gbuf$")):
            pattern = r"_ff$" if name.startswith("pair") else r"_ff\d+$|\$.*"
            expected[re.sub(pattern, "", name) if name.startswith(("pair", "chain", "ram")) else name].add(name)
    assert sorted(map(sorted, together.values())) == sorted(map(sorted, expected.values()))
    assert len(together) == problem.units and sorted(together) == list(range(problem.units))
    listed = [sorted(nets.cell[a:b]) for a, b in itertools.pairwise(nets.start)]
    assert listed == nets_of(problem)
    for cell in range(len(packed.names)):
        of = nets.of[nets.first[cell] : nets.first[cell + 1]]
        assert sorted(of) == [n for n, members in enumerate(listed) if cell in members]
    np.testing.assert_array_equal(nets.weight, [crossing(len(members)) for members in listed])


def test_grid():
    """Rows of logic are counted, those of macros left out: a site lies half a row between its neighbours."""
    grid = Grid.of(FABRIC)
    assert list(zip(grid.x, grid.y, strict=True)) == [(x, y) for y in FABRIC.rows for x in FABRIC.columns]
    for y in range(15):
        assert abs(FABRIC.rows[grid.row_of[y]] - y) == min(abs(row - y) for row in FABRIC.rows)
    expected = [(x - 2 + 0.5, 3.0) for x in (3, 5, 8, 10, 12)]
    np.testing.assert_allclose(grid.relative(FABRIC.sites["DP16KD"]), expected)


@pytest.mark.parametrize(
    "made, message",
    [
        ({"luts": 961, "pairs": 0, "rams": 0, "chains": ()}, "962 LUTs of the device's 960"),
        ({"singles": 950, "pairs": 11, "chains": ()}, "961 flip-flops of the device's 960"),
        ({"memories": 6}, "6 block RAMs of the device's 5"),
        ({"multipliers": 5}, "5 multipliers of the device's 4"),
    ],
)
def test_a_device_that_is_too_small(made, message, rng, tmp_path):
    with pytest.raises(ToolError, match=rf"^the design takes {message}: take a smaller architecture\.$"):
        packed = random_netlist(rng, **made).packed(tmp_path)
        place(packed, FABRIC, timing(packed), 1)


# Legal slots, and annealing


@pytest.fixture(
    params=[
        {},
        {"chains": (), "rams": 0, "products": 1},
        {"memories": 0, "multipliers": 0},
        {"singles": 330, "luts": 500, "pairs": 150},
    ]
)
def made(request, rng) -> Netlist:
    """Random netlists: of everything, without macros, without blocks, and with hardly a free slot left."""
    return random_netlist(rng, **request.param)


def settled(problem: Problem, rng) -> tuple[Slots, np.ndarray, np.ndarray]:
    """Legal places about random ones: slots, first tiles of macros, sites of blocks."""
    slots, lone = Slots.empty(problem), len(problem.lone)
    x, y = rng.uniform(0, 12, problem.logic_units), rng.uniform(0, 10, problem.logic_units)
    root = place_macros(problem, slots, x[lone:], y[lone:])
    place_lone(problem, slots, x[:lone], y[:lone])
    sites = np.zeros(len(problem.blocks), np.int64)
    for kind in (Kind.MEMORY, Kind.MULTIPLIER):
        which = problem.packed.kind[problem.blocks] == kind
        sites[which] = rng.permutation(len(problem.sites(kind)))[: which.sum()]
    return slots, root, sites


def is_legal(made: Netlist, problem: Problem, slots: Slots, sites) -> None:
    names, grid = problem.packed.names, problem.grid
    at = {names[c]: (int(grid.x[s // SLOTS]), int(grid.y[s // SLOTS]), int(s % SLOTS)) for c, s in enumerate(slots.of) if s >= 0}
    kinds = problem.packed.kind[problem.blocks]
    blocks = {names[c]: problem.sites(Kind(k))[s].bel for c, k, s in zip(problem.blocks, kinds, sites, strict=True)}
    assert not faults(made.document, at, blocks, FABRIC)
    for held, kind in ((slots.lut, Kind.LUT), (slots.flip_flop, Kind.FF)):
        cells = np.flatnonzero(problem.packed.kind == kind)
        expected = np.full(len(held), -1)
        expected[slots.of[cells]] = cells
        np.testing.assert_array_equal(held, expected)


def test_slots_are_legal(made, rng, tmp_path):
    problem = Problem.of(made.packed(tmp_path), FABRIC)
    slots, root, sites = settled(problem, rng)
    is_legal(made, problem, slots, sites)
    for members, tile in zip(problem.packed.macros, root, strict=True):
        assert slots.of[members[0].cell] == tile * SLOTS


def test_a_unit_with_room_is_where_it_was_wanted(rng, tmp_path):
    made = Netlist()
    state = made.ff("state", made.clock)
    for k in range(100):
        made.lut(f"lut_{k}", state)
    problem = Problem.of(made.packed(tmp_path), FABRIC)
    slots, tiles = Slots.empty(problem), rng.permutation(len(problem.grid.x))[: len(problem.lone)]
    place_lone(problem, slots, tiles % 12 + 0.5, tiles // 12 + 0.5)
    np.testing.assert_array_equal(slots.of[problem.lone] // SLOTS, tiles)


def test_no_room_for_a_macro(tmp_path):
    """A row has twelve tiles, and the chain thirteen."""
    made = Netlist()
    made.chain("sum", [(made.clock, made.clock)] * 98)
    problem = Problem.of(made.packed(tmp_path), FABRIC)
    message = r"^No room is left for sum\$CCU2_COMB0 and the 97 LUTs that must be beside it: take a smaller architecture\.$"
    with pytest.raises(ToolError, match=message):
        place_macros(problem, Slots.empty(problem), np.full(1, 6.0), np.full(1, 5.0))


def test_too_many_control_sets(tmp_path):
    """One to a tile: the 121st finds none."""
    made = Netlist()
    state = made.ff("state", made.clock)
    for k in range(120):
        made.ff(f"single_{k}", state, lsr=made.lut(f"reset_{k}", state))
    with pytest.raises(ToolError, match=r"^No slot is left for \w+: the device is too full for so many control sets\.$"):
        packed = made.packed(tmp_path)
        place(packed, FABRIC, timing(packed), 1, SHORT)


def agrees(annealer: Annealer) -> None:
    """What is kept up step by step equals what follows from the slots and sites."""
    problem, slots, state = annealer.problem, annealer.slots, annealer._state
    packed, grid = problem.packed, problem.grid
    x, y = np.zeros_like(annealer.x), np.zeros_like(annealer.y)
    for cell, slot in enumerate(slots.of):
        if slot >= 0:
            x[cell], y[cell] = grid.x[slot // SLOTS], grid.y[slot // SLOTS]
    for cell, site in zip(problem.blocks, annealer.sites, strict=True):
        where = problem.sites(Kind(packed.kind[cell]))[site]
        x[cell], y[cell] = where.x, where.y
    np.testing.assert_array_equal(annealer.x, x)
    np.testing.assert_array_equal(annealer.y, y)
    nets = nets_of(problem)
    boxes = [(min(x[n]), max(x[n]), min(y[n]), max(y[n])) for n in nets]
    np.testing.assert_array_equal(state.box, np.reshape(boxes, (-1, 4)))
    lengths = [half_perimeter(n, x, y) for n in nets]
    np.testing.assert_array_equal(state.cost, [crossing(len(n)) * w for n, w in zip(nets, lengths, strict=True)])
    assert annealer.wire == sum(lengths)
    used = np.zeros_like(state.congestion.used)
    for cell in np.flatnonzero(np.isin(packed.kind, (Kind.LUT, Kind.FF))):
        used[y[cell] // 4 * state.congestion.across + x[cell] // 4] += sum(cell in net for net in nets)
    np.testing.assert_array_equal(state.congestion.used, used)
    for number, members in enumerate(packed.macros):
        assert [slots.of[m.cell] for m in members] == [(state.macros.root[number] + m.column) * SLOTS + m.slot for m in members]
    held = np.full(len(state.sites.holds), -1)
    held[state.sites.of[problem.blocks]] = problem.blocks
    np.testing.assert_array_equal(state.sites.holds, held)


def test_annealing_stays_legal_and_pays(made, rng, tmp_path):
    problem = Problem.of(made.packed(tmp_path), FABRIC)
    slots, root, sites = settled(problem, rng)
    annealer = Annealer(problem, slots, root, sites, timing(problem.packed), 5)
    agrees(annealer)
    before, where = annealer.wire, annealer.x.copy()
    steps = []
    longest = annealer.run(SHORT, lambda *report: steps.append(report))
    is_legal(made, problem, slots, annealer.sites)
    agrees(annealer)
    assert annealer.wire < 0.8 * before
    assert [step[:2] for step in steps] == [(k, 8) for k in range(8)] and steps[0][2] == before
    assert longest == timing(problem.packed).analyse(annealer.x, annealer.y) < steps[0][3]
    for group in (problem.lone, [m[0].cell for m in problem.packed.macros], problem.blocks):
        assert not len(group) or (annealer.x[group] != where[group]).any(), "units of every sort move"


@pytest.mark.parametrize(
    "parts", [{"luts": 0, "pairs": 0, "singles": 0, "rams": 0}, {"luts": 0, "pairs": 0, "singles": 0, "chains": (), "memories": 0}]
)
def test_netlists_of_few_sorts(parts, rng, tmp_path):
    """Hardly a lone unit beside chains, or beside RAMs and multipliers."""
    made = random_netlist(rng, **parts)
    packed = made.packed(tmp_path)
    placed = place(packed, FABRIC, timing(packed), 1, SHORT)
    check(made, placed.bels, packed.names)


# Timing


def paths_of(packed: Packed, hops: dict[int, list[tuple]]) -> Iterator[tuple[float, tuple]]:
    """All paths from register to register, one after the other: ns, and what they go through."""
    todo = []
    for k, net in enumerate(packed.nets):
        kind = Kind(packed.kind[net.driver.cell])
        if kind in STARTS and packed.mode[net.driver.cell] != "NONE":
            todo.append((k, STARTS[kind], ()))
    while todo:
        net, time, path = todo.pop()
        for hop in hops[net]:
            ends, whole = time + hop[3], (*path, (net, *hop[:3]))
            if hop[0] >= 0:
                todo.append((hop[0], ends, whole))
            else:
                yield ends, whole


def few(rng) -> Netlist:
    """A netlist with few enough paths to follow them all, and a memory and a multiplier with every sort of port."""
    parts = {"luts": 10, "pairs": 4, "singles": 6, "chains": (4, 2), "rams": 2, "memories": 1, "multipliers": 1, "products": 1}
    made = random_netlist(rng, **parts)
    outs = [cell["connections"]["Q"][0] for cell in made.cells.values() if cell["type"] == "TRELLIS_FF"]
    memory = ("ADB12", "DIA17", "DIB0", "CEA", "CEB", "OCEA", "OCEB", "RSTA", "RSTB", "WEA", "WEB", "CSA1", "CSB2")
    for name, ports in (("block_0", memory), ("block_1", ("A17", "B3", "CE0", "RST0")), ("product_0", ("B0",))):
        made.connect(name, **dict(zip(ports, rng.choice(outs, len(ports)).tolist(), strict=True)))
    made.connect("block_0", ADA7=made.cells["product_0"]["connections"]["P0"][0])
    return made


@pytest.mark.parametrize("routed", [False, True])
def test_timing_is_that_of_the_longest_path(routed, rng, tmp_path):
    """Against all paths from register to register, wires by the distance of cells or as they were routed."""
    packed = few(rng).packed(tmp_path)
    x, y = (rng.integers(0, 12, len(packed.names)).astype(np.int32) for _ in range(2))
    delay = rng.uniform(0.2, 3.0, sum(len(net.users) for net in packed.nets))

    def wire(connection: int, driver: Pin, user: Pin) -> float:
        if routed:
            return delay[connection]
        a, b = packed.home[driver.cell], packed.home[user.cell]
        inside = driver.port == "FCO" or user.port == "DI" or packed.kind[driver.cell] == Kind.WRITER
        return 0.0 if inside else wire_delay(x[a] - x[b], y[a] - y[b])

    longest, through, count = 0.0, defaultdict(float), 0
    for ends, path in paths_of(packed, hops_of(packed, wire)):
        count, longest = count + 1, max(longest, ends)
        for edge in path:
            through[edge] = max(through[edge], ends)
    graph = timing(packed, 7.0)
    assert count > 100
    assert (graph.analyse_routed(delay) if routed else graph.analyse(x, y)) == pytest.approx(longest, abs=1e-9)
    edges, got = graph.edges, defaultdict(float)
    for e in range(len(edges.source)):
        key = int(edges.source[e]), int(edges.to[e]), int(edges.sink[e]), float(edges.logic[e])
        got[key] = max(got[key], graph.share[e])
    assert {edge for edge, share in got.items() if share} == set(through)
    assert {edge: got[edge] for edge in through} == pytest.approx({edge: t / 7.0 for edge, t in through.items()}, abs=1e-9)
    kinds = {(Kind(packed.kind[packed.nets[e[0]].driver.cell]), packed.nets[e[0]].driver.port) for e in through}
    assert {Kind.FF, Kind.MEMORY, Kind.MULTIPLIER, Kind.WRITER} < {kind for kind, _ in kinds} and (Kind.LUT, "FCO") in kinds
    setups = {edge[3] for edge in through if edge[0] >= 0 and edge[1] < 0}
    assert setups == {late for ports in SETUP.values() for late in ports.values()} | {0.0, 0.392}, "every sort of port"
    assert any(edge[3] == 3.927 for edge in through)


def test_a_loop_of_logic_is_refused(tmp_path):
    made = Netlist()
    back = made.net()
    out = made.lut("left", made.ff("state", made.clock), back)
    made.lut("right", out)
    made.connect("right", F=back)
    packed = made.packed(tmp_path)
    with pytest.raises(ToolError, match=r"^the netlist has a loop of logic without a register: the placer cannot time it\.$"):
        timing(packed)


# All of it


def check(made: Netlist, bels: dict[int, str], names: tuple[str, ...]) -> None:
    """Every cell that is not fixed has a bel of its own, by nextpnr's names, and all of them are legal."""
    at, blocks = {}, {}
    assert len(set(bels.values())) == len(bels)
    for cell, bel in bels.items():
        name, kind = names[cell], made.cells[names[cell]]["type"]
        if kind in ("DP16KD", "MULT18X18D"):
            blocks[name] = bel
            continue
        part = {
            "TRELLIS_COMB": r"SLICE([A-D])\.K([01])",
            "TRELLIS_FF": r"SLICE([A-D])\.FF([01])",
            "TRELLIS_RAMW": r"SLICE(C)\.(R)AMW",
        }
        x, y, slice_, half = re.fullmatch(rf"X(\d+)/Y(\d+)/{part[kind]}", bel).groups()
        at[name] = (int(x), int(y), 2 * "ABCD".index(slice_) + int(half.replace("R", "0")))
    writers = [name for name in at if name.endswith("$RAMW_SLICE")]
    for name in writers:
        assert at.pop(name)[:2] == at[name.replace("$RAMW_SLICE", "$DPRAM_COMB0")][:2]
    assert not faults(made.document, at, blocks, FABRIC)
    assert len(writers) == sum(cell["type"] == "TRELLIS_RAMW" for cell in made.cells.values())


def test_everything_is_placed(made, rng, tmp_path):
    """Legal, reproducible, dependent on the seed, and far better than chance."""
    packed, notes = made.packed(tmp_path), []
    graph = timing(packed)
    placed = place(packed, FABRIC, graph, 1, SHORT, notes.append)
    check(made, placed.bels, packed.names)
    assert place(packed, FABRIC, graph, 1, SHORT) == placed
    assert place(packed, FABRIC, graph, 2, SHORT).bels != placed.bels
    problem = Problem.of(packed, FABRIC)
    chance = Annealer(problem, *settled(problem, rng), timing(packed), 1)
    assert placed.wire < 0.7 * chance.wire
    x, y = (
        np.array([int(re.search(rf"{axis}(\d+)", placed.bels.get(i, "X0/Y0"))[1]) for i in range(len(packed.names))])
        for axis in "XY"
    )
    assert placed.wire == sum(half_perimeter(net, x, y) for net in nets_of(problem))
    assert placed.longest == pytest.approx(timing(packed).analyse(x.astype(np.int32), y.astype(np.int32)))
    assert notes[-8:] == [note for note in notes if re.fullmatch(r"annealing \d+ %, [\d,]+ tiles of wire, \d+\.\d ns", note)]


def fabric_of(size: int) -> Fabric:
    return Fabric.of(Chip.read(chip_database(size)))


@pytest.mark.parametrize("size, luts, counts", [(25, 24288, (56, 28)), (45, 43848, (108, 72)), (85, 83640, (208, 156))])
def test_fabrics(size, luts, counts):
    """Numbers of LUTs, block RAMs and multipliers are those of Lattice's data sheet (FPGA-DS-02012, table 1.1); a 25F has logic for
    24,000 of them."""
    fabric = fabric_of(size)
    assert len(fabric.columns) * len(fabric.rows) * SLOTS == luts
    assert tuple(len(sites) for sites in fabric.sites.values()) == counts
    assert len({site.bel for sites in fabric.sites.values() for site in sites}) == sum(counts)
    assert all(
        (site.x, site.y) == tuple(map(int, re.findall(r"\d+", site.bel)[:2])) for sites in fabric.sites.values() for site in sites
    )
    assert not {site.y for sites in fabric.sites.values() for site in sites} & set(fabric.rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ulx3s-85f", "ecp5-25f"])
def test_nextpnr_has_a_bel_at_every_place(name, tmp_path):
    """It takes cells at the places that the placer may name, has no other logic tiles and sites, and refuses what does not
    exist."""
    device = DEVICES[name]
    fabric = fabric_of(device.size)
    tiles = [f"X{x}/Y{y}" for x in fabric.columns for y in fabric.rows]
    places = {f"{tile}/SLICE{s}.{part}": kind for tile in tiles for s, part, kind in (("A", "K0", "TRELLIS_COMB"), ("D", "K1", "TRELLIS_COMB"), ("A", "FF0", "TRELLIS_FF"), ("D", "FF1", "TRELLIS_FF"), ("C", "RAMW", "TRELLIS_RAMW"))}  # fmt: skip
    places |= {site.bel: kind for kind, sites in fabric.sites.items() for site in sites}

    def read(places: dict[str, str]) -> dict:
        cells = {bel: {"hide_name": 0, "type": kind, "parameters": {}, "attributes": {"NEXTPNR_BEL": bel}, "port_directions": {}, "connections": {}} for bel, kind in places.items()}  # fmt: skip
        top = {"settings": {}, "attributes": {"top": "1"}, "ports": {}, "netnames": {}, "cells": cells}
        (tmp_path / "placed.json").write_text(json.dumps({"creator": "test", "modules": {"top": top}}))
        options = [*device.options, "--json", "placed.json", "--no-pack", "--no-place", "--no-route"]
        run(device.nextpnr, [*options, "--report", "report.json"], tmp_path, "tool.log")
        return json.loads((tmp_path / "report.json").read_text())["utilization"]

    found = read(places)
    assert found["TRELLIS_COMB"] == found["TRELLIS_FF"] == {"used": 2 * len(tiles), "available": 8 * len(tiles)}
    counts = {"TRELLIS_RAMW": len(tiles), **{kind: len(sites) for kind, sites in fabric.sites.items()}}
    assert {kind: found[kind] for kind in counts} == {kind: {"used": n, "available": n} for kind, n in counts.items()}
    for bel, kind in (("X1/Y1/SLICEA.K0", "TRELLIS_COMB"), ("X4/Y12/EBR0", "DP16KD")):
        with pytest.raises(ToolError, match=r"^nextpnr-ecp5 failed with exit code 1: "):
            read({bel: kind})
