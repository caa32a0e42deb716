"""Stages of the small core (profile `small`): their clock is slow, so a cycle has room for what takes several elsewhere.

The accumulators are those of the multipliers. They keep an output's sums until these have drained, and nothing is issued
meanwhile.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..spec.arch import ArchConfig
from ..spec.latencies import Latencies
from ..spec.structure import Kind, tag_bits
from .compute.lanes import Lanes
from .fetch.scan import Occupancy, WordReader
from .issue.issue import IssueStatus
from .layouts import Event, SegmentEntry
from .lib.combinators import count_ones, delay, lowest, row_mask, without_lowest
from .primitives import Accumulators

__all__ = ["SmallIssuer", "SmallLanes", "SmallOccupancy", "SmallWordReader"]


class SmallOccupancy(Occupancy):
    """What `Occupancy` does, without a FIFO: a row request stays until the scanner is done with the row."""

    def elaborate(self, platform):
        m = Module()
        width, row, shown = self.arch.occ_width, self.o.payload.row, Signal()
        # The memory shows a row from the cycle after its request on.
        m.d.sync += shown.eq(self.valid & ~self.ready)
        inside = Signal(width)
        m.d.comb += [
            inside.eq(Mux(self.empty, 0, row_mask(self.low, self.top, width))),
            self.r_addr.eq(self.tag.row),
            self.ready.eq(shown & self.o.ready),
            self.o.valid.eq(self.valid & shown),
            self.o.payload.tag.eq(self.tag),
            row.bits.eq(inside & (self.r_data | self.d.dense.replicate(width))),
            row.none.eq(row.bits == 0),
            row.count.eq(count_ones(row.bits, width)),
            row.size.eq(Mux(self.empty, 0, self.top - self.low + 1)),
        ]
        return m


class SmallWordReader(WordReader):
    """What `WordReader` does, a cycle after the request: only which activations are not zero is read, the others later."""

    def elaborate(self, platform):
        m = Module()
        request, word = self.request, self.word
        assert Latencies(self.arch).read == 1
        q = Signal.like(request.q)
        m.d.comb += [
            q.eq(request.q + request.address[: self.arch.occ_bits]),
            self.act_en.eq(self.valid & ~request.null),
            self.act_addr.eq(request.address),
            self.m_addr.eq(request.m + q),  # `q` may begin below zero: it is modular in fewer bits
            self.mask_valid.eq(self.act_en & (request.kind == Kind.EVENT)),
        ]
        index = delay(m, q, 1, "index", reset_less=True)
        live = (self.act_data | self.d.dense.replicate(self.arch.lanes)) & (~word.null).replicate(self.arch.lanes)
        names = ("kind", "null", "end", "zero", "address")
        m.d.comb += [
            self.word_valid.eq(delay(m, self.valid, 1, "valid")),
            *(word[name].eq(delay(m, request[name], 1, name, reset_less=True)) for name in names),
            word.w.eq(delay(m, request.w, 1, "w", reset_less=True) + index * self.d.W_WORD),
            word.live.eq(live),
        ]
        return m


class SmallIssuer(wiring.Component):
    """Issues one event, or one vector cycle, per cycle; none in the `Latencies.pause` cycles behind an output's last.

    Members
    -------
    segments : In(stream of SegmentEntry)
    outputs : In(stream of tag_bits)
        The outputs dealt; one leaves with each close.
    address : Out(range(act_depth))
        Of the event's word.
    event : Out(Event), event_valid : Out(1)
        To the lanes, in the cycle of its issue.
    status : Out(IssueStatus)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "segments": In(stream.Signature(SegmentEntry(arch))),
                "outputs": In(stream.Signature(tag_bits(arch))),
                "address": Out(SegmentEntry(arch)["address"].shape),
                "event": Out(Event(arch)),
                "event_valid": Out(1),
                "status": Out(IssueStatus()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, seg, event = self.arch, self.segments.payload, self.event
        latency = Latencies(arch)
        done, high, first = Signal(arch.segment), Signal(), Signal(init=1)
        pause = Signal(range(latency.pause + 1))
        left = seg.mask & ~done
        bit, index = lowest(left, arch.segment)
        final, blocked, issue, close = Signal(), Signal(), Signal(), Signal()
        wide = seg.kind == Kind.MAC2
        m.d.comb += [
            final.eq(Mux(wide & ~seg.null, high, without_lowest(left, arch.segment) == 0)),
            blocked.eq(pause != 0),
            issue.eq(self.segments.valid & ~blocked),
            close.eq(issue & final & seg.end),
            self.segments.ready.eq(final & ~blocked),
            self.outputs.ready.eq(close),
        ]
        with m.If(blocked):
            m.d.sync += pause.eq(pause - 1)
        with m.If(issue):
            m.d.sync += [done.eq(Mux(final, 0, done | bit)), high.eq(wide & ~final), first.eq(close)]
        with m.If(close):
            m.d.sync += pause.eq(latency.pause)
        m.d.sync += [
            self.status.busy.eq(issue & ~seg.null),
            self.status.ppu.eq(self.segments.valid & blocked),
            self.status.marker.eq(issue & seg.null),
        ]
        m.d.comb += [
            self.event_valid.eq(issue),
            self.address.eq(seg.address),
            event.lane.eq(index),
            event.w.eq(seg.w + (index | high)),
            event.kind.eq(seg.kind),
            event.op.eq(~seg.null),
            event.high.eq(high),
            event.zero.eq(seg.zero),
            event.first.eq(first),
            event.end.eq(close),
        ]
        return m


class Control(data.StructLayout):
    """What the lanes must know of an event when its activations and weights are there."""

    def __init__(self, arch: ArchConfig):
        flags = dict.fromkeys(("event", "low", "high", "max", "op", "floor", "first"), 1)
        super().__init__({"lane": range(arch.lanes), **flags})


class SmallLanes(Lanes):
    """Multiplies and accumulates in `Accumulators`; an output's sums are shifted out of them, and by that cleared.

    An event's activations and weights are read in its cycle, chosen in the next, and added to the sums in the one after that.

    The halves of a wide weight are multiplied one after the other. A maximum is kept in the registers of the operands, and is
    added to the sums, which are zero, with the last event of an output.

    `operands`, a cycle after the event, are its word.
    """

    def elaborate(self, platform):
        m = Module()
        arch, lanes, event, latency = self.arch, self.arch.lanes, self.event, Latencies(self.arch)
        assert latency.memory == 1 and latency.shadow == 3 and latency.turn_lead == 2
        is_max, is_wide = event.kind == Kind.MAX, event.kind == Kind.MAC2
        come, c = Signal(Control(arch)), Signal(Control(arch), reset_less=True)
        m.d.comb += [
            self.w_addr.eq(event.w),
            come.lane.eq(event.lane),
            come.event.eq(event.kind == Kind.EVENT),
            come.low.eq(is_wide & ~event.high),
            come.high.eq(event.high),
            come.max.eq(is_max),
            come.op.eq(event.op),
            come.floor.eq(is_max & event.zero),
            come.first.eq(event.first),
        ]
        m.d.sync += [c.eq(come), self.trap.eq(self.event_valid & event.op & ~is_max & (event.w >= arch.weight_depth))]
        valid, end = delay(m, self.event_valid, 1, "valid"), delay(m, self.event_valid & event.end, 1, "end")
        m.d.comb += self.coming.eq(end)

        m.submodules.sums = sums = Accumulators(lanes, arch.ppu, arch.event_bits, 15)
        broadcast = Array(self.operands)[c.lane]
        for i in range(lanes):
            operand = Signal(signed(arch.event_bits), name=f"operand_{i}", reset_less=True)
            weight = Signal(signed(15), name=f"weight_{i}", reset_less=True)
            value, row = self.operands[i], self.w_data[8 * i : 8 * i + 8]
            floored = c.floor & (value < 0)
            greater = Mux(floored, operand < 0, operand < value)
            with m.If(~c.max | c.first | greater):
                m.d.sync += operand.eq(Mux(c.event, broadcast, value))
                with m.If(~c.op | floored):
                    m.d.sync += operand.eq(0)
            sign = (row[7] & ~(c.low | c.max)).replicate(8)
            m.d.sync += weight.eq(Cat(Mux(c.max, 1, Mux(c.high, 0, row[:7])), Mux(c.high, row, sign)).as_signed())
            m.d.comb += [sums.a[i].eq(operand), sums.b[i].eq(weight)]

        # They are shifted from the reset on, so that they are zero at first.
        draining = Signal(range(arch.chunks + 1), init=arch.chunks)
        ends = delay(m, end, 1, "ends")
        with m.If(ends):
            m.d.sync += draining.eq(arch.chunks)
        with m.Elif(draining != 0):
            m.d.sync += draining.eq(draining - 1)
        m.d.comb += [
            sums.step.eq(delay(m, valid & (~c.max | end), 1, "step")),
            sums.shift.eq(draining != 0),
            self.shadow.eq(sums.o),
        ]
        return m
