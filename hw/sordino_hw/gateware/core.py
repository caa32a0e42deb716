"""A core of the cluster: its memories, and the stages from masks to stores."""

from functools import reduce
from math import gcd
from operator import or_

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import Latencies
from ..spec.structure import output_depth, reads_late, tag_bits
from .flight import Descriptors, Outstanding
from .issue.mask_reader import MaskReader
from .layouts import DrainDescriptor, Output, OutputState, ReadWord, Word, act_address, mask_address
from .lib.combinators import delay
from .lib.fifo import fifo_for
from .perf import LogControl, PerformanceLog
from .post.parameters import param_bits
from .post.ppu import Ppu
from .primitives import BlockMemory, DualReadMemory, SinglePortMemory, copies
from .stages import stages_of

__all__ = ["Core", "CoreTraps", "HostAccess"]


def _closed_within(arch: ArchConfig, cycles: int) -> int:
    """Outputs that closed at most `cycles` and their own turns ago: the issuer keeps them max(DRAIN, cores) apart, or further."""
    return -(-cycles // max(arch.cores, 1 + Latencies(arch).pause)) + 1


class HostAccess(data.StructLayout):
    """The host's access to a core's memories: piece `piece` of row `row`, and where `data` is written. Only while the machine is
    stopped; otherwise `data` is zero, unless the profile is `small`."""

    def __init__(self, arch: ArchConfig):
        writes = ("weight", "mask", "param", "state", "table")
        rows = max(isa.region_depth(arch, region) for region in (*isa.PER_CORE, isa.Region.TABLE))
        pieces = range(max(2, isa.window_pieces(arch)))
        super().__init__({"row": range(rows), "piece": pieces, "data": isa.window_bits(arch), **dict.fromkeys(writes, 1)})


class CoreTraps(data.StructLayout):
    """What went wrong on a core, registered: `isa.Trap` by its names."""

    def __init__(self):
        super().__init__(dict.fromkeys(("act_write", "weight", "mask", "param", "state"), 1))


class Core(wiring.Component):
    """One core. Its stages are held in reset while the machine does not run; then its memories belong to the host.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    running : In(1)
    output : In(Output), output_valid : In(1)
        From the dealer, for which there is room.
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
        No output dealt is to be closed, or stored: see `Outstanding`.
    words, skipped, log
        For the performance log.
    host : In(HostAccess)
    state_data, perf_data : Out
        The piece that `host` names, a memory's latency later; of several cores four cycles after that.
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
                "traps": Out(CoreTraps()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, latency = self.arch, self.latency
        held = Signal(init=1)
        m.d.sync += held.eq(~self.running)
        stages = Module()
        stages.submodules.reader = reader = MaskReader(arch)
        stages.submodules.segmenter = segmenter = stages_of(arch).segmenter(arch)
        stages.submodules.issuer = issuer = stages_of(arch).issuer(arch)
        stages.submodules.lanes = lanes = stages_of(arch).lanes(arch)
        stages.submodules.ppu = ppu = Ppu(arch)
        turned = latency.shadow - latency.turn_lead + 1  # from an output's close to its first turn, at most
        drained, finished, stored = (
            output_depth(arch) + _closed_within(arch, cycles)
            for cycles in (turned, turned + latency.finished + 1, latency.shadow + latency.store + arch.cores)
        )
        stages.submodules.dealt = dealt = fifo_for(tag_bits(arch), output_depth(arch))
        stages.submodules.undrained = undrained = fifo_for(OutputState(arch), drained)
        stages.submodules.unplaced = unplaced = fifo_for(act_address(arch), finished)
        stages.submodules.unclosed = unclosed = Outstanding(arch, output_depth(arch))
        stages.submodules.unstored = unstored = Outstanding(arch, stored)
        m.submodules.stages = ResetInserter(held)(stages)
        m.submodules.perf = perf = PerformanceLog(arch)

        # Outputs: dealt, closed, stored. An output that was closed waits for its sums beside them.
        m.d.comb += [
            dealt.i.payload.eq(self.output.tag),
            undrained.i.payload.state.eq(self.output.state),
            undrained.i.payload.tag.eq(self.output.tag),
            unplaced.i.payload.eq(self.output.address),
            *(queue.i.valid.eq(self.output_valid) for queue in (dealt, undrained, unplaced)),
            self.close.eq(issuer.outputs.valid & issuer.outputs.ready),
        ]
        connect(m, dealt.o, issuer.outputs)
        connect(m, undrained.o, ppu.outputs)
        connect(m, unplaced.o, ppu.addresses)
        for count, leave, tag, none in (
            (unclosed, self.close, dealt.o.payload, self.closed),
            (unstored, ppu.stored, ppu.stored_tag, self.stored),
        ):
            m.d.comb += [
                count.enter.eq(self.output_valid),
                count.enter_tag.eq(self.output.tag),
                count.leave.eq(leave),
                count.leave_tag.eq(tag),
                none.eq(count.none),
            ]

        # Words, segments, events, sums.
        for name in ("mask_valid", "m_addr", "word", "word_valid", "take"):
            m.d.comb += getattr(reader, name).eq(getattr(self, name))
        m.d.comb += self.credit.eq(reader.credit)
        connect(m, reader.o, segmenter.words)
        connect(m, segmenter.segments, issuer.segments)
        m.d.comb += [
            segmenter.next.eq(reader.next),
            segmenter.more.eq(reader.more),
            issuer.next.eq(segmenter.next_segment),
            issuer.next_output.eq(dealt.next),
            issuer.vector.eq(segmenter.vector),
            issuer.act.eq(reader.o.payload.word.act),
            lanes.event.eq(issuer.event),
            lanes.event_valid.eq(issuer.event_valid),
            self.act_addr.eq(issuer.address),
            lanes.operands.eq(self.act_data if reads_late(arch) else issuer.operands),
            ppu.start.eq(self.drain_we),
            ppu.coming.eq(lanes.coming),
            ppu.shadow.eq(lanes.shadow),
            ppu.slot.eq(self.slot),
            perf.status.eq(issuer.status),
            perf.words.eq(self.words),
            perf.skipped.eq(self.skipped),
            perf.log.eq(self.log),
            self.traps.weight.eq(lanes.trap),
            self.traps.mask.eq(reader.trap),
            self.traps.param.eq(ppu.trap_param),
            self.traps.state.eq(ppu.trap_state),
            self.traps.act_write.eq(ppu.trap_act),
        ]
        # What is stored is zero in other cycles, for cores that share a memory.
        store = m.d.sync if arch.cores > 1 else m.d.comb
        store += [self.we.eq(ppu.we), self.address.eq(0), self.data.eq(0)]
        with m.If(ppu.we):
            store += [self.address.eq(ppu.address), self.data.eq(ppu.word)]
        self._descriptors(m, issuer, ppu, dealt.o.payload)
        self._memories(m, held, reader, lanes, ppu, perf)
        return m

    def _descriptors(self, m, issuer, ppu, closing):
        """The operations' drain descriptors, once for the issuer and twice for the PPU."""
        m.submodules.drains = drains = Descriptors(self.arch, self.drain.DRAIN.shape())
        m.submodules.ops = ops = Descriptors(self.arch, self.drain.shape())
        m.submodules.late_ops = late_ops = Descriptors(self.arch, self.drain.shape())
        for file, value, tag in (
            (drains, self.drain.DRAIN, closing),
            (ops, self.drain, ppu.tag),
            (late_ops, self.drain, ppu.late_tag),
        ):
            m.d.comb += [file.w_en.eq(self.drain_we), file.w_tag.eq(self.drain_tag), file.i.eq(value), file.tag.eq(tag)]
        m.d.comb += [issuer.drain.eq(drains.o), ppu.op.eq(ops.o), ppu.late_op.eq(late_ops.o)]

    def _memories(self, m, held, reader, lanes, ppu, perf):
        """While the machine runs, the stages own the ports; otherwise the host does."""
        arch = self.arch
        bus = isa.window_bits(arch)
        # Several cores are far from the host, and a core is wide: one register for it, and one at each of its parts.
        distant = arch.cores > 1
        host = delay(m, self.host, 1, "host") if distant else self.host
        # What was written last is still on its way when the machine starts, which needs these ports much later.
        writing = delay(m, held, 2, "writing") if distant else held
        words = copies(m, host.data, arch.ppu, "near_data", reset_less=True) if distant else [host.data] * arch.ppu

        def near(value, name):
            """A value from the host, where it is used."""
            return delay(m, value, 1, f"near_{name}") if distant else value

        def sizes(region):
            """Rows, bits, and how many of them are written together at most."""
            depth, bits = isa.region_depth(arch, region), isa.region_bits(arch, region)
            return depth, bits, self.latency.memory, gcd(bits, bus) if bits > bus else bits

        def groups(memory):
            """Where the bits begin that `memory` writes together."""
            return range(0, memory.width, memory.granularity)

        def written(write, places):
            """For each group of bits, whether it is written, by where in the row it begins."""
            return near(Cat(write & (host.piece == place // bus) for place in places), "we")

        def piece(memory):
            """What the host writes, for every group."""
            return Cat(words[k // bus % arch.ppu][k % bus : k % bus + memory.granularity] for k in groups(memory))

        m.submodules.weight = weight = SinglePortMemory(*sizes(isa.Region.WEIGHT))
        m.submodules.mask = mask = BlockMemory(*sizes(isa.Region.MASK))
        m.submodules.state = state = BlockMemory(*sizes(isa.Region.STATE))
        row = near(host.row, "row")
        for memory, address, write in ((weight, lanes.w_addr, host.weight), (mask, reader.mask_addr, host.mask)):
            m.d.comb += [
                memory.r_addr.eq(address),
                memory.w_en.eq(written(write, groups(memory))),
                memory.w_addr.eq(row),
                memory.w_data.eq(piece(memory)),
            ]
        for name, fields, address in (
            ("bias", ("bias",), ppu.p_addr),
            ("scale", ("mantissa", "shift"), ppu.p_addr),
            ("threshold", ("threshold",), ppu.threshold_addr),
        ):
            depth, _, latency, _ = sizes(isa.Region.PARAM)
            bits, channels = param_bits(arch, *fields), range(0, isa.PARAM_BITS * arch.ppu, isa.PARAM_BITS)
            width = len(bits) * arch.ppu
            m.submodules[name] = memory = BlockMemory(depth, width, latency, len(bits) if arch.cores > 1 else width)
            m.d.comb += [
                memory.r_addr.eq(address),
                memory.w_en.eq(written(host.param, (first + bits[0] for first in channels[: len(memory.w_en)]))),
                memory.w_addr.eq(near(host.row, f"{name}_row")),
                memory.w_data.eq(Cat(words[i][(first + k) % bus] for i, first in enumerate(channels) for k in bits)),
                *(
                    ppu.params[i].as_value()[k].eq(memory.r_data[i * len(bits) + n])
                    for i in range(arch.ppu)
                    for n, k in enumerate(bits)
                ),
            ]
        for i in range(0, arch.ppu, 2):
            m.submodules[f"table_{i}"] = table = DualReadMemory(*sizes(isa.Region.TABLE)[:3])
            m.d.comb += [table.w_en.eq(near(host.table, "table")), table.w_data.eq(words[i])]
            for k in range(i, min(i + 2, arch.ppu)):
                address = ppu.t_addr.word_select(k, ppu.table_bits)
                m.d.comb += [
                    table.addr[k - i].eq(Mux(writing, row, address) if k == i else address),
                    ppu.t_data.word_select(k, arch.event_bits).eq(table.r_data[k - i]),
                ]
        m.d.comb += [
            lanes.w_data.eq(weight.r_data),
            reader.mask_data.eq(mask.r_data),
            ppu.host.eq(Mux(held, piece(state), 0) if stages_of(arch).masks_host_data else piece(state)),
            state.w_en.eq(
                Mux(writing, delay(m, written(host.state, groups(state)), 1, "host_state"), ppu.s_we.replicate(len(state.w_en)))
            ),
            state.w_addr.eq(Mux(writing, delay(m, row, 1, "host_row"), ppu.s_waddr)),
            state.w_data.eq(ppu.s_wdata),
            state.r_addr.eq(Mux(held, row, ppu.s_addr)),
            ppu.s_data.eq(state.r_data),
            perf.r_addr.eq(row),
            self.perf_data.eq(perf.r_data),
        ]
        if not distant:
            m.d.comb += self.state_data.eq(state.r_data.word_select(host.piece, bus))
            return
        # In two cycles, which the host waits for: a row's words are all over the core. Clearing a register is free, choosing is not.
        pairs = Signal(data.ArrayLayout(bus, -(-len(state.r_data) // (2 * bus))), reset_less=True)
        for k, pair in enumerate(pairs):
            m.d.sync += pair.eq(state.r_data[2 * bus * k :][: 2 * bus].word_select(host.piece[0], bus))
            with m.If(host.piece[1:] != k):
                m.d.sync += pair.eq(0)
        m.d.sync += self.state_data.eq(reduce(or_, pairs))
