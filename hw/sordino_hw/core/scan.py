"""Fetch, second half: from rows of occupancy to activation words with their event masks."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import View
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import isa
from ..arch import OCC_WIDTH, ArchConfig
from .combinators import delay, lowest
from .fifo import Credit, Fifo
from .layouts import ADDR, Kind, Row, RowTag, Word
from .memory import LATENCY

__all__ = ["Occupancy", "Scanner", "WordReader"]


class Occupancy(wiring.Component):
    """Reads the occupancy bits of a row request and queues the row for the scanner.

    Members
    -------
    valid, ready, tag, bits
        Row requests from the `Splitter`; ready while the row FIFO has room for what is on its way.
    r_addr, r_data
        Occupancy memory.
    o : Out(stream of Row)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "valid": In(1),
                "ready": Out(1),
                "tag": In(RowTag()),
                "bits": In(OCC_WIDTH),
                "r_addr": Out(max(1, (arch.act_depth // OCC_WIDTH - 1).bit_length())),
                "r_data": In(OCC_WIDTH),
                "o": Out(stream.Signature(Row())),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.credit = credit = Credit(self.arch.row_fifo)
        m.submodules.queue = queue = Fifo(Row(), self.arch.row_fifo)
        take = self.valid & credit.grant
        m.d.comb += [
            self.ready.eq(credit.grant),
            credit.take.eq(take),
            credit.give.eq(self.o.valid & self.o.ready),
            self.r_addr.eq(self.tag.row),
        ]
        tag = delay(m, self.tag, LATENCY, "tag")
        bits = delay(m, self.bits, LATENCY, "bits")
        empty = Signal(OCC_WIDTH)
        m.d.comb += [
            empty.eq(Mux(tag.dense, 0, bits & ~self.r_data)),
            queue.i.valid.eq(delay(m, take, LATENCY, "valid")),
            queue.i.payload.tag.eq(tag),
            queue.i.payload.bits.eq(bits & ~empty),
            queue.i.payload.skipped.eq(sum(empty[b] for b in range(OCC_WIDTH))),
        ]
        connect(m, queue.o, flipped(self.o))
        return m


class Scanner(wiring.Component):
    """Turns the set bits of each row into word requests, lowest first, one per cycle.

    A row without bits costs one cycle and makes no request, unless it ends an output: then a `null` request.

    Members
    -------
    rows : In(stream of Row)
    grant : In(1)
        There is room for a request.
    valid, address, m_addr, w, kind, null, end, fin, zero
        The request, one cycle, when granted. `zero`: an empty word was skipped in this output (for MAX).
    words, skipped, done
        For the performance log: activation words read and skipped so far in this operation, valid with `done`, in the
        cycle of the operation's last request.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "rows": In(stream.Signature(Row())),
                "grant": In(1),
                "valid": Out(1),
                "address": Out(ADDR),
                "m_addr": Out(ADDR),
                "w": Out(ADDR),
                "kind": Out(Kind),
                "dense": Out(1),
                "null": Out(1),
                "end": Out(1),
                "fin": Out(1),
                "zero": Out(1),
                "words": Out(32),
                "skipped": Out(32),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        row, tag = self.rows.payload, self.rows.payload.tag
        seen, left = Signal(OCC_WIDTH), Signal(OCC_WIDTH)
        m.d.comb += left.eq(row.bits & ~seen)
        bit, index = lowest(left, OCC_WIDTH)
        final, skip, zero = Signal(), Signal(), Signal()
        m.d.comb += [
            final.eq((left & ~bit) == 0),
            skip.eq((left == 0) & ~tag.end),
            self.valid.eq(self.rows.valid & ~skip & self.grant),
            self.rows.ready.eq(self.rows.valid & (skip | (self.grant & final))),
            self.address.eq(Cat(index, tag.row)),
            self.m_addr.eq(tag.m + index),
            self.w.eq(tag.w + index * tag.w_word),
            self.kind.eq(tag.kind),
            self.dense.eq(tag.dense),
            self.null.eq(left == 0),
            self.end.eq(tag.end & final),
            self.fin.eq(tag.fin & final),
            self.zero.eq(zero | (row.skipped != 0)),
            self.done.eq(self.rows.ready & tag.fin),
        ]
        with m.If(self.rows.ready):
            m.d.sync += seen.eq(0)
            m.d.sync += zero.eq(~tag.end & self.zero)
        with m.Elif(self.valid):
            m.d.sync += seen.eq(seen | bit)

        words, skipped = Signal(32), Signal(32)
        m.d.comb += [
            self.words.eq(words + (self.valid & ~self.null)),
            self.skipped.eq(skipped + Mux(self.rows.ready, row.skipped, 0)),
        ]
        m.d.sync += [words.eq(Mux(self.done, 0, self.words)), skipped.eq(Mux(self.done, 0, self.skipped))]
        return m


class WordReader(wiring.Component):
    """Reads requested activation words and their weight masks, forms the event mask and queues the word.

    Latency: a request in cycle t can leave in cycle t + LATENCY + 2.

    Members
    -------
    request
        The `Scanner`'s outputs; `grant` back to it.
    act_addr, act_data, mask_addr, mask_data
        The memories.
    o : Out(stream of Word)
    trap : Out(1)
        A mask row beyond the memory.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "valid": In(1),
                "address": In(ADDR),
                "m_addr": In(ADDR),
                "w": In(ADDR),
                "kind": In(Kind),
                "dense": In(1),
                "null": In(1),
                "end": In(1),
                "fin": In(1),
                "zero": In(1),
                "grant": Out(1),
                "act_addr": Out(max(1, (arch.act_depth - 1).bit_length())),
                "act_data": In(isa.region_bits(arch, isa.Region.ACT)),
                "mask_addr": Out(max(1, (arch.mask_depth - 1).bit_length())),
                "mask_data": In(arch.lanes),
                "o": Out(stream.Signature(Word(arch))),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.credit = credit = Credit(self.arch.word_fifo)
        m.submodules.queue = queue = Fifo(Word(self.arch), self.arch.word_fifo)
        m.d.comb += [
            self.grant.eq(credit.grant),
            credit.take.eq(self.valid),
            credit.give.eq(self.o.valid & self.o.ready),
        ]
        valid, address, m_addr = Signal(), Signal(ADDR), Signal(ADDR)
        m.d.sync += [valid.eq(self.valid), address.eq(self.address), m_addr.eq(self.m_addr)]
        is_event = Signal()
        m.d.sync += is_event.eq((self.kind == Kind.EVENT) & ~self.null)
        m.d.comb += [
            self.act_addr.eq(address),
            self.mask_addr.eq(m_addr),
            self.trap.eq(valid & is_event & (m_addr >= self.arch.mask_depth)),
        ]
        late = {
            name: delay(m, getattr(self, name), LATENCY + 1, name) for name in ("w", "kind", "dense", "null", "end", "fin", "zero")
        }
        word = queue.i.payload
        act = View(word.act.shape(), self.act_data)
        nonzero = Cat(act[i] != 0 for i in range(self.arch.lanes))
        m.d.comb += [
            queue.i.valid.eq(delay(m, valid, LATENCY, "arrived")),
            word.act.eq(Mux(late["null"], 0, self.act_data)),
            word.mask.eq(Mux(late["null"], 0, self.mask_data & (nonzero | late["dense"].replicate(self.arch.lanes)))),
            *(word[name].eq(late[name]) for name in ("w", "kind", "null", "end", "fin", "zero")),
        ]
        connect(m, queue.o, flipped(self.o))
        return m
