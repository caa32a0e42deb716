"""Clock domains: which register has which clock, what is timed, and a design of two clocks that nextpnr checks and times."""

import contextlib
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, DomainRenamer, Elaboratable, Module, Signal
from packed_netlists import Netlist, delays, timing
from router_checks import DEVICE

from sordino_hw.ecp5_pnr.__main__ import main
from sordino_hw.ecp5_pnr.clocks import Clocks
from sordino_hw.ecp5_pnr.netlist import Packed, Pin
from sordino_hw.ecp5_pnr.timing import TimingGraph
from sordino_hw.fpga import synthesise
from sordino_hw.fpga.tools import run
from sordino_hw.gateware.primitives import SmallMemory
from sordino_hw.spec.errors import ToolError


class TwoClockNetlist(Netlist):
    """With a second clock, `slow`, on the clock network as `net_N` is of nextpnr."""

    def __init__(self):
        super().__init__()
        pin, self.slow = self.net(), self.net()
        self.cell("slow$tr_io", "TRELLIS_IO", {"DIR": "INPUT"}, O=pin)
        self.cells["slow$tr_io"]["attributes"] = {"BEL": "X72/Y23/PIOC"}
        self.cell("$gbuf$slow", "DCCA", {}, CLKI=pin, CLKO=self.slow)
        self.cells["$gbuf$slow"]["attributes"] = {"NEXTPNR_BEL": "X3/Y25/LDCC2"}

    def slow_ff(self, name: str, data) -> int:
        out = self.ff(name, data)
        self.connect(name, CLK=self.slow)
        return out


def names(packed: Packed) -> dict[str, int]:
    return {name: number for number, name in enumerate(packed.names)}


def test_registers_have_the_clock_of_their_pin(tmp_path):
    """Flip-flops, distributed RAM, and multipliers have one; each port of a block RAM has its own, but where both together are one
    port to write and one to read."""
    made = TwoClockNetlist()
    data, other = made.ff("data", made.clock), made.slow_ff("other", made.clock)
    made.ram("ram", [data] * 4, [data] * 4, [data] * 4, data)
    for name, width in (
        ("memory", "00000000000000000000000000010010"),
        ("wide", "00000000000000000000000000100100"),
        ("decimal", "36"),
    ):
        made.block(name, "DP16KD", [data], [made.net()])
        made.cells[name]["parameters"]["DATA_WIDTH_A"] = width
        made.connect(name, CLKB=made.slow, ADB0=data, ADB9=data, DIB3=data, CEA=data, CEB=data, OCEB=data, DOA2=made.net())
    made.block("product", "MULT18X18D", [other], [made.net()])
    packed = made.packed(tmp_path)
    clocks, where = Clocks(packed), names(packed)

    def clock(name: str, port: str) -> str:
        return clocks.names[clocks.domain(Pin(where[name], port))]

    fast, slow = f"net_{made.clock}", f"net_{made.slow}"
    assert clock("data", "Q") == clock("data", "M") == clock("ram$DPRAM_COMB2", "WRE") == clock("product", "A0") == fast
    assert clock("other", "Q") == slow
    found = {name: {port: clock(name, port) for port in ("ADA0", "CEA", "DOA2", "ADB0", "ADB9", "DIB3", "CEB", "OCEB", "DOB0")} for name in ("memory", "wide", "decimal")}  # fmt: skip
    assert found["memory"] == {port: fast if port.rstrip("0123456789")[-1] == "A" else slow for port in found["memory"]}
    assert found["wide"] == found["decimal"]
    assert {port for port, name in found["wide"].items() if name == slow} == {"DOA2", "DOB0", "ADB9", "CEB", "OCEB"}


def test_clocks_that_are_not_known(tmp_path):
    """A register is refused, with its name, where its clock is none or is not on the clock network; one without a path is not."""
    made = Netlist()
    data = made.ff("data", made.clock)
    made.ff("gated", data)
    made.connect("gated", CLK=made.lut("gate", data))
    made.ff("unheard", "0")
    made.connect("unheard", CLK=None)
    packed = made.packed(tmp_path)
    (bit,) = made.cells["gated"]["connections"]["CLK"]
    message = rf"^gated is clocked by net_{bit}, which is not on the clock network, and no other wires can carry a clock here\. nextpnr puts a clock of five "
    with pytest.raises(ToolError, match=message):
        timing(packed)
    made.connect("gated", CLK=made.clock)
    assert timing(made.packed(tmp_path)).clocks == (f"net_{made.clock}",)
    for clock in (None, "0"):
        made.connect("gated", CLK=clock)
        message = (
            r"^gated is a register at its pin M, and its clock CLK has no net: paths to it cannot be timed\. Connect the clock\.$"
        )
        with pytest.raises(ToolError, match=message):
            timing(made.packed(tmp_path))


def test_what_is_timed_with_several_clocks(tmp_path):
    """Each domain by itself, against its own period. What leads from one clock to another is not, not even through logic that both
    use."""
    made = TwoClockNetlist()
    a, b = made.ff("a", made.clock), made.slow_ff("b", made.clock)
    both = made.lut("both", a, b)
    made.ff("a_sink", both)
    made.slow_ff("b_sink", made.lut("more", both))
    made.slow_ff("crossing", made.lut("far", a))
    packed = made.packed(tmp_path)
    graph = TimingGraph(packed, delays(), 5.0, {f"net_{made.slow}": 20.0})
    assert set(graph.clocks) == {f"net_{made.clock}", f"net_{made.slow}"}
    fast, slow = (graph.clocks.index(f"net_{bit}") for bit in (made.clock, made.slow))
    assert (graph.periods[fast], graph.periods[slow]) == (5.0, 20.0)
    wire = {(net.driver.cell, user.cell): 1.0 + k for k, (net, user) in enumerate((n, u) for n in packed.nets for u in n.users)}
    where = names(packed)

    def path(*cells: str) -> float:
        numbers = [where[cell] for cell in cells]
        return 0.525 + 0.236 * (len(cells) - 2) + sum(wire[pair] for pair in itertools.pairwise(numbers))

    longest = graph.analyse_routed(np.array(list(wire.values())))
    expected = {fast: path("a", "both", "a_sink"), slow: path("b", "both", "more", "b_sink")}
    assert {k: graph.longest[k] for k in expected} == pytest.approx(expected) and longest == max(graph.longest)
    assert graph.worst == pytest.approx(max(expected[fast] / 5.0, expected[slow] / 20.0))
    share = {
        (packed.names[graph.edges.driver[e]], packed.names[graph.edges.sink[e]]): graph.share[e] for e in range(len(graph.share))
    }
    assert share["a", "both"] == pytest.approx(expected[fast] / 5.0) and share["b", "both"] == pytest.approx(expected[slow] / 20.0)
    assert share["a", "far"] == share["far", "crossing"] == 0
    assert graph.report().count(" ns") == 2


def test_a_period_of_no_clock(tmp_path):
    made = Netlist()
    made.ff("b", made.ff("a", made.clock))
    with pytest.raises(ToolError, match=rf"^the design has no clock fast: its clocks are net_{made.clock}\.$"):
        TimingGraph(made.packed(tmp_path), delays(), 5.0, {"fast": 3.0})


class TwoClocks(Elaboratable):
    """Counters, sums and a distributed RAM at two clocks, which read one another's registers through logic."""

    def __init__(self):
        self.ports = self.clk, self.slow, self.data, self.out = [Signal(name=name) for name in ("clk", "slow", "data", "out")]

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain(reset_less=True)
        m.domains.slow = slow = ClockDomain(reset_less=True)
        m.submodules.here = here = SmallMemory(16, 8)
        m.submodules.there = there = DomainRenamer("slow")(SmallMemory(16, 8))
        count, total, held, seen = Signal(16), Signal(24), Signal(8), Signal(8)
        m.d.comb += [sync.clk.eq(self.clk), slow.clk.eq(self.slow)]
        for memory, address, data in ((here, count, count[4:]), (there, total, total[8:])):
            m.d.comb += [memory.w_en.eq(address[3]), memory.w_addr.eq(address), memory.w_data.eq(data), memory.r_addr.eq(data)]
        m.d.sync += [count.eq(count + here.r_data + self.data), seen.eq(total[:8] ^ count[:8]), self.out.eq((seen + held).xor())]
        m.d.slow += [total.eq(total + there.r_data + (count ^ (count << 3))), held.eq(total[16:] + there.r_data)]
        return m


PERIODS = {"clk": 8.0, "slow": 20.0}


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    """A folder with a design of two clocks, packed, and placed and routed by the command; `said` is what that printed."""
    folder, made = tmp_path_factory.mktemp("clocks"), TwoClocks()
    synthesise(made, made.ports, DEVICE, folder)
    pins = zip(("clk", "slow", "data", "out"), (DEVICE.clock_pin, "J20", *DEVICE.ports), strict=False)
    (folder / "pins.lpf").write_text("".join(f'LOCATE COMP "{name}" SITE "{pin}";\n' for name, pin in pins))
    files = ["--json", "netlist.json", "--lpf", "pins.lpf", "--write", "packed.json"]
    run(DEVICE.nextpnr, [*DEVICE.options, *files, "--pack-only"], folder, "tool.log")
    clocks = [word for name, period in PERIODS.items() for word in ("--clock", f"{name}={1e3 / period}")]
    arguments = [str(folder / "packed.json"), "-o", str(folder / "routed.json"), "--size", "25", *clocks, "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(arguments) == 0
    (folder / "said").write_text(said.getvalue())
    return folder


def test_nextpnr_takes_a_design_of_two_clocks(design):
    """It routes the two clocks alone, comes to the same frequency for each, and writes a bitstream's text."""
    packed = Packed.read(design / "packed.json")
    graph = TimingGraph(packed, delays(), 5.0, PERIODS)
    assert set(graph.clocks) == {"clk", "slow"}
    edges, crossings = graph.edges, 0
    launched = [{domain} - {-1} for domain in edges.launch.tolist()]
    for source, to, capture in zip(edges.source, edges.to, edges.capture.tolist(), strict=True):
        if to >= 0:
            launched[to] |= launched[source]
        else:
            crossings += bool(launched[source] - {capture})
    assert crossings > 20, "registers read those of the other clock"
    options = ["--json", "routed.json", "--no-pack", "--no-place", "--textcfg", "top.config", "--report", "report.json"]
    log = run(DEVICE.nextpnr, [*DEVICE.options, *options], design, "check.log")
    assert re.findall(r"Routing (\d+) arcs\.", log) == ["2"] and (design / "top.config").stat().st_size > 10_000
    achieved = {name.removeprefix("$glbnet$").removesuffix("$TRELLIS_IO_IN"): clock["achieved"] for name, clock in json.loads((design / "report.json").read_text())["fmax"].items()}  # fmt: skip
    said = {name: float(mhz) for name, mhz in re.findall(r"^(\w+): ([\d.]+) MHz$", (design / "said").read_text(), re.M)}
    assert achieved == pytest.approx(said, abs=0.05) and achieved.keys() == PERIODS.keys()
    assert all(achieved[name] > 1e3 / period for name, period in PERIODS.items()), achieved


@pytest.mark.slow
def test_the_page_shows_how_from_python(design, monkeypatch, capsys):
    """What the page says does what the command does."""
    page = (Path(__file__).parents[2] / "docs/explanation/place-and-route.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(design)
    exec(code, {})
    assert (design / "again.json").read_text() == (design / "routed.json").read_text()
    said = re.findall(r"(\w+): ([\d.]+) MHz", (design / "said").read_text())
    assert capsys.readouterr().out == f"{ ({name: f'{mhz} MHz' for name, mhz in said}) }\n"


def test_errors_of_the_command(tmp_path, capsys):
    """A paragraph, and exit code 2."""
    made = Netlist()
    made.ff("b", made.ff("a", made.clock))
    made.packed(tmp_path)
    arguments = [str(tmp_path / "packed.json"), "-o", str(tmp_path / "out.json"), "--size", "25"]
    assert main([*arguments, "--clock", "fast=50"]) == 2
    assert capsys.readouterr().err == f"error: the design has no clock fast: its clocks are net_{made.clock}.\n"
    assert main([*arguments, "--seed", "-1"]) == 2 and "integer from 0 on" in capsys.readouterr().err
    assert main([str(tmp_path / "none.json"), *arguments[1:]]) == 2 and "cannot read the netlist" in capsys.readouterr().err
    for wrong in (
        ["--clock", "slow"],
        ["--clock", "=5"],
        ["--clock", "slow=x"],
        ["--freq", "0"],
        ["--speed", "9"],
        ["--size", "12"],
    ):
        with pytest.raises(SystemExit) as left:
            main([*arguments, *wrong])
        assert left.value.code == 2 and wrong[0] in capsys.readouterr().err
