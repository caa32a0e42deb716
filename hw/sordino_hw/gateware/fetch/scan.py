"""Fetch, second half: from rows of occupancy to activation words."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import LATENCY, MULTIPLIER_LATENCY, Latencies
from ...spec.structure import Kind, fetchers_of, reads_late, sharing
from ..layouts import WINDOW_BITS, ReadWord, Request, Row, RowBits, RowTag, TapDescriptor, mask_address
from ..lib.combinators import count_ones, delay, gate, lowest, row_mask, without_lowest
from ..lib.fifo import Credit, Fifo, Ring
from ..primitives import Multiplier, SmallMemory

__all__ = ["Occupancy", "Scanner", "WordReader"]


class Occupancy(wiring.Component):
    """Reads the occupancy bits of a row request and queues the row for the scanner, `Latencies.row` cycles later.

    Members
    -------
    valid, ready, tag, low, top, empty
        Row requests from the `Splitter`; ready while the row FIFO has room for what is on its way.
    r_addr, r_data
        Occupancy memory.
    o : Out(stream of Row), next : Out(Row), more : Out(1)
        See `Fifo`. Whoever takes the rows is ready, too, while there is none.
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
                "next": Out(Row(arch)),
                "more": Out(1),
                "d": In(TapDescriptor(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth, occ_width, latency = self.arch.row_fifo, self.arch.occ_width, Latencies(self.arch)
        m.submodules.credit = credit = Credit(depth)
        m.submodules.tags = tags = Ring(RowTag(self.arch), depth)
        m.submodules.queue = queue = Fifo(RowBits(self.arch), depth, guarded=True)
        take = self.valid & credit.grant
        m.d.comb += [
            self.ready.eq(credit.grant),
            credit.take.eq(take),
            credit.give.eq(self.o.valid & self.o.ready),
            self.r_addr.eq(self.tag.row),
        ]
        # The tags are there before their bits, and leave with them.
        tag = Signal(RowTag(self.arch), reset_less=True)
        m.d.comb += [tags.i.eq(self.tag), tags.push.eq(take), tags.pop.eq(self.o.ready & queue.more)]
        with m.If(self.o.ready):
            m.d.sync += tag.eq(tags.o)
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
        m.d.comb += [
            self.o.payload.row.eq(queue.o.payload),
            self.o.payload.tag.eq(tag),
            self.o.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.o.ready),
            self.next.row.eq(queue.next),
            self.next.tag.eq(tags.o),
            self.more.eq(queue.more),
        ]
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
    rows : In(stream of Row), next : In(Row), more : In(1)
        See `Fifo`: what decides about a row is registered as it comes. Ready, too, while there is no row.
    credit : In(cores)
        The core has room for a word; of those that the fetcher can serve.
    cycle : In(3)
        Low bits of the machine's cycle count.
    valid : Out(1), request : Out(Request)
        The request, in the cycle in which it is granted.
    take : Out(cores)
        The cores that it is for, in that cycle.
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
                "next": In(Row(arch)),
                "more": In(1),
                "credit": In(arch.cores),
                "cycle": In(3),
                "valid": Out(1),
                "request": Out(Request(arch)),
                "take": Out(arch.cores),
                "words": Out(1),
                "skipped": Out(range(arch.occ_width + 1)),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        occ_width, fast = self.arch.occ_width, self.arch.profile == "pipelined"
        row, tag, request = self.rows.payload.row, self.rows.payload.tag, self.request
        seen, zero = Signal(occ_width), Signal()
        left = row.bits & ~seen
        bit, index = lowest(left, occ_width)

        # What a row decides: whether it makes requests, whether these may be made in any cycle, and whether the next is the last.
        wants, anytime, final = Signal(), Signal(), Signal()
        if fast:
            come, single = self.next, Signal()
            with m.If(self.rows.ready):
                m.d.sync += [wants.eq(self.more & _wants(come)), anytime.eq(_anytime(come)), single.eq(come.row.count <= 1)]
            # Bits are counted, too, since whether one is the last is soon known from its number; `number` is that of the next.
            number, counted = Signal(range(occ_width + 1), init=2), Signal()
            with m.If(self.rows.ready):
                m.d.sync += [number.eq(2), counted.eq(0)]
            with m.Elif(self.valid):
                m.d.sync += [number.eq(number + 1), counted.eq(number == row.count)]
            m.d.comb += final.eq(single | counted)
        else:
            m.d.comb += [
                wants.eq(self.rows.valid & _wants(self.rows.payload)),
                anytime.eq(_anytime(self.rows.payload)),
                final.eq(without_lowest(left, occ_width) == 0),
            ]

        # The cycle's number is kept close by, a cycle late.
        before = Signal(max(1, len(tag.shared)), init=-1)
        m.d.sync += before.eq(self.cycle)
        turns = [(before[: k + 1] + 1)[: k + 1] == self.index // self.arch.ports % (2 << k) for k in range(len(tag.shared))]
        slot = anytime | turns[-1] if turns else anytime
        for shared, turn in zip(tag.shared, turns[:-1], strict=False):
            slot = Mux(shared, anytime | turn, slot)

        # From here on it is two levels of logic to what reaches across the fetcher and to its cores.
        served = [c for c in range(self.arch.cores) if self.index in fetchers_of(self.arch, c)]
        group, to = (tag.group, tag.to) if self.arch.cores > 1 else (Const(1, 1), Const(1, 1))
        bits, may = Cat(Cat(group[c], self.credit[c]) for c in served), wants & slot
        room = [
            gate(m, f"room_{k}", lambda g, c, h=0, d=0: (1 - g | c) & (1 - h | d), *bits[k : k + 4]) for k in range(0, len(bits), 4)
        ]
        granted = room[0], Cat(room[1:]).all()
        m.d.comb += [
            self.valid.eq(gate(m, "valid", lambda a, b, may: a & b & may, *granted, may)),
            *(self.take[c].eq(gate(m, f"take_{c}", lambda a, b, may: a & b & may, *granted, may & to[c])) for c in served),
            self.rows.ready.eq(gate(m, "ready", lambda a, b, last, wants: 1 - wants | a & b & last, *granted, slot & final, wants)),
            request.address.eq(Cat(index, tag.row)),
            request.null.eq(row.none),
            request.zero.eq(zero | (row.size != row.count)),
            *(request[name].eq(tag[name]) for name, _ in tag.shape() if name != "row"),
            request.end.eq(tag.end & final),
            request.last.eq(tag.last & final),
            self.words.eq(self.valid & ~row.none),
            self.skipped.eq(Mux(self.rows.valid & self.rows.ready, row.size - row.count, 0)),
            self.drained.eq(self.valid & request.end & (request.last if self.arch.cores > 1 else 1)),
        ]
        with m.If(self.rows.ready):
            m.d.sync += seen.eq(0)
        with m.Elif(self.valid):
            m.d.sync += seen.eq(seen | bit)
        with m.If(self.rows.valid & self.rows.ready):
            m.d.sync += zero.eq(~tag.end & request.zero)
        return m


def _wants(row):
    """Whether a row makes requests."""
    return ~row.row.none | row.tag.end


def _anytime(row):
    """Whether its requests wait for no slot."""
    return row.row.none | row.tag.reuse | ~row.tag.shared.any()


class WordReader(wiring.Component):
    """Reads requested activation words, or takes them from the window, and shows them to the cores.

    For a request in cycle t the activation memory's address is out in t + 1 and its data is in in t + 1 + LATENCY; the
    data is registered before it is compared with zero, and the outcome is registered: the word is out in
    t + Latencies.read = t + LATENCY + 3. The address of its mask row is out LATENCY cycles before the word.

    Members
    -------
    valid, request, take
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
                "take": In(arch.cores),
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
        to = delay(m, self.take, 1, "to")
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
