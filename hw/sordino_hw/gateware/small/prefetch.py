"""The prefetch of the small core."""

from amaranth.hdl import Module, Signal

from ..prefetch import Prefetch

__all__ = ["SmallPrefetch"]


class SmallPrefetch(Prefetch):
    """`Prefetch` without a queue: the memory shows an instruction as long as its address stays.

    Throughput: an instruction a cycle. Latency: a cycle after reset.
    """

    def elaborate(self, platform):
        m = Module()
        out = self.o
        pc, following = Signal(range(self.arch.imem_depth + 1)), Signal(range(self.arch.imem_depth + 1))
        m.d.comb += [following.eq(pc + (out.valid & out.ready)), self.i_addr.eq(following)]
        m.d.sync += [pc.eq(following), out.valid.eq(1)]
        self._decode(m, out.payload, pc == self.arch.imem_depth)
        return m
