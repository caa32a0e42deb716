"""Two-level issue: words are cut into segments, segments into events; empty segments and zeros cost nothing."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ...spec.structure import Kind, reads_late, tag_bits
from ..layouts import Event, ReadWord, SegmentEntry, Word, mask_address
from ..lib.combinators import buffered, delay, index_of, lowest, without_lowest
from ..lib.fifo import Credit, Fifo, Ring

__all__ = ["VECTOR_LATENCY", "IssueStatus", "Issuer", "MaskReader", "MaskedWord", "Segmenter"]

VECTOR_LATENCY = 2
"""From an event at the lanes to its vector."""


class MaskedWord(data.StructLayout):
    """A word and what is found out about it while it enters the FIFO: which of its segments have events (`some`), and whether
    it is at most one item (`once`). It is `null` if it is none, whatever its mask was to be.
    """

    def __init__(self, arch: ArchConfig):
        super().__init__({"word": Word(arch), "some": arch.lanes // arch.segment, "once": 1})


class MaskReader(wiring.Component):
    """Joins each word that a fetcher sends with the core's own weight mask, and queues it.

    Members
    -------
    mask_valid, m_addr
        Mask row of a word that follows a memory's latency later, if it needs one.
    word : In(ReadWord), word_valid : In(1)
        A word, for which there is room.
    credit : Out(1), take : In(1)
        There is room for one more request; one was made in this cycle.
    mask_addr, mask_data
        Mask memory.
    o : Out(stream of MaskedWord), next : Out(MaskedWord), more : Out(1)
        See `Fifo`.
    trap : Out(1)
        A mask row beyond the memory, in the cycle before.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "mask_valid": In(1),
                "m_addr": In(mask_address(arch)),
                "word": In(ReadWord(arch)),
                "word_valid": In(1),
                "credit": Out(1),
                "take": In(1),
                "mask_addr": Out(max(1, (arch.mask_depth - 1).bit_length())),
                "mask_data": In(arch.lanes),
                "o": Out(stream.Signature(MaskedWord(arch))),
                "next": Out(MaskedWord(arch)),
                "more": Out(1),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, word = self.arch, self.word
        m.submodules.credit = credit = Credit(arch.word_fifo)
        m.submodules.queue = queue = Fifo(MaskedWord(arch), arch.word_fifo, Latencies(arch).fifo, guarded=True)
        m.d.comb += [
            self.credit.eq(credit.grant),
            credit.take.eq(self.take),
            credit.give.eq(self.o.valid & self.o.ready),
        ]
        # The address comes late: it is compared alone.
        asked, beyond = Signal(), Signal()
        m.d.sync += [asked.eq(self.mask_valid), beyond.eq(self.m_addr >= arch.mask_depth)]
        m.d.comb += [self.mask_addr.eq(self.m_addr), self.trap.eq(asked & beyond)]
        mask, some = Signal(arch.lanes), Signal(arch.lanes // arch.segment)
        out, size, is_vector = queue.i.payload, arch.segment, word.kind != Kind.EVENT
        m.d.comb += [
            mask.eq(self.mask_data & word.live),
            some.eq(Cat(mask[k : k + size].any() for k in range(0, arch.lanes, size))),
            queue.i.valid.eq(self.word_valid),
            *(out.word[name].eq(word[name]) for name, _ in out.word.shape() if name not in ("mask", "null")),
            out.word.mask.eq(mask),
            out.word.null.eq(Mux(is_vector, word.null, some == 0)),
            out.some.eq(some),
            out.once.eq(is_vector | (without_lowest(some, len(some)) == 0)),
            self.next.eq(queue.next),
            self.more.eq(queue.more),
        ]
        connect(m, queue.o, flipped(self.o))
        return m


class Segmenter(wiring.Component):
    """Cuts words into non-empty segments of eight channels, one per cycle; a vector word is one item.

    The last item of an output carries `end`. Whether an item is the last is known only when the next one, or an empty
    end, arrives: so one item is held back; in the profile `small` it is held until it is issued, without a FIFO.

    Members
    -------
    words : In(stream of MaskedWord), next : In(MaskedWord), more : In(1)
        See `Fifo`: what decides about a word is registered as it comes.
    segments : Out(stream of SegmentEntry), next_segment : Out(SegmentEntry)
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
        size, count = arch.segment, arch.lanes // arch.segment
        held = Signal(SegmentEntry(arch), reset_less=True)
        queue = None
        if arch.profile == "pipelined":
            m.submodules.queue = queue = Fifo(SegmentEntry(arch), arch.segment_fifo)

        # The word at hand, if there is any: an item or `several`, or an end alone (`bare`). A word that is neither passes.
        item, bare, vector, several = Signal(), Signal(), Signal(), Signal()
        left, chosen, place = Signal(count), Signal(count), Signal(range(max(2, count)))
        come, rest = self.next, without_lowest(left, count)

        is_wide, wide, kept = word.kind == Kind.MAC2, Signal.like(word.w, reset_less=True), Signal()
        # `held` is an item while `full`, and leaves when it has an end (`closed`) or another item comes.
        full, closed, room = Signal(), Signal(), queue.i.ready if queue else self.segments.ready
        push, accept, step = Signal(), Signal(), Signal()
        m.d.comb += [
            push.eq(full & (closed | item)),
            accept.eq(~full | (room & (closed | item))),
            # An end alone is given to the item before, unless there is none without an end.
            step.eq(room | Mux(item, ~full, ~(bare & closed))),
            self.words.ready.eq(step & ~several),
        ]
        with m.If(step):
            with m.If(several):
                m.d.sync += [
                    several.eq(without_lowest(rest, count) != 0),
                    left.eq(rest),
                    Cat(chosen, place).eq(Cat(lowest(rest, count))),
                ]
            with m.Else():
                m.d.sync += [
                    item.eq(self.more & ~come.word.null),
                    bare.eq(self.more & come.word.null & come.word.end),
                    vector.eq(self.more & ~come.word.null & (come.word.kind != Kind.EVENT)),
                    several.eq(self.more & ~come.once),
                    left.eq(come.some),
                    Cat(chosen, place).eq(Cat(lowest(come.some, count))),
                ]
        if arch.wide_cycles == 1:
            with m.If(accept & item & is_wide):
                m.d.sync += [wide.eq(word.w), kept.eq(1)]
        with m.If(accept):
            m.d.sync += [full.eq(item | bare), closed.eq((item | bare) & word.end & ~several)]
        with m.Elif(bare):
            m.d.sync += closed.eq(1)
        with m.If(buffered(m, accept, "accept")):
            m.d.sync += [
                held.again.eq(is_wide & kept & (word.w == wide)),
                held.kind.eq(word.kind),
                held.null.eq(word.null),
                held.zero.eq(word.zero & word.end),
                held.w.eq(word.w + Mux(vector, 0, place * size)),
                held.address.eq(word.address),
            ]
            # What is no segment has no use for activations.
            for k in range(count):
                with m.If(chosen[k] if k else 1):
                    m.d.sync += held.mask.eq(word.mask[k * size : (k + 1) * size] & ~vector.replicate(size))
                    if not reads_late(arch):
                        m.d.sync += [held.act[j].eq(word.act[k * size + j]) for j in range(size)]
        with m.Elif(bare & ~closed):
            m.d.sync += held.zero.eq(held.zero | word.zero)

        m.d.comb += self.vector.eq(vector & (~full | room))
        if queue is None:
            # The issuer takes the item from where it is held.
            m.d.comb += [self.segments.payload.eq(held), self.segments.payload.end.eq(closed), self.segments.valid.eq(push)]
            return m
        single = without_lowest(held.mask, size) == 0
        m.d.comb += [
            queue.i.payload.eq(held),
            queue.i.payload.end.eq(closed),
            queue.i.payload.once.eq(held.null | Mux(held.kind == Kind.EVENT, single, (held.kind != Kind.MAC2) | held.again)),
            queue.i.valid.eq(push & room),
            self.next_segment.eq(queue.next),
        ]
        connect(m, queue.o, flipped(self.segments))
        return m


class IssueStatus(data.StructLayout):
    """What the issuer did in the cycle before; none of them: no segment had arrived."""

    def __init__(self):
        super().__init__({"busy": 1, "ppu": 1, "marker": 1})


class Issuer(wiring.Component):
    """Issues one event, or one vector cycle, per cycle.

    The item that closes an output waits until the shadow accumulators are free of the output before and the store
    buffer will be: max(DRAIN, cores) cycles after that one's close, or DRAIN + cores after the close of an output of
    another operation, whose drain may have been longer. Nothing downstream ever stalls, so this is the only place where
    the PPU holds the array back.

    Members
    -------
    segments : In(stream of SegmentEntry), next : In(SegmentEntry)
        See `Fifo`: what decides about an item is registered as it comes.
    vector, act
        From the `Segmenter`: `act` is the word of a vector item that follows among the segments.
    outputs : In(stream of tag_bits), next_output : In(tag_bits)
        Operations of the outputs dealt; one leaves with each close.
    drain : In(6)
        DRAIN of the operation `outputs.payload`.
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
        # Whether a step is the item's last, and closes an output, is known a cycle before: it decides on everything else.
        final, closing = Signal(), Signal()
        low, high_half = ([_exactly(left[k : k + 4], n) for n in range(3)] for k in (0, 4))
        two_left = Cat(low[n] & high_half[2 - n] for n in range(3)).any()
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
                penultimate = is_vector | two_left
                m.d.sync += [left.eq(left & ~bit), high.eq(is_vector), final.eq(penultimate), closing.eq(penultimate & seg.end)]
            with m.Else():
                come = self.next
                m.d.sync += [left.eq(come.mask), high.eq(0), final.eq(come.once), closing.eq(come.once & come.end)]
        with m.If(issue):
            m.d.sync += first.eq(closing)
        m.d.sync += [
            self.status.busy.eq(issue & ~seg.null),
            self.status.ppu.eq(valid & blocked),
            self.status.marker.eq(issue & seg.null),
        ]

        # First cycle: the item as it is. Second: its weight row, and the event among its activations.
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
        offset = index_of(chosen, arch.segment) | item.high
        event = self.event
        m.d.sync += [
            event.eq(item),
            event.w.eq(item.w + offset),
            self.event_valid.eq(delay(m, issue, Latencies(arch).issue - 1, "issued")),
        ]

        if reads_late(arch):
            m.d.sync += [event.lane.eq(offset), self.address.eq(delay(m, seg.address, 1, "address", reset_less=True))]
            return m
        picked = Signal(arch.event_bits)
        m.d.comb += picked.eq(_one_of(chosen, act))
        m.d.sync += event.act.eq(picked)

        # Vectors wait for their segments beside them: those held, queued, and issued but not yet at the lanes.
        late = Latencies(arch).issue + VECTOR_LATENCY - 1
        m.submodules.vectors = vectors = Ring(self.act.shape(), 1 + arch.segment_fifo + late)
        m.d.comb += [
            vectors.push.eq(self.vector),
            vectors.i.eq(self.act),
            vectors.pop.eq(delay(m, issue & final & is_vector & ~seg.null, late, "taken")),
        ]
        operands = Signal.like(self.operands, reset_less=True)
        m.d.sync += operands.eq(vectors.o)
        m.d.comb += self.operands.eq(operands)
        return m

    def _spacing(self, m, close):
        """Whether the output at hand may close; counts from each close on."""
        bits = isa.REGISTERS["DRAIN"].bits + 1
        cores, drain = self.arch.cores, self.drain
        same, other, same_over, other_over = Signal(bits), Signal(bits), Signal(init=1), Signal(init=1)
        # Whether the output at hand may close, and is of the operation that closed the last one, is known a cycle before.
        free, soon = Signal(init=1), [Signal(name=f"soon_{k}") for k in range(2)]
        tag, is_same, next_same, valid = Signal.like(self.outputs.payload), Signal(init=1), Signal(), self.outputs.valid
        m.d.comb += next_same.eq(is_same)
        with m.If(~valid | close):
            m.d.comb += next_same.eq(self.next_output == Mux(valid, self.outputs.payload, tag))
        m.d.sync += is_same.eq(next_same)
        starts = Mux(drain > cores, drain, cores) - 1, drain + (cores - 1)
        for counter, over, next_over, start in ((same, same_over, soon[0], starts[0]), (other, other_over, soon[1], starts[1])):
            m.d.comb += next_over.eq(Mux(close, start == 0, over | (counter == 1)))
            m.d.sync += over.eq(next_over)
            with m.If(close):
                m.d.sync += counter.eq(start)
            with m.Elif(~over):
                m.d.sync += counter.eq(counter - 1)
        with m.If(close):
            m.d.sync += tag.eq(self.outputs.payload)
        m.d.sync += free.eq(Mux(next_same, *soon))
        return free


def _exactly(bits, ones: int):
    """Whether `ones` of four bits are set."""
    return Cat(bits == i for i in range(16) if i.bit_count() == ones).any()


def _one_of(one_hot, values):
    """The value that a one-hot selects among an array's; zero where it selects none."""
    return reduce(or_, (values[i].as_unsigned() & one_hot[i].replicate(len(values[i])) for i in range(len(one_hot))))
