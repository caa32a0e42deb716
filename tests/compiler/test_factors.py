"""Factors of the requantiser: snapped, recovered, approximated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sordino_compiler.factors import MAX_FACTOR_SHIFT, WIDE_MAX, approximate, exact_factor, product_factor, snap_factor
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.numbers import multiplier, nearest_multiplier

ARCHS = [ArchConfig(mantissa_bits=m) for m in (2, 4, 8)]
archs = st.sampled_from(ARCHS)


def least(arch):
    return (1 << (arch.mantissa_bits - 1)) * 2.0**-MAX_FACTOR_SHIFT


@given(st.floats(1e-7, 7.9), archs)
def test_a_snapped_factor_is_representable_and_at_most_a_step_larger(value, arch):
    (snapped,) = snap_factor(np.array([value]), arch)
    mantissa, shift = nearest_multiplier(snapped, arch) if snapped <= (1 << arch.mantissa_bits) - 1 else (0, 0)
    wanted = max(value, least(arch))
    assert wanted * (1 - 1e-11) <= snapped <= wanted * (1 + 2.0 ** -(arch.mantissa_bits - 1)) * (1 + 1e-11)
    if mantissa:
        assert multiplier(mantissa, shift) == snapped


@given(st.floats(1e-7, 1.9), archs)
def test_snapping_a_snapped_factor_changes_nothing(value, arch):
    once = snap_factor(np.array([value]), arch)
    assert (snap_factor(once, arch) == once).all()


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=9), archs)
def test_float32_scales_bring_a_snapped_factor_back_exactly(values, arch):
    snapped = snap_factor(np.array(values), arch)
    s_in, s_out = 0.0123, 0.0457
    weight = (snapped * s_out / s_in).astype(np.float32).astype(np.float64)
    mantissa, shift, error = exact_factor(s_in * weight / s_out, arch)
    assert (np.ldexp(mantissa.astype(float), -shift) == snapped).all() and error.max() < 1e-6


@pytest.mark.parametrize("value", [2.0**-40, 1e6])
def test_factors_out_of_range_are_not_taken_for_exact(value):
    assert exact_factor(np.array([value]), ARCHS[1])[2][0] == 1.0


@given(
    st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=1, max_size=8).filter(
        lambda rows: all(max(map(abs, r)) > 1e-3 for r in rows)
    ),
    st.sampled_from([127, WIDE_MAX]),
)
def test_approximate_keeps_the_limit_and_reports_its_error(rows, limit):
    factors = np.array(rows).T
    weights, mantissa, shift, error = approximate(factors, ARCHS[1], limit)
    got = weights * np.ldexp(mantissa.astype(float), -shift)
    largest = np.abs(factors).max(0)
    assert np.abs(weights).max() <= limit
    assert np.isclose((np.abs(got - factors).max(0) / largest).max(), error)
    assert error < 1.2 / limit


def test_a_pooling_factor_is_accurate_in_one_or_two_cycles():
    for k in range(1, 64):
        factor = np.array([[1.0 / k]])
        errors = [approximate(factor, ARCHS[1], limit)[3] for limit in (127, WIDE_MAX)]
        assert min(errors) < 1e-3


@given(st.floats(2.0**-18, 8.0), archs)
def test_a_product_factor_is_met_exactly_by_eight_bits(value, arch):
    product = product_factor(value, arch)
    assert value * (1 - 1 / 64) <= product <= value * (1 + 1e-11)
    assert approximate(np.array([[product]]), arch, 127)[3] < 1e-12


def test_channels_of_zeros_are_harmless():
    weights, _, _, error = approximate(np.zeros((2, 3)), ARCHS[1], 127)
    assert not weights.any() and error == 0
