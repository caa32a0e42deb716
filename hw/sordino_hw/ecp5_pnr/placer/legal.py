"""Legalisation: every unit in a logic slot of its own, near where it was spread to, by the rules of the logic tiles.

A logic tile has eight slots for a LUT and a flip-flop each, two to a slice. Flip-flops of a slice share their enable, those of a
tile their clock and reset (`Packed.enable`, `Packed.control`), which is what nextpnr checks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ...spec.errors import ToolError
from ..fabric import SLOTS, SLOTS_PER_SLICE
from ..netlist import Kind, Member
from .problem import Problem

__all__ = ["Slots", "may_share", "place_lone", "place_macros"]

_OPEN_TILE, _OPEN_SLICE = 5.0, 0.5
"""Tiles of distance that a flip-flop rather goes than open an empty tile, or slice, for its control set."""


class Slots(NamedTuple):
    """`lut`, `flip_flop`: (tiles x SLOTS,) int32, the cell in a slot, or -1; `of`: (cells,) int64, the slot of a cell, or -1."""

    lut: NDArray[np.int32]
    flip_flop: NDArray[np.int32]
    of: NDArray[np.int64]

    @classmethod
    def empty(cls, problem: Problem) -> "Slots":
        """None is taken."""
        slots = len(problem.grid.x) * SLOTS
        return cls(np.full(slots, -1, np.int32), np.full(slots, -1, np.int32), np.full(len(problem.unit), -1, np.int64))


@compiled
def may_share(tile, flip_flop, enable, control):
    """Whether the flip-flops of a logic tile (int) may be in it together; `flip_flop` (tiles x SLOTS,), `enable`, `control`
    (cells,) int32. Returns bool."""
    first = -1
    for pair in range(SLOTS * tile, SLOTS * tile + SLOTS, SLOTS_PER_SLICE):
        a, b = flip_flop[pair], flip_flop[pair + 1]
        if a >= 0 and b >= 0 and enable[a] != enable[b]:
            return False
        for cell in (a, b):
            if cell >= 0:
                if first >= 0 and control[cell] != first:
                    return False
                first = control[cell]
    return True


def place_macros(problem: Problem, slots: Slots, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Puts every placement macro, the largest first, into the nearest slots that are free. Returns their first tiles, (macros,)
    int64.

    `x`, `y` (macros,): middles in tiles of the grid. Raises `ToolError` where there is no room.
    """
    grid, packed = problem.grid, problem.packed
    reach = sorted(
        ((dx, dy) for dx in range(1 - grid.columns, grid.columns) for dy in range(1 - grid.rows, grid.rows)),
        key=lambda d: (abs(d[0]) + abs(d[1]), d),
    )
    root = np.zeros(len(packed.macros), np.int64)
    for number in sorted(range(len(packed.macros)), key=lambda n: -len(packed.macros[n])):
        members = packed.macros[number]
        width = members[-1].column
        column, row = int(x[number] - width / 2), int(y[number])
        for dx, dy in reach:
            tile = (row + dy) * grid.columns + column + dx
            inside = 0 <= column + dx < grid.columns - width and 0 <= row + dy < grid.rows
            if inside and _fits(problem, slots, members, tile):
                root[number] = tile
                break
        else:
            raise ToolError(
                f"No room is left for {packed.names[members[0].cell]} and the {len(members) - 1} LUTs that must be beside it: "
                "take a smaller architecture."
            )
    return root


def _fits(problem: Problem, slots: Slots, members: tuple[Member, ...], tile: int) -> bool:
    """Puts a placement macro at `tile` if it may be there, or leaves everything as it was. Returns whether it did."""
    packed = problem.packed
    places = [((tile + member.column) * SLOTS + member.slot, member.cell) for member in members]
    if any(slots.lut[slot] >= 0 for slot, _ in places):
        return False
    for slot, cell in places:
        slots.lut[slot], slots.of[cell] = cell, slot
        if packed.partner[cell] >= 0:
            slots.flip_flop[slot], slots.of[packed.partner[cell]] = packed.partner[cell], slot
    if all(may_share(t, slots.flip_flop, packed.enable, packed.control) for t in range(tile, tile + members[-1].column + 1)):
        return True
    for slot, _ in places:
        slots.lut[slot] = slots.flip_flop[slot] = -1
    return False


def place_lone(problem: Problem, slots: Slots, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Puts LUTs, flip-flops and pairs of them, at about `x`, `y` (lone,), into free slots.

    Flip-flops of rare control sets come first, in the order of their places: they fill tiles, rather than leave a
    tile to each. Raises `ToolError` where there is no room.
    """
    packed, lone = problem.packed, problem.lone
    flip_flop = np.where(packed.kind[lone] == Kind.FF, lone, packed.partner[lone])
    lut = np.where(packed.kind[lone] == Kind.LUT, lone, -1)
    control = np.where(flip_flop >= 0, packed.control[flip_flop], -1)
    members = np.bincount(control[control >= 0], minlength=1)
    rarity = np.where(control >= 0, members[control], len(lone) + 1)
    order = np.lexsort((x + y, np.where(flip_flop >= 0, packed.enable[flip_flop], -1), control, rarity))
    grid = problem.grid
    left = _place(order, lut, flip_flop, x, y, slots, packed.enable, packed.control, grid.columns, grid.rows)
    if left >= 0:
        raise ToolError(f"No slot is left for {packed.names[lone[left]]}: the device is too full for so many control sets.")


@compiled
def _place(order, luts, flip_flops, x, y, slots, enable, control, columns, rows):
    """Puts units into slots, in the order `order` (lone,) int64. `luts`, `flip_flops` (lone,): the cells of a unit, or -1; `x`, `y`
    (lone,) float64, tiles of the grid of `columns` and `rows` (int); `enable`, `control` (cells,) int32. Returns the first unit
    that finds no slot, or -1."""
    for unit in order:
        lut, flip_flop = luts[unit], flip_flops[unit]
        column, row = int(x[unit]), int(y[unit])
        best, chosen = np.inf, -1
        for radius in range(columns + rows):
            if radius >= best:
                break
            for dx in range(-radius, radius + 1):
                for side in range(2):
                    dy = radius - abs(dx)
                    if side == 1:
                        if dy == 0:
                            continue
                        dy = -dy
                    if 0 <= column + dx < columns and 0 <= row + dy < rows:
                        tile = (row + dy) * columns + column + dx
                        best, chosen = _best_slot(tile, float(radius), lut, flip_flop, slots, enable, control, best, chosen)
        if chosen < 0:
            return unit
        if lut >= 0:
            slots.lut[chosen], slots.of[lut] = lut, chosen
        if flip_flop >= 0:
            slots.flip_flop[chosen], slots.of[flip_flop] = flip_flop, chosen
    return -1


@compiled
def _best_slot(tile, cost, lut, flip_flop, slots, enable, control, best, chosen):
    """The cheaper of the slot `chosen` (int), which costs `best` (float64), and of those of a tile at distance `cost` (float64)
    that can take a LUT and a flip-flop (int, -1 for none). Returns cost and slot."""
    if flip_flop >= 0:
        held = -1
        for slot in range(SLOTS * tile, SLOTS * tile + SLOTS):
            if slots.flip_flop[slot] >= 0:
                held = control[slots.flip_flop[slot]]
        if held >= 0 and held != control[flip_flop]:
            return best, chosen
        if held < 0:
            cost += _OPEN_TILE
    for slot in range(SLOTS * tile, SLOTS * tile + SLOTS):
        here = cost
        if lut >= 0 and slots.lut[slot] >= 0:
            continue
        if flip_flop >= 0:
            if slots.flip_flop[slot] >= 0:
                continue
            beside = slots.flip_flop[slot ^ 1]
            if beside < 0:
                here += _OPEN_SLICE
            elif enable[beside] != enable[flip_flop]:
                continue
        if here < best:
            best, chosen = here, slot
    return best, chosen
