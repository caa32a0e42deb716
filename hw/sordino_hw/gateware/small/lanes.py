"""The lanes of the small core: the accumulators are those of the device's multipliers."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data

from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ...spec.structure import Kind
from ..compute.lanes import Lanes
from ..lib.combinators import delay
from ..primitives import Accumulators

__all__ = ["SmallLanes"]


class Control(data.StructLayout):
    """What the lanes must know of an event when its activations and weights are there."""

    def __init__(self, arch: ArchConfig):
        flags = dict.fromkeys(("event", "low", "high", "max", "op", "floor", "first"), 1)
        super().__init__({"lane": range(arch.lanes), **flags, **({"keep": 1, "product": 1} if arch.products else {})})


class SmallLanes(Lanes):
    """`Lanes` that accumulate in `Accumulators`: an output's sums are shifted out of them, which also clears them.

    An event's activations and weights are read in its cycle, chosen in the next, and added to the sums in the one after that. The
    halves of a wide weight are multiplied one after the other. A maximum is kept in the operand registers; with the last event of
    an output it is added to the sums, which are zero. `operands`, a cycle after the event, are its word.
    """

    def elaborate(self, platform):
        m = Module()
        arch, lanes, event, latency = self.arch, self.arch.lanes, self.event, Latencies(self.arch)
        assert latency.memory == 1 and latency.shadow == 3 and latency.turn_lead == 2
        is_max, is_wide = event.kind == Kind.MAX, event.kind == Kind.MAC2
        control, c = Signal(Control(arch)), Signal(Control(arch), reset_less=True)
        m.d.comb += [
            self.w_addr.eq(event.w),
            control.lane.eq(event.lane),
            control.event.eq(event.kind == Kind.EVENT),
            control.low.eq(is_wide & ~event.high),
            control.high.eq(event.high),
            control.max.eq(is_max),
            control.op.eq(event.op),
            control.floor.eq(is_max & event.zero),
            control.first.eq(event.first),
        ]
        reads = self.event_valid & event.op & ~is_max
        if arch.products:
            keep = event.product & event.first
            m.d.comb += [
                control.op.eq(event.op & ~keep),
                control.keep.eq(self.event_valid & keep),
                control.product.eq(event.product),
            ]
            reads &= ~event.product
        m.d.sync += [c.eq(control), self.trap.eq(reads & (event.w >= arch.weight_depth))]
        valid, end = delay(m, self.event_valid, 1, "valid"), delay(m, self.event_valid & event.end, 1, "end")
        m.d.comb += self.coming.eq(end)

        m.submodules.sums = sums = Accumulators(lanes, arch.ppu, arch.event_bits, 15)
        broadcast = Array(self.operands)[c.lane]
        for i in range(lanes):
            operand = Signal(signed(arch.event_bits), name=f"operand_{i}", reset_less=True)
            weight = Signal(signed(15), name=f"weight_{i}", reset_less=True)
            value, row = self.operands[i], self.w_data[8 * i : 8 * i + 8]
            floored = c.floor & (value < 0)
            greater = Mux(floored, operand < 0, operand < value)
            with m.If(~c.max | c.first | greater):
                m.d.sync += operand.eq(Mux(c.event, broadcast, value))
                with m.If(~c.op | floored):
                    m.d.sync += operand.eq(0)
            sign = (row[7] & ~(c.low | c.max)).replicate(8)
            m.d.sync += weight.eq(Cat(Mux(c.max, 1, Mux(c.high, 0, row[:7])), Mux(c.high, row, sign)).as_signed())
            if arch.products:
                factor = Signal(signed(arch.event_bits), name=f"factor_{i}", reset_less=True)
                with m.If(c.keep):
                    m.d.sync += factor.eq(value)
                with m.If(c.product):
                    m.d.sync += weight.eq(factor)
            m.d.comb += [sums.a[i].eq(operand), sums.b[i].eq(weight)]

        # Shifting clears the sums: also after a reset.
        draining = Signal(range(arch.chunks + 1), init=arch.chunks)
        ends = delay(m, end, 1, "ends")
        with m.If(ends):
            m.d.sync += draining.eq(arch.chunks)
        with m.Elif(draining != 0):
            m.d.sync += draining.eq(draining - 1)
        m.d.comb += [
            sums.step.eq(delay(m, valid & (~c.max | end), 1, "step")),
            sums.shift.eq(draining != 0),
            self.shadow.eq(sums.o),
        ]
        return m
