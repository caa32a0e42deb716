"""The FPGAs that the presets are for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..spec.arch import ArchConfig
from ..spec.errors import SordinoError

__all__ = ["DEVICES", "Device", "Fabric", "Site", "device_of"]


@dataclass(frozen=True)
class Site:
    """Where a macro can go: column and row of the device's grid, and nextpnr's name of the basic element there."""

    x: int
    y: int
    bel: str


@dataclass(frozen=True)
class Fabric:
    """What placer and router must know of an FPGA: columns and rows of its logic tiles, the sites of its macros by cell type, pins for
    the ports of a design, in their order, and nextpnr's database of its wires.
    """

    columns: tuple[int, ...]
    rows: tuple[int, ...]
    sites: Mapping[str, tuple[Site, ...]]
    pins: tuple[str, ...]
    database: str


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
    """Where the board's serial line goes in and comes out: then the accelerator is measured as it is used, behind a `SerialPort`."""
    fabric: Fabric | None = None
    """Where cells and wires can go, if the flow places and routes by itself; none where nextpnr does it."""

    @property
    def nextpnr(self) -> str:
        return f"nextpnr-{self.family}"


_ECP5 = (("LUT", "TRELLIS_COMB"), ("FF", "TRELLIS_FF"), ("BRAM", "DP16KD"), ("DSP", "MULT18X18D"))
_ICE40 = (("LC", "ICESTORM_LC"), ("BRAM", "ICESTORM_RAM"), ("SPRAM", "ICESTORM_SPRAM"), ("DSP", "ICESTORM_DSP"))


def _ecp5(
    size: int, columns: range, rows: range, repeats: Iterable[int], memories: tuple[int, ...], multipliers: tuple[int, ...]
) -> Fabric:
    """A device whose rows of macros repeat every nine columns: four block RAMs, or two pairs of multipliers."""
    repeats = tuple(repeats)

    def row(name: str, y: int, offsets: Iterable[tuple[int, int]]) -> list[Site]:
        return [Site(x + offset, y, f"X{x + offset}/Y{y}/{name}{z}") for x in repeats for offset, z in offsets]

    sites = {
        "DP16KD": tuple(site for y in memories for site in row("EBR", y, ((0, 0), (2, 1), (4, 2), (6, 3)))),
        "MULT18X18D": tuple(site for y in multipliers for site in row("MULT18_", y, ((0, 0), (1, 1), (4, 4), (5, 5)))),
    }
    macros = {*memories, *multipliers}
    logic = tuple(y for y in rows if y not in macros)
    return Fabric(tuple(columns), logic, sites, ("B2", "C2", "C1", "D2"), f"chipdb-{size}k.bin")


_85F = _ecp5(85, range(2, 125), range(2, 94), (*range(4, 59, 9), *range(69, 115, 9)), (22, 46, 70, 82), (10, 34, 58))
_25F = _ecp5(25, range(2, 71), range(2, 49), (4, 13, 22, 33, 42, 51, 60), (25, 37), (13,))

DEVICES = {
    "ulx3s-85f": Device("LFE5U-85F-6", "ecp5", ("--85k", "--package", "CABGA381", "--speed", "6"), _ECP5, 110.0, "G2", fabric=_85F),
    "ecp5-25f": Device("LFE5U-25F-6", "ecp5", ("--25k", "--package", "CABGA381", "--speed", "6"), _ECP5, 120.0, "G2", fabric=_25F),
    "icebreaker": Device("iCE40UP5K", "ice40", ("--up5k", "--package", "sg48"), _ICE40, 24.0, "35", ("6", "9")),
}
"""By preset: the device of its board."""


def device_of(arch: ArchConfig, preset: str | None = None) -> Device:
    """The device of a preset. Raises `SordinoError` for an architecture that is none, unless `preset` names one."""
    name = preset or arch.name
    if name not in DEVICES:
        raise SordinoError(f"architecture {name!r} has no FPGA: name the device of one of {', '.join(DEVICES)}")
    return DEVICES[name]
