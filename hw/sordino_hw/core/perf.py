"""The performance log: what every cycle was spent on, one record per operation."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import ArchConfig
from .fifo import Fifo
from .memory import BlockMemory
from .sequencer import IN_FLIGHT

__all__ = ["PerformanceLog"]


class PerformanceLog(wiring.Component):
    """Counts causes per cycle, and writes a record (`isa.PERF_FIELDS`) with an operation's last issue and at HALT.

    Members
    -------
    cause : In(isa.Cause), finished : In(1)
        From the `Issuer`.
    scanned : In(stream of words read and skipped)
        One entry per operation, from the `Scanner`.
    halt : In(1)
    r_addr, r_data
        The host's reads.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "cause": In(isa.Cause),
                "finished": In(1),
                "scanned": In(stream.Signature(data.StructLayout({"words": 32, "skipped": 32}))),
                "halt": In(1),
                "running": In(1),
                "clear": In(1),
                "r_addr": In(max(1, (arch.perf_depth - 1).bit_length())),
                "r_data": Out(isa.region_bits(arch, isa.Region.PERF)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.log = log = BlockMemory(self.arch.perf_depth, isa.region_bits(self.arch, isa.Region.PERF))
        # A run that trapped leaves entries of operations that never finished.
        m.submodules.queue = queue = ResetInserter(self.clear)(Fifo(self.scanned.p.shape(), IN_FLIGHT))
        m.d.comb += [
            queue.i.payload.eq(self.scanned.payload),
            queue.i.valid.eq(self.scanned.valid),
            queue.o.ready.eq(self.finished),
        ]
        index = Signal(range(self.arch.perf_depth + 1))
        record = self.running & (self.finished | self.halt)
        fields = []
        for cause in isa.Cause:
            count, now = Signal(32, name=f"{cause.name.lower()}"), Signal(32, name=f"{cause.name.lower()}_now")
            m.d.comb += now.eq(count + (self.running & (self.cause == cause)))
            m.d.sync += count.eq(Mux(record | self.clear, 0, now))
            fields.append(now)
        for name in ("words", "skipped"):
            fields.append(Mux(self.finished, queue.o.payload[name], 0))
        m.d.comb += [
            log.w_en.eq(record & (index != self.arch.perf_depth)),
            log.w_addr.eq(index),
            log.w_data.eq(Cat(fields)),
            log.r_addr.eq(self.r_addr),
            self.r_data.eq(log.r_data),
        ]
        with m.If(self.clear):
            m.d.sync += index.eq(0)
        with m.Elif(log.w_en):
            m.d.sync += index.eq(index + 1)
        return m
