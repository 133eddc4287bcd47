"""Patients of the chapters on failures: what teachers and settings do at five or more lengths; worlds H, S, F and digits.

    kdlib study data/failures.py --store _build/studies/failures --table data/failures.npz

One point is a task drawn from one seed, its teachers, and one fleet: every recipe and hard labels at every length, each with
its own schedule. Training and validation examples are drawn alike, noise included, as many of the one as of the other.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdlib import Fleet, Recipe, Task, data, train
from kdlib.levels import failures
from kdlib.levels.domain import class_mean_targets
from kdlib.levels.instance import confidence_targets
from kdlib.levels.split import PARTS, lattice
from kdlib.levels.universe import matched_smoothing
from kdlib.losses import soften

LENGTHS = {  # times the usual number of epochs; S is slow to learn, F fast
    "H": (0.25, 0.5, 1, 2, 4),
    "S": (0.25, 0.5, 1, 2, 4, 8, 16),
    "F": (0.1, 0.25, 0.5, 1, 2, 4),
    "digits": (0.25, 0.5, 1, 2, 4),
}
SIZES = {"H": 1000, "S": 2000, "F": 200}
KINDS = {"plain": 0.0, "smoothed 0.1": 0.1, "smoothed 0.3": 0.3}
OWN = {f"{n} epochs": {"epochs": n, "hidden": (256, 256)} for n in (2, 10, 40, 100)}
OWN |= {"narrow": {"epochs": 40, "hidden": (32, 32)}}  # teachers on the student's own examples
READER = {"hidden": (128,), "batch_size": 64, "lr": 2e-3, "epochs": 20, "weight_decay": 0.1}  # the teacher of digits
TOO_LONG = READER | {"epochs": 60, "weight_decay": 0.0}
STUDENT: dict[str, dict[str, Any]] = data.STUDENT | {"digits": {"hidden": (64,), "batch_size": 100, "epochs": 200}}
SEEDS = {"H": 40, "S": 20, "F": 40, "digits": 60}
grid = pd.DataFrame([(where, seed) for where, n in SEEDS.items() for seed in range(n)], columns=["where", "seed"])

RUN = ["where", "recipe", "temperature", "alpha", "seed", "epochs", "length"]
READ = ["w low", "w", "w high", "w end", "geometry"]
TOLD = ["right", "sure", "spread", "contrast", "clean", "clean by class"]
DECIMALS = dict.fromkeys(["accuracy", "nll", "val_accuracy", *READ, *(f"teacher {name}" for name in TOLD)], 4)
DECIMALS |= dict.fromkeys(PARTS, 6) | {"logit_norm": 3, "temperature": 3}


def drawn(where: str, seed: int) -> tuple[Task, Task]:
    """The student's task, with a validation part, and the teacher's."""
    if where == "digits":
        whole = data.digits(seed, n_train=1200)
        return whole.subset(torch.arange(400)).split_validation(0.5, seed), whole
    task = data.world(where, seed, n_train=2 * SIZES[where], n_test=5000).split_validation(0.5, seed)
    return task, task.for_teacher


def teachers(where: str, task: Task, whole: Task, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Logits on the training set (N, K) and test accuracy of every teacher, by name."""
    kinds = [failures.smoothed_teacher(whole, epsilon) for epsilon in KINDS.values()]
    settings = READER if where == "digits" else data.TEACHER[where]
    fleets: dict[tuple[str, ...], Fleet] = {(*KINDS,): train(whole, kinds, seeds=[seed], **settings)}
    if where == "digits":
        fleets[("over-trained",)] = train(whole, Recipe.hard(), seeds=[seed], **TOO_LONG)
        fleets[("own images",)] = train(task, Recipe.hard(), seeds=[seed], **READER)
    if where == "H":
        for name, size in OWN.items():
            fleets[(name,)] = train(task, Recipe.hard(), seeds=[seed], lr=2e-3, **size)
    tables: dict[str, Tensor] = {}
    right: dict[str, float] = {}
    for names, fleet in fleets.items():
        tables |= dict(zip(names, fleet.predict(task.x_train), strict=True))
        right |= dict(zip(names, fleet.evaluate(task)["accuracy"], strict=True))
    return tables, right


def distil(name: str, v: Tensor, T: float = 4, alpha: float = 0.9, t_squared: bool = True) -> Recipe:
    return Recipe(name, soften(v, T), T, alpha, t_squared)


def lessons(where: str, tables: dict[str, Tensor], y: Tensor) -> list[Recipe]:
    """What students are taught: first by each teacher, then by the plain one with other settings."""
    v = tables["plain"]
    p = soften(v, 4)
    sure = failures.equally_sure(tables["smoothed 0.3"], y, float(p.gather(1, y[:, None]).mean()))
    temperatures = {"F": (4,)}.get(where, (1, 4))
    given = [distil(f"{name}, T = {T}", table, T) for name, table in tables.items() for T in temperatures]
    given.append(distil("smoothed 0.3, as sure", tables["smoothed 0.3"], sure))
    halves = (0.5, 0.9, 1.0) if where == "H" else (0.5,) if where == "digits" else ()
    for a in halves:
        given.append(distil(f"T = 16, α = {a:g}, with T²", v, 16, a))
        given.append(distil(f"T = 16, α = {a:g}, no T²", v, 16, a, False))
    if where == "F":
        given.append(distil("plain, T = 1", v, 1))
    if where in ("H", "S"):
        given.append(Recipe("softmax of p", failures.softmax_of_probabilities(soften(v), 4), 4))
    if where == "H":
        given.append(Recipe("uniform", torch.full_like(v, 1 / v.shape[1]), 4))
    if where == "S":
        given.append(Recipe("confidence only", confidence_targets(p, y), 4))
        given.append(Recipe("universe only", matched_smoothing(p, y), 4))
        given.append(Recipe("confidence only, α = 0.3", confidence_targets(p, y), 4, 0.3))
        given.append(Recipe("all but shape", lattice(p, y)["domain + confidence"], 4))
    return given


def told(recipe: Recipe, tables: dict[str, Tensor], right: dict[str, float], task: Task) -> dict[str, float]:
    """What a recipe's teacher shows at its temperature, where the recipe is named after one (`failures.symptoms`).

    Beside the correlation of its confidence with clean labels stands the same for the mean confidence of the class.
    """
    name = recipe.name.split(", ")[0]
    if name not in tables:
        return {}
    v, y, T, clean = tables[name], task.y_train, recipe.temperature, task.extra.get("clean")
    shown = failures.symptoms(v, y, T, task.groups, clean).rename({"confidence": "sure"})
    if clean is not None:
        mean = class_mean_targets(soften(v, T), y)
        shown["clean by class"] = failures.symptoms(T * mean.log(), y, T, clean=clean)["clean"]
    shown["right"] = right[name]
    return {f"teacher {key}": shown.get(key, float("nan")) for key in TOLD}


def experiment(where: str, seed: int) -> pd.DataFrame:
    """One row per recipe and length: scores, chart, and what the recipe's teacher shows."""
    task, whole = drawn(where, seed)
    tables, right = teachers(where, task, whole, seed)
    given = lessons(where, tables, task.y_train)
    frame = failures.examine(task, given, seed, LENGTHS[where], **STUDENT[where]).assign(where=where)
    known = pd.DataFrame([told(recipe, tables, right, task) for recipe in given], index=[r.name for r in given])
    for column in (f"teacher {name}" for name in TOLD):
        frame[column] = frame["recipe"].map(known[column])
    scores = ["accuracy", "nll", "logit_norm", "val_accuracy"]
    columns = [*RUN, *scores, *PARTS, *READ, *(f"teacher {name}" for name in TOLD)]
    return frame.sort_values(["recipe", "epochs"], ignore_index=True).reindex(columns=columns).round(DECIMALS)
