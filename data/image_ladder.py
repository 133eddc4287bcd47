"""The ladder of the levels on real images at five training lengths: Fashion-MNIST, and 20 classes of CIFAR-100.

    kdlib study data/image_ladder.py --store _build/studies/image_ladder --table data/image_ladder.npz

A point is one data set and seed: a teacher trained on 10,000 images, a student's own few of them, as many others to validate,
and one fleet: every table of the ladder at T = 1 and T = 4, at every length, each with its own schedule. A GPU is used where
there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch

from kdlib import Recipe, Task, train
from kdlib.data.images import cifar100, fashion_mnist
from kdlib.levels.split import lattice, permuted_targets, topk_targets
from kdlib.losses import soften
from kdlib.models import CNN

FAMILIES = ["vehicles_1", "large_carnivores", "trees", "household_furniture"]
SETS: dict[str, tuple[Callable[[], Task], int]] = {  # the task, images of the student
    "Fashion-MNIST": (partial(fashion_mnist, 10_000, 2000, size=14), 500),
    "CIFAR-100, 20 classes": (partial(cifar100, FAMILIES, size=16), 1000),
}
STEPS = (240, 480, 960, 1920, 3840)
TEACHER: dict[str, Any] = {"epochs": 10, "batch_size": 64, "weight_decay": 0.01}
STUDENT = {"batch_size": 64, "lr": 1e-2}
SEEDS = {"CIFAR-100, 20 classes": 18, "Fashion-MNIST": 19}
grid = pd.DataFrame([(where, seed) for where, n in SEEDS.items() for seed in range(n)], columns=["where", "seed"])


def experiment(where: str, seed: int) -> pd.DataFrame:
    """One row per recipe and length: accuracy and nll on test and validation images.

    One row more is the teacher's own, with -1 for the scores on validation images, which it was trained on.
    """
    load, n = SETS[where]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    task = load().to(device)
    c, k = task.x_train.shape[1], task.num_classes
    teacher = train(task, Recipe.hard(), seeds=[seed], model=lambda s: CNN((c, 32, 64, 128), k, s), **TEACHER)
    drawn = torch.randperm(len(task.y_train), generator=torch.Generator().manual_seed(seed)).to(device)
    few, held = task.subset(drawn[:n]), drawn[n : 2 * n]
    v, y = teacher.predict(few.x_train)[0], few.y_train
    recipes = [Recipe.hard()]
    for T in (1, 4):
        rows = soften(v, T)
        tables = lattice(rows, y) | {"top quarter": topk_targets(rows, -(-k // 4))}
        tables |= {"permuted": permuted_targets(rows, y, seed)}
        recipes += [Recipe(kind, table, T) for kind, table in tables.items() if kind != "hard labels"]
    lengths = [steps // -(-n // 64) for steps in STEPS]
    students = train(few, recipes, seeds=[seed], model=partial(CNN, (c, 16, 32, 64), k), epochs=lengths, **STUDENT)
    validation = students.scored(task.x_train[held], task.y_train[held])
    frame = students.evaluate(task).assign(
        steps=lambda f: f["epochs"] * -(-n // 64), val_accuracy=validation["accuracy"], val_nll=validation["nll"]
    )
    steps = TEACHER["epochs"] * -(-len(task.y_train) // TEACHER["batch_size"])
    own = teacher.evaluate(task).assign(recipe="the teacher itself", steps=steps, val_accuracy=-1.0, val_nll=-1.0)
    columns = ["recipe", "temperature", "seed", "steps", "accuracy", "nll", "val_accuracy", "val_nll"]
    both = pd.concat([frame[columns], own[columns]]).sort_values("steps", kind="stable", ignore_index=True)
    return both.round(dict.fromkeys(columns[4:], 4))
