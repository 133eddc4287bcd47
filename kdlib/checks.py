"""Checks that catch the silent bugs of distillation code, one each; `levels.museum` plants the bugs.

A check takes a loss, called like `kdlib.losses.kd_loss`, or a training loop, called like `levels.museum.buggy_run`:
yours, if you like. It raises `CheckFailed`, an AssertionError that says what is wrong, also under `python -O`.
`check_loss` runs all checks of a loss, `parametrize_with_checks` makes them tests of your own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import entropy
from torch import Tensor

from kdlib.data.task import Task
from kdlib.fleet import Fleet
from kdlib.losses import kd_loss
from kdlib.models import MLP

Loss = Callable[..., Tensor]
Run = Callable[..., pd.DataFrame]
NOTHING = -1e4  # a logit whose softmax is exactly 0


class CheckFailed(AssertionError):
    """What a check found, in words."""


def check_loss(loss: Loss) -> pd.DataFrame:
    """Run the checks of `LOSS_CHECKS` on a loss: columns number, bug, check, message (empty if passed), passed.

    Raises ValueError for a loss that cannot be called like `kd_loss` or does not return one value per example.
    """
    z, v, y = _problem()
    try:
        value = loss(z, v, y, 4.0, 0.5)
    except Exception as error:
        expected = "callable as loss(student_logits, teacher_logits, labels, temperature, alpha)"
        raise ValueError(f"loss must be {expected}, got {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.shape != y.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a tensor with one value per example, here {tuple(y.shape)}, got {got}")
    return verdicts((number, name, check, verdict(check, loss)) for number, (name, check) in LOSS_CHECKS.items())


def parametrize_with_checks(
    losses: Sequence[Loss], checks: Mapping[int, tuple[str, Callable[[Any], None]]] | None = None
) -> Any:
    """A pytest decorator: one test for every loss and check (of `LOOP_CHECKS` for training loops).

    `@parametrize_with_checks([my_loss])` stands above `def test_my_loss(loss, check): check(loss)`.
    """
    import pytest

    cases = [(loss, check) for loss in losses for _, check in (checks or LOSS_CHECKS).values()]
    return pytest.mark.parametrize(
        ("loss", "check"),
        cases,
        ids=[f"{getattr(f, '__name__', f'loss{losses.index(f)}')}-{c.__name__}" for f, c in cases],
    )


def verdict(check: Callable[[Any], None], candidate: Any) -> str:
    """What a check says of a loss or a loop; empty if it passes."""
    try:
        check(candidate)
    except CheckFailed as error:
        return str(error)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return ""


def verdicts(rows: Any) -> pd.DataFrame:
    """Rows (number, bug, check, message) as a frame, with a column `passed`."""
    rows = [(number, bug, check.__name__, message) for number, bug, check, message in rows]
    frame = pd.DataFrame(rows, columns=["number", "bug", "check", "message"])
    return frame.assign(passed=frame["message"] == "")


def padded(task: Task, rows: int) -> Task:
    """`task` with `rows` rows of padding after its training examples: inputs 0, label 0, `extra["valid"]` False there.

    A validation part stays; what else `extra` has is left out.
    """
    held = {key: task.extra[key] for key in ("x_validation", "y_validation") if key in task.extra}
    valid = torch.arange(len(task.x_train) + rows, device=task.x_train.device) < len(task.x_train)
    x, y = (torch.cat([t, t.new_zeros(rows, *t.shape[1:])]) for t in (task.x_train, task.y_train))
    return replace(task, x_train=x, y_train=y, extra={"valid": valid} | held)


# Checks of a loss: call it like kd_loss.


def teaches(loss: Loss) -> None:
    """The soft part pulls a student that differs from its teacher."""
    z, v, y = _problem()
    _require(
        _gradient(loss, z, v, y, alpha=1.0).abs().max() > 1e-3, "the soft loss has no gradient: nothing is distilled"
    )


def keeps_its_size(loss: Loss) -> None:
    """With T^2 the gradient hardly depends on a high temperature."""
    z, v, y = _problem()
    hot, hotter = (_gradient(loss, z, v, y, temperature=T, alpha=1.0).norm() for T in (500.0, 1000.0))
    _require(
        abs(hotter / hot - 1) < 0.01,
        f"the gradient changed {hotter / hot:.3f}-fold from T = 500 to 1000: where is T^2?",
    )


def is_relative_entropy(loss: Loss) -> None:
    """At T = 1, alpha = 1 the loss is the KL divergence that SciPy computes, and impossible classes do not change it."""
    z, v, y = _problem()
    value, expected = loss(z, v, y, 1.0, 1.0), entropy(v.softmax(-1), z.softmax(-1), axis=-1)
    _require(_close(value, expected), f"{float(value[0]):.4f} is not the KL {expected[0]:.4f}")
    more = loss(F.pad(z, (0, 5), value=NOTHING), F.pad(v, (0, 5), value=NOTHING), y, 1.0, 1.0)
    _require(more.isfinite().all(), "classes of probability 0 make the loss NaN: 0 times the logarithm of 0")
    _require(_close(value, more), "classes of probability 0 change the loss: is it averaged over classes?")


def obeys_its_flag(loss: Loss) -> None:
    """t_squared=True multiplies the soft part by T^2; False does not. A loss without this flag cannot have it wrong."""
    parameters = inspect.signature(loss).parameters.values()
    if not any(p.name == "t_squared" or p.kind is p.VAR_KEYWORD for p in parameters):
        return
    z, v, y = _problem()
    with_factor, without = (loss(z, v, y, 4.0, 1.0, t_squared=flag) for flag in (True, False))
    _require(
        _close(with_factor, 16 * without),
        f"t_squared scales by {float(with_factor[0] / without[0]):.3g}, not 16",
    )


def equals_the_reference(loss: Loss) -> None:
    """Value and gradient of the fast path are those of the formula, at a temperature other than 1."""
    z, v, y = _problem()

    def reference(z: Tensor, v: Tensor, y: Tensor, T: float, a: float) -> Tensor:
        p, q = torch.softmax(v / T, -1), torch.softmax(z / T, -1)
        return (1 - a) * F.cross_entropy(z, y, reduction="none") + a * T**2 * (p * (p / q).log()).sum(-1)

    _require(_close(loss(z, v, y, 3.0, 0.7), reference(z, v, y, 3.0, 0.7)), "the value is not the formula's")
    ours, theirs = (_gradient(f, z, v, y, temperature=3.0, alpha=0.7) for f in (loss, reference))
    _require(_close(ours, theirs), "the gradient is not the formula's")


def keeps_its_digits(loss: Loss) -> None:
    """A float32 gradient points where the float64 one does when the student is already close to its teacher."""
    z, v, y = _problem()
    z = v + 0.05 * z
    single, exact = _gradient(loss, z.float(), v.float(), y, alpha=1.0), _gradient(kd_loss, z, v, y, alpha=1.0)
    _require(single.any(), "close to its teacher the student has no gradient: rounded away, or never there?")
    error = float((single.double() / single.double().norm() - exact / exact.norm()).norm())  # of the directions only
    _require(error < 1e-3, f"the gradient's direction is {error:.1%} off: was something rounded before it?")


def stays_finite(loss: Loss) -> None:
    """Logits of +-200 give a finite loss and gradient."""
    v = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], dtype=torch.float32, device="cpu")
    y, z = torch.tensor([0, 0], dtype=torch.int64, device="cpu"), v.flip(0)
    finite = loss(z, v, y, 1.0, 0.5).isfinite().all() and _gradient(loss, z, v, y, temperature=1.0).isfinite().all()
    _require(finite, "logits of 200 give NaN or infinity: is a logarithm taken of a probability?")


def minds_the_classes(loss: Loss) -> None:
    """A teacher with fewer classes is an error, or its missing classes have probability exactly 0."""
    z, v, y = _problem()
    y = y % (z.shape[1] - 2)
    try:
        value = loss(z, v[:, :-2], y, 1.0, 0.5)
    except Exception:  # torch's own word on shapes is blunt, but not silent
        return
    nothing = F.pad(v[:, :-2], (0, 2), value=NOTHING)
    _require(_close(value, kd_loss(z, nothing, y, 1.0, 0.5)), "missing classes have received probability")


# Checks of a loop: call it like buggy_run.


def trains_the_student(run: Run) -> None:
    """After a step the teacher is as before and the student is not."""
    frame = run(*_setting(), epochs=1, seeds=2)
    _require((frame["teacher_moved"] == 0).all(), "the teacher's weights have changed")
    _require((frame["student_moved"] > 0).all(), "the student's weights have not changed")


def pairs_its_rows(run: Run) -> None:
    """With all data in one batch the order of the examples does not matter."""
    task, teacher = _setting()
    one, other = (run(task, teacher, epochs=3, batch_size=1000, chunk=1000, order_seed=seed) for seed in (0, 1))
    _require(_same(one, other), "shuffling changes the loss of the whole data set: do examples meet their own targets?")


def ignores_padding(run: Run) -> None:
    """What stands at masked positions is without effect."""
    task, teacher = _setting()
    other = replace(task, y_train=torch.where(task.extra["valid"], task.y_train, 1))
    _require(_same(run(task, teacher, epochs=3), run(other, teacher, epochs=3)), "labels of padding change the result")


def adds_up(run: Run) -> None:
    """Loss and step do not depend on how a batch is cut in chunks."""
    task, teacher = _setting()
    whole, cut = (run(task, teacher, epochs=3, batch_size=1000, chunk=chunk) for chunk in (1000, 30))
    _require(_same(whole, cut), "the split of the batch changes the result: is it a mean of means?")


def evaluates_what_it_trains(run: Run) -> None:
    """On the same batch with the same weights training loss and evaluation loss are the same number."""
    frame = run(*_setting(), epochs=1, batch_size=1000, lr=0.0)
    ratio = (frame["eval_loss"] / frame["loss"]).mean()
    _require(abs(ratio - 1) < 1e-6, f"the evaluation loss is {ratio:.3g} times the training loss")


# By the catalogue's numbers: name of the bug, and the check that catches it.
LOSS_CHECKS: dict[int, tuple[str, Callable[[Any], None]]] = {
    2: ("KL of the teacher with itself", teaches),
    3: ("T² missing", keeps_its_size),
    4: ("KL averaged over classes", is_relative_entropy),
    6: ("flag inverted", obeys_its_flag),
    8: ("fast path with another objective", equals_the_reference),
    10: ("rounding before the upcast", keeps_its_digits),
    11: ("log of a probability", stays_finite),
    12: ("missing classes padded with logit 0", minds_the_classes),
}
LOOP_CHECKS: dict[int, tuple[str, Callable[[Any], None]]] = {
    1: ("teacher and student swapped", trains_the_student),
    5: ("cached logits in another order", pairs_its_rows),
    7: ("padding not masked", ignores_padding),
    9: ("mean of means", adds_up),
    13: ("another evaluation loss", evaluates_what_it_trains),
}


def _require(found: Any, message: str) -> None:
    if not found:
        raise CheckFailed(message)


def _close(value: Tensor, expected: Any) -> bool:
    return torch.allclose(value.double(), torch.as_tensor(expected).double())


def _problem() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator("cpu").manual_seed(0)
    z, v = torch.randn(2, 16, 10, generator=g, dtype=torch.float64, device="cpu") * 2
    return z, v, torch.randint(10, (16,), generator=g, device="cpu")


def _setting() -> tuple[Task, Fleet]:
    g = torch.Generator("cpu").manual_seed(0)
    model = MLP((5, 12, 4), seeds=[100], dtype=torch.float64)
    x = torch.randn(260, 5, generator=g, dtype=torch.float64, device="cpu")
    y = model(x)[0].argmax(-1).detach()
    task = padded(Task(x[:60], y[:60], x[60:], y[60:], 4), rows=20)
    return task, Fleet(model, pd.DataFrame({"seed": [100]}))


def _gradient(loss: Loss, z: Tensor, v: Tensor, y: Tensor, temperature: float = 4.0, alpha: float = 0.5) -> Tensor:
    z = z.clone().requires_grad_()
    value = loss(z, v, y, temperature, alpha).sum()
    if not value.requires_grad:  # the loss does not depend on the student at all
        return torch.zeros_like(z)
    return torch.autograd.grad(value, z, allow_unused=True, materialize_grads=True)[0]


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    return bool(((one["eval_loss"] - other["eval_loss"]).abs() < 1e-9).all())
