"""Gates that synthesis must leave as they are, and a serialiser."""

from collections.abc import Callable

from amaranth.hdl import unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .family import family_of

__all__ = ["SERIALISER_LATENCY", "Buffer", "Gate", "Serialiser"]

SERIALISER_LATENCY = 2
"""From the cycle in which a `Serialiser` takes its values to the one in which it shows the first."""


class Buffer(wiring.Component):
    """A fan-out buffer: drives many readers of a late signal, so that its other readers have a net of their own.

    On the ECP5 it is a LUT, which synthesis does not optimise away.

    Members
    -------
    i : In(1), o : Out(1)
    """

    def __init__(self):
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        return family_of(platform).buffer(self)


class Gate(wiring.Component):
    """A function of up to four bits that stays one level of logic.

    On the ECP5 it is a LUT, which synthesis does not restructure. Synthesis does not know how far apart the cells are: left
    alone, it would put more levels on a path that is slow because of its wires.

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
        return family_of(platform).gate(self)


class Serialiser(wiring.Component):
    """Takes several values at once and shows them one after the other.

    Throughput: a value a cycle.

    `i[k]` of a cycle with `load` is shown `SERIALISER_LATENCY` + k cycles later, unless there is a `load` within k cycles of it;
    `o` is zero when every value was shown. Not reset; the ECP5's form has no multiplexer in it.

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
        return family_of(platform).serialiser(self)
