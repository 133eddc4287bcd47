"""The ladder of the levels at five training lengths, and smoothing by hand beside it: 60 seeds, worlds H, S and F.

    kdlib study data/lengths.py --store _build/studies/lengths --table data/lengths.npz

One point is a world drawn from one seed, a teacher trained on it, and one fleet: every recipe at every length, each with its
own schedule. Training and validation examples are drawn alike, noise included, as many of the one as of the other.
"""

from __future__ import annotations

import pandas as pd

from kdlib import Recipe, data, train
from kdlib.levels.split import lattice, permuted_targets
from kdlib.levels.universe import smooth_labels
from kdlib.losses import soften

LENGTHS = (0.25, 0.5, 1, 2, 4)  # times the world's usual number of epochs
SIZES = {"H": 1000, "S": 2000, "F": 200}
ROUNDED = dict.fromkeys(["accuracy", "nll", "ece", "confidence", "val_accuracy", "val_nll", "teacher"], 4) | {
    "logit_norm": 3
}
grid = {"world": ["F", "H", "S"], "seed": range(60)}


def experiment(world: str, seed: int) -> pd.DataFrame:
    """One row per recipe and length: accuracy and nll on test and validation examples."""
    task = data.world(world, seed, n_train=2 * SIZES[world]).split_validation(0.5, seed)
    teacher = train(task.for_teacher, Recipe.hard(), seeds=[seed], **data.TEACHER[world])
    v, y = teacher.predict(task.x_train)[0], task.y_train
    recipes = [Recipe.hard()]
    recipes += [Recipe.soft(f"smoothing {e:g}", smooth_labels(y, 20, e)) for e in (0.1, 0.3, 0.5)]
    for T in (1, 4):
        tables = lattice(soften(v, T), y) | {"permuted": permuted_targets(soften(v, T), y, seed=seed)}
        recipes += [Recipe(name, table, T) for name, table in tables.items() if name != "hard labels"]
    student = data.STUDENT[world]
    lengths = [max(1, round(length * student["epochs"])) for length in LENGTHS]
    fleet = train(task, recipes, seeds=[seed], **student | {"epochs": lengths})
    frame = fleet.evaluate(task).assign(
        length=lambda f: f["epochs"] / student["epochs"], teacher=teacher.evaluate(task)["accuracy"].item()
    )
    columns = [
        "recipe",
        "temperature",
        "epochs",
        "length",
        "seed",
        "accuracy",
        "nll",
        "ece",
        "confidence",
        "logit_norm",
    ]
    columns += ["val_accuracy", "val_nll", "teacher"]
    return frame.sort_values(["temperature", "recipe", "epochs"], ignore_index=True)[columns].round(ROUNDED)
