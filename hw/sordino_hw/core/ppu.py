"""Post-processing: drains the shadow accumulators through the requantisers into activation or state memory."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..arch import REQUANT_FRACTION, ArchConfig
from .combinators import delay
from .layouts import ADDR, DrainDescriptor
from .memory import LATENCY

__all__ = ["STORE_LATENCY", "Ppu", "Requantiser", "param_layout"]

REQUANT_LATENCY = 8
"""Cycles of the requantiser, from accumulator + bias to the clamped value."""

STORE_LATENCY = LATENCY + 1 + REQUANT_LATENCY + LATENCY + 1
"""Cycles from a chunk's turn to the cycle in which it is written."""


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
        coarse, fine = Signal.like(wide), Signal.like(wide)
        m.d.comb += [wide.eq(total << (REQUANT_FRACTION + 1)), fine.eq(coarse >> fine_shift)]
        m.d.sync += coarse.eq(wide >> (shift[3:] << 3))
        kept, beyond, sign = Signal(signed(bits + 1)), Signal(), Signal()
        m.d.sync += [
            kept.eq(fine),
            beyond.eq(Cat(fine[k] ^ coarse[-1] for k in range(bits, len(fine))).any()),
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
                "fin": 1,
                "out": ADDR,
                "state": ADDR,
                "source": 1,
                "sink": 1,
                "table": 1,
                "table_index": 4,
                "lo": bound,
                "hi": bound,
            }
        )


class Ppu(wiring.Component):
    """Drains `ppu` channels per cycle; an output word is written with its occupancy when its last chunk arrives.

    Never stalls. The write of a chunk follows its turn by `STORE_LATENCY` cycles.

    Members
    -------
    op : In(stream of DrainDescriptor)
    loaded, fin, shadow, shift
        The `Lanes`' shadow accumulators.
    p_addr, p_data; s_addr, s_data; s_we, s_waddr, s_wdata; t_addr, t_data
        Parameter memory, state memory, and one table memory per requantiser (concatenated).
    we, address, word
        Activation memory, and with it the occupancy bit `word != 0`.
    done : Out(1)
        The operation's last output is stored in this cycle.
    trap_param, trap_state, trap_act : Out(1)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        self.table_bits = max(1, (256 * arch.tables - 1).bit_length())
        super().__init__(
            {
                "op": In(stream.Signature(DrainDescriptor())),
                "loaded": In(1),
                "fin": In(1),
                "shadow": In(data.ArrayLayout(signed(32), arch.lanes)),
                "shift": Out(1),
                "p_addr": Out(max(1, (arch.param_depth - 1).bit_length())),
                "p_data": In(isa.region_bits(arch, isa.Region.PARAM)),
                "s_addr": Out(max(1, (arch.state_depth - 1).bit_length())),
                "s_data": In(isa.region_bits(arch, isa.Region.STATE)),
                "s_we": Out(1),
                "s_waddr": Out(max(1, (arch.state_depth - 1).bit_length())),
                "s_wdata": Out(isa.region_bits(arch, isa.Region.STATE)),
                "t_addr": Out(self.table_bits * arch.ppu),
                "t_data": In(arch.event_bits * arch.ppu),
                "we": Out(1),
                "address": Out(max(1, (arch.act_depth - 1).bit_length())),
                "word": Out(isa.region_bits(arch, isa.Region.ACT)),
                "done": Out(1),
                "trap_param": Out(1),
                "trap_state": Out(1),
                "trap_act": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, d = self.arch, self.op.payload

        # Turn: which chunk of which output drains in this cycle.
        draining, index, is_fin = Signal(), Signal(range(max(2, arch.chunks))), Signal()
        started, ox = Signal(), Signal(12)
        row, out, state = Signal(ADDR), Signal(ADDR), Signal(ADDR)
        turn, chunk, last, fin = Signal(), Signal.like(index), Signal(), Signal()
        row_now, out_now, state_now = Signal(ADDR), Signal(ADDR), Signal(ADDR)
        p_row = Signal(ADDR)
        m.d.comb += [
            turn.eq(self.loaded | draining),
            chunk.eq(Mux(self.loaded, 0, index)),
            fin.eq(Mux(self.loaded, self.fin, is_fin)),
            last.eq(chunk == d.DRAIN - 1),
            row_now.eq(Mux(started, row, d.O_BASE)),
            out_now.eq(Mux(started, out, d.O_BASE)),
            state_now.eq(Mux(started, state, d.S_BASE)),
            p_row.eq(d.P_BASE + chunk),
            self.shift.eq(turn),
            self.p_addr.eq(p_row),
            self.s_addr.eq(state_now),
            self.op.ready.eq(turn & last & fin),
            self.trap_param.eq(turn & ~d.sink & (p_row >= arch.param_depth)),
            self.trap_state.eq(turn & (d.source | d.sink) & (state_now >= arch.state_depth)),
        ]
        with m.If(turn):
            m.d.sync += [
                draining.eq(~last),
                index.eq(chunk + 1),
                is_fin.eq(fin),
                started.eq(~(last & fin)),
                state.eq(state_now + 1),
                row.eq(row_now),
                out.eq(out_now),
            ]
            with m.If(~started):
                m.d.sync += ox.eq(0)
            with m.If(last):
                with m.If(Mux(started, ox, 0) == d.OW - 1):
                    m.d.sync += [ox.eq(0), row.eq(row_now + d.O_OY), out.eq(row_now + d.O_OY)]
                with m.Else():
                    m.d.sync += [ox.eq(Mux(started, ox, 0) + 1), out.eq(out_now + d.O_OX)]

        tag = Signal(ChunkTag(arch))
        m.d.comb += [
            tag.valid.eq(turn),
            tag.index.eq(chunk),
            tag.last.eq(last),
            tag.fin.eq(fin),
            tag.out.eq(out_now),
            tag.state.eq(state_now),
            tag.source.eq(d.source),
            tag.sink.eq(d.sink),
            tag.table.eq(d.table),
            tag.table_index.eq(d.TABLE),
            tag.lo.eq(d.LO),
            tag.hi.eq(d.HI),
        ]
        read = delay(m, tag, LATENCY, "tag_read")
        summed = delay(m, read, 1, "tag_summed")
        clamping = delay(m, summed, REQUANT_LATENCY - 1, "tag_clamping")
        clamped = delay(m, clamping, 1, "tag_clamped")
        looked = delay(m, clamped, LATENCY, "tag_looked")
        stored = delay(m, looked, 1, "tag_stored")

        states = data.View(data.ArrayLayout(signed(32), arch.ppu), self.s_data)
        params = data.View(data.ArrayLayout(param_layout(), arch.ppu), self.p_data)
        sums = Signal(data.ArrayLayout(signed(32), arch.ppu))
        m.d.comb += [
            self.s_we.eq(summed.valid & summed.sink),
            self.s_waddr.eq(summed.state),
            self.s_wdata.eq(sums),
        ]
        outputs = []
        for i in range(arch.ppu):
            shadow = delay(m, self.shadow[i], LATENCY, f"shadow_{i}")
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
            m.d.comb += self.t_addr[i * bits : (i + 1) * bits].eq(Cat((unit.y + 128)[:8], clamped.table_index))
            direct = delay(m, unit.y, LATENCY, f"direct_{i}")
            threshold = delay(m, param.threshold, REQUANT_LATENCY + LATENCY, f"threshold_{i}")
            from_table = self.t_data[i * arch.event_bits : (i + 1) * arch.event_bits].as_signed()
            value, magnitude, kept = Signal(signed(10)), Signal(10), Signal(signed(arch.event_bits), name=f"kept_{i}")
            m.d.comb += [
                value.eq(Mux(looked.table, from_table, direct)),
                magnitude.eq(Mux(value < 0, -value, value)),
            ]
            m.d.sync += kept.eq(Mux(magnitude < threshold, 0, value))
            outputs.append(kept)

        # Collect the chunks of a word; write it with the last one.
        width = arch.ppu * arch.event_bits
        collected = Signal(arch.chunks * width)
        m.d.comb += self.word.eq(Mux(stored.index == 0, 0, collected))
        for c in range(arch.chunks):
            with m.If(stored.index == c):
                m.d.comb += self.word[c * width : (c + 1) * width].eq(Cat(outputs))
        with m.If(stored.valid):
            m.d.sync += collected.eq(self.word)
        complete = stored.valid & stored.last
        m.d.comb += [
            self.we.eq(complete & ~stored.sink & ~self.trap_act),
            self.address.eq(stored.out),
            self.trap_act.eq(complete & ~stored.sink & (stored.out >= arch.act_depth)),
            self.done.eq(complete & stored.fin),
        ]
        return m
