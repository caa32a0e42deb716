"""Which clock each register of a netlist has.

A domain is all that is clocked by one net of the clock network. Paths within a domain are timed against its target. Paths from one
domain to another are not timed: nothing says how the edges of two clocks lie to one another, and a design must bring such signals
over by synchronisers or FIFOs, whatever the delay. (nextpnr lists them, too, and leaves them out of each clock's frequency.)"""

from typing import Any

from ..spec.errors import ToolError
from .netlist import Kind, Packed, Pin

__all__ = ["Clocks"]

_CLOCK_PORT = {Kind.FF: "CLK", Kind.LUT: "WCK", Kind.MULTIPLIER: "CLK0"}
"""Of a LUT as distributed RAM; of a multiplier whatever its parameters name: nextpnr times all by CLK0."""

_NETWORK_DRIVERS = ("DCCA", "DCSC")
_GLOBAL, _FROM_PIN = "$glbnet$", "$TRELLIS_IO_IN"
"""What nextpnr adds to the name of a net: of the clock network, and from a pin."""
_WIDEST_PORT = 36
"""Bits of a block RAM's port that takes the data pins of both."""
_READ_ADDRESS = frozenset((*(f"ADB{i}" for i in range(5, 14)), "CEB", "OCEB"))


class Clocks:
    """The clock domains of a packed netlist.

    names : of their nets or pins, without what nextpnr adds to them
    """

    def __init__(self, packed: Packed):
        self._packed = packed
        self._number: dict[int, int] = {}
        self._network = {
            bit
            for i in range(len(packed.names))
            if packed.description(i)["type"] in _NETWORK_DRIVERS
            for port, bits in packed.description(i)["connections"].items()
            if packed.description(i)["port_directions"][port] == "output"
            for bit in bits
        }
        self.names: list[str] = []

    def domain(self, pin: Pin) -> int:
        """The number of the domain of a register, at one of its data or control pins; numbered as they are met.

        Raises `ToolError` for a register whose clock is not known: it has none, or one that is not on the clock network.
        """
        packed = self._packed
        cell, name = packed.description(pin.cell), packed.names[pin.cell]
        port = _CLOCK_PORT.get(Kind(packed.kind[pin.cell])) or _memory_clock(cell, pin.port)
        (bit,) = cell["connections"].get(port) or (None,)
        if not isinstance(bit, int):
            raise ToolError(
                f"{name} is a register at its pin {pin.port}, and its clock {port} has no net: paths to it cannot be timed. "
                "Connect the clock."
            )
        if bit not in self._network:
            raise ToolError(
                f"{name} is clocked by {packed.net_name(bit)}, which is not on the clock network, and no other wires can carry a clock "
                "here. nextpnr puts a clock of five cells or more there; drive a smaller one by a DCCA."
            )
        if bit not in self._number:
            self._number[bit] = len(self.names)
            self.names.append(packed.net_name(bit).removeprefix(_GLOBAL).removesuffix(_FROM_PIN))
        return self._number[bit]


def _memory_clock(cell: dict[str, Any], port: str) -> str:
    """Of a block RAM's pin: its own port's, but that reading and writing are two ports where data is as wide as both."""
    half = next(letter for letter in reversed(port) if letter.isalpha())
    if _integer(cell["parameters"].get("DATA_WIDTH_A")) == _WIDEST_PORT:
        half = "B" if cell["port_directions"][port] == "output" or port in _READ_ADDRESS else "A"
    return f"CLK{half}"


def _integer(value: str | int | None) -> int:
    """A parameter: decimal, or binary as Yosys writes numbers."""
    text = str(value or 0).strip()
    return int(text, 2 if len(text) > 2 and set(text) <= {"0", "1"} else 10) if text.isdigit() else 0
