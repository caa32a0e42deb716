"""Time from cycles: what an inference takes at the clock that was measured for its architecture.

An inference consists of three parts, which are kept apart:

- compute: cycles from start to halt, summed over the program's segments;
- load: writing instructions, weights and parameters that the memories do not hold from the image before. A program of one
  segment is loaded once, before the first image; one of several writes what differs again for every image;
- link: writing the input, and reading the output.

Load and link are counted at the rate of the array's own port: three cycles and more for a 32-bit word over AXI4-Lite, or a frame of
the serial line (docs: the serial port) at its highest speed of eight cycles a bit. A host that is slower than the port adds to it; nothing
overlaps.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sordino_hw.spec.arch import PRESETS, ArchConfig
from sordino_hw.spec.isa import Region, region_bits, row_pieces, window_bits
from sordino_hw.spec.latencies import Latencies
from sordino_hw.spec.program import Program, Segment
from sordino_sim.rtl.images import segment_images

__all__ = ["MEASURED", "Clock", "Speed", "Transfers", "clock_of", "transfers"]


@dataclass(frozen=True)
class Clock:
    """A clock frequency and how it was found."""

    mhz: float
    source: str
    """Command that repeats the measurement, or where else the number is from."""

    @property
    def kind(self) -> str:
        """In a word or two."""
        return "measured after place and route" if self in MEASURED.values() else self.source


MEASURED = {
    "ulx3s-85f": Clock(107.9, "median of five seeds, `sordino bench fpga --arch ulx3s-85f`"),
    "ecp5-25f": Clock(116.5, "median of five seeds, `sordino bench fpga --arch ecp5-25f`"),
    "icebreaker": Clock(28.6, "median of three seeds, `sordino bench fpga --arch icebreaker --seeds 1,2,3`"),
}
"""Clock frequencies of the presets after place and route, and what repeats the measurement (results: docs, FPGA)."""

BUS_CYCLES = 3
"""Cycles of a 32-bit write over AXI4-Lite, back to back (`sordino_hw.gateware.host.port`)."""

ROW_OVERLAP = 2
"""Pieces of a row that pass the window while the next write comes in; the others add a cycle each to the row's last write."""

READ_CYCLES = 6
"""Cycles of a read over AXI4-Lite beside those of the window, `Latencies.window`."""

SERIAL_BIT = 8
"""Cycles of a bit on the serial line, at least (`sordino_hw.gateware.host.serial.SerialPort`)."""

SERIAL_FRAME, SERIAL_ANSWER = 110, 80
"""Bits of a frame to the array, and of its answer, start and stop bits included."""


def clock_of(arch: ArchConfig, mhz: float | None = None) -> Clock | None:
    """`mhz` as a clock, or the one that was measured for `arch`; None for an architecture that nobody has measured."""
    if mhz is not None:
        return Clock(mhz, "as given")
    return next((MEASURED[name] for name, a in PRESETS.items() if a.hash == arch.hash and name in MEASURED), None)


@dataclass(frozen=True)
class Transfers:
    """Cycles of the host's port."""

    once: int
    """To load a program before the first image."""
    loads: tuple[int, ...]
    """By segment: to load again what differs from the segment before, for every image after the first."""
    write: int
    """To write the inputs."""
    read: int
    """To read the outputs."""

    @property
    def load(self) -> int:
        """Of all segments."""
        return sum(self.loads)

    @property
    def link(self) -> int:
        """To write the inputs and to read the outputs."""
        return self.write + self.read


@dataclass(frozen=True)
class Speed:
    """What an inference takes. Times are None without a clock."""

    cycles: float
    """Of computing."""
    transfers: Transfers
    clock: Clock | None

    def milliseconds(self, cycles: float) -> float | None:
        return None if self.clock is None else cycles / (self.clock.mhz * 1e3)

    @property
    def frames_per_second(self) -> float | None:
        """Compute, load and link one after the other."""
        total = self.milliseconds(self.cycles + self.transfers.load + self.transfers.link)
        return None if not total else 1e3 / total

    @property
    def compute_frames_per_second(self) -> float | None:
        """Of computing alone."""
        total = self.milliseconds(self.cycles)
        return None if not total else 1e3 / total

    def at(self, cycles: float) -> "Speed":
        """The same with other cycles of computing."""
        return replace(self, cycles=cycles)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: cycles, and times in ms, null without a clock."""
        parts = {"compute": self.cycles, "load": self.transfers.load, "link": self.transfers.link, "once": self.transfers.once}
        return {
            "clock_mhz": None if self.clock is None else self.clock.mhz,
            "clock_source": None if self.clock is None else self.clock.source,
            **{f"{name}_cycles": cycles for name, cycles in parts.items()},
            **{f"{name}_ms": self.milliseconds(cycles) for name, cycles in parts.items()},
            "frames_per_second": self.frames_per_second,
            "compute_frames_per_second": self.compute_frames_per_second,
        }

    def __str__(self) -> str:
        t = self.transfers
        if self.clock is None:
            return (
                f"Time: {self.cycles:,.0f} cycles compute, {t.load:,} load, {t.link:,} link. No clock was measured for this "
                "architecture: give one with --clock MHZ for ms and frames/s."
            )
        compute, load, link, once = (self.milliseconds(c) for c in (self.cycles, t.load, t.link, t.once))
        text = (
            f"Time of an image at {self.clock.mhz:g} MHz ({self.clock.kind}): compute {_ms(compute)}, weights {_ms(load)}, link {_ms(link)}; "
            f"{_rate(self.frames_per_second)} frames/s, {_rate(self.compute_frames_per_second)} compute only."
        )
        return text + f" Loading the program once: {_ms(once)}." * (t.load == 0)


def transfers(program: Program) -> Transfers:
    """Cycles that the host's port takes for a program, as the RTL's driver uses it: what a memory holds already is not written."""
    held: dict[tuple[Region, int], np.ndarray] = {}

    def load(segment: Segment) -> int:
        cycles = 0
        for place, image in segment_images(segment).items():
            before = held.get(place)
            if before is None or not np.array_equal(before[: len(image)], image):
                cycles += _write(program.arch, place[0], len(image))
                held[place] = image
        return cycles

    once = sum(load(segment) for segment in program.segments)
    again = tuple(load(segment) for segment in program.segments)
    written = sum(_write(program.arch, Region.ACT, program.addresses(name).size) for name in program.inputs)
    read = sum(_read(program.arch, program.addresses(name).size) for name in program.outputs)
    return Transfers(once, again, written, read)


def _write(arch: ArchConfig, region: Region, rows: int) -> int:
    if arch.profile == "small":
        return rows * SERIAL_FRAME * SERIAL_BIT
    bits = region_bits(arch, region)
    return rows * (row_pieces(bits) * BUS_CYCLES + max(0, -(-bits // window_bits(arch)) - ROW_OVERLAP))


def _read(arch: ArchConfig, rows: int) -> int:
    if arch.profile == "small":
        return rows * (SERIAL_FRAME + SERIAL_ANSWER) * SERIAL_BIT
    return rows * row_pieces(region_bits(arch, Region.ACT)) * (Latencies(arch).window + READ_CYCLES)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if value < 0.1:
        return f"{value * 1e3:.1f} µs"
    return f"{value:.3f} ms" if value < 1 else f"{value:,.2f} ms" if value < 100 else f"{value:,.0f} ms"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
