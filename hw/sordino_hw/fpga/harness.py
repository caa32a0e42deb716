"""Designs that make the accelerator measurable: behind few enough pins for a package."""

from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Signal, Value

from ..gateware.host.serial import SerialTop
from ..gateware.top import Top
from ..spec.arch import ArchConfig
from .devices import Device

__all__ = ["Harness", "Registered", "SerialHarness", "harness_of"]


def _ports(component):
    """(inputs, outputs) of a `wiring.Component` as lists of values."""
    members = list(component.signature.flatten(component))
    return tuple([Value.cast(v) for _, m, v in members if m.flow.name == way] for way in ("In", "Out"))


class Registered(Elaboratable):
    """A component between registers, with four pins: its inputs come from a shift register, its outputs go into another.

    Nothing of it is optimised away, it fits any package, and each of its paths starts and ends in a register. The outputs are
    registered once before they enter the shift register, so that no path of the wrapper is the slowest.

    Members
    -------
    serial_in, load, serial_out
        Bits in; whether the outputs are caught in this cycle; bits out.
    """

    def __init__(self, component):
        self.component = component
        self.serial_in, self.load, self.serial_out = (Signal(name=name) for name in ("serial_in", "load", "serial_out"))

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.component
        inputs, outputs = _ports(self.component)
        shift_in = Signal(sum(len(v) for v in inputs), reset_less=True)
        caught = Signal(sum(len(v) for v in outputs), reset_less=True)
        shift_out = Signal.like(caught, reset_less=True)
        pins = [Signal(reset_less=True, name=name) for name in ("pin_in", "pin_load")]
        m.d.sync += [
            *(held_pin.eq(pin) for held_pin, pin in zip(pins, (self.serial_in, self.load), strict=True)),
            shift_in.eq(Cat(pins[0], shift_in)),
            caught.eq(Cat(outputs)),
            shift_out.eq(Cat(pins[0], shift_out)),
            self.serial_out.eq(shift_out[-1]),
        ]
        with m.If(pins[1]):
            m.d.sync += shift_out.eq(caught)
        m.d.comb += Cat(inputs).eq(shift_in)
        return m


class Harness(Elaboratable):
    """The whole accelerator behind four pins and a clock, for measurement only: no board can use it."""

    def __init__(self, arch: ArchConfig):
        self.wrapper = Registered(Top(arch))
        self.clk, self.rst = Signal(name="clk"), Signal(name="rst")

    @property
    def ports(self) -> list[Signal]:
        return [self.clk, self.rst, self.wrapper.serial_in, self.wrapper.load, self.wrapper.serial_out]

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain()
        held = Signal(2, reset_less=True)
        m.d.comb += [sync.clk.eq(self.clk), sync.rst.eq(held[1])]
        m.d.sync += held.eq(Cat(self.rst, held))
        m.submodules.wrapper = self.wrapper
        return m


class SerialHarness(Elaboratable):
    """The whole accelerator on a serial line, as on a board. Registers start from their initial values."""

    DIVISOR = 12
    """Clock cycles of a bit: 2 Mbit/s at 24 MHz."""

    def __init__(self, arch: ArchConfig):
        self.top = SerialTop(arch, self.DIVISOR)
        self.clk, self.rx, self.tx = Signal(name="clk"), Signal(name="rx"), Signal(name="tx")

    @property
    def ports(self) -> list[Signal]:
        return [self.clk, self.rx, self.tx]

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain(reset_less=True)
        m.d.comb += [sync.clk.eq(self.clk), self.top.rx.eq(self.rx), self.tx.eq(self.top.tx)]
        m.submodules.top = self.top
        return m


def harness_of(arch: ArchConfig, device: Device) -> Harness | SerialHarness:
    """The design to measure of an architecture on a device: `SerialHarness` where the board has a serial line, else `Harness`."""
    return SerialHarness(arch) if device.serial_pins and arch.profile == "small" else Harness(arch)
