"""The prefetch: reads the instruction memory ahead, and decodes."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import Latencies
from .lib.combinators import delay
from .lib.fifo import Credit, fifo_for

__all__ = ["PREFETCH", "DecodedInstruction", "Prefetch"]

PREFETCH = 8
"""Instructions prefetched; more than the latency of memory and queue, so that one leaves per cycle."""


class DecodedInstruction(data.StructLayout):
    """A prefetched instruction, decoded: at most one of `set`, `op`, `wait` and `halt`; `vec`: the operation is a VEC; `trap`:
    the cause, if the instruction itself, or the end of the memory, traps.
    """

    def __init__(self):
        kinds = ("set", "op", "vec", "wait", "halt")
        super().__init__({"imm": isa.IMM_BITS, "reg": isa.REG_BITS, **dict.fromkeys(kinds, 1), "trap": isa.Trap})


class Prefetch(wiring.Component):
    """The stream of instructions, decoded, from instruction 0 on. After the memory's last row follows an entry that traps.

    Throughput: an instruction a cycle. Latency: the first instruction is out `Latencies.start` cycles after reset.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    i_addr, i_data
        Instruction memory.
    o : Out(stream of DecodedInstruction)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i_addr": Out(max(1, (arch.imem_depth - 1).bit_length())),
                "i_data": In(32),
                "o": Out(stream.Signature(DecodedInstruction())),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth, latency = self.arch.imem_depth, Latencies(self.arch).memory
        m.submodules.credit = credit = Credit(PREFETCH)
        m.submodules.queue = queue = fifo_for(DecodedInstruction(), PREFETCH, guarded=True)
        address, at_end, asked = Signal(range(depth + 1)), Signal(), Signal()
        m.d.comb += [
            at_end.eq(address == depth),
            asked.eq(credit.grant),
            credit.take.eq(asked),
            self.i_addr.eq(address),
        ]
        with m.If(asked & ~at_end):
            m.d.sync += address.eq(address + 1)
        m.d.comb += [
            queue.i.valid.eq(delay(m, asked, latency, "arrived")),
            credit.give.eq(queue.o.valid & queue.o.ready),
        ]
        self._decode(m, queue.i.payload, delay(m, at_end, latency, "at_end"))
        connect(m, queue.o, flipped(self.o))
        return m

    def _decode(self, m, entry, at_end):
        """Decodes the memory's instruction."""
        word = Signal(data.StructLayout(isa.INSTRUCTION))
        m.d.comb += [
            word.as_value().eq(self.i_data),
            entry.imm.eq(word.imm),
            entry.reg.eq(word.reg),
            entry.vec.eq(word.opcode == isa.Opcode.VEC),
        ]
        with m.If(at_end):
            m.d.comb += entry.trap.eq(isa.Trap.END)
        with m.Else(), m.Switch(word.opcode):
            with m.Case(isa.Opcode.SET), m.Switch(word.reg):
                with m.Case(*(r.index for r in isa.REGISTERS.values())):
                    m.d.comb += entry.set.eq(1)
                with m.Default():
                    m.d.comb += entry.trap.eq(isa.Trap.REGISTER)
            with m.Case(isa.Opcode.CONV, isa.Opcode.VEC):
                m.d.comb += entry.op.eq(1)
            with m.Case(isa.Opcode.WAIT):
                m.d.comb += entry.wait.eq(1)
            with m.Case(isa.Opcode.HALT):
                m.d.comb += entry.halt.eq(1)
            with m.Default():
                m.d.comb += entry.trap.eq(isa.Trap.OPCODE)
