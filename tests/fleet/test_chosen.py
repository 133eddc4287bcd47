"""Each recipe at the length that validation data choose, by the rule written out."""

from __future__ import annotations

import pandas as pd
import pytest

from kdlib import Recipe, data, fleet, train


def table() -> pd.DataFrame:
    rows = [
        ("KD", 0, 10, 0.5, 0.1), ("KD", 0, 20, 0.7, 0.2), ("KD", 0, 40, 0.7, 0.3),  # a tie: the shorter
        ("KD", 1, 10, 0.9, 0.4), ("KD", 1, 20, 0.8, 0.9), ("KD", 1, 40, 0.1, 0.9),  # not the best on the test set
        ("hard", 0, 10, 0.2, 0.5), ("hard", 0, 20, 0.3, 0.6), ("hard", 0, 40, 0.4, 0.7),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["recipe", "seed", "epochs", "val_accuracy", "accuracy"])


def test_takes_the_best_on_validation_and_the_shorter_of_equals() -> None:
    for frame in (
        table(),
        table().iloc[::-1],
        table().sample(frac=1, random_state=0),
        table().set_index("epochs", drop=False),
    ):
        best = fleet.chosen(frame).set_index(["recipe", "seed"])
        assert best["epochs"].to_dict() == {("KD", 0): 20, ("KD", 1): 10, ("hard", 0): 40}
        assert best["accuracy"].to_dict() == {("KD", 0): 0.2, ("KD", 1): 0.4, ("hard", 0): 0.7}


def test_refuses_what_it_cannot_rank() -> None:
    with pytest.raises(ValueError, match=r"misses \['val_nll'\]"):
        fleet.chosen(table(), by="val_nll")
    with pytest.raises(ValueError, match="got 1 without"):
        fleet.chosen(table().assign(val_accuracy=lambda f: f["val_accuracy"].where(f.index > 0)))


def test_evaluate_measures_the_validation_part_beside_the_test_set() -> None:
    task = data.world("F", n_train=60, n_test=50).split_validation(0.5)
    trained = train(task, Recipe.hard(), seeds=2, hidden=(8,), epochs=[1, 3])
    frame = trained.evaluate(task)
    held = trained.scored(task.extra["x_validation"], task.extra["y_validation"])
    assert frame["val_accuracy"].tolist() == held["accuracy"].tolist()
    assert frame["val_nll"].tolist() == held["nll"].tolist()
    assert len(fleet.chosen(frame)) == 2
