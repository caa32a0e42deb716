"""The dispatcher: from an operation to its outputs, each for a core group."""

from dataclasses import dataclass
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..spec.arch import ArchConfig
from ..spec.latencies import DISPATCH_LATENCY, FREE_LATENCY, SPLIT_LATENCY
from ..spec.structure import job_depth, output_depth, sharing, tag_bits
from .flight import snapshot
from .layouts import INDEX, DispatchDescriptor, Job, Output
from .lib.combinators import buffered, lowest

__all__ = ["Dispatcher"]


@dataclass(frozen=True)
class _Following:
    """The next output: if it is the `fresh` first of a run, the group of the `current` run, and the groups whose `turn` it is."""

    fresh: Value
    current: Value
    turn: Value


def _splits(operation, groups: int):
    """Whether an operation's SPLIT is this number of groups."""
    return operation.SPLIT[groups.bit_length() - 1]


class Dispatcher(wiring.Component):
    """Dispatches the outputs of an operation in their order.

    A run of outputs goes to one core group: to the lowest whose fetcher has at most one job waiting and whose cores have room for
    their outputs. A stateful operation's outputs go to the groups in turn. Before the groups change, every job must have left the
    fetchers.

    The group is chosen in the cycle before the dispatch, from registers alone: the dispatcher counts what it dispatched, and is
    told a cycle later what fetchers and cores have finished.

    Throughput: an output a cycle, without a bubble between operations. Latency: `DISPATCH_LATENCY` from an operation to its first
    output.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    op : In(stream of DispatchDescriptor)
        Taken while idle, or in the cycle of the last dispatch of the operation before.
    jobs : Out(Job), dispatch : Out(cores)
        The job, in a cycle with a bit of `dispatch`: that of its fetcher. `jobs.to` are the cores of the group.
    outputs : Out(array of cores x Output), output_valid : Out(cores)
        In the same cycle, for the cores.
    taken : In(cores)
        The fetcher's walker takes a job, which makes room for another that is dispatched `FREE_LATENCY` cycles later.
    closed : In(cores)
        The core closes an output, which makes room for another that is dispatched `FREE_LATENCY` cycles later.
    drained : In(cores)
        The fetcher's scanner asked for the last word of a job.
    dispatched : Out(1), dispatched_tag : Out(tag_bits)
        The last output of operation `dispatched_tag` is dispatched in this cycle.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "op": In(stream.Signature(DispatchDescriptor(arch))),
                "jobs": Out(Job(arch)),
                "dispatch": Out(arch.cores),
                "outputs": Out(data.ArrayLayout(Output(arch), arch.cores)),
                "output_valid": Out(arch.cores),
                "taken": In(arch.cores),
                "closed": In(arch.cores),
                "drained": In(arch.cores),
                "dispatched": Out(1),
                "dispatched_tag": Out(tag_bits(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        cores, op = self.arch.cores, self.op.payload
        assert DISPATCH_LATENCY == 2, "a register each for: the operation, the dispatch"
        # Speculative load: in every cycle in which an operation could be taken, because `valid` arrives too late to gate the
        # enable.
        load, dispatching, dispatches = Signal(init=1), Signal(), Signal()
        d = snapshot(m, self.arch, op, load, "operation")
        last_ox, next_last, address = self._step(m, d, dispatching, load)
        m.d.sync += [dispatching.eq(dispatches), load.eq(Mux(load, ~self.op.valid, dispatches & next_last))]
        m.d.comb += [self.op.ready.eq(load), self.dispatched.eq(dispatching & load), self.dispatched_tag.eq(d.tag)]
        groups, slices = self._groups(m, load)
        fresh, state, following = self._following(m, d, load, dispatching, last_ox)
        free, next_ = self._candidates(m, groups, following)
        chosen, _ = lowest(free, cores)
        ready = ~load & self._settled(m, load, dispatching)
        m.d.comb += dispatches.eq(Mux(following.fresh, free.any(), next_.any()) & ready)
        m.d.sync += self.dispatch.eq(Mux(following.fresh, chosen, next_) & ready.replicate(cores))
        m.d.comb += [
            self.output_valid.eq(
                reduce(or_, (Mux(dispatch, group, 0) for dispatch, group in zip(self.dispatch, groups, strict=True)))
            ),
            self.jobs.to.eq(self.output_valid),
            self.jobs.fresh.eq(fresh),
            self.jobs.tag.eq(d.tag),
        ]
        for output, part in zip(self.outputs, slices, strict=True):
            m.d.comb += [output.address.eq(address + part), output.state.eq(state), output.tag.eq(d.tag)]
        return m

    def _groups(self, m, load):
        """The cores of each fetcher's group, and the slice of each core, in the operation at hand."""
        cores, op = self.arch.cores, self.op.payload
        groups = [Signal(cores, name=f"group_{g}") for g in range(cores)]
        slices = [Signal(range(cores), name=f"slice_{c}") for c in range(cores)]
        with m.If(load):
            for c in range(cores):
                m.d.sync += slices[c].eq(0)
                for g, group in enumerate(groups):
                    fits = [_splits(op, n) & (c // n < op.SLICES) for n in self._sizes() if g < n and c % n == g]
                    m.d.sync += group[c].eq(Cat(fits).any())
                for n in self._sizes():
                    with m.If(_splits(op, n)):
                        m.d.sync += slices[c].eq(c // n)
        return groups, slices

    def _sizes(self):
        """Numbers of groups that SPLIT can name."""
        return [1 << k for k in range(self.arch.cores.bit_length())]

    def _following(self, m, d, load, dispatching, last_ox):
        """Whether the output at hand is the first of its run, its first state row, and which groups the next output may go to.

        `dispatching` says that the output at hand is being dispatched.
        """
        cores, op = self.arch.cores, self.op.payload
        fresh, current, turn, state = Signal(), Signal(cores), Signal(cores), Signal.like(d.S_BASE)
        turn_ends = Cat(turn[n - 1] & _splits(d, n) for n in self._sizes()).any()
        run_ends = last_ox | self._run_ends(m, d, load, dispatching, last_ox)
        turned = Mux(turn_ends, 1, turn << 1)[:cores]
        following = _Following(
            fresh=Mux(dispatching, run_ends, fresh),
            current=Mux(dispatching, self.dispatch, current),
            turn=Mux(dispatching & d.stateful, turned, turn),
        )
        with m.If(dispatching), m.If(d.stateful & turn_ends):
            m.d.sync += state.eq(state + d.DRAIN)
        m.d.sync += [fresh.eq(following.fresh), current.eq(following.current), turn.eq(following.turn)]
        with m.If(load):
            m.d.sync += [fresh.eq(1), turn.eq(Mux(op.stateful, 1, (1 << cores) - 1)), state.eq(op.S_BASE)]
        return fresh, state, following

    def _candidates(self, m, groups, following):
        """The groups that the next output can go to, if it is the first of its run, and if it is not.

        A run starts behind one job at most, so that the job FIFO has room for all of it, or, where there are no runs, for one
        output.
        """
        idle, few, room, more_room = self._counts(m)
        free, next_ = Signal(self.arch.cores), Signal(self.arch.cores)
        for g, group in enumerate(groups):
            open_ = Mux(self.dispatch[g], (~group | more_room).all(), (~group | room).all()) & group[g]
            ahead = Mux(self.dispatch[g], idle[g] if job_depth(self.arch) > 1 else 0, few[g])
            m.d.comb += [
                free[g].eq(open_ & following.turn[g] & ahead),
                next_[g].eq(open_ & following.current[g] & (1 if sharing(self.arch) else ahead)),
            ]
        return free, next_

    def _step(self, m, d, dispatching, load):
        """Steps input position, residual and output addresses with each dispatch.

        Returns whether this is the last column, whether the output of the next cycle is the operation's last, and the output's
        address. Lookahead: each counter is the number of the next column or row, and a comparison with it registers whether that
        is the last.
        """
        oy, ox, ry, rx = (Signal(n, name=name) for name, n in (("oy", 12), ("ox", 12), ("ry", 8), ("rx", 8)))
        last_oy, last_ox, last_ry, last_rx = (Signal(name=f"last_{name}") for name in ("oy", "ox", "ry", "rx"))
        iy0, ix0 = Signal(signed(INDEX)), Signal(signed(INDEX))
        a_row, a, r_row, r, o_row, o = (Signal.like(d.A_BASE, name=name) for name in ("a_row", "a", "r_row", "r", "o_row", "o"))
        m.d.comb += [self.jobs.iy0.eq(iy0), self.jobs.left.eq(-ix0), self.jobs.a.eq(a), self.jobs.r.eq(r)]
        counters = ((oy, last_oy, "OH"), (ox, last_ox, "OW"), (ry, last_ry, "REPY"), (rx, last_rx, "REPX"))

        def restart(counter, last, count):
            return [counter.eq(2), last.eq(count == 1)]

        def step(counter, last, count):
            return [counter.eq(counter + 1), last.eq(counter == count)]

        dispatches = buffered(m, dispatching, "dispatching")
        with m.If(dispatches & last_ox):
            m.d.sync += [*restart(ox, last_ox, d.OW), *restart(rx, last_rx, d.REPX), *step(oy, last_oy, d.OH), ix0.eq(d.IX0)]
            m.d.sync += [s.eq(r_row + d.R_OY) for s in (r_row, r)]
            m.d.sync += [s.eq(o_row + d.O_OY) for s in (o_row, o)]
            with m.If(last_ry):
                m.d.sync += [*restart(ry, last_ry, d.REPY), iy0.eq(iy0 + d.SY)]
                m.d.sync += [s.eq(a_row + d.A_OY) for s in (a_row, a)]
            with m.Else():
                m.d.sync += [*step(ry, last_ry, d.REPY), a.eq(a_row)]
        with m.Elif(dispatches):
            m.d.sync += [*step(ox, last_ox, d.OW), r.eq(r + d.R_OX), o.eq(o + d.O_OX)]
            with m.If(last_rx):
                m.d.sync += [*restart(rx, last_rx, d.REPX), ix0.eq(ix0 + d.SX), a.eq(a + d.A_OX)]
            with m.Else():
                m.d.sync += step(rx, last_rx, d.REPX)
        with m.If(buffered(m, load, "load")):
            first = self.op.payload
            for counter, last, name in counters:
                m.d.sync += restart(counter, last, first[name])
            m.d.sync += [iy0.eq(first.IY0), ix0.eq(first.IX0)]
            m.d.sync += [s.eq(first.A_BASE) for s in (a_row, a)]
            m.d.sync += [s.eq(first.R_BASE) for s in (r_row, r)]
            m.d.sync += [s.eq(first.O_BASE) for s in (o_row, o)]
        in_last_row = Mux(dispatching & last_ox, oy == d.OH, last_oy)
        return last_ox, in_last_row & Mux(dispatching, Mux(last_ox, d.OW == 1, ox == d.OW), last_ox), o

    def _run_ends(self, m, d, load, dispatching, last_ox):
        """Whether the output at hand is the RUN-th of its run."""
        position, last = Signal(4), Signal(name="last_position")
        with m.If(dispatching & (last | last_ox)):
            m.d.sync += [position.eq(2), last.eq(d.RUN == 1)]
        with m.Elif(dispatching):
            m.d.sync += [position.eq(position + 1), last.eq(position == d.RUN)]
        with m.If(load):
            m.d.sync += [position.eq(2), last.eq(self.op.payload.RUN == 1)]
        return last

    def _counts(self, m):
        """By core, without this cycle's dispatch: whether its fetcher has no job, or few enough for another; whether it has room
        for an output, or for two.
        """
        assert FREE_LATENCY == 3, "a register each for: the event, the count, the dispatch"
        cores, most = self.arch.cores, output_depth(self.arch)
        names = ("idle", "few", "room", "more_room")
        idle, few, room, more_room = (Signal(cores, name=name, init=(1 << cores) - 1) for name in names)
        ahead = 0 if job_depth(self.arch) == 1 else 1
        taken, closed = Signal(cores, name="taken_before"), Signal(cores, name="closed_before")
        m.d.sync += [taken.eq(self.taken), closed.eq(self.closed)]
        for c in range(cores):
            jobs = Signal(range(job_depth(self.arch) + 1), name=f"jobs_{c}")
            outputs = Signal(range(most + 1), name=f"outputs_{c}")
            with m.If(self.dispatch[c] & ~taken[c]):
                m.d.sync += [jobs.eq(jobs + 1), idle[c].eq(0), few[c].eq(jobs + 1 <= ahead)]
            with m.Elif(taken[c] & ~self.dispatch[c]):
                m.d.sync += [jobs.eq(jobs - 1), idle[c].eq(jobs == 1), few[c].eq(jobs <= ahead + 1)]
            with m.If(self.output_valid[c] & ~closed[c]):
                m.d.sync += [outputs.eq(outputs + 1), room[c].eq(more_room[c]), more_room[c].eq(outputs < most - 2)]
            with m.Elif(closed[c] & ~self.output_valid[c]):
                m.d.sync += [outputs.eq(outputs - 1), room[c].eq(1), more_room[c].eq(room[c])]
        return idle, few, room, more_room

    def _settled(self, m, load, dispatching):
        """Whether no job of an operation with another SPLIT is in a fetcher, `SPLIT_LATENCY` cycles before the dispatch."""
        cores = self.arch.cores
        if cores == 1:
            return 1
        assert SPLIT_LATENCY == 4, "a register each for: the count of jobs that leave, the jobs left, the comparison, the dispatch"
        left, jobs, quiet = Signal(range(cores + 1)), Signal(range(output_depth(self.arch) * cores + 1)), Signal(init=1)
        m.d.sync += [
            left.eq(sum(self.drained[g] for g in range(cores))),
            jobs.eq(jobs + dispatching - left),
            quiet.eq((jobs == 0) & ~dispatching),
        ]
        split, waiting = Signal.like(self.op.payload.SPLIT), Signal()
        with m.If(dispatching):
            m.d.sync += waiting.eq(0)
        with m.If(load):
            m.d.sync += waiting.eq((split != 0) & (split != self.op.payload.SPLIT))
        with m.If(load & self.op.valid):
            m.d.sync += split.eq(self.op.payload.SPLIT)
        return ~waiting | quiet
