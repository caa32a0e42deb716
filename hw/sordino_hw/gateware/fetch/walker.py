"""The walker: steps from an output's first tap to its last, and from there to its residual words."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec.arch import ArchConfig
from ...spec.structure import Kind
from ..flight import snapshot
from ..layouts import INDEX, Job, Span, TapDescriptor
from ..lib.combinators import buffered, lowest

__all__ = ["Walker"]


class _Position:
    """Registers that say which span is emitted next.

    Whether a row, a column or a tap is the last one is known in the cycle before (lookahead), from counters that run down to it.
    """

    def __init__(self, arch: ArchConfig, d):
        def signals(shape, *names):
            return (Signal(shape, name=name, reset_less=True) for name in names)

        # Of the job: its cores, those of its slices that have no residual word yet, and if it is the first of its run.
        self.group, self.slices = signals(arch.cores, "group", "slices")
        self.fresh, self.residual = Signal(), Signal()
        # Kernel rows and columns that are left, this one included, and the low bits of their numbers, from one.
        self.rows, self.columns = signals(8, "rows", "columns")
        self.ky, self.kx = signals(2, "ky", "kx")
        self.last_ky, self.last_kx, self.taps_done = signals(1, "last_ky", "last_kx", "taps_done")
        # Columns from the first pixel of the span to the left edge (to the right of it), in this row and in each; the input row.
        self.left, self.left0, self.iy = signals(signed(INDEX), "left", "left0", "iy")
        # Addresses: of the span, of the first one of its kernel row, of the residual word; rows of weights and of weight masks.
        self.a, self.a_kernel, self.r = signals(d.A_KX.shape(), "a", "a_kernel", "r")
        (self.w,), (self.mask,) = signals(d.W_BASE.shape(), "w"), signals(d.M_BASE.shape(), "mask")


class Walker(wiring.Component):
    """Emits the spans of an output, and those of the next output behind them.

    Throughput: a span a cycle, without a bubble between outputs. Latency: the first span is emitted in the cycle after its job was
    taken, at the earliest.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    job : In(stream of Job)
        Taken while idle, or in the cycle of the last span before.
    d : In(TapDescriptor)
        The operation of the job at the head of `job`.
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
        d = snapshot(m, self.arch, self.d, self.job.ready, "operation")
        at = _Position(self.arch, d)
        busy, end, last, step = Signal(), Signal(), Signal(), Signal()
        free = ~self.spans.valid | self.spans.ready
        slice_, _ = lowest(at.slices, self.arch.cores)
        others = at.slices & ~slice_
        m.d.comb += [
            end.eq(at.residual | (at.taps_done & ~d.residual)),
            last.eq(Mux(at.residual, others == 0, at.taps_done & ~d.residual)),
            step.eq(busy & free),
            self.job.ready.eq(~busy | (last & free)),
        ]
        with m.If(self.spans.ready):
            m.d.sync += self.spans.valid.eq(0)
        with m.If(step):
            m.d.sync += self.spans.valid.eq(1)
        self._emit(m, d, at, step, end, last, slice_)

        # Speculative load: while idle, the position is that of whatever the queue shows, and only `busy` waits for its `valid`.
        job, renew = self.job.payload, ~busy | last
        with m.If(self.job.ready):
            m.d.sync += busy.eq(self.job.valid)
        with m.If(buffered(m, self.job.ready, "load")):
            m.d.sync += [at.fresh.eq(job.fresh), at.group.eq(job.to), at.left0.eq(job.left)]
        row_ends = buffered(m, at.last_kx | last, "row_end")
        self._next_row(m, d, at, ~busy | (step & row_ends), renew)
        self._next_tap(m, d, at, ~busy | step, renew, others)
        return m

    def _emit(self, m, d, at, step, end, last, slice_):
        """Registers the span at hand in the cycle of `step`."""
        out, room = Signal(Span(self.arch), reset_less=True), Signal(signed(INDEX), reset_less=True)
        tap = (~at.residual).replicate(8)
        m.d.comb += [self.spans.payload.eq(out), room.eq(at.left + d.W)]
        with m.If(buffered(m, step, "step")):
            m.d.sync += [
                out.a.eq(at.a),
                out.before.eq(at.a - 1),
                # Force these to zero with AND: a Mux to 0 becomes a synchronous reset on the critical path.
                out.low.eq(Mux(at.left < 0, 0, Mux(at.left > d.SPAN, d.SPAN, at.left)) & tap),
                out.high.eq((Mux(room < 0, 0, Mux(room > d.SPAN, d.SPAN, room)) & tap) | at.residual),
                out.inside.eq(((at.iy >= 0) & (at.iy < d.H)) | at.residual),
                out.words.eq((d.WORDS & tap) | at.residual),
                out.w.eq(at.w),
                out.m.eq(at.mask),
                out.w_word.eq(d.W_WORD),
                out.kind.eq(d.kind),
                out.dense.eq(d.dense),
                out.end.eq(end),
                out.last.eq(last),
                out.to.eq(at.group),
                out.group.eq(at.group),
                out.shared.eq(d.shared),
                out.reuse.eq(~at.fresh & (at.kx != 0) & (at.kx <= d.reused)),
                out.place.eq(Cat((-at.left)[:2], at.ky)),
            ]
            with m.If(at.residual):
                m.d.sync += [
                    out.a.eq(at.r),
                    out.before.eq(at.r - 1),
                    out.w.eq(d.R_W),
                    out.kind.eq(Mux(d.product, Kind.MAC, Kind.MAC2) if self.arch.products else Kind.MAC2),
                    out.to.eq(slice_),
                    out.reuse.eq(0),
                    out.place.eq((-at.left0)[:2]),  # a column that the next output of the run does not reuse
                ]

    def _next_row(self, m, d, at, step, renew):
        """Steps to the next kernel row, or to the first one of a job."""
        job, new = self.job.payload, buffered(m, renew, "new_rows")
        with m.If(buffered(m, step, "row")):
            m.d.sync += [at.ky.eq(at.ky + 1), at.rows.eq(at.rows - 1), at.last_ky.eq(at.rows == 2)]
            m.d.sync += [at.iy.eq(at.iy + d.DY), at.a_kernel.eq(at.a_kernel + d.A_KY)]
            with m.If(new):
                m.d.sync += [at.ky.eq(1), at.rows.eq(self.d.KH), at.last_ky.eq(_single(self.d.KH))]
                m.d.sync += [at.iy.eq(job.iy0), at.a_kernel.eq(job.a)]

    def _next_tap(self, m, d, at, step, renew, others):
        """Steps to the next column, residual word or kernel row, or to the first tap of a job."""
        job, new = self.job.payload, buffered(m, renew, "new_columns")
        with m.If(buffered(m, step, "move")):
            with m.If(at.residual):
                m.d.sync += [at.r.eq(at.r + 1), at.slices.eq(others)]
            m.d.sync += [at.w.eq(at.w + d.W_SPAN), at.mask.eq(at.mask + d.M_SPAN)]
            with m.If(at.last_kx):
                m.d.sync += [at.kx.eq(1), at.columns.eq(d.KX), at.last_kx.eq(_single(d.KX))]
                m.d.sync += at.taps_done.eq(_single(d.KX) & (at.rows == 2))
                m.d.sync += [at.left.eq(at.left0), at.a.eq(at.a_kernel + d.A_KY)]
            with m.Else():
                m.d.sync += [at.kx.eq(at.kx + 1), at.columns.eq(at.columns - 1), at.last_kx.eq(at.columns == 2)]
                m.d.sync += at.taps_done.eq((at.columns == 2) & at.last_ky)
                m.d.sync += [at.left.eq(at.left - d.DX), at.a.eq(at.a + d.A_KX)]
            with m.If(at.taps_done):
                m.d.sync += at.residual.eq(1)
            with m.If(new):
                m.d.sync += [at.kx.eq(1), at.columns.eq(self.d.KX), at.last_kx.eq(_single(self.d.KX)), at.residual.eq(0)]
                m.d.sync += at.taps_done.eq(_single(self.d.KX) & _single(self.d.KH))
                m.d.sync += [at.left.eq(job.left), at.a.eq(job.a), at.slices.eq(job.to)]
                m.d.sync += [at.r.eq(job.r), at.w.eq(self.d.W_BASE), at.mask.eq(self.d.M_BASE)]


def _single(count):
    """Whether a count, which is not zero, is one."""
    return ~count[1:].any()
