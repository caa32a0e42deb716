"""The integer arithmetic of the array, written once.

The golden model, the integer graph and the PyTorch-side reference call these functions; post-processing in the gateware
implements the same steps and is tested against them. All but `quantise` and `split_wide` work on NumPy arrays and on torch
tensors (they use only operators and methods that both have), in 64-bit integers.
"""

from fractions import Fraction

import numpy as np

from .arch import REQUANT_FRACTION, ArchConfig

__all__ = [
    "join_wide",
    "multiplier",
    "nearest_multiplier",
    "quantise",
    "requantise",
    "round_shift",
    "saturate",
    "split_wide",
    "wrap",
    "wrap32",
]

SHIFT_MAX = 31
"""Largest shift field of a requantiser (5 bits)."""

HI_SHIFT = 7
"""The high half of a wide vector weight counts 2**7: weight = hi * 128 + lo, lo from 0 to 127."""


def quantise(x: np.ndarray, scale: float, low: int, high: int) -> np.ndarray:
    """Integers of real values: `x / scale` rounded to nearest, halves to even, and clipped to `low..high`.

    From floats of any shape to int64 of the same shape. The factor is `1 / scale` in 32-bit floats, as in PyTorch's quantise node.
    """
    return np.rint(x.astype(np.float32) * np.float32(1 / scale)).clip(low, high).astype(np.int64)


def wrap(x, bits: int):
    """Keeps the low `bits` bits of integers, as signed numbers."""
    return ((x + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1))


def wrap32(x):
    """Wraps integers to signed 32 bits, as the accumulators do."""
    return wrap(x, 32)


def round_shift(x, n):
    """`x / 2**n` rounded to nearest, halves towards plus infinity. `n` >= 0, scalar or array."""
    return (x + ((1 << n) >> 1)) >> n if isinstance(n, int) else (x + ((n * 0 + 1 << n) >> 1)) >> n


def saturate(x, bits: int):
    """Clamps to a signed number of `bits` bits."""
    return x.clip(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def requantise(acc, bias, mantissa, shift, arch: ArchConfig):
    """The requantiser: `(acc + bias) * mantissa / 2**shift`, in the steps of the hardware.

    1. `y = wrap32(acc + bias)`
    2. `t = saturate(round_shift(y << 9, shift), arch.requant_bits)`
    3. `r = round_shift(t * mantissa, 9)`

    Arguments are int64 arrays that broadcast; `mantissa` in 2**(m-1) .. 2**m-1 for m = `arch.mantissa_bits`
    (0 gives a constant 0), `shift` in 0..31. Returns int64; the caller clamps.
    """
    y = wrap32(acc + bias)
    t = saturate(round_shift(y << REQUANT_FRACTION, shift), arch.requant_bits)
    return round_shift(t * mantissa, REQUANT_FRACTION)


def split_wide(weight):
    """Splits wide vector weights (an integer or an array) into `(lo, hi)`, `weight = hi * 128 + lo`, 0 <= lo <= 127.

    `hi` is signed 8 bit: weights from -16384 to 16383 fit; raises `ValueError` outside.
    """
    low, high = np.min(weight), np.max(weight)
    if not -(1 << 14) <= low <= high < 1 << 14:
        raise ValueError(f"wide weight {low if low < -(1 << 14) else high} is outside -16384..16383")
    return weight & (1 << HI_SHIFT) - 1, weight >> HI_SHIFT


def join_wide(low, high):
    """Inverse of `split_wide`; of the low half only its 7 bits count."""
    return (low & (1 << HI_SHIFT) - 1) + (high << HI_SHIFT)


def multiplier(mantissa: int, shift: int) -> float:
    """The real factor that a mantissa and a shift stand for."""
    return mantissa * 2.0**-shift


def nearest_multiplier(value: float, arch: ArchConfig) -> tuple[int, int]:
    """The `(mantissa, shift)` whose factor has the smallest relative error to `value` (> 0).

    Raises `ValueError` if `value` is outside the range of the factors.
    """
    if not value > 0:
        raise ValueError(f"a requantisation factor must be positive, not {value!r}")
    low, high = 1 << (arch.mantissa_bits - 1), 1 << arch.mantissa_bits
    exact = Fraction(value)
    best = None
    for shift in range(SHIFT_MAX + 1):
        mantissa = round(exact * (1 << shift))
        if low <= mantissa < high:
            error = abs(Fraction(mantissa, 1 << shift) / exact - 1)
            if best is None or error < best[0]:
                best = (error, mantissa, shift)
    if best is None:
        raise ValueError(f"no requantisation factor near {value!r}: factors go from {low * 2.0**-SHIFT_MAX:g} to {high - 1}")
    return best[1], best[2]
