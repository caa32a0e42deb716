"""The shadow accumulators: hold a closed output's sums while the lanes start the next output."""

from amaranth.hdl import Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ..lib.combinators import delay
from ..primitives import SERIALISER_LATENCY, Serialiser, copies

__all__ = ["ShadowAccumulators"]


class ShadowAccumulators(wiring.Component):
    """Takes the sums of all lanes at once, and shows them in chunks of `ppu` channels.

    Throughput: a chunk a cycle. Latency: the first chunk shows `Latencies.turn_lead` cycles after `coming`; the sums are taken
    `SERIALISER_LATENCY` cycles before.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    coming : In(1)
    sums : In(array of lanes x signed 32)
    o : Out(array of ppu x signed 32)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "coming": In(1),
                "sums": In(data.ArrayLayout(signed(32), arch.lanes)),
                "o": Out(data.ArrayLayout(signed(32), arch.ppu)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self.arch
        # The last of these cycles is that of the copies, one for each serialiser.
        lead = Latencies(arch).turn_lead - SERIALISER_LATENCY
        loads = copies(m, delay(m, self.coming, lead - 1, "end"), arch.ppu, "ended", reset_less=True)
        for i, load in enumerate(loads):
            m.submodules[f"shadow_{i}"] = shadow = Serialiser(arch.chunks, 32)
            m.d.comb += [
                shadow.load.eq(load),
                *(shadow.i[k].eq(self.sums[i + k * arch.ppu]) for k in range(arch.chunks)),
                self.o[i].eq(shadow.o),
            ]
        return m
