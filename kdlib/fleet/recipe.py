"""What one student is asked to learn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdlib import _check
from kdlib.data.task import Task
from kdlib.losses import soften

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # student logits, teacher logits, labels -> one value per example


@dataclass(frozen=True, eq=False)
class Recipe:
    """What one student is asked to learn: (targets, temperature, alpha). Nothing else distinguishes recipes.

    The loss of an example is (1 - alpha) CE(y, softmax(z)) + alpha T^2 KL(targets || softmax(z / T)). `targets (N, K)` is
    the table the student's tempered softmax is compared with, so it is already at this temperature; `Recipe.distil` makes it
    from a teacher's logits and names T once. Without a table only the labels count and alpha is 0. `t_squared=False` drops
    the factor T^2. `weights (N,)` multiply the loss of each example: class weights, importance, or 0 for padding.

    With `loss` in place of targets, any f(z, v, y) -> one value per example, of `kdlib.losses` or your own, is minimised on
    student logits z, the rows of `teacher (N, K)` and labels; other arguments of f by `functools.partial`. The columns
    temperature and alpha then repeat what f uses, or are NaN where it names none.

    Raises ValueError for targets that are not rows of probabilities, T <= 0, alpha outside [0, 1], negative weights, or a
    loss without a teacher.
    """

    name: str
    targets: Tensor | None = None
    temperature: float = 1.0
    alpha: float = 0.9
    t_squared: bool = True
    weights: Tensor | None = None
    teacher: Tensor | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.loss is not None or self.teacher is not None:
            self._check_loss()
        else:
            _check.temperature(self.temperature)
            _check.fraction(self.alpha, "alpha")
            if self.targets is None:
                object.__setattr__(self, "alpha", 0.0)
            else:
                _check.probabilities("targets", self.targets)
        if self.weights is not None:
            _check.finite("weights", _check.shape("weights", _check.floating("weights", self.weights), (None,)))
            negative = int((self.weights < 0).sum())
            if negative or not self.weights.any():
                raise ValueError(
                    f"weights must not be negative nor all 0, got {negative} negative of {len(self.weights)}"
                )

    def _check_loss(self) -> None:
        if self.loss is None or self.teacher is None:
            missing = "loss" if self.loss is None else "teacher"
            raise ValueError(f"{missing} must be given: teacher=logits and loss=f go together, got {missing}=None")
        if not callable(self.loss):
            raise ValueError(f"loss must be a function f(z, v, y), got {type(self.loss).__name__}")
        if self.targets is not None or (self.temperature, self.alpha, self.t_squared) != (1.0, 0.9, True):
            raise ValueError(
                "targets, temperature, alpha and t_squared must be left out beside loss=, which has its own: "
                f"functools.partial(f, temperature=..., alpha=...); got temperature={self.temperature}, alpha={self.alpha}"
            )
        _check.shape("teacher", _check.floating("teacher", self.teacher), (None, None))
        if self.teacher.isnan().any():
            raise ValueError(f"teacher must not hold NaN, got {int(self.teacher.isnan().sum())}")
        try:
            known = inspect.signature(self.loss).parameters
        except (TypeError, ValueError):  # some built-in functions have no signature
            known = {}  # type: ignore[assignment]
        for name in ("temperature", "alpha"):
            value: Any = known[name].default if name in known else None
            object.__setattr__(self, name, float(value) if isinstance(value, int | float) else float("nan"))

    @classmethod
    def hard(cls, name: str = "hard labels", weights: Tensor | None = None) -> Recipe:
        """The recipe without a teacher: cross-entropy with the labels."""
        return cls(name, weights=weights)

    @classmethod
    def soft(cls, name: str, targets: Tensor, weights: Tensor | None = None) -> Recipe:
        """Soft labels alone, at T = 1 and alpha = 1: smoothing by epsilon, mixed labels, a teacher's table as it is."""
        return cls(name, targets, 1.0, 1.0, weights=weights)

    @classmethod
    def distil(
        cls,
        name: str,
        logits: Tensor,
        temperature: float = 4.0,
        alpha: float = 0.9,
        t_squared: bool = True,
        weights: Tensor | None = None,
    ) -> Recipe:
        """Plain distillation of a teacher's logits (N, K): its softmax at T against the student's at the same T."""
        return cls(name, soften(logits, temperature), temperature, alpha, t_squared, weights)

    @property
    def pull(self) -> float:
        """Weight of the soft part in the logit gradient: alpha T, or alpha / T without the factor T^2."""
        return self.alpha * (self.temperature if self.t_squared else 1 / self.temperature)

    def fits(self, examples: int, classes: int) -> None:
        """Raise ValueError unless tables and weights have a row for each of a task's examples."""
        for name, table in (("targets", self.targets), ("teacher", self.teacher)):
            if table is not None and tuple(table.shape) != (examples, classes):
                raise ValueError(
                    f"{name} of recipe {self.name!r} must have shape {(examples, classes)}, got {tuple(table.shape)}"
                )
        if self.weights is not None and len(self.weights) != examples:
            raise ValueError(
                f"weights of recipe {self.name!r} must have shape ({examples},), got {tuple(self.weights.shape)}"
            )


def check_recipes(task: Task, recipes: Sequence[Recipe]) -> None:
    """Raise ValueError unless these are recipes for the labels of this task."""
    if not isinstance(task, Task):
        raise ValueError(f"task must be a kdlib.Task, got {type(task).__name__}")
    if not recipes:
        raise ValueError("recipes must not be empty, got none")
    if task.y_train.is_floating_point():
        raise ValueError(
            f"task must have labels for recipes, got targets of {task.y_train.dtype}: train them by fleet.fit"
        )
    for recipe in recipes:
        if not isinstance(recipe, Recipe):
            raise ValueError(f"recipes must be kdlib.Recipe objects, got {type(recipe).__name__}")
        recipe.fits(len(task.x_train), task.num_classes)
