"""The sequencer: runs the instruction stream, snapshots operations, traps."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..spec import isa
from ..spec.arch import ArchConfig
from ..spec.latencies import START_LATENCY
from ..spec.structure import Kind, tag_bits
from .layouts import DISPATCH_REGISTERS, DRAIN_REGISTERS, TAP_REGISTERS, DispatchDescriptor, DrainDescriptor, TapDescriptor
from .stages import stages_of

__all__ = ["Sequencer"]

assert START_LATENCY == 2


class Sequencer(wiring.Component):
    """Executes one instruction a cycle; `CONV` and `VEC` wait for the dispatcher, `WAIT` and `HALT` for the last store.

    Held in reset while the machine does not run: every run starts at instruction 0 with all registers zero.

    Throughput: an instruction a cycle. Latency: `Latencies.start` to the first instruction, `START_LATENCY` to the start of an
    operation.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    i_addr, i_data
        Instruction memory.
    started : Out(1)
        An operation starts in this cycle: `dispatch` takes its descriptor, and `tap` and `drain` show theirs.
    checked : Out(1)
        The operation at hand passed its checks: it may start in this cycle.
    dispatch : Out(stream of DispatchDescriptor), tap : Out(TapDescriptor), drain : Out(DrainDescriptor)
    tag : In(tag_bits), free : In(1), idle : In(1), recorded : In(1)
        See `Flight`.
    halt : Out(1)
        HALT completes in this cycle.
    trap : Out(isa.Trap), trapped : Out(1)
        A trap of the sequencer's own, in this cycle; and whether there is one.
    passed : Out(1)
        In the cycle before, an instruction left the queue.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "i_addr": Out(max(1, (arch.imem_depth - 1).bit_length())),
                "i_data": In(32),
                "started": Out(1),
                "checked": Out(1),
                "dispatch": Out(stream.Signature(DispatchDescriptor(arch))),
                "tap": Out(TapDescriptor(arch)),
                "drain": Out(DrainDescriptor(arch)),
                "tag": In(tag_bits(arch)),
                "free": In(1),
                "idle": In(1),
                "recorded": In(1),
                "halt": Out(1),
                "trap": Out(isa.Trap),
                "trapped": Out(1),
                "passed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.prefetch = prefetch = stages_of(self.arch).prefetch(self.arch)
        m.d.comb += [self.i_addr.eq(prefetch.i_addr), prefetch.i_data.eq(self.i_data)]
        queue, word = prefetch.o, prefetch.o.payload
        regs = {name: Signal(isa.register_bits(self.arch, name), name=f"r_{name.lower()}") for name in isa.REGISTERS}
        self._describe(m, word, regs)
        waits = queue.valid & word.wait
        take, trap, faulty, pending = self._operation(m, queue, regs, waits & self.idle)
        with m.If(queue.valid & word.set), m.Switch(word.reg):
            for name, r in isa.REGISTERS.items():
                with m.Case(r.index):
                    m.d.sync += regs[name].eq(word.imm)
        m.d.comb += [
            self.trapped.eq(faulty | (waits & ~pending) | (queue.valid & ~(word.set | word.op | word.wait | word.halt))),
            queue.ready.eq(word.set | (word.wait & pending & self.idle) | take),
            self.halt.eq(queue.valid & word.halt & self.idle & self.recorded),
        ]
        with m.If(self.trapped):
            m.d.comb += self.trap.eq(Mux(word.wait, isa.Trap.WAIT, Mux(word.op, trap, word.trap)))
        m.d.sync += self.passed.eq(queue.valid & queue.ready)
        return m

    def _describe(self, m, word, regs):
        """The descriptors of the operation at hand: registers, and the instruction's flags."""
        flags, mode, is_vec = _flags(word), _mode(word), word.vec
        kind = Mux(is_vec, Mux(mode == isa.Mode.MAX, Kind.MAX, Mux(mode == isa.Mode.MAC2, Kind.MAC2, Kind.MAC)), Kind.EVENT)
        dispatch, tap, drain = self.dispatch.payload, self.tap, self.drain
        m.d.comb += [
            *(dispatch[name].eq(regs[name]) for name in DISPATCH_REGISTERS),
            dispatch.stateful.eq(flags[isa.Flag.SOURCE] | flags[isa.Flag.SINK]),
            dispatch.tag.eq(self.tag),
            *(tap[name].eq(regs[name]) for name in TAP_REGISTERS),
            tap.kind.eq(kind),
            tap.dense.eq(flags[isa.Flag.DENSE]),
            tap.residual.eq(flags[isa.Flag.RESIDUAL]),
            tap.shared.eq(regs["SPLIT"] >> self.arch.ports.bit_length()),
            *(drain[name].eq(regs[name]) for name in DRAIN_REGISTERS),
            *(drain[name].eq(regs[name]) for name in ("S_BASE",) if self.arch.in_flight == 1),
            drain.source.eq(flags[isa.Flag.SOURCE]),
            drain.sink.eq(flags[isa.Flag.SINK]),
            drain.table.eq(flags[isa.Flag.TABLE]),
        ]
        if self.arch.products:
            m.d.comb += [d.product.eq(is_vec & (mode == isa.Mode.PRODUCT)) for d in (tap, drain)]
        # A kernel window that does not move leaves no column of the word window for residual words.
        kx, sx = regs["KX"], regs["SX"]
        with m.If(flags[isa.Flag.WINDOW] & (sx != 0) & (sx < kx)):
            m.d.comb += tap.reused.eq(kx - sx)

    def _operation(self, m, queue, regs, waited):
        """Checks an operation in two cycles, while it waits at the head of the queue; then it starts, or traps.

        Returns whether it leaves the queue in this cycle, what it traps with, if it does, and whether an operation was started
        since the last WAIT was done (`waited`).
        """
        checking, pending, under_way, start, take = Signal(), Signal(), Signal(), Signal(), Signal()
        undefined, config = self._check(m, queue.payload, regs)
        trap, faulty = Signal(isa.Trap), Signal()
        m.d.sync += [
            checking.eq(queue.valid & queue.payload.op & ~take),
            self.checked.eq(checking & ~undefined & ~config & ~take),
            faulty.eq(checking & (undefined | config)),
            trap.eq(Mux(undefined, isa.Trap.OPCODE, isa.Trap.CONFIG)),
        ]
        m.d.comb += [
            start.eq(self.checked & self.free),
            self.dispatch.valid.eq(start & ~under_way),
            self.started.eq(self.dispatch.valid & self.dispatch.ready),
            # The only operation in flight keeps its registers and its flags: it stays at the queue's head until it is recorded.
            take.eq(start & under_way if self.arch.in_flight == 1 else self.started),
        ]
        with m.If(self.started):
            m.d.sync += [pending.eq(1), under_way.eq(self.arch.in_flight == 1)]
        with m.Elif(take):
            m.d.sync += under_way.eq(0)
        with m.Elif(waited):
            m.d.sync += pending.eq(0)
        return take, trap, faulty, pending

    def _check(self, m, word, regs):
        """Whether the operation at hand traps, as (OPCODE, CONFIG); a cycle after its registers were set.

        The rules are those of `asm.config_fault`.
        """
        flags, mode, is_vec = _flags(word), _mode(word), word.vec
        arch, high = self.arch, word.imm[isa.MODE_SHIFT :]
        known = sum(f.value for f in isa.Flag)
        last_mode = isa.Mode.PRODUCT if arch.products else isa.Mode.MAX
        odd_vec = (high > last_mode.value) | ((mode == isa.Mode.MAX) & flags[isa.Flag.RESIDUAL])
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
        if arch.products:
            is_product = is_vec & (mode == isa.Mode.PRODUCT)
            odd_vec |= is_product & ~flags[isa.Flag.RESIDUAL]
            faults = Cat(faults, is_product & ~Cat(regs[name] == 1 for name in ("KH", "KX", "SPAN", "WORDS")).all())
        found, odd = Signal(len(faults)), Signal(2)
        m.d.sync += [
            found.eq(faults),
            odd.eq(Cat((word.imm[: isa.MODE_SHIFT] & ~known) != 0, Mux(is_vec, odd_vec, high != 0))),
        ]
        return odd.any(), found.any() | (window == 1)


def _flags(word):
    """The flags of an operation, by `isa.Flag`."""
    return {f: word.imm[f.value.bit_length() - 1] for f in isa.Flag}


def _mode(word):
    """The mode of a VEC: one of `isa.Mode`."""
    return word.imm[isa.MODE_SHIFT : isa.MODE_SHIFT + 2]
