"""A rearrangement in pieces: rows and columns of outputs, evenly spaced, whose sources are evenly spaced, too."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

__all__ = ["MOST_PIECES", "Piece", "count", "pieces", "runs"]

MOST_PIECES = 256
"""Operations that a rearrangement may take: each has instructions of its own."""


@dataclass(frozen=True)
class Piece:
    """Output (k, rows[i], columns[j]) is channel `channels[k]` of pixel (y[k], x[k]) + i * `down` + j * `right`."""

    rows: range
    columns: range
    channels: np.ndarray
    """int64 [outputs]: the source's."""
    y: np.ndarray
    x: np.ndarray
    down: tuple[int, int]
    """Rows and columns of the source from one row of outputs to the next."""
    right: tuple[int, int]
    """And from one column to the next."""


def runs(signatures: list[bytes], anchors: np.ndarray) -> list[tuple[range, np.ndarray]]:
    """Cuts a sequence into evenly spaced parts with equal signatures, whose anchors [n, ...] advance by equal steps.

    Gives the parts with their steps. Greedy: the longest part that holds the first item left, then the next.
    """
    left = np.ones(len(signatures), bool)
    found = []
    for first in range(len(signatures)):
        if not left[first]:
            continue
        best, advance = range(first, first + 1), np.zeros_like(anchors[first])
        for step in range(1, len(signatures) - first):
            stop, by = first + step, anchors[first + step] - anchors[first]
            while (
                stop < len(signatures)
                and left[stop]
                and signatures[stop] == signatures[first]
                and np.array_equal(anchors[stop] - anchors[stop - step], by)
            ):
                stop += step
            if len(range(first, stop, step)) > len(best):
                best, advance = range(first, stop, step), by
            if (len(signatures) - first - 1) // (step + 1) + 1 <= len(best):
                break  # larger steps reach fewer items
        left[best.start : best.stop : best.step] = False
        found.append((best, advance))
    return found


def _along(index: np.ndarray, axis: int, shape: tuple[int, int, int]) -> list[tuple[range, np.ndarray]]:
    """The evenly spaced parts of the rows (axis 1) or columns (2) of a map [c, h, w] into a source of `shape`."""
    channel, y, x = np.unravel_index(np.moveaxis(index, axis, 0), shape)
    anchors = np.stack([y[:, 0, 0], x[:, 0, 0]], 1)
    relative = (channel, y - anchors[:, 0, None, None], x - anchors[:, 1, None, None])
    return runs([b"".join(part[i].tobytes() for part in relative) for i in range(len(anchors))], anchors)


def count(index: np.ndarray, shape: tuple[int, int, int]) -> int:
    """The number of pieces of a map int64 [c, h, w] into the flattened source of `shape`."""
    return len(_along(index, 1, shape)) * len(_along(index, 2, shape))


def pieces(index: np.ndarray, shape: tuple[int, int, int]) -> Iterator[Piece]:
    """The pieces of a map int64 [c, h, w] into the flattened source of `shape`, in the order of their first outputs."""
    for (rows, down), (columns, right) in product(_along(index, 1, shape), _along(index, 2, shape)):
        channels, y, x = np.unravel_index(index[:, rows.start, columns.start], shape)
        yield Piece(rows, columns, channels, y, x, (int(down[0]), int(down[1])), (int(right[0]), int(right[1])))
