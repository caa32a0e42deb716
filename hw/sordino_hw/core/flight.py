"""What is in flight: which operations are dealt, closed, stored and recorded."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from .combinators import delay
from .latencies import CLOSE_LATENCY, DONE_LATENCY
from .layouts import IN_FLIGHT, TAG_BITS

__all__ = ["Flight", "Outstanding"]

OUTSTANDING_LATENCY = 3
"""From an event to `Outstanding.none`."""

assert CLOSE_LATENCY == DONE_LATENCY == OUTSTANDING_LATENCY + 1


class Outstanding(wiring.Component):
    """Counts the outputs that a core was dealt and has not finished, for each operation in flight.

    Parameters
    ----------
    most : int
        Outputs under way at once.

    Members
    -------
    enter, enter_tag; leave, leave_tag
        At most one of each in a cycle.
    none : Out(IN_FLIGHT)
        No output of the operation is under way, `OUTSTANDING_LATENCY` cycles ago.
    """

    def __init__(self, most: int):
        self.most = most
        super().__init__(
            {"enter": In(1), "enter_tag": In(TAG_BITS), "leave": In(1), "leave_tag": In(TAG_BITS), "none": Out(IN_FLIGHT)}
        )

    def elaborate(self, platform):
        m = Module()
        for tag in range(IN_FLIGHT):
            enter, leave = Signal(name=f"enter_{tag}"), Signal(name=f"leave_{tag}")
            count = Signal(range(self.most + 1), name=f"count_{tag}")
            m.d.sync += [
                enter.eq(self.enter & (self.enter_tag == tag)),
                leave.eq(self.leave & (self.leave_tag == tag)),
                count.eq(count + enter - leave),
                self.none[tag].eq(count == 0),
            ]
        return m


class Flight(wiring.Component):
    """Follows up to `IN_FLIGHT` operations, by their numbers modulo it (tags).

    Members
    -------
    started : In(1)
        An operation starts; it has the tag `tag`.
    tag : Out(TAG_BITS)
    dealt, dealt_tag
        An operation's last output is dealt.
    closed, stored : In(IN_FLIGHT)
        Every output that was dealt is closed, or stored, on every core; as of `OUTSTANDING_LATENCY` + 1 cycles before.
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

    started: In(1)
    tag: Out(TAG_BITS)
    dealt: In(1)
    dealt_tag: In(TAG_BITS)
    closed: In(IN_FLIGHT)
    stored: In(IN_FLIGHT)
    free: Out(1)
    idle: Out(1)
    recorded: Out(1)
    record: Out(1)
    active: Out(1)

    def elaborate(self, platform):
        m = Module()
        oldest, spacing = Signal(TAG_BITS), Signal(range(isa.RECORD_CYCLES))
        unstored, unrecorded, all_dealt, pending = (Signal(IN_FLIGHT) for _ in range(4))
        # No earlier than `closed` and `stored` know of the last output.
        dealt = delay(m, self.dealt, OUTSTANDING_LATENCY, "dealt")
        dealt_tag = delay(m, self.dealt_tag, OUTSTANDING_LATENCY, "dealt_tag")
        m.d.comb += [
            pending.eq(unstored & ~(all_dealt & self.stored)),
            self.free.eq(~(pending | unrecorded).bit_select(self.tag, 1)),
            self.idle.eq(pending == 0),
            self.active.eq(unrecorded != 0),
            self.record.eq((unrecorded & all_dealt & self.closed).bit_select(oldest, 1) & (spacing == 0)),
            self.recorded.eq(~self.active & (spacing == 0)),
        ]
        m.d.sync += unstored.eq(pending)
        with m.If(dealt):
            m.d.sync += all_dealt.bit_select(dealt_tag, 1).eq(1)
        with m.If(self.record):
            m.d.sync += [spacing.eq(isa.RECORD_CYCLES - 1), oldest.eq(oldest + 1), unrecorded.bit_select(oldest, 1).eq(0)]
        with m.Elif(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)
        with m.If(self.started):
            m.d.sync += [
                self.tag.eq(self.tag + 1),
                unstored.bit_select(self.tag, 1).eq(1),
                unrecorded.bit_select(self.tag, 1).eq(1),
                all_dealt.bit_select(self.tag, 1).eq(0),
            ]
        return m
