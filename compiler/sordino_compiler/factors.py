"""Scales and factors: from real numbers to what the requantiser can represent.

The requantiser multiplies by `mantissa * 2**-shift` (see `sordino_hw.spec.numbers`). A weight scale is snapped so that its
factor is exactly one of these; layers without trained weights (pooling, adds, affine) choose an integer weight and a
factor whose product is nearest to the real one.
"""

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.numbers import SHIFT_MAX

__all__ = ["MAX_FACTOR_SHIFT", "WIDE_MAX", "approximate", "exact_factor", "greatest_factor", "product_factor", "snap_factor"]

WIDE_MAX = 16383
"""Largest magnitude that a wide vector weight holds with either sign."""

MAX_FACTOR_SHIFT = 23
"""Shift of the smallest factor that is used. With it a bias of 2**10 output steps still fits 32 bits, and a weight
scale that is enlarged to reach it costs less than one output step even over thousands of inputs."""


def snap_factor(factor: np.ndarray, arch: ArchConfig) -> np.ndarray:
    """The least representable factors >= `factor` (float64 [n], >= 0): at most `1 / 2**(mantissa_bits-1)` larger,
    but never below `2**(mantissa_bits-1) * 2**-MAX_FACTOR_SHIFT`."""
    low = float(1 << (arch.mantissa_bits - 1))
    factor = np.maximum(np.asarray(factor, np.float64), low * 2.0**-MAX_FACTOR_SHIFT)
    step = 2.0 ** np.floor(np.log2(factor / low))
    mantissa = np.ceil(factor / step * (1 - 1e-12))
    return mantissa * step


def greatest_factor(factor: float, arch: ArchConfig) -> float:
    """The greatest representable factor <= `factor` (> 0), and at most the greatest of all: one without a shift."""
    low = float(1 << (arch.mantissa_bits - 1))
    factor = min(factor, 2 * low - 1)
    step = 2.0 ** np.floor(np.log2(factor / low))
    return float(np.floor(factor / step * (1 + 1e-12)) * step)


def product_factor(factor: float, arch: ArchConfig) -> float:
    """The largest product of an 8-bit weight and a representable factor that is <= `factor` (> 0): less than 1/64 smaller.

    Below 2**-18, where shifts may end before, `factor` itself may come back.
    """
    low = 1 << (arch.mantissa_bits - 1)
    products = np.outer(np.arange(low, 2 * low), np.arange(64, 128)).astype(np.float64).ravel()
    shift = np.ceil(np.log2(products / factor) - 1e-12).clip(0, SHIFT_MAX)
    below = np.ldexp(products, -shift.astype(np.int64))
    return float(below[below <= factor * (1 + 1e-12)].max(initial=0.0)) or factor


def exact_factor(factor: np.ndarray, arch: ArchConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(mantissa, shift, error)` of the representable factors nearest to `factor` (float64 [n], > 0).

    `error` is relative; factors beyond the range of shifts come back with an error of 1.
    """
    factor = np.asarray(factor, np.float64)
    low, high = 1 << (arch.mantissa_bits - 1), 1 << arch.mantissa_bits
    shift = (arch.mantissa_bits - 1 - np.floor(np.log2(factor))).astype(np.int64)
    mantissa = np.rint(np.ldexp(factor, shift)).astype(np.int64)
    carry = mantissa == high
    mantissa, shift = np.where(carry, low, mantissa), np.where(carry, shift - 1, shift)
    inside = (shift >= 0) & (shift <= SHIFT_MAX)
    error = np.where(inside, np.abs(np.ldexp(mantissa.astype(np.float64), -shift) / factor - 1), 1.0)
    return mantissa, shift.clip(0, SHIFT_MAX), error


def approximate(factors: np.ndarray, arch: ArchConfig, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Integer weights and requantiser factors for real factors.

    Parameters
    ----------
    factors : float64 [k, n]
        For each of n channels, k real factors (taps, residual) that share the channel's requantiser.
    limit : int
        Largest magnitude of a weight: 127, or `WIDE_MAX`.

    Returns
    -------
    weights int64 [k, n], mantissa int64 [n], shift int64 [n], and the largest error relative to the channel's largest
    factor. Of all mantissas the one with the smallest such error is taken.
    """
    factors = np.asarray(factors, np.float64)
    largest = np.abs(factors).max(0)
    safe = np.where(largest > 0, largest, 1.0)
    low = 1 << (arch.mantissa_bits - 1)
    best = None
    for mantissa in range(low, 2 * low):
        # The smallest factor under which the largest weight stays within the limit.
        shift = np.floor(np.log2(limit * mantissa / safe)).astype(np.int64).clip(0, SHIFT_MAX)
        unit = np.ldexp(float(mantissa), -shift)
        weights = np.rint(factors / unit).clip(-limit, limit)
        error = np.abs(weights * unit - factors).max(0) / safe
        if best is None:
            best = [weights, np.full(shift.shape, mantissa, np.int64), shift, error]
        else:
            better = error < best[3]
            best = [np.where(better, new, old) for new, old in zip((weights, mantissa, shift, error), best, strict=True)]
    assert best is not None
    return best[0].astype(np.int64), best[1].astype(np.int64), best[2].astype(np.int64), float(best[3].max())
