"""The word reader: reads the requested activation words, or takes them from the word window."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import LATENCY, MULTIPLIER_LATENCY, Latencies
from ...spec.structure import Kind, reads_late, sharing
from ..layouts import WINDOW_BITS, ReadWord, Request, TapDescriptor, mask_address
from ..lib.combinators import delay
from ..primitives import Multiplier, SmallMemory

__all__ = ["WordReader"]


class WordReader(wiring.Component):
    """Reads requested activation words, or takes them from the word window, and shows them to the cores.

    Throughput: a word a cycle. Latency: `Latencies.read` cycles. Of a request in cycle t the memory's address is out in t + 1, its
    data is in in t + 1 + LATENCY, and is registered before it is compared with zero, as is the outcome. The address of the word's
    mask row is out LATENCY cycles before the word.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    valid, request, take
        The `Scanner`'s outputs.
    act_en : Out(1), act_addr, act_data
        Activation memory, or, if activations are read late, the memory of which of them are not zero; `act_addr` means something
        with `act_en` alone.
    mask_valid : Out(cores), m_addr
        The mask row that a core needs LATENCY cycles later: of EVENT words that are not null.
    word_valid : Out(cores), word : Out(ReadWord)
        The word, for the cores in `word_valid`. A null word has no lane live and zero activations.
    d : In(TapDescriptor)
        The operation in flight, where there is one at most.
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
        requested = delay(m, self.request, 1, "request", reset_less=True)
        to = delay(m, self.take, 1, "to")
        reads = delay(m, self.valid & ~self.request.null & ~self.request.reuse.any(), 1, "reads")
        word = Signal(ReadWord(self.arch), reset_less=True)
        m.d.comb += [self.act_en.eq(reads), self.act_addr.eq(requested.address), self.word.eq(word)]
        m.d.sync += [word.w.eq(self._rows(m, requested, to)), self.word_valid.eq(delay(m, to, LATENCY + 1, "for"))]
        arrived = delay(m, requested, LATENCY, "arrived", reset_less=True)
        read = delay(m, arrived, 1, "read", reset_less=True)
        act = self._activations(m, reads, arrived, read)
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
        ]
        with m.If(read.null):
            m.d.sync += [word.act.eq(0), word.live.eq(0)]
        return m

    def _rows(self, m, requested, to):
        """Asks for the mask row, and returns the weight row, from the word's index in its span, while the word is read."""
        q = Signal.like(requested.q)
        w_word = self.d.W_WORD if self.arch.in_flight == 1 else requested.w_word
        m.d.comb += q.eq(requested.q + requested.address[: self.arch.occ_bits])
        w, row = delay(m, requested.w, MULTIPLIER_LATENCY, "w", reset_less=True), Signal.like(requested.w, reset_less=True)
        if reads_late(self.arch):
            # The smallest device has no multiplier to spare.
            product, a, b = Signal.like(row), Signal.like(q), Signal.like(w_word)
            m.d.sync += [a.eq(q), b.eq(w_word), product.eq(a * b)]
        else:
            m.submodules.multiplier = multiplier = Multiplier(len(q) + 1, len(w_word) + 1)
            m.d.comb += [multiplier.a.eq(q), multiplier.b.eq(w_word)]
            product = multiplier.p
        m_base, index = delay(m, requested.m, 1, "m", reset_less=True), delay(m, q, 1, "q", reset_less=True)
        needs_mask = (requested.kind == Kind.EVENT) & ~requested.null
        m.d.sync += [
            self.m_addr.eq(m_base + index),
            self.mask_valid.eq(delay(m, Mux(needs_mask, to, 0), 1, "checked")),
            row.eq(w + product),
        ]
        return row

    def _activations(self, m, reads, arrived, read):
        """The word of the request `read`, a cycle after the memory shows it.

        With a word window, words that are read are written to it, and every word is taken from it, read or reused.
        """
        late = reads_late(self.arch)
        act = Signal(self.act_data.shape() if late else ReadWord(self.arch)["act"].shape, reset_less=True)
        if not sharing(self.arch):
            m.d.sync += Value.cast(act).eq(self.act_data)
            return act
        m.submodules.window = window = SmallMemory(1 << WINDOW_BITS, len(self.act_data))
        m.d.comb += [
            window.w_en.eq(delay(m, reads, LATENCY, "kept")),
            window.w_addr.eq(arrived.place),
            window.w_data.eq(self.act_data),
            window.r_addr.eq(read.place),
            act.as_value().eq(window.r_data),
        ]
        return act
