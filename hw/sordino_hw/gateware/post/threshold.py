"""The threshold: makes small values zero."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ..lib.combinators import delay
from ..primitives import FusedAdder

__all__ = ["Threshold"]


class Threshold(wiring.Component):
    """`y` is `value` of two cycles before, or zero where its magnitude was below the threshold.

    Throughput: a value a cycle. Latency: two cycles.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    value : In(signed 10), threshold : In(8)
    y : Out(signed(event_bits))
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        bits = isa.REGISTERS["HI"].bits
        super().__init__({"value": In(signed(bits)), "threshold": In(8), "y": Out(signed(arch.event_bits))})

    def elaborate(self, platform):
        m = Module()
        value, y = self.value, Signal.like(self.y, reset_less=True)
        negative, held = value[-1], delay(m, value, 1, "held", reset_less=True)
        m.submodules.adder = adder = FusedAdder(len(value), lambda b, invert, one: (b ^ invert) & one, carry=True)
        m.d.comb += [
            adder.a.eq(value),
            adder.b.eq(self.threshold),
            adder.c.eq((~negative).replicate(len(value))),
            adder.d.eq(1),
            adder.carry_in.eq(~negative),
            self.y.eq(y),
        ]
        # The value moved towards zero by the threshold: if it has crossed zero, the value becomes zero.
        moved = Signal.like(value, reset_less=True)
        m.d.sync += [moved.eq(adder.s), y.eq(held)]
        with m.If(Mux(held < 0, moved > 0, moved < 0)):
            m.d.sync += y.eq(0)
        return m
