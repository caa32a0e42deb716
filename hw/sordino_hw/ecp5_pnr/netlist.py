"""The netlist as nextpnr has packed it, and handed back with a bel for every cell and wires for every net.

nextpnr packs (`--pack-only --write`), placer and router choose, and nextpnr checks what it reads back (`--no-pack --no-place`).
"""

import enum
import functools
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import ToolError
from ..spec.files import replacing
from .fabric import SLOTS

__all__ = ["Kind", "Member", "Net", "Packed", "Pin"]


class Kind(enum.IntEnum):
    """What the placer tells apart. Block RAMs and multipliers are hard blocks."""

    LUT = 0
    FF = 1
    MEMORY = 2
    MULTIPLIER = 3
    WRITER = 4
    """The write port of a distributed RAM, in the tile of its LUTs."""
    FIXED = 5
    """Pads, clock buffers, and all else that nextpnr has placed as it packed."""


_KINDS = {
    "TRELLIS_COMB": Kind.LUT,
    "TRELLIS_FF": Kind.FF,
    "DP16KD": Kind.MEMORY,
    "MULT18X18D": Kind.MULTIPLIER,
    "TRELLIS_RAMW": Kind.WRITER,
}
_CLOCK_BUFFER = "DCCA"
_SHARED = tuple(f"{name}{i}" for name in ("CLK", "CE", "RST") for i in range(4))
"""Ports whose wires the four multipliers of a DSP block share."""
_OUTPUT_REGISTERS = ("REGMODE_A", "REGMODE_B")


class Pin(NamedTuple):
    cell: int
    port: str


class Net(NamedTuple):
    """A net with a driver; `constant` if that is a LUT without inputs."""

    driver: Pin
    users: tuple[Pin, ...]
    constant: bool


class Member(NamedTuple):
    """A LUT of a placement macro: `column` logic tiles to the right of the macro's first, in `slot` of that tile."""

    column: int
    slot: int
    cell: int


@dataclass(frozen=True)
class Packed:
    """Cells, nets, and what belongs together.

    names : cell names, in the order of all arrays over cells
    kind : (cells,) int8, of `Kind`
    mode : of a LUT: "" or LOGIC, CCU2 (carry), DPRAM, RAMW_BLOCK (occupied by a distributed RAM's write port); of a multiplier:
        which registers it uses, ALL, INPUT, OUTPUT or NONE; of a block RAM: which ports have an output register, "", A, B or AB
    nets : those with a driver, the clock network left out
    macros : placement macros, LUTs whose places follow from one another: carry chains and distributed RAMs
    macro : (cells,) int32 index into `macros`, or -1; flip-flops fed by a macro's LUT belong to it
    partner : (cells,) int32, the flip-flop that takes a LUT's output in its slot, and the other way around, or -1
    enable, control : (cells,) int32, of flip-flops: equal numbers may share a slice, and a logic tile; -1 for other cells
    home : (cells,) int32, the cell that is in the same tile by construction, else the cell itself
    """

    names: tuple[str, ...]
    kind: NDArray[np.int8]
    mode: tuple[str, ...]
    nets: tuple[Net, ...]
    macros: tuple[tuple[Member, ...], ...]
    macro: NDArray[np.int32]
    partner: NDArray[np.int32]
    enable: NDArray[np.int32]
    control: NDArray[np.int32]
    home: NDArray[np.int32]
    document: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Packed":
        """From the JSON that nextpnr writes after packing for the ECP5. Raises `ToolError` for cells that are not understood."""
        try:
            document = json.loads(path.read_text())
            cells: dict[str, Any] = _top(document)["cells"]
        except OSError as error:
            raise ToolError(f"cannot read the netlist {path}: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
            raise ToolError(f"{path.name} is not a netlist: give what nextpnr-ecp5 writes with --pack-only --write.") from None
        names = tuple(cells)
        index = {name: i for i, name in enumerate(names)}
        kind = np.array([_KINDS.get(cells[name]["type"], Kind.FIXED) for name in names], np.int8)
        mode = tuple(_mode(cells[name]) for name in names)
        for name, k in zip(names, kind, strict=True):
            if k == Kind.FIXED and not {"BEL", "NEXTPNR_BEL"} & cells[name]["attributes"].keys():
                raise ToolError(
                    f"{path.name}: {name} is of type {cells[name]['type']}, which the placer does not know, and nextpnr has not placed "
                    "it. Give it a BEL attribute, or leave it out of the design."
                )
        nets = _nets(cells, names, kind)
        macros = _chains(nets, mode) + _rams(names, index)
        macro = np.full(len(names), -1, np.int32)
        for number, members in enumerate(macros):
            macro[[member.cell for member in members]] = number
        partner = np.full(len(names), -1, np.int32)
        for net in nets:
            for user in net.users:
                if user.port == "DI":
                    partner[user.cell], partner[net.driver.cell] = net.driver.cell, user.cell
                    macro[user.cell] = macro[net.driver.cell]
        home = np.arange(len(names), dtype=np.int32)
        for i in np.flatnonzero(kind == Kind.WRITER):
            home[i] = index[names[i].removesuffix("$RAMW_SLICE") + "$DPRAM_COMB0"]
        enable, control = _control_sets(cells, names, kind)
        _check(path, cells, names, kind, macros)
        return cls(names, kind, mode, nets, macros, macro, partner, enable, control, home, document)

    @functools.cached_property
    def _cells(self) -> dict[str, Any]:
        return dict(_top(self.document)["cells"])

    @functools.cached_property
    def _net_names(self) -> dict[int, str]:
        return {bit: name for name, net in _top(self.document)["netnames"].items() for bit in net["bits"] if isinstance(bit, int)}

    def description(self, cell: int) -> dict[str, Any]:
        """A cell as the file has it."""
        return dict(self._cells[self.names[cell]])

    def net_name(self, bit: int) -> str:
        """The name of the net that the file gives this number."""
        return self._net_names.get(bit, f"net {bit}")

    def bel(self, cell: int, bels: Mapping[int, str]) -> str:
        """The bel of a cell: that of `bels`, or where it is fixed."""
        attributes = self._cells[self.names[cell]]["attributes"]
        return str(bels[cell] if cell in bels else attributes.get("BEL", attributes.get("NEXTPNR_BEL")))

    def is_clock_buffer(self, cell: int) -> bool:
        """Whether the cell drives the clock network; nextpnr routes the net in front of it, too."""
        return bool(self._cells[self.names[cell]]["type"] == _CLOCK_BUFFER)

    def write(self, path: Path, bels: Mapping[int, str], routes: Mapping[int, str], settings: Mapping[str, str]) -> None:
        """The netlist with a bel for each cell, see `bel`, and wires for the nets whose numbers are in `routes`. What nextpnr finds
        in `settings`, such as `router` and `target_freq` (in Hz), overrides its command line. Raises `ToolError` if it cannot be
        written."""
        top = _top(self.document)
        for cell, name in enumerate(self.names):
            attributes = top["cells"][name]["attributes"]
            attributes["NEXTPNR_BEL"] = self.bel(cell, bels)
            attributes.pop("BEL", None)
        names = {net["bits"][0]: net for net in top["netnames"].values()}
        for number, route in routes.items():
            driver = self.nets[number].driver
            bit = top["cells"][self.names[driver.cell]]["connections"][driver.port][0]
            names[bit]["attributes"]["ROUTING"] = route
        top["settings"].update(settings)
        with replacing(path, ToolError) as temporary:
            temporary.write_text(json.dumps(self.document))


def _top(document: dict[str, Any]) -> dict[str, Any]:
    return next(module for module in document["modules"].values() if module.get("cells"))


def _mode(cell: dict[str, Any]) -> str:
    def parameter(name: str, default: str) -> str:
        return str(cell["parameters"].get(name, default)).strip()

    if cell["type"] == "MULT18X18D":
        # As nextpnr has it: inputs count as registered only where both are.
        inputs = all(parameter(f"REG_INPUT{side}_CLK", "NONE") != "NONE" for side in "AB")
        output = parameter("REG_OUTPUT_CLK", "NONE") != "NONE"
        return ("ALL" if inputs else "OUTPUT") if output else ("INPUT" if inputs else "NONE")
    if cell["type"] == "DP16KD":
        return "".join(name[-1] for name in _OUTPUT_REGISTERS if parameter(name, "NOREG") == "OUTREG")
    return parameter("MODE", "")


def _nets(cells: dict[str, Any], names: tuple[str, ...], kind: NDArray[np.int8]) -> tuple[Net, ...]:
    drivers: dict[int, Pin] = {}
    users: dict[int, list[Pin]] = defaultdict(list)
    for i, name in enumerate(names):
        directions = cells[name]["port_directions"]
        for port, bits in cells[name]["connections"].items():
            for bit in bits:
                if isinstance(bit, int):
                    if directions[port] == "output":
                        drivers[bit] = Pin(i, port)
                    elif directions[port] == "input":
                        users[bit].append(Pin(i, port))
    nets = []
    for bit, driver in drivers.items():
        cell = cells[names[driver.cell]]
        if cell["type"] == _CLOCK_BUFFER or not users[bit]:  # nextpnr routes the clock network, which has wires of its own
            continue
        constant = kind[driver.cell] == Kind.LUT and not any(cell["connections"].get(port) for port in ("A", "B", "C", "D", "FCI"))
        nets.append(Net(driver, tuple(users[bit]), constant))
    return tuple(nets)


def _chains(nets: tuple[Net, ...], mode: tuple[str, ...]) -> tuple[tuple[Member, ...], ...]:
    """Carry chains: from slot to slot, and on into the logic tile to the right."""
    following = {net.driver.cell: user.cell for net in nets if net.driver.port == "FCO" for user in net.users if user.port == "FCI"}
    heads = [i for i, m in enumerate(mode) if m == "CCU2"]
    inner = set(following.values())
    chains = []
    for head in heads:
        if head in inner:
            continue
        chain = [head]
        while chain[-1] in following:
            chain.append(following[chain[-1]])
        chains.append(tuple(Member(k // SLOTS, k % SLOTS, cell) for k, cell in enumerate(chain)))
    return tuple(chains)


def _rams(names: tuple[str, ...], index: dict[str, int]) -> tuple[tuple[Member, ...], ...]:
    """Distributed RAMs: four LUTs, and two that their write port occupies."""
    rams = []
    for name in names:
        if name.endswith("$RAMW_SLICE"):
            base = name.removesuffix("$RAMW_SLICE")
            parts = [f"{base}$DPRAM_COMB{k}" for k in range(4)] + [f"{base}$RAMW_BLOCK{k}" for k in range(2)]
            rams.append(tuple(Member(0, slot, index[part]) for slot, part in enumerate(parts)))
    return tuple(rams)


def _control_sets(
    cells: dict[str, Any], names: tuple[str, ...], kind: NDArray[np.int8]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What nextpnr compares of the flip-flops of a slice, and of a logic tile."""
    numbers: tuple[dict[Any, int], dict[Any, int]] = ({}, {})
    sets = np.full((2, len(names)), -1, np.int32)
    for i in np.flatnonzero(kind == Kind.FF):
        cell = cells[names[i]]

        def value(name: str, default: str, cell: dict[str, Any] = cell) -> str:
            return str(cell["parameters"].get(name, default)).strip()

        def net(port: str, cell: dict[str, Any] = cell) -> tuple[Any, ...]:
            return tuple(cell["connections"].get(port, ()))

        enabled = value("CEMUX", "CE")
        keys = (
            (net("CE"), enabled in ("0", "1"), enabled in ("INV", "0"), value("GSR", "ENABLED")),
            (net("CLK"), net("LSR"), value("CLKMUX", "CLK"), value("LSRMUX", "LSR") == "INV", value("SRMODE", "") == "ASYNC"),
        )
        for k in range(2):
            sets[k, i] = numbers[k].setdefault(keys[k], len(numbers[k]))
    return sets[0], sets[1]


def _check(
    path: Path,
    cells: dict[str, Any],
    names: tuple[str, ...],
    kind: NDArray[np.int8],
    macros: tuple[tuple[Member, ...], ...],
) -> None:
    """Raises `ToolError` for what packs, but is placed by rules that this placer does not know."""
    inverted = [
        name
        for name, k in zip(names, kind, strict=True)
        if any(
            str(cells[name]["parameters"].get(mux, "")).strip() in ("INV", "0") for mux in ("CLKMUX", "LSRMUX", "WCKMUX", "WREMUX")
        )
        and k in (Kind.LUT, Kind.FF)
    ]
    if inverted:
        raise ToolError(
            f"{path.name}: {inverted[0]} has an inverted clock, reset or write enable, which the placer does not know. "
            "Invert a reset or an enable in logic; bring an inverted clock over a DCCA of its own."
        )
    wide = [
        name
        for name, k in zip(names, kind, strict=True)
        if k == Kind.LUT and any(cells[name]["connections"].get(p) for p in ("F1", "FXA", "FXB"))
    ]
    if wide:
        raise ToolError(f"{path.name}: {wide[0]} is part of a LUT of five inputs or more: synthesise with -nowidelut.")
    placed = {member.cell for members in macros for member in members}
    loose = [
        name
        for i, name in enumerate(names)
        if kind[i] == Kind.LUT and cells[name]["parameters"].get("MODE") in ("CCU2", "DPRAM") and i not in placed
    ]
    if loose:
        raise ToolError(f"{path.name}: {loose[0]} belongs to no carry chain and no distributed RAM that the placer can find.")
    blocks = {
        tuple(tuple(cells[name]["connections"].get(port, ())) for port in _SHARED)
        for name, k in zip(names, kind, strict=True)
        if k == Kind.MULTIPLIER and _mode(cells[name]) != "NONE"
    }
    if len(blocks) > 1:
        raise ToolError(
            f"{path.name}: its multipliers have {len(blocks)} different sets of clock, enable and reset; the placer takes one, "
            "because the multipliers of a DSP block share those wires. Give all of them the same, or make the others of logic."
        )
