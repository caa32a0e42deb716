"""What is in flight: which operations are dispatched, closed, stored and recorded."""

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import CLOSE_LATENCY, DONE_LATENCY
from ..spec.structure import tag_bits
from .lib.combinators import buffered, delay
from .primitives import SmallMemory

__all__ = ["Descriptors", "Flight", "Outstanding", "snapshot"]

OUTSTANDING_LATENCY = 3
"""From an event to `Outstanding.none`."""

assert CLOSE_LATENCY == DONE_LATENCY == OUTSTANDING_LATENCY + 1


def snapshot(m: Module, arch: ArchConfig, operation, taken, name: str):
    """Latches an operation's descriptor while `taken` is high; it may be asserted whenever the output is unused.

    The only operation in flight keeps its registers: then nothing is latched.
    """
    if arch.in_flight == 1:
        return operation
    held = Signal(operation.shape(), name=name, reset_less=True)
    with m.If(buffered(m, taken, name)):
        m.d.sync += held.eq(operation)
    return held


class Descriptors(wiring.Component):
    """Descriptors of the operations in flight, by their tags. The only operation in flight keeps its registers: then nothing is
    stored.

    Throughput: a write and a read a cycle. Latency: a descriptor shows from the cycle after it was written on.

    Parameters
    ----------
    arch : ArchConfig
    shape
        Of a descriptor.

    Members
    -------
    w_en : In(1), w_tag : In(tag_bits), i : In(shape)
        Operation `w_tag` starts.
    tag : In(tag_bits), o : Out(shape)
    """

    def __init__(self, arch: ArchConfig, shape):
        self.arch, self.width = arch, Shape.cast(shape).width
        tag = tag_bits(arch)
        super().__init__({"w_en": In(1), "w_tag": In(tag), "i": In(shape), "tag": In(tag), "o": Out(shape)})

    def elaborate(self, platform):
        m = Module()
        if self.arch.in_flight == 1:
            m.d.comb += self.o.eq(self.i)
            return m
        m.submodules.memory = memory = SmallMemory(self.arch.in_flight, self.width)
        m.d.comb += [
            memory.w_en.eq(self.w_en),
            memory.w_addr.eq(self.w_tag),
            memory.w_data.eq(self.i),
            memory.r_addr.eq(self.tag),
            self.o.eq(memory.r_data),
        ]
        return m


class Outstanding(wiring.Component):
    """Counts the outputs that were dispatched to a core and that it has not finished, for each operation in flight.

    Throughput: an output entered and one finished a cycle. Latency: `OUTSTANDING_LATENCY`.

    Parameters
    ----------
    arch : ArchConfig
    most : int
        Outputs dispatched and not finished, at most.

    Members
    -------
    enter, enter_tag; leave, leave_tag
        An output is dispatched, or finished, and its operation; at most one of each in a cycle.
    none : Out(in_flight)
        Every output of the operation that was dispatched is finished, as of `OUTSTANDING_LATENCY` cycles before.
    """

    def __init__(self, arch: ArchConfig, most: int):
        self.arch, self.most = arch, most
        tag = tag_bits(arch)
        super().__init__({"enter": In(1), "enter_tag": In(tag), "leave": In(1), "leave_tag": In(tag), "none": Out(arch.in_flight)})

    def elaborate(self, platform):
        m = Module()
        for tag in range(self.arch.in_flight):
            enter, leave = Signal(name=f"enter_{tag}"), Signal(name=f"leave_{tag}")
            count = Signal(range(self.most + 1), name=f"count_{tag}")
            m.d.sync += [
                enter.eq(self.enter & (self.enter_tag == tag)),
                leave.eq(self.leave & (self.leave_tag == tag)),
                self.none[tag].eq(count == 0),
            ]
            with m.If(enter ^ leave):
                m.d.sync += count.eq(count + Mux(enter, 1, -1))
        return m


class Flight(wiring.Component):
    """Follows the operations in flight, by their tags.

    Throughput: a start and a record a cycle. Latency: `DONE_LATENCY` to `idle`, `CLOSE_LATENCY` to `record`.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    started : In(1)
        An operation starts; it has the tag `tag`.
    tag : Out(tag_bits)
    dispatched, dispatched_tag
        An operation's last output is dispatched.
    closed, stored : In(in_flight)
        Every output that was dispatched is closed, or stored, on every core; as of `OUTSTANDING_LATENCY` cycles before.
    free : Out(1)
        The next operation's tag is free: the operation that had it is stored and recorded.
    idle : Out(1)
        Every operation started is stored, as of `DONE_LATENCY` cycles before.
    recorded : Out(1)
        Every operation started has its record, and there is time for the tail's.
    record : Out(1)
        The oldest operation's record ends with this cycle: `CLOSE_LATENCY` after its last close, or later, so that
        records are `isa.RECORD_CYCLES` apart.
    active : Out(1)
        Some operation is started and not recorded.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "started": In(1),
                "tag": Out(tag_bits(arch)),
                "dispatched": In(1),
                "dispatched_tag": In(tag_bits(arch)),
                "closed": In(arch.in_flight),
                "stored": In(arch.in_flight),
                "free": Out(1),
                "idle": Out(1),
                "recorded": Out(1),
                "record": Out(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        oldest, spacing, spaced = Signal.like(self.tag), Signal(range(isa.RECORD_CYCLES)), Signal(init=1)
        # `taken`: unstored or unrecorded, in a register of its own, for the sequencer.
        unstored, unrecorded, taken, all_dispatched, closed = (Signal(self.arch.in_flight) for _ in range(5))
        starts, ends, left, now_dispatched = (Signal(self.arch.in_flight) for _ in range(4))
        # No earlier than `closed` and `stored` know of the last output.
        dispatched = delay(m, self.dispatched, OUTSTANDING_LATENCY, "dispatched")
        dispatched_tag = delay(m, self.dispatched_tag, OUTSTANDING_LATENCY, "dispatched_tag", reset_less=True)
        m.d.comb += [
            starts.bit_select(self.tag, 1).eq(self.started),
            ends.bit_select(oldest, 1).eq(self.record),
            now_dispatched.eq(all_dispatched),
            left.eq(unstored & ~(now_dispatched & self.stored)),
            self.free.eq(~taken.bit_select(self.tag, 1)),
            self.idle.eq(unstored == 0),
            self.active.eq(unrecorded != 0),
            self.record.eq((unrecorded & all_dispatched & closed).bit_select(oldest, 1) & spaced),
            self.recorded.eq(~self.active & spaced),
        ]
        with m.If(dispatched):
            m.d.comb += now_dispatched.bit_select(dispatched_tag, 1).eq(1)
        m.d.sync += [
            closed.eq(self.closed),
            all_dispatched.eq(now_dispatched & ~starts),
            unstored.eq(left | starts),
            unrecorded.eq((unrecorded & ~ends) | starts),
            taken.eq(left | (unrecorded & ~ends) | starts),
        ]
        with m.If(self.record):
            m.d.sync += [spacing.eq(isa.RECORD_CYCLES - 1), spaced.eq(0), oldest.eq(oldest + 1)]
        with m.Elif(~spaced):
            m.d.sync += [spacing.eq(spacing - 1), spaced.eq(spacing == 1)]
        m.d.sync += self.tag.eq(self.tag + self.started)
        return m
