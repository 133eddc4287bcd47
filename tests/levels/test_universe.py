"""Label smoothing as a teacher: identities and closed forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor

from kdlib.levels.universe import (
    effective_epsilon,
    fault_of_control,
    matched_smoothing,
    resting_confidence,
    smooth_labels,
)
from kdlib.losses import cross_entropy, kd_loss, soft_cross_entropy, soften

sizes = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 12))
fractions = st.floats(0, 1)


def draw(seed: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, a teacher's probabilities (n, k) in float64, labels (n,)."""
    rng = np.random.default_rng(seed)
    z, v = 3 * rng.normal(size=(2, n, k))
    return torch.from_numpy(z), torch.from_numpy(v).softmax(-1), torch.from_numpy(rng.integers(k, size=n))


@given(sizes, fractions)
def test_smooth_labels_are_the_mixture_with_the_uniform_distribution(
    size: tuple[int, int, int], epsilon: float
) -> None:
    _, _, y = draw(*size)
    k = size[2]
    expected = (1 - epsilon) * np.eye(k)[y.numpy()] + epsilon * np.full(k, 1 / k)
    table = smooth_labels(y, k, epsilon)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_the_ends_are_one_hot_and_uniform() -> None:
    y = torch.tensor([2, 0])
    assert torch.equal(smooth_labels(y, 4, 0.0), torch.eye(4)[y])
    assert torch.equal(smooth_labels(y, 4, 1.0), torch.full((2, 4), 0.25))


def test_the_other_parametrisation_is_another_epsilon() -> None:
    """1 - e on the label and e / (K - 1) elsewhere is this table at e K / (K - 1)."""
    y, k, e = torch.tensor([1, 3]), 5, 0.3
    other = torch.full((2, k), e / (k - 1)).scatter(1, y.unsqueeze(1), 1 - e)
    torch.testing.assert_close(smooth_labels(y, k, e * k / (k - 1)), other)


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([2, 4, 8, 16]), st.sampled_from([0, 0.125, 0.5, 1])
)
def test_label_smoothing_is_distillation_from_a_uniform_teacher(seed: int, n: int, k: int, epsilon: float) -> None:
    """H(y_LS, q) = (1 - e) H(y, q) + e H(u, q), so it is kd_loss at T = 1 plus the constant e log K. K and e are powers
    of 2, which float32 tables hold exactly."""
    z, _, y = draw(seed, n, k)
    z.requires_grad_()
    smoothed = soft_cross_entropy(z, smooth_labels(y, k, epsilon).double())
    distilled = kd_loss(z, torch.zeros(n, k, dtype=z.dtype), y, temperature=1.0, alpha=epsilon)
    torch.testing.assert_close(smoothed, distilled + epsilon * np.log(k), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss.sum(), z)[0] for loss in (smoothed, distilled)), rtol=0, atol=1e-14
    )
    by_hand = -(1 - epsilon) * log_softmax(z.detach().numpy(), axis=1)[np.arange(n), y.numpy()]
    by_hand -= epsilon * log_softmax(z.detach().numpy(), axis=1).mean(1)
    np.testing.assert_allclose(smoothed.detach(), by_hand, rtol=1e-12)


@given(sizes)
def test_matched_smoothing_is_as_confident_as_the_teacher_and_knows_nothing_else(size: tuple[int, int, int]) -> None:
    _, p, y = draw(*size)
    n, k = p.shape
    table = matched_smoothing(p, y)
    confidence = np.mean([p[i, y[i]] for i in range(n)])
    for i in range(n):
        expected = np.full(k, (1 - confidence) / (k - 1))
        expected[y[i]] = confidence
        np.testing.assert_allclose(table[i], expected, rtol=1e-12, atol=1e-15)
    assert table.dtype == p.dtype


def test_matched_smoothing_is_label_smoothing_of_the_mean_effective_epsilon() -> None:
    """The fair control: epsilon = alpha K / (K - 1) E[1 - p_t], mixed with the labels by alpha."""
    _, p, y = draw(0, 50, 7)
    alpha = 0.8
    one_hot = torch.eye(7, dtype=p.dtype)[y]
    mixed = (1 - alpha) * one_hot + alpha * matched_smoothing(p, y)
    epsilon = effective_epsilon(p, y, alpha).mean().item()
    torch.testing.assert_close(smooth_labels(y, 7, epsilon).double(), mixed, rtol=0, atol=1e-6)


def test_matched_smoothing_leaves_its_input_alone_and_a_matched_table_fixed() -> None:
    _, p, y = draw(1, 6, 4)
    kept = p.clone()
    table = matched_smoothing(p, y)
    assert torch.equal(p, kept)
    torch.testing.assert_close(matched_smoothing(table, y), table)


@given(sizes, fractions)
def test_effective_epsilon_leaves_the_same_mass_on_the_true_class(size: tuple[int, int, int], alpha: float) -> None:
    """1 - e + e / K = (1 - alpha) + alpha p_t for every example."""
    _, p, y = draw(*size)
    k = p.shape[1]
    epsilon = effective_epsilon(p, y, alpha)
    p_t = p[torch.arange(len(y)), y]
    torch.testing.assert_close(1 - epsilon + epsilon / k, 1 - alpha + alpha * p_t, rtol=1e-12, atol=1e-12)


@given(sizes, fractions)
def test_effective_epsilon_gets_back_what_smoothing_put_in(size: tuple[int, int, int], epsilon: float) -> None:
    _, _, y = draw(*size)
    found = effective_epsilon(smooth_labels(y, size[2], epsilon), y)
    np.testing.assert_allclose(found, np.full(len(y), epsilon), atol=2e-6)


def test_smoothing_pulls_the_same_way_as_a_tempered_teacher_in_the_limit() -> None:
    z, p, y = draw(2, 5, 8)
    far = soft_cross_entropy(z, 0.75 * torch.eye(8, dtype=z.dtype)[y] + 0.25 * soften(p.log(), 1e8))
    torch.testing.assert_close(far, soft_cross_entropy(z, smooth_labels(y, 8, 0.25).double()), rtol=1e-6, atol=0)
    assert not torch.allclose(far, cross_entropy(z, y))


@given(
    st.floats(0.02, 0.98),
    st.integers(2, 30),
    st.sampled_from([0.5, 1.0, 2.0, 4.0, 16.0]),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_a_student_rests_where_the_gradient_of_the_distillation_loss_vanishes(
    confidence: float, k: int, temperature: float, alpha: float
) -> None:
    """Autograd of `kd_loss`, in every class, and the logits are its strict minimum along a random direction."""
    rest = resting_confidence(confidence, k, temperature, alpha)
    assume(1e-6 < rest < 1 - 1e-6)  # else what is left for the other classes has few digits
    table = torch.full((1, k), (1 - confidence) / (k - 1), dtype=torch.float64)
    table[0, 0] = confidence
    z = torch.full((1, k), (1 - rest) / (k - 1), dtype=torch.float64)
    z[0, 0] = rest
    z = z.log().requires_grad_()
    v, y = temperature * table.log(), torch.tensor([0])
    loss = kd_loss(z, v, y, temperature, alpha)
    (slope,) = torch.autograd.grad(loss.sum(), z)
    assert slope.abs().max() < 1e-8
    way = torch.randn(k, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    assert kd_loss(z + 0.1 * way, v, y, temperature, alpha) > loss


@given(st.floats(0.01, 0.99), fractions.filter(lambda alpha: alpha > 1e-3), st.integers(2, 20))
def test_at_temperature_one_a_student_rests_on_its_effective_target(confidence: float, alpha: float, k: int) -> None:
    assert resting_confidence(confidence, k, 1.0, alpha) == pytest.approx(1 - alpha * (1 - confidence), abs=1e-9)
    assert resting_confidence(confidence, k, 4.0, 1.0) == pytest.approx(
        1 / (1 + (k - 1) * ((1 - confidence) / (k - 1) / confidence) ** 4), abs=1e-9
    )  # alpha = 1 takes the table at its own temperature


def of_the_teachers_shape(probs: Tensor, labels: Tensor) -> Tensor:
    """The mean confidence on the label, and what the teacher thinks of the wrong classes on the rest."""
    at = labels.unsqueeze(1)
    mean = probs.gather(1, at).mean()
    table = probs.scatter(1, at, 0.0)
    return ((1 - mean) * table / table.sum(1, keepdim=True)).scatter(1, at, mean.item())


def of_the_largest(probs: Tensor, labels: Tensor) -> Tensor:
    mean = probs.max(1).values.mean()
    table = ((1 - mean) / (probs.shape[1] - 1)).repeat(*probs.shape)
    return table.scatter_(1, labels.unsqueeze(1), mean.item())


def of_each_example(probs: Tensor, labels: Tensor) -> Tensor:
    at = labels.unsqueeze(1)
    own = probs.gather(1, at)
    return ((1 - own) / (probs.shape[1] - 1)).repeat(1, probs.shape[1]).scatter(1, at, own)


@pytest.mark.parametrize(
    ("candidate", "fault"),
    [
        (of_the_teachers_shape, "wrong classes of a row differ"),
        (of_the_largest, "average the largest probability"),
        (of_each_example, "kept each example's own confidence"),
        (lambda p, y: p, "kept each example's own confidence"),
        (lambda p, y: 2 * matched_smoothing(p, y), "Rows must sum to 1; yours sum to 2.000"),
        (lambda p, y: p * float("nan"), "Rows must sum to 1; yours sum to nan"),
        (lambda p, y: p[0], r"The table has shape (7,)"),
        (lambda p, y: None, "The table has type NoneType"),
    ],
)
def test_the_check_of_the_control_says_what_is_wrong(candidate: Callable[[Tensor, Tensor], Tensor], fault: str) -> None:
    assert fault in fault_of_control(candidate)


def test_the_check_of_the_control_finds_no_fault_in_the_control() -> None:
    assert fault_of_control(matched_smoothing) == ""
    assert fault_of_control(lambda p, y: matched_smoothing(p, y).float()) == ""


Y, P = torch.tensor([0, 2]), torch.full((2, 3), 1 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smooth_labels(Y, 3, 1.5), r"epsilon must be a number in \[0, 1\], got 1.5"),
        (
            lambda: smooth_labels(Y, 3, torch.zeros(3)),  # type: ignore[arg-type]
            r"epsilon must be one number, got a tensor of shape \(3,\)",
        ),
        (
            lambda: effective_epsilon(P, Y, torch.ones(2, 1)),  # type: ignore[arg-type]
            r"alpha must be one number, got a tensor of shape \(2, 1\)",
        ),
        (lambda: smooth_labels(Y, 3, float("nan")), "epsilon .* got nan"),
        (lambda: smooth_labels(Y, 2, 0.1), r"labels must lie in 0..1, got 0..2"),
        (lambda: smooth_labels(Y - 1, 3, 0.1), r"labels must lie in 0..2, got -1..1"),
        (lambda: smooth_labels(Y.int(), 3, 0.1), "labels must have dtype torch.int64, got torch.int32"),
        (lambda: smooth_labels(P, 3, 0.1), r"labels must have shape \(any,\), got \(2, 3\)"),
        (lambda: smooth_labels([0, 2], 3, 0.1), "labels must be a torch.Tensor .*, got list"),  # type: ignore[arg-type]
        (lambda: smooth_labels(Y, 0, 0.1), "num_classes must be an integer of at least 1, got 0"),
        (lambda: smooth_labels(Y, 3.0, 0.1), "num_classes must be an integer of at least 1, got 3.0"),  # type: ignore[arg-type]
        (lambda: matched_smoothing(2 * P, Y), "probs must have rows that sum to 1, got a row that is off by 1"),
        (lambda: matched_smoothing(P - 1, Y), "probs must not be negative, got a smallest entry of -0.667"),
        (lambda: matched_smoothing(P * float("nan"), Y), "probs must be finite, got 6 NaN or infinite values of 6"),
        (lambda: matched_smoothing(P[0], Y), r"probs must have shape \(any, any\), got \(3,\)"),
        (lambda: matched_smoothing(P, Y[:1]), r"labels must have shape \(2,\), got \(1,\)"),
        (lambda: matched_smoothing(P, Y + 1), r"labels must lie in 0..2, got 1..3"),
        (lambda: matched_smoothing(torch.ones(2, 1), 0 * Y), "probs must have at least 1 example and 2 classes"),
        (lambda: matched_smoothing(P[:0], Y[:0]), "probs must have at least 1 example and 2 classes"),
        (lambda: matched_smoothing(P.numpy(), Y), "probs must be a floating-point torch.Tensor, got ndarray"),  # type: ignore[arg-type]
        (lambda: effective_epsilon(torch.ones(2, 1), 0 * Y), "probs must have at least 1 example and 2 classes"),
        (lambda: effective_epsilon(P.long(), Y), "probs must be a floating-point torch.Tensor, got torch.int64"),
        (lambda: resting_confidence(1.0, 3, 4.0), "confidence must lie between 0 and 1, got 1.0"),
        (lambda: resting_confidence(0.5, 1, 4.0), "num_classes must be at least 2, got 1"),
        (lambda: resting_confidence(0.5, 3, 0.0), "temperature must be .* got 0"),
        (lambda: resting_confidence(0.5, 3, 4.0, 0.0), "alpha must be above 0 and at most 1, got 0"),
        (lambda: effective_epsilon(P, Y, alpha=-1), r"alpha must be a number in \[0, 1\], got -1"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
