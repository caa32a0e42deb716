"""The word store: collects the chunks of an output's word, and stores it in the core's time slot."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.structure import tag_bits
from ..layouts import act_address
from .chunks import Chunk, chunk_index

__all__ = ["WordStore"]


class WordStore(wiring.Component):
    """Collects the chunks of a word, and keeps the finished word until the core's time slot.

    Throughput: a chunk a cycle. Latency: a word is stored in the next time slot, or, of a single core, as its last chunk is in
    place. It never stalls: the issuer spaces the outputs so that one buffered word is enough.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    chunk : In(Chunk), channels : In(array of ppu x signed(event_bits))
        The channels of a chunk.
    ended : In(Chunk), sink : In(1)
        The chunk of the cycle before, which is in its place now; whether its operation stores to state memory instead.
    addresses : In(stream of act_address)
        Where the words go; one leaves with each finished word.
    slot : In(1)
        A finished word is stored in this cycle.
    stored : Out(1), stored_tag : Out(tag_bits)
        An output is stored in this cycle, one with the SINK flag too.
    we, address, word
        Activation memory, in the same cycle; of a single core, in the cycle before.
    trap : Out(1)
        The store was beyond the activation memory, in the cycle before.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "chunk": In(Chunk(arch)),
                "channels": In(data.ArrayLayout(signed(arch.event_bits), arch.ppu)),
                "ended": In(Chunk(arch)),
                "sink": In(1),
                "addresses": In(stream.Signature(act_address(arch))),
                "slot": In(1),
                "stored": Out(1),
                "stored_tag": Out(tag_bits(arch)),
                "we": Out(1),
                "address": Out(act_address(arch)),
                "word": Out(isa.region_bits(arch, isa.Region.ACT)),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        parts = self._collect(m)
        full, place, beyond, dropped, finished = Signal(), Signal.like(self.address), Signal(), Signal(), Signal()
        fits = self.addresses.payload < self.arch.act_depth
        m.d.comb += [
            finished.eq(self.ended.valid & self.ended.last),
            self.addresses.ready.eq(finished),
            self.stored.eq(full & self.slot),
        ]
        if self.arch.cores == 1:
            # Every cycle is the core's time slot: only the address is checked before the word is stored.
            m.d.comb += [
                self.we.eq(finished & ~self.sink & fits),
                self.address.eq(self.addresses.payload),
                self.word.eq(parts),
            ]
        else:
            word = Signal.like(self.word, reset_less=True)
            m.d.comb += [self.we.eq(self.stored & ~dropped & ~beyond), self.address.eq(place), self.word.eq(word)]
            with m.If(finished):
                m.d.sync += word.eq(parts)
        with m.If(self.stored):
            m.d.sync += full.eq(0)
        with m.If(finished):
            m.d.sync += [
                full.eq(1),
                place.eq(self.addresses.payload),
                self.stored_tag.eq(self.ended.tag),
                dropped.eq(self.sink),
                beyond.eq(~fits),
            ]
        m.d.sync += self.trap.eq(self.stored & ~dropped & beyond)
        return m

    def _collect(self, m):
        """The channels of a word: each chunk goes to its place, and the first one clears the others."""
        parts = [Signal.like(self.channels, name=f"part_{c}", reset_less=True) for c in range(self.arch.chunks)]
        index = chunk_index(m, self.arch, self.chunk)
        for c, part in enumerate(parts):
            with m.If(self.chunk.valid & (index == c)):
                m.d.sync += part.eq(self.channels)
            if c > 0:
                with m.If(self.chunk.valid & (index == 0)):
                    m.d.sync += part.eq(0)
        return Cat(parts)
