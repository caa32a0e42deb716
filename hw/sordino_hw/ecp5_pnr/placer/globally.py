"""Global placement and legalisation: sites of hard blocks, places of all logic around them, and legal slots for it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..fabric import SLOTS
from .legal import Slots, place_lone, place_macros
from .problem import Problem
from .sites import arrange, places_of, reassign, site_affinity
from .spread import Places, Room, Wires, optimise

__all__ = ["place_globally"]

_CANDIDATES, _FINALISTS = 12, 3
"""Arrangements of hard blocks that are tried, and those of least wire that are improved until the best is chosen."""

_FULL = 0.9
"""Share of a tile's slots that spreading may fill."""

_FULL_FLIP_FLOPS = 0.8
"""Of the slots beside placement macros: flip-flops of different control sets do not go into one tile."""


class _Effort(NamedTuple):
    """`reassignments` of sites, `rounds` of solving and spreading each."""

    reassignments: int
    rounds: int


_FIRST_ROUNDS, _LAST_ROUNDS, _LAST_BEGIN = 8, 10, 6
"""Of an arrangement, and of the lone units around legal placement macros; the latter have anchors as strong as from that round
on."""
_FINALIST, _WINNER = _Effort(4, 4), _Effort(8, 5)
_ANCHORS_BEGIN = 3
"""Anchors of a reassignment are as strong as from that round on, and one more with each reassignment."""


class _Candidate(NamedTuple):
    """Sites of the hard blocks; where logic units would be, and where they have room."""

    sites: NDArray[np.int64]
    free: Places
    anchors: Places


class _Global:
    """The steps. `say` is told what is done."""

    def __init__(self, problem: Problem, say: Callable[[str], None]):
        self.problem, self._say = problem, say
        grid, logic = problem.grid, problem.logic_units
        tiles = np.full((grid.rows, grid.columns), float(SLOTS))
        luts, flip_flops = problem.room
        pins = np.bincount(problem.unit[problem.nets.cell], minlength=problem.units)[:logic]
        self._pin_slots = pins * SLOTS / problem.pins_per_tile
        self.by_slots = Room((luts / _FULL, flip_flops / _FULL), (tiles, tiles))
        self.by_pins = Room((np.maximum(luts / _FULL, self._pin_slots), flip_flops / _FULL), (tiles, tiles))
        self._wires = Wires(problem)
        self._places = places_of(problem)
        self._kinds = problem.packed.kind[problem.blocks].astype(np.int64)

    def length(self, candidate: _Candidate) -> float:
        """Tiles of wire, units where they have room."""
        return self._wires.length(*_joined(candidate.anchors, self._fixed(candidate.sites)))

    def candidates(self, seed: int) -> list[_Candidate]:
        """Arrangements of the hard blocks by affinity, logic spread between them."""
        pull, found = site_affinity(self.problem), []
        for number in range(_CANDIDATES if len(self._kinds) > 1 else 1):
            sites = arrange(pull, self._kinds, self._places, seed * _CANDIDATES + number)
            fixed = self._fixed(sites)
            found.append(
                _Candidate(sites, *optimise(self._wires, self.by_slots, self._wires.relaxed(fixed), None, fixed, _FIRST_ROUNDS))
            )
            self._say(f"arrangement {number + 1} of {_CANDIDATES}, {self.length(found[-1]):,.0f} tiles of wire")
        return found

    def improve(self, candidate: _Candidate, room: Room, effort: _Effort) -> _Candidate:
        """Assigns sites anew, by turns for units where they would be and where they have room, and lets the logic follow."""
        sites, free, anchors = candidate
        for k in range(effort.reassignments):
            at = anchors if k % 2 else free
            sites = reassign(self.problem, self._places, *_joined(at, self._fixed(sites)))
            free, anchors = optimise(self._wires, room, free, anchors, self._fixed(sites), effort.rounds, _ANCHORS_BEGIN + k)
            self._say(f"sites reassigned, {self.length(_Candidate(sites, free, anchors)):,.0f} tiles of wire")
        return _Candidate(sites, free, anchors)

    def legalise(self, candidate: _Candidate, slots: Slots) -> NDArray[np.int64]:
        """Fills the slots: placement macros first, since they need neighbouring slots; then the others in what is left around them.
        Returns first tiles of the placement macros."""
        problem, lone = self.problem, len(self.problem.lone)
        grid = problem.grid
        self._say("legalisation")
        root = place_macros(problem, slots, candidate.anchors[0][lone:], candidate.anchors[1][lone:])
        width = np.array([members[-1].column + 1 for members in problem.packed.macros], float)
        corner = ((root % grid.columns).astype(float) + width / 2, (root // grid.columns).astype(float) + 0.5)
        left = tuple(
            share * (held.reshape(grid.rows, grid.columns, SLOTS) < 0).sum(axis=2)
            for held, share in ((slots.lut, _FULL), (slots.flip_flop, _FULL_FLIP_FLOPS))
        )
        luts, flip_flops = problem.room
        beside = Room((np.maximum(luts, self._pin_slots * _FULL)[:lone], flip_flops[:lone]), (left[0], left[1]))
        around = _joined(corner, self._fixed(candidate.sites))
        free, anchors = ((p[0][:lone], p[1][:lone]) for p in (candidate.free, candidate.anchors))
        free, anchors = optimise(self._wires, beside, free, anchors, around, _LAST_ROUNDS, _LAST_BEGIN)
        place_lone(problem, slots, *anchors)
        return root

    def _fixed(self, sites: NDArray[np.int64]) -> Places:
        """Places of the hard blocks."""
        where = np.array([self._places[int(kind)][site] for kind, site in zip(self._kinds, sites, strict=True)]).reshape(-1, 2)
        return where[:, 0].copy(), where[:, 1].copy()


def place_globally(
    problem: Problem, slots: Slots, seed: int, say: Callable[[str], None]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fills the slots. Returns (blocks,) int64, the index of each hard block's site among those of its kind, and (macros,) int64,
    the first tile of each placement macro. Raises `ToolError` where the device is too full."""
    steps = _Global(problem, say)
    # Hard blocks find each other while everything is close together; room for wires comes after.
    finalists = [
        steps.improve(candidate, steps.by_slots, _FINALIST)
        for candidate in sorted(steps.candidates(seed), key=steps.length)[:_FINALISTS]
    ]
    winner = steps.improve(min(finalists, key=steps.length), steps.by_pins, _WINNER)
    return winner.sites, steps.legalise(winner, slots)


def _joined(a: Places, b: Places) -> Places:
    return np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
