"""The issuer of the small core."""

from amaranth.hdl import Module, Mux, Signal

from ...spec.latencies import Latencies
from ...spec.structure import Kind
from ..issue.issuer import Issuer
from ..layouts import product_flag
from ..lib.combinators import lowest, without_lowest

__all__ = ["SmallIssuer"]


class SmallIssuer(Issuer):
    """`Issuer` without registers before the lanes, and with a pause behind each output: its sums drain out of the accumulators.

    An event is at the lanes in the cycle of its issue. Nothing is issued in the `Latencies.pause` cycles behind an output's last
    event. Of the inputs `next`, `vector`, `act`, `next_output` and `drain` it needs none.
    """

    def elaborate(self, platform):
        m = Module()
        arch, seg, event = self.arch, self.segments.payload, self.event
        latency = Latencies(arch)
        done, high, first = Signal(arch.segment), Signal(), Signal(init=1)
        pause = Signal(range(latency.pause + 1))
        left = seg.mask & ~done
        bit, index = lowest(left, arch.segment)
        final, blocked, issue, close = Signal(), Signal(), Signal(), Signal()
        wide = seg.kind == Kind.MAC2
        m.d.comb += [
            final.eq(Mux(wide & ~seg.null, high, without_lowest(left, arch.segment) == 0)),
            blocked.eq(pause != 0),
            issue.eq(self.segments.valid & ~blocked),
            close.eq(issue & final & seg.end),
            self.segments.ready.eq(final & ~blocked),
            self.outputs.ready.eq(close),
        ]
        with m.If(blocked):
            m.d.sync += pause.eq(pause - 1)
        with m.If(issue):
            m.d.sync += [done.eq(Mux(final, 0, done | bit)), high.eq(wide & ~final), first.eq(close)]
        with m.If(close):
            m.d.sync += pause.eq(latency.pause)
        self._report(m, issue, blocked)
        m.d.comb += [
            self.event_valid.eq(issue),
            self.address.eq(seg.address),
            event.lane.eq(index),
            event.w.eq(seg.w + (index | high)),
            event.kind.eq(seg.kind),
            event.op.eq(~seg.null),
            event.high.eq(high),
            event.zero.eq(seg.zero),
            event.first.eq(first),
            event.end.eq(close),
            *(event[name].eq(getattr(self, name)) for name in product_flag(arch)),
        ]
        return m
