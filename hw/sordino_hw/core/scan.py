"""Fetch, second half: from rows of occupancy to activation words."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import ArchConfig
from ..primitives import LATENCY, MULTIPLIER_LATENCY, Multiplier, SmallMemory
from .combinators import count_ones, delay, lowest, row_mask, without_lowest
from .fifo import Credit, Fifo
from .latencies import Latencies
from .layouts import WINDOW_BITS, Kind, ReadWord, Request, Row, RowBits, RowTag, TapDescriptor, mask_address, reads_late, sharing

__all__ = ["Occupancy", "Scanner", "WordReader"]


class Occupancy(wiring.Component):
    """Reads the occupancy bits of a row request and queues the row for the scanner, `Latencies.row` cycles later.

    Members
    -------
    valid, ready, tag, low, top, empty
        Row requests from the `Splitter`; ready while the row FIFO has room for what is on its way.
    r_addr, r_data
        Occupancy memory.
    o : Out(stream of Row)
    d : In(TapDescriptor)
        The only operation in flight, if there is no other.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "valid": In(1),
                "ready": Out(1),
                "tag": In(RowTag(arch)),
                "low": In(arch.occ_bits),
                "top": In(arch.occ_bits),
                "empty": In(1),
                "r_addr": Out(max(1, (arch.act_depth // arch.occ_width - 1).bit_length())),
                "r_data": In(arch.occ_width),
                "o": Out(stream.Signature(Row(arch))),
                "d": In(TapDescriptor(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth, occ_width, latency = self.arch.row_fifo, self.arch.occ_width, Latencies(self.arch)
        m.submodules.credit = credit = Credit(depth)
        m.submodules.tags = tags = Fifo(RowTag(self.arch), depth)
        m.submodules.queue = queue = Fifo(RowBits(self.arch), depth)
        take = self.valid & credit.grant
        m.d.comb += [
            self.ready.eq(credit.grant),
            credit.take.eq(take),
            credit.give.eq(self.o.valid & self.o.ready),
            self.r_addr.eq(self.tag.row),
        ]
        # The tags wait for their bits in a queue of their own.
        m.d.comb += [
            tags.i.payload.eq(self.tag),
            tags.i.valid.eq(take),
            tags.o.ready.eq(self.o.valid & self.o.ready),
            self.o.payload.tag.eq(tags.o.payload),
        ]
        low, top, empty = (delay(m, getattr(self, name), latency.memory, name, reset_less=True) for name in ("low", "top", "empty"))
        dense = self.d.dense if self.arch.in_flight == 1 else delay(m, self.tag.dense, latency.memory, "dense", reset_less=True)
        inside = row_mask(low, top, occ_width)
        wanted, size = Signal(occ_width, reset_less=True), Signal(range(occ_width + 1), reset_less=True)
        m.d.sync += [wanted.eq(inside & (self.r_data | dense.replicate(occ_width))), size.eq(top - low + 1)]
        with m.If(empty):
            m.d.sync += [wanted.eq(0), size.eq(0)]
        row = Signal(RowBits(self.arch), reset_less=True)
        m.d.sync += [
            row.bits.eq(wanted),
            row.none.eq(~wanted.any()),
            row.count.eq(count_ones(wanted, occ_width)),
            row.size.eq(size),
        ]
        m.d.comb += [queue.i.valid.eq(delay(m, take, latency.row - latency.fifo, "valid")), queue.i.payload.eq(row)]
        m.d.comb += [self.o.payload.row.eq(queue.o.payload), self.o.valid.eq(queue.o.valid), queue.o.ready.eq(self.o.ready)]
        return m


class Scanner(wiring.Component):
    """Turns the set bits of each row into word requests, lowest first, one per cycle.

    A row without bits costs one cycle and makes no request, unless it ends an output: then a `null` request. A request
    waits until every core of its group has room for a word, and, if it reads activation memory, for the fetcher's slot.

    Parameters
    ----------
    arch : ArchConfig
    index : int
        Number of the fetcher. With G groups on P ports it reads in cycles t with `t % n == index // P % n`, n = max(1, G // P).

    Members
    -------
    rows : In(stream of Row)
    credit : In(cores)
        The core has room for a word.
    cycle : In(3)
        Low bits of the machine's cycle count.
    valid : Out(1), request : Out(Request)
        The request, in the cycle in which it is granted.
    words : Out(1), skipped : Out(range(33))
        For the performance log, in this cycle: a word was requested, and so many empty words were skipped.
    drained : Out(1)
        The request is the last one of its job.
    """

    def __init__(self, arch: ArchConfig, index: int):
        self.arch, self.index = arch, index
        super().__init__(
            {
                "rows": In(stream.Signature(Row(arch))),
                "credit": In(arch.cores),
                "cycle": In(3),
                "valid": Out(1),
                "request": Out(Request(arch)),
                "words": Out(1),
                "skipped": Out(range(arch.occ_width + 1)),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        occ_width = self.arch.occ_width
        row, tag, request = self.rows.payload.row, self.rows.payload.tag, self.request
        seen, number = Signal(occ_width), Signal(range(occ_width + 1), init=1)
        left = row.bits & ~seen
        bit, index = lowest(left, occ_width)
        # The words of a row are counted too, since whether a bit is the last one is soon known from its number; unless the row
        # comes straight from its memory.
        is_last = number == row.count if self.arch.pipelining == 2 else without_lowest(left, occ_width) == 0

        slot = Signal(init=1)
        for k, shared in enumerate(tag.shared):
            others = (1 << (k + 1)) - 1
            with m.If(shared):
                m.d.comb += slot.eq((self.cycle & others) == (self.index // self.arch.ports & others))

        none, final, grant, zero = row.none, Signal(), Signal(), Signal()
        m.d.comb += [
            final.eq(none | is_last),
            grant.eq((~tag.group | self.credit).all() & (none | tag.reuse | slot)),
            self.valid.eq(self.rows.valid & (~none | tag.end) & grant),
            self.rows.ready.eq(self.rows.valid & Mux(none & ~tag.end, 1, grant & final)),
            request.address.eq(Cat(index, tag.row)),
            request.null.eq(none),
            request.zero.eq(zero | (row.size != row.count)),
            *(request[name].eq(tag[name]) for name, _ in tag.shape() if name != "row"),
            request.end.eq(tag.end & final),
            request.last.eq(tag.last & final),
            self.words.eq(self.valid & ~none),
            self.skipped.eq(Mux(self.rows.ready, row.size - row.count, 0)),
            self.drained.eq(self.valid & request.end & (request.last if self.arch.cores > 1 else 1)),
        ]
        with m.If(self.rows.ready):
            m.d.sync += [seen.eq(0), number.eq(1), zero.eq(~tag.end & request.zero)]
        with m.Elif(self.valid):
            m.d.sync += [seen.eq(seen | bit), number.eq(number + 1)]
        return m


class WordReader(wiring.Component):
    """Reads requested activation words, or takes them from the window, and shows them to the cores.

    For a request in cycle t the activation memory's address is out in t + 1 and its data is in in t + 1 + LATENCY; the
    data is registered before it is compared with zero, and the outcome is registered: the word is out in
    t + Latencies.read = t + LATENCY + 3. The address of its mask row is out LATENCY cycles before the word.

    Members
    -------
    valid, request
        The `Scanner`'s outputs.
    act_en : Out(1), act_addr, act_data
        Activation memory, or, if activations are read late, the memory of those that are not zero; `act_addr` means something
        with `act_en` alone.
    mask_valid : Out(cores), m_addr
        The mask row that a core needs LATENCY cycles later: of EVENT words that are not null.
    word_valid : Out(cores), word : Out(ReadWord)
        The word, for the cores in `word_valid`. A null word has no lane live and zero activations.
    d : In(TapDescriptor)
        The only operation in flight, if there is no other.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "valid": In(1),
                "request": In(Request(arch)),
                "act_en": Out(1),
                "act_addr": Out(max(1, (arch.act_depth - 1).bit_length())),
                "act_data": In(arch.lanes if reads_late(arch) else isa.region_bits(arch, isa.Region.ACT)),
                "mask_valid": Out(arch.cores),
                "m_addr": Out(mask_address(arch)),
                "word_valid": Out(arch.cores),
                "word": Out(ReadWord(arch)),
                "d": In(TapDescriptor(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        assert Latencies(self.arch).read == LATENCY + 3
        word = Signal(ReadWord(self.arch), reset_less=True)
        m.d.comb += self.word.eq(word)
        requested = delay(m, self.request, 1, "request", reset_less=True)
        to = delay(m, Mux(self.valid, self.request.to, 0) if self.arch.cores > 1 else self.valid, 1, "to")
        reads = delay(m, self.valid & ~self.request.null & ~self.request.reuse.any(), 1, "reads")
        m.d.comb += [self.act_en.eq(reads), self.act_addr.eq(requested.address)]

        # The word's index in the span, and what follows from it, in the cycles of the read.
        q = Signal.like(requested.q)
        w_word = self.d.W_WORD if self.arch.in_flight == 1 else requested.w_word
        m.d.comb += q.eq(requested.q + requested.address[: self.arch.occ_bits])
        w, row = delay(m, requested.w, MULTIPLIER_LATENCY, "w", reset_less=True), Signal.like(requested.w, reset_less=True)
        if reads_late(self.arch):
            # The smallest device has no multiplier to spare.
            product = Signal.like(row)
            a, b = Signal.like(q), Signal.like(w_word)
            m.d.sync += [a.eq(q), b.eq(w_word), product.eq(a * b)]
        else:
            m.submodules.multiplier = multiplier = Multiplier(len(q) + 1, len(w_word) + 1)
            m.d.comb += [multiplier.a.eq(q), multiplier.b.eq(w_word)]
            product = multiplier.p
        m_base, index = delay(m, requested.m, 1, "m", reset_less=True), delay(m, q, 1, "q", reset_less=True)
        m.d.sync += self.m_addr.eq(m_base + index)
        checked = delay(m, Mux((requested.kind == Kind.EVENT) & ~requested.null, to, 0), 1, "checked")
        m.d.sync += self.mask_valid.eq(checked)
        m.d.sync += row.eq(w + product)

        # A word that is read goes through the window: so one that is reused comes out there as well.
        arrived = delay(m, requested, LATENCY, "arrived", reset_less=True)
        read = delay(m, arrived, 1, "read", reset_less=True)
        act = Signal(self.act_data.shape() if reads_late(self.arch) else word.act.shape(), reset_less=True)
        if sharing(self.arch):
            m.submodules.window = window = SmallMemory(1 << WINDOW_BITS, len(self.act_data))
            m.d.comb += [
                window.w_en.eq(delay(m, reads, LATENCY, "kept")),
                window.w_addr.eq(arrived.place),
                window.w_data.eq(self.act_data),
                window.r_addr.eq(read.place),
                act.as_value().eq(window.r_data),
            ]
        else:
            m.d.sync += Value.cast(act).eq(self.act_data)
        if reads_late(self.arch):
            live = act
            m.d.sync += word.address.eq(read.address)
        else:
            live = Cat(a != 0 for a in act)
            m.d.sync += word.act.eq(act)
        dense = (self.d if self.arch.in_flight == 1 else read).dense
        m.d.sync += [
            word.live.eq(live | dense.replicate(self.arch.lanes)),
            *(word[name].eq(read[name]) for name in ("kind", "null", "end", "zero")),
            self.word_valid.eq(delay(m, to, LATENCY + 1, "for")),
        ]
        with m.If(read.null):
            m.d.sync += [word.act.eq(0), word.live.eq(0)]
        m.d.sync += word.w.eq(row)
        return m
