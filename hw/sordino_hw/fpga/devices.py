"""The FPGAs that the presets are for."""

from dataclasses import dataclass

from ..arch import ArchConfig
from ..errors import SordinoError

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

    @property
    def nextpnr(self) -> str:
        return f"nextpnr-{self.family}"


_ECP5 = (("LUT", "TRELLIS_COMB"), ("FF", "TRELLIS_FF"), ("BRAM", "DP16KD"), ("DSP", "MULT18X18D"))
_ICE40 = (("LC", "ICESTORM_LC"), ("BRAM", "ICESTORM_RAM"), ("SPRAM", "ICESTORM_SPRAM"), ("DSP", "ICESTORM_DSP"))

DEVICES = {
    "ulx3s-85f": Device("LFE5U-85F-6", "ecp5", ("--85k", "--package", "CABGA381", "--speed", "6"), _ECP5, 125.0, "G2"),
    "ecp5-25f": Device("LFE5U-25F-6", "ecp5", ("--25k", "--package", "CABGA381", "--speed", "6"), _ECP5, 100.0, "G2"),
    "icebreaker": Device("iCE40UP5K", "ice40", ("--up5k", "--package", "sg48"), _ICE40, 30.0, "35"),
}
"""By preset: the device of its board."""


def device_of(arch: ArchConfig, preset: str | None = None) -> Device:
    """The device of a preset. Raises `SordinoError` for an architecture that is none, unless `preset` names one."""
    name = preset or arch.name
    if name not in DEVICES:
        raise SordinoError(f"architecture {name!r} has no FPGA: name the device of one of {', '.join(DEVICES)}")
    return DEVICES[name]
