"""Tiles of a layer's inputs, so that weights and masks fit; bands of its outputs, so that partial sums fit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError

__all__ = ["STEP_MAX", "Tile", "bands", "choose_tiles"]

STEP_MAX = 255
"""Largest value of the 8-bit registers (kernel rows, spans, pixels, words)."""
SIZE_MAX = 4095
"""Largest value of the 12-bit registers (output rows and columns)."""


@dataclass(frozen=True)
class Tile:
    """The part of a kernel that one operation covers: word columns of the input pixel, kernel rows and columns.

    `lanes` holds every lane that has a channel in one of the columns.
    """

    columns: range
    ky: range
    kx: range
    lanes: range

    @property
    def words(self) -> int:
        return len(self.columns)

    @property
    def taps(self) -> int:
        return len(self.ky) * len(self.kx)


def choose_tiles(slots: np.ndarray, kernel: tuple[int, int], lanes: int, fits: Callable[[Tile], bool]) -> list[Tile] | None:
    """The fewest tiles that fit; None where not even a single tap of a single word does.

    `slots` are those of the input channels that are needed. Among equally many tiles, whole pixels come first (their
    kernel rows are single spans), cut into kernel rows, and into kernel columns only below that.
    """
    columns, (kh, kw) = range(int(slots.min()) // lanes, int(slots.max()) // lanes + 1), kernel
    cuts = [(ny, 1) for ny in range(1, kh + 1)] + [(kh, nx) for nx in range(2, kw + 1)]
    choices = [(nw, ny, nx) for nw, (ny, nx) in product(range(1, len(columns) + 1), cuts)]
    for nw, ny, nx in sorted(choices, key=lambda c: (c[0] * c[1] * c[2], c[0])):
        tiles = list(_tiles(slots, lanes, product(_cut(columns, nw), _cut(range(kh), ny), _cut(range(kw), nx))))
        if all(fits(t) for t in tiles):
            return tiles
    return None


def _tiles(slots: np.ndarray, lanes: int, parts: Iterable[tuple[range, range, range]]) -> Iterator[Tile]:
    """The tiles of these parts, without those that hold no channel."""
    for columns, ky, kx in parts:
        used = slots[(slots >= columns.start * lanes) & (slots < columns.stop * lanes)] % lanes
        if len(used):
            yield Tile(columns, ky, kx, range(int(used.min()), int(used.max()) + 1))


def _cut(r: range, parts: int) -> list[range]:
    """Cuts a range into parts whose lengths differ by one at most."""
    edges = [r.start + len(r) * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def bands(
    size: tuple[int, int], repeat: tuple[int, int], outputs: int | None, where: str, arch: ArchConfig
) -> Iterator[tuple[range, range]]:
    """Rows and columns of each band of an output of `size`; a band has at most `outputs` pixels (None: any number).

    Bands start at multiples of `repeat`, where the same input pixel begins.
    """
    (oh, ow), (ry, rx) = size, repeat
    limit = SIZE_MAX * SIZE_MAX if outputs is None else outputs
    cols = min(ow, SIZE_MAX, limit // min(ry, oh))
    if cols < ow:
        cols -= cols % rx
    rows = min(oh, SIZE_MAX, limit // cols) if cols else 0
    if rows < oh:
        rows -= rows % ry
    if not rows:
        raise CompileError(
            f"{where}: its partial sums do not fit: the accumulator state memory of architecture {arch.name!r} has "
            f"{arch.state_depth} rows of {arch.ppu} channels, less than one output pixel takes. "
            "Use an ArchConfig with a larger state_depth, or with a weight_depth that holds the whole layer."
        )
    for y in range(0, oh, rows):
        for x in range(0, ow, cols):
            yield range(y, min(y + rows, oh)), range(x, min(x + cols, ow))
