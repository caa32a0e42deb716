"""A placer for the ECP5: every LUT, flip-flop, block RAM and multiplier of a netlist that nextpnr has packed.

`globally` does the global placement and legalises it: `sites` chooses sites of the hard blocks, `spread` places logic between them,
`legal` finds slots for it. `anneal` improves the result by simulated annealing, `state` and `moves` being its parts. `place` is all
of it."""

from collections.abc import Callable
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from ..fabric import SLOTS, SLOTS_PER_SLICE, Fabric
from ..netlist import Kind, Packed
from ..timing import TimingGraph
from .anneal import Annealer, Schedule
from .globally import place_globally
from .legal import Slots
from .problem import Problem

__all__ = ["Placement", "Schedule", "place"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Placement:
    """`bels`: the bel of each cell that is not fixed, by number. `wire`: half perimeters of all nets, in tiles; `longest`: the
    longest path of all clocks in ns, an estimate."""

    bels: dict[int, str]
    wire: int
    longest: float


def place(
    packed: Packed,
    fabric: Fabric,
    timing: TimingGraph,
    seed: int,
    schedule: Schedule | None = None,
    progress: Progress | None = None,
) -> Placement:
    """Places all cells but the fixed ones. `timing` has the periods to work towards. The same arguments give the same placement.

    Raises `ToolError` where the device is too small.
    """
    say = progress or (lambda note: None)
    problem = Problem.of(packed, fabric)
    slots = Slots.empty(problem)
    with threadpool_limits(1):  # vectors are short: threads of BLAS wait for one another
        sites, root = place_globally(problem, slots, seed, say)
    annealer = Annealer(problem, slots, root, sites, timing, seed)

    def report(step: int, steps: int, wire: int, longest: float) -> None:
        say(f"annealing {100 * step // steps} %, {wire:,} tiles of wire, {timing.report()}")

    longest = annealer.run(schedule or Schedule(), report)
    return Placement(_bels(problem, annealer), annealer.wire, longest)


def _bels(problem: Problem, annealer: Annealer) -> dict[int, str]:
    """nextpnr's names of where the cells are."""
    packed = problem.packed
    bels = {}
    for cell, kind in enumerate(packed.kind):
        if kind in (Kind.LUT, Kind.FF):
            slice_, half = divmod(int(annealer.slots.of[cell]) % SLOTS, SLOTS_PER_SLICE)
            part = f"SLICE{'ABCD'[slice_]}.{'K' if kind == Kind.LUT else 'FF'}{half}"
        elif kind == Kind.WRITER:
            part = "SLICEC.RAMW"
        else:
            continue
        at = packed.home[cell]
        bels[cell] = f"X{annealer.x[at]}/Y{annealer.y[at]}/{part}"
    for cell, site in zip(problem.blocks, annealer.sites, strict=True):
        bels[int(cell)] = problem.sites(Kind(packed.kind[cell]))[site].bel
    return bels
