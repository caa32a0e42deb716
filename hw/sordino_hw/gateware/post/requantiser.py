"""The requantiser: from an accumulator to a clamped value."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...spec import isa
from ...spec.arch import REQUANT_FRACTION, ArchConfig
from ..lib.combinators import delay
from ..primitives import DigitProduct, FusedAdder, MaskedAdder

__all__ = ["CLAMP_DELAY", "Clamp", "Requantiser"]

CLAMP_DELAY = 5
"""From the accumulator to the first bound."""


class Clamp(data.StructLayout):
    """The bounds of an operation's outputs, as the requantisers need them: -LO, LO - HI and HI."""

    def __init__(self):
        bound = isa.REGISTERS["LO"].bits
        super().__init__({"minus_lo": signed(bound + 1), "span": signed(bound + 1), "hi": signed(bound)})


class Requantiser(wiring.Component):
    """`numbers.requantise` and the clamp, for one channel.

    Throughput: a value a cycle. Latency: `REQUANT_LATENCY` cycles.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    acc : In(signed 32)
    bias, mantissa, shift
        Parameters of the channel, in the cycle of `acc`.
    clamp : In(Clamp)
        `minus_lo` is taken `CLAMP_DELAY` cycles after `acc`, `span` one and `hi` two cycles after that.
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
        total = Signal(signed(32), reset_less=True)
        m.d.sync += total.eq(self.acc + self.bias)
        value, last, saturates = self._shift(m, total)
        operand = self._round(m, value, last, saturates)
        self._clamp(m, self._multiply(m, operand))
        return m

    def _shift(self, m, total):
        """Shifts right by all but the last place, in two cycles. Returns the value, whether it is to be shifted by one place more,
        and whether it saturates.

        round_shift(v, n) = ((v >> n-1) + 1) >> 1: one shifter, and the rounding bit is the last one shifted out. Each step keeps
        the bits that the later steps can shift into the result, and the sign; the bits that it drops decide on saturation.
        """
        bits = self.arch.requant_bits
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
        return value, last, overflow.any() | beyond | (~last & (value[-1] != value[-2]))

    def _round(self, m, value, last, saturates):
        """Shifts by the last place and rounds, in one adder; registered.

        Saturated to +-2**(bits-1): after the multiplication by less than 2**(REQUANT_FRACTION-1) and the second rounding, that is
        the same as one less.
        """
        bits = self.arch.requant_bits
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
        return operand

    def _multiply(self, m, operand):
        """Multiplies by the narrow mantissa: the sum of the products with its digits of two bits; in two cycles."""
        mantissa = delay(m, self.mantissa, 3, "mantissa", reset_less=True)
        partial = []
        for k in range(0, len(mantissa), 2):
            m.submodules[f"digit_{k}"] = digit = DigitProduct(len(operand))
            m.d.comb += [digit.a.eq(operand), digit.digit.eq(mantissa[k : k + 2])]
            partial.append(digit.p << k)
        product = Signal(signed(self.arch.requant_bits + len(mantissa)), reset_less=True)
        m.d.sync += product.eq(sum(partial))
        return product

    def _clamp(self, m, product):
        """Rounds to how far the value is above LO, and forces that to be no less than zero; then to how far that is below HI,
        and no more than zero; in three cycles."""
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

    def _step(self, m, value, enable, places: int, width: int):
        """Shifts right by `places` if `enable`, and keeps `width` bits, the sign on top. Returns them, and whether bits are
        lost.
        """
        sign, top = value[-1], width - 1
        shifted = Mux(enable, value >> places, value)
        kept = Signal(signed(width), name=f"shifted_{places}")
        m.d.comb += kept.eq(Cat(shifted[:top], sign))
        return kept, ~enable & (value[top:-1] ^ sign.replicate(len(value) - 1 - top)).any()
