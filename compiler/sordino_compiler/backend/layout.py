"""Where channels lie: the channel -> slot map of every value, and which values share memory.

Slot s of a pixel is lane `s % lanes` of word `s // lanes` of that pixel ("word column"). A convolution writes any slots,
since its weight image says which lane holds which channel, and reads any slots for the same reason. A vector
operation works lane by lane, so its output has the lanes of its input. A concatenation is an allocation: its parts are
written into one buffer, each from a word column of its own. Slices and flattened values are views.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..graph import Concat, Conv, Depthwise, Flatten, Graph, MaxPool, Node, Slice

__all__ = ["Place", "Relayout", "Slots", "columns", "compact", "is_view", "natural", "output_slots", "packed", "place", "places"]

Slots = tuple[int, ...]


@dataclass(frozen=True)
class Relayout(Conv):
    """An exact copy of a value into the given slots: a 1x1 convolution with the identity as weights."""

    slots: Slots = ()

    kind = "relayout"


@dataclass(frozen=True)
class Place:
    """A value inside its buffer; lengths in words, counted from the buffer's first word."""

    buffer: str
    """Name of the value that owns the memory."""
    row_pitch: int
    pixel_pitch: int
    slots: Slots
    fold: int = 1
    """Neighbouring pixels of a row that share a word (see `fold`)."""


def is_view(node: Node) -> bool:
    """Whether a node takes no instruction: its value is a part or another reading of its inputs' memory."""
    return isinstance(node, Concat | Slice | Flatten)


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


def output_slots(node: Node, inputs: list[Place], lanes: int) -> Slots:
    """Slots of the value that a node (not a slice or a flatten) defines, from the first word of its own memory."""
    if isinstance(node, Relayout):
        return node.slots
    if isinstance(node, Conv):
        if node.groups == 1 and node.residual_weight is not None:
            return compact(inputs[1].slots, lanes)
        return packed(len(node.weight), node.groups, lanes)
    if isinstance(node, Depthwise | MaxPool):
        return compact(inputs[0].slots, lanes)
    if isinstance(node, Concat):
        slots: list[int] = []
        for part in inputs:
            start = width(tuple(slots), lanes) if slots else 0
            slots += [start * lanes + s for s in compact(part.slots, lanes)]
        return tuple(slots)
    return natural(node.out.shape[0])


def place(node: Node, inputs: list[Place], input_shapes: list[tuple[int, int, int]], lanes: int, fold: int = 1) -> Place:
    """The place of a node's value as long as it owns its memory; the place in the input's memory for a view.

    An input has `fold` pixels in a word.
    """
    if isinstance(node, Slice):
        x = inputs[0]
        return Place(x.buffer, x.row_pitch, x.pixel_pitch, x.slots[node.start : node.stop])
    if isinstance(node, Flatten):
        (c, h, w), x = input_shapes[0], inputs[0]
        columns = [i // x.fold * x.pixel_pitch * lanes + i % x.fold * c for i in range(w)]
        pixels = [y * x.row_pitch * lanes + column for y in range(h) for column in columns]
        slots = tuple(pixel + s for s in x.slots for pixel in pixels)
        pitch = width(slots, lanes)
        return Place(x.buffer, pitch, pitch, slots)
    slots = output_slots(node, inputs, lanes)
    pitch = width(slots, lanes)
    return Place(node.out.name, -(-node.out.shape[2] // fold) * pitch, pitch, slots, fold)


def places(graph: Graph, folds: Mapping[str, int]) -> dict[str, Place]:
    """The place of every value. Every part of a concatenation must be free to live in it (see `passes.copy_parts`).

    `folds`: pixels in a word of the inputs that are folded.
    """
    lanes, values = graph.arch.lanes, graph.values
    own: dict[str, Place] = {}
    for n in graph.nodes:
        shapes = [values[i].shape for i in n.inputs]
        own[n.out.name] = place(n, [own[i] for i in n.inputs], shapes, lanes, folds.get(n.out.name, 1))
    homes: dict[str, tuple[str, int]] = {}
    for n in graph.nodes:
        if isinstance(n, Concat):
            start = 0
            for part in n.inputs:
                homes[part] = (n.out.name, start)
                start += width(own[part].slots, lanes)
    out: dict[str, Place] = {}
    for n in graph.nodes:
        if isinstance(n, Slice | Flatten):
            out[n.out.name] = place(n, [out[i] for i in n.inputs], [values[i].shape for i in n.inputs], lanes)
            continue
        name, first = n.out.name, 0
        while name in homes:
            name, start = homes[name]
            first += start
        buffer = own[name]
        slots = tuple(first * lanes + s for s in own[n.out.name].slots)
        out[n.out.name] = Place(name, buffer.row_pitch, buffer.pixel_pitch, slots, buffer.fold)
    return out
