"""The clip of the small core."""

from amaranth.hdl import Module, Mux, Signal

from ..fetch.clip import Clip

__all__ = ["SmallClip"]


class SmallClip(Clip):
    """`Clip` with one multiplier instead of two: both bounds of a span, one after the other.

    Throughput: a span in `Latencies.clip` cycles, three, in the third of which the splitter can take it; the span stays in front
    of the multiplier until then.
    """

    def elaborate(self, platform):
        m = Module()
        p, out = self.i.payload, self.o.payload
        low, stop = Signal.like(out.low, reset_less=True), Signal.like(out.stop, reset_less=True)
        first, done = Signal(), Signal()
        m.d.comb += [
            self.o.valid.eq(done),
            self.i.ready.eq(done & self.o.ready),
            out.low.eq(low),
            out.stop.eq(stop),
            *self._rest(out),
        ]
        m.d.sync += [first.eq(self.i.valid & ~first & ~done), done.eq(first | (done & ~self.o.ready))]
        with m.If(~done):
            m.d.sync += [stop.eq(Mux(first, p.high, p.low) * p.words), low.eq(stop)]
        return m
