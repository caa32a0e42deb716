"""Run control: starts the machine, counts cycles, and stops it."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import DONE_LATENCY
from .host.interfaces import ControlSignature
from .perf import FLUSH_CYCLES

__all__ = ["MEMORY_TRAPS", "MemoryTraps", "RunControl"]

TRAP_LATENCY = 2
"""From a store to the cycle in which the machine stops because of it."""

assert TRAP_LATENCY < DONE_LATENCY, "HALT must not overtake a trap"

MEMORY_TRAPS = (
    *(isa.Trap.ACT_READ, isa.Trap.ACT_WRITE, isa.Trap.WEIGHT),
    *(isa.Trap.MASK, isa.Trap.PARAM, isa.Trap.STATE),
)
"""Traps of memory accesses; of several in one cycle the first one counts."""


class MemoryTraps(data.StructLayout):
    """Which of `MEMORY_TRAPS` occurred in the cycle before, by their names."""

    def __init__(self):
        super().__init__({trap.name.lower(): 1 for trap in MEMORY_TRAPS})


class RunControl(wiring.Component):
    """Starts a run, counts its cycles, and stops it at HALT or at the first trap.

    For the host the machine runs until the last performance record is written. Latency: the first cycle of a run is the one after
    `control.start`; a memory access traps `TRAP_LATENCY` cycles after it.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    control : In(ControlSignature())
    trapped, trap, halt, started, passed
        The sequencer's outputs.
    memory : In(MemoryTraps)
    start : Out(1)
        A run begins with the next cycle.
    running : Out(1)
        The stages run.
    stopped : Out(cores + 1)
        The same, negated: a register for each fetcher, and one for the rest.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "control": In(ControlSignature()),
                "trapped": In(1),
                "trap": In(isa.Trap),
                "halt": In(1),
                "started": In(1),
                "passed": In(1),
                "memory": In(MemoryTraps()),
                "start": Out(1),
                "running": Out(1),
                "stopped": Out(arch.cores + 1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c, running = self.control, self.running
        # A reset for each fetcher, and one for the rest: one net for all of them would be on the critical path.
        stopped = [Signal(name=f"stopped_{k}", init=1, attrs={"keep": 1}) for k in range(self.arch.cores + 1)]
        flush, over, began = Signal(range(FLUSH_CYCLES + 1)), Signal(), Signal()
        # Lookahead: the number of the next cycle, so that the comparison with the limit does not wait for an addition.
        following = Signal.like(c.cycles)
        # There are no more operations than instructions, because there are no backward jumps.
        pc, ops = Signal(range(self.arch.imem_depth + 1)), Signal(range(self.arch.imem_depth + 1))
        m.d.comb += [self.stopped.eq(Cat(stopped)), self.start.eq(c.start & ~c.running), c.pc.eq(pc), c.ops.eq(ops)]
        m.d.sync += [
            over.eq(Mux(running, following >= c.limit, c.limit == 0)),
            began.eq(running & self.started),
            ops.eq(ops + began),
        ]
        stop, trap = self._stop(m, over)
        with m.If(running):
            m.d.sync += [c.cycles.eq(following), following.eq(following + 1), pc.eq(pc + self.passed)]
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
        return m

    def _stop(self, m, over):
        """Whether the machine stops in this cycle, and with which trap."""
        memory_trap, trap, failed, stop = Signal(isa.Trap), Signal(isa.Trap), Signal(), Signal()
        seen = [self.memory[cause.name.lower()] for cause in MEMORY_TRAPS]
        m.d.sync += [memory_trap.eq(isa.Trap.NONE), failed.eq(Cat(seen).any())]
        m.d.comb += stop.eq(over | self.trapped | failed | self.halt)
        for cause, here in reversed(list(zip(MEMORY_TRAPS, seen, strict=True))):
            with m.If(here):
                m.d.sync += memory_trap.eq(cause)
        with m.If(over):
            m.d.comb += trap.eq(isa.Trap.CYCLES)
        with m.Elif(self.trapped):
            m.d.comb += trap.eq(self.trap)
        with m.Else():
            m.d.comb += trap.eq(memory_trap)
        return stop, trap
