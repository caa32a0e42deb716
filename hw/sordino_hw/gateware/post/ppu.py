"""Post-processing: drains the shadow accumulators through the requantisers into activation or state memory."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import REQUANT_LATENCY, Latencies
from ...spec.structure import tag_bits
from ..layouts import DrainDescriptor, OutputState, act_address
from ..lib.combinators import delay
from ..primitives import FusedAdder
from .chunks import Chunk, chunk_index
from .parameters import param_layout
from .requantiser import CLAMP_DELAY, Clamp, Requantiser
from .threshold import Threshold
from .word_store import WordStore

__all__ = ["Ppu"]


class Ppu(wiring.Component):
    """Drains `ppu` channels per cycle; an output word is stored in the core's next time slot after its last chunk.

    Throughput: a chunk of `ppu` channels a cycle; it never stalls. Latency: `Latencies.store`. The turn of an output begins with
    reading its state and parameters, `Latencies.turn_lead` cycles before its sums are in the shadow accumulators. Its word can be
    stored `Latencies.store` cycles after its last chunk left them.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    outputs : In(stream of OutputState)
        In the order of their closes, each here before it is `coming`.
    addresses : In(stream of act_address)
        Where the outputs go, in the same order; one leaves with each finished word.
    tag, late_tag : Out(tag_bits), op, late_op : In(DrainDescriptor)
        The operation of the output whose turn it is, and of the one that is about to be clamped.
    start : In(1)
        An operation starts, if there is one in flight at most.
    coming : In(1)
        `Latencies.turn_lead` cycles from now, `shadow` shows an output's first chunk, and the others after it.
    shadow
        The `Lanes`' shadow accumulators.
    slot : In(1)
        A finished word is stored in this cycle.
    p_addr, threshold_addr, params; s_addr, s_data; s_we, s_waddr, s_wdata; t_addr, t_data
        Parameter memory, where the thresholds have an address of their own, state memory, and one table memory per requantiser
        (concatenated).
    host : In(bits of a row of state)
        While the stages are held in reset, `s_wdata` is what this was a cycle before. Zero otherwise.
    stored : Out(1), stored_tag : Out(tag_bits)
        An output is stored in this cycle, one with the SINK flag too.
    we, address, word
        Activation memory, in the same cycle; of a single core, in the cycle before.
    trap_param, trap_state, trap_act : Out(1)
        Registered; `trap_act` with the store.
    """

    def __init__(self, arch: ArchConfig):
        self.arch, self.latency = arch, Latencies(arch)
        self.table_bits = max(1, (256 * arch.tables - 1).bit_length())
        param, state = (max(1, (depth - 1).bit_length()) for depth in (arch.param_depth, arch.state_depth))
        super().__init__(
            {
                "outputs": In(stream.Signature(OutputState(arch))),
                "addresses": In(stream.Signature(act_address(arch))),
                "tag": Out(tag_bits(arch)),
                "op": In(DrainDescriptor(arch)),
                "late_tag": Out(tag_bits(arch)),
                "late_op": In(DrainDescriptor(arch)),
                "start": In(1),
                "coming": In(1),
                "shadow": In(data.ArrayLayout(signed(32), arch.ppu)),
                "slot": In(1),
                "p_addr": Out(param),
                "params": In(data.ArrayLayout(param_layout(), arch.ppu)),
                "threshold_addr": Out(param),
                "s_addr": Out(state),
                "s_data": In(isa.region_bits(arch, isa.Region.STATE)),
                "s_we": Out(1),
                "s_waddr": Out(state),
                "s_wdata": Out(isa.region_bits(arch, isa.Region.STATE)),
                "host": In(data.ArrayLayout(unsigned(32), arch.ppu)),
                "t_addr": Out(self.table_bits * arch.ppu),
                "t_data": In(arch.event_bits * arch.ppu),
                "stored": Out(1),
                "stored_tag": Out(tag_bits(arch)),
                "we": Out(1),
                "address": Out(act_address(arch)),
                "word": Out(isa.region_bits(arch, isa.Region.ACT)),
                "trap_param": Out(1),
                "trap_state": Out(1),
                "trap_act": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        latency = self.latency
        turn, index = self._turns(m)
        chunks = [turn]
        for cycle in range(1, latency.finished + 1):
            chunks.append(delay(m, chunks[-1], 1, f"chunk_{cycle}"))
        sink = self._later(m, self.op.sink, 1, "sink")
        self._parameters(m, chunks, index, sink)
        used = self._state(m, chunks, index, sink)
        self._store(m, chunks, sink, self._channels(m, chunks, used))
        return m

    def _later(self, m, value, cycles, name):
        """What an operation's register shows `cycles` later; the only one in flight keeps its registers."""
        return value if self.arch.in_flight == 1 else delay(m, value, cycles, name, reset_less=True)

    def _turns(self, m):
        """Which chunk of which output drains, and its number."""
        draining, turn = Signal(), Signal(Chunk(self.arch))
        index = chunk_index(m, self.arch, turn)
        m.d.comb += [
            turn.last.eq(index == self.op.DRAIN - 1),
            turn.valid.eq(self.coming | draining),
            turn.tag.eq(self.outputs.payload.tag),
            self.tag.eq(self.outputs.payload.tag),
            self.outputs.ready.eq(turn.valid & turn.last),
        ]
        with m.If(turn.valid):
            m.d.sync += draining.eq(~turn.last)
        return turn, index

    def _parameters(self, m, chunks, index, sink):
        """Reads a chunk's parameters, its thresholds later than the rest."""
        arch, latency = self.arch, self.latency
        row = Signal(isa.address_bits(arch, isa.Region.PARAM), name="p_row", reset_less=True)
        m.d.sync += row.eq(self.op.P_BASE + index)
        m.d.comb += self.p_addr.eq(delay(m, row[: len(self.p_addr)], 1, "p_row", reset_less=True))
        late = latency.chosen - latency.memory - 1
        if arch.in_flight == 1:
            m.d.sync += self.threshold_addr.eq(self.op.P_BASE + chunk_index(m, arch, chunks[late]))
        else:
            m.d.comb += self.threshold_addr.eq(delay(m, self.p_addr, late - 1, "threshold_row", reset_less=True))
        m.d.sync += self.trap_param.eq(chunks[1].valid & ~sink & ~(row < arch.param_depth))

    def _state(self, m, chunks, index, sink):
        """Reads a chunk's state, and writes the sums back in the cycle after the shadow accumulators show the chunk.

        Returns whether the state is added. In reset it is not, so that the host's word passes.
        """
        arch, latency = self.arch, self.latency
        source = self._later(m, self.op.source, 1, "source")
        row = Signal(isa.address_bits(arch, isa.Region.STATE), name="s_row", reset_less=True)
        if arch.in_flight == 1:
            begun = Signal()
            with m.If(chunks[0].valid):
                m.d.sync += [begun.eq(1), row.eq(Mux(begun, row + 1, self.op.S_BASE))]
            with m.If(self.start):
                m.d.sync += begun.eq(0)
        else:
            m.d.sync += row.eq(self.outputs.payload.state + index)
        fits = row < arch.state_depth
        m.d.comb += [
            self.s_addr.eq(row),
            self.s_waddr.eq(delay(m, self.s_addr, latency.turn_lead, "s_row", reset_less=True)),
            self.s_we.eq(delay(m, chunks[1].valid & sink & fits, latency.turn_lead, "s_we")),
        ]
        m.d.sync += self.trap_state.eq(chunks[1].valid & (source | sink) & ~fits)
        return delay(m, source, 1 if arch.in_flight == 1 else latency.turn_lead - 1, "used")

    def _bounds(self, m, chunks):
        """What the operation does with the sums, read when they are about to be clamped.

        Returns its clamp, the number of its table and, later, whether it uses one.
        """
        late, clamp = self.late_op, Signal(Clamp())
        minus_lo, span = (Signal.like(bound, reset_less=True) for bound in (clamp.minus_lo, clamp.span))
        m.d.sync += [minus_lo.eq(-late.LO), span.eq(late.LO - late.HI)]
        m.d.comb += [
            self.late_tag.eq(chunks[self.latency.summed + CLAMP_DELAY - 1].tag),
            clamp.minus_lo.eq(minus_lo),
            clamp.span.eq(self._later(m, span, 1, "span")),
            clamp.hi.eq(self._later(m, late.HI, 3, "hi")),
        ]
        cycles = REQUANT_LATENCY - CLAMP_DELAY + 1
        return (
            clamp,
            self._later(m, late.TABLE, cycles, "table_index"),
            self._later(m, late.table, cycles + self.latency.memory, "table"),
        )

    def _channels(self, m, chunks, used):
        """Adds the state, requantises, looks up the table and applies the threshold, channel by channel."""
        arch, latency = self.arch, self.latency
        clamp, table_index, table = self._bounds(m, chunks)
        sums = Signal(data.ArrayLayout(signed(32), arch.ppu), reset_less=True)
        m.d.comb += self.s_wdata.eq(sums)
        states = data.View(data.ArrayLayout(signed(32), arch.ppu), self.s_data)
        channels = []
        for i in range(arch.ppu):
            # The host's word passes through this adder, where it costs nothing.
            m.submodules[f"adder_{i}"] = adder = FusedAdder(32, lambda state, host, keep: (state & keep) | host)
            m.submodules[f"requantiser_{i}"] = unit = Requantiser(arch)
            m.submodules[f"threshold_{i}"] = threshold = Threshold(arch)
            m.d.comb += [
                adder.a.eq(self.shadow[i]),
                adder.b.eq(states[i]),
                adder.c.eq(self.host[i]),
                adder.d.eq(used),
                unit.acc.eq(sums[i]),
                unit.bias.eq(self.params[i].bias),
                unit.mantissa.eq(self.params[i].mantissa),
                unit.shift.eq(self.params[i].shift),
                unit.clamp.eq(clamp),
                self.t_addr.word_select(i, self.table_bits).eq(Cat(unit.y[:8] ^ 0x80, table_index)),
            ]
            m.d.sync += sums[i].eq(adder.s)
            direct = delay(m, unit.y, latency.memory, f"direct_{i}", reset_less=True)
            looked_up = self.t_data.word_select(i, arch.event_bits).as_signed()
            value = Signal(signed(len(unit.y)), name=f"value_{i}", reset_less=True)
            m.d.sync += value.eq(Mux(table, looked_up, direct))
            m.d.comb += [threshold.value.eq(value), threshold.threshold.eq(self.params[i].threshold)]
            channels.append(threshold.y)
        return channels

    def _store(self, m, chunks, sink, channels):
        """Hands the channels to the word store."""
        m.submodules.store = store = WordStore(self.arch)
        connect(m, flipped(self.addresses), store.addresses)
        m.d.comb += [
            store.chunk.eq(chunks[self.latency.chosen + 2]),
            store.ended.eq(chunks[self.latency.finished]),
            store.sink.eq(self._later(m, sink, self.latency.finished - 1, "sink")),
            store.slot.eq(self.slot),
            *(store.channels[i].eq(channel) for i, channel in enumerate(channels)),
            self.stored.eq(store.stored),
            self.stored_tag.eq(store.stored_tag),
            self.we.eq(store.we),
            self.address.eq(store.address),
            self.word.eq(store.word),
            self.trap_act.eq(store.trap),
        ]
