"""A core of the cluster: its memories, and the stages from masks to stores."""

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import Latencies
from ..spec.structure import output_depth, reads_late, tag_bits
from .flight import Descriptors, Outstanding
from .issue.mask_reader import MaskReader
from .layouts import DrainDescriptor, Output, OutputState, ReadWord, Word, act_address, mask_address, product_flag
from .lib.fifo import fifo_for
from .memory.core_memories import CoreMemories, HostAccess
from .perf import LogControl, PerformanceLog
from .post.ppu import Ppu
from .stages import stages_of

__all__ = ["Core", "CoreTraps"]


def _closed_within(arch: ArchConfig, cycles: int) -> int:
    """Upper bound on the outputs closed within the last `cycles` cycles: the issuer closes at most one in max(DRAIN, cores)."""
    return -(-cycles // max(arch.cores, 1 + Latencies(arch).pause)) + 1


class CoreTraps(data.StructLayout):
    """What went wrong on a core, registered: `isa.Trap` by its names."""

    def __init__(self):
        super().__init__(dict.fromkeys(("act_write", "weight", "mask", "param", "state"), 1))


class Core(wiring.Component):
    """One core: from words to stores. Its stages are held in reset while the machine does not run; then its memories belong to
    the host.

    Throughput: an event a cycle. Latencies are those of its stages.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    running : In(1)
    output : In(Output), output_valid : In(1)
        From the dispatcher, which knows that there is room.
    close : Out(1)
        An output is closed in this cycle.
    mask_valid, m_addr, word, word_valid, credit, take
        From the fetchers: see `MaskReader`.
    act_addr, act_data
        Activation memory, if activations are read late.
    drain_we, drain_tag, drain
        The descriptor of an operation that starts.
    slot : In(1)
        The core may store in this cycle.
    we, address, data : Out
        The store, a cycle after it; zero in other cycles.
    closed, stored : Out(in_flight)
        Every output that was dispatched is closed, or stored: see `Outstanding`.
    words, skipped, log
        For the performance log.
    host : In(HostAccess)
    state_data, perf_data, table_data : Out
        The piece that `host` names, a memory's latency later; of several cores up to four cycles after that.
    traps : Out(CoreTraps)
    """

    def __init__(self, arch: ArchConfig):
        self.arch, self.latency = arch, Latencies(arch)
        super().__init__(
            {
                "running": In(1),
                "output": In(Output(arch)),
                "output_valid": In(1),
                "close": Out(1),
                "mask_valid": In(1),
                "m_addr": In(mask_address(arch)),
                "word": In(ReadWord(arch)),
                "word_valid": In(1),
                "credit": Out(1),
                "take": In(1),
                "act_addr": Out(Word(arch)["address"].shape),
                "act_data": In(isa.region_bits(arch, isa.Region.ACT)),
                "drain_we": In(1),
                "drain_tag": In(tag_bits(arch)),
                "drain": In(DrainDescriptor(arch)),
                "slot": In(1),
                "we": Out(1),
                "address": Out(act_address(arch)),
                "data": Out(isa.region_bits(arch, isa.Region.ACT)),
                "closed": Out(arch.in_flight),
                "stored": Out(arch.in_flight),
                "words": In(1),
                "skipped": In(range(arch.occ_width + 1)),
                "log": In(LogControl(arch)),
                "host": In(HostAccess(arch)),
                "state_data": Out(isa.window_bits(arch)),
                "perf_data": Out(32),
                "table_data": Out(arch.event_bits),
                "traps": Out(CoreTraps()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self.arch
        held = Signal(init=1)
        m.d.sync += held.eq(~self.running)
        stages = Module()
        stages.submodules.reader = reader = MaskReader(arch)
        stages.submodules.segmenter = segmenter = stages_of(arch).segmenter(arch)
        stages.submodules.issuer = issuer = stages_of(arch).issuer(arch)
        stages.submodules.lanes = lanes = stages_of(arch).lanes(arch)
        stages.submodules.ppu = ppu = Ppu(arch)
        m.submodules.perf = perf = PerformanceLog(arch)
        m.submodules.memories = memories = CoreMemories(arch)
        dispatched = self._outputs(m, stages, issuer, ppu)
        m.submodules.stages = ResetInserter(held)(stages)
        self._events(m, reader, segmenter, issuer, lanes)
        self._stores(m, lanes, ppu)
        self._descriptors(m, issuer, ppu, dispatched.o.payload)
        m.d.comb += [
            issuer.next_output.eq(dispatched.next),
            perf.status.eq(issuer.status),
            perf.words.eq(self.words),
            perf.skipped.eq(self.skipped),
            perf.log.eq(self.log),
            memories.held.eq(held),
            memories.host.eq(self.host),
            perf.r_addr.eq(memories.row),
            self.perf_data.eq(perf.r_data),
            self.state_data.eq(memories.state_data),
            self.table_data.eq(memories.table_data),
            self.traps.weight.eq(lanes.trap),
            self.traps.mask.eq(reader.trap),
            self.traps.param.eq(ppu.trap_param),
            self.traps.state.eq(ppu.trap_state),
            self.traps.act_write.eq(ppu.trap_act),
        ]
        self._memories(m, memories, reader, lanes, ppu)
        return m

    def _outputs(self, m, stages, issuer, ppu):
        """The outputs dispatched to the core, queued until they are closed, drained and stored. Returns the first queue."""
        arch, latency = self.arch, self.latency
        turned = latency.shadow - latency.turn_lead + 1  # from an output's close to its first turn, at most
        drained, finished, stored = (
            output_depth(arch) + _closed_within(arch, cycles)
            for cycles in (turned, turned + latency.finished + 1, latency.shadow + latency.store + arch.cores)
        )
        stages.submodules.dispatched = dispatched = fifo_for(tag_bits(arch), output_depth(arch))
        stages.submodules.undrained = undrained = fifo_for(OutputState(arch), drained)
        stages.submodules.unplaced = unplaced = fifo_for(act_address(arch), finished)
        stages.submodules.unclosed = unclosed = Outstanding(arch, output_depth(arch))
        stages.submodules.unstored = unstored = Outstanding(arch, stored)
        m.d.comb += [
            dispatched.i.payload.eq(self.output.tag),
            undrained.i.payload.state.eq(self.output.state),
            undrained.i.payload.tag.eq(self.output.tag),
            unplaced.i.payload.eq(self.output.address),
            *(queue.i.valid.eq(self.output_valid) for queue in (dispatched, undrained, unplaced)),
            self.close.eq(issuer.outputs.valid & issuer.outputs.ready),
        ]
        connect(m, dispatched.o, issuer.outputs)
        connect(m, undrained.o, ppu.outputs)
        connect(m, unplaced.o, ppu.addresses)
        for count, leave, tag, none in (
            (unclosed, self.close, dispatched.o.payload, self.closed),
            (unstored, ppu.stored, ppu.stored_tag, self.stored),
        ):
            m.d.comb += [
                count.enter.eq(self.output_valid),
                count.enter_tag.eq(self.output.tag),
                count.leave.eq(leave),
                count.leave_tag.eq(tag),
                none.eq(count.none),
            ]
        return dispatched

    def _events(self, m, reader, segmenter, issuer, lanes):
        """From words to events at the lanes."""
        connect(m, reader.o, segmenter.words)
        connect(m, segmenter.segments, issuer.segments)
        m.d.comb += [
            *(getattr(reader, name).eq(getattr(self, name)) for name in ("mask_valid", "m_addr", "word", "word_valid", "take")),
            self.credit.eq(reader.credit),
            segmenter.next.eq(reader.next),
            segmenter.more.eq(reader.more),
            issuer.next.eq(segmenter.next_segment),
            issuer.vector.eq(segmenter.vector),
            issuer.act.eq(reader.o.payload.word.act),
            self.act_addr.eq(issuer.address),
            lanes.event.eq(issuer.event),
            lanes.event_valid.eq(issuer.event_valid),
            lanes.operands.eq(self.act_data if reads_late(self.arch) else issuer.operands),
        ]

    def _stores(self, m, lanes, ppu):
        """From sums to stores. Cores that share a memory are joined by OR: what a core stores is zero in other cycles."""
        m.d.comb += [ppu.start.eq(self.drain_we), ppu.coming.eq(lanes.coming), ppu.shadow.eq(lanes.shadow), ppu.slot.eq(self.slot)]
        store = m.d.sync if self.arch.cores > 1 else m.d.comb
        store += [self.we.eq(ppu.we), self.address.eq(0), self.data.eq(0)]
        with m.If(ppu.we):
            store += [self.address.eq(ppu.address), self.data.eq(ppu.word)]

    def _descriptors(self, m, issuer, ppu, closing):
        """The operations' drain descriptors, once for the issuer and twice for the PPU."""
        of_issuer = [self.drain[name] for name in ("DRAIN", *product_flag(self.arch))]
        m.submodules.drains = drains = Descriptors(self.arch, Cat(of_issuer).shape())
        m.submodules.ops = ops = Descriptors(self.arch, self.drain.shape())
        m.submodules.late_ops = late_ops = Descriptors(self.arch, self.drain.shape())
        for file, value, tag in (
            (drains, Cat(of_issuer), closing),
            (ops, self.drain, ppu.tag),
            (late_ops, self.drain, ppu.late_tag),
        ):
            m.d.comb += [file.w_en.eq(self.drain_we), file.w_tag.eq(self.drain_tag), file.i.eq(value), file.tag.eq(tag)]
        m.d.comb += [issuer.drain.eq(drains.o[: len(self.drain.DRAIN)]), ppu.op.eq(ops.o), ppu.late_op.eq(late_ops.o)]
        m.d.comb += [getattr(issuer, name).eq(drains.o[-1]) for name in product_flag(self.arch)]

    def _memories(self, m, memories, reader, lanes, ppu):
        """The memories' ports: of the lanes, of the mask reader, of the PPU."""
        m.d.comb += [
            memories.w_addr.eq(lanes.w_addr),
            lanes.w_data.eq(memories.w_data),
            memories.mask_addr.eq(reader.mask_addr),
            reader.mask_data.eq(memories.mask_data),
            *(getattr(memories, name).eq(getattr(ppu, name)) for name in ("p_addr", "threshold_addr", "t_addr")),
            *(getattr(memories, name).eq(getattr(ppu, name)) for name in ("s_addr", "s_we", "s_waddr", "s_wdata")),
            *(getattr(ppu, name).eq(getattr(memories, name)) for name in ("params", "t_data", "s_data")),
            ppu.host.eq(memories.s_host),
        ]
