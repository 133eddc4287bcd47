"""Gradients of the logits against autograd, and losses in recipes against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import kdlib.fleet.plan as planning
from kdlib import Recipe, losses, train
from kdlib.fleet.objective import Distillation, LossObjective
from kdlib.losses import kd_loss, soften

from .ordinary import DTYPE, K, N, flat, make_logits, make_recipes, make_task, ordinary_loss, ordinary_run, plain_mlp

LIKE = torch.zeros(0, dtype=DTYPE)
TASK = make_task(3)


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DTYPE, generator=torch.Generator().manual_seed(3))


def for_one(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """A reader's own, written for (N, K) and nothing else: squares, and a term that belongs to the batch."""
    assert z.dim() == 2
    n = torch.arange(len(z))
    return (z - v).square().sum(1) - z[n, y] + (z.mean(0) - v.mean(0)).square().sum()


def silent_for_one(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """Takes (F, N, K) without a word, and means something else: its batch axis is the first."""
    return (z - v).square().sum(-1) + (z.mean(0) - v.mean(0)).square().sum(-1)


LOSSES: dict[str, Any] = {
    "KD": partial(losses.kd_loss, temperature=2.0, alpha=0.7),
    "DKD": losses.dkd_loss,
    "DIST": partial(losses.dist_loss, temperature=2.0),
    "JSD": partial(losses.jsd_loss, beta=0.3),
    "standardised": losses.logit_standardised_kd_loss,
    "own": for_one,
    "own, silent": silent_for_one,
}


class TestClosedForm:
    def test_gradient_is_that_of_the_public_loss(self) -> None:
        """The table-driven gradient of the fast path, against kd_loss by autograd."""
        v = torch.randn(N, K, dtype=DTYPE, generator=torch.Generator().manual_seed(2))
        temperatures, alphas = [1.0, 0.5, 8.0], [0.2, 0.9, 1.0]
        recipes = [Recipe("KD", soften(v, T), T, a) for T, a in zip(temperatures, alphas, strict=True)]
        objective = Distillation(TASK, recipes, 1, LIKE)
        z = logits(3, N, K).requires_grad_()
        T, alpha = (torch.tensor(a, dtype=DTYPE).unsqueeze(1) for a in (temperatures, alphas))
        (expected,) = torch.autograd.grad(kd_loss(z, v, TASK.y_train, T, alpha).mean(1).sum(), z)
        index = torch.arange(N).expand(3, N)
        for rows in (slice(0, 3), slice(0, 1)):  # with and without a temperature other than 1
            got = objective.part(rows).gradient(z.detach()[rows].mT.contiguous(), index[rows]).mT
            torch.testing.assert_close(got, expected[rows], rtol=0, atol=1e-14)

    def test_gradient_with_weights_is_that_of_the_weighted_loss(self) -> None:
        """One recipe has weights and the others none, each of two students has its own examples."""
        recipes = make_recipes(TASK)
        weights = torch.rand(N, dtype=DTYPE, generator=torch.Generator().manual_seed(4)).mul(3).floor()
        recipes[1] = Recipe("weighted", recipes[1].targets, 4.0, 0.9, weights=weights)
        objective = Distillation(TASK, recipes, 2, LIKE).part(slice(1, 9))
        rows = [r for r in recipes for _ in range(2)][1:9]
        index = torch.randint(N, (8, 7), generator=torch.Generator().manual_seed(5))
        z = logits(8, 7, K).requires_grad_()
        total = torch.zeros((), dtype=DTYPE)
        for f, recipe in enumerate(rows):
            table = None if recipe.targets is None else recipe.targets[index[f]]
            value = ordinary_loss(z[f], TASK.y_train[index[f]], table, recipe)
            total = total + (value if recipe.weights is None else weights[index[f]] * value).mean()
        (expected,) = torch.autograd.grad(total, z)
        got = objective.gradient(z.detach().mT.contiguous(), index).mT
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)

    def test_targets_are_kept_once(self) -> None:
        """One table of R N rows, whatever the number of students and parts."""
        recipes = make_recipes(TASK)
        objective = Distillation(TASK, recipes, 100, LIKE)
        assert objective.table.numel() == len(recipes) * N * K
        part = objective.part(slice(150, 420))
        assert part.table.data_ptr() == objective.table.data_ptr()
        kept = {id(t): t.numel() for t in vars(objective).values() if isinstance(t, Tensor)}
        assert sum(kept.values()) <= objective.table.numel() + 4 * 100 * len(recipes)


class TestLosses:
    settings: ClassVar[dict[str, Any]] = {
        "seeds": [0, 7],
        "hidden": (6,),
        "epochs": 4,
        "batch_size": 16,
        "dtype": DTYPE,
    }

    @pytest.mark.parametrize("name", LOSSES)
    def test_trains_as_a_plain_loop(self, name: str) -> None:
        recipe = Recipe(name, teacher=make_logits(TASK), loss=LOSSES[name])
        trained = train(TASK, recipe, **self.settings)
        for f, seed in enumerate([0, 7]):
            expected = flat(ordinary_run(plain_mlp((3, 6, K), seed), TASK, recipe, seed, 4, 16))
            assert (trained.model.flat[f] - expected).abs().max() < 1e-10

    @pytest.mark.parametrize("cache", [planning.CACHE_BYTES, 1])
    def test_beside_closed_forms_rows_keep_their_order(self, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planning, "CACHE_BYTES", cache)
        v, plain = make_logits(TASK), make_recipes(TASK)
        weights = torch.arange(N, dtype=DTYPE) % 3
        recipes = [
            Recipe("DKD", teacher=v, loss=losses.dkd_loss, weights=weights),
            plain[1],
            Recipe.hard(weights=weights),
            Recipe("own", teacher=-v, loss=for_one),
            Recipe("JSD", teacher=v, loss=losses.jsd_loss),
            plain[2],
        ]
        trained = train(TASK, recipes, lr=[3e-3, 1e-2], **self.settings)
        assert len(trained) == 24
        for f, row in enumerate(trained.students.itertuples()):
            recipe = next(r for r in recipes if r.name == row.recipe)
            network = plain_mlp((3, 6, K), row.seed)
            expected = flat(ordinary_run(network, TASK, recipe, row.seed, 4, 16, lr=row.lr))
            assert (trained.model.flat[f] - expected).abs().max() < 1e-10, row
        assert trained.students["recipe"].tolist() == 2 * [r.name for r in recipes for _ in range(2)]

    def test_a_loss_for_fleets_is_called_once_a_step_and_another_once_a_student(self) -> None:
        shapes: list[tuple[int, ...]] = []

        def watched(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
            def call(z: Tensor, v: Tensor, y: Tensor) -> Tensor:
                value = loss(z, v, y)
                shapes.append(tuple(z.shape))
                return value

            return call

        for loss, expected in ((lambda z, v, y: (z - v).square().sum(-1), (3, 9, K)), (silent_for_one, (9, K))):
            objective = LossObjective(TASK, Recipe("A", teacher=make_logits(TASK), loss=watched(loss)), LIKE)
            shapes.clear()
            objective.gradient(logits(3, K, 9), torch.arange(9).expand(3, 9))
            assert set(shapes) == {expected}

    def test_of_a_recipe_with_weights_0_is_blind_to_these_examples(self) -> None:
        weights = (torch.arange(N) % 2).double()
        v = make_logits(TASK)
        other = v.clone()
        other[::2] = 7.0
        one, two = (
            train(TASK, Recipe("A", teacher=t, loss=losses.dkd_loss, weights=weights), **self.settings)
            for t in (v, other)
        )
        assert torch.equal(one.model.flat, two.model.flat)


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z, v, y: F.mse_loss(z, v), r"loss of recipe 'A' must give one value per example, .*, got \(\)"),
        (
            lambda z, v, y: (z - v).square(),
            r"one value per example, shape \([45],\) for [45] examples, got \([45], \d\)",
        ),
        (lambda z, v, y: (z - v).square().sum(0), r"one value per example, shape \([45],\) .*, got \(\d,\)"),
        (lambda z, v, y: [0.0], "one value per example, .*, got list"),
        (
            lambda z, v, y: (z - v).detach().sum(1),
            "'A' must depend on the student's logits, got a value without gradient",
        ),
    ],
)
def test_a_loss_that_reduces_or_has_no_gradient_is_refused(loss: Any, message: str, classes: int) -> None:
    task = make_task(3)
    small = type(task)(task.x_train, task.y_train % classes, task.x_test, task.y_test % classes, classes)
    recipe = Recipe("A", teacher=torch.randn(N, classes), loss=loss)
    with pytest.raises(ValueError, match=message):
        train(small, recipe, seeds=1, hidden=(4,), epochs=1)
