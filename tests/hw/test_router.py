"""The router of the ECP5: nets that want the same wires, and a small design that nextpnr checks and times."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from packed_netlists import Netlist, delays, hops_of, random_netlist, starts, timing
from router_checks import DEVICE, bels_of, chip, crowded, fabric, graph, is_routed, lookahead, paths, settle, shortest, tile, wire
from test_fpga import Clocked

from sordino_hw.ecp5_pnr.netlist import Kind, Packed
from sordino_hw.ecp5_pnr.placer import Schedule, place
from sordino_hw.ecp5_pnr.router import NoRoute, RouteOptions, Routing, negotiate, route
from sordino_hw.ecp5_pnr.router.negotiate import Demand, Negotiation
from sordino_hw.ecp5_pnr.timing import TimingGraph
from sordino_hw.fpga import synthesise
from sordino_hw.fpga.tools import run
from sordino_hw.gateware.primitives import BlockMemory, Multiplier, SmallMemory
from sordino_hw.spec.errors import ToolError

# Negotiation


def square(size: int) -> list[tuple[int, int]]:
    """Tiles of logic without a row of macros between them."""
    return [(30 + i, 15 + j) for i in range(size) for j in range(size)]


@pytest.fixture(params=[(2, 40, 0.3), (3, 60, 0.5), (3, 130, 0.8), (4, 150, 0.5), (8, 200, 0.4)])
def negotiation(request, rng) -> Negotiation:
    """Few tiles, many nets, most of the pins: the worst has 15 nets and 36 connections to a tile."""
    size, nets, share = request.param
    return Negotiation(graph(), lookahead(), crowded(rng, square(size), nets, share))


def test_nets_agree(negotiation, rng):
    """Whatever is critical: every connection is there, and no wire has two nets."""
    criticality = rng.uniform(0, 0.95, len(negotiation.demand.sink)) * rng.integers(2, size=len(negotiation.demand.sink))
    assert settle(negotiation, criticality) > 1, "there was something to agree on"
    is_routed(negotiation)


def test_what_is_not_ripped_up_stays(negotiation, rng):
    criticality = np.full(len(negotiation.demand.sink), 0.5)
    settle(negotiation, criticality)
    for share in (0.5, 0.1):
        before, rip_up = paths(negotiation), rng.random(len(criticality)) < share
        assert negotiation.round(rip_up, 1 - criticality * rng.random(), 1.0) == -1
        after = paths(negotiation)
        assert all(a == b for a, b, again in zip(before, after, rip_up, strict=True) if not again)
        assert len(rip_up) < 100 or any(a != b for a, b, again in zip(before, after, rip_up, strict=True) if again)
        settle(negotiation, criticality)
    is_routed(negotiation)


def test_overused_wires_are_counted(negotiation):
    """From the paths: after the first round, when everybody has taken what is best for himself."""
    demand, heads = negotiation.demand, graph().edges["head"]
    assert negotiation.round(np.ones(len(demand.sink), bool), np.zeros(len(demand.sink)), 0.0) == -1
    users = {}
    routed = paths(negotiation)
    for c, net in enumerate(demand.net):
        for edge in routed[c]:
            users.setdefault(int(heads[edge]), set()).add(int(net))
    shared = {w for w, nets in users.items() if len(nets) > 1}
    assert shared and negotiation.overused == len(shared)
    expected = [not shared.isdisjoint(heads[path].tolist()) for path in routed]
    assert negotiation.congested.tolist() == expected


def test_the_same_again(negotiation, rng):
    again = Negotiation(graph(), lookahead(), negotiation.demand)
    criticality = rng.uniform(0, 0.95, len(negotiation.demand.sink))
    assert settle(negotiation, criticality) == settle(again, criticality)
    assert paths(negotiation) == paths(again)
    np.testing.assert_array_equal(negotiation.delay, again.delay)
    for a, b in zip(negotiation.edges(), again.edges(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_edges_are_those_of_their_round(negotiation):
    """Each once, and the negotiation may go on."""
    criticality = np.zeros(len(negotiation.demand.sink))
    settle(negotiation, criticality)
    routed, edges = paths(negotiation), negotiation.edges()
    negotiation.round(np.ones(len(criticality), bool), criticality + 0.9, 6.0)
    assert paths(negotiation) != routed
    assert len(edges) == len(negotiation.demand.source)
    for net, found in enumerate(edges):
        members = np.flatnonzero(negotiation.demand.net == net)
        assert sorted({edge for c in members for edge in routed[c]}) == found.tolist()


def test_paths_that_are_too_long(negotiation, monkeypatch):
    monkeypatch.setattr(negotiate, "_EDGES", 0)
    with pytest.raises(ToolError, match=r"^the connections take more than 0 wires each: the cells are too far apart\. Take a "):
        Negotiation(graph(), lookahead(), negotiation.demand).round(
            np.ones(len(negotiation.demand.sink), bool), np.zeros(len(negotiation.demand.sink)), 0.5
        )


def alone(source: int, sink: int, criticality: float) -> Negotiation:
    demand = Demand(np.array([source], np.int32), np.array([0, 1], np.int64), np.array([sink], np.int32))
    made = Negotiation(graph(), lookahead(), demand)
    assert made.round(np.ones(1, bool), np.array([criticality]), 0.5) == -1
    is_routed(made)
    return made


def test_a_critical_connection_is_fast(rng):
    """With a device to itself: estimates are multiplied by 1.15, so that paths can be that much longer than the shortest, but few
    are (by 5 % at most of 150 that were looked at, by 0.6 % in the mean). What is not critical is not faster."""
    more, patient, columns, rows = [], [], fabric().columns, fabric().rows
    for _ in range(20):
        i, j = int(rng.integers(len(columns))), int(rng.integers(len(rows)))
        x, y = columns[i], rows[j]
        to_x, to_y = (line[int(np.clip(at + rng.integers(-6, 7), 0, len(line) - 1))] for line, at in ((columns, i), (rows, j)))
        source = wire(x, y, *(("SLICEA.FF0", "Q"), ("SLICEC.K1", "F"))[int(rng.integers(2))])
        sink = wire(
            to_x, to_y, *(("SLICEB.K1", "C"), ("SLICED.K0", "A"), ("SLICEC.FF1", "M"), ("SLICEA.FF0", "CE"))[int(rng.integers(4))]
        )

        def inside(a: int, b: int, ends=((x, to_x), (y, to_y))) -> bool:
            return all(min(e) - 6 <= c <= max(e) + 6 for c, e in zip((a, b), ends, strict=True))

        least, made = shortest(source, sink, inside), alone(source, sink, 0.95)
        assert made.delay[0] <= 1.15 * least and made.least[0] <= least
        more.append(made.delay[0] / least)
        patient.append(alone(source, sink, 0.0).delay[0] / least)
    assert min(more) >= 1 and np.mean(more) < 1.03 < np.mean(patient)


def test_within_a_net_the_critical_are_first():
    """A net around the device: the critical connection goes straight, the others join it."""
    source = wire(20, 15, "SLICEA.FF0", "Q")
    sinks = [wire(x, y, "SLICEB.K1", "C") for x, y in ((60, 40), (50, 40), (40, 40), (30, 40), (20, 30), (60, 30), (60, 20))]
    demand = Demand(np.array([source], np.int32), np.array([0, len(sinks)], np.int64), np.array(sinks, np.int32))
    made = Negotiation(graph(), lookahead(), demand)
    criticality = np.zeros(len(sinks))
    criticality[0] = 0.95
    assert made.round(np.ones(len(sinks), bool), criticality, 0.5) == -1
    is_routed(made)
    assert made.path(0).tolist() == alone(source, sinks[0], 0.95).path(0).tolist()
    wires = {edge for path in paths(made) for edge in path}
    assert len(wires) < 0.8 * sum(len(alone(source, sink, 0.0).path(0)) for sink in sinks)


def test_a_pin_that_nothing_leads_to():
    demand = Demand(np.array([wire(30, 15, "SLICEA.FF0", "Q")], np.int32), np.array([0, 1]), np.array([wire(30, 15, "SLICEA.FF0", "CLK")], np.int32))  # fmt: skip
    assert Negotiation(graph(), lookahead(), demand).round(np.ones(1, bool), np.zeros(1), 0.5) == 0


# All of it


class Mixture(wiring.Component):
    """A cell of every kind: carry chains, distributed and block RAM, multipliers with registers and without, enables and resets."""

    a: In(signed(16))
    b: In(signed(16))
    address: In(9)
    write: In(1)
    hold: In(1)
    clear: In(1)
    sum: Out(32)
    small: Out(8)
    large: Out(16)

    def elaborate(self, platform):
        m = Module()
        m.submodules.small = small = SmallMemory(32, 8)
        m.submodules.large = large = BlockMemory(512, 16)
        m.submodules.multiplier = multiplier = Multiplier(16, 16)
        product, total = Signal(signed(24)), Signal(signed(32))
        m.d.comb += [
            small.w_en.eq(self.write), small.w_addr.eq(self.address), small.w_data.eq(self.b), small.r_addr.eq(self.a[:5]),
            large.w_en.eq(self.write & ~self.hold), large.w_addr.eq(self.address), large.w_data.eq(self.a), large.r_addr.eq(self.b[:9]),
            multiplier.a.eq(self.a), multiplier.b.eq(large.r_data.as_signed()),
            product.eq(self.a[:12].as_signed() * self.b[:12].as_signed()),
            self.sum.eq(total), self.small.eq(small.r_data), self.large.eq(large.r_data),
        ]  # fmt: skip
        with m.If(self.clear):
            m.d.sync += total.eq(0)
        with m.Elif(~self.hold):
            m.d.sync += total.eq(total + multiplier.p + product)
        return m


def top(folder, name: str) -> dict:
    modules = json.loads((folder / name).read_text())["modules"].values()
    return next(module for module in modules if module["cells"])


def delays_of(packed: Packed, bels: dict[int, str], routing: Routing, speed: int = 6) -> dict[tuple[str, str], float]:
    """ns of each connection, by cell and port, from the words of the routes."""
    where = [re.fullmatch(r"X(\d+)/Y(\d+)/(.+)", packed.bel(cell, bels)).groups() for cell in range(len(packed.names))]

    def pin(cell: int, port: str) -> str:
        x, y, bel = where[cell]
        kind = int(chip().type_of[tile(int(x), int(y))])
        return f"X{x}/Y{y}/{graph().names[kind][bels_of(int(x), int(y))[bel][port]]}"

    found, classes = {}, chip().pip_delays(speed)
    for number, words in routing.routes.items():
        net = packed.nets[number]
        parts = words.split(";")
        triples = list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
        assert triples[0] == (pin(*net.driver), "", "1") and all(pip and strength == "1" for _, pip, strength in triples[1:])
        into, taken = {}, {}
        for to, pip, _ in triples[1:]:
            x, y, sx, sy, source, tx, ty, target = re.fullmatch(
                r"X(\d+)/Y(\d+)/(-?\d+)_(-?\d+)_(\w+)->(-?\d+)_(-?\d+)_(\w+)", pip
            ).groups()
            assert to == f"X{int(x) + int(tx)}/Y{int(y) + int(ty)}/{target}" and to not in into
            at, (sx, sy, tx, ty) = tile(int(x), int(y)), map(int, (sx, sy, tx, ty))
            names = [graph().names[chip().type_of[at + chip().columns * dy + dx]] for dx, dy in ((sx, sy), (tx, ty))]
            table = chip().pips(int(chip().type_of[at]))
            offsets = (table["from_x"] == sx) & (table["from_y"] == sy) & (table["to_x"] == tx) & (table["to_y"] == ty)
            (k,) = np.flatnonzero(
                offsets & (table["source"] == names[0].index(source)) & (table["target"] == names[1].index(target))
            )
            before = f"X{int(x) + sx}/Y{int(y) + sy}/{source}"
            into[to], taken[before] = (before, classes[table["delay_class"][k]]), taken.get(before, 0) + 1
        for user in net.users:
            at, time = pin(*user), 0
            while at != triples[0][0]:
                at, delay = into[at]
                time += int(delay["max"]) + int(delay["max_per_fanout"]) * taken[at]
            found[packed.names[user.cell], user.port] = time * 1e-3
    return found


def arrivals(packed: Packed, wires: dict[tuple[str, str], float], speed: int) -> dict[tuple[str, str], float]:
    """ns after the clock at which a signal arrives at each cell and port, by all paths; left out where it comes from no
    register."""
    users = [(packed.names[user.cell], user.port) for net in packed.nets for user in net.users]
    hops = hops_of(packed, lambda connection, driver, user: wires.get(users[connection], 0.0), speed)
    begin = starts(speed)
    first = [begin.get(Kind(packed.kind[net.driver.cell])) for net in packed.nets]
    times = {k: s for k, s in enumerate(first) if s is not None and packed.mode[packed.nets[k].driver.cell] != "NONE"}
    todo = list(times)
    while todo:
        net = todo.pop()
        for to, _, _, delay in hops[net]:
            if to >= 0 and times[net] + delay > times.get(to, 0.0):
                times[to] = times[net] + delay
                todo.append(to)
    found = {}
    for k, net in enumerate(packed.nets):
        for user in net.users:
            if k in times:
                pin = packed.names[user.cell], user.port
                found[pin] = times[k] + wires.get(pin, 0.0)
    return found


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    """A folder with the mixture, packed."""
    folder, design = tmp_path_factory.mktemp("mixture"), Clocked(Mixture())
    synthesise(design, design.ports, DEVICE, folder)
    pins = zip(("clk", "serial_in", "load", "serial_out"), (DEVICE.clock_pin, *DEVICE.ports), strict=False)
    (folder / "pins.lpf").write_text("".join(f'LOCATE COMP "{name}" SITE "{pin}";\n' for name, pin in pins))
    files = ["--json", "netlist.json", "--lpf", "pins.lpf", "--write", "packed.json"]
    run(DEVICE.nextpnr, [*DEVICE.options, *files, "--pack-only"], folder, "tool.log")
    return folder


@pytest.mark.parametrize("speed", [6, pytest.param(7, marks=pytest.mark.slow), 8])
def test_nextpnr_takes_a_routed_design(speed, mixture, tmp_path):
    """It routes the clock alone, keeps all else, and comes to the same times: of the longest path, and of every register's
    input."""
    device, notes = DEVICE.at_speed(speed), []
    packed = Packed.read(mixture / "packed.json")
    assert {(Kind(k), m) for k, m in zip(packed.kind, packed.mode, strict=True)} >= {
        (Kind.LUT, "CCU2"), (Kind.LUT, "DPRAM"), (Kind.WRITER, ""), (Kind.MEMORY, "AB"), (Kind.MULTIPLIER, "ALL"), (Kind.MULTIPLIER, "NONE"),
    }  # fmt: skip
    graph = TimingGraph(packed, delays(speed), 5.0, wire_scale=chip().relative_delay(speed))
    bels = place(packed, fabric(), graph, 1, Schedule(steps=20, proposals=8)).bels
    routing = route(packed, bels, chip(), graph, speed, progress=notes.append)
    assert speed != 6 or route(packed, bels, chip(), graph) == routing
    assert all(re.fullmatch(r"routing, round \d+: [\d,]+ shared wires, \d+\.\d ns", note) for note in notes)
    assert min(float(n.split()[-2]) for n in notes if ": 0 shared" in n) == pytest.approx(routing.longest[0], abs=0.05)

    packed.write(tmp_path / "routed.json", bels, routing.routes, {"router": "router1"})
    options = ["--json", "routed.json", "--no-pack", "--no-place", "--timing-allow-fail", "--write", "checked.json"]
    log = run(
        device.nextpnr, [*device.options, *options, "--report", "report.json", "--detailed-timing-report"], tmp_path, "tool.log"
    )
    assert re.findall(r"Routing (\d+) arcs\.", log) == ["1"]
    handed, kept = ({name: net["attributes"].get("ROUTING", "").strip() for name, net in top(tmp_path, f)["netnames"].items()} for f in ("routed.json", "checked.json"))  # fmt: skip

    def triples(words: str) -> set[tuple[str, ...]]:
        parts = words.split(";")
        return set(zip(parts[::3], parts[1::3], parts[2::3], strict=False))

    assert len(routing.routes) == sum(map(bool, handed.values())) > 300
    assert all(triples(words) == triples(kept[name]) for name, words in handed.items() if words)

    report = json.loads((tmp_path / "report.json").read_text())
    ((domain, clock),) = report["fmax"].items()
    assert clock["achieved"] == pytest.approx(1e3 / routing.longest[0], abs=0.01)
    arrival = arrivals(packed, delays_of(packed, bels, routing, speed), speed)
    compared = 0
    for net in report["detailed_net_timings"]:
        for end in net["endpoints"]:
            if net["event"] == end["event"] == f"posedge {domain}":
                assert end["delay"][1] == pytest.approx(arrival[end["cell"], end["port"]], abs=1e-4)
                compared += 1
    assert compared > 300


@pytest.fixture
def placed(rng, tmp_path) -> tuple[Packed, dict[int, str], TimingGraph]:
    packed = random_netlist(rng, products=1).packed(tmp_path)
    graph = timing(packed, 5.0)
    return packed, place(packed, fabric(), graph, 1, Schedule(steps=4, proposals=4)).bels, graph


def test_routes_of_a_random_netlist(placed):
    """From every driver to every user, and no wire twice; the longest path is that of the wires."""
    packed, bels, graph = placed
    routing = route(packed, bels, chip(), graph)
    wire = delays_of(packed, bels, routing)
    users = [user for net in packed.nets for user in net.users]
    assert len(wire) == sum(not packed.is_clock_buffer(user.cell) for user in users) > 500
    wires = [to for words in routing.routes.values() for to in words.split(";")[::3]]
    assert len(set(wires)) == len(wires)
    routed = np.array([wire.get((packed.names[user.cell], user.port), 0.0) for user in users])
    assert graph.analyse_routed(routed) == pytest.approx(routing.longest[0], abs=1e-4)


def test_inputs_are_exchanged_in_plain_luts_only(placed):
    packed, bels, graph = placed
    exchanged = set()
    for words in route(packed, bels, chip(), graph).routes.values():
        for pip in words.split(";")[1::3]:
            if (match := re.fullmatch(r"(X\d+/Y\d+)/0_0_([A-D])(\d)->0_0_([A-D])\3_SLICE", pip)) and match[2] != match[4]:
                exchanged.add((f"{match[1]}/SLICE{'ABCD'[int(match[3]) // 2]}.K{int(match[3]) % 2}", match[2] + match[4]))
    mode = {bel: packed.mode[cell] for cell, bel in bels.items()}
    seen = {(mode[bel], swap) for bel, swap in exchanged}
    of_carries = {"AB", "BA", "CD", "DC"}
    assert {swap for m, swap in seen if m == ""} - of_carries
    assert {swap for m, swap in seen if m == "CCU2"} <= of_carries and {m for m, _ in seen} <= {"", "CCU2"}


# What is refused


def by_hand(made: Netlist, folder, **places: str) -> tuple[Packed, dict[int, str]]:
    packed = made.packed(folder)
    return packed, {packed.names.index(name): bel for name, bel in places.items()}


@pytest.mark.parametrize("name", ["plain", "sum$CCU2_COMB0"])
def test_places_that_are_none(name, tmp_path):
    """Rows of macros have no LUTs, tiles no fifth slice, and the device no more columns and rows."""
    made = Netlist()
    made.chain("sum", [(made.lut("plain", made.ff("state", made.clock)), made.clock)] * 2)
    right = {f"sum$CCU2_COMB{k}": f"X20/Y20/SLICEA.K{k}" for k in range(2)}
    right |= {"plain": "X20/Y21/SLICEA.K0", "state": "X20/Y21/SLICEA.FF1"}
    for bel, message in (
        ("X30/Y25/SLICEA.K0", r"chipdb-25k\.bin has no pin \w+ at SLICEA\.K0 of tile 30, 25, where {} is\."),
        ("X30/Y20/SLICEE.K0", r"chipdb-25k\.bin has no pin \w+ at SLICEE\.K0 of tile 30, 20, where {} is\."),
        ("X4/Y25/EBR0", r"chipdb-25k\.bin has no pin \w+ at EBR0 of tile 4, 25, where {} is\."),
        ("X73/Y20/SLICEA.K0", r"{} is placed at 'X73/Y20/SLICEA\.K0', which is no bel of chipdb-25k\.bin\."),
        ("X30/Y51/SLICEA.K0", r"{} is placed at 'X30/Y51/SLICEA\.K0', which is no bel of chipdb-25k\.bin\."),
        ("nowhere", r"{} is placed at 'nowhere', which is no bel of chipdb-25k\.bin\."),
    ):
        packed, bels = by_hand(made, tmp_path, **right | {name: bel})
        with pytest.raises(ToolError, match=f"^{message.format(re.escape(name))}$"):
            route(packed, bels, chip(), timing(packed, 5.0))


def test_a_net_without_a_path(tmp_path):
    """Only a carry comes to the carry input of a LUT."""
    made = Netlist()
    data = made.ff("fast", made.clock)
    made.chain("sum", [(data, data)] * 2)
    made.connect("sum$CCU2_COMB0", FCI=data)
    places = {f"sum$CCU2_COMB{k}": f"X20/Y20/SLICEA.K{k}" for k in range(2)}
    packed, bels = by_hand(made, tmp_path, fast="X30/Y20/SLICEA.FF0", **places)
    message = r"^no pips lead along the net from fast\.Q to sum\$CCU2_COMB0\.FCI: one of its ends is at a bel that cannot have it, or is a clock's\.$"
    with pytest.raises(NoRoute, match=message):
        route(packed, bels, chip(), timing(packed, 5.0))


def test_too_few_rounds(placed):
    packed, bels, graph = placed
    with pytest.raises(NoRoute, match=r"^\d+ wires are still wanted by several nets after 1 rounds\.$"):
        route(packed, bels, chip(), graph, options=RouteOptions(rounds=1))
