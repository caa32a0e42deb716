"""A placer for the ECP5: every LUT, flip-flop, block RAM and multiplier of a netlist that nextpnr has packed.

`sites` decides where the macros go, `spread` where everything would like to be, `legal` finds slots for it, `anneal` improves that with
`timing` in mind. `place` is all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ...fpga.devices import Fabric
from ..netlist import SLOTS, Kind, Packed
from ..timing import TimingGraph
from .anneal import Annealer, Schedule
from .legal import Slots, place_lone, place_macros
from .problem import Problem
from .sites import arrange, places_of, reassign, site_affinity
from .spread import Places, Room, Wires, optimise

__all__ = ["Placement", "Schedule", "place"]

_CANDIDATES, _FINALISTS = 12, 3
"""Arrangements of macros that are begun with, and those of least wire that are gone on with, until one is left."""

_REASSIGNMENTS = 8

_FULL = 0.9
"""Share of a tile's slots that spreading may fill."""

_FULL_FLIP_FLOPS = 0.8
"""Of those beside macros: control sets do not go into one another."""

Progress = Callable[[str], None]

Candidate = tuple[NDArray[np.int64], Places, Places]
"""Sites of the blocks; where logic would be, and where it has room."""


@dataclass(frozen=True)
class Placement:
    """`bels`: the basic element of each cell, by number. `wire`: half perimeters in tiles; `longest`: path in ns, an estimate."""

    bels: dict[int, str]
    wire: int
    longest: float


def place(
    packed: Packed,
    fabric: Fabric,
    timing: TimingGraph,
    seed: int,
    target: float,
    schedule: Schedule | None = None,
    progress: Progress | None = None,
) -> Placement:
    """Places all cells but the fixed ones. `target`: the longest path to work towards, in ns. The same arguments give the same placement.

    Raises `ToolError` where the device is too small.
    """
    say = progress or (lambda note: None)
    problem = Problem.of(packed, fabric)
    slots = Slots.empty(problem)
    with threadpool_limits(1):  # vectors are short: threads of BLAS wait for one another
        sites, root = _globally(problem, slots, seed, say)
    annealer = Annealer(problem, slots, root, sites, timing, seed)

    def report(step: int, steps: int, wire: int, longest: float) -> None:
        say(f"annealing {100 * step // steps} %, {wire:,} tiles of wire, {longest:.1f} ns")

    longest = annealer.run(schedule or Schedule(), target, report)
    return Placement(_bels(problem, annealer), annealer.wire, longest)


def _globally(problem: Problem, slots: Slots, seed: int, say: Progress) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fills the slots; returns sites of the blocks and first tiles of the macros."""
    grid, lone, logic = problem.grid, len(problem.lone), problem.logic_units
    tiles = np.full((grid.rows, grid.columns), float(SLOTS))
    luts, flip_flops = problem.room
    nets = problem.nets
    pins = np.bincount(problem.unit[nets.cell], minlength=problem.units)[:logic]
    crowd = pins * SLOTS / problem.crowded
    by_slots = Room((luts / _FULL, flip_flops / _FULL), (tiles, tiles))
    by_pins = Room((np.maximum(luts / _FULL, crowd), flip_flops / _FULL), (tiles, tiles))
    wires = Wires(problem)
    places, kinds = places_of(problem), problem.packed.kind[problem.blocks].astype(np.int64)
    pull = site_affinity(problem)

    def fixed(sites: NDArray[np.int64]) -> Places:
        where = np.array([places[int(kind)][site] for kind, site in zip(kinds, sites, strict=True)]).reshape(-1, 2)
        return where[:, 0].copy(), where[:, 1].copy()

    def length(candidate: Candidate) -> float:
        sites, _, anchors = candidate
        return wires.length(*_joined(anchors, fixed(sites)))

    def improve(candidate: Candidate, room: Room, rounds: int, each: int) -> Candidate:
        sites, free, anchors = candidate
        for k in range(rounds):
            at = anchors if k % 2 else free
            sites = reassign(problem, places, *_joined(at, fixed(sites)))
            free, anchors = optimise(wires, room, free, anchors, fixed(sites), each, 3 + k)
            say(f"sites anew, {length((sites, free, anchors)):,.0f} tiles of wire")
        return sites, free, anchors

    candidates: list[Candidate] = []
    for number in range(_CANDIDATES if len(kinds) > 1 else 1):
        sites = arrange(pull, kinds, places, seed * _CANDIDATES + number)
        candidates.append((sites, *optimise(wires, by_slots, wires.relaxed(fixed(sites)), None, fixed(sites), 8)))
        say(f"arrangement {number + 1} of {_CANDIDATES}, {length(candidates[-1]):,.0f} tiles of wire")
    # Macros find each other while everything is close together; room for wires comes after.
    finalists = [improve(candidate, by_slots, 4, 4) for candidate in sorted(candidates, key=length)[:_FINALISTS]]
    sites, free, anchors = improve(min(finalists, key=length), by_pins, _REASSIGNMENTS, 5)

    # Macros first, as they need tiles of their own; then the others around them, in what is left.
    say("slots")
    root = place_macros(problem, slots, anchors[0][lone:], anchors[1][lone:])
    width = np.array([members[-1].column + 1 for members in problem.packed.macros], float)
    corner = ((root % grid.columns).astype(float) + width / 2, (root // grid.columns).astype(float) + 0.5)
    left = tuple(
        share * (held.reshape(grid.rows, grid.columns, SLOTS) < 0).sum(axis=2)
        for held, share in ((slots.lut, _FULL), (slots.flip_flop, _FULL_FLIP_FLOPS))
    )
    beside = Room((np.maximum(luts, crowd * _FULL)[:lone], flip_flops[:lone]), (left[0], left[1]))
    around = _joined(corner, fixed(sites))
    free, anchors = ((p[0][:lone], p[1][:lone]) for p in (free, anchors))
    free, anchors = optimise(wires, beside, free, anchors, around, 10, 6)
    place_lone(problem, slots, *anchors)
    return sites, root


def _joined(a: Places, b: Places) -> Places:
    return np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])


def _bels(problem: Problem, annealer: Annealer) -> dict[int, str]:
    """nextpnr's names of where the cells are."""
    packed = problem.packed
    bels = {}
    for cell, kind in enumerate(packed.kind):
        if kind in (Kind.LUT, Kind.FF):
            slot = int(annealer.slots.of[cell]) % SLOTS
            part = f"SLICE{'ABCD'[slot // 2]}.{'K' if kind == Kind.LUT else 'FF'}{slot % 2}"
        elif kind == Kind.WRITER:
            part = "SLICEC.RAMW"
        else:
            continue
        at = packed.home[cell]
        bels[cell] = f"X{annealer.x[at]}/Y{annealer.y[at]}/{part}"
    for cell, site in zip(problem.blocks, annealer.sites, strict=True):
        bels[int(cell)] = problem.sites(Kind(packed.kind[cell]))[site].bel
    return bels
