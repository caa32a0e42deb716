"""The one memory of the core: simple dual port, output registered."""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LATENCY", "BlockMemory"]

LATENCY = 2
"""Cycles from an address to its data, output register included: block RAM is slow out of the array, so nothing may
stand between it and a register."""


class BlockMemory(wiring.Component):
    """Memory with one write and one read port in the same clock domain.

    `r_data` shows the row at `r_addr` exactly `LATENCY` cycles later. A row that is written in the cycle of its read
    reads as before. Addresses beyond the depth must not be used: callers check and trap.

    Parameters
    ----------
    depth, width : int
        Rows, and bits of a row.
    granularity : int or None
        Bits per write enable; the whole row by default.
    """

    def __init__(self, depth: int, width: int, granularity: int | None = None):
        self.depth, self.width, self.granularity = depth, width, granularity or width
        address = max(1, (depth - 1).bit_length())
        super().__init__(
            {
                "w_en": In(width // self.granularity),
                "w_addr": In(address),
                "w_data": In(width),
                "r_addr": In(address),
                "r_data": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = memory.Memory(shape=unsigned(self.width), depth=self.depth, init=[])
        write = array.write_port(granularity=self.granularity if self.granularity != self.width else None)
        read = array.read_port()
        held = Signal(self.width)
        m.d.comb += [
            write.en.eq(self.w_en),
            write.addr.eq(self.w_addr),
            write.data.eq(self.w_data),
            read.addr.eq(self.r_addr),
            self.r_data.eq(held),
        ]
        m.d.sync += held.eq(read.data)
        return m
