"""Fetch, first half: from an operation to rows of occupancy.

`Walker` steps through outputs, kernel rows and spans; `Clip` cuts each span at the image's edges; `Splitter` cuts it
into rows of the occupancy memory. One span, or one row, per cycle.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..arch import OCC_WIDTH, ArchConfig
from .layouts import ADDR, INDEX, FetchDescriptor, Kind, RowTag, Span, SpanRange

__all__ = ["Clip", "Splitter", "Walker"]

OCC_BITS = (OCC_WIDTH - 1).bit_length()


class Walker(wiring.Component):
    """Emits the spans of an operation, output by output: one per cycle, and the next operation follows without a bubble.

    Members
    -------
    op : In(stream of FetchDescriptor)
    spans : Out(stream of Span)
        Spans that lie wholly outside the image are emitted too; `Clip` empties them.
    """

    op: In(stream.Signature(FetchDescriptor()))
    spans: Out(stream.Signature(Span()))

    def elaborate(self, platform):
        m = Module()
        d = Signal(FetchDescriptor())
        busy = Signal()
        oy, ox, ky, kx = (Signal(n) for n in (12, 12, 8, 8))
        ry, rx = Signal(8), Signal(8)
        iy0, ix0, iy, ix = (Signal(signed(INDEX)) for _ in range(4))
        a_row, a_out, a_kernel, a = (Signal(ADDR) for _ in range(4))
        w, mask, r_row, r = (Signal(ADDR) for _ in range(4))
        residual = Signal()

        last_kx, last_ky = kx == d.KX - 1, ky == d.KH - 1
        last_ox, last_oy = ox == d.OW - 1, oy == d.OH - 1
        taps_done = last_kx & last_ky
        end, fin, step = Signal(), Signal(), Signal()
        m.d.comb += [
            end.eq(residual | (taps_done & ~d.residual)),
            fin.eq(end & last_ox & last_oy),
            step.eq(busy & (~self.spans.valid | self.spans.ready)),
            self.op.ready.eq(~busy | (step & fin)),
        ]

        with m.If(self.spans.ready):
            m.d.sync += self.spans.valid.eq(0)
        with m.If(step):
            out = self.spans.payload
            m.d.sync += [
                self.spans.valid.eq(1),
                out.a.eq(a),
                out.ix.eq(ix),
                out.room.eq(d.W - ix),
                out.inside.eq((iy >= 0) & (iy < d.H)),
                out.w.eq(w),
                out.m.eq(mask),
                out.span.eq(d.SPAN),
                out.words.eq(d.WORDS),
                out.w_word.eq(d.W_WORD),
                out.kind.eq(d.kind),
                out.dense.eq(d.dense),
                out.end.eq(end),
                out.fin.eq(fin),
            ]
            with m.If(residual):
                m.d.sync += [
                    out.a.eq(r),
                    out.ix.eq(0),
                    out.room.eq(1),
                    out.inside.eq(1),
                    out.w.eq(d.R_W),
                    out.span.eq(1),
                    out.words.eq(1),
                    out.kind.eq(Kind.MAC2),
                ]

            with m.If(~residual & ~taps_done):
                m.d.sync += [w.eq(w + d.W_SPAN), mask.eq(mask + d.M_SPAN)]
                with m.If(last_kx):
                    m.d.sync += [kx.eq(0), ky.eq(ky + 1), iy.eq(iy + d.DY), ix.eq(ix0)]
                    m.d.sync += [a_kernel.eq(a_kernel + d.A_KY), a.eq(a_kernel + d.A_KY)]
                with m.Else():
                    m.d.sync += [kx.eq(kx + 1), ix.eq(ix + d.DX), a.eq(a + d.A_KX)]
            with m.Elif(~end):
                m.d.sync += residual.eq(1)
            with m.Else():
                m.d.sync += [residual.eq(0), kx.eq(0), ky.eq(0), w.eq(d.W_BASE), mask.eq(d.M_BASE)]
                with m.If(last_ox):
                    m.d.sync += [ox.eq(0), rx.eq(0), oy.eq(oy + 1), ix0.eq(d.IX0), ix.eq(d.IX0)]
                    m.d.sync += [r_row.eq(r_row + d.R_OY), r.eq(r_row + d.R_OY)]
                    with m.If(ry == d.REPY - 1):
                        row = a_row + d.A_OY
                        m.d.sync += [ry.eq(0), iy0.eq(iy0 + d.SY), iy.eq(iy0 + d.SY)]
                        m.d.sync += [a_row.eq(row), a_out.eq(row), a_kernel.eq(row), a.eq(row)]
                    with m.Else():
                        m.d.sync += [ry.eq(ry + 1), iy.eq(iy0), a_out.eq(a_row), a_kernel.eq(a_row), a.eq(a_row)]
                    with m.If(last_oy):
                        m.d.sync += busy.eq(0)
                with m.Else():
                    m.d.sync += [ox.eq(ox + 1), r.eq(r + d.R_OX), iy.eq(iy0)]
                    with m.If(rx == d.REPX - 1):
                        column = a_out + d.A_OX
                        m.d.sync += [rx.eq(0), ix0.eq(ix0 + d.SX), ix.eq(ix0 + d.SX)]
                        m.d.sync += [a_out.eq(column), a_kernel.eq(column), a.eq(column)]
                    with m.Else():
                        m.d.sync += [rx.eq(rx + 1), ix.eq(ix0), a_kernel.eq(a_out), a.eq(a_out)]

        with m.If(self.op.valid & self.op.ready):
            o = self.op.payload
            m.d.sync += [d.eq(o), busy.eq(1)]
            m.d.sync += [s.eq(0) for s in (oy, ox, ky, kx, ry, rx, residual)]
            m.d.sync += [iy0.eq(o.IY0), iy.eq(o.IY0), ix0.eq(o.IX0), ix.eq(o.IX0)]
            m.d.sync += [s.eq(o.A_BASE) for s in (a_row, a_out, a_kernel, a)]
            m.d.sync += [w.eq(o.W_BASE), mask.eq(o.M_BASE), r_row.eq(o.R_BASE), r.eq(o.R_BASE)]
        return m


class Clip(wiring.Component):
    """Cuts spans at the left and right edges; rows outside the image become empty. One cycle, one span per cycle."""

    i: In(stream.Signature(Span()))
    o: Out(stream.Signature(SpanRange()))

    def elaborate(self, platform):
        m = Module()
        p, out = self.i.payload, self.o.payload
        low, high, first = Signal(8), Signal(8), Signal(16)
        with m.If(p.ix < 0):
            m.d.comb += low.eq(Mux(-p.ix > p.span, p.span, -p.ix))
        with m.If(p.room > 0):
            m.d.comb += high.eq(Mux(p.room > p.span, p.span, p.room))
        m.d.comb += first.eq(low * p.words)
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            start = (p.a + first)[:ADDR]
            m.d.sync += [
                self.o.valid.eq(self.i.valid),
                out.start.eq(start),
                out.stop.eq(start + Mux(p.inside & (high > low), (high - low)[:8] * p.words, 0)),
                out.q.eq(first),
                *(out[name].eq(p[name]) for name in ("w", "m", "w_word", "kind", "dense", "end", "fin")),
            ]
        return m


class Splitter(wiring.Component):
    """Cuts a span into rows of occupancy memory, one per cycle. An empty span costs one cycle.

    Members
    -------
    i : In(stream of SpanRange)
    valid, ready, tag, bits
        The row request: `bits` are the words of the row within the span. A request with no bits only ends an output.
    trap : Out(1)
        The span reaches beyond the activation memory.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(SpanRange())),
                "valid": Out(1),
                "ready": In(1),
                "tag": Out(RowTag()),
                "bits": Out(OCC_WIDTH),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.i.payload
        busy = Signal()
        start, stop, w, mask = Signal(ADDR + 1), Signal(ADDR + 1), Signal(ADDR), Signal(ADDR)
        tags = Signal(SpanRange())
        row = start[OCC_BITS:]
        empty, last, done = start == stop, Signal(), Signal()
        m.d.comb += [
            last.eq(stop <= ((row + 1) << OCC_BITS)),
            self.valid.eq(busy & (~empty | tags.end)),
            done.eq(busy & last & (~self.valid | self.ready)),
            self.trap.eq(busy & ~empty & (stop > self.arch.act_depth)),
            self.tag.row.eq(row),
            self.tag.w.eq(w),
            self.tag.m.eq(mask),
            self.tag.w_word.eq(tags.w_word),
            self.tag.kind.eq(tags.kind),
            self.tag.dense.eq(tags.dense),
            self.tag.end.eq(tags.end & last),
            self.tag.fin.eq(tags.fin & last),
            self.i.ready.eq(~busy | done),
        ]
        # Bits from `start` up, below `stop`: two thermometer codes.
        above = Cat(start[:OCC_BITS] <= b for b in range(OCC_WIDTH))
        below = Cat(~last | (stop[:OCC_BITS] > b) | (stop[:OCC_BITS] == 0) for b in range(OCC_WIDTH))
        m.d.comb += self.bits.eq(Mux(empty, 0, above & below))
        with m.If(done):
            m.d.sync += busy.eq(0)
        with m.Elif(busy & self.ready):
            m.d.sync += [
                start.eq((row + 1) << OCC_BITS),
                w.eq(w + (tags.w_word << OCC_BITS)),
                mask.eq(mask + OCC_WIDTH),
            ]
        with m.If(self.i.valid & self.i.ready):
            zero = Signal(signed(18))  # the span's word index of bit 0 of its first row
            m.d.comb += zero.eq(p.q - p.start[:OCC_BITS])
            m.d.sync += [
                busy.eq(1),
                tags.eq(p),
                start.eq(p.start),
                stop.eq(p.stop),
                w.eq(p.w + zero * p.w_word),
                mask.eq(p.m + zero),
            ]
        return m
