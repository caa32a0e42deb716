"""The dealer: from an operation to its outputs, each dealt to a group of cores."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..arch import ArchConfig
from .combinators import buffered, lowest
from .flight import snapshot
from .latencies import DRAINED, OUTPUTS
from .layouts import INDEX, DealDescriptor, Job, Output, job_depth, tag_bits

__all__ = ["Dealer"]


class Dealer(wiring.Component):
    """Deals the outputs of an operation in their order, up to one per cycle; the next operation follows without a bubble.

    A run of outputs goes to one group: to the lowest whose fetcher has no job waiting and whose cores have room for
    their outputs, or, of a stateful operation, to the group whose turn it is. Before the groups change, every job must
    have left the fetchers.

    Members
    -------
    op : In(stream of DealDescriptor)
        Taken while idle, or in the cycle of the last deal.
    jobs : Out(Job), deal : Out(cores)
        The job that fetcher g takes in a cycle with bit g of `deal`, at most one; `jobs.to` are its cores.
    outputs : Out(array of cores x Output), output_valid : Out(cores)
        In the same cycle, for the cores.
    job_levels : In(array of cores x range(job_depth + 1))
        Jobs that wait in front of each fetcher's walker.
    output_room : In(cores)
        The core's output FIFO has room.
    drained : In(cores)
        The fetcher's scanner asked for the last word of a job.
    busy : Out(1)
        An operation is not wholly dealt.
    dealt : Out(1), dealt_tag : Out(tag_bits)
        The last output of operation `dealt_tag` is dealt in this cycle.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "op": In(stream.Signature(DealDescriptor(arch))),
                "jobs": Out(Job(arch)),
                "deal": Out(arch.cores),
                "outputs": Out(data.ArrayLayout(Output(arch), arch.cores)),
                "output_valid": Out(arch.cores),
                "job_levels": In(data.ArrayLayout(range(job_depth(arch) + 1), arch.cores)),
                "output_room": In(arch.cores),
                "drained": In(arch.cores),
                "busy": Out(1),
                "dealt": Out(1),
                "dealt_tag": Out(tag_bits(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        cores = self.arch.cores
        o, dealing, start = self.op.payload, Signal(), Signal()
        d = snapshot(m, self.arch, o, start, "operation")
        last_ox, last_oy, address = self._step(m, d, buffered(m, dealing, "dealing"))
        m.d.comb += [
            self.dealt.eq(dealing & last_ox & last_oy),
            self.dealt_tag.eq(d.tag),
            self.op.ready.eq(~self.busy | self.dealt),
            start.eq(self.op.valid & self.op.ready),
        ]
        with m.If(start):
            m.d.sync += self.busy.eq(1)
        with m.Elif(self.dealt):
            m.d.sync += self.busy.eq(0)

        # Cores of each fetcher, and the slice that each core has, in this operation.
        groups = [Signal(cores, name=f"group_{g}") for g in range(cores)]
        slices = [Signal(range(cores), name=f"slice_{c}") for c in range(cores)]
        sizes = [1 << k for k in range(cores.bit_length())]
        with m.If(start):
            for c in range(cores):
                m.d.sync += slices[c].eq(0)
                for g, group in enumerate(groups):
                    fits = [o.SPLIT[n.bit_length() - 1] & (c // n < o.SLICES) for n in sizes if g < n and c % n == g]
                    m.d.sync += group[c].eq(Cat(fits).any())
                for n in sizes:
                    with m.If(o.SPLIT[n.bit_length() - 1]):
                        m.d.sync += slices[c].eq(c // n)

        # The fetcher. A run starts on an empty job FIFO, which has room for all of it, or for one at a time.
        fresh, current, position, turn = Signal(), Signal(cores), Signal(4), Signal(cores)
        waiting, quiet = Signal(), self._quiet(m, dealing)
        free, next_ = Signal(cores), Signal(cores)
        for g, group in enumerate(groups):
            room = group[g] & (~group | self.output_room).all()
            m.d.comb += [
                free[g].eq(room & turn[g] & (self.job_levels[g] == 0)),
                next_[g].eq(room & current[g] & ((self.job_levels[g] == 0) if job_depth(self.arch) == 1 else 1)),
            ]
        chosen, _ = lowest(free, cores)
        with m.If(self.busy & (~waiting | quiet)):
            m.d.comb += [self.deal.eq(Mux(fresh, chosen, next_)), dealing.eq(Mux(fresh, free.any(), next_.any()))]

        turn_ends = Cat(turn[n - 1] & d.SPLIT[n.bit_length() - 1] for n in sizes).any()
        run_ends, state = last_ox | (position == d.RUN), Signal.like(d.S_BASE)
        with m.If(dealing):
            m.d.sync += [
                waiting.eq(0),
                current.eq(self.deal),
                fresh.eq(run_ends),
                position.eq(Mux(run_ends, 1, position + 1)),
            ]
            with m.If(d.stateful):
                m.d.sync += [turn.eq(Mux(turn_ends, 1, turn << 1)), state.eq(Mux(turn_ends, state + d.DRAIN, state))]
        with m.If(start):
            m.d.sync += [fresh.eq(1), position.eq(1), turn.eq(Mux(o.stateful, 1, (1 << cores) - 1)), state.eq(o.S_BASE)]
            if cores > 1:
                m.d.sync += waiting.eq((d.SPLIT != 0) & (d.SPLIT != o.SPLIT))

        m.d.comb += [
            self.output_valid.eq(reduce(or_, (Mux(deal, group, 0) for deal, group in zip(self.deal, groups, strict=True)))),
            self.jobs.to.eq(self.output_valid),
            self.jobs.fresh.eq(fresh),
            self.jobs.tag.eq(d.tag),
        ]
        for output, part in zip(self.outputs, slices, strict=True):
            m.d.comb += [output.address.eq(address + part), output.state.eq(state), output.tag.eq(d.tag)]
        return m

    def _step(self, m, d, dealing):
        """Steps input position, residual and output addresses with each deal.

        Returns whether this is the last column and the last row, and the output's address. Counters start at one, so
        that what ends them is a comparison with a register.
        """
        oy, ox, ry, rx = (Signal(n, name=name) for name, n in (("oy", 12), ("ox", 12), ("ry", 8), ("rx", 8)))
        iy0, ix0 = Signal(signed(INDEX)), Signal(signed(INDEX))
        a_row, a, r_row, r, o_row, o = (Signal.like(d.A_BASE, name=name) for name in ("a_row", "a", "r_row", "r", "o_row", "o"))
        last_ox, last_oy = ox == d.OW, oy == d.OH
        m.d.comb += [self.jobs.iy0.eq(iy0), self.jobs.left.eq(-ix0), self.jobs.a.eq(a), self.jobs.r.eq(r)]
        with m.If(dealing & last_ox):
            m.d.sync += [ox.eq(1), rx.eq(1), oy.eq(oy + 1), ix0.eq(d.IX0)]
            m.d.sync += [s.eq(r_row + d.R_OY) for s in (r_row, r)]
            m.d.sync += [s.eq(o_row + d.O_OY) for s in (o_row, o)]
            with m.If(ry == d.REPY):
                m.d.sync += [ry.eq(1), iy0.eq(iy0 + d.SY)]
                m.d.sync += [s.eq(a_row + d.A_OY) for s in (a_row, a)]
            with m.Else():
                m.d.sync += [ry.eq(ry + 1), a.eq(a_row)]
        with m.Elif(dealing):
            m.d.sync += [ox.eq(ox + 1), r.eq(r + d.R_OX), o.eq(o + d.O_OX)]
            with m.If(rx == d.REPX):
                m.d.sync += [rx.eq(1), ix0.eq(ix0 + d.SX), a.eq(a + d.A_OX)]
            with m.Else():
                m.d.sync += rx.eq(rx + 1)
        with m.If(buffered(m, self.op.valid & self.op.ready, "first")):
            first = self.op.payload
            m.d.sync += [s.eq(1) for s in (oy, ox, ry, rx)]
            m.d.sync += [iy0.eq(first.IY0), ix0.eq(first.IX0)]
            m.d.sync += [s.eq(first.A_BASE) for s in (a_row, a)]
            m.d.sync += [s.eq(first.R_BASE) for s in (r_row, r)]
            m.d.sync += [s.eq(first.O_BASE) for s in (o_row, o)]
        return last_ox, last_oy, o

    def _quiet(self, m, dealing):
        """Whether every job had left its fetcher `DRAINED` cycles ago, and none was dealt since."""
        cores = self.arch.cores
        left, jobs, quiet = Signal(range(cores + 1)), Signal(range(OUTPUTS * cores + 1)), Signal(init=1)
        assert DRAINED == 3, "one register for each of: the count of those that leave, the jobs left, the comparison"
        m.d.sync += [
            left.eq(sum(self.drained[g] for g in range(cores))),
            jobs.eq(jobs + dealing - left),
            quiet.eq((jobs == 0) & ~dealing),
        ]
        return quiet
