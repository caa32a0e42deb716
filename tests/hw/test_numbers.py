"""The integer arithmetic against exact rationals, on NumPy arrays, torch tensors and Python integers alike."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sordino_hw.spec import numbers
from sordino_hw.spec.arch import ArchConfig

ARCHS = [ArchConfig(event_bits=event_bits, mantissa_bits=mantissa) for event_bits in (8, 9) for mantissa in (2, 4, 8)]
archs = st.sampled_from(ARCHS)
int32 = st.integers(-(1 << 31), (1 << 31) - 1) | st.sampled_from([-(1 << 31), -(1 << 31) + 1, -1, 0, 1, (1 << 31) - 1])


def half_up(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


@given(st.integers(-(1 << 60), 1 << 60), st.integers(1, 40))
def test_wrap(x, bits):
    y = numbers.wrap(x, bits)
    assert (y - x) % (1 << bits) == 0 and -(1 << (bits - 1)) <= y < 1 << (bits - 1)
    assert numbers.wrap(np.int64(x), bits) == y


def test_wrap32_at_the_edges():
    edges = np.array([0, (1 << 31) - 1, 1 << 31, -(1 << 31), -(1 << 31) - 1, (1 << 32) - 1, 1 << 32])
    assert numbers.wrap32(edges).tolist() == [0, (1 << 31) - 1, -(1 << 31), -(1 << 31), (1 << 31) - 1, -1, 0]


@given(st.integers(-(1 << 45), 1 << 45), st.integers(0, 31))
def test_round_shift_rounds_halves_up(x, n):
    expected = half_up(Fraction(x, 1 << n))
    assert numbers.round_shift(x, n) == expected
    assert numbers.round_shift(np.array([x]), np.array([n])).tolist() == [expected]
    assert numbers.round_shift(torch.tensor([x]), torch.tensor([n])).tolist() == [expected]


def test_round_shift_of_halves():
    assert [numbers.round_shift(x, 1) for x in (-3, -1, 1, 3)] == [-1, 0, 1, 2]


@given(st.integers(-(1 << 40), 1 << 40), st.integers(2, 32))
def test_saturate(x, bits):
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    assert numbers.saturate(np.array([x]), bits).tolist() == [min(high, max(low, x))]


@given(archs, int32, int32, st.integers(0, 31), st.data())
def test_requantise_is_its_three_steps(arch, acc, bias, shift, data):
    mantissa = data.draw(st.integers(0, (1 << arch.mantissa_bits) - 1))
    y = (acc + bias + (1 << 31)) % (1 << 32) - (1 << 31)
    t = half_up(Fraction(y * 512, 1 << shift))
    bits = arch.event_bits + 9 - (arch.mantissa_bits - 1) + 1
    t = max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, t))
    expected = half_up(Fraction(t * mantissa, 512))
    arguments = [np.array([v]) for v in (acc, bias, mantissa, shift)]
    assert numbers.requantise(*arguments, arch).tolist() == [expected]
    assert numbers.requantise(*(torch.from_numpy(v) for v in arguments), arch).tolist() == [expected]


@given(archs, int32, st.integers(0, 31), st.data())
def test_requantise_is_close_to_the_real_product_and_clamps_with_it(arch, acc, shift, data):
    """Within the activation range the error is at most half a step and the first rounding's share; beyond, both clamp alike."""
    mantissa = data.draw(st.integers(1 << (arch.mantissa_bits - 1), (1 << arch.mantissa_bits) - 1))
    zero = np.zeros(1, np.int64)
    got = int(numbers.requantise(np.array([acc]), zero, np.array([mantissa]), np.array([shift]), arch)[0])
    real = acc * Fraction(mantissa, 1 << shift)
    low, high = -(1 << (arch.event_bits - 1)), (1 << (arch.event_bits - 1)) - 1
    error = Fraction(1, 2) + Fraction(mantissa, 1024)
    assert abs(max(low, min(high, got)) - max(low, min(high, real))) <= error


@given(st.integers(-16384, 16383))
def test_split_wide(weight):
    low, high = numbers.split_wide(weight)
    assert low + 128 * high == weight and 0 <= low <= 127 and -128 <= high <= 127


def test_split_wide_takes_arrays():
    weights = np.arange(-16384, 16384)
    low, high = numbers.split_wide(weights)
    assert (low + 128 * high == weights).all() and low.min() == 0 and low.max() == 127


@pytest.mark.parametrize("weight", [-16385, 16384])
def test_split_wide_refuses_what_does_not_fit(weight):
    with pytest.raises(ValueError, match=rf"^wide weight {weight} is outside -16384\.\.16383$"):
        numbers.split_wide(weight)


@given(archs, st.floats(-20, 0), st.floats(1, 2, exclude_max=True))
def test_nearest_multiplier_is_the_nearest(arch, exponent, fraction):
    """Exhaustive search over every mantissa and shift finds none that is nearer."""
    value = fraction * 2.0 ** round(exponent)
    got = numbers.multiplier(*numbers.nearest_multiplier(value, arch))
    every = (numbers.multiplier(m, s) for m in range(1 << (arch.mantissa_bits - 1), 1 << arch.mantissa_bits) for s in range(32))
    assert abs(got / value - 1) == min(abs(factor / value - 1) for factor in every)


@given(archs, st.integers(0, 31), st.data())
def test_nearest_multiplier_of_a_multiplier_is_itself(arch, shift, data):
    mantissa = data.draw(st.integers(1 << (arch.mantissa_bits - 1), (1 << arch.mantissa_bits) - 1))
    assert numbers.nearest_multiplier(numbers.multiplier(mantissa, shift), arch) == (mantissa, shift)


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan")])
def test_nearest_multiplier_refuses_what_is_not_positive(value):
    with pytest.raises(ValueError, match=rf"^a requantisation factor must be positive, not {value!r}$"):
        numbers.nearest_multiplier(value, ARCHS[0])


@pytest.mark.parametrize("value", [1e-12, 1e3])
def test_nearest_multiplier_refuses_what_is_out_of_range(value):
    with pytest.raises(ValueError, match=rf"^no requantisation factor near {value!r}: factors go from .* to 15$"):
        numbers.nearest_multiplier(value, ArchConfig())
