"""The occupancy stage: reads the occupancy bits of each row."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ..layouts import Row, RowBits, RowRequest, RowTag, TapDescriptor
from ..lib.combinators import count_ones, delay, row_mask
from ..lib.fifo import Credit, Ring, fifo_for

__all__ = ["Occupancy"]


class Occupancy(wiring.Component):
    """Reads the occupancy bits of each row request, and queues the row for the scanner.

    Throughput: a row a cycle. Latency: `Latencies.row` from the request to the first cycle in which the scanner can take the row.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    i : In(stream of RowRequest)
        Ready while the row FIFO has room for what is on its way.
    r_addr, r_data
        Occupancy memory.
    o : Out(stream of Row), next : Out(Row), more : Out(1)
        See `FifoInterface`. The consumer must hold `ready` high while `valid` is low.
    d : In(TapDescriptor)
        The operation in flight, where there is one at most.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(RowRequest(arch))),
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
        depth, request, latency = self.arch.row_fifo, self.i.payload, Latencies(self.arch)
        m.submodules.credit = credit = Credit(depth)
        m.submodules.tags = tags = Ring(RowTag(self.arch), depth)
        m.submodules.queue = queue = fifo_for(RowBits(self.arch), depth, guarded=True)
        take = self.i.valid & credit.grant
        m.d.comb += [
            self.i.ready.eq(credit.grant),
            credit.take.eq(take),
            credit.give.eq(self.o.valid & self.o.ready),
            self.r_addr.eq(request.tag.row),
            queue.i.payload.eq(self._bits(m, latency.memory)),
            queue.i.valid.eq(delay(m, take, latency.row - latency.fifo, "valid")),
        ]
        # A row's tag is queued before its bits are known, and leaves with them.
        tag = Signal(RowTag(self.arch), reset_less=True)
        m.d.comb += [tags.i.eq(request.tag), tags.push.eq(take), tags.pop.eq(self.o.ready & queue.more)]
        with m.If(self.o.ready):
            m.d.sync += tag.eq(tags.o)
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

    def _bits(self, m, latency):
        """The row of a request, two cycles after the memory shows it: one for the bits, one to count them."""
        occ_width, request = self.arch.occ_width, self.i.payload
        low, top, empty = (delay(m, request[name], latency, name, reset_less=True) for name in ("low", "top", "empty"))
        dense = self.d.dense if self.arch.in_flight == 1 else delay(m, request.tag.dense, latency, "dense", reset_less=True)
        wanted, size = Signal(occ_width, reset_less=True), Signal(range(occ_width + 1), reset_less=True)
        inside = row_mask(low, top, occ_width)
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
        return row
