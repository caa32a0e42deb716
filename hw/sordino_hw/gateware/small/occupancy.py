"""The occupancy stage of the small core."""

from amaranth.hdl import Module, Mux, Signal

from ..fetch.occupancy import Occupancy
from ..lib.combinators import count_ones, row_mask

__all__ = ["SmallOccupancy"]


class SmallOccupancy(Occupancy):
    """`Occupancy` without a FIFO: a row request stays at the input until the scanner is done with the row.

    Throughput: a row in two cycles, and one more for each word of it behind the first. Latency: a cycle, the memory's.
    """

    def elaborate(self, platform):
        m = Module()
        width, request, row, shown = self.arch.occ_width, self.i.payload, self.o.payload.row, Signal()
        # The memory shows a row from the cycle after its request on.
        m.d.sync += shown.eq(self.i.valid & ~self.i.ready)
        inside = Signal(width)
        m.d.comb += [
            inside.eq(Mux(request.empty, 0, row_mask(request.low, request.top, width))),
            self.r_addr.eq(request.tag.row),
            self.i.ready.eq(shown & self.o.ready),
            self.o.valid.eq(self.i.valid & shown),
            self.o.payload.tag.eq(request.tag),
            row.bits.eq(inside & (self.r_data | self.d.dense.replicate(width))),
            row.none.eq(row.bits == 0),
            row.count.eq(count_ones(row.bits, width)),
            row.size.eq(Mux(request.empty, 0, request.top - request.low + 1)),
        ]
        return m
