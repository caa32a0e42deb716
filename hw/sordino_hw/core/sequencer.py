"""The sequencer: runs the instruction stream, snapshots operations, traps."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import ArchConfig
from .combinators import delay
from .fifo import Credit, Fifo
from .layouts import DRAIN_REGISTERS, FETCH_REGISTERS, DrainDescriptor, FetchDescriptor, Kind
from .memory import LATENCY

__all__ = ["IN_FLIGHT", "Sequencer"]

IN_FLIGHT = 4
"""Operations that may be between the sequencer and the PPU."""

PREFETCH = 8
"""Instructions prefetched; more than the memory's latency, so that one leaves per cycle."""


class Sequencer(wiring.Component):
    """One instruction per cycle; `CONV` and `VEC` wait for the walker, `WAIT` and `HALT` for the last store.

    Held in reset while the machine does not run; every run starts at instruction 0 with all registers zero.

    Members
    -------
    i_addr, i_data
        Instruction memory.
    fetch : Out(stream of FetchDescriptor), drain : Out(stream of DrainDescriptor)
        Both are given in the same cycle, `started`.
    done : In(1)
        An operation has stored its last output.
    halt : Out(1)
        HALT completes in this cycle.
    trap : Out(isa.Trap)
        A trap of the sequencer's own, in this cycle.
    pc : Out(32)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i_addr": Out(max(1, (arch.imem_depth - 1).bit_length())),
                "i_data": In(32),
                "fetch": Out(stream.Signature(FetchDescriptor())),
                "drain": Out(stream.Signature(DrainDescriptor())),
                "started": Out(1),
                "done": In(1),
                "halt": Out(1),
                "trap": Out(isa.Trap),
                "pc": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self.arch

        # Prefetch. Past the memory's end an entry says so, and traps when its turn comes.
        entry = data.StructLayout({"word": isa.Instruction(), "end": 1})
        m.submodules.credit = credit = Credit(PREFETCH)
        m.submodules.queue = queue = Fifo(entry, PREFETCH)
        address = Signal(range(arch.imem_depth + 1))
        at_end, asked = Signal(), Signal()
        m.d.comb += [
            at_end.eq(address == arch.imem_depth),
            asked.eq(credit.grant),
            credit.take.eq(asked),
            self.i_addr.eq(address),
        ]
        with m.If(asked & ~at_end):
            m.d.sync += address.eq(address + 1)
        m.d.comb += [
            queue.i.valid.eq(delay(m, asked, LATENCY, "arrived")),
            queue.i.payload.word.as_value().eq(self.i_data),
            queue.i.payload.end.eq(delay(m, at_end, LATENCY, "end")),
            credit.give.eq(queue.o.valid & queue.o.ready),
        ]

        # Registers.
        regs = {name: Signal(r.bits, name=f"r_{name.lower()}") for name, r in isa.REGISTERS.items()}
        word = queue.o.payload.word
        flags = {f.name: word.imm[f.value.bit_length() - 1] for f in isa.Flag}
        mode = word.imm[isa.MODE_SHIFT : isa.MODE_SHIFT + 2]
        flag_mask = sum(f.value for f in isa.Flag)
        is_vec = word.opcode == isa.Opcode.VEC

        pending, in_flight, idle = Signal(), Signal(range(IN_FLIGHT + 2)), Signal()
        undefined, config = Signal(), Signal()
        high = word.imm[isa.MODE_SHIFT :]
        m.d.comb += [
            idle.eq(in_flight == 0),
            undefined.eq(
                ((word.imm[: isa.MODE_SHIFT] & ~flag_mask) != 0)
                | Mux(is_vec, (high > isa.Mode.MAX.value) | ((mode == isa.Mode.MAX) & flags["RESIDUAL"]), high != 0)
            ),
            config.eq(
                sum((regs[name] == 0 for name in isa.NONZERO), start=0).bool()
                | (regs["DRAIN"] > arch.chunks)
                | (flags["TABLE"] & (regs["TABLE"] >= arch.tables))
            ),
        ]

        kind = Mux(is_vec, Mux(mode == isa.Mode.MAX, Kind.MAX, Mux(mode == isa.Mode.MAC2, Kind.MAC2, Kind.MAC)), Kind.EVENT)
        m.d.comb += [
            *(self.fetch.payload[name].eq(regs[name]) for name in FETCH_REGISTERS),
            self.fetch.payload.kind.eq(kind),
            self.fetch.payload.dense.eq(flags["DENSE"]),
            self.fetch.payload.residual.eq(flags["RESIDUAL"]),
            *(self.drain.payload[name].eq(regs[name]) for name in DRAIN_REGISTERS),
            self.drain.payload.source.eq(flags["SOURCE"]),
            self.drain.payload.sink.eq(flags["SINK"]),
            self.drain.payload.table.eq(flags["TABLE"]),
        ]

        take = queue.o.ready
        with m.If(queue.o.valid):
            with m.If(queue.o.payload.end):
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
                with m.Case(isa.Opcode.CONV, isa.Opcode.VEC):
                    with m.If(undefined):
                        m.d.comb += self.trap.eq(isa.Trap.OPCODE)
                    with m.Elif(config):
                        m.d.comb += self.trap.eq(isa.Trap.CONFIG)
                    with m.Else():
                        m.d.comb += take.eq(self.started)
                        m.d.comb += self.started.eq(self.fetch.ready & self.drain.ready)
                with m.Case(isa.Opcode.WAIT):
                    with m.If(~pending):
                        m.d.comb += self.trap.eq(isa.Trap.WAIT)
                    with m.Elif(idle):
                        m.d.comb += take.eq(1)
                        m.d.sync += pending.eq(0)
                with m.Case(isa.Opcode.HALT):
                    m.d.comb += self.halt.eq(idle)
                with m.Default():
                    m.d.comb += self.trap.eq(isa.Trap.OPCODE)
        m.d.comb += [self.fetch.valid.eq(self.started), self.drain.valid.eq(self.started)]
        with m.If(self.started):
            m.d.sync += pending.eq(1)
        with m.If(take):
            m.d.sync += self.pc.eq(self.pc + 1)
        m.d.sync += in_flight.eq(in_flight + self.started - self.done)
        return m
