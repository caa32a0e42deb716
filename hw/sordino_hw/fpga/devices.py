"""The FPGAs that the presets are for."""

from dataclasses import dataclass, replace

from ..ecp5_pnr.chip import SPEEDS
from ..spec.arch import ArchConfig
from ..spec.errors import SordinoError

__all__ = ["DEVICES", "Device", "device_of"]


@dataclass(frozen=True)
class Device:
    """An FPGA as nextpnr knows it.

    `resources` names what a design uses of it: the name that a report shows -> the name of nextpnr's cell type.
    """

    name: str
    family: str
    options: tuple[str, ...]
    resources: tuple[tuple[str, str], ...]
    target: float
    """Clock frequency in MHz that place and route works towards."""
    clock_pin: str
    """Where the clock comes in: from a pin that the placer chose it may not reach the clock network."""
    serial_pins: tuple[str, str] | None = None
    """Where the board's serial line goes in and comes out: then the accelerator is measured as it is used, behind a
    `SerialPort`."""
    size: int | None = None
    """Thousands of LUTs, of an ECP5, which `ecp5_pnr` places and routes; none where nextpnr does it."""
    ports: tuple[str, ...] = ()
    """Pins for the ports of a design besides its clock, in their order, where `ecp5_pnr` places and routes."""
    speed: int | None = None
    """Speed grade, of an ECP5: 6, 7 or 8."""

    @property
    def nextpnr(self) -> str:
        """The program that knows the device."""
        return f"nextpnr-{self.family}"

    def at_speed(self, speed: int) -> "Device":
        """The same device of another speed grade. Raises `SordinoError` where it has none."""
        if self.speed is None:
            raise SordinoError(f"{self.name} has no speed grades.")
        if speed not in SPEEDS:
            raise SordinoError(f"{self.name} comes in the speed grades {', '.join(map(str, SPEEDS))}, not in {speed}.")
        at = self.options.index("--speed") + 1
        options = (*self.options[:at], str(speed), *self.options[at + 1 :])
        return replace(self, name=f"{self.name.rpartition('-')[0]}-{speed}", options=options, speed=speed)


_ECP5 = (("LUT", "TRELLIS_COMB"), ("FF", "TRELLIS_FF"), ("BRAM", "DP16KD"), ("DSP", "MULT18X18D"))
_ICE40 = (("LC", "ICESTORM_LC"), ("BRAM", "ICESTORM_RAM"), ("SPRAM", "ICESTORM_SPRAM"), ("DSP", "ICESTORM_DSP"))


def _ecp5(size: int, target: float) -> Device:
    options = (f"--{size}k", "--package", "CABGA381", "--speed", "6")
    return Device(f"LFE5U-{size}F-6", "ecp5", options, _ECP5, target, "G2", size=size, ports=("B2", "C2", "C1", "D2"), speed=6)


DEVICES = {
    "ulx3s-85f": _ecp5(85, 110.0),
    "ecp5-25f": _ecp5(25, 120.0),
    "icebreaker": Device("iCE40UP5K", "ice40", ("--up5k", "--package", "sg48"), _ICE40, 24.0, "35", ("6", "9")),
}
"""By preset: the device of its board."""


def device_of(arch: ArchConfig, preset: str | None = None, speed: int | None = None) -> Device:
    """The device of a preset, of another speed grade if `speed` is given. Raises `SordinoError` for an architecture that is none,
    unless `preset` names one, and for a speed grade that the device does not have."""
    name = preset or arch.name
    if name not in DEVICES:
        raise SordinoError(f"architecture {name!r} has no FPGA: name the device of one of {', '.join(DEVICES)}")
    return DEVICES[name] if speed is None else DEVICES[name].at_speed(speed)
