"""What is to be placed, as arrays: units, the nets between them, and the tiles and sites of the device."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ...spec.errors import ToolError
from ..fabric import SLOTS, Fabric, Site
from ..netlist import Kind, Packed
from .linear import laplacian_of

__all__ = ["Grid", "Nets", "Problem", "crossing"]


class Grid(NamedTuple):
    """Logic tiles, row by row; rows are those that hold logic, so that a distance in them leaves out rows of hard blocks.

    x, y : (tiles,) int32, column and row of the device; columns, rows : of the grid; first : the device's column of the grid's
        first
    row_of : (device rows,) int32, the nearest row of logic
    """

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    columns: int
    rows: int
    first: int
    row_of: NDArray[np.int32]

    @classmethod
    def of(cls, fabric: Fabric) -> "Grid":
        """That of a device."""
        rows = np.array(fabric.rows, np.int32)
        columns = np.array(fabric.columns, np.int32)
        device_rows = np.arange(rows[-1] + 2)
        return cls(
            np.tile(columns, len(rows)),
            np.repeat(rows, len(columns)),
            len(columns),
            len(rows),
            int(columns[0]),
            np.abs(rows[:, None] - device_rows).argmin(axis=0).astype(np.int32),
        )

    def relative(self, sites: tuple[Site, ...]) -> NDArray[np.float64]:
        """(sites, 2) float64, places in tiles of the grid, as the global placement counts them."""
        rows = np.unique(self.y)
        x = np.array([site.x - self.first for site in sites], float)
        return np.stack([x + 0.5, np.interp([site.y for site in sites], rows, np.arange(len(rows))) + 0.5], axis=1)


class Nets(NamedTuple):
    """Cells of net n: `cell[start[n] : start[n + 1]]`; nets of cell c: `of[first[c] : first[c + 1]]`; `weight`: see `crossing`."""

    start: NDArray[np.int64]
    cell: NDArray[np.int32]
    first: NDArray[np.int64]
    of: NDArray[np.int32]
    weight: NDArray[np.float64]


_WIDEST = 60
"""Cells of a net from which on it says nothing about where they belong; a clique of it would have thousands of edges."""

_PINS_PER_TILE = 38.0
"""Pins for each logic tile from which on it is congested. Found by trial on `ulx3s-85f`: spread evenly it has 27, and where there
are 50 and more, nets find no path."""
_PINS_ABOVE_EVEN = 1.1
"""So many times the design's own even share are allowed in any case."""

_CROSSING = (
    1.0, 1.0, 1.0, 1.0, 1.0828, 1.1536, 1.2206, 1.2823, 1.3385, 1.3991, 1.4493, 1.4974, 1.5455, 1.5937, 1.6418, 1.6899, 1.7304,
    1.7709, 1.8114, 1.8519, 1.8924, 1.9288, 1.9652, 2.0015, 2.0379, 2.0743, 2.1061, 2.1379, 2.1698, 2.2016, 2.2334, 2.2646,
    2.2958, 2.3271, 2.3583, 2.3895, 2.4187, 2.4479, 2.4772, 2.5064, 2.5356, 2.5610, 2.5864, 2.6117, 2.6371, 2.6625, 2.6887,
    2.7148, 2.7410, 2.7671, 2.7933,
)  # fmt: skip


def crossing(pins: int) -> float:
    """Wire that a net of so many pins takes, over the half perimeter of its box (C. Cheng, RISA, ICCAD 1994, table 1)."""
    return _CROSSING[pins] if pins < len(_CROSSING) else _CROSSING[-1] + 0.02616 * (pins - len(_CROSSING) + 1)


@dataclass(frozen=True)
class Problem:
    """A packed netlist on a device.

    A unit moves as one: a LUT, a flip-flop, a pair of them in one slot (a lone unit), a placement macro, or a hard block. Units are
    numbered in this order; the first two kinds are the logic units.

    unit : (cells,) int64, the unit of a cell, -1 for fixed cells
    lone : (lone units,) int32, the LUT, or else flip-flop, of each
    blocks : (hard blocks,) int32, their cells
    """

    packed: Packed
    fabric: Fabric
    unit: NDArray[np.int64]
    lone: NDArray[np.int32]
    blocks: NDArray[np.int32]

    @classmethod
    def of(cls, packed: Packed, fabric: Fabric) -> "Problem":
        """Raises `ToolError` where the device is too small."""
        kind, macro, partner = packed.kind, packed.macro, packed.partner
        logic = np.isin(kind, (Kind.LUT, Kind.FF))
        first = logic & (macro < 0) & ((kind == Kind.LUT) | (partner < 0))
        lone = np.flatnonzero(first).astype(np.int32)
        blocks = np.flatnonzero(np.isin(kind, (Kind.MEMORY, Kind.MULTIPLIER))).astype(np.int32)
        unit = np.full(len(kind), -1, np.int64)
        unit[lone] = np.arange(len(lone))
        paired = lone[partner[lone] >= 0]
        unit[partner[paired]] = unit[paired]
        unit[macro >= 0] = len(lone) + macro[macro >= 0]
        unit[blocks] = len(lone) + len(packed.macros) + np.arange(len(blocks))
        unit = np.where(unit >= 0, unit, np.where(kind == Kind.WRITER, unit[packed.home], -1))
        slots = len(fabric.rows) * len(fabric.columns) * SLOTS
        for name, which, sites in (
            ("LUTs", Kind.LUT, slots),
            ("flip-flops", Kind.FF, slots),
            ("block RAMs", Kind.MEMORY, len(fabric.sites["DP16KD"])),
            ("multipliers", Kind.MULTIPLIER, len(fabric.sites["MULT18X18D"])),
        ):
            if (needed := int((kind == which).sum())) > sites:
                raise ToolError(f"the design takes {needed} {name} of the device's {sites}: take a smaller architecture.")
        return cls(packed, fabric, unit, lone, blocks)

    @cached_property
    def grid(self) -> Grid:
        """The logic tiles."""
        return Grid.of(self.fabric)

    @property
    def logic_units(self) -> int:
        """Number of all units but the hard blocks."""
        return len(self.lone) + len(self.packed.macros)

    @property
    def units(self) -> int:
        """Number of all units."""
        return self.logic_units + len(self.blocks)

    def sites(self, kind: Kind) -> tuple[Site, ...]:
        """For a kind of hard block."""
        return self.fabric.sites["DP16KD" if kind == Kind.MEMORY else "MULT18X18D"]

    @cached_property
    def nets(self) -> Nets:
        """Nets between cells of several units; fixed cells are left out."""
        start, cells = [0], []
        for net in self.packed.nets:
            members = dict.fromkeys(int(self.packed.home[pin.cell]) for pin in (net.driver, *net.users))
            members_ = [cell for cell in members if self.unit[cell] >= 0]
            if len({self.unit[cell] for cell in members_}) > 1:
                cells += members_
                start.append(len(cells))
        starts, cell = np.array(start, np.int64), np.array(cells, np.int32)
        order = np.argsort(cell, kind="stable")
        net_of = np.repeat(np.arange(len(start) - 1), np.diff(starts)).astype(np.int32)
        first = np.searchsorted(cell[order], np.arange(len(self.unit) + 1)).astype(np.int64)
        weight = np.array([crossing(int(pins)) for pins in np.diff(starts)], float)
        return Nets(starts, cell, first, net_of[order], weight)

    @cached_property
    def pins_per_tile(self) -> float:
        """Pins for each logic tile from which on it is congested: up to there spreading fills, and from there annealing counts a
        cost."""
        logic = np.isin(self.packed.kind, (Kind.LUT, Kind.FF))
        return max(_PINS_PER_TILE, _PINS_ABOVE_EVEN * float(np.diff(self.nets.first)[logic].sum()) / len(self.grid.x))

    @cached_property
    def room(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """2 x (logic units,) float64, LUTs and flip-flops that a unit takes, a LUT counting that a carry chain leaves unused at its
        end."""
        which = np.isin(self.packed.kind, (Kind.LUT, Kind.FF))
        luts, flip_flops = (
            np.bincount(self.unit[which & (self.packed.kind == kind)], minlength=self.logic_units).astype(float)
            for kind in (Kind.LUT, Kind.FF)
        )
        for number, members in enumerate(self.packed.macros):
            tail = len(members) % SLOTS
            luts[len(self.lone) + number] += bool(tail)
        return luts, flip_flops

    @cached_property
    def laplacian(self) -> sparse.csr_matrix:
        """(units, units), of the graph in which a net of k cells is a clique of edges 1 / (k - 1) between its units."""
        nets, unit = self.nets, self.unit
        size = np.diff(nets.start)
        ends, weights = [], []
        for k in range(2, _WIDEST):
            which = np.flatnonzero(size == k)
            members = unit[nets.cell[nets.start[which][:, None] + np.arange(k)]]
            a, b = np.triu_indices(k, 1)
            ends.append(np.stack([members[:, a].ravel(), members[:, b].ravel()]))
            weights.append(np.full(ends[-1].shape[1], 1 / (k - 1)))
        both, weight = np.concatenate(ends, axis=1), np.concatenate(weights)
        apart = both[0] != both[1]
        return laplacian_of(both[0, apart], both[1, apart], weight[apart], self.units)

    @cached_property
    def nets_of_units(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Nets of unit u, each once: `of[first[u] : first[u + 1]]`; (units + 1,) and (n,) int64. Returns first and of."""
        nets = self.nets
        net = np.repeat(np.arange(len(nets.start) - 1), np.diff(nets.start))
        pairs = np.unique(self.unit[nets.cell] * len(nets.start) + net)
        return np.searchsorted(pairs // len(nets.start), np.arange(self.units + 1)), pairs % len(nets.start)
