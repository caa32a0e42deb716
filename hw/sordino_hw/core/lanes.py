"""The lanes: one multiplier and one accumulator per output channel, and the shadow accumulators."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import ArchConfig
from ..numbers import HI_SHIFT
from ..primitives import LATENCY, MULTIPLIER_LATENCY, MultiplierArray, copies
from .combinators import delay
from .issue import ISSUE_LATENCY
from .latencies import SHADOW_LATENCY
from .layouts import Event, Kind

__all__ = ["Lanes"]

assert SHADOW_LATENCY == ISSUE_LATENCY + LATENCY + MULTIPLIER_LATENCY + 2

SHARE = 4
"""Lanes that one copy of the control signals drives."""


class Control(data.StructLayout):
    """What a lane must know of an event. `floor`: an output that skipped an empty word must not fall below zero.

    `low`, `high`: the half of a wide weight that is read, and kept for `again`.
    """

    def __init__(self):
        super().__init__({"event": 1, "max": 1, "op": 1, "floor": 1, "low": 1, "high": 1, "again": 1})


class Step(data.StructLayout):
    """What a lane must know of a product."""

    def __init__(self):
        super().__init__({"valid": 1, "max": 1, "high": 1, "first": 1})


class Lanes(wiring.Component):
    """Multiplies and accumulates; at an output's end moves the sums to the shadow accumulators.

    Rigid: one event per cycle, nothing stalls. Weight read, product and accumulation follow each other, so that the sums
    move `SHADOW_LATENCY` cycles after the issue.

    Members
    -------
    event, event_valid
        From the `Issuer`.
    w_addr, w_data
        Weight memory.
    shadow : Out(array of lanes x signed 32)
        Holds until `shift`, which moves it down by `ppu` lanes.
    loaded : Out(1)
        `shadow` is new in this cycle.
    shift : In(1)
    trap : Out(1)
        A weight row beyond the memory, registered.
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
                "shift": In(1),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, lanes, event = self.arch, self.arch.lanes, self.event
        is_max, is_wide, reads = event.kind == Kind.MAX, event.kind == Kind.MAC2, Signal()
        m.d.comb += [self.w_addr.eq(event.w), reads.eq(self.event_valid & event.op & ~is_max)]
        m.d.sync += self.trap.eq(reads & (event.w >= arch.weight_depth))

        # While the weights are read: each lane's operand.
        control, step = Signal(Control()), Signal(Step())
        m.d.comb += [
            control.event.eq(event.kind == Kind.EVENT),
            control.max.eq(is_max),
            control.op.eq(event.op),
            control.floor.eq(is_max & event.zero),
            control.low.eq(self.event_valid & event.op & is_wide & ~event.high & ~event.again),
            control.high.eq(self.event_valid & event.high),
            control.again.eq(is_wide & event.again),
            step.valid.eq(self.event_valid),
            step.max.eq(is_max),
            step.high.eq(event.high),
            step.first.eq(event.first),
        ]
        shares = -(-lanes // SHARE)
        controls = copies(m, control, shares, "control", init=None)
        broadcast = copies(m, event.act[0], shares, "broadcast")
        act = delay(m, event.act, 1, "act")
        late = [delay(m, c, LATENCY - 1, f"late_{k}") for k, c in enumerate(controls)]
        weights = [self._weight(m, late[i // SHARE], self.w_data[8 * i : 8 * i + 8], i) for i in range(lanes)]
        m.submodules.multipliers = multipliers = MultiplierArray(lanes, arch.event_bits, len(weights[0]))

        depth = LATENCY + MULTIPLIER_LATENCY
        steps = copies(m, delay(m, step, depth - 1, "step"), shares, "step", init=None)
        end = delay(m, self.event_valid & event.end, depth, "end")
        ends = copies(m, end, shares, "ended")
        m.d.sync += self.loaded.eq(ends[0])

        accumulators = Signal(data.ArrayLayout(signed(32), lanes))
        for i in range(lanes):
            operand = Signal(signed(arch.event_bits), name=f"operand_{i}")
            total = Signal(signed(32), name=f"total_{i}")
            c, s, value, product = controls[i // SHARE], steps[i // SHARE], act[i], multipliers.p[i]
            m.d.sync += operand.eq(Mux(c.event, broadcast[i // SHARE], value))
            with m.If(~c.op | (c.floor & (value < 0))):
                m.d.sync += operand.eq(0)
            m.d.comb += [
                multipliers.a[i].eq(delay(m, operand, LATENCY - 2, f"operand_{i}")),
                multipliers.b[i].eq(weights[i]),
            ]
            accumulator = accumulators[i]
            # A maximum is an activation: it is compared in as many bits.
            greater = accumulator[: arch.event_bits].as_signed() < product[: arch.event_bits].as_signed()
            base, term = (Signal(signed(32), name=f"{name}_{i}") for name in ("base", "term"))
            with m.If(~s.first & ~(s.max & greater)):
                m.d.comb += base.eq(accumulator)
            with m.If(~s.max | s.first | greater):
                m.d.comb += term.eq(Mux(s.high, product << HI_SHIFT, product))
            m.d.comb += total.eq(base + term)
            with m.If(s.valid):
                m.d.sync += accumulator.eq(total)
            with m.If(ends[i // SHARE]):
                m.d.sync += self.shadow[i].eq(accumulators[i])
            with m.Elif(self.shift):
                m.d.sync += self.shadow[i].eq(self.shadow[i + arch.ppu] if i + arch.ppu < lanes else 0)
        return m

    def _weight(self, m, c, row, i):
        """Lane `i`'s multiplier operand, of its byte of the weight row: the weight, 1 for MAX, or the wide weight it keeps."""
        lower, upper, low, high = (
            Signal(n, name=f"{name}_{i}") for name, n in (("lower", 7), ("upper", 8), ("low", 7), ("high", 8))
        )
        m.d.comb += [lower.eq(Mux(c.max, 1, row[:7])), upper.eq(row[7].replicate(8) & ~(c.max | c.low).replicate(8))]
        if self.arch.wide_cycles == 2:
            return Cat(lower, upper[0]).as_signed()
        with m.If(c.low):
            m.d.sync += low.eq(row[:7])
        with m.If(c.high):
            m.d.sync += high.eq(row)
        with m.If(c.again):
            m.d.comb += [lower.eq(low), upper.eq(high)]
        return Cat(lower, upper).as_signed()
