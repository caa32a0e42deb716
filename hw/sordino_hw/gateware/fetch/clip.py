"""The clip: cuts each span at the image's edges."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec.arch import ArchConfig
from ..layouts import Span, SpanRange
from ..lib.combinators import buffered

__all__ = ["Clip"]


class Clip(wiring.Component):
    """Turns the pixels of a span into words; spans in rows outside the image become empty.

    Throughput: a span a cycle. Latency: `Latencies.clip`, one cycle here.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    i : In(stream of Span), o : Out(stream of SpanRange)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__({"i": In(stream.Signature(Span(arch))), "o": Out(stream.Signature(SpanRange(arch)))})

    def elaborate(self, platform):
        m = Module()
        p, out = self.i.payload, Signal(SpanRange(self.arch), reset_less=True)
        m.d.comb += [self.o.payload.eq(out), self.i.ready.eq(~self.o.valid | self.o.ready)]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(buffered(m, self.i.ready, "ready")):
            m.d.sync += [out.low.eq(p.low * p.words), out.stop.eq(p.high * p.words), *self._rest(out)]
        return m

    def _rest(self, out):
        """What needs no multiplication."""
        p = self.i.payload
        same = [name for name, _ in out.shape() if name not in ("low", "stop", "empty")]
        return [out.empty.eq(~p.inside | (p.high <= p.low)), *(out[name].eq(p[name]) for name in same)]
