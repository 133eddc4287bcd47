"""What a training run is told: settings, grids, curves, methods of one's own, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdlib import Fleet, Recipe, fleet, train
from kdlib.models import MLP

from .ordinary import K, N, make_task

TASK = make_task(3)
TABLE = torch.full((N, K), 1 / K)


def attempt(**changes: Any) -> Fleet:
    settings: dict[str, Any] = {"task": TASK, "recipes": Recipe.hard(), "seeds": 1, "hidden": (4,), "epochs": 1}
    return train(**(settings | changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attempt(task="digits"), "task must be a kdlib.Task, got str"),
        (lambda: attempt(recipes=[]), "recipes must not be empty, got none"),
        (lambda: attempt(recipes=["KD"]), "recipes must be kdlib.Recipe objects, got str"),
        (
            lambda: attempt(recipes=Recipe("A", TABLE[:9])),
            r"targets of recipe 'A' must have shape \(50, 4\), got \(9, 4\)",
        ),
        (lambda: attempt(recipes=Recipe("A", torch.full((N, 2), 0.5))), r"targets of recipe 'A' .* got \(50, 2\)"),
        (lambda: attempt(seeds=0), "seeds must be an integer of at least 1, got 0"),
        (lambda: attempt(seeds=-3), "seeds must be an integer of at least 1, got -3"),
        (lambda: attempt(seeds=2.5), "seeds must be an integer of at least 1, got 2.5"),
        (lambda: attempt(seeds=[]), r"seeds must be at least one and differ from each other, got \[\]"),
        (lambda: attempt(seeds=[1, 1]), r"seeds must be at least one and differ from each other, got \[1, 1\]"),
        (lambda: attempt(seeds=[0, -1]), "seed must be an integer of at least 0, got -1"),
        (lambda: attempt(seeds=[0.5]), "seed must be an integer of at least 0, got 0.5"),
        (lambda: attempt(hidden=(4, 0)), "hidden must be an integer of at least 1, got 0"),
        (lambda: attempt(epochs=0), "epochs must be an integer of at least 1, got 0"),
        (lambda: attempt(epochs=2.5), "epochs must be an integer of at least 1, got 2.5"),
        (lambda: attempt(batch_size=0), "batch_size must be an integer of at least 1, got 0"),
        (lambda: attempt(lr=0.0), "lr must be positive .*, got 0.0"),
        (lambda: attempt(lr=float("nan")), "lr must be positive .*, got nan"),
        (lambda: attempt(lr=float("inf")), "lr must be positive .*, got inf"),
        (lambda: attempt(weight_decay=-0.1), "weight_decay must be not negative .*, got -0.1"),
        (lambda: attempt(threads=0), "threads must be an integer of at least 1, got 0"),
        (lambda: attempt(dtype=torch.int64), "dtype must be a floating-point dtype, got torch.int64"),
        (
            lambda: attempt(model=lambda s: MLP((3, 5), s)),
            r"model must give logits of shape \(1, 3, 4\), .*, got \(1, 3, 5\)",
        ),
        (lambda: attempt(model=lambda s: MLP((3, 4), [0, 1])), "model must make one student for each of the 1 seeds"),
        (lambda: attempt(model=lambda s: MLP((9, 4), s)), r"x must have 9 features per example, got shape \(3,\)"),
        (lambda: attempt().predict(torch.zeros(2, 7)), r"x must have 3 features per example, got shape \(7,\)"),
        (lambda: attempt().predict(TASK.y_test), "x must be a floating-point torch.Tensor, got torch.int64"),
        (lambda: attempt().predict(TASK.x_test, batch_size=0), "batch_size must be an integer of at least 1, got 0"),
        (
            lambda: fleet.scores(torch.zeros(5, K), TASK.y_test),
            r"logits must have shape \(any, any, any\), got \(5, 4\)",
        ),
        (lambda: fleet.scores(torch.zeros(1, 5, K), TASK.y_test), r"labels must have shape \(5,\), got \(30,\)"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="epoch"):
        attempt(epoch=3)
