"""The reports of place and route, as data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..spec.errors import ToolError
from .devices import Device

__all__ = ["CriticalPath", "Hop", "Routed", "SlowGroup"]


@dataclass(frozen=True)
class Hop:
    """One step of a path: `kind` is clk-to-q, logic, routing or setup; `cell` is where it ends; `delay` in ns."""

    kind: str
    delay: float
    cell: str


@dataclass(frozen=True)
class CriticalPath:
    """The slowest path between registers of the design's clock."""

    hops: tuple[Hop, ...]
    source: str
    sink: str

    @property
    def routing(self) -> float:
        """Nanoseconds on wires."""
        return sum(hop.delay for hop in self.hops if hop.kind == "routing")

    @property
    def logic(self) -> float:
        """Nanoseconds in cells, clock-to-output and setup included."""
        return sum(hop.delay for hop in self.hops if hop.kind != "routing")

    @property
    def levels(self) -> int:
        """Cells passed between the registers."""
        return sum(hop.kind == "logic" for hop in self.hops)

    def __str__(self) -> str:
        return (
            f"{self.source} -> {self.sink}: {self.logic + self.routing:.1f} ns, "
            f"logic {self.logic:.1f} ns in {self.levels} cells, routing {self.routing:.1f} ns"
        )


@dataclass(frozen=True)
class SlowGroup:
    """A group of endpoints: inputs of registers and memories whose names (`sink`) differ only in digits, which are written as `#`.

    `endpoints` is their number, `delay` the time in ns from the clock edge to the slowest one, without its setup, and `source` the
    last cell before that one.
    """

    sink: str
    source: str
    endpoints: int
    delay: float


@dataclass(frozen=True)
class Routed:
    """One placed and routed design: `fmax` in MHz, `used` and `available` by resource name; `slow`: the groups of endpoints whose
    delay is more than `SLOW` of the slowest path's, slowest first.
    """

    seed: int
    fmax: float
    used: dict[str, int]
    available: dict[str, int]
    path: CriticalPath
    slow: tuple[SlowGroup, ...] = ()

    @classmethod
    def from_report(cls, report: dict[str, Any], device: Device, seed: int) -> "Routed":
        """From nextpnr's `--report`. Raises `ToolError` if it times no clock."""
        if not report["fmax"]:
            raise ToolError(f"{device.nextpnr} reports no clock: the design has no path between registers")
        clock = min(report["fmax"], key=lambda name: report["fmax"][name]["achieved"])
        utilisation = report["utilization"]
        return cls(
            seed,
            report["fmax"][clock]["achieved"],
            {name: utilisation.get(cell, {}).get("used", 0) for name, cell in device.resources},
            {name: utilisation.get(cell, {}).get("available", 0) for name, cell in device.resources},
            _path(report["critical_paths"], clock),
            _slow(report.get("detailed_net_timings", ()), clock),
        )


SLOW = 0.85
"""Share of the slowest path's delay above which an endpoint is listed."""


def _slow(nets: Sequence[dict[str, Any]], clock: str) -> tuple[SlowGroup, ...]:
    """Groups of slow endpoints, from the arrival times of a detailed report: nextpnr gives the least and the greatest of each."""
    edge = f"posedge {clock}"
    ends = [
        (max(end["delay"]), net, end) for net in nets if net["event"] == edge for end in net["endpoints"] if end["event"] == edge
    ]
    least = SLOW * max((delay for delay, _, _ in ends), default=0.0)
    groups: dict[str, SlowGroup] = {}
    for delay, net, end in sorted((e for e in ends if e[0] >= least), key=lambda e: -e[0]):
        sink = _DIGITS.sub("#", f"{_readable(end['cell'])}.") + end["port"].rstrip("0123456789")
        slowest = groups.get(sink, SlowGroup(sink, _DIGITS.sub("#", _readable(net["driver"])), 0, delay))
        groups[sink] = replace(slowest, endpoints=slowest.endpoints + 1)
    return tuple(groups.values())


_DIGITS = re.compile(r"\d+")
_MAPPED = re.compile(r"(_(LUT4|CCU2C|PFUMX|L6MUX21|TRELLIS_FF|TRELLIS_DPR16X4|SB_[A-Z0-9]+|MULT18X18D|DP16KD)_|\$)")


def _readable(cell: str) -> str:
    """The signal that a cell's name begins with, without what the tools append to it."""
    name = cell.removeprefix("wrapper.").removeprefix("dut.")
    match = _MAPPED.search(name, 1)
    return name[: match.start()] if match else name


def _path(paths: list[dict[str, Any]], clock: str) -> CriticalPath:
    edge = f"posedge {clock}"
    steps: list[dict[str, Any]] = next((p["path"] for p in paths if p["from"] == p["to"] == edge), [])
    hops = tuple(Hop(step["type"], step["delay"], _readable(step["to"]["cell"])) for step in steps)
    return CriticalPath(
        hops, _readable(steps[0]["from"]["cell"]) if steps else "", _readable(steps[-1]["to"]["cell"]) if steps else ""
    )
