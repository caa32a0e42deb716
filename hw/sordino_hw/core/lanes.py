"""The lanes: one multiplier and one accumulator per output channel, and the shadow accumulators."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import ArchConfig
from ..numbers import HI_SHIFT
from .combinators import delay
from .layouts import Event, Kind
from .memory import LATENCY

__all__ = ["SHADOW_LATENCY", "Lanes"]

SHADOW_LATENCY = LATENCY + 3
"""Cycles from the issue of an output's last item to the first cycle in which the shadow accumulators show it."""


class Lanes(wiring.Component):
    """Multiplies and accumulates; at an output's end moves the sums to the shadow accumulators.

    Rigid: one event per cycle, nothing stalls. Weight read, product and accumulation take a cycle each after the
    memory's latency.

    Members
    -------
    event, event_valid
        From the `Issuer`.
    w_addr, w_data
        Weight memory.
    shadow : Out(array of lanes x signed 32)
        Holds until `shift`, which moves it down by `ppu` lanes.
    loaded, fin : Out(1)
        `shadow` is new in this cycle; and is the operation's last output.
    shift : In(1)
    trap : Out(1)
        A weight row beyond the memory.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "event": In(Event(arch)),
                "event_valid": In(1),
                "w_addr": Out(max(1, (arch.weight_depth - 1).bit_length())),
                "w_data": In(isa.region_bits(arch, isa.Region.WEIGHT)),
                "shadow": Out(data.ArrayLayout(signed(32), arch.lanes)),
                "loaded": Out(1),
                "fin": Out(1),
                "shift": In(1),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, lanes = self.arch, self.arch.lanes
        reads = self.event_valid & self.event.op & (self.event.kind != Kind.MAX)
        m.d.comb += [
            self.w_addr.eq(self.event.w),
            self.trap.eq(reads & (self.event.w >= arch.weight_depth)),
        ]
        event = delay(m, self.event, LATENCY, "event")
        valid = delay(m, self.event_valid, LATENCY, "valid")
        weights = data.View(data.ArrayLayout(signed(8), lanes), self.w_data)

        tags = Signal(data.StructLayout({"kind": Kind, "valid": 1, "op": 1, "high": 1, "first": 1, "end": 1, "fin": 1}))
        m.d.sync += [tags[name].eq(event[name]) for name in ("kind", "op", "high", "first", "fin")]
        m.d.sync += [tags.valid.eq(valid), tags.end.eq(valid & event.end)]
        is_event = Signal()
        m.d.comb += is_event.eq(event.kind == Kind.EVENT)

        accumulators = Signal(data.ArrayLayout(signed(32), lanes))
        for i in range(lanes):
            operand, product, base, total = (
                Signal(signed(n), name=f"{name}_{i}")
                for name, n in (("operand", arch.event_bits), ("product", arch.event_bits + 8), ("base", 32), ("total", 32))
            )
            m.d.comb += operand.eq(Mux(is_event, event.act[0], event.act[i]))
            with m.If(event.kind == Kind.MAX):
                # An output that skipped an empty word must not fall below zero.
                m.d.sync += product.eq(Mux(event.zero & (operand < 0), 0, operand))
            with m.Else():
                m.d.sync += product.eq(operand * weights[i])
            with m.If(tags.first):
                m.d.comb += base.eq(Mux(tags.kind == Kind.MAX, -(1 << 31), 0))
            with m.Else():
                m.d.comb += base.eq(accumulators[i])
            with m.If(~tags.op):
                m.d.comb += total.eq(base)
            with m.Elif(tags.kind == Kind.MAX):
                m.d.comb += total.eq(Mux(base < product, product, base))
            with m.Else():
                m.d.comb += total.eq(base + Mux(tags.high, product << HI_SHIFT, product))
            with m.If(tags.valid):
                m.d.sync += accumulators[i].eq(total)
            moved = self.shadow[i + arch.ppu] if i + arch.ppu < lanes else 0
            with m.If(tags.end):
                m.d.sync += self.shadow[i].eq(total)
            with m.Elif(self.shift):
                m.d.sync += self.shadow[i].eq(moved)
        m.d.sync += [self.loaded.eq(tags.end), self.fin.eq(tags.fin)]
        return m
