"""The core: memories and stages, put together."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect

from .. import isa
from ..arch import OCC_WIDTH, ArchConfig
from ..interfaces import WINDOW_LATENCY, ControlSignature, WindowSignature
from .combinators import delay
from .fetch import Clip, Splitter, Walker
from .fifo import Fifo
from .issue import Issuer, Segmenter
from .lanes import Lanes
from .layouts import DrainDescriptor
from .memory import LATENCY, BlockMemory
from .perf import PerformanceLog
from .ppu import Ppu
from .scan import Occupancy, Scanner, WordReader
from .sequencer import IN_FLIGHT, Sequencer

__all__ = ["Core"]


class Core(wiring.Component):
    """One event-driven core with on-chip memories.

    The stages are held in reset while the machine does not run; then the memories belong to the host's window.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    window : In(WindowSignature(arch))
    control : In(ControlSignature())
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__({"window": In(WindowSignature(arch)), "control": In(ControlSignature())})

    def elaborate(self, platform):
        m = Module()
        arch = self.arch
        running = Signal()
        memories = self._memories(m)
        stages = Module()

        stages.submodules.sequencer = sequencer = Sequencer(arch)
        stages.submodules.walker = walker = Walker()
        stages.submodules.clip = clip = Clip()
        stages.submodules.splitter = splitter = Splitter(arch)
        stages.submodules.occupancy = occupancy = Occupancy(arch)
        stages.submodules.scanner = scanner = Scanner(arch)
        stages.submodules.reader = reader = WordReader(arch)
        stages.submodules.segmenter = segmenter = Segmenter(arch)
        stages.submodules.issuer = issuer = Issuer(arch)
        stages.submodules.lanes = lanes = Lanes(arch)
        stages.submodules.ppu = ppu = Ppu(arch)
        stages.submodules.drains = drains = Fifo(DrainDescriptor(), IN_FLIGHT)
        stages.submodules.drain_counts = counts = Fifo(isa.REGISTERS["DRAIN"].bits, IN_FLIGHT)
        m.submodules.stages = ResetInserter(~running)(stages)
        m.submodules.perf = perf = PerformanceLog(arch)

        # Streams.
        connect(m, sequencer.fetch, walker.op)
        connect(m, walker.spans, clip.i)
        connect(m, clip.o, splitter.i)
        m.d.comb += [
            occupancy.valid.eq(splitter.valid),
            occupancy.tag.eq(splitter.tag),
            occupancy.bits.eq(splitter.bits),
            splitter.ready.eq(occupancy.ready),
        ]
        connect(m, occupancy.o, scanner.rows)
        for name in ("valid", "address", "m_addr", "w", "kind", "dense", "null", "end", "fin", "zero"):
            m.d.comb += getattr(reader, name).eq(getattr(scanner, name))
        m.d.comb += scanner.grant.eq(reader.grant)
        connect(m, reader.o, segmenter.words)
        connect(m, segmenter.segments, issuer.segments)
        connect(m, segmenter.vectors, issuer.vectors)
        m.d.comb += [
            lanes.event.eq(issuer.event),
            lanes.event_valid.eq(issuer.event_valid),
            issuer.started.eq(sequencer.started),
            ppu.loaded.eq(lanes.loaded),
            ppu.fin.eq(lanes.fin),
            ppu.shadow.eq(lanes.shadow),
            lanes.shift.eq(ppu.shift),
            sequencer.done.eq(ppu.done),
        ]
        # The issuer's copy leaves before the PPU's, so the PPU's FIFO alone holds the sequencer back.
        connect(m, sequencer.drain, drains.i)
        connect(m, drains.o, ppu.op)
        m.d.comb += [counts.i.valid.eq(sequencer.started), counts.i.payload.eq(sequencer.drain.payload.DRAIN)]
        connect(m, counts.o, issuer.drain)
        m.d.comb += [
            perf.cause.eq(issuer.cause),
            perf.finished.eq(issuer.finished),
            perf.scanned.valid.eq(scanner.done),
            perf.scanned.payload.words.eq(scanner.words),
            perf.scanned.payload.skipped.eq(scanner.skipped),
            perf.halt.eq(sequencer.halt),
            perf.running.eq(running),
        ]

        self._control(m, running, sequencer, perf, splitter, reader, lanes, ppu)
        self._connect_memories(m, running, memories, sequencer, occupancy, reader, lanes, ppu, perf)
        return m

    def _memories(self, m):
        arch = self.arch
        memories = {}
        for region in (isa.Region.IMEM, isa.Region.WEIGHT, isa.Region.MASK, isa.Region.PARAM, isa.Region.ACT, isa.Region.STATE):
            memories[region] = BlockMemory(isa.region_depth(arch, region), isa.region_bits(arch, region))
            m.submodules[region.name.lower()] = memories[region]
        m.submodules.occupancy_bits = BlockMemory(arch.act_depth // OCC_WIDTH, OCC_WIDTH, granularity=1)
        memories["occupancy"] = m.submodules.occupancy_bits
        memories["tables"] = []
        for i in range(arch.ppu):
            m.submodules[f"table_{i}"] = table = BlockMemory(256 * arch.tables, arch.event_bits)
            memories["tables"].append(table)
        return memories

    def _control(self, m, running, sequencer, perf, splitter, reader, lanes, ppu):
        """Starts, counts cycles, and stops at HALT or the first trap."""
        c = self.control
        causes = {
            isa.Trap.ACT_READ: splitter.trap,
            isa.Trap.ACT_WRITE: ppu.trap_act,
            isa.Trap.WEIGHT: lanes.trap,
            isa.Trap.MASK: reader.trap,
            isa.Trap.PARAM: ppu.trap_param,
            isa.Trap.STATE: ppu.trap_state,
        }
        trap = Signal(isa.Trap)
        with m.If(c.cycles >= c.limit):
            m.d.comb += trap.eq(isa.Trap.CYCLES)
        with m.Elif(sequencer.trap != isa.Trap.NONE):
            m.d.comb += trap.eq(sequencer.trap)
        for cause, signal in causes.items():
            with m.Elif(signal):
                m.d.comb += trap.eq(cause)
        m.d.comb += c.running.eq(running)
        with m.If(running):
            m.d.sync += [c.cycles.eq(c.cycles + 1), c.ops.eq(c.ops + sequencer.started), c.pc.eq(sequencer.pc)]
            with m.If(trap != isa.Trap.NONE):
                m.d.sync += [running.eq(0), c.halted.eq(1), c.trap.eq(trap)]
            with m.Elif(sequencer.halt):
                m.d.sync += [running.eq(0), c.halted.eq(1)]
        with m.Elif(c.start):
            m.d.sync += [running.eq(1), c.halted.eq(0), c.trap.eq(isa.Trap.NONE), c.cycles.eq(0), c.ops.eq(0), c.pc.eq(0)]
            m.d.comb += perf.clear.eq(1)

    def _connect_memories(self, m, running, memories, sequencer, occupancy, reader, lanes, ppu, perf):
        """While the machine runs, the stages own the ports; otherwise the window does."""
        window = self.window
        row, data = window.row, window.wdata

        def writes(region):
            return window.we & ~running & (window.region == region)

        for region, address in (
            (isa.Region.IMEM, sequencer.i_addr),
            (isa.Region.WEIGHT, lanes.w_addr),
            (isa.Region.MASK, reader.mask_addr),
            (isa.Region.PARAM, ppu.p_addr),
        ):
            memory = memories[region]
            m.d.comb += [
                memory.r_addr.eq(address),
                memory.w_en.eq(writes(region)),
                memory.w_addr.eq(row),
                memory.w_data.eq(data),
            ]
        m.d.comb += [
            sequencer.i_data.eq(memories[isa.Region.IMEM].r_data),
            lanes.w_data.eq(memories[isa.Region.WEIGHT].r_data),
            reader.mask_data.eq(memories[isa.Region.MASK].r_data),
            ppu.p_data.eq(memories[isa.Region.PARAM].r_data),
            ppu.t_data.eq(Cat(t.r_data for t in memories["tables"])),
        ]
        for i, table in enumerate(memories["tables"]):
            m.d.comb += [
                table.r_addr.eq(ppu.t_addr[i * ppu.table_bits :]),
                table.w_en.eq(writes(isa.Region.TABLE)),
                table.w_addr.eq(row),
                table.w_data.eq(data),
            ]

        act, bits, state = memories[isa.Region.ACT], memories["occupancy"], memories[isa.Region.STATE]
        act_word, act_row, act_we = Signal(act.width), Signal(isa.ADDR_BITS), Signal()
        m.d.comb += [
            act_word.eq(Mux(running, ppu.word, data)),
            act_row.eq(Mux(running, ppu.address, row)),
            act_we.eq(Mux(running, ppu.we, writes(isa.Region.ACT))),
            act.w_en.eq(act_we),
            act.w_addr.eq(act_row),
            act.w_data.eq(act_word),
            act.r_addr.eq(Mux(running, reader.act_addr, row)),
            reader.act_data.eq(act.r_data),
            bits.w_en.eq(Mux(act_we, 1 << act_row[: (OCC_WIDTH - 1).bit_length()], 0)),
            bits.w_addr.eq(act_row[(OCC_WIDTH - 1).bit_length() :]),
            bits.w_data.eq((act_word != 0).replicate(OCC_WIDTH)),
            bits.r_addr.eq(occupancy.r_addr),
            occupancy.r_data.eq(bits.r_data),
            state.w_en.eq(Mux(running, ppu.s_we, writes(isa.Region.STATE))),
            state.w_addr.eq(Mux(running, ppu.s_waddr, row)),
            state.w_data.eq(Mux(running, ppu.s_wdata, data)),
            state.r_addr.eq(Mux(running, ppu.s_addr, row)),
            ppu.s_data.eq(state.r_data),
            perf.r_addr.eq(row),
        ]
        assert LATENCY < WINDOW_LATENCY
        held = Signal(window.rdata.shape())
        with m.Switch(window.region):
            with m.Case(isa.Region.ACT):
                m.d.sync += held.eq(act.r_data)
            with m.Case(isa.Region.STATE):
                m.d.sync += held.eq(state.r_data)
            with m.Case(isa.Region.PERF):
                m.d.sync += held.eq(perf.r_data)
            with m.Default():
                m.d.sync += held.eq(0)
        m.d.comb += window.rdata.eq(delay(m, held, WINDOW_LATENCY - LATENCY - 1, "window"))
