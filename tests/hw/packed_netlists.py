"""Netlists as nextpnr packs them for the ECP5, a small device, and the rules of its logic tiles, for the placer's tests."""

import copy
import functools
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable

from sordino_hw.ecp5_pnr.cells import CellDelays
from sordino_hw.ecp5_pnr.databases import cell_delays
from sordino_hw.ecp5_pnr.fabric import Fabric, Site
from sordino_hw.ecp5_pnr.netlist import Kind, Packed, Pin
from sordino_hw.ecp5_pnr.placer.problem import Problem
from sordino_hw.ecp5_pnr.timing import TimingGraph

OUTPUT = re.compile(r"F|FCO|Q|O|CLKO|WA?DO\d|DO[AB]\d+|P\d+")

SETUP = {
    Kind.FF: {"LSR": 0.424},
    Kind.MEMORY: {
        "ADA": 0.251, "ADB": 0.205, "DIA": 0.218, "DIB": 0.134, "CEA": 0.211, "CEB": 0.34, "OCEA": 0.226, "OCEB": 0.253,
        "RSTA": 0.579, "RSTB": 0.585, "WEA": 0.139, "CSA": 0.02,
    },
    Kind.MULTIPLIER: {"A": 0.084, "B": 0.084, "CE": 0.252, "RST": 0.095},
}  # fmt: skip
"""Setup times in ns, of speed 6 in Project Trellis' cells.json, by port without its number; none for the others."""
WRITER = dict(
    zip(("D0", "B0", "C0", "A0", "C1", "A1", "D1", "B1"), [f"{out}{k}" for out in ("WADO", "WDO") for k in range(4)], strict=True)
)
REGISTERED = {f"REG_{name}_CLK": "CLK0" for name in ("INPUTA", "INPUTB", "OUTPUT")}
"""Parameters of a multiplier with all its registers."""
STARTS = {Kind.FF: 0.525, Kind.MEMORY: 0.973, Kind.MULTIPLIER: 0.735}


class Netlist:
    """Cells and nets by name; a clock that comes from a pin through the clock network, as in every real design."""

    def __init__(self):
        self.cells, self._bits = {}, itertools.count(2)
        pin, self.clock = self.net(), self.net()
        self.cell("clk$tr_io", "TRELLIS_IO", {"DIR": "INPUT"}, O=pin)
        self.cells["clk$tr_io"]["attributes"] = {"BEL": "X0/Y8/PIOA", "LOC": "G2"}
        self.cell("$gbuf$clk", "DCCA", {}, CLKI=pin, CLKO=self.clock)
        self.cells["$gbuf$clk"]["attributes"] = {"NEXTPNR_BEL": "X3/Y25/LDCC1"}

    def net(self) -> int:
        return next(self._bits)

    def cell(self, name: str, kind: str, parameters: dict, **ports) -> None:
        """`ports`: bit, constant, or none for a port without a net."""
        assert name not in self.cells
        self.cells[name] = {
            "hide_name": 0,
            "type": kind,
            "parameters": parameters,
            "attributes": {"src": "made"},
            "port_directions": {},
            "connections": {},
        }
        self.connect(name, **ports)

    def connect(self, name: str, **ports) -> None:
        for port, bit in ports.items():
            self.cells[name]["port_directions"][port] = "output" if OUTPUT.fullmatch(port) else "input"
            self.cells[name]["connections"][port] = [] if bit is None else [bit]

    def lut(self, name: str, *inputs, mode: str | None = None, **ports) -> int:
        out = self.net()
        parameters = {"INITVAL": "1110110010100000"} | ({"MODE": mode} if mode else {})
        self.cell(name, "TRELLIS_COMB", parameters, F=out, **dict(zip("ABCD", inputs, strict=False)), **ports)
        return out

    def ff(self, name: str, data: int, pair: bool = False, q: int | None = None, ce=None, lsr=None, **parameters) -> int:
        """`pair`: it takes the output of the LUT in its slot."""
        out = self.net() if q is None else q
        settings = {
            "SD": "1 " if pair else "0 ",
            "GSR": "DISABLED",
            "CEMUX": "1 " if ce is None else "CE",
            "CLKMUX": "CLK",
            "LSRMUX": "LSR",
        }
        ports = {"DI" if pair else "M": data, "CE": ce, "LSR": lsr}
        self.cell(name, "TRELLIS_FF", settings | {k: f"{v} " for k, v in parameters.items()}, Q=out, CLK=self.clock, **ports)
        return out

    def chain(self, name: str, inputs, registered: bool = False, ce=None) -> list[int]:
        """A carry chain with a LUT for each pair of `inputs`; each with a flip-flop if `registered`."""
        carry, outs = None, []
        for k, (a, b) in enumerate(inputs):
            carry_out = self.net() if k + 1 < len(inputs) else None
            out = self.lut(f"{name}$CCU2_COMB{k}", a, b, mode="CCU2", FCI=carry, FCO=carry_out)
            outs.append(self.ff(f"{name}_ff{k}", out, pair=True, ce=ce) if registered else out)
            carry = carry_out
        return outs

    def ram(self, name: str, data, write, read, enable: int) -> list[int]:
        """Four bits wide, 16 deep: `data`, `write` and `read` are four bits each, `enable` one."""
        wdo, wado = [self.net() for _ in range(4)], [self.net() for _ in range(4)]
        ports = zip(WRITER, (*write, *data), strict=True)
        outputs = {f"WDO{k}": wdo[k] for k in range(4)} | {f"WADO{k}": wado[k] for k in range(4)}
        self.cell(f"{name}$RAMW_SLICE", "TRELLIS_RAMW", {}, **dict(ports), **outputs)
        outs = []
        for k in range(4):
            written = {"WD": wdo[k], "WCK": self.clock, "WRE": enable} | {f"WAD{i}": wado[i] for i in range(4)}
            outs.append(self.lut(f"{name}$DPRAM_COMB{k}", *read, mode="DPRAM", **written))
        for k in range(2):
            self.cell(f"{name}$RAMW_BLOCK{k}", "TRELLIS_COMB", {"MODE": "RAMW_BLOCK"}, F=None)
        return outs

    def block(self, name: str, kind: str, inputs, outputs, registered: bool = True) -> None:
        """A DP16KD or a MULT18X18D with data ports alone, besides its clock, which a multiplier without registers lacks."""
        a, out, clocks = ("ADA", "DOB", ("CLKA", "CLKB")) if kind == "DP16KD" else ("A", "P", ("CLK0",))
        ports = {f"{a}{i}": bit for i, bit in enumerate(inputs)} | {f"{out}{i}": bit for i, bit in enumerate(outputs)}
        modes = {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"} if kind == "DP16KD" else REGISTERED if registered else {}
        self.cell(name, kind, dict(modes), **ports, **dict.fromkeys(clocks, self.clock if registered else None))

    @property
    def document(self) -> dict:
        """A copy."""
        bits = sorted({bit for cell in self.cells.values() for ends in cell["connections"].values() for bit in ends if bit != "0"})
        nets = {f"net_{bit}": {"hide_name": 0, "bits": [bit], "attributes": {"src": "made"}} for bit in bits}
        top = {"settings": {"router": "router2", "seed": "1"}, "attributes": {"top": "1"}, "ports": {}, "netnames": nets}
        return copy.deepcopy({"creator": "test", "modules": {"library": {"cells": {}}, "top": {**top, "cells": self.cells}}})

    def packed(self, folder) -> Packed:
        path = folder / "packed.json"
        path.write_text(json.dumps(self.document))
        return Packed.read(path)


def random_netlist(
    rng, luts=60, pairs=40, singles=40, chains=(2, 4, 8, 10, 18), rams=4, memories=3, multipliers=3, products=0
) -> Netlist:
    """Logic without loops, with several control sets, a net of many pins, and constants. `products`: multipliers without
    registers."""
    made = Netlist()
    state = [made.net() for _ in range(pairs + singles)]
    data = [[made.net() for _ in range(5)] for _ in range(memories + multipliers)]
    bits = [*state, *(bit for out in data for bit in out), made.lut("constant")]
    if len(bits) < 4:
        bits += [made.lut(f"constant_{k}") for k in range(4)]

    def some(count: int) -> list[int]:
        """Mostly of the newest, so that there is something to gain from places."""
        near = [bits[-1 - int(k)] for k in rng.integers(min(12, len(bits)), size=count)]
        return [bit if rng.random() < 0.8 else bits[int(rng.integers(len(bits)))] for bit in near]

    enables, resets = some(3), some(2)
    sets = [{"ce": ce, "lsr": lsr} for ce in (None, *enables) for lsr in (None, *resets)]
    sets += [
        {"ce": enables[0], "GSR": "ENABLED"},
        {"ce": enables[0], "CEMUX": "INV"},
        {"lsr": resets[0], "SRMODE": "ASYNC"},
        {"CEMUX": "0"},
    ]

    def one() -> dict:
        return sets[int(rng.integers(len(sets)))]

    wide = bits[0]
    for k in range(luts):
        bits.append(made.lut(f"lut_{k}", *some(int(rng.integers(1, 4))), *([wide] if k % 2 else [])))
    for k, length in enumerate(chains):
        bits += made.chain(f"chain_{k}", list(zip(some(length), some(length), strict=True)), k % 2 == 0, enables[k % 3])
    for k in range(products):
        out = [made.net() for _ in range(3)]
        made.block(f"product_{k}", "MULT18X18D", some(4), out, registered=False)
        bits += out
    for k in range(rams):
        bits += made.ram(f"ram_{k}", some(4), some(4), some(4), some(1)[0])
    for k in range(pairs):
        made.ff(f"pair_{k}_ff", made.lut(f"pair_{k}", *some(3)), pair=True, q=state[k], **one())
    for k in range(singles):
        made.ff(f"single_{k}", some(1)[0], q=state[pairs + k], **one())
    for k, out in enumerate(data):
        made.block(f"block_{k}", "DP16KD" if k < memories else "MULT18X18D", some(6), out)
    return made


def arcs(kind: Kind, mode: str, port: str, speed: int = 6) -> list[tuple[str | None, float]]:
    """Through a cell: output and ns; no output where a register takes the signal. At speed 6 from the tables above, else as
    `CellDelays` reads it."""
    if speed != 6:
        return [(to, delay_of(kind, mode, port, to, speed)) for to, _ in arcs(kind, mode, port)]
    if kind == Kind.WRITER:
        return [(WRITER[port], 0.0)]
    if kind == Kind.MULTIPLIER and mode == "NONE":
        return [(f"P{k}", 3.927) for k in range(36)]
    if kind != Kind.LUT:
        return [(None, SETUP[kind].get(re.sub(r"\d+$", "", port), 0.0))]
    if port in "ABCD":
        return [("F", 0.236), ("FCO", 0.447)] if mode == "CCU2" else [("F", 0.236)]
    if port == "FCI":
        return [("F", 0.443), ("FCO", 0.071)]
    return [] if port == "WCK" else [(None, 0.392 if port == "WRE" else 0.0)]


def delay_of(kind: Kind, mode: str, port: str, output: str | None, speed: int) -> float:
    """ns of an arc at a speed grade."""
    table, name = delays(speed), re.sub(r"\d+$", "", port)
    if kind == Kind.FF:
        return table.flip_flop_setup(port)
    if kind == Kind.MEMORY:
        return table.memory_setup(name)
    if kind == Kind.MULTIPLIER:
        return table.multiplier(mode) if output else table.multiplier_setup(mode, name)
    if kind == Kind.LUT:
        return table.lut(port, output, mode == "CCU2") if output else table.ram_setup(port)
    return 0.0


def starts(speed: int) -> dict[Kind, float]:
    """ns after the clock edge, of registers with an output register; at speed 6 from the table above."""
    table = delays(speed)
    return (
        STARTS
        if speed == 6
        else {Kind.FF: table.flip_flop, Kind.MEMORY: table.memory(True), Kind.MULTIPLIER: table.multiplier("ALL")}
    )


def hops_of(packed: Packed, wire: Callable[[int, Pin, Pin], float], speed: int = 6) -> dict[int, list[tuple]]:
    """By net: (net that it leads to or -1, cell, ns of logic, ns with the wire), as the devices' tables say. `wire`: ns of a
    connection, from its number, its driver and its user."""
    number = {net.driver: k for k, net in enumerate(packed.nets)}
    hops, connection = defaultdict(list), -1
    for k, net in enumerate(packed.nets):
        for user in net.users:
            connection += 1
            if net.constant or Kind.FIXED in packed.kind[[net.driver.cell, user.cell]]:
                continue
            for output, logic in arcs(Kind(packed.kind[user.cell]), packed.mode[user.cell], user.port, speed):
                to = -1 if output is None else number.get((user.cell, output))
                if to is not None:
                    hops[k].append((to, int(packed.home[user.cell]), logic, logic + wire(connection, net.driver, user)))
    return hops


def small_fabric() -> Fabric:
    """Twelve columns and ten rows of logic, with rows of hard blocks in between."""
    sites = {
        "DP16KD": tuple(Site(x, 5, f"X{x}/Y5/EBR{i}") for i, x in enumerate((3, 5, 8, 10, 12))),
        "MULT18X18D": tuple(Site(x, 10, f"X{x}/Y10/MULT18_{i}") for i, x in enumerate((3, 4, 7, 8))),
    }
    return Fabric(tuple(range(2, 14)), (2, 3, 4, 6, 7, 8, 9, 11, 12, 13), sites)


@functools.cache
def delays(speed: int = 6) -> CellDelays:
    return CellDelays.read(cell_delays(speed))


def timing(packed: Packed, period: float = 10.0) -> TimingGraph:
    """Of speed grade 6."""
    return TimingGraph(packed, delays(), period)


def faults(document: dict, at: dict[str, tuple[int, int, int]], blocks: dict[str, str], fabric: Fabric) -> list[str]:
    """What nextpnr would refuse, from its own netlist: `at`, column, row and slot of LUTs and flip-flops; `blocks`, bels.

    The rules are those of `Arch::slices_compatible` and of the clusters that packing forms (nextpnr, ecp5/arch_place.cc, pack.cc).
    """
    cells = next(module["cells"] for module in document["modules"].values() if module["cells"])
    found = []

    def bit(name: str, port: str):
        return tuple(cells[name]["connections"].get(port, ()))

    def setting(name: str, parameter: str, default: str = "") -> str:
        return cells[name]["parameters"].get(parameter, default).strip()

    logic = {name for name, c in cells.items() if c["type"] in ("TRELLIS_COMB", "TRELLIS_FF")}
    if at.keys() != logic:
        found.append(f"placed but {len(logic ^ at.keys())} cells")
    held, slices, tiles = defaultdict(list), defaultdict(set), defaultdict(set)
    driver = {bit(name, port): name for name in logic for port in ("F", "FCO") if bit(name, port)}
    for name, (x, y, slot) in at.items():
        kind = cells[name]["type"]
        if x not in fabric.columns or y not in fabric.rows or not 0 <= slot < 8:
            found.append(f"{name} is outside")
        held[kind, x, y, slot].append(name)
        if kind == "TRELLIS_FF":
            enable = setting(name, "CEMUX", "CE")
            slices[x, y, slot // 2].add((bit(name, "CE"), enable in "01", enable in ("INV", "0"), setting(name, "GSR", "ENABLED")))
            tiles[x, y].add((bit(name, "CLK"), bit(name, "LSR"), setting(name, "SRMODE") == "ASYNC"))
            if bit(name, "DI") and at[driver[bit(name, "DI")]] != (x, y, slot):
                found.append(f"{name} is not with its LUT")
        elif setting(name, "MODE") == "CCU2":
            before = driver.get(bit(name, "FCI"))
            ahead = (x, y, slot - 1) if slot else (x - 1, y, 7)
            if slot if before is None else at[before] != ahead:
                found.append(f"{name} is not in its chain")
        base, _, part = name.rpartition("$")
        parts = [f"DPRAM_COMB{k}" for k in range(4)] + ["RAMW_BLOCK0", "RAMW_BLOCK1"]
        if part in parts and (slot != parts.index(part) or at[f"{base}$DPRAM_COMB0"][:2] != (x, y)):
            found.append(f"{name} is not in its RAM")
    found += [f"{names} in one slot" for names in held.values() if len(names) > 1]
    for (kind, x, y, slot), names in held.items():
        other = held.get((kind, x, y, slot ^ 1)) if kind == "TRELLIS_COMB" else None
        if other and (setting(names[0], "MODE") == "CCU2") != (setting(other[0], "MODE") == "CCU2"):
            found.append(f"{names[0]} is in a slice with {other[0]}")
    found += [f"enables differ in {where}" for where, keys in slices.items() if len(keys) > 1]
    found += [f"controls differ in {where}" for where, keys in tiles.items() if len(keys) > 1]
    for kind, sites in fabric.sites.items():
        mine = [blocks.get(name) for name, c in cells.items() if c["type"] == kind]
        if len(set(mine)) < len(mine) or not set(mine) <= {site.bel for site in sites}:
            found.append(f"{kind} on {mine}")
    return found


def nets_of(problem: Problem) -> list[list[int]]:
    """Cells of each net that has several units, the writer of a RAM standing for its first LUT; from the packed netlist."""
    nets = []
    for net in problem.packed.nets:
        cells = {int(problem.packed.home[pin.cell]) for pin in (net.driver, *net.users)}
        cells = {cell for cell in cells if problem.packed.kind[cell] != Kind.FIXED}
        if len({problem.unit[cell] for cell in cells}) > 1:
            nets.append(sorted(cells))
    return nets


def half_perimeter(members, x, y) -> float:
    return sum(max(v[m] for m in members) - min(v[m] for m in members) for v in (x, y))
