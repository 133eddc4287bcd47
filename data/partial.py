"""Teachers of the literature at five training lengths, and shapes exchanged within a class: worlds H, S and F, 6 seeds.

    kdlib study data/partial.py --store _build/studies/partial --table data/partial.npz

One point is a world of `lengths`, with the same teacher and the same students' seeds, so that rows of both pair up. At T = 4:
KD-topk with 5 and 10 of 20 classes, and each example with another's wrong-class shape. At T = 1 and alpha = 0.6: KD-pt, KD-sim
with cosines over 0.3, and smoothing with KD-sim's own confidence. `energy_...` are the parts of the teacher at T = 4 in per cent.
"""

from __future__ import annotations

import pandas as pd

from kdlib import Recipe, data, train
from kdlib.levels.domain import similarity_targets
from kdlib.levels.instance import confidence_targets
from kdlib.levels.split import exchanged_targets, split_teacher, topk_targets
from kdlib.levels.universe import matched_smoothing
from kdlib.losses import soften

LENGTHS = (0.25, 0.5, 1, 2, 4)  # times the world's usual number of epochs
SIZES = {"H": 1000, "S": 2000, "F": 200}
grid = {"seed": range(6), "world": ["H", "S", "F"]}


def experiment(world: str, seed: int) -> pd.DataFrame:
    """One row per recipe and length: accuracy and nll on test and validation examples."""
    task = data.world(world, seed, n_train=2 * SIZES[world]).split_validation(0.5, seed)
    teacher = train(task.for_teacher, Recipe.hard(), seeds=[seed], **data.TEACHER[world])
    v, y = teacher.predict(task.x_train)[0], task.y_train
    rows, similar = soften(v, 4), similarity_targets(teacher.weights[-1][0].mT, y, temperature=0.3)
    warm = {"another's shape": exchanged_targets(rows, y, seed)}
    warm |= {"top quarter": topk_targets(rows, 5), "top half": topk_targets(rows, 10)}
    cool = {"KD-pt": confidence_targets(soften(v), y), "KD-sim": similar}
    cool |= {"KD-sim, smoothed": matched_smoothing(similar, y)}
    recipes = [Recipe(name, table, 4) for name, table in warm.items()]
    recipes += [Recipe(name, table, alpha=0.6) for name, table in cool.items()]
    student = data.STUDENT[world]
    lengths = [max(1, round(length * student["epochs"])) for length in LENGTHS]
    frame = train(task, recipes, seeds=[seed], **student | {"epochs": lengths}).evaluate(task)
    energies = split_teacher(soften(v.double(), 4), y).energies.add_prefix("energy_")
    kept = ["recipe", "temperature", "epochs", "accuracy", "nll", "val_accuracy", "val_nll"]
    shares = 100 * energies / energies.sum()
    return frame[kept].assign(length=frame["epochs"] / student["epochs"], **{str(k): v for k, v in shares.items()})
