"""The contract of a task."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from kdlib.data import Task, world


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


def test_to_leaves_no_tensor_behind() -> None:
    """torch's meta device holds no numbers: whatever looked at one would fail, whatever stayed here would show."""
    here = task(groups=torch.tensor([0, 0, 1]), extra={"clean": torch.ones(4, dtype=torch.bool), "names": ["a"]})
    there = here.split_validation().to("meta")
    tensors = [value for value in (*vars(there).values(), *there.extra.values()) if isinstance(value, torch.Tensor)]
    assert {t.device.type for t in tensors} == {"meta"} and len(tensors) == 9
    assert here.x_train.device.type == "cpu" and there.extra["names"] == ["a"]


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", 3.5, None])
def test_to_names_a_device_that_is_none(device: object) -> None:
    with pytest.raises(ValueError, match="device must be one that torch can use here, got"):
        task().to(device)  # type: ignore[arg-type]


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
        ({"x_test": torch.full((2, 3), float("inf"))}, "x_test must be finite, got 6"),
        ({"x_test": torch.full((2, 3), -float("inf"))}, "x_test must be finite, got 6"),
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


def six(**extra: Any) -> Task:
    x, y = torch.arange(12.0).view(6, 2), torch.arange(6) % 3
    return Task(x, y, x[:2], y[:2], 3, torch.tensor([0, 0, 1]), "six", extra)


def test_a_subset_keeps_everything_else():
    whole = six(class_names=["a", "b", "c"], x_teacher=torch.zeros(9, 2))
    rows = torch.tensor([4, 1])
    few = whole.subset(rows)
    assert torch.equal(few.x_train, whole.x_train[rows]) and few.y_train.tolist() == [1, 1]
    assert few.x_test is whole.x_test and few.groups is whole.groups and few.extra["class_names"] == ["a", "b", "c"]
    assert len(few.extra["x_teacher"]) == 9
    assert len(whole.subset(whole.y_train == 0).x_train) == 2
    with pytest.raises(ValueError, match="x_train"):
        whole.subset(rows[:0])


def test_whatever_a_task_knows_of_its_training_examples_goes_with_them():
    """By their number and not by their name; what belongs to other sets stays, also where that has as many examples."""
    rows, number = torch.tensor([4, 1]), torch.arange(6)
    mine = {"clean": number == 4, "valid": number > 2, "difficulty": number / 6, "posterior": torch.eye(6)[:, :3]}
    others = {"x_teacher": torch.zeros(6, 2), "y_teacher": number, "clean_test": number > 0, "y_validation": number}
    rest = {"mean": torch.tensor(0.5), "per_class": torch.ones(3), "names": list("abcdef")}
    few = six(**mine, **others, **rest).subset(rows).extra
    for key, value in mine.items():
        assert torch.equal(few[key], value[rows]), key
    for key, value in (others | rest).items():
        assert few[key] is value, key


def test_the_teachers_task_keeps_the_superclasses():
    teacher = six(x_teacher=torch.zeros(9, 2), y_teacher=torch.zeros(9, dtype=torch.int64)).for_teacher
    assert teacher.groups is not None and teacher.groups.tolist() == [0, 0, 1]
    assert (len(teacher.x_train), teacher.num_classes) == (9, 3)


def numbered(n: int, classes: int = 2, **extra: Any) -> Task:
    """Examples that carry their own number, so that it can be seen where each of them went."""
    x = torch.arange(float(n)).unsqueeze(1)
    return Task(
        x, torch.arange(n) % classes, torch.full((2, 1), -9.0), torch.zeros(2, dtype=torch.int64), classes, extra=extra
    )


def test_a_validation_part_is_taken_from_the_training_set():
    whole = numbered(50, clean=torch.arange(50) % 3 == 0, class_names=["a", "b"])
    task = whole.split_validation(0.3, seed=4)
    rows, held = task.extra["rows"], task.extra["x_validation"][:, 0].long()
    assert len(held) == 15 and rows.dtype == torch.int64 and rows.tolist() == sorted(rows.tolist())
    assert sorted([*rows.tolist(), *held.tolist()]) == list(range(50))
    assert torch.equal(task.x_train, whole.x_train[rows]) and torch.equal(task.y_train, whole.y_train[rows])
    assert torch.equal(task.extra["y_validation"], whole.y_train[held])
    assert torch.equal(task.extra["clean"], whole.extra["clean"][rows])
    assert task.x_test is whole.x_test and task.extra["class_names"] == ["a", "b"]
    assert repr(task) == "Task(task: 35 train, 15 validation, 2 test, inputs 1, 2 classes)"
    assert "x_validation" not in whole.extra  # a new task, not a changed one


def test_tables_follow_a_split_and_a_later_subset():
    whole = numbered(50)
    table = torch.randn(50, 2)
    task = whole.split_validation(0.2)
    few = task.subset(torch.tensor([7, 3]))
    assert torch.equal(table[task.extra["rows"]][[7, 3]], table[few.extra["rows"]])
    assert few.extra["x_validation"] is task.extra["x_validation"]


def test_a_seed_fixes_the_split_and_nothing_else_does():
    first = numbered(50).split_validation(seed=1).extra["rows"]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(numbered(50).split_validation(seed=1).extra["rows"], first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(numbered(50).split_validation(seed=2).extra["rows"], first)


@pytest.mark.parametrize("stratified", [False, True])
def test_every_example_is_held_out_equally_often(stratified):
    held = torch.zeros(40)
    for seed in range(600):
        held[numbered(40).split_validation(0.25, seed, stratified).extra["x_validation"][:, 0].long()] += 1
    assert stats.chisquare(held).pvalue > 1e-3
    assert abs(held.mean() - 150) < 1e-6


def test_validation_labels_are_as_noisy_as_the_training_sets():
    task = world("H", seed=3, n_train=4000, n_test=10)
    split = task.split_validation(0.5, seed=1)
    clean = task.extra["clean"].double().mean().item()
    assert split.extra["clean"].double().mean().item() == pytest.approx(
        clean, abs=4 * (clean * (1 - clean) / 4000) ** 0.5
    )
    noisy = torch.ones(4000, dtype=torch.bool).index_fill_(0, split.extra["rows"], False)
    assert torch.equal(split.extra["y_validation"], task.y_train[noisy])


def test_a_stratified_split_has_each_classs_share():
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100)]
    x = torch.arange(100.0).unsqueeze(1)
    task = Task(x, y, x, y, 3).split_validation(0.2, seed=5, stratified=True)
    assert torch.bincount(task.extra["y_validation"]).tolist() == [12, 6, 2]
    plain = [Task(x, y, x, y, 3).split_validation(0.2, seed=s).extra["y_validation"] for s in range(5)]
    assert any(torch.bincount(held, minlength=3).tolist() != [12, 6, 2] for held in plain)


@pytest.mark.parametrize(("fraction", "size"), [(1e-9, 1), (0.5, 1), (0.999, 2)])
def test_both_parts_of_a_split_have_at_least_one_example(fraction, size):
    assert len(numbered(3, classes=1).split_validation(fraction).extra["x_validation"]) in {
        size,
        size + (fraction == 0.5),
    }


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda: numbered(9).split_validation(0.0), "fraction must lie between 0 and 1, got 0.0"),
        (lambda: numbered(9).split_validation(1), "fraction must lie between 0 and 1, got 1"),
        (lambda: numbered(9).split_validation(float("nan")), "fraction must be a finite number"),
        (lambda: numbered(9).split_validation(seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda: numbered(1, classes=1).split_validation(), "x_train must hold at least 2 examples to be split, got 1"),
        (lambda: numbered(9).split_validation().split_validation(), "task has a validation set already, of 2 examples"),
    ],
)
def test_a_split_that_cannot_be_is_named(split, message):
    with pytest.raises(ValueError, match=message):
        split()


@pytest.mark.parametrize(("targets", "outputs"), [((4,), 1), ((4, 1), 1), ((4, 2), 2)])
def test_floating_targets_make_a_regression(targets, outputs):
    y = torch.randn(targets)
    here = task(y_train=y, y_test=y[:2], num_classes=outputs)
    assert here.is_regression and not task().is_regression
    shown = "1 output)" if outputs == 1 else "2 outputs)"
    assert repr(here).endswith(shown)
    assert torch.equal(here.subset(torch.tensor([2, 0])).y_train, y[[2, 0]])
    assert torch.equal(here.split_validation(0.5).y_train, y[here.split_validation(0.5).extra["rows"]])
    for purpose, call in (
        ("a stratified split", lambda: here.split_validation(stratified=True)),
        ("groups", lambda: replace(here, groups=torch.tensor([0]))),
    ):
        with pytest.raises(
            ValueError, match=f"{purpose} needs classes, but task is a regression: y_train is torch.float32"
        ):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 2}, "num_classes must be 1, the number of outputs in y_train, got 2"),
        ({"y_train": torch.zeros(3)}, r"y_train must have shape \(4,\), got \(3,\)"),
        ({"y_test": torch.zeros(2, 1)}, r"y_test must have shape \(2,\), got \(2, 1\)"),
        ({"y_train": torch.zeros(4, 2), "num_classes": 2}, r"y_test must have shape \(2, any\), got \(2,\)"),
        ({"y_train": torch.full((4,), float("inf"))}, "y_train must be finite, got 4"),
        ({"y_test": torch.full((2,), float("nan"))}, "y_test must be finite, got 2"),
        ({"y_test": torch.zeros(2, dtype=torch.int64)}, "y_train must have dtype torch.int64, got torch.float32"),
    ],
)
def test_a_bad_regression_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**({"y_train": torch.zeros(4), "y_test": torch.zeros(2), "num_classes": 1} | changes))


def test_numbers_of_classes_may_be_numpys():
    assert type(task(num_classes=np.int64(3)).num_classes) is int
