from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import kdlib
from kdlib.levels import checks, museum
from kdlib.losses import kd_loss


@pytest.fixture(scope="module")
def stage():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(8, (900,), generator=g)
    x = 2 * torch.nn.functional.one_hot(y, 8).float() + torch.randn(900, 8, generator=g)
    task = kdlib.Task(x[:200], y[:200], x[600:], y[600:], 8, extra={"x_teacher": x[:600], "y_teacher": y[:600]})
    teacher = kdlib.train(task.for_teacher, kdlib.Recipe.hard(), seeds=1, hidden=(32,), epochs=8)
    return checks.padded(task, rows=60), teacher


def run(stage, bug=None, **settings):
    return museum.buggy_run(*stage, bug, seeds=2, hidden=(16,), epochs=5, lr=0.01, **settings)


def test_frame_and_correct_loop(stage):
    frame = run(stage)
    assert list(frame.columns) == [
        "bug",
        "epoch",
        "seed",
        "accuracy",
        "teacher_accuracy",
        "student_moved",
        "teacher_moved",
        "loss",
        "eval_loss",
        "gradient_error",
    ]
    assert (frame["bug"] == 0).all() and (run(stage, 5)["bug"] == 5).all()
    assert len(frame) == 10 and frame["gradient_error"].max() < 1e-5
    last = frame[frame["epoch"] == 5]
    assert (last["loss"] < frame.loc[frame["epoch"] == 1, "loss"].to_numpy()).all()
    pd.testing.assert_frame_equal(frame, run(stage))


@pytest.mark.parametrize("bug", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12])
def test_the_gradient_is_not_the_intended_one(stage, bug):
    settings = {} if bug == 11 else dict(museum.EXHIBITS[bug - 1].settings)
    if bug == 12:
        settings["missing_classes"] = 2  # of eight
    error, control = (run(stage, number, **settings)["gradient_error"] for number in (bug, None))
    assert error.mean() > (2e-4 if bug == 10 else 0.1)
    assert control.max() < 1e-5


def test_missing_classes_leave_the_teacher_without_them(stage):
    """The correct loop is that of a teacher whose last logits are as good as minus infinity."""
    task, teacher = stage
    silent = kdlib.Fleet(deepcopy(teacher.model), teacher.students)
    silent.model.weights[-1][..., -2:] = 0  # views into the model
    silent.model.biases[-1][..., -2:] = -1e4
    told, without = (run(s, missing_classes=m) for s, m in (((task, silent), 0), (stage, 2)))
    for column in ("accuracy", "loss", "gradient_error"):
        np.testing.assert_allclose(told[column], without[column], atol=1e-5, rtol=1e-4)
    pd.testing.assert_frame_equal(run(stage, 12).drop(columns="bug"), run(stage).drop(columns="bug"))  # none to pad


def test_distances_moved_are_those_of_all_weights(stage):
    """A first step of Adam moves each weight with a gradient by lr; the swapped loop moves the teacher."""
    plain, swapped = run(stage), run(stage, 1)
    assert (plain["teacher_moved"] == 0).all() and (swapped["student_moved"] == 0).all()
    assert (plain["student_moved"] > 0).all() and (swapped["teacher_moved"] > 0).all()
    assert (plain.groupby("seed")["student_moved"].diff().dropna() > 0).all()
    once = museum.buggy_run(*stage, seeds=2, hidden=(16,), epochs=1, batch_size=1000, lr=0.01)
    weights = 8 * 16 + 16 + 16 * 8 + 8
    assert (once["student_moved"] <= 0.01 * weights**0.5 * (1 + 1e-5)).all()
    assert (once["student_moved"] > 0.8 * 0.01 * weights**0.5).all()


def test_symptoms_that_are_not_in_the_gradient(stage):
    swapped, plain = run(stage, 1), run(stage)
    assert (swapped.groupby("seed")["accuracy"].agg(np.ptp) == 0).all()
    assert np.ptp(swapped["teacher_accuracy"]) > 0 and np.ptp(plain["teacher_accuracy"]) == 0
    inflated = run(stage, 13)
    assert (inflated["eval_loss"] / plain["eval_loss"]).min() > 20
    pd.testing.assert_series_equal(inflated["loss"], plain["loss"])
    broken = run(stage, 11, **dict(museum.EXHIBITS[10].settings))
    assert broken["loss"].isna().any()


def test_the_teacher_of_the_caller_is_left_alone(stage):
    before = stage[1].model.flat.detach().clone()
    run(stage, 1)
    assert torch.equal(before, stage[1].model.flat)


def test_padding_rows(stage):
    task, _ = stage
    assert task.extra["valid"].sum() == 200 and len(task.x_train) == 260
    assert (task.x_train[200:] == 0).all() and (task.y_train[200:] == 0).all()


def test_a_diary_has_validation_where_the_task_has(stage):
    """Here validation examples are the first test examples, so both accuracies of those must agree."""
    task, teacher = stage
    few = replace(task, x_test=task.x_test[:90], y_test=task.y_test[:90])
    held = replace(few, extra=task.extra | {"x_validation": few.x_test, "y_validation": few.y_test})
    frame = museum.buggy_run(held, teacher, seeds=2, hidden=(16,), epochs=5, lr=0.01)
    pd.testing.assert_series_equal(frame["val_accuracy"], frame["accuracy"], check_names=False)
    assert "val_accuracy" not in run(stage)
    again = checks.padded(held, rows=7)
    assert set(again.extra) == {"valid", "x_validation", "y_validation"} and len(again.x_train) == len(task.x_train) + 7


def test_with_labels_only_the_bugs_outside_the_soft_part_are_left(stage):
    """Rounding is among them: it reaches the logits that the cross-entropy gets. Padding, chunks and the swap too."""
    plain = run(stage, alpha=0.0)
    differ = {
        bug
        for bug in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
        if not np.allclose(run(stage, bug, alpha=0.0)["gradient_error"], plain["gradient_error"], atol=1e-5)
    }
    assert differ == {1, 7, 9, 10}
    rounded = run(stage, 10, alpha=0.0)
    assert plain["gradient_error"].max() < 1e-5 and rounded["gradient_error"].min() > 1e-4


def test_audit_tells_what_is_wrong():
    def forgetful(z, v, y, temperature, alpha, t_squared=True):
        return kd_loss(z, v, y, temperature, alpha, t_squared=False)

    frame = museum.audit(forgetful).set_index("number")
    assert frame.loc[3, "check"] == "keeps_its_size" and "T^2" in frame.loc[3, "message"]
    assert frame.loc[[1, 2, 5, 7, 9, 11, 13], "passed"].all()


def test_a_check_says_of_a_loss_without_gradient_that_nothing_is_distilled():
    """A loss that ignores the student has no gradient at all: the checks say so, and torch does not raise."""

    def deaf(z, v, y, temperature, alpha, t_squared=True):
        return kd_loss(v, v, y, temperature, alpha, t_squared)

    found = museum.audit(deaf).set_index("number")["message"]
    assert "nothing is distilled" in found[2]
    assert "rounded" in found[10] and "%" not in found[10]


def test_digits_are_compared_by_direction():
    """A missing factor is another check's business; rounding in bfloat16 is this one's."""

    def without_factor(z, v, y, temperature, alpha):
        return kd_loss(z, v, y, temperature, alpha, t_squared=False)

    def rounded(z, v, y, temperature, alpha):
        return kd_loss(z.bfloat16().to(z), v.bfloat16().to(v), y, temperature, alpha)

    checks.keeps_its_digits(without_factor)
    with pytest.raises(AssertionError, match="rounded"):
        checks.keeps_its_digits(rounded)


@pytest.mark.parametrize("power", [1.95, 2.0, 2.05])
def test_a_factor_that_is_nearly_t_squared_is_not_it(power):
    def nearly(z, v, y, temperature, alpha):
        return temperature**power * kd_loss(z, v, y, temperature, alpha, t_squared=False)

    found = checks.verdict(checks.keeps_its_size, nearly)
    assert ("T^2" in found) == (power != 2)


def test_messages_name_the_slip():
    def careless(z, v, y, temperature, alpha, t_squared=True):
        """T^2 missing, and a logarithm of probabilities: five checks, each with its own word."""
        p, log_q = torch.softmax(v / temperature, -1), torch.log_softmax(z / temperature, -1)
        hard = torch.nn.functional.cross_entropy(z, y, reduction="none")
        return (1 - alpha) * hard + alpha * (p * (p.log() - log_q)).sum(-1)

    found = museum.audit(careless).set_index("number")
    assert sorted(found.index[~found["passed"]]) == [3, 4, 6, 8, 11]
    assert "NaN" in found["message"][4] and "T^2" in found["message"][3]


@pytest.mark.parametrize("moved", ["student_moved", "teacher_moved"])
def test_the_first_check_looks_at_weights(moved):
    def other(*args, **settings):
        return museum.buggy_run(*args, **settings).assign(**{moved: 0.0 if moved == "student_moved" else 1.0})

    checks.trains_the_student(museum.buggy_run)
    with pytest.raises(AssertionError, match=moved.split("_")[0]):
        checks.trains_the_student(other)


def test_every_exhibit_shows_its_switch():
    for exhibit in museum.EXHIBITS:
        lines = exhibit.planted.splitlines()
        assert any(f"bug {sign} {exhibit.number}" in lines[0] for sign in ("==", "!="))
        assert not lines[-1].endswith(":")  # a condition is shown with what it does
    assert "swapped" in museum.EXHIBITS[0].planted and "bfloat16" not in museum.EXHIBITS[0].planted
    assert museum.EXHIBITS[5].planted == "if bug == 6:\n    t_squared = not t_squared  # the flag means its opposite"


def test_every_exhibit_has_a_loop_and_its_control_once():
    rooms = museum.rooms()
    assert len(rooms) == len(set(rooms)) == 16  # thirteen bugs, the correct loop, and two controls under settings
    for exhibit in museum.EXHIBITS:
        assert (exhibit.number, exhibit.settings) in rooms and (None, exhibit.settings) in rooms
    names = [museum.label(*room) for room in rooms]
    assert len(set(names)) == 16 and {"0", "3", "0, temperature 0.05", "12, missing classes 5"} <= set(names)


@pytest.mark.parametrize("missing", [-1, 8, 1.5])
def test_impossible_numbers_of_missing_classes_are_named(stage, missing):
    with pytest.raises(ValueError, match="missing_classes"):
        run(stage, missing_classes=missing)


@pytest.mark.parametrize("bug", [0, 14, "2"])
def test_an_unknown_bug_is_named(stage, bug):
    with pytest.raises(ValueError, match="bug"):
        run(stage, bug)
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="bug"):
        museum.buggy_loss(z, z, y, bug=bug)
    with pytest.raises(ValueError, match="teacher_logits"):
        museum.buggy_loss(z, z[:, :2], y)
