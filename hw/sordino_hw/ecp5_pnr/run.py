"""All of place and route, from a packed netlist to its bels and routes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .cells import CellDelays
from .chip import Chip
from .databases import cell_delays
from .fabric import Fabric
from .netlist import Packed
from .placer import Schedule, place
from .router import RouteOptions, route
from .timing import TimingGraph

__all__ = ["Result", "place_and_route"]


@dataclass(frozen=True)
class Result:
    """What `Packed.write` takes, and the longest path of each clock in ns, as it is routed.

    bels : number of a cell -> its bel; routes : number of a net -> its wires and pips
    longest : name of a clock -> ns
    """

    bels: dict[int, str]
    routes: dict[int, str]
    longest: dict[str, float]


def place_and_route(
    packed: Packed,
    chip: Chip,
    speed: int,
    period: float,
    periods: Mapping[str, float] | None = None,
    seed: int = 1,
    schedule: Schedule | None = None,
    options: RouteOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Places and routes all but the clock network, for a speed grade. `period`: the longest path to work towards, ns; `periods`:
    that of clocks for which it is another. The same arguments give the same result. `progress` is called with a note on what is
    done.

    Raises `ToolError`: where the netlist, the database or a clock is not understood, and where the device is too small; `NoRoute`,
    a `ToolError`, where not every net finds a path."""
    delays = CellDelays.read(cell_delays(speed))
    timing = TimingGraph(packed, delays, period, periods, chip.relative_delay(speed))
    placement = place(packed, Fabric.of(chip), timing, seed, schedule, progress)
    routing = route(packed, placement.bels, chip, timing, speed, options, progress)
    return Result(placement.bels, routing.routes, dict(zip(timing.clocks, routing.longest, strict=True)))
