"""One ECP5 device, from nextpnr's chip database: tiles, wires, pips, delays, and the wires at the pins of bels.

Bel is nextpnr's word for a basic element: a place for one cell. Tiles of one type share their tables.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import ToolError
from .chipdb import BEL, CHIP, SPEED_GRADE, TILE_TYPE, WIRE, Image

__all__ = ["SPEEDS", "Chip"]

SPEEDS = (6, 7, 8)
"""Speed grades, in the order of the database, in which 8 for the 5G devices follows."""

_GRADES = 4

_DSP_OR_RAM_WIRE = re.compile(r"J?(\w+)_(?:EBR|MULT18)")
_SLICE_WIRE = re.compile(r"([ABCDFMQ]|DI|CE|LSR|CLK|WRE|WCK|WD)(?:\d|(?<=WD)\d[AB])")
_PAD_PORT = {"PADDI": "O", "PADDO": "I"}


@dataclass(frozen=True)
class Chip:
    """An opened database.

    columns, rows : of tiles; a tile's number is row * columns + column
    type_of : (tiles,) int32, the type of each tile
    """

    image: Image
    columns: int
    rows: int
    type_of: NDArray[np.int32]

    @classmethod
    def read(cls, path: Path) -> "Chip":
        """Raises `ToolError` for a file that is no database, or one of another version of nextpnr."""
        image = Image(path)
        root = image.pointer(0)
        columns, rows, tiles = (image.value(root, CHIP, field) for field in ("width", "height", "tiles"))
        if not (0 < columns < 1000 and 0 < rows < 1000 and tiles == columns * rows):
            raise image.error()
        types, grades = (image.slice(root, CHIP, field)[1] for field in ("tile_types", "speed_grades"))
        type_of = image.table(root, CHIP, "type_of_tile")
        if len(type_of) != tiles or type_of.min() < 0 or type_of.max() >= types or grades != _GRADES:
            raise image.error()
        return cls(image, columns, rows, type_of.astype(np.int32))

    @property
    def name(self) -> str:
        """Of the file."""
        return self.image.name

    def wires(self, kind: int) -> tuple[str, ...]:
        """Names of the wires of a type of tile."""
        at, count = self.image.slice(self._tile_type(kind), TILE_TYPE, "wires")
        return tuple(self.image.text(at + i * WIRE.size + WIRE.offset("name")) for i in range(count))

    def pips(self, kind: int) -> NDArray[np.void]:
        """(pips,) of `chipdb.PIP`, those of a type of tile."""
        return self.image.table(self._tile_type(kind), TILE_TYPE, "pips")

    def pip_delays(self, speed: int) -> NDArray[np.void]:
        """(classes,) of `chipdb.PIP_DELAY`, ps. Raises `ToolError` for a speed grade that is not one of `SPEEDS`."""
        if speed not in SPEEDS:
            raise ToolError(f"there is no ECP5 of speed grade {speed}: take one of {', '.join(map(str, SPEEDS))}.")
        grade = self.image.element(self.image.pointer(0), CHIP, [("speed_grades", SPEEDS.index(speed))])
        return self.image.table(grade, SPEED_GRADE, "pip_delays")

    def relative_delay(self, speed: int) -> float:
        """How long wires take at a speed grade, grade 6 being 1: over all delay classes, weighted by how many pips have each."""
        tiles = np.bincount(self.type_of)
        weight = np.zeros(len(self.pip_delays(speed)))
        for kind in np.flatnonzero(tiles):
            classes = self.pips(int(kind))["delay_class"]
            if len(classes) and (classes.min() < 0 or classes.max() >= len(weight)):
                raise self.image.error()
            weight += tiles[kind] * np.bincount(classes, minlength=len(weight))
        return float((weight * self.pip_delays(speed)["max"]).sum() / (weight * self.pip_delays(SPEEDS[0])["max"]).sum())

    def bel_names(self, kind: int) -> tuple[str, ...]:
        """Names of the bels of a type of tile."""
        at, count = self.image.slice(self._tile_type(kind), TILE_TYPE, "bels")
        return tuple(self.image.text(at + i * BEL.size + BEL.offset("name")) for i in range(count))

    def bels(self, kind: int) -> dict[str, dict[str, int]]:
        """Bels of a type of tile: name -> port -> number of its wire. Pins in other tiles, those of the clock network, are left
        out."""
        wires, at = self.wires(kind), self._tile_type(kind)
        found: dict[str, dict[str, int]] = {}
        for index, bel in enumerate(self.bel_names(kind)):
            ports = found.setdefault(bel, {})
            for pin in self.image.table(self.image.element(at, TILE_TYPE, [("bels", index)]), BEL, "pins"):
                if pin["x"] or pin["y"]:
                    continue
                if not 0 <= pin["wire"] < len(wires):
                    raise self.image.error()
                if port := _port(bel, wires[pin["wire"]], bool(pin["direction"])):
                    ports[port] = int(pin["wire"])
        return found

    def _tile_type(self, kind: int) -> int:
        return self.image.element(self.image.pointer(0), CHIP, [("tile_types", kind)])


def _port(bel: str, wire: str, output: bool) -> str | None:
    """The port of a cell that has this wire at a bel. nextpnr's names of ports are in the program, not in the database."""
    if match := _DSP_OR_RAM_WIRE.fullmatch(wire):
        return match[1]
    if wire.endswith("_PIO"):
        return _PAD_PORT.get(wire.removesuffix("_PIO").lstrip("J")[:-1])
    name = wire.removesuffix("_SLICE")
    if bel.endswith("RAMW"):  # the inputs of LUTs 4 and 5 of a tile are its inputs
        if output:
            return name.rstrip("C")
        return f"{match[1]}{int(match[2]) - 4}" if (match := re.fullmatch(r"([ABCD])([45])", name)) else None
    if name.startswith("FC"):
        return "FCO" if output else "FCI"
    if name.startswith("WAD"):
        return name[:4]
    match = _SLICE_WIRE.fullmatch(name)  # not F5A and the like, which join LUTs
    return match[1] if match and (match[1] in ("F", "Q")) == output else None
