"""The ladder of the levels under other choices: one thing changed at a time, and choices combined at random; 20 seeds.

    kdlib study data/multiverse.py --store _build/studies/multiverse --table data/multiverse.npz

A point is one world, seed and variation: the world is drawn anew for each seed, a teacher trained, and one fleet of students,
one for each table of the ladder. What a variation leaves out is as in the chapters: T = 4, alpha = 0.9, `data.STUDENT`. A point
where training diverges fails by name, and the table goes without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pandas as pd
import torch

from kdlib import Fleet, Recipe, Task, data, train
from kdlib.data.images import cifar100, fashion_mnist
from kdlib.levels.multiverse import VARIATIONS
from kdlib.levels.split import ladder, permuted_targets
from kdlib.losses import soften

BASE: dict[str, dict[str, Any]] = {
    "H": {"n": 1000, **data.STUDENT["H"]},
    "S": {"n": 2000, **data.STUDENT["S"]},
    "F": {"n": 200, **data.STUDENT["F"]},
    "digits": {"n": 100, "hidden": (128,), "epochs": 100, "batch_size": 50},
    "Fashion-MNIST": {"n": 500, "hidden": (128,), "epochs": 40, "batch_size": 64},
    "CIFAR-100, 20 classes": {"n": 1000, "hidden": (64,), "epochs": 20, "batch_size": 64},
}
READER = {"hidden": (128,), "epochs": 20, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.1}  # the teacher of digits
VIEWER = READER | {"hidden": (256,), "epochs": 10}  # the teacher of images
TEACHER = {**data.TEACHER, "digits": READER, "Fashion-MNIST": VIEWER, "CIFAR-100, 20 classes": VIEWER}
FAMILIES = ["vehicles_1", "large_carnivores", "trees", "household_furniture"]
IMAGES: dict[str, Callable[[], Task]] = {
    "Fashion-MNIST": partial(fashion_mnist, 10_000, 2000, size=14),
    "CIFAR-100, 20 classes": partial(cifar100, FAMILIES, size=16),
}
grid = {"world": sorted(BASE), "variation": sorted(VARIATIONS), "seed": range(20)}


@lru_cache
def images(world: str) -> Task:
    """A set of images, each a vector: what a network of dense layers reads."""
    task = IMAGES[world]()
    return replace(task, x_train=task.x_train.flatten(1), x_test=task.x_test.flatten(1))


def drawn(world: str, seed: int, n: int, classes: int | None) -> Task:
    """A task with n training examples (of `classes` classes, where that is given) and a teacher's own set in `extra`."""
    if world not in data.TEACHER:
        task = data.digits(seed) if world == "digits" else images(world)
        rows = torch.randperm(len(task.y_train), generator=torch.Generator().manual_seed(seed))[:n]
        extra = {"x_teacher": task.x_train, "y_teacher": task.y_train}
        k = task.num_classes
        task = Task(task.x_train[rows], task.y_train[rows], task.x_test, task.y_test, k, None, world, extra)
        keep = None if classes is None else k // 2
    else:
        task, keep = data.world(world, seed, n_train=n), classes
    return task if keep is None else first_classes(task, keep)


def first_classes(task: Task, count: int) -> Task:
    """The task with its first `count` classes alone."""
    parts: dict[str, Any] = {}
    for name in ("train", "test", "teacher"):
        x, y = (task.extra.get(f"{v}_{name}") if name == "teacher" else getattr(task, f"{v}_{name}") for v in "xy")
        if y is not None:
            parts[f"x_{name}"], parts[f"y_{name}"] = x[y < count], y[y < count]
    own = {key: parts.pop(key) for key in ("x_teacher", "y_teacher") if key in parts}
    return Task(**parts, num_classes=count, name=task.name, extra=own)


@lru_cache(maxsize=64)  # variations that leave it alone share it
def taught(world: str, seed: int, n: int, classes: int | None, width: float, share: float) -> tuple[Fleet, float]:
    """A teacher of this width and share of its data, and its test accuracy."""
    task, teaching = drawn(world, seed, n, classes), TEACHER[world]
    theirs = task.for_teacher
    rows = torch.randperm(len(theirs.y_train), generator=torch.Generator().manual_seed(seed + 1))
    some = theirs.subset(rows[: round(len(rows) * share)].sort().values)
    changed = {
        "hidden": [max(4, round(w * width)) for w in teaching["hidden"]],
        "epochs": round(teaching["epochs"] * len(rows) / len(some.y_train)),  # as many steps on less data
    }
    teacher = train(some, Recipe.hard(), seeds=[seed], **teaching | changed)
    return teacher, teacher.evaluate(task)["accuracy"].item()


def experiment(world: str, variation: str, seed: int) -> pd.DataFrame:
    """One row per table of the ladder: test accuracy and nll of its student, and the teacher's accuracy."""
    change, base = VARIATIONS[variation], BASE[world]
    n, classes = max(20, round(base["n"] * change.get("examples x", 1))), change.get("classes")
    task = drawn(world, seed, n, classes)
    size = (
        base["n"] if world not in data.TEACHER else n
    )  # what a teacher of images learns does not depend on the student's number
    school = (change.get("teacher's width x", 1), change.get("teacher's data x", 1))
    teacher, accuracy = taught(world, seed, size, classes, *school)
    v, y, T = teacher.predict(task.x_train)[0], task.y_train, change.get("T", 4)
    tables = ladder(soften(v, T), y) | {"permuted": permuted_targets(soften(v, T), y, seed=seed)}
    del tables["hard labels"]
    recipes = [Recipe.hard(), *(Recipe(name, table, T, change.get("alpha", 0.9)) for name, table in tables.items())]
    width = max(4, round(base["hidden"][0] * change.get("width x", 1)))
    sgd = "optimiser" in change
    settings = {
        "hidden": (width,) * change.get("hidden layers", 1),
        "epochs": max(1, round(base["epochs"] * change.get("length x", 1))),
        "batch_size": max(8, round(base.get("batch_size", 128) * change.get("batch x", 1))),
        "lr": (0.1 if sgd else 3e-3) * change.get("learning rate x", 1),
        "weight_decay": change.get("weight decay", 0.0) * (1e-2 if sgd else 1),  # SGD's decay is coupled: the same pull
    }
    if sgd:
        settings["optimiser"] = partial(torch.optim.SGD, momentum=0.9)
    frame = train(task, recipes, seeds=[seed], **settings).evaluate(task)
    frame = frame[["recipe", "seed", "accuracy", "nll"]].assign(teacher=accuracy)
    return frame.round({"accuracy": 4, "nll": 4, "teacher": 4})
