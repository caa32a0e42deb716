"""The cluster: dispatcher, fetchers, cores and the memories that they share, run control and the host window."""

from functools import reduce
from operator import and_, or_

from amaranth.hdl import Array, Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import DONE_LATENCY, Latencies
from ..spec.structure import fetchers_of, reads_late
from .core import Core
from .dispatcher import Dispatcher
from .fetch.fetcher import Fetcher
from .flight import Flight, snapshot
from .host.interfaces import ControlSignature, WindowSignature
from .layouts import ReadWord, act_address
from .lib.combinators import delay
from .perf import FLUSH_CYCLES, RecordControl
from .primitives import BitMemory, BlockMemory
from .sequencer import Sequencer

__all__ = ["Cluster"]

TRAP_LATENCY = 2
"""From a store to the cycle in which the machine stops because of it."""

assert TRAP_LATENCY < DONE_LATENCY, "HALT must not overtake a trap"


class Cluster(wiring.Component):
    """`cores` event-driven cores with on-chip memories, and as many fetchers.

    The stages are held in reset while the machine does not run; then the memories belong to the host window.

    Throughput: an event a cycle and core. Latencies are those of the stages (`spec.latencies`).

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    window : In(WindowSignature(arch))
    control : In(ControlSignature())
    """

    def __init__(self, arch: ArchConfig):
        self.arch, self.latency = arch, Latencies(arch)
        super().__init__({"window": In(WindowSignature(arch)), "control": In(ControlSignature())})

    def elaborate(self, platform):
        m = Module()
        arch = self.arch
        running = Signal()
        # A reset for each fetcher, and one for the rest: one net for all of them would be on the critical path.
        stopped = [Signal(name=f"stopped_{k}", init=1, attrs={"keep": 1}) for k in range(arch.cores + 1)]
        stages = Module()
        m.submodules.stages = ResetInserter(stopped[-1])(stages)
        stages.submodules.sequencer = sequencer = Sequencer(arch)
        stages.submodules.flight = flight = Flight(arch)
        stages.submodules.dispatcher = dispatcher = Dispatcher(arch)
        fetchers = [Fetcher(arch, g) for g in range(arch.cores)]
        cores = [Core(arch) for _ in range(arch.cores)]
        for i in range(arch.cores):
            m.submodules[f"fetcher_{i}"], m.submodules[f"core_{i}"] = ResetInserter(stopped[i])(fetchers[i]), cores[i]
        m.submodules.records = records = RecordControl(arch)

        self._operations(m, stages, sequencer, flight, dispatcher, fetchers, cores)
        self._dispatch(m, dispatcher, fetchers, cores)
        self._serve(m, stages, fetchers, cores)
        start = self._control(m, running, stopped, sequencer, fetchers, cores)
        m.d.comb += [
            records.running.eq(running),
            records.logging.eq(self.control.running),
            records.active.eq(flight.active),
            records.start.eq(start),
            records.record.eq(running & (flight.record | sequencer.halt)),
            *(core.log.eq(records.log) for core in cores),
            *(core.running.eq(running) for core in cores),
            *(core.words.eq(fetcher.words) for core, fetcher in zip(cores, fetchers, strict=True)),
            *(core.skipped.eq(fetcher.skipped) for core, fetcher in zip(cores, fetchers, strict=True)),
        ]
        self._memories(m, running, sequencer, fetchers, cores)
        return m

    def _operations(self, m, stages, sequencer, flight, dispatcher, fetchers, cores):
        """Connects what starts an operation and what follows it; its descriptors reach fetchers and cores through a register."""
        connect(m, sequencer.dispatch, dispatcher.op)
        m.d.comb += [
            sequencer.tag.eq(flight.tag),
            sequencer.free.eq(flight.free),
            sequencer.idle.eq(flight.idle),
            sequencer.recorded.eq(flight.recorded),
            flight.started.eq(sequencer.started),
            flight.dispatched.eq(dispatcher.dispatched),
            flight.dispatched_tag.eq(dispatcher.dispatched_tag),
        ]
        m.d.comb += [
            flight.closed.eq(reduce(and_, (core.closed for core in cores))),
            flight.stored.eq(reduce(and_, (core.stored for core in cores))),
        ]
        # An operation is latched when it has passed its checks: its registers stay the same until it starts.
        tap = snapshot(stages, self.arch, sequencer.tap, sequencer.checked, "tap")
        drain = snapshot(stages, self.arch, sequencer.drain, sequencer.checked, "drain")
        started, tag = Signal(), Signal.like(flight.tag, reset_less=True)
        stages.d.sync += [started.eq(sequencer.started), tag.eq(flight.tag)]
        for fetcher in fetchers:
            m.d.comb += [fetcher.d_we.eq(started), fetcher.d_tag.eq(tag), fetcher.d.eq(tap)]
        for core in cores:
            m.d.comb += [core.drain_we.eq(started), core.drain_tag.eq(tag), core.drain.eq(drain)]

    def _dispatch(self, m, dispatcher, fetchers, cores):
        """Outputs to fetchers and cores."""
        for i, (fetcher, core) in enumerate(zip(fetchers, cores, strict=True)):
            m.d.comb += [
                fetcher.job.eq(dispatcher.jobs),
                fetcher.job_valid.eq(dispatcher.dispatch[i]),
                dispatcher.taken[i].eq(fetcher.job_taken),
                dispatcher.drained[i].eq(fetcher.drained),
                core.output.eq(dispatcher.outputs[i]),
                core.output_valid.eq(dispatcher.output_valid[i]),
                dispatcher.closed[i].eq(core.close),
            ]

    def _serve(self, m, stages, fetchers, cores):
        """Words and mask rows from fetchers to cores.

        A core has one fetcher at a time, that of its group: its number is the core's modulo the groups. The other fetchers that
        could serve the core do not send, so it takes the word of the one that does.
        """
        words, m_addrs = [], []
        for c, core in enumerate(cores):
            lower = c - (1 << c.bit_length() >> 1)
            word, m_addr = fetchers[c].word.as_value(), fetchers[c].m_addr
            if c:
                word = Mux(fetchers[c].word_valid.any(), word, words[lower])
                m_addr = Mux(fetchers[c].mask_valid.any(), m_addr, m_addrs[lower])
            words.append(Signal(ReadWord(self.arch), name=f"word_{c}"))
            m_addrs.append(Signal.like(fetchers[c].m_addr, name=f"m_addr_{c}"))
            m.d.comb += [words[c].as_value().eq(word), m_addrs[c].eq(m_addr)]

            sources = [fetchers[g] for g in fetchers_of(self.arch, c)]
            valid, mask_valid = (Cat(getattr(f, name)[c] for f in sources).any() for name in ("word_valid", "mask_valid"))

            def served(value, name, reset_less=False):
                return delay(stages, value, self.latency.serve, name, reset_less=reset_less)

            m.d.comb += [
                core.word.eq(served(words[c], f"served_word_{c}", reset_less=True)),
                core.m_addr.eq(served(m_addrs[c], f"served_m_addr_{c}", reset_less=True)),
                core.word_valid.eq(served(valid, f"served_word_valid_{c}")),
                core.mask_valid.eq(served(mask_valid, f"served_mask_valid_{c}")),
                core.take.eq(Cat(f.take[c] for f in sources).any()),
                *(f.credit[c].eq(core.credit) for f in fetchers),
            ]

    def _control(self, m, running, stopped, sequencer, fetchers, cores):
        """Starts, counts cycles, and stops at HALT or the first trap. Returns the start.

        The host sees the machine run until the last record is written.
        """
        c = self.control
        slots = c.cycles[:3]
        for fetcher in fetchers:
            m.d.comb += fetcher.cycle.eq(slots)
        for i, core in enumerate(cores):
            m.d.comb += core.slot.eq(slots % len(cores) == i)

        memory_trap, trap, over, failed, stop = Signal(isa.Trap), Signal(isa.Trap), Signal(), Signal(), Signal()
        causes = {isa.Trap.ACT_READ: Cat(f.trap_act for f in fetchers).any()}
        for cause in (isa.Trap.ACT_WRITE, isa.Trap.WEIGHT, isa.Trap.MASK, isa.Trap.PARAM, isa.Trap.STATE):
            causes[cause] = Cat(core.traps[cause.name.lower()] for core in cores).any()
        m.d.sync += [memory_trap.eq(isa.Trap.NONE), failed.eq(Cat(causes.values()).any())]
        m.d.comb += stop.eq(over | sequencer.trapped | failed | sequencer.halt)
        for cause, seen in reversed(causes.items()):
            with m.If(seen):
                m.d.sync += memory_trap.eq(cause)
        with m.If(over):
            m.d.comb += trap.eq(isa.Trap.CYCLES)
        with m.Elif(sequencer.trapped):
            m.d.comb += trap.eq(sequencer.trap)
        with m.Else():
            m.d.comb += trap.eq(memory_trap)

        flush, start = Signal(range(FLUSH_CYCLES + 1)), Signal()
        # Lookahead: the number of the next cycle, so that the comparison with the limit does not wait for an addition.
        following = Signal.like(c.cycles)
        # There are no more operations than instructions, because there are no backward jumps.
        pc, ops, began = Signal(range(self.arch.imem_depth + 1)), Signal(range(self.arch.imem_depth + 1)), Signal()
        m.d.comb += [start.eq(c.start & ~c.running), c.pc.eq(pc), c.ops.eq(ops)]
        m.d.sync += [
            over.eq(Mux(running, following >= c.limit, c.limit == 0)),
            began.eq(running & sequencer.started),
            ops.eq(ops + began),
        ]
        with m.If(running):
            m.d.sync += [c.cycles.eq(following), following.eq(following + 1), pc.eq(pc + sequencer.passed)]
            with m.If(stop):
                m.d.sync += [running.eq(0), flush.eq(FLUSH_CYCLES), c.trap.eq(trap)]
                m.d.sync += [s.eq(1) for s in stopped]
        with m.Elif(c.running):
            m.d.sync += flush.eq(flush - 1)
            with m.If(flush == 0):
                m.d.sync += [c.running.eq(0), c.halted.eq(1)]
        with m.Elif(c.start):
            m.d.sync += [running.eq(1), c.running.eq(1), c.halted.eq(0), c.trap.eq(isa.Trap.NONE)]
            m.d.sync += [c.cycles.eq(0), following.eq(1), ops.eq(0), pc.eq(0)]
            m.d.sync += [s.eq(0) for s in stopped]
        return start

    def _memories(self, m, running, sequencer, fetchers, cores):
        """Instruction, activation and occupancy memories, and the host window to them and to the cores."""
        arch, window = self.arch, self.window
        row, piece = (delay(m, value, 1, f"window_{name}") for value, name in ((window.row, "row"), (window.piece, "piece")))
        reads = {r: delay(m, window.region == r, 1, f"window_reads_{r.name.lower()}") for r in isa.Region}
        writes = {r: delay(m, window.we & (window.region == r), 1, f"window_{r.name.lower()}") for r in isa.Region}

        m.submodules.imem = imem = BlockMemory(arch.imem_depth, 32, self.latency.memory)
        m.d.comb += [
            imem.r_addr.eq(sequencer.i_addr),
            imem.w_en.eq(writes[isa.Region.IMEM]),
            imem.w_addr.eq(row),
            imem.w_data.eq(window.wdata),
            sequencer.i_data.eq(imem.r_data),
        ]
        for i, core in enumerate(cores):
            m.d.comb += [
                core.host.row.eq(row),
                core.host.piece.eq(piece),
                core.host.data.eq(window.wdata),
                core.host.table.eq(writes[isa.Region.TABLE]),
                *(
                    core.host[r.name.lower()].eq(writes[r] & (self._core_of(r, row) == i))
                    for r in isa.PER_CORE
                    if r in _HOST_WRITES
                ),
            ]
        act = self._activations(m, running, fetchers, cores, row, window.whole, writes[isa.Region.ACT] & (piece == 0))

        # The host holds region, row and piece as long as it needs the piece.
        shown = {isa.Region.ACT: act, isa.Region.STATE: cores[0].state_data, isa.Region.PERF: cores[0].perf_data}
        if arch.cores > 1:
            shown[isa.Region.ACT] = delay(m, act.word_select(piece, len(window.rdata)), 1, "window_act", reset_less=True)
            for r, values in (
                (isa.Region.STATE, Array(core.state_data for core in cores)),
                (isa.Region.PERF, Array(core.perf_data for core in cores)),
            ):
                shown[r] = values[self._core_of(r, row)]
        piece_shown = Signal.like(window.rdata)
        m.d.comb += [
            piece_shown.eq(_either((reads[r], value) for r, value in shown.items())),
            window.rdata.eq(delay(m, piece_shown, self.latency.show, "rdata", reset_less=True)),
        ]

    def _core_of(self, region, row):
        """The core that a row of a region of `PER_CORE` belongs to."""
        low = (isa.region_stride(self.arch, region) - 1).bit_length()
        return row[low : low + max(1, (self.arch.cores - 1).bit_length())]

    def _activations(self, m, running, fetchers, cores, row, value, host_we):
        """Copies of the activation memory, one a port, and of the occupancy memory, one a fetcher. Returns the host's data."""
        arch = self.arch
        word, place = Signal(isa.region_bits(arch, isa.Region.ACT), reset_less=True), Signal(act_address(arch), reset_less=True)
        we = Signal()
        # A core's address and data are zero in cycles in which it does not store.
        m.d.sync += [
            we.eq(host_we | Cat(core.we for core in cores).any()),
            place.eq(reduce(or_, (core.address for core in cores), Mux(host_we, row, 0))),
            word.eq(reduce(or_, (core.data for core in cores), Mux(host_we, value, 0))),
        ]
        late = reads_late(arch)
        acts = []
        for p in range(arch.ports):
            m.submodules[f"act_{p}"] = act = BlockMemory(arch.act_depth, len(word), self.latency.memory)
            acts.append(act)
            served = [f for g, f in enumerate(fetchers) if g % arch.ports == p]
            reads = [(f.act_en, f.act_addr) for f in served]
            if p == 0:
                reads.append((~running, row))
            m.d.comb += [
                act.w_en.eq(we),
                act.w_addr.eq(place),
                act.w_data.eq(word),
                act.r_addr.eq(Mux(running, cores[0].act_addr, row) if late else _either(reads)),
                *(reader.act_data.eq(act.r_data) for reader in (cores if late else served)),
            ]

        # The occupancy bit is written a cycle after its word, as are the bits of the channels that are not zero.
        place_late, we_late, occupied = delay(m, place, 1, "place", reset_less=True), delay(m, we, 1, "we"), Signal()
        if late:
            nonzero = Signal(arch.lanes)
            m.submodules.nonzero = live = BlockMemory(arch.act_depth, arch.lanes, self.latency.memory)
            m.d.sync += nonzero.eq(Cat(word.word_select(i, arch.event_bits).any() for i in range(arch.lanes)))
            m.d.comb += [
                occupied.eq(nonzero.any()),
                live.w_en.eq(we_late),
                live.w_addr.eq(place_late),
                live.w_data.eq(nonzero),
                live.r_addr.eq(fetchers[0].act_addr),
                fetchers[0].act_data.eq(live.r_data),
            ]
        else:
            m.d.sync += occupied.eq(word != 0)
        m.submodules.occupancy = bits = BitMemory(arch.act_depth // arch.occ_width, arch.occ_width, arch.cores, self.latency.memory)
        m.d.comb += [bits.w_en.eq(we_late), bits.w_addr.eq(place_late), bits.w_data.eq(occupied)]
        for g, fetcher in enumerate(fetchers):
            m.d.comb += [bits.r_addr[g].eq(fetcher.occ_addr), fetcher.occ_data.eq(bits.r_data[g])]
        return acts[0].r_data


_HOST_WRITES = (isa.Region.WEIGHT, isa.Region.MASK, isa.Region.PARAM, isa.Region.STATE)


def _either(gated):
    """The values of (enable, value) pairs, ORed where enabled."""
    return reduce(or_, (Value.cast(value).as_unsigned() & enable.replicate(len(Value.cast(value))) for enable, value in gated))
