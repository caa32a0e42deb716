"""The sequencer: runs the instruction stream, snapshots operations, traps."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import ArchConfig
from ..primitives import LATENCY
from .combinators import delay
from .fifo import Credit, Fifo
from .latencies import FIFO_LATENCY, PIPELINE_START, START_LATENCY
from .layouts import DEAL_REGISTERS, DRAIN_REGISTERS, TAP_REGISTERS, DealDescriptor, DrainDescriptor, Kind, TapDescriptor, tag_bits

__all__ = ["Sequencer"]

PREFETCH = 8
"""Instructions prefetched; more than the way through memory and queue, so that one leaves per cycle."""

assert PIPELINE_START == LATENCY + FIFO_LATENCY and START_LATENCY == 2


class Sequencer(wiring.Component):
    """One instruction per cycle; `CONV` and `VEC` wait for the dealer, `WAIT` and `HALT` for the last store.

    Held in reset while the machine does not run; every run starts at instruction 0 with all registers zero.

    Members
    -------
    i_addr, i_data
        Instruction memory.
    started : Out(1)
        An operation starts in this cycle: `deal` takes its descriptor, and `tap` and `drain` show theirs.
    deal : Out(stream of DealDescriptor), tap : Out(TapDescriptor), drain : Out(DrainDescriptor)
    tag : In(tag_bits), free : In(1), idle : In(1), recorded : In(1)
        Of `Flight`.
    halt : Out(1)
        HALT completes in this cycle.
    trap : Out(isa.Trap)
        A trap of the sequencer's own, in this cycle.
    pc : Out(range(imem_depth + 1))
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i_addr": Out(max(1, (arch.imem_depth - 1).bit_length())),
                "i_data": In(32),
                "started": Out(1),
                "deal": Out(stream.Signature(DealDescriptor(arch))),
                "tap": Out(TapDescriptor(arch)),
                "drain": Out(DrainDescriptor(arch)),
                "tag": In(tag_bits(arch)),
                "free": In(1),
                "idle": In(1),
                "recorded": In(1),
                "halt": Out(1),
                "trap": Out(isa.Trap),
                "pc": Out(range(arch.imem_depth + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        queue = self._prefetch(m)
        regs = {name: Signal(isa.register_bits(self.arch, name), name=f"r_{name.lower()}") for name in isa.REGISTERS}
        word, at_end = queue.payload, self.pc == self.arch.imem_depth
        flags = {f: word.imm[f.value.bit_length() - 1] for f in isa.Flag}
        mode = word.imm[isa.MODE_SHIFT : isa.MODE_SHIFT + 2]
        is_vec = word.opcode == isa.Opcode.VEC

        kind = Mux(is_vec, Mux(mode == isa.Mode.MAX, Kind.MAX, Mux(mode == isa.Mode.MAC2, Kind.MAC2, Kind.MAC)), Kind.EVENT)
        deal, tap, drain = self.deal.payload, self.tap, self.drain
        m.d.comb += [
            *(deal[name].eq(regs[name]) for name in DEAL_REGISTERS),
            deal.stateful.eq(flags[isa.Flag.SOURCE] | flags[isa.Flag.SINK]),
            deal.tag.eq(self.tag),
            *(tap[name].eq(regs[name]) for name in TAP_REGISTERS),
            tap.kind.eq(kind),
            tap.dense.eq(flags[isa.Flag.DENSE]),
            tap.residual.eq(flags[isa.Flag.RESIDUAL]),
            tap.shared.eq(regs["SPLIT"] >> self.arch.ports.bit_length()),
            *(drain[name].eq(regs[name]) for name in DRAIN_REGISTERS),
            drain.source.eq(flags[isa.Flag.SOURCE]),
            drain.sink.eq(flags[isa.Flag.SINK]),
            drain.table.eq(flags[isa.Flag.TABLE]),
        ]

        # Of a window that does not move there is no column left to put residual words in.
        kx, sx = regs["KX"], regs["SX"]
        with m.If(flags[isa.Flag.WINDOW] & (sx != 0) & (sx < kx)):
            m.d.comb += tap.reused.eq(kx - sx)

        # An operation is checked in two cycles, while it waits at the head of the queue.
        is_op, checking = Signal(), Signal(START_LATENCY)
        undefined, config = self._check(m, word, is_vec, flags, mode, regs)
        m.d.comb += is_op.eq(queue.valid & ~at_end & (is_vec | (word.opcode == isa.Opcode.CONV)))
        m.d.sync += checking.eq(Mux(is_op & ~self.started, Cat(is_op, checking), 0))

        pending, under_way, take = Signal(), Signal(), queue.ready
        with m.If(queue.valid):
            with m.If(at_end):
                m.d.comb += self.trap.eq(isa.Trap.END)
            with m.Else(), m.Switch(word.opcode):
                with m.Case(isa.Opcode.SET):
                    m.d.comb += take.eq(1)
                    with m.Switch(word.reg):
                        for name, r in isa.REGISTERS.items():
                            with m.Case(r.index):
                                m.d.sync += regs[name].eq(word.imm)
                        with m.Default():
                            m.d.comb += self.trap.eq(isa.Trap.REGISTER)
                with m.Case(isa.Opcode.CONV, isa.Opcode.VEC), m.If(checking[-1]):
                    with m.If(undefined):
                        m.d.comb += self.trap.eq(isa.Trap.OPCODE)
                    with m.Elif(config):
                        m.d.comb += self.trap.eq(isa.Trap.CONFIG)
                    with m.Else():
                        m.d.comb += [self.deal.valid.eq(self.free & ~under_way), self.started.eq(self.deal.valid & self.deal.ready)]
                        # Alone, it keeps its registers and its flags: the queue's head.
                        m.d.comb += take.eq(self.free & under_way if self.arch.in_flight == 1 else self.started)
                with m.Case(isa.Opcode.WAIT):
                    with m.If(~pending):
                        m.d.comb += self.trap.eq(isa.Trap.WAIT)
                    with m.Elif(self.idle):
                        m.d.comb += take.eq(1)
                        m.d.sync += pending.eq(0)
                with m.Case(isa.Opcode.HALT):
                    m.d.comb += self.halt.eq(self.idle & self.recorded)
                with m.Default():
                    m.d.comb += self.trap.eq(isa.Trap.OPCODE)
        with m.If(self.started):
            m.d.sync += [pending.eq(1), under_way.eq(self.arch.in_flight == 1)]
        with m.Elif(take):
            m.d.sync += under_way.eq(0)
        with m.If(take & (self.trap == isa.Trap.NONE)):
            m.d.sync += self.pc.eq(self.pc + 1)
        return m

    def _prefetch(self, m):
        """The stream of instructions. Past the memory's end an entry says so, and traps when its turn comes."""
        depth = self.arch.imem_depth
        m.submodules.credit = credit = Credit(PREFETCH)
        m.submodules.queue = queue = Fifo(isa.Instruction(), PREFETCH)
        address = Signal(range(depth + 1))
        at_end, asked = Signal(), Signal()
        m.d.comb += [
            at_end.eq(address == depth),
            asked.eq(credit.grant),
            credit.take.eq(asked),
            self.i_addr.eq(address),
        ]
        with m.If(asked & ~at_end):
            m.d.sync += address.eq(address + 1)
        m.d.comb += [
            queue.i.valid.eq(delay(m, asked, LATENCY, "arrived")),
            queue.i.payload.as_value().eq(self.i_data),
            credit.give.eq(queue.o.valid & queue.o.ready),
        ]
        return queue.o

    def _check(self, m, word, is_vec, flags, mode, regs):
        """Whether the operation at hand traps, as (OPCODE, CONFIG); two cycles after its registers were set.

        The rules are those of `asm.config_fault`.
        """
        arch, high = self.arch, word.imm[isa.MODE_SHIFT :]
        known = sum(f.value for f in isa.Flag)
        odd_vec = (high > isa.Mode.MAX.value) | ((mode == isa.Mode.MAX) & flags[isa.Flag.RESIDUAL])
        splits = [(regs["SPLIT"] == s) & (regs["SLICES"] <= arch.cores // s) for s in (1, 2, 4, 8) if s <= arch.cores]
        stateful = flags[isa.Flag.SOURCE] | flags[isa.Flag.SINK]
        small = [regs[name] <= isa.WINDOW_MAX for name in ("KH", "KX")]
        single = [regs[name] == 1 for name in ("SPAN", "WORDS", "DX", "REPX")]
        window = Signal(2)
        m.d.sync += window.eq(Cat(flags[isa.Flag.WINDOW], is_vec & Cat(*small, *single).all()))
        faults = Cat(
            *(regs[name] == 0 for name in isa.NONZERO),
            regs["DRAIN"] > arch.chunks,
            flags[isa.Flag.TABLE] & (regs["TABLE"] >= arch.tables),
            ~Cat(splits).any(),
            (regs["RUN"] > isa.RUN_MAX) | ((regs["RUN"] > 1) & stateful),
        )
        found, odd = Signal(len(faults)), Signal(2)
        undefined, config = Signal(), Signal()
        m.d.sync += [
            found.eq(faults),
            odd.eq(Cat((word.imm[: isa.MODE_SHIFT] & ~known) != 0, Mux(is_vec, odd_vec, high != 0))),
            undefined.eq(odd.any()),
            config.eq(found.any() | (window == 1)),
        ]
        return undefined, config
