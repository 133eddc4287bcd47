"""What a recipe says, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from kdlib import Recipe, losses, train

from .ordinary import DTYPE, K, N, flat, make_logits, make_task, ordinary_run, plain_mlp

TASK = make_task(3)
TABLE = torch.full((N, K), 1 / K)
LOGITS = make_logits(TASK)


def trained(recipe: Recipe) -> torch.Tensor:
    return train(TASK, recipe, seeds=[2], hidden=(5,), epochs=3, batch_size=16, dtype=DTYPE).model.flat[0]


def test_hard_recipe_ignores_alpha() -> None:
    assert Recipe("labels", alpha=0.9).alpha == 0.0
    hard = Recipe.hard("CE")
    assert (hard.name, hard.targets, hard.alpha, hard.pull) == ("CE", None, 0.0, 0.0)


def test_distil_names_the_temperature_once() -> None:
    """The student trains as with the public loss on the teacher's logits, not with a table at one T and itself at another."""
    recipe = Recipe.distil("KD", LOGITS, temperature=3.0, alpha=0.7)
    assert (recipe.temperature, recipe.alpha, recipe.t_squared) == (3.0, 0.7, True)
    assert recipe.targets is not None
    torch.testing.assert_close(recipe.targets, torch.softmax(LOGITS / 3.0, 1))

    def loss(network: torch.nn.Module, index: torch.Tensor) -> torch.Tensor:
        return losses.kd_loss(network(TASK.x_train[index]), LOGITS[index], TASK.y_train[index], 3.0, 0.7).mean()

    expected = flat(ordinary_run(plain_mlp((3, 5, K), 2), TASK, loss, 2, 3, 16))
    assert (trained(recipe) - expected).abs().max() < 1e-10
    by_default = Recipe.distil("KD", LOGITS)
    assert (by_default.temperature, by_default.alpha) == (4.0, 0.9)
    plain = Recipe.distil("KD", LOGITS, 2.0, 0.5, t_squared=False)
    assert plain.pull == 0.5 / 2


def test_soft_labels_are_these_labels_alone() -> None:
    """Smoothing by epsilon means epsilon: torch's own label smoothing trains the same student."""
    recipe = Recipe.soft("smoothing", 0.7 * F.one_hot(TASK.y_train, K).double() + 0.3 / K)
    assert (recipe.temperature, recipe.alpha) == (1.0, 1.0)

    def loss(network: torch.nn.Module, index: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(TASK.x_train[index]), TASK.y_train[index], label_smoothing=0.3)

    expected = flat(ordinary_run(plain_mlp((3, 5, K), 2), TASK, loss, 2, 3, 16))
    assert (trained(recipe) - expected).abs().max() < 1e-10


def test_a_loss_shows_the_temperature_and_alpha_that_it_uses() -> None:
    recipe = Recipe("DKD", teacher=LOGITS, loss=partial(losses.dkd_loss, temperature=3.0))
    assert (recipe.temperature, recipe.alpha) == (3.0, 0.5)
    mine = Recipe("mine", teacher=LOGITS, loss=lambda z, v, y: (z - v).square().sum(-1))
    assert math.isnan(mine.temperature)
    assert math.isnan(mine.alpha)


def test_recipes_are_equal_only_to_themselves() -> None:
    assert Recipe.soft("a", TABLE) != Recipe.soft("a", TABLE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recipe("KD", TABLE, temperature=0), "temperature must be a positive finite number, got 0"),
        (lambda: Recipe("KD", TABLE, temperature=float("nan")), "temperature .* got nan"),
        (lambda: Recipe("KD", TABLE, alpha=1.5), r"alpha must be a number in \[0, 1\], got 1.5"),
        (lambda: Recipe("KD", alpha=-1), r"alpha must be a number in \[0, 1\], got -1"),
        (lambda: Recipe("KD", 2 * TABLE), "targets must have rows that sum to 1, got a row that is off by 1"),
        (lambda: Recipe("KD", TABLE * float("nan")), "targets must be finite, got 200 NaN"),
        (lambda: Recipe("KD", TABLE - 1), "targets must not be negative"),
        (lambda: Recipe("KD", TABLE[0]), r"targets must have shape \(any, any\), got \(4,\)"),
        (lambda: Recipe("KD", TASK.y_train), "targets must be a floating-point torch.Tensor, got torch.int64"),
        (lambda: Recipe.soft("A", LOGITS), "targets must (not be negative|have rows that sum to 1)"),
        (lambda: Recipe.distil("A", LOGITS, temperature=0), "temperature must be a positive finite number, got 0"),
        (lambda: Recipe.distil("A", LOGITS, alpha=[0.5, 0.9]), r"alpha must be a number in \[0, 1\], got \[0.5, 0.9\]"),  # type: ignore[arg-type]
        (lambda: Recipe.distil("A", LOGITS, temperature=[1, 2]), r"temperature must be .*, got \[1, 2\]"),  # type: ignore[arg-type]
        (lambda: Recipe.distil("A", LOGITS * float("nan")), "must .*finite|NaN"),
        (lambda: Recipe("A", teacher=LOGITS), "loss must be given: teacher=logits and loss=f go together"),
        (lambda: Recipe("A", loss=losses.dkd_loss), "teacher must be given: teacher=logits and loss=f go together"),
        (lambda: Recipe("A", teacher=LOGITS, loss="dkd"), r"loss must be a function f\(z, v, y\), got str"),  # type: ignore[arg-type]
        (lambda: Recipe("A", TABLE, teacher=LOGITS, loss=losses.dkd_loss), "targets, .* must be left out beside loss="),
        (
            lambda: Recipe("A", temperature=2.0, teacher=LOGITS, loss=losses.dkd_loss),
            r"must be left out beside loss=, .*partial\(f, temperature=.*got temperature=2.0",
        ),
        (
            lambda: Recipe("A", teacher=LOGITS[0], loss=losses.dkd_loss),
            r"teacher must have shape \(any, any\), got \(4,\)",
        ),
        (lambda: Recipe("A", teacher=TASK.y_train, loss=losses.dkd_loss), "teacher must be a floating-point"),
        (lambda: Recipe("A", teacher=LOGITS / 0 * 0, loss=losses.dkd_loss), "teacher must not hold NaN, got 200"),
        (lambda: Recipe.hard(weights=torch.ones(N, 1)), r"weights must have shape \(any,\), got \(50, 1\)"),
        (lambda: Recipe.hard(weights=-torch.ones(N)), "weights must not be negative nor all 0, got 50 negative of 50"),
        (lambda: Recipe.hard(weights=torch.zeros(N)), "weights must not be negative nor all 0, got 0 negative of 50"),
        (lambda: Recipe.hard(weights=torch.full((N,), float("inf"))), "weights must be finite, got 50"),
        (lambda: Recipe.hard(weights=torch.ones(N, dtype=torch.int64)), "weights must be a floating-point"),
        (lambda: Recipe.hard(weights=torch.ones(0)), "weights must not be .* all 0, got 0 negative of 0"),
        (
            lambda: trained(Recipe.hard("A", torch.ones(9))),
            r"weights of recipe 'A' must have shape \(50,\), got \(9,\)",
        ),
        (
            lambda: trained(Recipe("A", teacher=LOGITS[:9], loss=losses.dkd_loss)),
            r"teacher of recipe 'A' must have shape \(50, 4\), got \(9, 4\)",
        ),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
