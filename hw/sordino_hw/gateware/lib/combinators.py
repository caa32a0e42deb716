"""Combinational helpers and delays that the stages share."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value

from ..primitives import Buffer, Gate

__all__ = ["buffered", "count_ones", "delay", "gate", "index_of", "joined", "lowest", "row_mask", "without_lowest"]


def buffered(m: Module, value, name: str):
    """A fan-out buffer: see `Buffer`."""
    m.submodules[f"{name}_buffer"] = buffer = Buffer()
    m.d.comb += buffer.i.eq(value)
    return buffer.o


def gate(m: Module, name: str, function, *bits):
    """A function of up to four bits, in one level of logic: see `Gate`."""
    m.submodules[f"{name}_gate"] = made = Gate(len(bits), function)
    m.d.comb += made.i.eq(Cat(bits))
    return made.o


def without_lowest(bits, width: int):
    """`width` bits without the lowest one that is set; up to eight bits without a carry chain."""
    if width > 8:
        return bits & (bits - 1)[:width]
    return Cat(bits[i] & (bits[:i].any() if i else 0) for i in range(width))


def lowest(bits, width: int):
    """The lowest set bit of `bits`, as (one-hot of `width` bits, its index); (0, 0) if none is set."""
    one_hot = bits & ~without_lowest(bits, width)
    return one_hot, index_of(one_hot, width)


def index_of(one_hot, width: int):
    """The index of the one of `width` bits that is set; 0 if none is."""
    return Cat(Cat(one_hot[i] for i in range(width) if i >> k & 1).any() for k in range(max(1, (width - 1).bit_length())))


def row_mask(low, top, width: int):
    """A mask of the bits `low` to `top` of a row."""
    ones = Const((1 << width) - 1)
    return (ones << low) & (ones >> ~top)


def count_ones(bits, width: int):
    """The number of set bits among `width`: a table for each four bits, then a tree of adders."""
    table = Array(Const(i.bit_count(), 3) for i in range(16))
    counts = [table[bits[i : min(i + 4, width)]] for i in range(0, width, 4)]
    while len(counts) > 1:
        counts = [sum(counts[i + 1 : i + 2], start=counts[i]) for i in range(0, len(counts), 2)]
    return counts[0]


def joined(gated):
    """The OR of the values of (enable, value) pairs, where they are enabled: a multiplexer, if at most one is."""
    return reduce(or_, (Value.cast(value).as_unsigned() & enable.replicate(len(Value.cast(value))) for enable, value in gated))


def delay(m: Module, value, cycles: int, name: str, *, reset_less: bool = False):
    """`value` (a value or a view) of `cycles` before, through registers that start at zero.

    Registers of data need no reset: `reset_less` saves a net across the device.
    """
    for k in range(cycles):
        held = Signal(value.shape(), name=f"{name}_{k + 1}", reset_less=reset_less)
        m.d.sync += held.eq(value)
        value = held
    return value
