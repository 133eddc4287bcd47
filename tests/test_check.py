"""Input checks: what passes, what is refused, and that plain numbers come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdlib import _check


@pytest.mark.parametrize("value", [3, np.int64(3), np.int8(3), np.uint16(3)])
def test_counts_of_numpy_come_back_as_plain_integers(value):
    assert _check.positive_int(value, "n") == 3 and type(_check.positive_int(value, "n")) is int
    assert type(_check.integer(value, "n")) is int


@pytest.mark.parametrize("value", [0, -1, np.int64(0), 2.0, np.float64(2), True, np.bool_(True), "3", None])
def test_what_is_no_count_is_named(value):
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got "):
        _check.positive_int(value, "n")


def test_the_least_integer_is_the_callers():
    assert _check.integer(0, "n") == 0 and _check.integer(-2, "n", -2) == -2
    with pytest.raises(ValueError, match="n must be an integer of at least 0, got -1"):
        _check.integer(-1, "n")


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.int64(2), 1e30])
def test_numbers_come_back_as_plain_floats(value):
    assert _check.not_negative(value, "lr") == value and type(_check.not_negative(value, "lr")) is float


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, True, "1", None, 1j])
def test_what_is_no_finite_number_from_zero_is_named(value):
    with pytest.raises(ValueError, match="lr must be a finite number of at least 0, got "):
        _check.not_negative(value, "lr")


@pytest.mark.parametrize("value", [True, False, np.bool_(True)])
def test_a_truth_value_is_no_number(value):
    with pytest.raises(ValueError, match="alpha must be a number"):
        _check.fraction(value, "alpha")
    with pytest.raises(ValueError, match="temperature must be a positive finite number"):
        _check.temperature(value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_single_value_that_is_not_finite_is_found_wherever_it_stands(bad, dtype):
    for at in (0, 3, 5):
        value = torch.arange(6, dtype=dtype).view(2, 3) - 3
        assert _check.finite("x", value) is value
        value.view(-1)[at] = bad
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite values of 6"):
            _check.finite("x", value)


def test_infinities_of_both_signs_are_counted():
    with pytest.raises(ValueError, match="x must be finite, got 2 NaN or infinite values of 3"):
        _check.finite("x", torch.tensor([math.inf, 0.0, -math.inf]))
    assert _check.finite("x", torch.zeros(0, 3)).numel() == 0


@pytest.mark.parametrize(("off", "passes"), [(5e-5, True), (-5e-5, True), (2e-4, False), (-2e-4, False)])
def test_rows_sum_to_one_within_a_ten_thousandth(off, passes):
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5 + off]], dtype=torch.float64)
    if passes:
        assert _check.probabilities("p", rows) is rows
    else:
        with pytest.raises(ValueError, match=r"p must have rows that sum to 1, got a row that is off by 0.0002"):
            _check.probabilities("p", rows)


def test_a_negative_probability_is_named():
    with pytest.raises(ValueError, match=r"p must not be negative, got a smallest entry of -0\.1"):
        _check.probabilities("p", torch.tensor([[-0.1, 1.1]]))
