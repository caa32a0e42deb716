"""Images of vector-mode operations (VEC): one weight row a tap, two where weights are wide."""

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.numbers import split_wide

from .tiling import Tile

__all__ = ["equal_taps", "vector_image"]


def equal_taps(weight: np.ndarray) -> bool:
    """Whether every channel [c, kh, kw] has one weight for all its taps, as in average pooling."""
    return bool((weight == weight[:, :1, :1]).all())


def vector_image(weight: np.ndarray, wide: bool, lanes: np.ndarray, tile: Tile, arch: ArchConfig) -> np.ndarray:
    """Weights int8 [rows, lanes] of the channels in one word column, `weight` [c, kh, kw], which lie in `lanes`.

    Rows are ordered (kernel row, kernel column, half); one tap stands for all where they are equal.
    """
    taps = weight[:, tile.ky.start : tile.ky.stop, tile.kx.start : tile.kx.stop].transpose(1, 2, 0)
    if equal_taps(weight):
        taps = taps[:1, :1]
    image = np.zeros((*taps.shape[:2], 1 + wide, arch.lanes), np.int8)
    if wide:
        image[:, :, 0, lanes], image[:, :, 1, lanes] = split_wide(taps)
    else:
        image[:, :, 0, lanes] = taps
    return image.reshape(-1, arch.lanes)
