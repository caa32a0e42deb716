"""Post-processing: drains the shadow accumulators through the requantisers into activation or state memory."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import REQUANT_FRACTION, ArchConfig
from ..primitives import LATENCY
from .combinators import delay
from .latencies import STORE_LATENCY
from .layouts import TAG_BITS, DrainDescriptor, Output, act_address

__all__ = ["Ppu", "Requantiser", "param_bits", "param_layout"]

REQUANT_LATENCY = 8
"""Cycles of the requantiser, from accumulator + bias to the clamped value."""

assert STORE_LATENCY == 1 + LATENCY + 1 + REQUANT_LATENCY + LATENCY + 2 + 1


def param_layout():
    """Parameters of one channel, as in `isa.PARAM_BITS`."""
    return data.StructLayout(
        {
            "bias": signed(32),
            "mantissa": unsigned(8),
            "shift": unsigned(5),
            "_1": 3,
            "threshold": unsigned(8),
            "_2": 8,
        }
    )


def param_bits(arch: ArchConfig) -> list[int]:
    """Which bits of a row of parameters mean something."""
    bits: list[int] = []
    for i in range(arch.ppu):
        for name, field in param_layout():
            width = arch.mantissa_bits if name == "mantissa" else 0 if name.startswith("_") else field.width
            bits += range(i * isa.PARAM_BITS + field.offset, i * isa.PARAM_BITS + field.offset + width)
    return bits


class Requantiser(wiring.Component):
    """`numbers.requantise` and the clamp, one channel a cycle, `REQUANT_LATENCY` cycles.

    Members
    -------
    acc : In(signed 32)
    bias, mantissa, shift
        Parameters of the channel, in the cycle of `acc`.
    lo, hi : In(signed 10)
        Clamp, `REQUANT_LATENCY - 1` cycles after `acc`.
    y : Out(signed 10)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        bound = isa.REGISTERS["LO"].bits
        super().__init__(
            {
                "acc": In(signed(32)),
                "bias": In(signed(32)),
                "mantissa": In(arch.mantissa_bits),
                "shift": In(5),
                "lo": In(signed(bound)),
                "hi": In(signed(bound)),
                "y": Out(signed(bound)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = self.arch.requant_bits
        shift = delay(m, self.shift, 1, "shift")
        fine_shift = delay(m, shift[:3], 1, "fine_shift")
        mantissa = delay(m, self.mantissa, 4, "mantissa")
        total = Signal(signed(32))
        m.d.sync += total.eq(self.acc + self.bias)

        # round_shift(v, n) = ((v >> n-1) + 1) >> 1: one shifter, and the rounding bit is the last one shifted out.
        wide = Signal(signed(32 + REQUANT_FRACTION + 1))
        coarse = Signal.like(wide)
        m.d.comb += wide.eq(total << (REQUANT_FRACTION + 1))
        m.d.sync += coarse.eq(wide >> (shift[3:] << 3))
        # What lies above the bits kept decides on saturation: it is told before the fine shift, which so has few bits.
        kept, beyond, sign = Signal(signed(bits + 1)), Signal(), Signal()
        above = (coarse[k] ^ coarse[-1] for k in range(bits, len(coarse)))
        m.d.sync += [
            kept.eq(coarse[: bits + 8] >> fine_shift),
            beyond.eq(Cat(bit & (fine_shift <= min(k, 7)) for k, bit in enumerate(above)).any()),
            sign.eq(coarse[-1]),
        ]
        rounded, operand = Signal(signed(bits + 1)), Signal(signed(bits))
        m.d.comb += rounded.eq((kept + 1) >> 1)
        limit = Cat((~sign).replicate(bits - 1), sign).as_signed()
        m.d.sync += operand.eq(Mux(beyond | (rounded[-1] != rounded[-2]), limit, rounded))

        # A narrow mantissa: sums of shifted operands, two bits of it at a time.
        partial = []
        for k in range(0, len(mantissa), 2):
            term = Signal(signed(bits + 3), name=f"term_{k}")
            m.d.sync += term.eq(sum(Mux(mantissa[j], operand << (j - k), 0) for j in range(k, min(k + 2, len(mantissa)))))
            partial.append(term << k)
        product, result = Signal(signed(bits + len(mantissa) + 1)), Signal(signed(bits + len(mantissa) + 1 - REQUANT_FRACTION))
        m.d.sync += [product.eq(sum(partial)), result.eq((product + (1 << (REQUANT_FRACTION - 1))) >> REQUANT_FRACTION)]
        m.d.sync += self.y.eq(Mux(result < self.lo, self.lo, Mux(result > self.hi, self.hi, result)))
        return m


class ChunkTag(data.StructLayout):
    """What accompanies a chunk through the pipeline."""

    def __init__(self, arch: ArchConfig):
        bound = signed(isa.REGISTERS["LO"].bits)
        super().__init__(
            {
                "valid": 1,
                "index": range(max(2, arch.chunks)),
                "last": 1,
                "tag": TAG_BITS,
                "address": act_address(arch),
                "state": isa.address_bits(arch, isa.Region.STATE),
                "source": 1,
                "sink": 1,
                "table": 1,
                "table_index": 4,
                "lo": bound,
                "hi": bound,
            }
        )


class Ppu(wiring.Component):
    """Drains `ppu` channels per cycle; an output word is stored, with its last chunk in, in the core's next slot.

    Never stalls. The word of an output can be stored `STORE_LATENCY` cycles after the turn of its last chunk; the issuer
    keeps outputs far enough apart for one buffered word to be enough.

    Members
    -------
    outputs : In(stream of Output)
        In the order of their closes, each here before its `loaded`.
    tag : Out(TAG_BITS), op : In(DrainDescriptor)
        The operation of the output at hand.
    loaded, shadow, shift
        The `Lanes`' shadow accumulators.
    slot : In(1)
        A finished word is stored in this cycle.
    p_addr, p_data; s_addr, s_data; s_we, s_waddr, s_wdata; t_addr, t_data
        Parameter memory, state memory, and one table memory per requantiser (concatenated).
    stored : Out(1), stored_tag : Out(TAG_BITS)
        An output is stored in this cycle, one with the SINK flag too.
    we, address, word
        Activation memory, in the same cycle.
    trap_param, trap_state, trap_act : Out(1)
        Registered; `trap_act` with the store.
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        self.table_bits = max(1, (256 * arch.tables - 1).bit_length())
        super().__init__(
            {
                "outputs": In(stream.Signature(Output(arch))),
                "tag": Out(TAG_BITS),
                "op": In(DrainDescriptor(arch)),
                "loaded": In(1),
                "shadow": In(data.ArrayLayout(signed(32), arch.lanes)),
                "shift": Out(1),
                "slot": In(1),
                "p_addr": Out(max(1, (arch.param_depth - 1).bit_length())),
                "p_data": In(isa.region_bits(arch, isa.Region.PARAM)),
                "s_addr": Out(max(1, (arch.state_depth - 1).bit_length())),
                "s_data": In(isa.region_bits(arch, isa.Region.STATE)),
                "s_we": Out(1),
                "s_waddr": Out(max(1, (arch.state_depth - 1).bit_length())),
                "s_wdata": Out(isa.region_bits(arch, isa.Region.STATE)),
                "t_addr": Out(self.table_bits * arch.ppu),
                "t_data": In(arch.event_bits * arch.ppu),
                "stored": Out(1),
                "stored_tag": Out(TAG_BITS),
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
        arch, d, output = self.arch, self.op, self.outputs.payload

        # Turn: which chunk of which output drains in this cycle.
        draining, index = Signal(), Signal(range(max(2, arch.chunks)))
        turn, chunk, last = Signal(), Signal.like(index), Signal()
        tag, p_row = Signal(ChunkTag(arch)), Signal(isa.address_bits(arch, isa.Region.PARAM))
        m.d.comb += [
            turn.eq(self.loaded | draining),
            chunk.eq(Mux(draining, index, 0)),
            last.eq(chunk == d.DRAIN - 1),
            self.shift.eq(turn),
            self.tag.eq(output.tag),
            self.outputs.ready.eq(turn & last),
        ]
        with m.If(turn):
            m.d.sync += [draining.eq(~last), index.eq(chunk + 1)]
        m.d.sync += [
            p_row.eq(d.P_BASE + chunk),
            tag.valid.eq(turn),
            tag.index.eq(chunk),
            tag.last.eq(last),
            tag.tag.eq(output.tag),
            tag.address.eq(output.address),
            tag.state.eq(output.state + chunk),
            tag.source.eq(d.source),
            tag.sink.eq(d.sink),
            tag.table.eq(d.table),
            tag.table_index.eq(d.TABLE),
            tag.lo.eq(d.LO),
            tag.hi.eq(d.HI),
        ]
        m.d.comb += [self.p_addr.eq(p_row), self.s_addr.eq(tag.state)]
        m.d.sync += [
            self.trap_param.eq(tag.valid & ~tag.sink & (p_row >= arch.param_depth)),
            self.trap_state.eq(tag.valid & (tag.source | tag.sink) & (tag.state >= arch.state_depth)),
        ]

        read = delay(m, tag, LATENCY, "tag_read")
        summed = delay(m, read, 1, "tag_summed")
        clamping = delay(m, summed, REQUANT_LATENCY - 1, "tag_clamping")
        clamped = delay(m, clamping, 1, "tag_clamped")
        looked = delay(m, clamped, LATENCY, "tag_looked")
        kept = delay(m, looked, 2, "tag_kept")
        states = data.View(data.ArrayLayout(signed(32), arch.ppu), self.s_data)
        params = data.View(data.ArrayLayout(param_layout(), arch.ppu), self.p_data)
        sums = Signal(data.ArrayLayout(signed(32), arch.ppu))
        m.d.comb += [
            self.s_we.eq(summed.valid & summed.sink & (summed.state < arch.state_depth)),
            self.s_waddr.eq(summed.state),
            self.s_wdata.eq(sums),
        ]
        channels = []
        for i in range(arch.ppu):
            shadow = delay(m, self.shadow[i], LATENCY + 1, f"shadow_{i}")
            m.d.sync += sums[i].eq(shadow + Mux(read.source, states[i], 0))
            param = delay(m, params[i], 1, f"param_{i}")
            m.submodules[f"requantiser_{i}"] = unit = Requantiser(arch)
            m.d.comb += [
                unit.acc.eq(sums[i]),
                unit.bias.eq(param.bias),
                unit.mantissa.eq(param.mantissa),
                unit.shift.eq(param.shift),
                unit.lo.eq(clamping.lo),
                unit.hi.eq(clamping.hi),
            ]
            bits = self.table_bits
            m.d.comb += self.t_addr[i * bits : (i + 1) * bits].eq(Cat(unit.y[:8] ^ 0x80, clamped.table_index))
            direct = delay(m, unit.y, LATENCY, f"direct_{i}")
            threshold = delay(m, param.threshold, REQUANT_LATENCY + LATENCY + 1, f"threshold_{i}")
            from_table = self.t_data[i * arch.event_bits : (i + 1) * arch.event_bits].as_signed()
            value, chosen, magnitude = Signal(signed(10)), Signal(signed(10), name=f"chosen_{i}"), Signal(10, name=f"size_{i}")
            channel = Signal(signed(arch.event_bits), name=f"channel_{i}")
            m.d.comb += value.eq(Mux(looked.table, from_table, direct))
            m.d.sync += [chosen.eq(value), magnitude.eq(Mux(value < 0, -value, value))]
            m.d.sync += channel.eq(Mux(magnitude < threshold, 0, chosen))
            channels.append(channel)
        self._store(m, kept, Cat(channels))
        return m

    def _store(self, m, tag, channels):
        """Collects the chunks of a word, and keeps the finished word until the slot."""
        arch = self.arch
        collected, word = Signal(len(self.word)), Signal(len(self.word))
        with m.If(tag.index != 0):
            m.d.comb += word.eq(collected)
        with m.Switch(tag.index):
            for c in range(arch.chunks):
                with m.Case(c):
                    m.d.comb += word.word_select(c, len(channels)).eq(channels)
        finished, buffer, full, beyond = Signal(), Signal(ChunkTag(arch)), Signal(), Signal()
        m.d.comb += [
            finished.eq(tag.valid & tag.last),
            self.stored.eq(full & self.slot),
            self.stored_tag.eq(buffer.tag),
            self.we.eq(self.stored & ~buffer.sink & ~beyond),
            self.address.eq(buffer.address),
        ]
        with m.If(tag.valid):
            m.d.sync += collected.eq(word)
        with m.If(self.stored):
            m.d.sync += full.eq(0)
        with m.If(finished):
            m.d.sync += [full.eq(1), self.word.eq(word), buffer.eq(tag), beyond.eq(tag.address >= arch.act_depth)]
        m.d.sync += self.trap_act.eq(self.stored & ~buffer.sink & beyond)
