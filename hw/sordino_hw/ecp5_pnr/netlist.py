"""The netlist as nextpnr has packed it, and handed back with a place for every cell and wires for every net.

nextpnr packs (`--pack-only --write`), placer and router choose, and nextpnr checks what it reads back (`--no-pack --no-place`).
"""

import enum
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

__all__ = ["Kind", "Member", "Net", "Packed", "Pin"]

SLOTS = 8
"""Slots of a logic tile: a LUT and a flip-flop each, two slots to a slice."""


class Kind(enum.IntEnum):
    """What the placer tells apart."""

    LUT = 0
    FF = 1
    MEMORY = 2
    MULTIPLIER = 3
    WRITER = 4
    """The write port of a distributed RAM, in the tile of its LUTs."""
    FIXED = 5
    """Pins, and what nextpnr has placed as it packed."""


_KINDS = {
    "TRELLIS_COMB": Kind.LUT,
    "TRELLIS_FF": Kind.FF,
    "DP16KD": Kind.MEMORY,
    "MULT18X18D": Kind.MULTIPLIER,
    "TRELLIS_RAMW": Kind.WRITER,
}
_CLOCK_BUFFER = "DCCA"
_SHARED = tuple(f"{name}{i}" for name in ("CLK", "CE", "RST") for i in range(4))
"""Ports that the multipliers of a block have in common."""


class Pin(NamedTuple):
    cell: int
    port: str


class Net(NamedTuple):
    """A net with a driver; `constant` if that is a LUT without inputs."""

    driver: Pin
    users: tuple[Pin, ...]
    constant: bool


class Member(NamedTuple):
    """A LUT of a macro: `column` tiles right of the macro's first, in `slot` of that tile."""

    column: int
    slot: int
    cell: int


@dataclass(frozen=True)
class Packed:
    """Cells, nets, and what belongs together.

    names : cell names, in the order of all arrays over cells
    kind : (cells,) of `Kind`
    mode : of a LUT: "" or LOGIC, CCU2 (carry), DPRAM, RAMW_BLOCK (taken by a distributed RAM's write port); of a multiplier: NOREG
        where it has no register
    nets : those with a driver, clock networks left out
    macros : LUTs whose places follow from one another: carry chains and distributed RAMs
    macro : (cells,) index into `macros`, or -1; flip-flops fed by a macro's LUT belong to it
    partner : (cells,) the flip-flop that takes a LUT's output in its slot, and the other way around, or -1
    enable, control : (cells,) of flip-flops: equal numbers may share a slice, and a tile; -1 for other cells
    home : (cells,) the cell that is in the same tile by construction, else the cell itself
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
        document = json.loads(path.read_text())
        cells: dict[str, Any] = _top(document)["cells"]
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

    def bel(self, cell: int, bels: Mapping[int, str]) -> str:
        """The basic element of a cell: that of `bels`, or where it is fixed."""
        attributes = _top(self.document)["cells"][self.names[cell]]["attributes"]
        return str(bels[cell] if cell in bels else attributes.get("BEL", attributes.get("NEXTPNR_BEL")))

    def is_clock_buffer(self, cell: int) -> bool:
        return bool(_top(self.document)["cells"][self.names[cell]]["type"] == _CLOCK_BUFFER)

    def write(self, path: Path, bels: Mapping[int, str], routes: Mapping[int, str], settings: Mapping[str, str]) -> None:
        """The netlist with a basic element for each cell, see `bel`, and wires for the nets whose numbers are in `routes`. What nextpnr
        finds in `settings`, such as `router` and `target_freq` (in Hz), overrides its command line."""
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
    if cell["type"] == "MULT18X18D":
        return "" if cell["connections"].get("CLK0") else "NOREG"
    return str(cell["parameters"].get("MODE", "")).strip()


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
        if cell["type"] == _CLOCK_BUFFER or not users[bit]:  # the clock network has wires of its own
            continue
        constant = kind[driver.cell] == Kind.LUT and not any(cell["connections"].get(port) for port in ("A", "B", "C", "D", "FCI"))
        nets.append(Net(driver, tuple(users[bit]), constant))
    return tuple(nets)


def _chains(nets: tuple[Net, ...], mode: tuple[str, ...]) -> tuple[tuple[Member, ...], ...]:
    """Carry chains: from slot to slot, and on into the tile to the right."""
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
    """Distributed RAMs: four LUTs, and two that their write port takes."""
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
    """What nextpnr compares of the flip-flops of a slice, and of a tile."""
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
        raise ToolError(f"{path.name}: {inverted[0]} has an inverted clock, reset or write enable, which the placer does not know.")
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
        if k == Kind.MULTIPLIER and cells[name]["connections"].get("CLK0")
    }
    if len(blocks) > 1:
        raise ToolError(
            f"{path.name}: its multipliers have {len(blocks)} different sets of clock, enable and reset; the placer takes one, "
            "because multipliers of a block share those wires."
        )
