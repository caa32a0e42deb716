"""The cluster: dispatcher, fetchers, cores and the memories that they share, run control and the host window."""

from functools import reduce
from operator import and_

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import Latencies
from ..spec.structure import fetchers_of
from .core import Core
from .dispatcher import Dispatcher
from .fetch.fetcher import Fetcher
from .flight import Flight, snapshot
from .host.interfaces import ControlSignature, WindowSignature
from .layouts import ReadWord
from .lib.combinators import delay, joined
from .memory.activations import ActivationMemory
from .perf import RecordControl
from .primitives import BlockMemory
from .run_control import MEMORY_TRAPS, RunControl
from .sequencer import Sequencer

__all__ = ["Cluster"]


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
        m.submodules.control = control = RunControl(arch)
        m.submodules.records = records = RecordControl(arch)
        running, stopped, stages = control.running, control.stopped, Module()
        m.submodules.stages = ResetInserter(stopped[-1])(stages)
        stages.submodules.sequencer = sequencer = Sequencer(arch)
        stages.submodules.flight = flight = Flight(arch)
        stages.submodules.dispatcher = dispatcher = Dispatcher(arch)
        fetchers = [Fetcher(arch, g) for g in range(arch.cores)]
        cores = [Core(arch) for _ in range(arch.cores)]
        for i in range(arch.cores):
            m.submodules[f"fetcher_{i}"], m.submodules[f"core_{i}"] = ResetInserter(stopped[i])(fetchers[i]), cores[i]

        self._operations(m, stages, sequencer, flight, dispatcher, fetchers, cores)
        self._dispatch(m, dispatcher, fetchers, cores)
        self._serve(m, stages, fetchers, cores)
        self._control(m, control, sequencer, fetchers, cores)
        m.d.comb += [
            records.running.eq(running),
            records.logging.eq(self.control.running),
            records.active.eq(flight.active),
            records.start.eq(control.start),
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

    def _control(self, m, control, sequencer, fetchers, cores):
        """Connects run control to what it hears of, and time slots to what they are for."""
        connect(m, flipped(self.control), control.control)
        slots = self.control.cycles[:3]
        m.d.comb += [
            *(fetcher.cycle.eq(slots) for fetcher in fetchers),
            *(core.slot.eq(slots % len(cores) == i) for i, core in enumerate(cores)),
            *(getattr(control, name).eq(getattr(sequencer, name)) for name in ("trapped", "trap", "halt", "started", "passed")),
            control.memory.act_read.eq(Cat(f.trap_act for f in fetchers).any()),
        ]
        for trap in MEMORY_TRAPS[1:]:
            name = trap.name.lower()
            m.d.comb += control.memory[name].eq(Cat(core.traps[name] for core in cores).any())

    def _memories(self, m, running, sequencer, fetchers, cores):
        """Instruction, activation and occupancy memories, and the host window to them and to the cores."""
        arch, window = self.arch, self.window
        row, piece = (delay(m, value, 1, f"window_{name}") for value, name in ((window.row, "row"), (window.piece, "piece")))
        reads = {r: delay(m, window.region == r, 1, f"window_reads_{r.name.lower()}") for r in isa.Region}
        writes = {r: delay(m, window.we & (window.region == r), 1, f"window_{r.name.lower()}") for r in isa.Region}

        m.submodules.imem = imem = BlockMemory(arch.imem_depth, 32, self.latency.memory)
        m.d.comb += [
            imem.r_addr.eq(Mux(running, sequencer.i_addr, row)),
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
        act = self._activations(m, running, fetchers, cores, row, writes[isa.Region.ACT] & (piece == 0))

        self._show(m, reads, row, piece, {isa.Region.ACT: act, isa.Region.IMEM: imem.r_data}, cores)

    def _show(self, m, reads, row, piece, shared, cores):
        """What the host reads: `shared` memories, and those of the cores. It holds region, row and piece as long as it needs the piece.

        Of several cores the bus is narrow, and a register shows a shared memory's piece, or zero: a register's reset costs no LUT.
        """
        window, pieces = self.window, []
        shared = shared | {isa.Region.TABLE: cores[0].table_data}
        for r, memory in shared.items():
            if len(cores) == 1:
                pieces.append((reads[r], memory))
                continue
            shown = Signal.like(window.rdata, name=f"window_{r.name.lower()}", reset_less=True)
            m.d.sync += shown.eq(memory.word_select(piece, len(shown)) if r is isa.Region.ACT else memory)
            with m.If(~reads[r]):
                m.d.sync += shown.eq(0)
            pieces.append((Const(1, 1), shown))
        for r, values in ((isa.Region.STATE, [c.state_data for c in cores]), (isa.Region.PERF, [c.perf_data for c in cores])):
            pieces.append((reads[r], Array(values)[self._core_of(r, row)] if len(cores) > 1 else values[0]))
        piece_shown = Signal.like(window.rdata)
        m.d.comb += [
            piece_shown.eq(joined(pieces)),
            window.rdata.eq(delay(m, piece_shown, self.latency.show, "rdata", reset_less=True)),
        ]

    def _core_of(self, region, row):
        """The core that a row of a region of `PER_CORE` belongs to."""
        low = (isa.region_stride(self.arch, region) - 1).bit_length()
        return row[low : low + max(1, (self.arch.cores - 1).bit_length())]

    def _activations(self, m, running, fetchers, cores, row, host_we):
        """Connects the activation memory. Returns the row that the host reads."""
        m.submodules.activations = memory = ActivationMemory(self.arch)
        m.d.comb += [
            memory.running.eq(running),
            memory.row.eq(row),
            memory.whole.eq(self.window.whole),
            memory.host_we.eq(host_we),
            memory.late_addr.eq(cores[0].act_addr),
        ]
        for i, (fetcher, core) in enumerate(zip(fetchers, cores, strict=True)):
            m.d.comb += [
                memory.we[i].eq(core.we),
                memory.address[i].eq(core.address),
                memory.data[i].eq(core.data),
                memory.act_en[i].eq(fetcher.act_en),
                memory.act_addr[i].eq(fetcher.act_addr),
                fetcher.act_data.eq(memory.act_data[i]),
                memory.occ_addr[i].eq(fetcher.occ_addr),
                fetcher.occ_data.eq(memory.occ_data[i]),
                core.act_data.eq(memory.late_data),
            ]
        return memory.shown


_HOST_WRITES = (isa.Region.WEIGHT, isa.Region.MASK, isa.Region.PARAM, isa.Region.STATE)
