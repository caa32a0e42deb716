"""Two-level issue: words are cut into segments, segments into events; empty segments and zeros cost nothing."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import isa
from ..arch import ArchConfig
from .combinators import lowest
from .fifo import Fifo
from .layouts import Event, Kind, SegmentEntry, Word

__all__ = ["Issuer", "Segmenter"]


class Segmenter(wiring.Component):
    """Cuts words into non-empty segments of eight channels, one per cycle; a vector word is one item.

    The last item of an output carries `end`. Whether an item is the last is known only when the next one, or an empty
    end, arrives: so one item is held back.

    Members
    -------
    words : In(stream of Word)
    segments : Out(stream of SegmentEntry)
    vectors : Out(stream of Word.act)
        The words of vector items, in their order.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "words": In(stream.Signature(Word(arch))),
                "segments": Out(stream.Signature(SegmentEntry(arch))),
                "vectors": Out(stream.Signature(Word(arch)["act"].shape)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, word = self.arch, self.words.payload
        size, count = arch.segment, arch.lanes // arch.segment
        m.submodules.queue = queue = Fifo(SegmentEntry(arch), arch.segment_fifo)
        m.submodules.vectors = vectors = Fifo(Word(arch)["act"].shape, arch.segment_fifo)

        done, left = Signal(count), Signal(count)
        is_vector = word.kind != Kind.EVENT
        m.d.comb += left.eq(Cat(word.mask[k * size : (k + 1) * size].any() for k in range(count)) & ~done)
        chosen, _ = lowest(left, count)

        held = Signal(SegmentEntry(arch))
        held_act = Signal.like(word.act)
        full, push, advance, final = Signal(), Signal(), Signal(), Signal()
        item, merge, want = Signal(), Signal(), Signal()
        m.d.comb += [
            final.eq(is_vector | ((left & ~chosen) == 0)),
            # An item to emit: a segment, a vector word, or an end with nothing before it to carry it.
            item.eq(Mux(is_vector, ~word.null, left != 0)),
            merge.eq(~item & word.end & full & ~held.end),
            want.eq(self.words.valid & (item | (word.end & ~merge))),
            push.eq(full & queue.i.ready & (held.end | want)),
            advance.eq(want & (~full | push)),
            self.words.ready.eq(Mux(want, advance & (final | ~item), self.words.valid)),
        ]
        with m.If(push):
            m.d.sync += full.eq(0)
        with m.If(self.words.valid & merge):
            m.d.sync += [held.end.eq(1), held.fin.eq(word.fin), held.zero.eq(held.zero | word.zero)]
        with m.If(advance):
            m.d.sync += [
                full.eq(1),
                held_act.eq(word.act),
                held.kind.eq(word.kind),
                held.null.eq(~item),
                held.end.eq(word.end & (final | ~item)),
                held.fin.eq(word.fin & (final | ~item)),
                held.zero.eq(word.zero & word.end),
                held.w.eq(word.w),
                held.mask.eq(0),
            ]
            for k in range(count):
                with m.If(chosen[k]):
                    m.d.sync += [held.act[j].eq(word.act[k * size + j]) for j in range(size)]
                    with m.If(~is_vector):
                        m.d.sync += held.mask.eq(word.mask[k * size : (k + 1) * size])
                        m.d.sync += held.w.eq(word.w + k * size)
        with m.If(self.words.ready):
            m.d.sync += done.eq(0)
        with m.Elif(advance):
            m.d.sync += done.eq(done | chosen)

        m.d.comb += [
            queue.i.payload.eq(held),
            queue.i.valid.eq(push),
            vectors.i.payload.eq(held_act),
            vectors.i.valid.eq(push & (held.kind != Kind.EVENT)),
        ]
        connect(m, queue.o, flipped(self.segments))
        connect(m, vectors.o, flipped(self.vectors))
        return m


class Issuer(wiring.Component):
    """Issues one event, or one vector cycle, per cycle.

    The item that closes an output waits until the shadow accumulators are free of the output before: DRAIN cycles after
    that one's close. Nothing downstream ever stalls, so this is the only place where the PPU holds the array back.

    Members
    -------
    segments, vectors
        From the `Segmenter`.
    drain : In(stream of DRAIN)
        One entry per operation.
    started : In(1)
        An operation was started in this cycle.
    event : Out(Event), event_valid : Out(1)
        To the lanes, registered.
    cause : Out(isa.Cause), finished : Out(1)
        What this cycle was spent on; the operation's last item leaves in this cycle.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "segments": In(stream.Signature(SegmentEntry(arch))),
                "vectors": In(stream.Signature(Word(arch)["act"].shape)),
                "drain": In(stream.Signature(isa.REGISTERS["DRAIN"].bits)),
                "started": In(1),
                "event": Out(Event(arch)),
                "event_valid": Out(1),
                "cause": Out(isa.Cause),
                "finished": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, seg = self.arch, self.segments.payload
        seen, left, high, first = Signal(arch.segment), Signal(arch.segment), Signal(), Signal(init=1)
        busy_shadow = Signal(isa.REGISTERS["DRAIN"].bits)
        active = Signal(4)
        bit, index = lowest(left, arch.segment)
        is_vector = seg.kind != Kind.EVENT
        op, final, blocked, issue = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            left.eq(seg.mask & ~seen),
            final.eq(seg.null | Mux(is_vector, (seg.kind != Kind.MAC2) | high, (left & ~bit) == 0)),
            blocked.eq(final & seg.end & (busy_shadow != 0)),
            issue.eq(self.segments.valid & ~blocked),
            op.eq(~seg.null | (seg.kind == Kind.MAX)),
            self.segments.ready.eq(issue & final),
            self.vectors.ready.eq(self.segments.ready & is_vector),
            self.finished.eq(self.segments.ready & seg.fin),
            self.drain.ready.eq(self.finished),
        ]
        with m.If(issue):
            m.d.sync += [seen.eq(Mux(final, 0, seen | bit)), high.eq(~final & is_vector), first.eq(final & seg.end)]
        with m.If(issue & final & seg.end):
            m.d.sync += busy_shadow.eq(self.drain.payload - 1)
        with m.Elif(busy_shadow != 0):
            m.d.sync += busy_shadow.eq(busy_shadow - 1)
        m.d.sync += active.eq(active + self.started - self.finished)

        with m.If(~self.segments.valid):
            m.d.comb += self.cause.eq(Mux(active != 0, isa.Cause.FETCH, isa.Cause.IDLE))
        with m.Elif(blocked):
            m.d.comb += self.cause.eq(isa.Cause.PPU)
        with m.Elif(seg.null):
            m.d.comb += self.cause.eq(isa.Cause.MARKER)
        with m.Else():
            m.d.comb += self.cause.eq(isa.Cause.BUSY)

        event = self.event
        m.d.sync += [
            self.event_valid.eq(issue),
            event.w.eq(Mux(is_vector, seg.w + high, seg.w + index)),
            event.kind.eq(seg.kind),
            event.op.eq(op),
            event.high.eq(high),
            event.zero.eq(seg.zero),
            event.first.eq(first),
            event.end.eq(seg.end & final),
            event.fin.eq(seg.fin & final),
            event.act.eq(self.vectors.payload),
        ]
        with m.If(~is_vector):
            for j in range(arch.segment):
                with m.If(bit[j]):
                    m.d.sync += event.act[0].eq(seg.act[j])
        return m
