"""The contract of a task."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from kdlib.data import Task


def task(**changes: Any) -> Task:
    fields: dict[str, Any] = {
        "x_train": torch.arange(12.0).view(4, 3),
        "y_train": torch.tensor([0, 1, 2, 1]),
        "x_test": torch.ones(2, 3),
        "y_test": torch.tensor([0, 2]),
        "num_classes": 3,
    }
    return Task(**(fields | changes))


def test_teacher_sees_its_own_training_set_and_the_same_test_set() -> None:
    x, y = torch.zeros(5, 3), torch.ones(5, dtype=torch.int64)
    student = task(extra={"x_teacher": x, "y_teacher": y, "clean": torch.ones(4, dtype=torch.bool)}, name="it")
    teacher = student.for_teacher
    assert teacher.x_train is x
    assert teacher.y_train is y
    assert teacher.x_test is student.x_test
    assert teacher.y_test is student.y_test
    assert "clean" not in teacher.extra  # that list belongs to the student's examples
    assert teacher.name == "it (teacher)"


def test_teacher_sees_the_task_itself_where_it_has_no_data_of_its_own() -> None:
    assert (same := task()).for_teacher is same


def test_teachers_data_are_checked_when_they_are_used() -> None:
    bad = task(extra={"x_teacher": torch.zeros(5, 3), "y_teacher": torch.zeros(4, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"y_train must have shape \(5,\), got \(4,\)"):
        bad.for_teacher  # noqa: B018


def test_to_moves_every_tensor_and_keeps_the_rest() -> None:
    groups, clean = torch.tensor([0, 0, 1]), torch.ones(4, dtype=torch.bool)
    here = task(groups=groups, extra={"clean": clean, "class_names": ["a", "b", "c"]})
    there = here.to("cpu")
    for name in ("x_train", "y_train", "x_test", "y_test", "groups"):
        assert torch.equal(getattr(there, name), getattr(here, name))
    assert torch.equal(there.extra["clean"], clean)
    assert there.extra["class_names"] == ["a", "b", "c"]
    assert (there.num_classes, there.name) == (3, "task")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_to_moves_to_a_gpu() -> None:
    there = task(groups=torch.tensor([0, 0, 1]), extra={"clean": torch.ones(4, dtype=torch.bool)}).to("cuda")
    assert {t.device.type for t in (there.x_train, there.y_test, there.groups, there.extra["clean"])} == {"cuda"}  # type: ignore[union-attr]


def test_is_frozen_and_reads_as_a_sentence() -> None:
    with pytest.raises(FrozenInstanceError):
        task().num_classes = 4  # type: ignore[misc]
    shown = repr(task(x_train=torch.zeros(4, 1, 8, 8), x_test=torch.zeros(2, 1, 8, 8), groups=torch.tensor([0, 0, 1])))
    assert shown == "Task(task: 4 train, 2 test, inputs 1x8x8, 3 classes, 2 superclasses)"


NAN = torch.full((4, 3), float("nan"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes must be an integer of at least 1, got 0"),
        ({"num_classes": 3.0}, "num_classes must be an integer of at least 1, got 3.0"),
        ({"num_classes": True}, "num_classes .* got True"),
        ({"num_classes": 2}, r"y_train must lie in 0..1, got 0..2"),
        ({"x_train": torch.zeros(4, 3).long()}, "x_train must be a floating-point torch.Tensor, got torch.int64"),
        ({"x_train": [[0.0]]}, "x_train must be a floating-point torch.Tensor, got list"),
        ({"x_train": NAN}, "x_train must be finite, got 12 NaN or infinite values of 12"),
        ({"x_test": NAN[:2] * 0 + float("inf")}, "x_test must be finite, got 6"),
        ({"x_test": torch.zeros(2, 4)}, r"x_test must have examples of shape \(3,\) like x_train, got \(4,\)"),
        ({"x_test": torch.zeros(0, 3), "y_test": torch.zeros(0).long()}, r"x_test must hold at least one example"),
        ({"x_train": torch.tensor(1.0)}, r"x_train must hold at least one example, got shape \(\)"),
        ({"y_train": torch.zeros(3).long()}, r"y_train must have shape \(4,\), got \(3,\)"),
        ({"y_train": torch.zeros(4)}, "y_train must have dtype torch.int64, got torch.float32"),
        ({"y_train": [0, 1, 2, 1]}, "y_train must be a torch.Tensor .* got list"),
        ({"y_test": torch.tensor([0, -1])}, r"y_test must lie in 0..2, got -1..0"),
        ({"groups": torch.tensor([0, 1])}, r"groups must have shape \(3,\), got \(2,\)"),
        ({"groups": torch.tensor([0, 1, 3])}, r"groups must lie in 0..2, got 0..3"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**changes)
    with pytest.raises(ValueError, match=message):
        replace(task(), **changes)


def test_a_subset_keeps_everything_else():
    x, y = torch.arange(12.0).view(6, 2), torch.arange(6) % 3
    extra = {"clean": y == 0, "x_teacher": torch.zeros(9, 2), "class_names": ["a", "b", "c"]}
    whole = Task(x, y, x[:2], y[:2], 3, torch.tensor([0, 0, 1]), "six", extra)
    rows = torch.tensor([4, 1])
    few = whole.subset(rows)
    assert torch.equal(few.x_train, x[rows]) and few.y_train.tolist() == [1, 1]
    assert few.extra["clean"].tolist() == [False, False] and len(few.extra["x_teacher"]) == 9
    assert few.x_test is whole.x_test and few.groups is whole.groups and few.extra["class_names"] == ["a", "b", "c"]
    assert len(whole.subset(y == 0).x_train) == 2
    with pytest.raises(ValueError, match="x_train"):
        whole.subset(rows[:0])
