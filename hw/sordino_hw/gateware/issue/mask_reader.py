"""The mask reader: joins each activation word with the core's weight mask."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ...spec.structure import Kind
from ..layouts import MaskedWord, ReadWord, mask_address
from ..lib.combinators import without_lowest
from ..lib.fifo import Credit, fifo_for

__all__ = ["MaskReader"]


class MaskReader(wiring.Component):
    """Joins each word that a fetcher sends with the core's own weight mask, and queues it.

    Throughput: a word a cycle. Latency: the FIFO's.

    Parameters
    ----------
    arch : ArchConfig

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
        See `FifoInterface`.
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
        m.submodules.queue = queue = fifo_for(MaskedWord(arch), arch.word_fifo, Latencies(arch).fifo, guarded=True)
        m.d.comb += [
            self.credit.eq(credit.grant),
            credit.take.eq(self.take),
            credit.give.eq(self.o.valid & self.o.ready),
        ]
        # `m_addr` is a late signal: it is compared alone.
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
