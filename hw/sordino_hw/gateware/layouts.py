"""What flows between the stages of the cluster: each layout is the payload of a stream or a FIFO."""

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.structure import Kind, reads_late, sharing, tag_bits

__all__ = [
    "DispatchDescriptor",
    "DrainDescriptor",
    "Event",
    "IssueStatus",
    "Job",
    "MaskedWord",
    "Output",
    "OutputState",
    "ReadWord",
    "Request",
    "Row",
    "RowBits",
    "RowRequest",
    "RowTag",
    "SegmentEntry",
    "Span",
    "SpanRange",
    "TapDescriptor",
    "Word",
    "act_address",
    "mask_address",
    "product_flag",
    "weight_address",
]

INDEX = 14
"""Bits of a signed index of an input row or column: one more than IX0 has, because the walker steps past the far edge."""
OFFSET = 17
"""Bits of a word's index within its span, at most: with a sign, as many as a multiplier takes."""
WINDOW_BITS = 4
"""Bits of a place in the word window, which has `isa.WINDOW_MAX` words squared."""


def act_address(arch: ArchConfig) -> int:
    """Bits of an activation address. Address arithmetic is modular."""
    return isa.address_bits(arch, isa.Region.ACT)


def weight_address(arch: ArchConfig) -> int:
    """Bits of a weight row's address."""
    return isa.address_bits(arch, isa.Region.WEIGHT)


def mask_address(arch: ArchConfig) -> int:
    """Bits of a mask row's address."""
    return isa.address_bits(arch, isa.Region.MASK)


def _registers(arch: ArchConfig, names: tuple[str, ...]) -> dict[str, Shape]:
    """Shapes of the registers of an operation that passed the sequencer's checks, which bound some of them."""
    most = {"DRAIN": arch.chunks, "TABLE": arch.tables - 1, "SPLIT": arch.cores, "SLICES": arch.cores}
    shapes = {}
    for name in names:
        r = isa.REGISTERS[name]
        bits = isa.register_bits(arch, name) if name not in most else most[name].bit_length()
        shapes[name] = signed(bits) if r.signed else unsigned(bits)
    return shapes


def product_flag(arch: ArchConfig) -> dict[str, int]:
    """The field `product`, whether an operation is a PRODUCT, of architectures that have products."""
    return {"product": 1} if arch.products else {}


def _act(arch: ArchConfig, channels: int):
    """The activations of a word, or, if they are read late, its address."""
    late = reads_late(arch)
    address = max(1, (arch.act_depth - 1).bit_length())
    return {"act": data.ArrayLayout(signed(arch.event_bits), 0 if late else channels), "address": address if late else 0}


DISPATCH_REGISTERS = (
    *("OH", "OW", "IY0", "IX0", "SY", "SX", "REPY", "REPX", "A_BASE", "A_OY", "A_OX", "R_BASE", "R_OY", "R_OX"),
    *("O_BASE", "O_OY", "O_OX", "S_BASE", "DRAIN", "SPLIT", "SLICES", "RUN"),
)
TAP_REGISTERS = (
    *("KH", "KX", "SPAN", "WORDS", "H", "W", "DY", "DX", "A_KY", "A_KX"),
    *("W_BASE", "W_SPAN", "W_WORD", "M_BASE", "M_SPAN", "R_W"),
)
DRAIN_REGISTERS = ("P_BASE", "DRAIN", "LO", "HI", "TABLE")


class DispatchDescriptor(data.StructLayout):
    """An operation, as the dispatcher needs it. `stateful`: it has the flag SOURCE or SINK."""

    def __init__(self, arch: ArchConfig):
        super().__init__({**_registers(arch, DISPATCH_REGISTERS), "stateful": 1, "tag": tag_bits(arch)})


class TapDescriptor(data.StructLayout):
    """An operation, as a walker needs it.

    `shared`: see `sharing`; `reused`: columns of a kernel window that the window before it in the run has, too; `product`: it is
    a PRODUCT, whose residual words have no wide weights.
    """

    def __init__(self, arch: ArchConfig):
        reused = (isa.WINDOW_MAX - 1).bit_length() if sharing(arch) else 0
        flags = {"kind": Kind, "dense": 1, "residual": 1, "shared": sharing(arch), "reused": reused}
        super().__init__({**_registers(arch, TAP_REGISTERS), **flags, **product_flag(arch)})


class DrainDescriptor(data.StructLayout):
    """An operation, as an issuer and a PPU need it."""

    def __init__(self, arch: ArchConfig):
        first = _registers(arch, ("S_BASE",)) if arch.in_flight == 1 else {}
        flags = {"source": 1, "sink": 1, "table": 1, **product_flag(arch)}
        super().__init__({**_registers(arch, DRAIN_REGISTERS), **first, **flags})


class Job(data.StructLayout):
    """An output for a fetcher: addresses of its first tap (`a`) and its first residual word (`r`), and the cores that it is for
    (`to`).

    `iy0`: row of the first tap; `left`: minus its column, which is the distance to the image's left edge; `fresh`: it is the
    first of its run, so that no word of its kernel window is in the word window.
    """

    def __init__(self, arch: ArchConfig):
        super().__init__(
            {
                "iy0": signed(INDEX),
                "left": signed(INDEX),
                "a": act_address(arch),
                "r": act_address(arch),
                "to": arch.cores,
                "fresh": 1,
                "tag": tag_bits(arch),
            }
        )


class Output(data.StructLayout):
    """An output for a core: the address of its word (that of the core's slice), its first state row, and its operation."""

    def __init__(self, arch: ArchConfig):
        super().__init__({"address": act_address(arch), **_output(arch)})


class OutputState(data.StructLayout):
    """What a PPU must know of an output when it drains. If one operation is in flight at most, the PPU counts the state rows
    itself.
    """

    def __init__(self, arch: ArchConfig):
        super().__init__(_output(arch))


def _output(arch: ArchConfig):
    return {"state": isa.address_bits(arch, isa.Region.STATE) if arch.in_flight > 1 else 0, "tag": tag_bits(arch)}


def _tags(arch: ArchConfig):
    """What a fetcher's items carry from the walker on.

    `w`, `m`: weight and mask row of the span's word 0; `w_word`: weight rows of a word; `to`: the cores that an item is for;
    `group`: the cores that its output is for; `end`: it is the output's last item for each core in `to`; `last`: it is the
    fetcher's last item of the output; `shared`: the groups that share a port (`sharing`); `place`: the word's place in the word
    window; `reuse`: it is there already.
    """
    return {
        "w": weight_address(arch),
        "m": mask_address(arch),
        "w_word": 0 if arch.in_flight == 1 else isa.REGISTERS["W_WORD"].bits,
        "kind": Kind,
        "dense": 0 if arch.in_flight == 1 else 1,
        "end": 1,
        "last": 1 if arch.cores > 1 else 0,
        "to": arch.cores if arch.cores > 1 else 0,
        "group": arch.cores if arch.cores > 1 else 0,
        "shared": sharing(arch),
        "reuse": 1 if sharing(arch) else 0,
        "place": WINDOW_BITS if sharing(arch) else 0,
    }


class Span(data.StructLayout):
    """A span before it is clipped: its pixels from `low` up to `high` (not included) lie within the columns of the image, and
    `inside` says if its row lies within the rows. `before` is `a` - 1.
    """

    def __init__(self, arch: ArchConfig):
        a = act_address(arch)
        super().__init__({"a": a, "before": signed(a + 1), "low": 8, "high": 8, "inside": 1, "words": 8, **_tags(arch)})


class SpanRange(data.StructLayout):
    """A clipped span: its words from `low` up to `stop` (not included), or none if `empty`. Word 0 of the span has the activation
    address `a`; `before` is `a` - 1.
    """

    def __init__(self, arch: ArchConfig):
        a = act_address(arch)
        super().__init__({"a": a, "before": signed(a + 1), "low": a, "stop": max(16, a + 1), "empty": 1, **_tags(arch)})


class RowTag(data.StructLayout):
    """What accompanies an occupancy row: `q` is the index within the span of the word of its bit 0, modulo the number of
    addresses.
    """

    def __init__(self, arch: ArchConfig):
        row = act_address(arch) - arch.occ_bits
        q = min(OFFSET, act_address(arch), max(mask_address(arch), weight_address(arch)))
        super().__init__({"row": row, "q": q, **_tags(arch)})


class RowRequest(data.StructLayout):
    """An occupancy row to read: the span's words in it are those of the bits `low` to `top`. An `empty` one has none, and only
    ends an output.
    """

    def __init__(self, arch: ArchConfig):
        super().__init__({"tag": RowTag(arch), "low": arch.occ_bits, "top": arch.occ_bits, "empty": 1})


class RowBits(data.StructLayout):
    """An occupancy row: `bits` are the words to read, `count` of them, or `none`; `size` counts the span's words, empty ones
    too.
    """

    def __init__(self, arch: ArchConfig):
        count = range(arch.occ_width + 1)
        super().__init__({"bits": arch.occ_width, "none": 1, "count": count, "size": count})


class Row(data.StructLayout):
    """An occupancy row for the scanner."""

    def __init__(self, arch: ArchConfig):
        super().__init__({"tag": RowTag(arch), "row": RowBits(arch)})


class Request(data.StructLayout):
    """A word that the scanner asks for: its activation `address`, and what its row's tag says of it.

    `null`: there is no word, only the end of an output; `zero`: an empty word was skipped since the output began.
    """

    def __init__(self, arch: ArchConfig):
        q = RowTag(arch)["q"].shape
        super().__init__({"address": act_address(arch), "q": q, "null": 1, "zero": 1, **_tags(arch)})


def _item(arch: ArchConfig):
    """`w`: weight row of the first channel; `null`: it has no event, and at most ends an output; `zero`: the output has an empty
    word.
    """
    return {"w": weight_address(arch), "kind": Kind, "null": 1, "end": 1, "zero": 1}


class ReadWord(data.StructLayout):
    """An activation word on its way to the cores; `live`: its channels whose activation is not zero, or all in dense mode."""

    def __init__(self, arch: ArchConfig):
        super().__init__({**_act(arch, arch.lanes), "live": arch.lanes, **_item(arch)})


class Word(data.StructLayout):
    """An activation word with a core's event mask (`mask`)."""

    def __init__(self, arch: ArchConfig):
        super().__init__({**_act(arch, arch.lanes), "mask": arch.lanes, **_item(arch)})


class SegmentEntry(data.StructLayout):
    """A segment with its event mask; or a vector item, whose word waits in the issuer; or (`null`) only the end of an output.

    `again`: a MAC2 item whose wide weights the lanes hold from before; `once`: the item takes one cycle.
    """

    def __init__(self, arch: ArchConfig):
        super().__init__(
            {
                **_act(arch, arch.segment),
                "mask": arch.segment,
                "again": 1,
                "once": 1,
                **_item(arch),
            }
        )


class Event(data.StructLayout):
    """One cycle of the lanes. EVENT: every lane takes `act`, or, if activations are read late, the activation `lane` of the
    operands that follow. Other kinds: each lane takes its own operand.

    `op`: the lanes multiply; `high`: by the high half of a wide weight; `again`: by the wide weight that they hold from before;
    `first`, `end`: it is the output's first, or last; `product`: its operation is a PRODUCT, the first word of whose outputs is
    the weight of the second.
    """

    def __init__(self, arch: ArchConfig):
        super().__init__(
            {
                **({"lane": range(arch.lanes)} if reads_late(arch) else {"act": signed(arch.event_bits)}),
                "w": weight_address(arch),
                "kind": Kind,
                "op": 1,
                "high": 1,
                "again": 1,
                "zero": 1,
                "first": 1,
                "end": 1,
                **product_flag(arch),
            }
        )


class MaskedWord(data.StructLayout):
    """A word with its event mask, and what follows from that: which of its segments have events (`some`), and whether it is at
    most one item (`once`).
    """

    def __init__(self, arch: ArchConfig):
        super().__init__({"word": Word(arch), "some": arch.lanes // arch.segment, "once": 1})


class IssueStatus(data.StructLayout):
    """What the issuer did in the cycle before: issued an event, waited for the PPU, or issued a marker. None of them: no item was
    there.
    """

    def __init__(self):
        super().__init__({"busy": 1, "ppu": 1, "marker": 1})
