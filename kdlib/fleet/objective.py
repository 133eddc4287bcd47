"""What is minimised: recipes as gradients of the logits, which is all that a network needs to know of a loss.

The gradient of the distillation loss with respect to a student's logits z is linear in the targets,

    dL/dz = (1 - alpha) softmax(z) + alpha T softmax(z / T) - c,      c = (1 - alpha) y + alpha T targets,

so recipes become one table of rows c made before training, and a step needs two softmaxes and one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from kdlib.data.task import Task
from kdlib.fleet.recipe import Loss, Recipe
from kdlib.models import FleetModel

# Of a model's students, their batch x (F, B, ...) and its examples' numbers (F, B): one value per student, (F,).
Objective = Callable[[FleetModel, Tensor, Tensor], Tensor]


class LogitObjective(Protocol):
    """An objective that sees a network through its logits alone."""

    def part(self, rows: slice) -> Self:
        """The same for some of the students."""

    def gradient(self, z: Tensor, index: Tensor) -> Tensor:
        """Gradient of each student's mean loss, (F, K, B), at logits z (F, K, B) of examples index (F, B). May overwrite z."""


class Distillation:
    """The closed form: students of R recipes, `repeats` each, from one table (K, R N) of rows c."""

    warm, weighted = True, False

    def __init__(self, task: Task, recipes: Sequence[Recipe], repeats: int, like: Tensor) -> None:
        n, k = len(task.y_train), task.num_classes
        self.table = like.new_zeros(k, len(recipes) * n)  # each recipe writes its own columns: no second copy is made
        labels = task.y_train.to(like.device).unsqueeze(0)
        for r, recipe in enumerate(recipes):
            own = self.table[:, r * n : (r + 1) * n]
            if recipe.targets is not None:
                own.copy_(recipe.targets.T).mul_(recipe.pull)
            own.scatter_add_(0, labels, own.new_full((1, n), 1 - recipe.alpha))

        def column(values: Iterable[float]) -> Tensor:
            return like.new_tensor(list(values)).repeat_interleave(repeats).view(-1, 1, 1)

        self.row = torch.arange(len(recipes), device=like.device).repeat_interleave(repeats).unsqueeze(1) * n  # (F, 1)
        self.hard = column(1 - r.alpha for r in recipes)  # (F, 1, 1)
        self.pull = column(r.pull for r in recipes)
        self.cold = column(1 / r.temperature for r in recipes)
        self.weights = _weights(recipes, n, like)

    def part(self, rows: slice) -> Distillation:
        part = object.__new__(Distillation)
        part.table, part.weights, part.row = self.table, self.weights, self.row[rows]
        part.hard, part.pull, part.cold = self.hard[rows], self.pull[rows], self.cold[rows]
        part.warm = bool((part.cold != 1).any())  # read once: no synchronisation inside the loop
        return part

    def gradient(self, z: Tensor, index: Tensor) -> Tensor:
        students, classes, batch = z.shape
        place = (index + self.row).view(-1)
        c = self.table.index_select(1, place).view(classes, students, batch).transpose(0, 1)
        if self.warm:
            g = torch.softmax(z, 1).mul_(self.hard)
            g.addcmul_(torch.softmax(z.mul_(self.cold), 1), self.pull).sub_(c).div_(batch)
        else:
            g = torch.softmax(z, 1).mul_(self.hard + self.pull).sub_(c).div_(batch)
        return g if self.weights is None else g.mul_(self.weights[place].view(students, 1, batch))


class LossObjective:
    """Any loss f(z, v, y) -> one value per example, differentiated with respect to the logits alone."""

    def __init__(self, task: Task, recipe: Recipe, like: Tensor) -> None:
        assert recipe.teacher is not None and recipe.loss is not None
        self.teacher, self.labels = recipe.teacher.to(like), task.y_train.to(like.device)
        self.weights = _weights([recipe], len(self.labels), like)
        self.name = recipe.name
        self.loss = _for_fleets(recipe.loss, recipe.name, self.teacher, self.labels)

    def part(self, rows: slice) -> LossObjective:
        return self

    @torch.enable_grad()
    def gradient(self, z: Tensor, index: Tensor) -> Tensor:
        z = z.detach().mT.requires_grad_()  # (F, B, K)
        value = self.loss(z, self.teacher[index], self.labels[index])
        if self.weights is not None:
            value = value * self.weights[index]
        (g,) = torch.autograd.grad(value.sum() / index.shape[1], z)
        return g.mT


def _weights(recipes: Sequence[Recipe], n: int, like: Tensor) -> Tensor | None:
    """The recipes' weights one after another, (R N,); None where there are none."""
    if all(recipe.weights is None for recipe in recipes):
        return None
    return torch.cat([like.new_ones(n) if r.weights is None else r.weights.to(like) for r in recipes])


def _for_fleets(loss: Loss, name: str, teacher: Tensor, labels: Tensor) -> Loss:
    """The loss as a function of (F, B, K), (F, B, K), (F, B): itself where it is one already, else student by student.

    Tried on five examples and two students. Raises ValueError for a loss that reduces, or has no gradient.
    """
    b = min(5, len(labels))
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(2, b, teacher.shape[1], generator=noise, dtype=torch.float64, device="cpu").to(teacher)
    v, y = teacher[:b], labels[:b]
    single = [loss(z[f].requires_grad_(), v, y) for f in (0, 1)]
    if not isinstance(single[0], Tensor) or tuple(single[0].shape) != (b,):
        made = tuple(single[0].shape) if isinstance(single[0], Tensor) else type(single[0]).__name__
        raise ValueError(
            f"loss of recipe {name!r} must give one value per example, shape ({b},) for {b} examples, got {made}: "
            'take no mean (reduction="none", summed over classes)'
        )
    if not single[0].requires_grad:
        raise ValueError(f"loss of recipe {name!r} must depend on the student's logits, got a value without gradient")
    apart = torch.stack(single)
    try:
        together = loss(z, v.expand_as(z), y.expand(2, b))
        fits = together.shape == apart.shape and torch.allclose(together, apart, rtol=1e-4, atol=1e-6, equal_nan=True)
    except (RuntimeError, ValueError, IndexError, TypeError):
        fits = False

    def one_by_one(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        return torch.stack([loss(*own) for own in zip(z, v, y, strict=True)])

    return loss if fits else one_by_one
