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
        "loss",
        "eval_loss",
        "gradient_error",
    ]
    assert len(frame) == 10 and frame["gradient_error"].max() < 1e-5
    last = frame[frame["epoch"] == 5]
    assert (last["loss"] < frame.loc[frame["epoch"] == 1, "loss"].to_numpy()).all()
    pd.testing.assert_frame_equal(frame, run(stage))


@pytest.mark.parametrize("bug", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12])
def test_the_gradient_is_not_the_intended_one(stage, bug):
    error = run(stage, bug)["gradient_error"]
    assert error.mean() > (2e-4 if bug == 10 else 0.1)


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


def test_audit_tells_what_is_wrong():
    def forgetful(z, v, y, temperature, alpha, t_squared=True):
        return kd_loss(z, v, y, temperature, alpha, t_squared=False)

    frame = museum.audit(forgetful).set_index("number")
    assert frame.loc[3, "check"] == "keeps_its_size" and "T^2" in frame.loc[3, "message"]
    assert frame.loc[[1, 2, 5, 7, 9, 11, 13], "passed"].all()


@pytest.mark.parametrize("bug", [0, 14, "2"])
def test_an_unknown_bug_is_named(stage, bug):
    with pytest.raises(ValueError, match="bug"):
        run(stage, bug)
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="bug"):
        museum.buggy_loss(z, z, y, bug=bug)
    with pytest.raises(ValueError, match="teacher_logits"):
        museum.buggy_loss(z, z[:, :2], y)
