"""Images of event-mode operations (CONV): weight rows and their masks."""

import numpy as np

from .tiling import Tile

__all__ = ["event_images", "trimmed"]


def event_images(
    weight: np.ndarray,
    groups: int,
    taps: np.ndarray | None,
    slots: np.ndarray,
    channels: np.ndarray,
    out_lanes: np.ndarray,
    tile: Tile,
    lanes: int,
    dense: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """(weights int8 [rows, lanes], masks bool [words, lanes]) of one word column of outputs.

    Of a convolution's `weight` [cout, cin / groups, kh, kw], whose input channels have these `slots`; `channels` are the output
    channels in the column and `out_lanes` their lanes. Weight rows are ordered (kernel row, kernel column, word, lane), from
    the tile's first lane on; masks likewise, without the lane. A mask has a bit where a row has a weight that is not zero;
    with `dense`, where `taps` (bool [cin / groups, kh, kw]; None: everywhere) says that the model has a weight.
    """
    kh, kw, words, rows = len(tile.ky), len(tile.kx), tile.words, len(tile.lanes)
    image = np.zeros((kh, kw, words, rows, lanes), np.int8)
    real = np.zeros((kh, kw, words, rows), bool)
    size_in, size_out = weight.shape[1], len(weight) // groups
    for g in np.unique(channels // size_out):
        mine = slots[g * size_in : (g + 1) * size_in]
        chosen = np.flatnonzero(np.isin(mine // lanes, tile.columns))
        word, lane = mine[chosen] // lanes - tile.columns.start, mine[chosen] % lanes - tile.lanes.start
        outputs = channels // size_out == g
        part = (chosen, slice(tile.ky.start, tile.ky.stop), slice(tile.kx.start, tile.kx.stop))
        rows_of = weight[channels[outputs]][:, *part]
        image[:, :, word[:, None], lane[:, None], out_lanes[outputs]] = rows_of.transpose(2, 3, 1, 0)
        real[:, :, word, lane] = True if taps is None else taps[part].transpose(1, 2, 0)
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
