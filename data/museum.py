"""The thirteen bugs of the museum, one at a time, beside the correct loop: world H, 20 draws, up to 60 epochs.

    kdlib study data/museum.py --store _build/studies/museum --table data/museum.npz

One point is a world drawn from one seed, a teacher trained on it, and a plain loop for every bug and for every correct control.
The rate of the plain loop does not fall, so its first epochs are a shorter training.
"""

from __future__ import annotations

import pandas as pd

from kdlib import Recipe, checks, data, train
from kdlib.levels import museum

EPOCHS = (1, 2, 3, 4, 6, 8, 11, 15, 21, 30, 42, 60)  # that are kept; 15, 1,000 examples in batches of 128, is usual
grid = {"seed": range(20)}
DIARY = ["accuracy", "val_accuracy", "student_moved", "teacher_moved", "loss", "eval_loss", "gradient_error"]


def experiment(seed: int) -> pd.DataFrame:
    """One row per loop and epoch: what `museum.buggy_run` writes down, accuracy on test and validation examples."""
    both = data.world("H", seed, n_train=2000, n_test=2000)
    task = checks.padded(both.split_validation(0.5, seed), rows=280)
    teacher = train(both.for_teacher, Recipe.hard(), seeds=[seed], **data.TEACHER["H"])
    frames = []
    for bug, settings in museum.rooms():
        run = museum.buggy_run(task, teacher, bug, seeds=1, hidden=(64,), epochs=max(EPOCHS), **dict(settings))
        frames.append(run.assign(recipe=museum.label(bug, settings)))
    frame = pd.concat(frames).query("epoch in @EPOCHS").assign(seed=seed)
    return frame[["recipe", "bug", "seed", "epoch", *DIARY]].round(dict.fromkeys(DIARY[:4], 4)).reset_index(drop=True)
