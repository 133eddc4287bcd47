"""A teacher that learns to teach: its gradient is that of its student's loss on a quiz, through the student's step.

The student's pilot step is theta' = theta - rate grad L(theta, teacher), with L = alpha T^2 KL(p || q) + (1 - alpha) CE on a
batch. The teacher descends the quiz loss CE(theta'). Source: Zhou, Xu and McAuley 2022 (MetaDistil); the formula without
double backward is derived. F teachers teach F students beside each other, each pair on data of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from kdlib import _check, _cpu, _seeds
from kdlib.fleet.settings import Optimiser, adamw
from kdlib.losses import cross_entropy, kd_loss, soften
from kdlib.models import FleetModel

Pilot = tuple[float, float, float]  # rate, temperature, alpha

with warnings.catch_warnings():  # torch scripts a module of its own here, which it calls outdated
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp


@torch.enable_grad()
def meta_gradient(
    student: FleetModel,
    teacher: FleetModel,
    x: Tensor,
    y: Tensor,
    quiz_x: Tensor,
    quiz_y: Tensor,
    *,
    rate: float,
    temperature: float = 4.0,
    alpha: float = 0.9,
    double_backward: bool = False,
) -> Tensor:
    """Gradient of each student's quiz loss after one pilot step, with respect to its teacher's parameters: (F, P).

    x (F, B, ...) and y (F, B) are the step's batch, quiz_x (F, M, ...) and quiz_y (F, M) the quiz; `rate` is the pilot's plain
    step size. With u the gradient of the quiz loss at theta' and J the Jacobian of the student's logits z at theta,

        gradient = rate alpha / B  sum_i  J_teacher,i^T (diag p_i - p_i p_i^T) J_i u,      p = softmax(teacher logits / T):

    two backward passes of the student, one forward-mode pass, one backward pass of the teacher. `double_backward` takes
    autograd's way through the pilot step instead, to compare. Without the mixed second derivative ("first order") the gradient
    is exactly zero: the quiz loss knows the teacher only through the step. No network is changed. Source: Zhou et al. 2022,
    bilevel objective; derived. Raises ValueError for fleets of different size, shapes that do not match or an empty quiz.
    """
    _check_pair(student, teacher, x, y, quiz_x, quiz_y)
    settings = _pilot(rate, temperature, alpha)
    flat, mother = student.flat.detach().requires_grad_(), teacher.flat.detach().requires_grad_()
    v = teacher.apply(mother, x)
    if not double_backward:
        return _pull_back(student, v, mother, x, y, quiz_x, quiz_y, settings).gradient
    (g,) = torch.autograd.grad(_loss(student, flat, v, x, y, settings), flat, create_graph=True)
    quiz = cross_entropy(student.apply(flat - settings[0] * g, quiz_x), quiz_y).mean(-1).sum()
    return torch.autograd.grad(quiz, mother)[0]


class _Lesson(NamedTuple):
    """Gradient (F, P) of the teacher, the pilot's quiz loss (F,), the student's own gradient (F, P) and logits (F, B, K)."""

    gradient: Tensor
    quiz: Tensor
    step: Tensor
    z: Tensor


def _loss(student: FleetModel, flat: Tensor, v: Tensor | None, x: Tensor, y: Tensor, how: Pilot) -> Tensor:
    z = student.apply(flat, x)
    return (cross_entropy(z, y) if v is None else kd_loss(z, v, y, how[1], how[2])).mean(-1).sum()


@torch.enable_grad()
def _pull_back(
    student: FleetModel, v: Tensor, mother: Tensor, x: Tensor, y: Tensor, quiz_x: Tensor, quiz_y: Tensor, how: Pilot
) -> _Lesson:
    flat = student.flat.detach().requires_grad_()
    (g,) = torch.autograd.grad(_loss(student, flat, v.detach(), x, y, how), flat)
    moved = (flat.detach() - how[0] * g).requires_grad_()
    quiz = cross_entropy(student.apply(moved, quiz_x), quiz_y).mean(-1)  # (F,)
    (u,) = torch.autograd.grad(quiz.sum(), moved)
    z, dz, *_ = torch.func.jvp(lambda theta: student.apply(theta, x), (flat.detach(),), (u,))  # (F, B, K)
    p = soften(v.detach(), how[1])
    upstream = how[0] * how[2] / x.shape[1] * p * (dz - (p * dz).sum(-1, keepdim=True))
    return _Lesson(torch.autograd.grad(v, mother, upstream)[0], quiz.detach(), g, z.detach())


@dataclass(frozen=True)
class Step:
    """Both networks; (F,) the pilot's quiz loss, and KL(p || q) before and after the teacher moved (NaN where it did not)."""

    step: int
    steps: int
    student: FleetModel
    teacher: FleetModel | None
    quiz: Tensor
    before: Tensor
    after: Tensor
    asked: Tensor  # (F, P), the student's gradient by the old teacher
    taken: Tensor  # (F, P), the one that it stepped by


def train(
    student: FleetModel,
    teacher: FleetModel | None,
    x: Tensor,
    y: Tensor,
    quiz_x: Tensor | None = None,
    quiz_y: Tensor | None = None,
    *,
    steps: int = 1000,
    batch_size: int = 64,
    lr: float = 1e-2,
    optimiser: Optimiser = adamw,
    temperature: float = 3.0,
    alpha: float = 0.9,
    rate: float = 0.5,
    teacher_lr: float = 3e-4,
    teacher_optimiser: Optimiser = adamw,
    pilot: bool = True,
    start: float = 0.0,
    cooling: float = 1.0,
    quiz_batch: int | None = None,
    teacher_x: Tensor | None = None,
) -> Iterator[Step]:
    """Teach F students by F teachers in place, on x (F, N, ...), y (F, N); yield a `Step` after every step.

    A step: the pilot, thrown away; the teacher's, by `meta_gradient`; the student's on the same batch with the new teacher. The
    pilot is computed beside the student, so weights and optimiser are as they were to the last bit. `pilot=False`: the student
    keeps the step that the old teacher asked for. `teacher_lr=0` is static distillation and needs no quiz; `alpha=0` is hard
    labels and needs no teacher. `start`: share of the steps after which the teacher begins to move; `cooling`: what its rate is
    multiplied by on the way from there to the end. `quiz_batch`: quiz examples a step, None for all. `teacher_x (F, N, ...)`: what
    the teacher sees in place of x. A student's seed fixes its data order, that of `fleet.train`.

    Raises ValueError for bad settings, fleets of different size, an empty quiz or one that shares inputs with x;
    FloatingPointError, naming step and student, where a loss or a weight is no longer finite.
    """
    steps, how = _check.positive_int(steps, "steps"), _pilot(rate, temperature, alpha)
    teacher_lr, cooling = _check.not_negative(teacher_lr, "teacher_lr"), _check.not_negative(cooling, "cooling")
    learns = teacher is not None and teacher_lr > 0 and alpha > 0
    if teacher is None and alpha > 0:
        raise ValueError(f"teacher must be given unless alpha is 0, got None and alpha {alpha}")
    if learns and (quiz_x is None or quiz_y is None):
        raise ValueError("quiz_x and quiz_y must be given where teacher_lr is positive, got None")
    _check_pair(student, teacher, x, y, quiz_x, quiz_y)
    if quiz_x is not None:
        _check_apart(x, quiz_x)
    own = optimiser([student.flat], lr=lr, weight_decay=0.0)
    mothers = teacher_optimiser([teacher.flat], lr=teacher_lr, weight_decay=0.0) if learns and teacher else None
    orders, quizzes = _orders(student, x.shape[1], _check.positive_int(batch_size, "batch_size"), "data order"), None
    if quiz_x is not None and quiz_batch is not None:
        quizzes = _orders(student, quiz_x.shape[1], _check.positive_int(quiz_batch, "quiz_batch"), "quiz order")
    seen, first = x if teacher_x is None else teacher_x, round(float(_check.fraction(start, "start")) * steps)
    for step in range(1, steps + 1):
        with _cpu.settings(1):  # a second thread made these small products several times slower
            index = next(orders)
            bx, by = _rows(x, index), _rows(y, index)
            quiz = before = after = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
            v, lesson = None, None
            if teacher is not None:
                with torch.set_grad_enabled(mothers is not None and step > first):
                    v = teacher.each(_rows(seen, index))
            if mothers is not None and step > first:
                assert teacher is not None and v is not None and quiz_x is not None and quiz_y is not None
                chosen = None if quizzes is None else next(quizzes)
                qx, qy = (q if chosen is None else _rows(q, chosen) for q in (quiz_x, quiz_y))
                lesson = _pull_back(student, v, teacher.flat, bx, by, qx, qy, how)
                _require_finite(lesson.quiz, student, step)
                teacher.flat.grad = lesson.gradient
                mothers.param_groups[0]["lr"] = teacher_lr * cooling ** ((step - first - 1) / max(1, steps - first - 1))
                mothers.step()
                with torch.no_grad():
                    new = teacher.each(_rows(seen, index))
                quiz, old = lesson.quiz, v.detach()
                before, after = (kd_loss(lesson.z, w, None, how[1], 1.0).mean(-1) / how[1] ** 2 for w in (old, new))
                v = new if pilot else old
            if lesson is not None and not pilot:
                taken = lesson.step
            else:
                with torch.enable_grad():
                    (taken,) = torch.autograd.grad(_loss(student, student.flat, v, bx, by, how), student.flat)
            student.flat.grad = taken
            own.step()
            _require_finite(student.flat.detach().sum(1), student, step)
        yield Step(step, steps, student, teacher, quiz, before, after, lesson.step if lesson else taken, taken)


class Table(FleetModel):
    """A teacher that is a table of logits (F, N, K), free for every example; its inputs are the examples' numbers (F, B, 1)."""

    def __init__(self, logits: Tensor, seeds: tuple[int, ...]) -> None:
        self.size = tuple(_check.shape("logits", logits, (len(seeds), None, None)).shape[1:])
        super().__init__([], seeds, logits.dtype, logits.detach().clone().flatten(1))

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        return _rows(flat.unflatten(1, self.size), x[..., 0].long())


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows index (F, B) of each student's own table (F, N, ...): (F, B, ...)."""
    return table[torch.arange(len(table), device=table.device).unsqueeze(1), index]


def _orders(model: FleetModel, n: int, size: int, purpose: str) -> Iterator[Tensor]:
    """Batches (F, size) without end, each student in the order of its seed, drawn anew every epoch."""
    generators = {seed: _seeds.stream(seed, purpose) for seed in model.seeds}
    while True:
        drawn = {seed: torch.randperm(n, generator=g, device="cpu") for seed, g in generators.items()}
        yield from torch.stack([drawn[seed] for seed in model.seeds]).to(model.flat.device).split(size, 1)


def _pilot(rate: float, temperature: float, alpha: float) -> Pilot:
    steep = float(_check.temperature(temperature))
    return _check.not_negative(rate, "rate"), steep, float(_check.fraction(alpha, "alpha"))


def _check_pair(
    student: FleetModel, teacher: FleetModel | None, x: Tensor, y: Tensor, quiz_x: Tensor | None, quiz_y: Tensor | None
) -> None:
    fleet = len(student.seeds)
    if teacher is not None and len(teacher.seeds) != fleet:
        raise ValueError(f"teacher must be a fleet of {fleet} like student, got {len(teacher.seeds)}")
    for name, inputs, labels in (("", x, y), ("quiz_", quiz_x, quiz_y)):
        if inputs is None:
            continue
        _check.finite(f"{name}x", _check.floating(f"{name}x", inputs))
        if inputs.dim() < 3 or len(inputs) != fleet or inputs.shape[1] == 0:
            raise ValueError(f"{name}x must have shape ({fleet}, at least 1, ...), got {tuple(inputs.shape)}")
        _check.shape(f"{name}y", cast(Tensor, labels), (fleet, inputs.shape[1]))


def _check_apart(x: Tensor, quiz_x: Tensor) -> None:
    for f, (own, quiz) in enumerate(zip(x.flatten(2), quiz_x.flatten(2), strict=True)):
        known = {row.numpy().tobytes() for row in own.cpu()}
        if shared := sum(row.numpy().tobytes() in known for row in quiz.cpu()):
            raise ValueError(f"quiz_x must hold no input of x, got {shared} that are in both for student {f}")


def _require_finite(value: Tensor, student: FleetModel, step: int) -> None:
    if not bool((good := value.isfinite()).all()):
        seed = student.seeds[int((~good).nonzero()[0])]
        raise FloatingPointError(f"loss or weights of seed {seed} are not finite in step {step}; try a smaller rate")
