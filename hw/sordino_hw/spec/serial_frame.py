"""Frames of the serial port: what a host sends, and what the port answers. See docs/reference/serial.md."""

from .isa import Region

__all__ = ["ANSWER", "FRAME", "LOST", "WRITE", "frame"]

FRAME, ANSWER = 11, 8
"""Bytes of a frame, and of an answer."""
WRITE = 0x10
"""Command: write a row of the `Region` in its low four bits."""
LOST = 8
"""Bit of STATUS: something was lost."""


def frame(region: Region, row: int, value: int | None = None) -> bytes:
    """The frame that writes `value` to a row, or, without one, asks for it."""
    command = region.value | (0 if value is None else WRITE)
    return bytes([command]) + row.to_bytes(2, "little") + (value or 0).to_bytes(8, "little")
