"""What flows between the stages of the core. Each layout is one word of a stream or a FIFO."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

from .. import isa
from ..arch import OCC_WIDTH, ArchConfig

__all__ = ["DrainDescriptor", "Event", "FetchDescriptor", "Kind", "Row", "SegmentEntry", "Span", "SpanRange", "Word"]

ADDR = isa.ADDR_BITS
INDEX = 14
"""Bits of a signed input row or column index, one more than IX0 has: it walks past the far edge."""


class Kind(enum.Enum, shape=unsigned(2)):
    """What the lanes do with an item."""

    EVENT = 0
    MAC = 1
    MAC2 = 2
    MAX = 3


def _registers(names):
    shapes = {name: isa.REGISTERS[name] for name in names}
    return {name: signed(r.bits) if r.signed else unsigned(r.bits) for name, r in shapes.items()}


FETCH_REGISTERS = tuple(isa.REGISTERS)[: isa.REGISTERS["R_W"].index + 1]
DRAIN_REGISTERS = ("OW", *tuple(isa.REGISTERS)[isa.REGISTERS["O_BASE"].index :])


class FetchDescriptor(data.StructLayout):
    """An operation, as the walker needs it."""

    def __init__(self):
        super().__init__({**_registers(FETCH_REGISTERS), "kind": Kind, "dense": 1, "residual": 1})


class DrainDescriptor(data.StructLayout):
    """An operation, as the PPU needs it."""

    def __init__(self):
        super().__init__({**_registers(DRAIN_REGISTERS), "source": 1, "sink": 1, "table": 1})


_TAGS = {"kind": Kind, "dense": 1, "end": 1, "fin": 1}
"""`end`: the last item of an output; `fin`: of the last output of an operation."""


class Span(data.StructLayout):
    """A span before clipping: `ix` is its first column, `room` the columns from there to the right edge."""

    def __init__(self):
        super().__init__(
            {
                "a": ADDR,
                "ix": signed(INDEX),
                "room": signed(INDEX),
                "inside": 1,
                "w": ADDR,
                "m": ADDR,
                "span": 8,
                "words": 8,
                "w_word": 8,
                **_TAGS,
            }
        )


class SpanRange(data.StructLayout):
    """A clipped span: words `start` to `stop` of activation memory; `q` is the span's word index of `start`."""

    def __init__(self):
        super().__init__({"start": ADDR, "stop": ADDR + 1, "q": 16, "w": ADDR, "m": ADDR, "w_word": 8, **_TAGS})


class RowTag(data.StructLayout):
    """What accompanies a row of occupancy bits; `w` and `m` belong to its bit 0."""

    def __init__(self):
        super().__init__({"row": ADDR - (OCC_WIDTH - 1).bit_length(), "w": ADDR, "m": ADDR, "w_word": 8, **_TAGS})


class Row(data.StructLayout):
    """A row of occupancy: `bits` are the words to read, `skipped` counts the empty ones within the span."""

    def __init__(self):
        super().__init__({"tag": RowTag(), "bits": OCC_WIDTH, "skipped": OCC_WIDTH.bit_length()})


_ITEM = {"w": ADDR, "kind": Kind, "null": 1, "end": 1, "fin": 1, "zero": 1}
"""`w`: weight row of the first lane; `null`: nothing but the end of an output; `zero`: an empty word was skipped in it."""


class Word(data.StructLayout):
    """An activation word with its event mask."""

    def __init__(self, arch: ArchConfig):
        super().__init__(
            {
                "act": data.ArrayLayout(signed(arch.event_bits), arch.lanes),
                "mask": arch.lanes,
                **_ITEM,
            }
        )


class SegmentEntry(data.StructLayout):
    """Up to eight events, or a vector item whose word waits in the vector FIFO, or (`null`) only an end."""

    def __init__(self, arch: ArchConfig):
        super().__init__(
            {
                "act": data.ArrayLayout(signed(arch.event_bits), arch.segment),
                "mask": arch.segment,
                **_ITEM,
            }
        )


class Event(data.StructLayout):
    """One lane cycle. EVENT: `act[0]` goes to every lane; otherwise each lane takes its own. `op`: the lanes do something."""

    def __init__(self, arch: ArchConfig):
        super().__init__(
            {
                "act": data.ArrayLayout(signed(arch.event_bits), arch.lanes),
                "w": ADDR,
                "kind": Kind,
                "op": 1,
                "high": 1,
                "zero": 1,
                "first": 1,
                "end": 1,
                "fin": 1,
            }
        )
