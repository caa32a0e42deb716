"""Fetch, first half: from an output to rows of occupancy.

`Walker` steps through kernel rows and spans; `Clip` cuts each span at the image's edges; `Splitter` cuts it into rows of
the occupancy memory. One span, or one row, per cycle.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec.arch import ArchConfig
from ...spec.structure import Kind
from ..flight import snapshot
from ..layouts import INDEX, Job, RowTag, Span, SpanRange, TapDescriptor
from ..lib.combinators import buffered, lowest

__all__ = ["Clip", "Splitter", "Walker"]


class Walker(wiring.Component):
    """Emits the spans of an output, one per cycle, and those of the next output without a bubble.

    Members
    -------
    job : In(stream of Job)
        Taken while idle, or in the cycle of the last span before. Its first span is emitted a cycle later at the earliest.
    d : In(TapDescriptor)
        The operation of the job that waits.
    spans : Out(stream of Span)
        KH x KX spans of the kernel, and the residual word of each slice. Spans that lie wholly outside the image are
        emitted too; `Clip` empties them.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "job": In(stream.Signature(Job(arch))),
                "d": In(TapDescriptor(arch)),
                "spans": Out(stream.Signature(Span(arch))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        group, rest = (Signal(self.arch.cores, name=name, reset_less=True) for name in ("group", "rest"))
        out = Signal(Span(self.arch), reset_less=True)
        m.d.comb += self.spans.payload.eq(out)
        d = snapshot(m, self.arch, self.d, self.job.ready, "operation")
        busy, fresh, residual = Signal(), Signal(), Signal()
        # Kernel rows and columns that are left, this one included, and the low bits of their numbers, from one.
        rows, columns = (Signal(8, name=name, reset_less=True) for name in ("rows", "columns"))
        ky, kx = (Signal(2, name=name, reset_less=True) for name in ("ky", "kx"))
        last_ky, last_kx, taps_done = (Signal(name=name, reset_less=True) for name in ("last_ky", "last_kx", "taps_done"))
        # Columns from the first pixel of the span to the left edge (to the right of it) and to the right edge.
        left0, left, room, iy = (Signal(signed(INDEX), name=name, reset_less=True) for name in ("left0", "left", "room", "iy"))
        a_kernel, a, r = (Signal.like(d.A_KX, name=name, reset_less=True) for name in ("a_kernel", "a", "r"))
        w, mask = Signal.like(d.W_BASE, name="w", reset_less=True), Signal.like(d.M_BASE, name="mask", reset_less=True)

        slice_, _ = lowest(rest, self.arch.cores)
        others = rest & ~slice_
        end, last, step, tap = Signal(), Signal(), Signal(), (~residual).replicate(8)
        m.d.comb += [
            end.eq(residual | (taps_done & ~d.residual)),
            last.eq(Mux(residual, others == 0, taps_done & ~d.residual)),
            step.eq(busy & (~self.spans.valid | self.spans.ready)),
            room.eq(left + d.W),
            self.job.ready.eq(~busy | (last & (~self.spans.valid | self.spans.ready))),  # the last step, if any
        ]

        with m.If(self.spans.ready):
            m.d.sync += self.spans.valid.eq(0)
        with m.If(step):
            m.d.sync += self.spans.valid.eq(1)
        with m.If(buffered(m, step, "step")):
            m.d.sync += [
                out.a.eq(a),
                out.before.eq(a - 1),
                # Of a residual word masks make a span: what a multiplexer makes zero has a reset, which comes late.
                out.low.eq(Mux(left < 0, 0, Mux(left > d.SPAN, d.SPAN, left)) & tap),
                out.high.eq((Mux(room < 0, 0, Mux(room > d.SPAN, d.SPAN, room)) & tap) | residual),
                out.inside.eq(((iy >= 0) & (iy < d.H)) | residual),
                out.words.eq((d.WORDS & tap) | residual),
                out.w.eq(w),
                out.m.eq(mask),
                out.w_word.eq(d.W_WORD),
                out.kind.eq(d.kind),
                out.dense.eq(d.dense),
                out.end.eq(end),
                out.last.eq(last),
                out.to.eq(group),
                out.group.eq(group),
                out.shared.eq(d.shared),
                out.reuse.eq(~fresh & (kx != 0) & (kx <= d.reused)),
                out.place.eq(Cat((-left)[:2], ky)),
            ]
            with m.If(residual):
                m.d.sync += [
                    out.a.eq(r),
                    out.before.eq(r - 1),
                    out.w.eq(d.R_W),
                    out.kind.eq(Kind.MAC2),
                    out.to.eq(slice_),
                    out.reuse.eq(0),
                    out.place.eq((-left0)[:2]),  # a column that the next output has no more
                ]

        # While there is no job, it is that of whatever the queue shows: so nothing waits for the handshake but `busy`.
        with m.If(self.job.ready):
            m.d.sync += busy.eq(self.job.valid)
        renew = ~busy | last
        job, row_ends = self.job.payload, buffered(m, last_kx | last, "row_end")
        with m.If(buffered(m, self.job.ready, "load")):
            m.d.sync += [fresh.eq(job.fresh), group.eq(job.to), left0.eq(job.left)]
        new_rows, new_columns = buffered(m, renew, "new_rows"), buffered(m, renew, "new_columns")
        with m.If(buffered(m, ~busy | (step & row_ends), "row")):
            m.d.sync += [ky.eq(ky + 1), rows.eq(rows - 1), last_ky.eq(rows == 2)]
            m.d.sync += [iy.eq(iy + d.DY), a_kernel.eq(a_kernel + d.A_KY)]
            with m.If(new_rows):
                m.d.sync += [ky.eq(1), rows.eq(self.d.KH), last_ky.eq(_single(self.d.KH))]
                m.d.sync += [iy.eq(job.iy0), a_kernel.eq(job.a)]
        with m.If(buffered(m, ~busy | step, "move")):
            with m.If(residual):
                m.d.sync += [r.eq(r + 1), rest.eq(others)]
            m.d.sync += [w.eq(w + d.W_SPAN), mask.eq(mask + d.M_SPAN)]
            with m.If(last_kx):
                m.d.sync += [kx.eq(1), columns.eq(d.KX), last_kx.eq(_single(d.KX)), taps_done.eq(_single(d.KX) & (rows == 2))]
                m.d.sync += [left.eq(left0), a.eq(a_kernel + d.A_KY)]
            with m.Else():
                m.d.sync += [
                    kx.eq(kx + 1),
                    columns.eq(columns - 1),
                    last_kx.eq(columns == 2),
                    taps_done.eq((columns == 2) & last_ky),
                ]
                m.d.sync += [left.eq(left - d.DX), a.eq(a + d.A_KX)]
            with m.If(taps_done):
                m.d.sync += residual.eq(1)
            with m.If(new_columns):
                m.d.sync += [kx.eq(1), columns.eq(self.d.KX), last_kx.eq(_single(self.d.KX)), residual.eq(0)]
                m.d.sync += taps_done.eq(_single(self.d.KX) & _single(self.d.KH))
                m.d.sync += [left.eq(job.left), a.eq(job.a), rest.eq(job.to)]
                m.d.sync += [r.eq(job.r), w.eq(self.d.W_BASE), mask.eq(self.d.M_BASE)]
        return m


def _single(count):
    """Whether a count, which is not zero, is one."""
    return ~count[1:].any()


class Clip(wiring.Component):
    """Turns the pixels of a span into words; rows outside the image become empty. One span per cycle.

    One cycle, or, in the profile `small`, one multiplier and three, in the third of which the splitter takes it.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__({"i": In(stream.Signature(Span(arch))), "o": Out(stream.Signature(SpanRange(arch)))})

    def elaborate(self, platform):
        m = Module()
        p, out = self.i.payload, Signal(SpanRange(self.arch), reset_less=True)
        m.d.comb += self.o.payload.eq(out)
        same = [name for name, _ in out.shape() if name not in ("low", "stop", "empty")]
        others = [
            out.empty.eq(~p.inside | (p.high <= p.low)),
            *(out[name].eq(p[name]) for name in same),
        ]
        if self.arch.profile == "small":
            low, stop = Signal.like(out.low, reset_less=True), Signal.like(out.stop, reset_less=True)
            first, done = Signal(), Signal()
            m.d.comb += [
                self.o.valid.eq(done),
                self.i.ready.eq(done & self.o.ready),
                out.low.eq(low),
                out.stop.eq(stop),
                *others,
            ]
            m.d.sync += [first.eq(self.i.valid & ~first & ~done), done.eq(first | (done & ~self.o.ready))]
            with m.If(~done):
                m.d.sync += [stop.eq(Mux(first, p.high, p.low) * p.words), low.eq(stop)]
            return m
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(buffered(m, self.i.ready, "ready")):
            m.d.sync += [out.low.eq(p.low * p.words), out.stop.eq(p.high * p.words), *others]
        return m


class Splitter(wiring.Component):
    """Cuts a span into rows of occupancy memory, one per cycle. An empty span costs one cycle.

    Members
    -------
    i : In(stream of SpanRange)
    valid, ready, tag, low, top, empty
        The row request: the span's words of the row are those of the bits `low` to `top`. An `empty` one only ends an output.
    trap : Out(1)
        The span reached beyond the activation memory, in the cycle before.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(SpanRange(arch))),
                "valid": Out(1),
                "ready": In(1),
                "tag": Out(RowTag(arch)),
                "low": Out(arch.occ_bits),
                "top": Out(arch.occ_bits),
                "empty": Out(1),
                "trap": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p, tag = self.i.payload, self.tag
        held = Signal(RowTag(self.arch), reset_less=True)
        occ_bits, occ_width = self.arch.occ_bits, self.arch.occ_width
        last = Signal(init=1)  # nothing follows: the span's last row, or none
        top, last_row, beyond = Signal(occ_bits, reset_less=True), Signal.like(tag.row, reset_less=True), Signal()
        m.d.comb += [
            self.top.eq(Mux(last, top, occ_width - 1)),
            tag.eq(held),
            tag.end.eq(held.end & last),
            tag.last.eq(held.last & last),
            self.i.ready.eq(~self.valid | (last & self.ready)),
        ]
        # On a slow clock the next span comes a cycle later, so that nothing waits for the scanner but the splitter.
        fast = self.arch.profile == "pipelined"
        if not fast:
            m.d.comb += self.i.ready.eq(~self.valid)
            with m.If(last & self.ready):
                m.d.sync += self.valid.eq(0)
        m.d.sync += self.trap.eq(self.valid & ~self.empty & (beyond | (last_row >= self.arch.act_depth // self.arch.occ_width)))

        # An empty span that ends nothing is like none: what is loaded with it is not looked at.
        bits = len(p.a)
        first, final = p.a + p.low, (p.before + p.stop[: bits + 1])[: bits + 1]
        too_many = p.stop[bits + 1 :].any() | (p.stop[bits] & p.stop[:bits].any())  # for an address
        with m.If(self.i.ready):
            m.d.sync += self.valid.eq(self.i.valid & (~p.empty | p.end))
        with m.If(buffered(m, self.i.ready, "load")):
            # The first address is modular, the last is not: it may lie beyond the address space, and traps.
            same = [name for name, _ in held.shape() if name not in ("row", "q")]
            m.d.sync += [
                self.empty.eq(p.empty),
                beyond.eq(too_many | (first[bits] != final[bits])),
                top.eq(final[:occ_bits]),
                last_row.eq(final[occ_bits:bits]),
                *(held[name].eq(p[name]) for name in same),
            ]
        fresh, ends = buffered(m, last if fast else ~self.valid, "fresh"), buffered(m, held.row + 1 == last_row, "ends")
        with m.If(buffered(m, ~self.valid | self.ready, "move")):
            m.d.sync += [
                self.low.eq(0),
                last.eq(ends),
                held.row.eq(held.row + 1),
                held.q.eq(held.q + occ_width),
            ]
            with m.If(fresh):
                m.d.sync += [
                    self.low.eq(first[:occ_bits]),
                    last.eq(~self.i.valid | p.empty | ~(first[occ_bits:] ^ final[occ_bits:]).any()),
                    held.row.eq(first[occ_bits:bits]),
                    held.q.eq(p.low - first[:occ_bits]),
                ]
        return m
