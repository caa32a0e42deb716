"""The interfaces. What is inside comes from `generic`, `ecp5` or `ice40`."""

from collections.abc import Callable
from types import ModuleType

from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...spec.latencies import LATENCY
from . import ecp5, generic, ice40
from .family import family_of

__all__ = [
    "Accumulators",
    "BitMemory",
    "BlockMemory",
    "Buffer",
    "DigitProduct",
    "DualReadMemory",
    "FusedAdder",
    "Gate",
    "MaskedAdder",
    "Multiplier",
    "MultiplierArray",
    "Serialiser",
    "SinglePortMemory",
    "SmallMemory",
]

_FORMS: dict[str, ModuleType] = {"generic": generic, "ecp5": ecp5, "ice40": ice40}


def _form(platform) -> ModuleType:
    return _FORMS[family_of(platform)]


def _address_bits(depth: int) -> int:
    return max(1, (depth - 1).bit_length())


def _check_memory(depth: int, width: int) -> None:
    if depth < 1 or width < 1:
        raise ValueError(f"a memory needs at least one row of one bit, not depth={depth!r}, width={width!r}")


def _check_latency(latency: int, known: tuple[int, ...]) -> None:
    if latency not in known:
        raise ValueError(f"latency must be {' or '.join(map(str, known))}, not {latency!r}")


def _memory_members(depth: int, width: int, latency: int, granularity: int | None) -> dict:
    """Of a memory with a write and a read port; `granularity` bits for each bit of `w_en`, by default all. Raises `ValueError`."""
    _check_memory(depth, width)
    _check_latency(latency, (1, LATENCY))
    if granularity is not None and (granularity < 1 or width % granularity):
        raise ValueError(f"a granularity divides the width, but {granularity!r} does not divide {width!r}")
    address, enables = _address_bits(depth), width // (granularity or width)
    return {"w_en": In(enables), "w_addr": In(address), "w_data": In(width), "r_addr": In(address), "r_data": Out(width)}


def _check_adder(width: int) -> None:
    if width < 1:
        raise ValueError(f"an adder needs at least one bit, not width={width!r}")


class BlockMemory(wiring.Component):
    """Memory with one write and one read port in the same clock domain, in block RAM.

    `r_data` shows the row at `r_addr` exactly `latency` cycles later. Addresses beyond the depth must not be used:
    callers check and trap. A row that is written in the very cycle in which it is read, or the next, comes out undefined
    (the generic form shows it as before). Rows start at zero; `r_data` is not reset, and what it shows in the first
    `latency` cycles is undefined.

    Parameters
    ----------
    depth, width : int
        Rows, and bits of a row.
    latency : int
        `LATENCY`, with a register behind the memory, or 1.
    granularity : int, optional
        Bits of a row that are written together (default: all), of which each group has a bit of `w_en`.

    On the ECP5, memories of up to 64 rows are built of distributed RAM.

    Members
    -------
    w_en : In(width / granularity), w_addr, w_data
    r_addr, r_data
    """

    def __init__(self, depth: int, width: int, latency: int = LATENCY, granularity: int | None = None):
        super().__init__(_memory_members(depth, width, latency, granularity))
        self.depth, self.width, self.latency, self.granularity = depth, width, latency, granularity or width

    def elaborate(self, platform):
        return _form(platform).block_memory(self)


class BitMemory(wiring.Component):
    """Memory that is written bit by bit, and read row by row by several at once.

    `r_data[i]` shows the row at `r_addr[i]` exactly `latency` cycles later; a bit that is written in that cycle or in
    the one before comes out undefined, the row's other bits do not. Rows start at zero; `r_data` is not reset.

    Parameters
    ----------
    depth, width : int
        Rows, and bits of a row: a power of two, at least 8.
    readers : int
    latency : int
        As of `BlockMemory`.

    Members
    -------
    w_en : In(1), w_addr, w_data : In(1)
        `w_addr` is the bit's row times `width` plus its place in it.
    r_addr : In(array of readers), r_data : Out(array of readers)
    """

    def __init__(self, depth: int, width: int, readers: int, latency: int = LATENCY):
        _check_memory(depth, width)
        _check_latency(latency, (1, LATENCY))
        if width < 8 or width & (width - 1) or readers < 1:
            raise ValueError(f"a memory of bits needs a width of 8, 16, 32, ... and a reader, not {width=!r}, {readers=!r}")
        self.depth, self.width, self.readers, self.latency = depth, width, readers, latency
        super().__init__(
            {
                "w_en": In(1),
                "w_addr": In(_address_bits(depth * width)),
                "w_data": In(1),
                "r_addr": In(data.ArrayLayout(unsigned(_address_bits(depth)), readers)),
                "r_data": Out(data.ArrayLayout(unsigned(width), readers)),
            }
        )

    def elaborate(self, platform):
        return _form(platform).bit_memory(self)


class SinglePortMemory(wiring.Component):
    """Memory that reads or writes one row a cycle: on the iCE40 its large single-port RAM, elsewhere block RAM.

    `r_data` shows the row at `r_addr` exactly `latency` cycles later, if that cycle did not write; it is undefined for a
    cycle that wrote. On the iCE40 the rows start undefined, elsewhere at zero.

    Parameters
    ----------
    depth, width : int
    granularity : int, optional
        As of `BlockMemory`.

    Members
    -------
    w_en : In(width / granularity), w_addr, w_data
    r_addr, r_data
    """

    def __init__(self, depth: int, width: int, latency: int = LATENCY, granularity: int | None = None):
        super().__init__(_memory_members(depth, width, latency, granularity))
        self.depth, self.width, self.latency, self.granularity = depth, width, latency, granularity or width

    def elaborate(self, platform):
        return _form(platform).single_port_memory(self)


class Buffer(wiring.Component):
    """A bit, again: drives the many readers of a signal, so that what follows it in a chain of logic need not wait for them.

    On the ECP5 a LUT, which synthesis does not see through.

    Members
    -------
    i : In(1), o : Out(1)
    """

    def __init__(self):
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        return _form(platform).buffer(self)


class Gate(wiring.Component):
    """A function of up to four bits that stays one level of logic.

    On the ECP5 a LUT, which synthesis does not see through: it makes a chain as long as it likes of what is not slow in the
    module at hand, however far apart the ends of the chain are.

    Parameters
    ----------
    inputs : int
    function
        From so many bits to one.

    Members
    -------
    i : In(inputs), o : Out(1)
    """

    def __init__(self, inputs: int, function: Callable[..., int]):
        if not 1 <= inputs <= 4:
            raise ValueError(f"a gate has 1 to 4 inputs, not {inputs!r}")
        rows = ([row >> i & 1 for i in range(inputs)] for row in range(1 << inputs))
        self.table = sum(bool(function(*bits)) << row for row, bits in enumerate(rows))
        super().__init__({"i": In(inputs), "o": Out(1)})

    def elaborate(self, platform):
        return _form(platform).gate(self)


class DualReadMemory(wiring.Component):
    """Memory that two read at once; it is written through the first one's port.

    `r_data[i]` shows the row at `addr[i]` exactly `latency` cycles later. Undefined are `r_data[0]` for a cycle that wrote,
    and `r_data[1]` for one in which its row was written. Rows start at zero.

    Parameters
    ----------
    depth, width : int

    Members
    -------
    addr : In(array of 2), w_en : In(1), w_data
        The row `addr[0]` is written.
    r_data : Out(array of 2)
    """

    def __init__(self, depth: int, width: int, latency: int = LATENCY):
        _check_memory(depth, width)
        _check_latency(latency, (1, LATENCY))
        self.depth, self.width, self.latency = depth, width, latency
        super().__init__(
            {
                "addr": In(data.ArrayLayout(unsigned(_address_bits(depth)), 2)),
                "w_en": In(1),
                "w_data": In(width),
                "r_data": Out(data.ArrayLayout(unsigned(width), 2)),
            }
        )

    def elaborate(self, platform):
        return _form(platform).dual_read_memory(self)


class SmallMemory(wiring.Component):
    """Memory of a few rows, read in the same cycle: distributed RAM on the ECP5, registers on the iCE40.

    `r_data` shows the row at `r_addr` in the same cycle (`latency` 0) or, registered, in the next (`latency` 1). A row
    that is written shows its new content from the next cycle on. Rows start at zero.

    Parameters
    ----------
    depth, width : int
    latency : int
        0 or 1.

    Members
    -------
    w_en : In(1), w_addr, w_data
    r_addr, r_data
    """

    def __init__(self, depth: int, width: int, latency: int = 0):
        _check_memory(depth, width)
        _check_latency(latency, (0, 1))
        self.depth, self.width, self.latency = depth, width, latency
        address = _address_bits(depth)
        super().__init__({"w_en": In(1), "w_addr": In(address), "w_data": In(width), "r_addr": In(address), "r_data": Out(width)})

    def elaborate(self, platform):
        return _form(platform).small_memory(self)


class MultiplierArray(wiring.Component):
    """`count` signed products a cycle, in the family's multipliers (iCE40: two products of up to 8 bits share one).

    `p[i]` is `a[i] * b[i]` of `MULTIPLIER_LATENCY` cycles before: operands and products are registered. The registers
    are not reset, and hold zero at first.

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
        return _form(platform).multiplier_array(self)


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
    """`s = a + operand(b, c, d) + carry_in`, modulo `2**width`. On the ECP5 the second operand costs nothing beside the adder.

    Parameters
    ----------
    width : int
    operand : function of (b, c, d)
        Bitwise, of values as of integers; zero where c and d are, which is what an ECP5 adder can do.
    carry : bool
        There is a carry into the adder.

    Members
    -------
    a, b, c : In(width)
    d : In(1)
        For every bit.
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
        return _form(platform).fused_adder(self)


class MaskedAdder(wiring.Component):
    """An adder of two operands, one of which a common bit masks: as large as one without the mask.

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
        return _form(platform).masked_adder(self)


class DigitProduct(wiring.Component):
    """`p = a * digit`, registered; not reset. On the ECP5 it is one adder.

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
        return _form(platform).digit_product(self)


class Accumulators(wiring.Component):
    """`count` sums of products, 32 bit and wrapping, which are shifted out, and by that cleared: on the iCE40 a multiplier each,
    and nothing else.

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
        Instead, every sum becomes the one `shown` places on, and the last ones zero. The sums are not reset: shifting clears them.
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
        return _form(platform).accumulators(self)


class Serialiser(wiring.Component):
    """Takes several values at once and shows them one after the other.

    `i[k]` of a cycle with `load` is shown k + 2 cycles later, unless there is a `load` within k cycles of it; `o` is zero
    when every value was shown. Not reset; the ECP5's form has no multiplexer in it.

    Parameters
    ----------
    parts, width : int
        Values, and bits of each.

    Members
    -------
    load : In(1), i : In(array of parts)
    o : Out(width)
    """

    def __init__(self, parts: int, width: int):
        if parts < 1 or width < 1:
            raise ValueError(f"a serialiser needs at least one value of one bit, not parts={parts!r}, width={width!r}")
        self.parts, self.width = parts, width
        super().__init__({"load": In(1), "i": In(data.ArrayLayout(unsigned(width), parts)), "o": Out(width)})

    def elaborate(self, platform):
        return _form(platform).serialiser(self)
