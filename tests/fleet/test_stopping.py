"""Early stopping: each student where its own loss was lowest, by the weights of separate runs that end there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kdlib import Fleet, data
from kdlib.fleet import early_stopped, fit, fitting
from kdlib.losses import cross_entropy
from kdlib.models import MLP, FleetModel

Loss = Callable[[Fleet], Tensor]
TASK = data.world("F", n_train=60, n_test=50)
NET = partial(MLP, (TASK.x_train.shape[1], 6, TASK.num_classes))
HOW = {"batch_size": 20, "schedule": "constant"}  # so that an epoch is the same in a shorter and in a longer run


def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
    return cross_entropy(model.each(x), TASK.y_train[index]).mean(-1)


def prescribed(*losses: list[float]) -> Loss:
    """A loss that reads the next row of a table whenever it is asked."""
    rows = iter(losses)
    return lambda fleet: torch.tensor(next(rows))


def weights(fleet: Fleet, student: int) -> Tensor:
    return fleet.model.flat.data[student]


def test_each_student_has_the_weights_of_its_own_best_epoch_and_of_equals_the_first() -> None:
    losses = [3.0, 1.0, torch.nan], [1.0, 2.0, torch.nan], [1.0, 0.5, torch.nan], [2.0, 0.7, torch.nan]
    fleet, epochs = early_stopped(fitting(TASK, 3, NET, objective, epochs=4, **HOW), prescribed(*losses))
    assert epochs == [2, 3, 1]
    for student, epoch in enumerate(epochs):
        ended = fit(TASK, 3, NET, objective, epochs=epoch, **HOW)
        assert torch.equal(weights(fleet, student), weights(ended, student))
    assert not torch.equal(weights(fleet, 0), weights(fit(TASK, 3, NET, objective, epochs=4, **HOW), 0))


def test_it_looks_only_after_every_so_many_epochs() -> None:
    fleet, epochs = early_stopped(
        fitting(TASK, 2, NET, objective, epochs=7, **HOW), prescribed([1.0, 1.0], [2.0, 0.0], [0.0, 3.0]), every=2
    )
    assert epochs == [6, 4]
    assert torch.equal(weights(fleet, 1), weights(fit(TASK, 2, NET, objective, epochs=4, **HOW), 1))


def test_what_it_returns_scores_what_was_lowest_on_the_way() -> None:
    seen: list[Tensor] = []

    def held(fleet: Fleet) -> Tensor:
        seen.append((fleet.predict(TASK.x_test).argmax(-1) != TASK.y_test).double().mean(1))
        return seen[-1]

    fleet, epochs = early_stopped(fitting(TASK, 4, NET, objective, epochs=12, lr=0.3), held)
    every = torch.stack(seen)
    assert torch.equal(held(fleet), every.amin(0)) and (every.argmin(0) + 1).tolist() == epochs and len(set(epochs)) > 1


@pytest.mark.parametrize(
    ("every", "loss", "message"),
    [
        (0, lambda fleet: torch.zeros(2), "every must be"),
        (5, lambda fleet: torch.zeros(2), "every must be at most the number of epochs of the run, got 5"),
        (1, lambda fleet: torch.zeros(()), r"loss\(fleet\) must"),
        (1, lambda fleet: torch.zeros(3), r"loss\(fleet\) must"),
    ],
)
def test_bad_input_is_named(every: int, loss: Loss, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        early_stopped(fitting(TASK, 2, NET, objective, epochs=3, **HOW), loss, every=every)
