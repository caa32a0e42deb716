"""Synthesis, and place and route, of one design."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Signal

from ..ecp5_pnr import run as ecp5_pnr
from ..ecp5_pnr.chip import Chip
from ..ecp5_pnr.databases import chip_database
from ..ecp5_pnr.netlist import Packed
from ..ecp5_pnr.router import NoRoute
from ..gateware.primitives import Target
from ..spec.errors import ToolError
from .devices import Device
from .report import Routed
from .tools import TimeLimit, run, run_yosys

__all__ = ["Synthesis", "place_and_route", "synthesis_script", "synthesise"]

NETLIST = "netlist.json"


@dataclass(frozen=True)
class Synthesis:
    """A netlist in `folder`; the number of cells by type, and the seconds it took."""

    folder: Path
    cells: dict[str, int]
    seconds: float


SMALL = 6
"""Bits of an adder up to which an ECP5 has it in LUTs: nextpnr takes a cell of two LUTs at each end of a carry chain."""


def synthesis_script(family: str, top: str = "top") -> str:
    """Yosys commands that synthesise the module `top` for a family, from RTLIL to cells."""
    # ABC9 finds ports again by name and takes `x_1` for bit 1 of `x` (yosys#4349): single bits cannot be confused.
    if family == "ice40":
        # Without -dsp: it would take the registers out of the SB_MAC16 that the primitives instantiate.
        synth = f"synth_ice40 -top {top} -device u"
        return f"{synth} -run begin:map_luts\nsplitnets\n{synth} -run map_luts:\n"
    # Yosys merges equal registers unless the cells are to be kept, which Amaranth can only say of their outputs.
    kept = f"hierarchy -top {top}\nproc\nsetattr -set keep 1 a:keep=1 w:* %i %ci1 c:* %i\n"
    # Wide LUTs made of four- and five-input ones: fewer levels, but a third more cells in the lanes.
    synth = f"synth_ecp5 -top {top} -nowidelut"
    adders = f"techmap t:$alu r:Y_WIDTH<={SMALL} %i\n"
    return f"{kept}{synth} -run begin:map_gates\n{adders}{synth} -run map_gates:map_luts\nsplitnets\n{synth} -run map_luts:\n"


def synthesise(design: Elaboratable, ports: Sequence[Signal], device: Device, folder: Path) -> Synthesis:
    """Elaborates `design` for the device's family and synthesises it. `folder` is made if need be. Raises `ToolError`."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    (folder / "top.il").write_text(rtlil.convert(design, name="top", platform=Target(device.family), ports=ports, emit_src=False))
    script = f"read_rtlil top.il\n{synthesis_script(device.family)}write_json {NETLIST}\ntee -q -o stat.json stat -json\n"
    run_yosys(script, folder)
    cells = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
    return Synthesis(folder, {name: n for name, n in cells.items() if not name.startswith("$")}, time.perf_counter() - begin)


def place_and_route(
    synthesis: Synthesis,
    device: Device,
    seed: int,
    target: float | None = None,
    limit: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Routed:
    """Places and routes the netlist; `target` is the clock frequency in MHz to work towards (default: the device's).

    `ecp5_pnr` places and routes an ECP5 (a device with a `size`), all but the clock: nextpnr packs, and checks and times what it is
    handed. Else nextpnr does all of it. `progress` is called with a note on what is done. Raises `ToolError`, also where the design
    does not fit, where not every net finds a route, or where nextpnr finds none within `limit` seconds.
    """
    say = progress or (lambda note: None)
    target = target or device.target
    report, log = f"report_{seed}.json", f"nextpnr_{seed}.log"
    arguments = [*device.options, "--seed", str(seed), "--freq", f"{target:g}", "--timing-allow-fail"]
    reports = ["--report", report, "--detailed-timing-report"]
    try:
        if device.size:
            routed = f"routed_{seed}.json"
            try:
                _place_and_route(synthesis.folder, device, seed, target, routed, say)
                say("check")
                arguments += [*reports, "--json", routed, "--no-pack", "--no-place"]
                run(device.nextpnr, arguments, synthesis.folder, log, limit)
            finally:
                (synthesis.folder / routed).unlink(missing_ok=True)
        else:
            pins = {"clk": device.clock_pin, **dict(zip(("rx", "tx"), device.serial_pins or (), strict=False))}
            constraints = "".join(f"set_io --warn-no-port {name} {pin}\n" for name, pin in pins.items())
            (synthesis.folder / f"pins_{seed}.pcf").write_text(constraints)
            arguments += [*reports, "--json", NETLIST, "--pcf", f"pins_{seed}.pcf", "--pcf-allow-unconstrained"]
            run(device.nextpnr, arguments, synthesis.folder, log, limit)
    except TimeLimit as error:
        raise ToolError(_unrouted((synthesis.folder / log).read_text(errors="replace"), seed, str(error))) from None
    return Routed.from_report(json.loads((synthesis.folder / report).read_text()), device, seed)


def _place_and_route(folder: Path, device: Device, seed: int, target: float, routed: str, say: Callable[[str], None]) -> None:
    """Packs with nextpnr, and writes the netlist with all its places and wires to the file `routed`."""
    assert device.size and device.speed
    chip = Chip.read(chip_database(device.size))
    say("packing")
    packed = folder / f"packed_{seed}.json"
    document = json.loads((folder / NETLIST).read_text())
    top = next(module for module in document["modules"].values() if int(module.get("attributes", {}).get("top", "0"), 2))
    ports = [name for name in top["ports"] if name != "clk"]
    if len(ports) > len(device.ports) or any(len(top["ports"][name]["bits"]) > 1 for name in top["ports"]):
        raise ToolError(
            f"the design has {', '.join(ports)} besides its clock: {device.name} takes {len(device.ports)} ports of one bit. "
            "Put it behind `Registered`."
        )
    pins = dict(zip(("clk", *ports), (device.clock_pin, *device.ports), strict=False))
    (folder / f"pins_{seed}.lpf").write_text("".join(f'LOCATE COMP "{name}" SITE "{pin}";\n' for name, pin in pins.items()))
    try:
        files = ("--json", NETLIST, "--lpf", f"pins_{seed}.lpf", "--write", packed.name)
        run(device.nextpnr, [*device.options, *files, "--pack-only", "--freq", f"{target:g}"], folder, f"pack_{seed}.log")
        netlist = Packed.read(packed)
    finally:
        packed.unlink(missing_ok=True)
    try:
        done = ecp5_pnr.place_and_route(netlist, chip, device.speed, 1e3 / target, seed=seed, progress=say)
    except NoRoute as error:
        raise ToolError(f"Seed {seed} has no route: {error} Try another seed.") from None
    # Its first router leaves alone what is routed, and reports what is not.
    netlist.write(folder / routed, done.bels, done.routes, {"router": "router1"})


def _unrouted(log: str, seed: int, reason: str) -> str:
    """What a log of nextpnr's says about how far it came."""
    placed = re.findall(r"Max frequency for clock .*: ([\d.]+) MHz", log)
    overused = re.findall(r"overused=(\d+)", log)
    where = f"as placed it would run at {placed[-1]} MHz by nextpnr's estimate" if placed else "it was not placed yet"
    wires = f", and {overused[-1]} wires are still wanted by two nets" if overused else ""
    return f"Seed {seed} has no route: {where}{wires}. {reason} Try another seed, or give it more time."
