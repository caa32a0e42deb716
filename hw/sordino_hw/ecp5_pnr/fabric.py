"""Where cells can go on a device: the grid of logic tiles and the sites of hard blocks, as its chip database has them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .chip import Chip

__all__ = ["SLOTS", "SLOTS_PER_SLICE", "Fabric", "Site"]

SLOTS = 8
"""Logic slots of a logic tile: a LUT and a flip-flop each."""

SLOTS_PER_SLICE = 2

_LOGIC_BEL = "SLICEA.K0"
_BLOCK_BELS = {"DP16KD": re.compile(r"EBR\d+"), "MULT18X18D": re.compile(r"MULT18_\d+")}
"""Cell type of a hard block -> names of the bels that take one."""


@dataclass(frozen=True)
class Site:
    """Where a hard block can go: column and row of the device's grid, and nextpnr's name of the bel there."""

    x: int
    y: int
    bel: str


@dataclass(frozen=True)
class Fabric:
    """Columns and rows of the logic tiles, one at each crossing; the sites of hard blocks by cell type, row by row."""

    columns: tuple[int, ...]
    rows: tuple[int, ...]
    sites: Mapping[str, tuple[Site, ...]]

    @classmethod
    def of(cls, chip: Chip) -> "Fabric":
        """Raises `ToolError` where the logic tiles of a device are no grid of columns and rows."""
        names = {kind: chip.bel_names(kind) for kind in np.unique(chip.type_of).tolist()}
        logic, sites = [], []
        for tile, kind in enumerate(chip.type_of.tolist()):
            y, x = divmod(tile, chip.columns)
            if _LOGIC_BEL in names[kind]:
                logic.append((x, y))
            sites += [
                (cell, Site(x, y, f"X{x}/Y{y}/{bel}"))
                for bel in names[kind]
                for cell, pattern in _BLOCK_BELS.items()
                if pattern.fullmatch(bel)
            ]
        columns, rows = (tuple(sorted({place[axis] for place in logic})) for axis in range(2))
        if not logic or len(logic) != len(columns) * len(rows):
            raise chip.image.error()
        return cls(columns, rows, {cell: tuple(site for kind, site in sites if kind == cell) for cell in _BLOCK_BELS})
