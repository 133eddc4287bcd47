"""The teacher's gradient against finite differences and double backward; the loop against the fleet's own engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdlib import Recipe, Task
from kdlib import train as fleet_train
from kdlib.losses import cross_entropy, kd_loss
from kdlib.mechanisms import meta
from kdlib.models import CNN, MLP


class Tanh(MLP):
    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


def problem(fleet: int = 2, n: int = 12, m: int = 9, d: int = 5, k: int = 4) -> tuple[Tanh, Tanh, tuple[Tensor, ...]]:
    g = torch.Generator().manual_seed(fleet + n + m)
    student, teacher = (Tanh((d, h, k), [*range(s, s + fleet)], torch.float64) for h, s in ((6, 0), (8, 50)))
    x, quiz = (torch.randn(fleet, size, d, generator=g, dtype=torch.float64) for size in (n, m))
    y, quiz_y = (torch.randint(k, (fleet, size), generator=g) for size in (n, m))
    return student, teacher, (x, y, quiz, quiz_y)


HOW = {"rate": 0.4, "temperature": 3.0, "alpha": 0.7}


def quiz_loss(student: Tanh, mother: Tensor, teacher: Tanh, x: Tensor, y: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
    """After the pilot step, written out: (F,)."""
    flat = student.flat.detach().requires_grad_()
    value = kd_loss(student.apply(flat, x), teacher.apply(mother, x), y, HOW["temperature"], HOW["alpha"])
    (g,) = torch.autograd.grad(value.mean(-1).sum(), flat)
    return cross_entropy(student.apply(flat.detach() - HOW["rate"] * g, qx), qy).mean(-1)


def test_the_gradient_is_that_of_central_differences() -> None:
    student, teacher, batch = problem()
    exact = meta.meta_gradient(student, teacher, *batch, **HOW)
    mother, found = teacher.flat.detach(), torch.zeros_like(exact)
    for j in range(mother.shape[1]):
        e = torch.zeros_like(mother)
        e[:, j] = 1e-5
        up, down = (quiz_loss(student, mother + s * e, teacher, *batch) for s in (1, -1))
        found[:, j] = (up - down).detach() / 2e-5
    assert float((exact - found).norm() / found.norm()) < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(2, 6))
def test_both_ways_agree_for_any_shape(fleet: int, n: int, m: int, d: int, k: int) -> None:
    student, teacher, batch = problem(fleet, n, m, d, k)
    exact, double = (meta.meta_gradient(student, teacher, *batch, **HOW, double_backward=b) for b in (False, True))
    assert torch.allclose(exact, double, rtol=1e-9, atol=1e-13)


def test_first_order_is_exactly_zero_and_so_is_a_step_of_no_length() -> None:
    student, teacher, (x, y, qx, qy) = problem()
    assert not meta.meta_gradient(student, teacher, x, y, qx, qy, rate=0.0).any()
    assert not meta.meta_gradient(student, teacher, x, y, qx, qy, rate=0.4, alpha=0.0).any()
    flat, mother = student.flat.detach().requires_grad_(), teacher.flat.detach().requires_grad_()
    value = kd_loss(student.apply(flat, x), teacher.apply(mother, x), y, 3.0, 0.7).mean(-1).sum()
    (g,) = torch.autograd.grad(value, flat)  # without create_graph: the mixed derivative is dropped
    quiz = cross_entropy(student.apply(flat - 0.4 * g, qx), qy).mean()
    (first,) = torch.autograd.grad(quiz, mother, allow_unused=True, materialize_grads=True)
    assert not first.any()


def test_a_fleet_is_its_pairs_one_by_one() -> None:
    student, teacher, batch = problem(3)
    whole = meta.meta_gradient(student, teacher, *batch, **HOW)
    for f in range(3):
        rows = slice(f, f + 1)
        own = meta.meta_gradient(student.part(rows), teacher.part(rows), *(b[rows] for b in batch), **HOW)
        assert torch.allclose(own[0], whole[f], rtol=0, atol=1e-14)


def finished(student: Tanh, teacher: Tanh | None, *batch: Tensor, **how: object) -> meta.Step:
    *_, last = meta.train(student, teacher, *batch, **how)  # type: ignore[arg-type]
    return last


def test_static_teaching_is_the_fleet_engine_s() -> None:
    student, teacher, (x, y, *_) = problem(1, 40)
    task = Task(x[0], y[0], x[0], y[0], 4)
    recipe = Recipe.distil("KD", teacher(x[0])[0].detach(), 3.0, 0.7)
    known = fleet_train(
        task, recipe, seeds=[0], epochs=3, batch_size=16, lr=1e-2, schedule="constant", dtype=torch.float64,
        model=lambda s: Tanh((5, 6, 4), s, torch.float64),
    )  # fmt: skip
    finished(student, teacher, x, y, steps=9, batch_size=16, temperature=3.0, alpha=0.7, teacher_lr=0.0)
    start = Tanh((5, 6, 4), [0]).flat.double()
    assert torch.allclose(student.flat, known.model.flat, rtol=0, atol=1e-10)
    assert not torch.allclose(student.flat, start)


def test_the_pilot_leaves_no_trace_in_the_student_and_its_optimiser() -> None:
    """A teacher that moves by nothing: to the last bit the student of static distillation."""
    ends = []
    for rate, pilot in ((0.0, True), (1e-300, True), (1e-300, False)):
        student, teacher, batch = problem(2, 40)
        finished(
            student,
            teacher,
            *batch,
            steps=9,
            batch_size=16,
            teacher_lr=rate,
            pilot=pilot,
            teacher_optimiser=torch.optim.SGD,
        )
        ends.append(student.flat.detach().clone())
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("pilot", [True, False])
def test_a_step_says_what_either_teacher_asked_for(pilot: bool) -> None:
    """Both gradients where the student stood; a small update turns the one that is taken towards that of the quiz."""
    student, teacher, (x, y, qx, qy) = problem(3, 40)
    flat, said = student.flat.detach().clone().requires_grad_(), []
    how = {"steps": 1, "batch_size": 40, "rate": 0.4, "temperature": 3.0, "alpha": 0.7, "teacher_lr": 1e-3}
    old = teacher.each(x).detach()
    last = finished(student, teacher, x, y, qx, qy, **how, pilot=pilot, teacher_optimiser=torch.optim.SGD)
    new = teacher.each(x).detach()
    for v in (old, new if pilot else old):
        (g,) = torch.autograd.grad(kd_loss(student.apply(flat, x), v, y, 3.0, 0.7).mean(-1).sum(), flat)
        said.append(g)
    assert torch.allclose(last.asked, said[0], rtol=0, atol=1e-12)
    assert torch.allclose(last.taken, said[1], rtol=0, atol=1e-12)
    moved = (flat.detach() - 0.4 * last.asked).requires_grad_()
    (u,) = torch.autograd.grad(cross_entropy(student.apply(moved, qx), qy).mean(-1).sum(), moved)
    gained = ((last.taken - last.asked) * u).sum(1)
    assert (gained > 0).all() if pilot else torch.equal(last.taken, last.asked)
    q = (student.apply(flat, x) / 3).log_softmax(-1)
    for v, value in ((old, last.before), (new, last.after)):
        p = (v / 3).softmax(-1)
        divergence = torch.nn.functional.kl_div(q, p, reduction="none").sum(-1).mean(1)
        assert torch.allclose(value, divergence, rtol=0, atol=1e-12)
    static = finished(*problem(3, 40)[:2], x, y, steps=1, teacher_lr=0.0)
    assert torch.equal(static.asked, static.taken) and static.before.isnan().all()


@pytest.mark.parametrize("pilot", [True, False])
def test_one_pass_with_a_table_needs_the_pilot(pilot: bool) -> None:
    student, teacher, (x, y, qx, qy) = problem(2, 40)
    static, *_ = problem(2, 40)
    table = meta.Table(teacher.each(x), teacher.seeds)
    number = torch.arange(40.0, dtype=torch.float64).expand(2, 40).unsqueeze(-1)
    how = {"steps": 5, "batch_size": 8, "teacher_x": number}
    finished(static, meta.Table(teacher.each(x), teacher.seeds), x, y, **how, teacher_lr=0.0)
    before = table.flat.detach().clone()
    finished(
        student, table, x, y, qx, qy, **how, rate=2.0, teacher_lr=50.0, teacher_optimiser=torch.optim.SGD, pilot=pilot
    )
    assert not torch.equal(before, table.flat)
    assert torch.equal(student.flat, static.flat) is not pilot


@pytest.mark.parametrize("start", [0.0, 0.2])
def test_the_rate_cools_evenly_by_the_logarithm_from_the_start_to_the_last_step(start: float) -> None:
    rates: list[float] = []

    def recorded(params: list[Tensor], **how: float) -> torch.optim.Optimizer:
        optimiser = torch.optim.SGD(params, **how)
        optimiser.register_step_pre_hook(lambda own, *_: rates.append(own.param_groups[0]["lr"]))
        return optimiser

    student, teacher, batch = problem(2, 40)
    how = {"steps": 10, "batch_size": 8, "start": start, "cooling": 0.01, "teacher_lr": 0.3}
    finished(student, teacher, *batch, **how, teacher_optimiser=recorded)
    assert rates == pytest.approx(np.geomspace(0.3, 0.003, 10 - round(10 * start)).tolist())


def test_a_batch_of_the_whole_quiz_is_the_quiz() -> None:
    ends = []
    for size in (None, 9):
        student, teacher, batch = problem(2, 40)
        last = finished(student, teacher, *batch, steps=4, batch_size=8, quiz_batch=size)
        ends.append(torch.cat([last.quiz, teacher.flat.detach().flatten()]))
    assert torch.allclose(*ends, rtol=0, atol=1e-9)


def test_late_start_and_cooling() -> None:
    student, teacher, batch = problem(2, 40)
    before, moved = teacher.flat.detach().clone(), []
    for state in meta.train(student, teacher, *batch, steps=10, batch_size=8, start=0.5, quiz_batch=4, cooling=0.0):
        moved.append(not torch.equal(before, teacher.flat))
        before = teacher.flat.detach().clone()
        assert bool(state.quiz.isnan().all()) is (state.step <= 5)
    assert moved == [False] * 5 + [True] + [False] * 4


def test_small_convolutional_networks_teach_as_well() -> None:
    """Images in place of vectors: the teacher's gradient is that of double backward, and it moves."""
    g = torch.Generator().manual_seed(0)
    student, teacher = (CNN((3, w, 2 * w), 4, range(s, s + 2), torch.float64) for w, s in ((2, 0), (4, 50)))
    x, quiz = (torch.randn(2, n, 3, 4, 4, generator=g, dtype=torch.float64) for n in (12, 9))
    y, quiz_y = (torch.randint(4, (2, n), generator=g) for n in (12, 9))
    exact, double = (meta.meta_gradient(student, teacher, x, y, quiz, quiz_y, **HOW, double_backward=b) for b in (0, 1))
    assert exact.norm() > 0 and torch.allclose(exact, double, rtol=1e-9, atol=1e-13)
    before = teacher.flat.detach().clone()
    *_, last = meta.train(student, teacher, x, y, quiz, quiz_y, steps=2, batch_size=6, quiz_batch=4)
    assert not torch.equal(before, teacher.flat) and last.quiz.isfinite().all()


def test_bad_input_is_named() -> None:
    student, teacher, (x, y, qx, qy) = problem()
    other = problem(3)[1]
    for wrong, name in (
        ((student, other, x, y, qx, qy), "teacher must be a fleet of 2"),
        ((student, teacher, x, y, qx[:, :0], qy[:, :0]), "quiz_x"),
        ((student, teacher, x, y, x[:, :3], y[:, :3]), "3 that are in both for student 0"),
        ((student, teacher, x, y), "quiz_x and quiz_y must be given"),
        ((student, teacher, x, y, qx), "quiz_x and quiz_y must be given"),
        ((student, None, x, y), "teacher must be given"),
        ((student, teacher, x, y, qx, qy[:, 1:]), "quiz_y"),
    ):
        with pytest.raises(ValueError, match=name):
            finished(*wrong, steps=1)  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match=r"seed \d are not finite in step 1"):
        finished(student, teacher, x, y, qx, qy, steps=3, rate=1e308)
