"""The splitter: cuts each span into rows of the occupancy memory."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec.arch import ArchConfig
from ..layouts import RowRequest, RowTag, SpanRange
from ..lib.combinators import buffered

__all__ = ["Splitter"]


class Splitter(wiring.Component):
    """Cuts a span into rows of the occupancy memory.

    Throughput: a row a cycle. A span that is empty passes in the cycle in which it is taken; if it ends an output, it becomes an
    `empty` row, which takes a cycle. Latency: one cycle.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    i : In(stream of SpanRange)
    o : Out(stream of RowRequest)
    trap : Out(1)
        The span reached beyond the activation memory, in the cycle before.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(SpanRange(arch))),
                "o": Out(stream.Signature(RowRequest(arch))),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p, out, valid, ready = self.i.payload, self.o.payload, self.o.valid, self.o.ready
        held, low, empty = Signal(RowTag(self.arch), reset_less=True), Signal.like(out.low), Signal.like(out.empty)
        occ_bits, occ_width = self.arch.occ_bits, self.arch.occ_width
        last = Signal(init=1)  # nothing follows: this is the span's last row, or there is none
        top, last_row, beyond = Signal(occ_bits, reset_less=True), Signal.like(held.row, reset_less=True), Signal()
        m.d.comb += [
            out.tag.eq(held),
            out.tag.end.eq(held.end & last),
            out.tag.last.eq(held.last & last),
            out.low.eq(low),
            out.top.eq(Mux(last, top, occ_width - 1)),
            out.empty.eq(empty),
        ]
        fresh = self._take(m, last)
        m.d.sync += self.trap.eq(valid & ~empty & (beyond | (last_row >= self.arch.act_depth // self.arch.occ_width)))

        # The first address is modular, the last one is not: it may lie beyond the address space, and traps.
        bits = len(p.a)
        first, final = p.a + p.low, (p.before + p.stop[: bits + 1])[: bits + 1]
        too_many = p.stop[bits + 1 :].any() | (p.stop[bits] & p.stop[:bits].any())  # for an address
        with m.If(buffered(m, self.i.ready, "load")):
            same = [name for name, _ in held.shape() if name not in ("row", "q")]
            m.d.sync += [
                empty.eq(p.empty),
                beyond.eq(too_many | (first[bits] != final[bits])),
                top.eq(final[:occ_bits]),
                last_row.eq(final[occ_bits:bits]),
                *(held[name].eq(p[name]) for name in same),
            ]
        fresh, ends = buffered(m, fresh, "fresh"), buffered(m, held.row + 1 == last_row, "ends")
        with m.If(buffered(m, ~valid | ready, "move")):
            m.d.sync += [low.eq(0), last.eq(ends), held.row.eq(held.row + 1), held.q.eq(held.q + occ_width)]
            with m.If(fresh):
                m.d.sync += [
                    low.eq(first[:occ_bits]),
                    last.eq(~self.i.valid | p.empty | ~(first[occ_bits:] ^ final[occ_bits:]).any()),
                    held.row.eq(first[occ_bits:bits]),
                    held.q.eq(p.low - first[:occ_bits]),
                ]
        return m

    def _take(self, m, last):
        """Takes the next span in the cycle in which the last row leaves. Returns whether the next row is the first of a span."""
        m.d.comb += self.i.ready.eq(~self.o.valid | (last & self.o.ready))
        self._begin(m)
        return last

    def _begin(self, m):
        """A span that is taken has rows, unless it is empty and ends nothing: what is loaded with it means nothing then."""
        p = self.i.payload
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid & (~p.empty | p.end))
