"""Scikit-learn's bundled handwritten digits: 1,797 real 8x8 images, nothing to download."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from sordino_hw.spec.errors import InputError

__all__ = ["Split", "digits"]

TEST, VALIDATION = 450, 300


@dataclass(frozen=True)
class Split:
    """A data set in three parts, each (images float32 [n, c, h, w], labels int64 [n])."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits(size: int = 8, mode: str = "bilinear") -> Split:
    """The digits in 1,047 training, 300 validation and 450 test images [n, 1, size, size], values 0 to 1, paper = 0.

    The images come in the order in which people wrote them, so the parts are cut in that order: shuffling first would
    put the same writers into training and test. `size` other than 8 resamples with `mode` ("nearest" or "bilinear").

    Raises `InputError` for a size below 8 or an unknown mode.
    """
    if size < 8:
        raise InputError(f"digits: size must be at least 8, not {size!r}")
    if mode not in ("nearest", "bilinear"):
        raise InputError(f"digits: mode must be 'nearest' or 'bilinear', not {mode!r}")
    raw = load_digits()
    x = torch.from_numpy(raw.images).float()[:, None] / 16
    y = torch.from_numpy(raw.target).long()
    if size != 8:
        x = functional.interpolate(x, size=(size, size), mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))
    cut = len(x) - TEST
    a, b, c = slice(0, cut - VALIDATION), slice(cut - VALIDATION, cut), slice(cut, None)
    return Split((x[a], y[a]), (x[b], y[b]), (x[c], y[c]))
