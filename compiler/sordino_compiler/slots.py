"""Where channels lie: the channel -> slot map of a value.

Slot s of a pixel is lane `s % lanes` of word `s // lanes` of that pixel ("word column"). A convolution writes any slots,
since its weight image says which lane holds which channel, and reads any slots for the same reason. A vector
operation works lane by lane, so its output has the lanes of its input. A concatenation is an allocation: its parts are
written into one buffer, each from a word column of its own. Slices and flattened values are readings of their input's buffer.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Layout", "Slots", "columns", "compact", "natural", "owner", "packed", "width"]

Slots = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """A value inside its buffer; lengths in words, counted from the buffer's first word."""

    buffer: str
    """Name of the value that owns the memory."""
    row_pitch: int
    pixel_pitch: int
    slots: Slots
    fold: int = 1
    """Neighbouring pixels of a row that share a word (see `schedule.folding`)."""


def columns(slots: Slots, lanes: int) -> list[int]:
    """The word columns that hold at least one channel, ascending."""
    return sorted({s // lanes for s in slots})


def width(slots: Slots, lanes: int) -> int:
    """Words of a pixel, counted from its first word."""
    return max(slots) // lanes + 1


def natural(channels: int) -> Slots:
    """Channel c in slot c."""
    return tuple(range(channels))


def packed(channels: int, groups: int, lanes: int) -> Slots:
    """Slots of a grouped convolution's output: no word holds a part of a group beside another group's channels.

    So every event of an operation feeds equally many channels. `natural` wherever group and word sizes divide.
    """
    size = channels // groups
    in_word = max(lanes // size, 1)
    words = -(-size // lanes)
    group, member = np.divmod(np.arange(channels), size)
    slots = (group // in_word * words) * lanes + group % in_word * size + member
    return tuple(int(s) for s in slots)


def compact(slots: Slots, lanes: int) -> Slots:
    """The same lanes, in words without gaps between them: the layout of a vector operation's output."""
    index = {column: i for i, column in enumerate(columns(slots, lanes))}
    return tuple(index[s // lanes] * lanes + s % lanes for s in slots)


def owner(name: str, columns: int, slots: Slots, lanes: int, fold: int = 1) -> Layout:
    """The layout of a value, so many columns wide, in memory of its own, `fold` pixels in a word."""
    pitch = width(slots, lanes)
    return Layout(name, -(-columns // fold) * pitch, pitch, slots, fold)
