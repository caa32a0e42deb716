"""Multipliers, adders and accumulators."""

from collections.abc import Callable

from amaranth.hdl import Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .family import family_of

__all__ = ["Accumulators", "DigitProduct", "FusedAdder", "MaskedAdder", "Multiplier", "MultiplierArray"]


class MultiplierArray(wiring.Component):
    """`count` signed products a cycle, in the family's multipliers (iCE40: two products of up to 8 bits share one).

    `p[i]` is `a[i] * b[i]` of `MULTIPLIER_LATENCY` cycles before: operands and products are registered. The registers
    are not reset, and hold zero at first. Throughput: a product a cycle.

    Parameters
    ----------
    count : int
    a_width, b_width : int
        Bits of the signed operands, at most 18 (the iCE40's multiplier has 16: there, wider ones are built of logic).

    Members
    -------
    a, b : In(array of count x signed)
    p : Out(array of count x signed(a_width + b_width))
    """

    def __init__(self, count: int, a_width: int, b_width: int):
        if count < 1 or not (1 <= a_width <= 18 and 1 <= b_width <= 18):
            raise ValueError(
                f"a multiplier array needs a count of at least 1 and operands of 1 to 18 bits, "
                f"not count={count!r}, a_width={a_width!r}, b_width={b_width!r}"
            )
        self.count, self.a_width, self.b_width = count, a_width, b_width
        super().__init__(
            {
                "a": In(data.ArrayLayout(signed(a_width), count)),
                "b": In(data.ArrayLayout(signed(b_width), count)),
                "p": Out(data.ArrayLayout(signed(a_width + b_width), count)),
            }
        )

    def elaborate(self, platform):
        return family_of(platform).multiplier_array(self)


class Multiplier(wiring.Component):
    """One multiplier of a `MultiplierArray`, with plain signed members `a`, `b` and `p`."""

    def __init__(self, a_width: int, b_width: int):
        self._array = MultiplierArray(1, a_width, b_width)
        self.a_width, self.b_width = a_width, b_width
        super().__init__({"a": In(signed(a_width)), "b": In(signed(b_width)), "p": Out(signed(a_width + b_width))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = self._array
        m.d.comb += [array.a[0].eq(self.a), array.b[0].eq(self.b), self.p.eq(array.p[0])]
        return m


class FusedAdder(wiring.Component):
    """`s = a + operand(b, c, d) + carry_in`, modulo `2**width`. On the ECP5 the function is in the LUTs of the adder.

    Parameters
    ----------
    width : int
    operand : function of (b, c, d)
        Bitwise, of Amaranth values and of integers; zero where c and d are zero, as an ECP5 adder needs it.
    carry : bool
        There is a `carry_in`.

    Members
    -------
    a, b, c : In(width)
    d : In(1)
        The same for every bit.
    carry_in : In(1)
        If `carry`.
    s : Out(width)
    """

    def __init__(self, width: int, operand: Callable, carry: bool = False):
        _check_adder(width)
        if any(operand(b, 0, 0) & 1 for b in (0, 1)):
            raise ValueError("the operand of a fused adder must be zero where c and d are")
        self.width, self.operand, self.carry = width, operand, carry
        members = {"a": In(width), "b": In(width), "c": In(width), "d": In(1), "s": Out(width)}
        super().__init__(members | {"carry_in": In(1)} if carry else members)

    def elaborate(self, platform):
        return family_of(platform).fused_adder(self)


class MaskedAdder(wiring.Component):
    """An adder whose first operand can be masked, as large as an adder without the mask.

    Parameters
    ----------
    width : int

    Members
    -------
    a, b : In(width), mask : In(1)
    s : Out(width)
        `(mask ? 0 : a) + b`, modulo `2**width`.
    """

    def __init__(self, width: int):
        _check_adder(width)
        self.width = width
        super().__init__({"a": In(width), "b": In(width), "mask": In(1), "s": Out(width)})

    def elaborate(self, platform):
        return family_of(platform).masked_adder(self)


class DigitProduct(wiring.Component):
    """`p = a * digit` of the cycle before; the register is not reset. On the ECP5 it is one adder.

    Parameters
    ----------
    width : int
        Bits of the signed `a`, at least 2.

    Members
    -------
    a : In(signed(width))
    digit : In(2)
    p : Out(signed(width + 2))
    """

    def __init__(self, width: int):
        if width < 2:
            raise ValueError(f"a digit's product needs operands of at least two bits, not width={width!r}")
        self.width = width
        super().__init__({"a": In(signed(width)), "digit": In(2), "p": Out(signed(width + 2))})

    def elaborate(self, platform):
        return family_of(platform).digit_product(self)


class Accumulators(wiring.Component):
    """`count` sums of products, 32 bit and wrapping, which are shifted out, which also clears them.

    On the iCE40 each sum is in the accumulator of an SB_MAC16, and takes no logic cell.

    Parameters
    ----------
    count : int
    shown : int
        Sums that are shown at once; divides `count`.
    a_width, b_width : int
        Bits of the signed operands, at most 16.

    Members
    -------
    a, b : In(array of count x signed)
    step : In(1)
        Adds every `a[i] * b[i]` of this cycle to its sum, as of the next.
    shift : In(1)
        Instead, every sum becomes the one `shown` places on, and the last ones zero. There is no other reset.
    o : Out(array of shown x signed(32))
        The first sums.
    """

    def __init__(self, count: int, shown: int, a_width: int, b_width: int):
        if shown < 1 or count < 1 or count % shown or not (1 <= a_width <= 16 and 1 <= b_width <= 16):
            raise ValueError(
                f"accumulators need a count that is a multiple of those shown, and operands of 1 to 16 bits, "
                f"not {count=!r}, {shown=!r}, {a_width=!r}, {b_width=!r}"
            )
        self.count, self.shown, self.a_width, self.b_width = count, shown, a_width, b_width
        super().__init__(
            {
                "a": In(data.ArrayLayout(signed(a_width), count)),
                "b": In(data.ArrayLayout(signed(b_width), count)),
                "step": In(1),
                "shift": In(1),
                "o": Out(data.ArrayLayout(signed(32), shown)),
            }
        )

    def elaborate(self, platform):
        return family_of(platform).accumulators(self)


def _check_adder(width: int) -> None:
    if width < 1:
        raise ValueError(f"an adder needs at least one bit, not width={width!r}")
