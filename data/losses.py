"""Losses with an equal right to be tuned: DKD, DIST, z-scores and plain distillation on worlds H and S, 6 seeds.

    kdlib study data/losses.py --store _build/studies/losses --table data/losses.npz

One point is a world drawn from one seed and a teacher trained on it. Every loss gets four settings, each at three lengths with
its own schedule, so that validation can choose for each among as many. DKD's terms are trained alone too, with weights
that give them one and four times the slope of plain distillation at a student without an opinion.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdlib import Fleet, Recipe, Task, data, fleet, train
from kdlib.losses import dist_loss, dkd_loss, jsd_loss, kd_loss, logit_standardised_kd_loss
from kdlib.models import MLP

LENGTHS = {"H": (0.5, 1, 2), "S": (1, 2, 4)}  # times the usual epochs, about what validation chooses on each world
SIZES = {"H": 1000, "S": 2000}
KNOBS = ["temperature", "alpha", "target_weight", "other_weight"]
grid = {"seed": range(6), "world": ["H", "S"]}


def slope(loss: Callable[..., Tensor], teacher: Tensor, labels: Tensor, **settings: Any) -> float:
    """Root mean square length over the examples of the soft part's slope at equal logits."""
    z = torch.zeros_like(teacher, requires_grad=True)
    (g,) = torch.autograd.grad(loss(z, teacher, labels, temperature=4.0, alpha=1.0, **settings).sum(), z)
    return float(g.square().sum(1).mean().sqrt())


def families(v: Tensor, y: Tensor) -> dict[str, tuple[Callable[..., Tensor], pd.DataFrame]]:
    """Loss and settings of every family of students, one row a student."""
    whole = slope(kd_loss, v, y)
    target = whole / slope(dkd_loss, v, y, other_weight=0.0)
    other = whole / slope(dkd_loss, v, y, target_weight=0.0, other_weight=1.0)

    def of(values: Any, *names: str) -> pd.DataFrame:
        return pd.DataFrame(list(values), columns=names or KNOBS[:2], dtype=float)

    return {
        "KD": (kd_loss, of(product((2, 4), (0.5, 0.9)))),
        "DKD": (dkd_loss, of([(4, 0.9, 1, b) for b in (1, 2, 4, 8)], *KNOBS)),
        "true class only": (dkd_loss, of([(4, 0.9, m * target, 0) for m in (1, 4)], *KNOBS)),
        "wrong classes only": (dkd_loss, of([(4, 0.9, 0, m * other) for m in (1, 4)], *KNOBS)),
        "DIST": (dist_loss, of(product((2, 4), (0.5, 0.9)))),
        "standardised": (logit_standardised_kd_loss, of(product((2, 4), (0.5, 0.9)))),
        "JSD, β = 1/2": (partial(jsd_loss, beta=0.5), of([(4, 0.9)])),
        "reverse KL": (partial(jsd_loss, beta=1.0), of([(4, 0.9)])),
    }


def taught(task: Task, v: Tensor, loss: Callable[..., Tensor], students: pd.DataFrame, **settings: Any) -> Fleet:
    """One student for each row of the loss's settings, all in one fleet."""
    knobs = {name: torch.tensor(students[name].to_numpy(), dtype=torch.float32) for name in KNOBS if name in students}

    def objective(model: Any, x: Tensor, index: Tensor) -> Tensor:
        own = {name: values[model.rows % len(students), None] for name, values in knobs.items()}
        return loss(model.each(x), v[index], task.y_train[index], **own).mean(-1)

    network = partial(MLP, (task.x_train.shape[1], *settings.pop("hidden"), task.num_classes))
    return fleet.fit(task, students, network, objective, **settings)


def experiment(world: str, seed: int) -> pd.DataFrame:
    """One row per loss, setting and length: accuracy on test and validation examples."""
    task = data.world(world, seed, n_train=2 * SIZES[world]).split_validation(0.5, seed)
    teacher = train(task.for_teacher, Recipe.hard(), seeds=[seed], **data.TEACHER[world])
    v, student = teacher.predict(task.x_train)[0], data.STUDENT[world]
    settings = student | {"epochs": [max(1, round(length * student["epochs"])) for length in LENGTHS[world]]}
    frames = [train(task, Recipe.hard(), seeds=[seed], **settings).evaluate(task)]
    for name, (loss, some) in families(v, task.y_train).items():
        made = taught(task, v, loss, some.assign(recipe=name, seed=seed), **settings)
        frames.append(made.evaluate(task))
    frame = pd.concat(frames, ignore_index=True)
    kept = ["recipe", *KNOBS, "epochs", "accuracy", "nll", "val_accuracy", "val_nll"]
    return frame[kept].assign(length=frame["epochs"] / student["epochs"])
