"""Post-processing: drains the shadow accumulators through the requantisers into activation or state memory."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import REQUANT_FRACTION, ArchConfig
from ...spec.latencies import REQUANT_LATENCY, Latencies
from ...spec.structure import tag_bits
from ..layouts import DrainDescriptor, OutputState, act_address
from ..lib.combinators import delay
from ..primitives import DigitProduct, FusedAdder, MaskedAdder

__all__ = ["Ppu", "Requantiser", "param_bits", "param_layout"]

CLAMP_DELAY = 5
"""From the accumulator to the first bound."""


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


def param_bits(arch: ArchConfig, *names: str) -> list[int]:
    """Where the fields `names` are in a channel's parameters, as far as they mean something."""
    bits: list[int] = []
    for name in names:
        field = param_layout()[name]
        bits += range(field.offset, field.offset + (arch.mantissa_bits if name == "mantissa" else field.width))
    return bits


class Clamp(data.StructLayout):
    """The bounds of an operation's outputs, as the requantisers need them: -LO, LO - HI and HI."""

    def __init__(self):
        bound = isa.REGISTERS["LO"].bits
        super().__init__({"minus_lo": signed(bound + 1), "span": signed(bound + 1), "hi": signed(bound)})


class Requantiser(wiring.Component):
    """`numbers.requantise` and the clamp, one channel a cycle, `REQUANT_LATENCY` cycles.

    Members
    -------
    acc : In(signed 32)
    bias, mantissa, shift
        Parameters of the channel, in the cycle of `acc`.
    clamp : In(Clamp)
        `minus_lo` comes `CLAMP_DELAY` cycles after `acc`, `span` one and `hi` two cycles after it.
    y : Out(signed 10)
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__(
            {
                "acc": In(signed(32)),
                "bias": In(signed(32)),
                "mantissa": In(arch.mantissa_bits),
                "shift": In(5),
                "clamp": In(Clamp()),
                "y": Out(signed(isa.REGISTERS["HI"].bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = self.arch.requant_bits
        total = Signal(signed(32), reset_less=True)
        m.d.sync += total.eq(self.acc + self.bias)

        # round_shift(v, n) = ((v >> n-1) + 1) >> 1: one shifter, and the rounding bit is the last one shifted out.
        # Its steps keep the bits that the rest of it can shift into the result, the sign on top. What they lose decides
        # on saturation.
        shift = delay(m, self.shift, 1, "shift", reset_less=True)
        value, lost = Signal(signed(32 + REQUANT_FRACTION + 1)), []
        m.d.comb += value.eq(total << (REQUANT_FRACTION + 1))
        for k in (4, 3, 2):
            value, beyond = self._step(m, value, shift[k], 1 << k, bits + (1 << k))
            lost.append(beyond)
        coarse = Signal.like(value, reset_less=True)
        overflow, fine_shift = Signal(len(lost), reset_less=True), delay(m, shift[:2], 1, "fine_shift", reset_less=True)
        m.d.sync += [coarse.eq(value), overflow.eq(Cat(lost))]
        value, beyond = self._step(m, coarse, fine_shift[1], 2, bits + 2)
        last = fine_shift[0]
        saturates = overflow.any() | beyond | (~last & (value[-1] != value[-2]))

        # The last step is in the adder that rounds. Saturated to +-2**(bits-1): times less than 2**(REQUANT_FRACTION-1), and
        # rounded, that is the same as one less.
        m.submodules.rounder = rounder = FusedAdder(
            bits + 1, lambda kept, shifted, keep: (kept & keep) | (shifted & ~keep), carry=True
        )
        m.d.comb += [
            rounder.b.eq(Cat(value[1:bits], value[-1]).as_signed()),
            rounder.c.eq(value[2:].as_signed()),
            rounder.d.eq(~last),
            rounder.carry_in.eq(Mux(last, value[1], value[0])),
        ]
        operand = Signal(signed(bits + 1), reset_less=True)
        m.d.sync += operand.eq(rounder.s)
        with m.If(saturates):
            m.d.sync += operand.eq(Cat(Const(1 << (bits - 1), bits), value[-1]))

        # A narrow mantissa: sums of the products with its digits, of two bits.
        mantissa = delay(m, self.mantissa, 3, "mantissa", reset_less=True)
        partial = []
        for k in range(0, len(mantissa), 2):
            m.submodules[f"digit_{k}"] = digit = DigitProduct(len(operand))
            m.d.comb += [digit.a.eq(operand), digit.digit.eq(mantissa[k : k + 2])]
            partial.append(digit.p << k)
        product = Signal(signed(bits + len(mantissa)), reset_less=True)
        m.d.sync += product.eq(sum(partial))

        # Rounded: how far above LO, and not below it; then of that, how far below HI, and not above it.
        rest = product >> (REQUANT_FRACTION - 1)
        above = Signal(signed(len(rest)), reset_less=True)
        m.d.sync += above.eq((rest + Cat(Const(1, 1), self.clamp.minus_lo).as_signed()) >> 1)
        below, y = Signal(signed(len(above)), reset_less=True), Signal.like(self.y, name="y", reset_less=True)
        m.d.comb += self.y.eq(y)
        for distance, beyond, bound, result in (
            (above, above[-1], self.clamp.span, below),
            (below, ~below[-1], self.clamp.hi, y),
        ):
            m.submodules[f"to_{result.name}"] = adder = MaskedAdder(len(result))
            m.d.comb += [adder.a.eq(distance), adder.mask.eq(beyond), adder.b.eq(bound)]
            m.d.sync += result.eq(adder.s)
        return m

    def _step(self, m, value, enable, places: int, width: int):
        """Shifts right by `places` if `enable`; keeps `width` bits, the top one the sign. Returns them, and whether bits are lost."""
        sign, top = value[-1], width - 1
        shifted = Mux(enable, value >> places, value)
        kept = Signal(signed(width), name=f"shifted_{places}")
        m.d.comb += kept.eq(Cat(shifted[:top], sign))
        return kept, ~enable & (value[top:-1] ^ sign.replicate(len(value) - 1 - top)).any()


class Chunk(data.StructLayout):
    """What accompanies a chunk through the pipeline: if it is its output's last."""

    def __init__(self, arch: ArchConfig):
        super().__init__({"valid": 1, "last": 1, "tag": tag_bits(arch)})


class Ppu(wiring.Component):
    """Drains `ppu` channels per cycle; an output word is stored, with its last chunk in, in the core's next slot.

    Never stalls. The turn of an output begins with reading its state and parameters, `Latencies.turn_lead` cycles before its sums
    are in the shadow accumulators. Its word can be stored `Latencies.store` cycles after its last chunk left them; the issuer
    keeps outputs far enough apart for one buffered word to be enough.

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
        arch, d, output, latency = self.arch, self.op, self.outputs.payload, self.latency

        # Turn: which chunk of which output drains.
        draining, turn = Signal(), Signal(Chunk(arch))
        index = self._index(m, turn)
        m.d.comb += [
            turn.valid.eq(self.coming | draining),
            turn.last.eq(index == d.DRAIN - 1),
            turn.tag.eq(output.tag),
            self.tag.eq(output.tag),
            self.outputs.ready.eq(turn.valid & turn.last),
        ]
        with m.If(turn.valid):
            m.d.sync += draining.eq(~turn.last)
        chunks = [turn]
        for cycle in range(1, latency.finished + 1):
            chunks.append(delay(m, chunks[-1], 1, f"chunk_{cycle}"))

        def later(value, cycles, name):
            """What an operation's register shows `cycles` later; the only one in flight keeps its registers."""
            return value if arch.in_flight == 1 else delay(m, value, cycles, name, reset_less=True)

        # State and parameters, added to and written back in the cycle after the shadow accumulators show the chunk.
        p_row, s_row = (Signal(isa.address_bits(arch, region), reset_less=True) for region in (isa.Region.PARAM, isa.Region.STATE))
        m.d.sync += p_row.eq(d.P_BASE + index)
        if arch.in_flight == 1:
            begun = Signal()
            with m.If(turn.valid):
                m.d.sync += [begun.eq(1), s_row.eq(Mux(begun, s_row + 1, d.S_BASE))]
            with m.If(self.start):
                m.d.sync += begun.eq(0)
        else:
            m.d.sync += s_row.eq(output.state + index)
        source, sink = (later(flag, 1, name) for flag, name in ((d.source, "source"), (d.sink, "sink")))
        p_fits, s_fits = p_row < arch.param_depth, s_row < arch.state_depth
        # In reset no state is added, so that the host's word passes.
        used = delay(m, source, 1 if arch.in_flight == 1 else latency.turn_lead - 1, "used")
        m.d.comb += [
            self.s_addr.eq(s_row),
            self.s_waddr.eq(delay(m, self.s_addr, latency.turn_lead, "s_row", reset_less=True)),
            self.s_we.eq(delay(m, chunks[1].valid & sink & s_fits, latency.turn_lead, "s_we")),
            self.p_addr.eq(delay(m, p_row[: len(self.p_addr)], 1, "p_row", reset_less=True)),
        ]
        if arch.in_flight == 1:
            m.d.sync += self.threshold_addr.eq(d.P_BASE + self._index(m, chunks[latency.chosen - latency.memory - 1]))
        else:
            m.d.comb += self.threshold_addr.eq(
                delay(m, self.p_addr, latency.chosen - latency.memory - 2, "threshold_row", reset_less=True)
            )
        m.d.sync += [
            self.trap_param.eq(chunks[1].valid & ~sink & ~p_fits),
            self.trap_state.eq(chunks[1].valid & (source | sink) & ~s_fits),
        ]
        sums = Signal(data.ArrayLayout(signed(32), arch.ppu), reset_less=True)
        m.d.comb += self.s_wdata.eq(sums)

        # What the operation does with the sums is read when they are about to be clamped.
        late, clamp = self.late_op, Signal(Clamp())
        minus_lo, span = (Signal.like(bound, reset_less=True) for bound in (clamp.minus_lo, clamp.span))
        m.d.sync += [minus_lo.eq(-late.LO), span.eq(late.LO - late.HI)]
        m.d.comb += [
            self.late_tag.eq(chunks[latency.summed + CLAMP_DELAY - 1].tag),
            clamp.minus_lo.eq(minus_lo),
            clamp.span.eq(later(span, 1, "span")),
            clamp.hi.eq(later(late.HI, 3, "hi")),
        ]
        table_index = later(late.TABLE, REQUANT_LATENCY - CLAMP_DELAY + 1, "table_index")
        table = later(late.table, REQUANT_LATENCY - CLAMP_DELAY + 1 + latency.memory, "table")

        states = data.View(data.ArrayLayout(signed(32), arch.ppu), self.s_data)
        channels = []
        for i in range(arch.ppu):
            # The host's word goes through the adder, where it costs nothing.
            m.submodules[f"adder_{i}"] = adder = FusedAdder(32, lambda state, host, keep: (state & keep) | host)
            m.submodules[f"requantiser_{i}"] = unit = Requantiser(arch)
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
            channels.append(self._threshold(m, value, self.params[i].threshold, i))
        self._store(m, chunks, later(sink, latency.finished - 1, "sink"), channels)
        return m

    def _index(self, m, chunk):
        """Which one of its output's a chunk is."""
        index = Signal(range(max(2, self.arch.chunks)))
        with m.If(chunk.valid):
            m.d.sync += index.eq(Mux(chunk.last, 0, index + 1))
        return index

    def _threshold(self, m, value, threshold, i):
        """`value` as it was two cycles before, or zero where it is nearer to that than `threshold`."""
        negative, held = value[-1], delay(m, value, 1, f"held_{i}", reset_less=True)
        m.submodules[f"threshold_{i}"] = adder = FusedAdder(len(value), lambda b, invert, one: (b ^ invert) & one, carry=True)
        m.d.comb += [
            adder.a.eq(value),
            adder.b.eq(threshold),
            adder.c.eq((~negative).replicate(len(value))),
            adder.d.eq(1),
            adder.carry_in.eq(~negative),
        ]
        # Towards zero by the threshold: it has not crossed zero if it is to stay.
        moved, channel = (
            Signal.like(value, reset_less=True),
            Signal(signed(self.arch.event_bits), name=f"channel_{i}", reset_less=True),
        )
        m.d.sync += [moved.eq(adder.s), channel.eq(held)]
        with m.If(Mux(held < 0, moved > 0, moved < 0)):
            m.d.sync += channel.eq(0)
        return channel

    def _store(self, m, chunks, sink, channels):
        """Collects the chunks of a word, and keeps the finished word until the slot."""
        parts = [
            Signal(data.ArrayLayout(channels[0].shape(), len(channels)), name=f"part_{c}", reset_less=True)
            for c in range(self.arch.chunks)
        ]
        chunk, ended, finished = chunks[self.latency.chosen + 2], chunks[self.latency.finished], Signal()
        index = self._index(m, chunk)
        for c, part in enumerate(parts):
            with m.If(chunk.valid & (index == c)):
                m.d.sync += part.eq(Cat(channels))
            if c > 0:
                with m.If(chunk.valid & (index == 0)):
                    m.d.sync += part.eq(0)
        full, place, beyond, dropped = Signal(), Signal.like(self.addresses.payload), Signal(), Signal()
        fits = self.addresses.payload < self.arch.act_depth
        m.d.comb += [
            finished.eq(ended.valid & ended.last),
            self.addresses.ready.eq(finished),
            self.stored.eq(full & self.slot),
        ]
        if self.arch.cores == 1:
            # Every cycle is the core's slot: nothing but the address is checked before the word is stored.
            m.d.comb += [
                self.we.eq(finished & ~sink & fits),
                self.address.eq(self.addresses.payload),
                self.word.eq(Cat(parts)),
            ]
        else:
            m.d.comb += [self.we.eq(self.stored & ~dropped & ~beyond), self.address.eq(place)]
            word = Signal.like(self.word, reset_less=True)
            m.d.comb += self.word.eq(word)
            with m.If(finished):
                m.d.sync += word.eq(Cat(parts))
        with m.If(self.stored):
            m.d.sync += full.eq(0)
        with m.If(finished):
            m.d.sync += [
                full.eq(1),
                place.eq(self.addresses.payload),
                self.stored_tag.eq(ended.tag),
                dropped.eq(sink),
                beyond.eq(~fits),
            ]
        m.d.sync += self.trap_act.eq(self.stored & ~dropped & beyond)
