"""The losses against SciPy's relative entropy, finite differences, closed forms and limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import entropy
from torch import Tensor

from kdlib.losses import cross_entropy, kd_loss, soft_cross_entropy, soften

Array = NDArray[np.float64]
problems = st.builds(
    lambda seed, n, k: (seed, n, k),
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(2, 12),
)
temperatures = st.floats(0.3, 50)
fractions = st.floats(0, 1)


def draw(seed: int, n: int, k: int, scale: float = 3.0) -> tuple[Array, Array, NDArray[np.int64]]:
    """Student logits, teacher logits (n, k) and labels (n,)."""
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, k)), scale * rng.normal(size=(n, k)), rng.integers(k, size=n)


def scipy_kd(z: Array, v: Array, y: NDArray[np.int64], T: float, alpha: float, t_squared: bool = True) -> Array:
    """The loss as the formula says it, in float64, with SciPy's relative entropy of probabilities."""
    hard = -log_softmax(z, axis=-1)[np.arange(len(y)), y]
    soft = rel_entr(softmax(v / T, axis=-1), softmax(z / T, axis=-1)).sum(-1)
    return (1 - alpha) * hard + alpha * (T**2 if t_squared else 1) * soft


def tensors(*arrays: Any) -> Any:
    return tuple(torch.from_numpy(np.asarray(a)) for a in arrays)


def gradient(loss: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(z).sum(), z)
    return g


def centred(a: Tensor) -> Tensor:
    return a - a.mean(-1, keepdim=True)


@given(problems, temperatures, fractions, st.booleans())
def test_kd_loss_is_scipys_relative_entropy_and_cross_entropy(
    problem: tuple[int, int, int], T: float, alpha: float, t_squared: bool
) -> None:
    z, v, y = draw(*problem)
    student, teacher, labels = tensors(z, v, y)
    ours = kd_loss(student, teacher, labels, T, alpha, t_squared)
    assert ours.shape == (len(y),)
    np.testing.assert_allclose(ours, scipy_kd(z, v, y, T, alpha, t_squared), rtol=1e-9, atol=1e-11)


@given(problems, temperatures, fractions, st.booleans())
def test_kd_gradient_formula_by_finite_differences(
    problem: tuple[int, int, int], T: float, alpha: float, t_squared: bool
) -> None:
    """(1 - alpha)(q - y) + alpha T (q_T - p_T), or alpha / T without the factor."""
    seed, _, k = problem
    z, v, y = draw(seed, 1, k)
    teacher, labels = tensors(v, y)
    pull = alpha * T if t_squared else alpha / T
    q, q_T, p_T = softmax(z), softmax(z / T), softmax(v / T)
    formula = (1 - alpha) * (q - np.eye(k)[y]) + pull * (q_T - p_T)
    ours = gradient(lambda z: kd_loss(z, teacher, labels, T, alpha, t_squared), torch.from_numpy(z))
    np.testing.assert_allclose(ours, formula, atol=1e-11)

    def value(shift: Array) -> float:
        return float(scipy_kd(z + shift, v, y, T, alpha, t_squared)[0])

    step = 1e-5
    forward, backward = (approx_fprime(np.zeros(k), value, s) for s in (step, -step))
    np.testing.assert_allclose(ours[0], (forward + backward) / 2, atol=1e-6)


def test_autograd_checks_every_argument_that_can_be_learned() -> None:
    z, v, y = tensors(*draw(1, 3, 5))
    T, alpha = torch.tensor(2.5, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    inputs = tuple(a.requires_grad_() for a in (z, v, T, alpha))
    assert torch.autograd.gradcheck(lambda z, v, T, alpha: kd_loss(z, v, y, T, alpha), inputs)


def test_defaults_are_the_documented_ones() -> None:
    defaults = {n: p.default for n, p in inspect.signature(kd_loss).parameters.items() if p.default is not p.empty}
    assert defaults == {"labels": None, "temperature": 4.0, "alpha": 0.9, "t_squared": True, "weights": None}
    z, v, y = draw(2, 4, 6)
    np.testing.assert_allclose(kd_loss(*tensors(z, v, y)), scipy_kd(z, v, y, 4.0, 0.9, True))


@given(problems, st.floats(0.5, 20), st.floats(0.01, 1))
def test_loss_without_t_squared_is_a_multiple_of_the_one_with_it(
    problem: tuple[int, int, int], T: float, lam: float
) -> None:
    z, v, y = tensors(*draw(*problem))
    with_factor = lam / (lam + (1 - lam) * T**2)
    scale = (1 - lam) + lam / T**2
    torch.testing.assert_close(
        kd_loss(z, v, y, T, lam, t_squared=False),
        scale * kd_loss(z, v, y, T, with_factor),
        rtol=1e-10,
        atol=1e-12,
    )


def test_missing_t_squared_at_temperature_4_is_a_weight_of_an_eighth() -> None:
    z, v, y = tensors(*draw(3, 4, 6))
    ratio = kd_loss(z, v, y, 4, 0.7, t_squared=False) / kd_loss(z, v, y, 4, 0.127)
    assert ratio.std() / ratio.mean() < 1e-3  # 0.127 is rounded to three digits


class TestHighTemperature:
    """Three limits that are easy to confuse."""

    z, v, y = tensors(*draw(4, 5, 10, scale=2.0))

    def test_tempered_teacher_and_plain_student_become_label_smoothing(self) -> None:
        alpha = 0.3
        one_hot = torch.nn.functional.one_hot(self.y, 10).double()
        target = (1 - alpha) * one_hot + alpha * soften(self.v, 1e7)
        smoothed = (1 - alpha) * one_hot + alpha / 10
        torch.testing.assert_close(
            soft_cross_entropy(self.z, target), -(smoothed * self.z.log_softmax(-1)).sum(-1), rtol=1e-6, atol=0
        )

    @pytest.mark.parametrize("teacher", ["full", "uniform"])
    def test_both_tempered_become_logit_regression(self, teacher: str) -> None:
        v = self.v if teacher == "full" else torch.zeros_like(self.v)  # uniform: a penalty on the logits' norm
        limit = centred(self.z - v).square().sum(-1) / (2 * 10)
        gaps = [(kd_loss(self.z, v, self.y, T, alpha=1.0) / limit - 1).abs().max().item() for T in (10, 100, 1000)]
        assert gaps[0] > gaps[1] > gaps[2]
        assert gaps[2] < 5e-3
        assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.2)  # the error falls as 1 / T
        slope = gradient(lambda z: kd_loss(z, v, self.y, 1e4, alpha=1.0), self.z)
        torch.testing.assert_close(slope, centred(self.z - v) / 10, rtol=0, atol=1e-4)

    def test_the_target_is_almost_uniform_although_the_loss_is_not_smoothing(self) -> None:
        assert (soften(self.v, 1000) - 0.1).abs().max() < 1e-3
        far = kd_loss(self.z, self.v, self.y, 1000, 1.0) - kd_loss(self.z, 0 * self.v, self.y, 1000, 1.0)
        assert far.abs().min() > 0.1

    def test_gradient_norm_is_nearly_constant_in_t_only_with_the_factor(self) -> None:
        def norm(T: float, t_squared: bool) -> float:
            return gradient(lambda z: kd_loss(z, self.v, self.y, T, 1.0, t_squared), self.z).norm().item()

        with_factor = [norm(T, True) for T in (50, 100, 200, 400)]
        assert max(with_factor) / min(with_factor) < 1.05
        assert norm(100, False) / norm(200, False) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("T", [0.5, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("size", [200.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite_and_right(size: float, T: float, dtype: torch.dtype) -> None:
    v = torch.tensor([[0, size], [-size, size], [size, size], [0, 0]], dtype=dtype)
    z = torch.tensor([[size, 0], [size, -size], [-size, size], [size, -size]], dtype=dtype, requires_grad=True)
    y = torch.zeros(4, dtype=torch.int64)
    loss = kd_loss(z, v, y, T, alpha=1.0)
    # Two classes that disagree: KL = logit gap / T; both classes alike against a sure student: gap / 2T - log 2.
    gap = torch.tensor([size, 2 * size, size, size], dtype=torch.float64)
    expected = T * gap - T**2 * torch.tensor([0, 0, 1, 1]).double() * np.log(2)
    if size / T > 30:  # else the sure side is not sure
        torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=0)
    assert loss.isfinite().all()
    (g,) = torch.autograd.grad(kd_loss(z, v, y, T, alpha=0.5).sum(), z)
    assert g.isfinite().all()
    assert g[:3].abs().max() > 0


@given(problems, temperatures, st.integers(1, 5), st.sampled_from([-float("inf"), -1e5]))
def test_appended_classes_of_probability_zero_change_nothing(
    problem: tuple[int, int, int], T: float, extra: int, logit: float
) -> None:
    z, v, y = tensors(*draw(*problem))

    def wide(a: Tensor) -> Tensor:
        return torch.nn.functional.pad(a, (0, extra), value=logit)

    torch.testing.assert_close(kd_loss(wide(z), wide(v), y, T), kd_loss(z, v, y, T), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(lambda z: kd_loss(wide(z), wide(v), y, T), z),
        gradient(lambda z: kd_loss(z, v, y, T), z),
        rtol=1e-10,
        atol=1e-12,
    )


def test_table_with_zeros_teaches_through_its_logarithm() -> None:
    z, _, y = tensors(*draw(5, 3, 4))
    table = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    ours = kd_loss(z, table.log(), y, temperature=1.0, alpha=1.0)
    np.testing.assert_allclose(ours, entropy(table, softmax(z.numpy(), axis=-1), axis=-1), rtol=1e-12)
    torch.testing.assert_close(
        gradient(lambda z: kd_loss(z, table.log(), y, 1.0, 1.0), z), z.softmax(-1) - table, rtol=0, atol=1e-12
    )


def test_broadcasts_over_students_with_their_own_temperature_and_alpha() -> None:
    rng = np.random.default_rng(6)
    z, v, y = rng.normal(size=(3, 4, 5)), rng.normal(size=(4, 5)), rng.integers(5, size=4)
    T, alpha = np.array([1.0, 2.5, 8.0]), np.array([0.2, 0.5, 1.0])
    expected = np.stack([scipy_kd(z[f], v, y, T[f], alpha[f]) for f in range(3)])
    per_student = tensors(T[:, None], alpha[:, None])
    shared, own = (kd_loss(torch.from_numpy(z), t, torch.from_numpy(y), *per_student) for t in tensors(v, [v] * 3))
    assert shared.shape == (3, 4)
    np.testing.assert_allclose(shared, expected, rtol=1e-10)
    np.testing.assert_allclose(own, expected, rtol=1e-10)


def test_broadcasts_over_examples_with_their_own_temperature() -> None:
    z, v, y = draw(7, 4, 5)
    T = np.array([0.5, 1.0, 2.0, 9.0])
    expected = [scipy_kd(z[[n]], v[[n]], y[[n]], T[n], 0.6)[0] for n in range(4)]
    student, teacher, labels, temperature = tensors(z, v, y, T)
    np.testing.assert_allclose(kd_loss(student, teacher, labels, temperature, alpha=0.6), expected, rtol=1e-10)


@given(problems, temperatures)
def test_loss_is_zero_with_zero_gradient_exactly_at_the_teacher(problem: tuple[int, int, int], T: float) -> None:
    z, v, y = tensors(*draw(*problem))
    same = v + torch.randn(len(v), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert kd_loss(same, v, y, T, 1.0).abs().max() < 1e-9 * (1 + T**2)
    assert gradient(lambda z: kd_loss(z, v, y, T, 1.0), same).abs().max() < 1e-12 * (1 + T**2)
    assert (kd_loss(z, v, y, T, 1.0) > 0).all()
    assert gradient(lambda z: kd_loss(z, v, y, T, 1.0), z).abs().max() > 0


@given(problems, st.randoms(use_true_random=False))
def test_names_and_order_of_classes_and_examples_do_not_matter(problem: tuple[int, int, int], random: Any) -> None:
    _, n, k = problem
    z, v, y = tensors(*draw(*problem))
    rows, columns = (torch.tensor(random.sample(range(m), m)) for m in (n, k))
    place = columns.argsort()  # where each class went
    moved = kd_loss(z[rows][:, columns], v[rows][:, columns], place[y[rows]])
    torch.testing.assert_close(moved, kd_loss(z, v, y)[rows], rtol=1e-10, atol=1e-12)


@given(problems, temperatures)
def test_soft_cross_entropy_is_entropy_plus_relative_entropy(problem: tuple[int, int, int], T: float) -> None:
    z, v, _ = draw(*problem)
    p, q = softmax(v, axis=-1), softmax(z / T, axis=-1)
    student, targets = tensors(z, p)
    np.testing.assert_allclose(
        soft_cross_entropy(student, targets, T), entropy(p, axis=-1) + rel_entr(p, q).sum(-1), rtol=1e-9
    )


@given(problems)
def test_cross_entropy_is_torchs_for_every_student(problem: tuple[int, int, int]) -> None:
    seed, n, k = problem
    z, _, y = tensors(*draw(seed, 2 * n, k))
    z, y = z.view(2, n, k), y[:n]
    expected = torch.stack([torch.nn.functional.cross_entropy(one, y, reduction="none") for one in z])
    torch.testing.assert_close(cross_entropy(z, y), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("T", [1.0, 3.0, 7.0])
def test_half_precision_logits_are_widened_before_they_are_divided(dtype: torch.dtype, T: float) -> None:
    z, v, y = tensors(*draw(8, 20, 30))
    z, v = z.to(dtype), v.to(dtype)
    torch.testing.assert_close(kd_loss(z, v, y, T), kd_loss(z.float(), v.float(), y, T), rtol=0, atol=0)
    exact = gradient(lambda z: kd_loss(z, v.double(), y, T), z.double())
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(
        gradient(lambda z: kd_loss(z, v, y, T), z).double(), exact, rtol=rounding, atol=1e-5
    )  # nothing but the last rounding, of the gradient to the logits' dtype


class TestSoften:
    def test_known_numbers(self) -> None:
        """One true class, two alike, 97 others: the mass of each group at four temperatures."""
        logits = torch.tensor([8.0, 4.0, 3.8] + 97 * [1.0], dtype=torch.float64)
        known = {
            1: (0.891, 0.030, 0.079),
            2: (0.239, 0.062, 0.700),
            4: (0.054, 0.039, 0.908),
            10: (0.020, 0.026, 0.954),
        }
        for T, masses in known.items():
            p = soften(logits, T)
            assert (p[0].item(), p[1:3].sum().item(), p[3:].sum().item()) == pytest.approx(masses, abs=6e-4)

    def test_tables_are_tempered_by_a_power_not_by_dividing_probabilities(self) -> None:
        p = torch.full((100,), 0.01 / 99, dtype=torch.float64)
        p[0] = 0.99
        power = p ** (1 / 20) / (p ** (1 / 20)).sum()
        torch.testing.assert_close(soften(p.log(), 20), power, rtol=1e-12, atol=0)
        assert (power[0].item(), power[1].item()) == pytest.approx((0.0157, 0.00994), rel=4e-3)
        trap = soften(p, 20)
        assert (trap[0].item(), trap[1].item()) == pytest.approx((0.01050, 0.00999), rel=1e-3)

    @given(problems, temperatures)
    def test_is_scipys_softmax(self, problem: tuple[int, int, int], T: float) -> None:
        z, _, _ = draw(*problem)
        np.testing.assert_allclose(soften(torch.from_numpy(z), T), softmax(z / T, axis=-1), rtol=1e-12)

    def test_zeros_of_a_table_stay_zero(self) -> None:
        p = torch.tensor([0.5, 0.5, 0.0])
        assert soften(p.log(), 4.0).tolist() == [0.5, 0.5, 0.0]


Z, Y = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kd_loss(Z, Z, Y, temperature=0), ["temperature", "positive", "0"]),
        (lambda: kd_loss(Z, Z, Y, temperature=-2.0), ["temperature", "-2.0"]),
        (lambda: kd_loss(Z, Z, Y, temperature=NAN), ["temperature", "nan"]),
        (lambda: kd_loss(Z, Z, Y, temperature=float("inf")), ["temperature", "finite", "inf"]),
        (lambda: kd_loss(Z, Z, Y, temperature="4"), ["temperature", "'4'"]),  # type: ignore[arg-type]
        (lambda: kd_loss(Z, Z, Y, temperature=torch.tensor(4)), ["temperature", "int64"]),
        (lambda: kd_loss(Z, Z, Y, temperature=torch.ones(7)), ["temperature", "(3,)", "(7,)"]),
        (lambda: kd_loss(Z, Z, Y, alpha=1.1), ["alpha", "[0, 1]", "1.1"]),
        (lambda: kd_loss(Z, Z, Y, alpha=-0.1), ["alpha", "-0.1"]),
        (lambda: kd_loss(Z, Z, Y, alpha=NAN), ["alpha", "nan"]),
        (lambda: kd_loss(Z, Z, Y, alpha=torch.ones(7)), ["alpha", "(7,)"]),
        (lambda: kd_loss(Z, Z[:, :3], Y), ["teacher_logits", "(3, 4)", "(3, 3)"]),
        (lambda: kd_loss(Z, Z[:2], Y), ["teacher_logits", "(2, 4)"]),
        (lambda: kd_loss(Z, Z[0], Y), ["teacher_logits", "(4,)"]),
        (lambda: kd_loss(Z.expand(2, 3, 4), Z.expand(5, 3, 4), Y), ["teacher_logits", "(5, 3, 4)"]),
        (lambda: kd_loss(Z.long(), Z, Y), ["student_logits", "floating-point", "int64"]),
        (lambda: kd_loss(Z, [[0.0]], Y), ["teacher_logits", "list"]),  # type: ignore[arg-type]
        (lambda: kd_loss(Z, Z, Y[:2]), ["labels", "(3,)", "(2,)"]),
        (lambda: kd_loss(Z, Z, Y.unsqueeze(1)), ["labels", "(3, 1)"]),
        (lambda: kd_loss(Z, Z, Y.float()), ["labels", "int64", "float32"]),
        (lambda: kd_loss(Z, Z, [0, 0, 0]), ["labels", "list"]),  # type: ignore[arg-type]
        (lambda: cross_entropy(Z[0], Y), ["logits", "(4,)"]),
        (lambda: cross_entropy(Z.int(), Y), ["logits", "int32"]),
        (lambda: soft_cross_entropy(Z, Z[:, :2]), ["targets", "(3, 2)"]),
        (lambda: soft_cross_entropy(Z, Z.long()), ["targets", "int64"]),
        (lambda: soft_cross_entropy(Z, Z, 0.0), ["temperature", "0.0"]),
        (lambda: soften(Z.long()), ["logits", "int64"]),
        (lambda: soften(Z, -1), ["temperature", "-1"]),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], Tensor], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)
