"""Images of event-mode operations (CONV): weight rows and their masks."""

import numpy as np

from sordino_hw.spec.arch import ArchConfig

from ..graph import Conv
from .fold import Phase
from .operation import View
from .tiles import Tile

__all__ = ["event_images", "reaching", "trimmed"]


def reaching(node: Conv, channels: np.ndarray) -> np.ndarray:
    """The input channels that reach these output channels, ascending: those of their groups."""
    size_in, size_out = node.weight.shape[1], len(node.weight) // node.groups
    return np.concatenate([np.arange(g * size_in, (g + 1) * size_in) for g in np.unique(channels // size_out)])


def event_images(
    node: Conv, x: View, channels: np.ndarray, out_lanes: np.ndarray, tile: Tile, arch: ArchConfig, dense: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(weights int8 [rows, lanes], masks bool [words, lanes]) of one word column of outputs.

    `channels` are the output channels in it and `out_lanes` their lanes. Weight rows are ordered (kernel row, kernel column,
    word, lane), from the tile's first lane on; masks likewise, without the lane.
    """
    lanes = arch.lanes
    kh, kw, words, rows = len(tile.ky), len(tile.kx), tile.words, len(tile.lanes)
    image = np.zeros((kh, kw, words, rows, lanes), np.int8)
    real = np.zeros((kh, kw, words, rows), bool)
    size_in, size_out = node.weight.shape[1], len(node.weight) // node.groups
    for g in np.unique(channels // size_out):
        slots = x.slots[g * size_in : (g + 1) * size_in]
        chosen = np.flatnonzero(np.isin(slots // lanes, tile.columns))
        word, lane = slots[chosen] // lanes - tile.columns.start, slots[chosen] % lanes - tile.lanes.start
        mine = channels // size_out == g
        part = (chosen, slice(tile.ky.start, tile.ky.stop), slice(tile.kx.start, tile.kx.stop))
        taps = node.weight[channels[mine]][:, *part]
        image[:, :, word[:, None], lane[:, None], out_lanes[mine]] = taps.transpose(2, 3, 1, 0)
        real[:, :, word, lane] = node.taps[part].transpose(1, 2, 0) if isinstance(node, Phase) else True
    mask = np.zeros((kh, kw, words, lanes), bool)
    mask[..., tile.lanes.start : tile.lanes.stop] = real if dense else image.any(-1)
    return image.reshape(-1, lanes), mask.reshape(-1, lanes)


def trimmed(weight: np.ndarray, mask: np.ndarray, tile: Tile, span: int) -> tuple[np.ndarray, int]:
    """Weights [slices, rows, lanes] by span, without the rows that the masks leave out at both ends of every span.

    The result is [slices, spans, rows of a span, lanes], and the number of rows left out before each span.
    """
    slices, _, lanes = weight.shape
    rows = span * tile.words * len(tile.lanes)
    used = np.flatnonzero(mask[..., tile.lanes.start : tile.lanes.stop].reshape(-1, rows).any(0))
    first, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    return weight.reshape(slices, -1, rows, lanes)[:, :, first:stop], first
