"""The word reader of the small core."""

from amaranth.hdl import Module, Signal

from ...spec.latencies import Latencies
from ...spec.structure import Kind
from ..fetch.word_reader import WordReader
from ..lib.combinators import delay

__all__ = ["SmallWordReader"]


class SmallWordReader(WordReader):
    """What `WordReader` does, a cycle after the request: only which activations are not zero is read, the others later."""

    def elaborate(self, platform):
        m = Module()
        request, word = self.request, self.word
        assert Latencies(self.arch).read == 1
        q = Signal.like(request.q)
        m.d.comb += [
            q.eq(request.q + request.address[: self.arch.occ_bits]),
            self.act_en.eq(self.valid & ~request.null),
            self.act_addr.eq(request.address),
            self.m_addr.eq(request.m + q),  # `q` may begin below zero: it is modular in fewer bits
            self.mask_valid.eq(self.act_en & (request.kind == Kind.EVENT)),
        ]
        index = delay(m, q, 1, "index", reset_less=True)
        live = (self.act_data | self.d.dense.replicate(self.arch.lanes)) & (~word.null).replicate(self.arch.lanes)
        names = ("kind", "null", "end", "zero", "address")
        m.d.comb += [
            self.word_valid.eq(delay(m, self.valid, 1, "valid")),
            *(word[name].eq(delay(m, request[name], 1, name, reset_less=True)) for name in names),
            word.w.eq(delay(m, request.w, 1, "w", reset_less=True) + index * self.d.W_WORD),
            word.live.eq(live),
        ]
        return m
