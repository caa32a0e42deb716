"""The issuer: takes segments apart into events, and holds back the event that would close an output too early."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import VECTOR_LATENCY, Latencies
from ...spec.structure import Kind, reads_late, tag_bits
from ..layouts import Event, IssueStatus, SegmentEntry, Word, product_flag
from ..lib.combinators import delay, index_of, lowest
from ..lib.fifo import Ring

__all__ = ["Issuer"]


class Issuer(wiring.Component):
    """Issues one event, or one vector cycle, per cycle.

    The item that closes an output waits until the shadow accumulators are free of the output before and the store
    buffer will be: max(DRAIN, cores) cycles after that one's close, or DRAIN + cores after the close of an output of
    another operation, whose drain may have been longer. Nothing downstream ever stalls, so this is the only place where
    the PPU holds the array back.

    Throughput: a lane cycle a cycle, without a bubble between items. Latency: `Latencies.issue` from the issue to the lanes.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    segments : In(stream of SegmentEntry), next : In(SegmentEntry)
        See `FifoInterface`: what decides about an item is registered in the cycle before it shows.
    vector, act
        From the `Segmenter`: `act` is the word of a vector item that follows among the segments.
    outputs : In(stream of tag_bits), next_output : In(tag_bits)
        Operations of the outputs dispatched to the core; one leaves with each close.
    drain : In(6), product : In(1)
        DRAIN of the operation `outputs.payload`, and, if there are products, whether it is one.
    address : Out(range(act_depth))
        Of the event's word, if activations are read late.
    event : Out(Event), event_valid : Out(1)
        To the lanes, `Latencies.issue` cycles after its issue.
    operands : Out(array of lanes x signed(event_bits))
        To the lanes: the word of a vector event of `VECTOR_LATENCY` cycles before; not if activations are read late.
    status : Out(IssueStatus)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "segments": In(stream.Signature(SegmentEntry(arch))),
                "next": In(SegmentEntry(arch)),
                "vector": In(1),
                "act": In(Word(arch)["act"].shape),
                "outputs": In(stream.Signature(tag_bits(arch))),
                "next_output": In(tag_bits(arch)),
                "drain": In(isa.REGISTERS["DRAIN"].bits),
                **{name: In(bits) for name, bits in product_flag(arch).items()},
                "address": Out(SegmentEntry(arch)["address"].shape),
                "event": Out(Event(arch)),
                "event_valid": Out(1),
                "operands": Out(Word(arch)["act"].shape),
                "status": Out(IssueStatus()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, seg = self.arch, self.segments.payload
        left, high, first = Signal(arch.segment), Signal(), Signal(init=1)
        bit, _ = lowest(left, arch.segment)
        # Lookahead: whether a step is the item's last, and whether it closes an output.
        final, closing = Signal(), Signal()
        is_vector = seg.kind != Kind.EVENT
        valid, blocked, issue, close = self.segments.valid, Signal(), Signal(), Signal()
        shadow_free = self._spacing(m, close)
        m.d.comb += [
            blocked.eq(closing & ~shadow_free),
            issue.eq(valid & ~blocked),
            close.eq(valid & closing & shadow_free),
            self.segments.ready.eq(final & ~blocked),
            self.outputs.ready.eq(close),
        ]
        with m.If(~valid | ~blocked):
            with m.If(valid & ~final):
                penultimate = is_vector | _two_left(left)
                m.d.sync += [left.eq(left & ~bit), high.eq(is_vector), final.eq(penultimate), closing.eq(penultimate & seg.end)]
            with m.Else():
                following = self.next
                m.d.sync += [
                    left.eq(following.mask),
                    high.eq(0),
                    final.eq(following.once),
                    closing.eq(following.once & following.end),
                ]
        with m.If(issue):
            m.d.sync += first.eq(closing)
        self._report(m, issue, blocked)
        chosen, act = self._events(m, bit, high, first, closing, issue)
        if not reads_late(arch):
            picked = Signal(arch.event_bits)
            m.d.comb += picked.eq(_one_of(chosen, act))
            m.d.sync += self.event.act.eq(picked)
            self._vectors(m, issue & final & is_vector & ~seg.null)
        return m

    def _report(self, m, issue, blocked):
        """What the issuer did, for the performance log."""
        null = self.segments.payload.null
        m.d.sync += [
            self.status.busy.eq(issue & ~null),
            self.status.ppu.eq(self.segments.valid & blocked),
            self.status.marker.eq(issue & null),
        ]

    def _events(self, m, bit, high, first, closing, issue):
        """Sends a lane cycle to the lanes, in two steps: the item as it is; its weight row, and the event among its activations.

        Returns, for the second step, which of the segment's activations is the event's, as a one-hot, and the activations.
        """
        arch, seg, event = self.arch, self.segments.payload, self.event
        item, act = Signal(Event(arch), reset_less=True), Signal.like(seg.act, reset_less=True)
        chosen = Signal(arch.segment, reset_less=True)
        m.d.sync += [
            item.w.eq(seg.w),
            item.kind.eq(seg.kind),
            item.op.eq(~seg.null),
            item.high.eq(high),
            item.again.eq(seg.again),
            item.zero.eq(seg.zero),
            item.first.eq(first),
            item.end.eq(closing),
            act.eq(seg.act),
            chosen.eq(bit),
        ]
        if arch.products:
            m.d.sync += item.product.eq(self.product)
        offset = index_of(chosen, arch.segment) | item.high
        m.d.sync += [
            event.eq(item),
            event.w.eq(item.w + offset),
            self.event_valid.eq(delay(m, issue, Latencies(arch).issue - 1, "issued")),
        ]
        if reads_late(arch):
            m.d.sync += [event.lane.eq(offset), self.address.eq(delay(m, seg.address, 1, "address", reset_less=True))]
        return chosen, act

    def _vectors(self, m, taken):
        """Shows a vector item's word when its event is at the lanes; `taken` in the cycle of its last step.

        Words wait here for their items, which are held, queued, or issued and not yet at the lanes.
        """
        late = Latencies(self.arch).issue + VECTOR_LATENCY - 1
        m.submodules.vectors = vectors = Ring(self.act.shape(), 1 + self.arch.segment_fifo + late)
        operands = Signal.like(self.operands, reset_less=True)
        m.d.comb += [vectors.push.eq(self.vector), vectors.i.eq(self.act), vectors.pop.eq(delay(m, taken, late, "taken"))]
        m.d.sync += operands.eq(vectors.o)
        m.d.comb += self.operands.eq(operands)

    def _spacing(self, m, close):
        """Whether the output at hand may close: counts the cycles from each close on, for an output of the same operation and of
        another.
        """
        bits = isa.REGISTERS["DRAIN"].bits + 1
        cores, drain = self.arch.cores, self.drain
        same, other, same_over, other_over = Signal(bits), Signal(bits), Signal(init=1), Signal(init=1)
        # Lookahead: whether the output at hand may close, and if it is of the operation that closed the last one.
        free, overs = Signal(init=1), [Signal(name=f"next_over_{k}") for k in range(2)]
        tag, is_same, next_same, valid = Signal.like(self.outputs.payload), Signal(init=1), Signal(), self.outputs.valid
        m.d.comb += next_same.eq(is_same)
        with m.If(~valid | close):
            m.d.comb += next_same.eq(self.next_output == Mux(valid, self.outputs.payload, tag))
        m.d.sync += is_same.eq(next_same)
        starts = Mux(drain > cores, drain, cores) - 1, drain + (cores - 1)
        for counter, over, next_over, start in ((same, same_over, overs[0], starts[0]), (other, other_over, overs[1], starts[1])):
            m.d.comb += next_over.eq(Mux(close, start == 0, over | (counter == 1)))
            m.d.sync += over.eq(next_over)
            with m.If(close):
                m.d.sync += counter.eq(start)
            with m.Elif(~over):
                m.d.sync += counter.eq(counter - 1)
        with m.If(close):
            m.d.sync += tag.eq(self.outputs.payload)
        m.d.sync += free.eq(Mux(next_same, *overs))
        return free


def _two_left(left):
    """Whether two of eight bits are set."""
    low, high = ([_exactly(left[k : k + 4], n) for n in range(3)] for k in (0, 4))
    return Cat(low[n] & high[2 - n] for n in range(3)).any()


def _exactly(bits, ones: int):
    """Whether `ones` of four bits are set."""
    return Cat(bits == i for i in range(16) if i.bit_count() == ones).any()


def _one_of(one_hot, values):
    """The value that a one-hot selects among an array's; zero where it selects none."""
    return reduce(or_, (values[i].as_unsigned() & one_hot[i].replicate(len(values[i])) for i in range(len(one_hot))))
