"""Input checks: what passes, what is refused, and that plain numbers come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdlib import _check, data
from kdlib.data import Task
from kdlib.levels import domain, failures, split, universe
from kdlib.resnet import resnet
from kdlib.trainer import draw_epoch, fit, predict


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


G = torch.Generator().manual_seed(0)
P = torch.rand(12, 4, generator=G).softmax(-1)
Y = torch.arange(12) % 4
NETWORK = resnet(8, 4, width=2, channels=1)


def fitted(n):
    x = torch.ones(12, 1, 8, 8)
    torch.manual_seed(0)
    model = resnet(n(8), n(4), n(2), n(1))
    fit(Task(x, Y, x, Y, n(4)), model, epochs=n(2), batch_size=n(4), crop=n(1), seed=n(3), progress=False)
    return model.head.weight


COUNTS = {
    "smooth_labels": lambda n: universe.smooth_labels(Y, n(4), 0.1),
    "topk_targets": lambda n: split.topk_targets(P, n(2)),
    "permuted_targets": lambda n: split.permuted_targets(P, Y, seed=n(3)),
    "free_feature_model": lambda n: domain.free_feature_model(P[:4], width=n(3), steps=n(2), seed=n(1)),
    "one seed a table": lambda n: domain.free_feature_model(P[:4], width=3, steps=2, seed=[n(1)]),
    "virtual_teacher": lambda n: failures.virtual_teacher(Y, n(4), 0.7),
    "world": lambda n: data.world("F", n(3), n_train=n(20), n_test=n(10)).x_train,
    "digits": lambda n: data.digits(n_train=n(40), seed=n(1)).x_train,
    "split_validation": lambda n: data.world("F", 0, 20, 10).split_validation(0.3, n(2)).x_train,
    "draw_epoch": lambda n: torch.cat([t.flatten().double() for t in draw_epoch(n(1), n(2), n(30), n(2), True)]),
    "predict": lambda n: predict(NETWORK, torch.ones(6, 1, 8, 8), n(4)),
    "fit": fitted,
}


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("what", COUNTS)
def test_counts_and_seeds_may_be_numpys_wherever_they_are_taken(what, kind):
    assert torch.equal(COUNTS[what](kind), COUNTS[what](int))
