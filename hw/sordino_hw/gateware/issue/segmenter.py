"""The segmenter: cuts words into segments, and drops the empty ones."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...spec.arch import ArchConfig
from ...spec.structure import Kind, reads_late
from ..layouts import MaskedWord, SegmentEntry
from ..lib.combinators import buffered, lowest, without_lowest
from ..lib.fifo import fifo_for

__all__ = ["Segmenter"]


@dataclass(frozen=True)
class AtHand:
    """The word at hand: an `item`, which is a segment, or the word itself in vector mode (`vector`); or only the end of an output
    (`marker`).

    A word that is neither is dropped. `left` are its segments that have events and are not sent, `several` if they are more than
    one; `chosen` is the first of them, as a one-hot, and `place` its number.
    """

    item: Signal
    marker: Signal
    vector: Signal
    several: Signal
    left: Signal
    chosen: Signal
    place: Signal


class Segmenter(wiring.Component):
    """Cuts words into segments of eight channels, without the empty ones; a vector word is one item.

    The last item of an output carries `end`. Whether an item is the last is known only when the next one, or an empty
    end, arrives: so one item is held back, before the segment FIFO.

    Throughput: an item a cycle. Latency: a cycle to the held item, and the FIFO's.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    words : In(stream of MaskedWord), next : In(MaskedWord), more : In(1)
        See `FifoInterface`: what decides about a word is registered in the cycle before it shows.
    segments : Out(stream of SegmentEntry), next_segment : Out(SegmentEntry)
        `next_segment`: see `FifoInterface.next`.
    vector : Out(1)
        The word at hand is a vector item, which follows among the segments.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "words": In(stream.Signature(MaskedWord(arch))),
                "next": In(MaskedWord(arch)),
                "more": In(1),
                "segments": Out(stream.Signature(SegmentEntry(arch))),
                "next_segment": Out(SegmentEntry(arch)),
                "vector": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, word = self.arch, self.words.payload.word
        count = arch.lanes // arch.segment
        at = AtHand(
            *(Signal(name=name) for name in ("item", "marker", "vector", "several")),
            *(Signal(count, name=name) for name in ("left", "chosen")),
            Signal(range(max(2, count)), name="place"),
        )
        # `held` is an item while `full`, and leaves when it has an end (`closed`) or another item comes.
        held, full, closed = Signal(SegmentEntry(arch), reset_less=True), Signal(), Signal()
        room, push, accept, step = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            push.eq(full & (closed | at.item)),
            accept.eq(~full | (room & (closed | at.item))),
            # A marker gives its end to the held item; if that has one already, the marker waits for its place.
            step.eq(room | Mux(at.item, ~full, ~(at.marker & closed))),
            self.words.ready.eq(step & ~at.several),
            self.vector.eq(at.vector & (~full | room)),
        ]
        self._step(m, at, step)
        with m.If(accept):
            m.d.sync += [full.eq(at.item | at.marker), closed.eq((at.item | at.marker) & word.end & ~at.several)]
        with m.Elif(at.marker):
            m.d.sync += closed.eq(1)
        self._hold(m, at, held, accept, closed)
        self._send(m, held, closed, push, room)
        return m

    def _step(self, m, at, step):
        """Steps to the word's next segment, or to the next word."""
        following, count = self.next, len(at.left)
        rest = without_lowest(at.left, count)
        with m.If(step):
            with m.If(at.several):
                m.d.sync += [
                    at.several.eq(without_lowest(rest, count) != 0),
                    at.left.eq(rest),
                    Cat(at.chosen, at.place).eq(Cat(lowest(rest, count))),
                ]
            with m.Else():
                m.d.sync += [
                    at.item.eq(self.more & ~following.word.null),
                    at.marker.eq(self.more & following.word.null & following.word.end),
                    at.vector.eq(self.more & ~following.word.null & (following.word.kind != Kind.EVENT)),
                    at.several.eq(self.more & ~following.once),
                    at.left.eq(following.some),
                    Cat(at.chosen, at.place).eq(Cat(lowest(following.some, count))),
                ]

    def _hold(self, m, at, held, accept, closed):
        """Registers the item at hand in a cycle of `accept`."""
        arch, word, size = self.arch, self.words.payload.word, self.arch.segment
        is_wide, wide, kept = word.kind == Kind.MAC2, Signal.like(word.w, reset_less=True), Signal()
        if arch.wide_cycles == 1:
            with m.If(accept & at.item & is_wide):
                m.d.sync += [wide.eq(word.w), kept.eq(1)]
        with m.If(buffered(m, accept, "accept")):
            m.d.sync += [
                held.again.eq(is_wide & kept & (word.w == wide)),
                held.kind.eq(word.kind),
                held.null.eq(word.null),
                held.zero.eq(word.zero & word.end),
                held.w.eq(word.w + Mux(at.vector, 0, at.place * size)),
                held.address.eq(word.address),
            ]
            # Only segments need activations and a mask: what is held of others means nothing.
            for k in range(len(at.chosen)):
                with m.If(at.chosen[k] if k else 1):
                    m.d.sync += held.mask.eq(word.mask[k * size : (k + 1) * size] & ~at.vector.replicate(size))
                    if not reads_late(arch):
                        m.d.sync += [held.act[j].eq(word.act[k * size + j]) for j in range(size)]
        with m.Elif(at.marker & ~closed):
            m.d.sync += held.zero.eq(held.zero | word.zero)

    def _send(self, m, held, closed, push, room):
        """Queues the held item for the issuer."""
        m.submodules.queue = queue = fifo_for(SegmentEntry(self.arch), self.arch.segment_fifo)
        single = without_lowest(held.mask, self.arch.segment) == 0
        m.d.comb += [
            room.eq(queue.i.ready),
            queue.i.payload.eq(held),
            queue.i.payload.end.eq(closed),
            queue.i.payload.once.eq(held.null | Mux(held.kind == Kind.EVENT, single, (held.kind != Kind.MAC2) | held.again)),
            queue.i.valid.eq(push & room),
            self.next_segment.eq(queue.next),
        ]
        connect(m, queue.o, flipped(self.segments))
