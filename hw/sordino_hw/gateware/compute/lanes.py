"""The lanes: one multiplier and one accumulator per output channel."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import LATENCY, MULTIPLIER_LATENCY, VECTOR_LATENCY, Latencies
from ...spec.structure import Kind, reads_late
from ..layouts import Event
from ..lib.combinators import delay
from ..primitives import SERIALISER_LATENCY, MaskedAdder, MultiplierArray, copies
from .shadow import ShadowAccumulators

__all__ = ["Lanes"]

SHARE = 4
"""Lanes that one copy of the control signals drives."""


class Control(data.StructLayout):
    """What a lane must know of an event when it takes its activation.

    `op`: the lanes multiply; `floor`: an output that skipped an empty word must not fall below zero.
    """

    def __init__(self):
        super().__init__({"event": 1, "op": 1, "floor": 1})


class Halves(data.StructLayout):
    """Which half of a wide weight is read, and kept, in this cycle; `blank`: the weight that is read does not count."""

    def __init__(self, arch: ArchConfig):
        super().__init__({"low": 1, "high": 1, **({"blank": 1} if arch.products else {})})


class Choice(data.StructLayout):
    """What a lane's weight is: the wide one that it keeps, 1 for MAX, or else what was read."""

    def __init__(self):
        super().__init__({"wide": 1, "max": 1})


class Factor(data.StructLayout):
    """What becomes of a lane's kept activation: `keep`: it is that of this word; `clear`: it is zero, because the event is not one
    of a product."""

    def __init__(self):
        super().__init__({"keep": 1, "clear": 1})


class Step(data.StructLayout):
    """What a lane must know of a product. `clear`: it replaces the sum."""

    def __init__(self):
        super().__init__({"valid": 1, "max": 1, "first": 1, "clear": 1})


class Lanes(wiring.Component):
    """Multiplies and accumulates; at an output's end moves the sums to the shadow accumulators, which show them by chunks.

    Throughput: an event a cycle; nothing stalls. Latency: the first sums of an output show `Latencies.shadow` cycles after the
    issue of its last event. Weight read, product and accumulation follow each other.

    With `ArchConfig.products` a lane keeps its activation of a product's first word, and multiplies that of the second by it.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    event, event_valid, operands
        From the `Issuer`; `operands` are the lanes' own for a vector event of `VECTOR_LATENCY` cycles before, and, if
        activations are read late, the word of any event.
    w_addr, w_data
        Weight memory.
    shadow : Out(array of ppu x signed 32)
        The sums of a chunk.
    coming : Out(1)
        `shadow` shows an output's first chunk `Latencies.turn_lead` cycles later, and the others after it.
    trap : Out(1)
        A weight row beyond the memory, registered.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        # Whether a register delays the address of a weight row instead of the row: it has fewer bits.
        self.waits = reads_late(arch) and arch.wide_cycles == 2
        super().__init__(
            {
                "event": In(Event(arch)),
                "event_valid": In(1),
                "operands": In(data.ArrayLayout(signed(arch.event_bits), arch.lanes)),
                "w_addr": Out(max(1, (arch.weight_depth - 1).bit_length())),
                "w_data": In(isa.region_bits(arch, isa.Region.WEIGHT)),
                "shadow": Out(data.ArrayLayout(signed(32), arch.ppu)),
                "coming": Out(1),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, latency, added = self.arch, Latencies(self.arch), LATENCY + 1 + MULTIPLIER_LATENCY
        assert latency.shadow == latency.issue + added + 1 + SERIALISER_LATENCY, "a weight is read, multiplied, added, and shown"
        lead = latency.shadow - latency.issue - latency.turn_lead
        control, halves, choice, step = self._controls(m)
        kept = self._shares(m, halves, LATENCY + self.waits, "kept")
        choices = self._shares(m, choice, LATENCY + 1, "choices")
        factors = self._factors(m) if arch.products else [None] * arch.lanes
        weights = [self._weight(m, kept[i // SHARE], choices[i // SHARE], factors[i], i) for i in range(arch.lanes)]
        operands = self._operands(m, self._shares(m, control, VECTOR_LATENCY, "controls"))
        m.submodules.multipliers = multipliers = MultiplierArray(arch.lanes, arch.event_bits, len(weights[0]))
        for i in range(arch.lanes):
            m.d.comb += [multipliers.a[i].eq(operands[i]), multipliers.b[i].eq(weights[i])]
        m.submodules.shadow = shadow = ShadowAccumulators(arch)
        m.d.comb += [
            self.coming.eq(delay(m, self.event_valid & self.event.end, lead, "coming")),
            shadow.coming.eq(self.coming),
            shadow.sums.eq(self._accumulators(m, self._shares(m, step, added, "steps"), multipliers.p)),
            self.shadow.eq(shadow.o),
        ]
        return m

    def _controls(self, m):
        """Reads the event's weight row. Returns what the lanes must know of the event, step by step."""
        event = self.event
        is_max, is_wide, reads = event.kind == Kind.MAX, event.kind == Kind.MAC2, Signal()
        addresses = m.d.sync if self.waits else m.d.comb
        addresses += self.w_addr.eq(event.w)
        m.d.comb += reads.eq(self.event_valid & event.op & ~is_max)
        m.d.sync += self.trap.eq(reads & (event.w >= self.arch.weight_depth))
        # The low half of a wide weight is only kept: the cycle of the high half multiplies by both.
        control, halves, choice, step = Signal(Control()), Signal(Halves(self.arch)), Signal(Choice()), Signal(Step())
        low = is_wide & ~event.high & ~event.again
        m.d.comb += [
            control.event.eq(event.kind == Kind.EVENT),
            control.op.eq(event.op & ~low),
            control.floor.eq(is_max & event.zero),
            halves.low.eq(reads & low),
            halves.high.eq(self.event_valid & event.high),
            choice.wide.eq(event.high | (is_wide & event.again)),
            choice.max.eq(is_max),
            step.valid.eq(self.event_valid),
            step.max.eq(is_max),
            step.first.eq(event.first),
            step.clear.eq(event.first | is_max),
        ]
        if self.arch.products:
            m.d.comb += [
                reads.eq(self.event_valid & event.op & ~is_max & ~event.product),
                control.op.eq(event.op & ~low & ~(event.product & event.first)),
                halves.blank.eq(is_max | event.product),
            ]
        return control, halves, choice, step

    def _shares(self, m, value, cycles, name):
        """Fan-out buffers: `value` of `cycles` before, a copy for each `SHARE` lanes."""
        shares = -(-self.arch.lanes // SHARE)
        return copies(m, delay(m, value, cycles - 1, name, reset_less=True), shares, name, init=None, reset_less=True)

    def _operands(self, m, controls):
        """Each lane's activation: the event's, or its own of a vector; zero where the lane does nothing, or a maximum has a
        floor.
        """
        arch, operands = self.arch, []
        if reads_late(arch):
            lane = delay(m, self.event.lane, VECTOR_LATENCY, "lane", reset_less=True)
            broadcast = [Array(self.operands)[lane]] * len(controls)
        else:
            broadcast = self._shares(m, self.event.act, VECTOR_LATENCY, "broadcast")
        for i in range(arch.lanes):
            operand = Signal(signed(arch.event_bits), name=f"operand_{i}", reset_less=True)
            c, value = controls[i // SHARE], self.operands[i]
            m.d.sync += operand.eq(Mux(c.event, broadcast[i // SHARE], value))
            with m.If(~c.op | (c.floor & (value < 0))):
                m.d.sync += operand.eq(0)
            operands.append(operand)
        return operands

    def _accumulators(self, m, steps, products):
        """The sums of the products; of MAX, the greatest."""
        arch = self.arch
        accumulators = Signal(data.ArrayLayout(signed(32), arch.lanes), reset_less=True)
        for i in range(arch.lanes):
            accumulator, product, s = accumulators[i], products[i], steps[i // SHARE]
            m.submodules[f"adder_{i}"] = adder = MaskedAdder(32)
            m.d.comb += [adder.a.eq(accumulator), adder.b.eq(product), adder.mask.eq(s.clear)]
            # A maximum is an activation: it is compared in as many bits.
            greater = accumulator[: arch.event_bits].as_signed() < product[: arch.event_bits].as_signed()
            with m.If(s.valid & (~s.max | s.first | greater)):
                m.d.sync += accumulator.eq(adder.s)
        return accumulators

    def _factors(self, m):
        """Each lane's activation of a product's first word, zero while there is no product."""
        arch, event, factor = self.arch, self.event, Signal(Factor())
        m.d.comb += [
            factor.keep.eq(self.event_valid & event.product & event.first),
            factor.clear.eq(self.event_valid & ~event.product),
        ]
        factors, shares = [], self._shares(m, factor, VECTOR_LATENCY, "factors")
        for i in range(arch.lanes):
            kept = Signal(signed(arch.event_bits), name=f"factor_{i}", reset_less=True)
            with m.If(shares[i // SHARE].keep):
                m.d.sync += kept.eq(self.operands[i])
            with m.If(shares[i // SHARE].clear):
                m.d.sync += kept.eq(0)
            factors.append(kept)
        return factors

    def _weight(self, m, keep, choice, factor, i):
        """Lane `i`'s multiplier operand.

        The byte that is read is registered, so that the halves of a wide weight are kept in time for the high one's event. It is
        blank where the operand is the kept activation, or 1: then an OR joins them, which takes no more LUTs.
        """
        row, read = self.w_data[8 * i : 8 * i + 8], Signal(8, name=f"read_{i}", reset_less=True)
        low, high = Signal(7, name=f"low_{i}", reset_less=True), Signal(8, name=f"high_{i}", reset_less=True)
        rows = m.d.comb if self.waits else m.d.sync
        rows += read.eq(row)
        if factor is not None:
            with m.If(keep.blank):
                rows += read.eq(0)
        with m.If(keep.low):
            m.d.sync += low.eq(row)
        if self.arch.wide_cycles == 1:
            with m.If(keep.high):
                m.d.sync += high.eq(row)
        else:
            m.d.comb += high.eq(read)
        if factor is not None:
            sign = factor[-1].replicate(15 - len(factor))
            lower = Mux(choice.wide, low, read[:7] | factor[:7] | choice.max)
            upper = Mux(choice.wide, high, read[7].replicate(8) | Cat(factor[7:], sign))
            return Cat(lower, upper).as_signed()
        lower = Mux(choice.wide, low, Mux(choice.max, 1, read[:7]))
        upper = Mux(choice.wide, high, (read[7] & ~choice.max).replicate(8))
        return Cat(lower, upper).as_signed()
