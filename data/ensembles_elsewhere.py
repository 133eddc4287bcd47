"""Ensembles, their students and a chain of self-distillation where nobody has put in any views: three other kinds of data.

    kdlib study data/ensembles_elsewhere.py --store _build/studies/ensembles_elsewhere --table data/ensembles_elsewhere.npz

Ridge regression on random features, networks on a mixture of Gaussians, and networks on few handwritten digits. Every ridge
parameter and every length of training is chosen by data that were kept apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from kdlib import Fleet, Recipe, Task, data, fleet, train
from kdlib.fleet import fit
from kdlib.levels.split import permuted_targets, split_teacher
from kdlib.levels.universe import matched_smoothing
from kdlib.losses import soften
from kdlib.mechanisms.ensembles import ensembles, on_teacher
from kdlib.models import MLP

T, FEW = 4.0, 5  # temperature of all students; of each kind there are five
EPOCHS = {"epochs": [40, 80, 160, 320], "batch_size": 64}
grid = {
    "seed": range(20),
    "where": [
        "random features, 30",
        "random features, 60",
        "random features, 120",
        "mixture, 300",
        "mixture, 3000",
        "digits",
    ],
}


def on_features(seed: int, width: int) -> pd.DataFrame:
    """Ridge regression on `width` random features, its parameter by leaving one out; labels from a random network."""
    rng = np.random.default_rng([seed, width])

    def layer(width: int) -> Callable[[np.ndarray], np.ndarray]:
        w, b = rng.normal(size=(10, width)), rng.normal(size=width)
        return lambda x: np.maximum(x @ w + b, 0)

    x, x_test = rng.normal(size=(1000, 10)), rng.normal(size=(4000, 10))
    hidden, out = layer(20), rng.normal(size=(20, 4))
    shift = (hidden(x) @ out).mean(0)  # classes about equally frequent
    y, y_test = ((hidden(points) @ out - shift).argmax(1) for points in (x, x_test))
    maps, hot = [layer(width) for _ in range(11)], np.eye(4)[y]

    def ridge(maps: list[Any], targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def seen(points: np.ndarray) -> np.ndarray:
            return np.concatenate([features(points) for features in maps], axis=1)

        model = RidgeCV(np.logspace(-3, 4, 8)).fit(seen(x), targets)
        return lambda points: np.asarray(model.predict(seen(points)))

    members = [ridge([features], hot) for features in maps[:10]]

    def mean(points: np.ndarray) -> np.ndarray:
        return np.asarray(sum(member(points) for member in members) / 10)

    def accuracy(answer: Callable[[np.ndarray], np.ndarray]) -> float:
        return float((answer(x_test).argmax(1) == y_test).mean())

    found = {
        "one": float(np.mean([accuracy(member) for member in members])),
        "ensemble of 10": accuracy(mean),
        "ten trained as one": accuracy(ridge(maps[:10], hot)),
        "another one": accuracy(ridge(maps[10:], hot)),
        "of the ensemble": accuracy(ridge(maps[10:], mean(x))),
    }
    return pd.DataFrame({"recipe": list(found), "accuracy": list(found.values())})


def scored(z: Tensor, y: Tensor) -> Tensor:
    """Accuracy of logits (F, N, K), (F,)."""
    return (z.argmax(-1) == y).double().mean(-1)


class Chosen:
    """Networks, each at the length that validation data choose for it: logits on every part of the task."""

    def __init__(self, networks: Fleet, task: Task) -> None:
        frame = networks.evaluate(task)
        frame = frame if "recipe" in frame else frame.assign(recipe="network")
        best = fleet.chosen(frame)[["recipe", "seed", "epochs"]]
        rows = best.merge(frame.reset_index(), on=["recipe", "seed", "epochs"], how="left")["index"].tolist()
        self.recipes = best["recipe"].tolist()
        self.train, self.test = (networks.predict(x)[rows] for x in (task.x_train, task.x_test))
        self.weights = [(w[rows], b[rows]) for w, b in zip(networks.weights, networks.biases, strict=True)]


def on_mixture(seed: int, n: int) -> pd.DataFrame:
    """One Gaussian a class, centres in orthogonal directions at twice the standard deviation; eight networks."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2.0 * torch.linalg.qr(torch.randn(10, 4, generator=generator)).Q.T

    def draw(n: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(4, (n,), generator=generator)
        return centres[y] + torch.randn(n, 10, generator=generator), y

    task = Task(*draw(2 * n), *draw(10_000), num_classes=4).split_validation(0.5, seed)
    epochs = [10, 20, 40, 80] if n < 1000 else [4, 8, 16, 32]
    nets = Chosen(train(task, Recipe.hard(), seeds=8, hidden=(64,), epochs=epochs), task)
    student = train(task, Recipe.distil("KD", nets.train.mean(0), T), seeds=[8], hidden=(64,), epochs=epochs)
    single = scored(nets.test, task.y_test)
    found = {
        "one": single.mean(),
        "best one": single.max(),
        "ensemble of 8": scored(ensembles(nets.test, 8), task.y_test),
        "of the ensemble": scored(Chosen(student, task).test, task.y_test),
        "Bayes": scored(-torch.cdist(task.x_test, centres), task.y_test),
    }
    return pd.DataFrame({"recipe": list(found), "accuracy": [float(a) for a in found.values()]})


def on_digits(seed: int) -> pd.DataFrame:
    """Sixteen networks on 200 digits, their ensembles, students with every control, and a chain of self-distillation."""
    task = data.digits(seed, n_train=400).split_validation(0.5, seed)
    y, y_test = task.y_train, task.y_test
    net = partial(MLP, (64, 64, 10))
    nets = Chosen(train(task, Recipe.hard(), seeds=16, model=net, **EPOCHS), task)
    found: dict[str, Any] = {"one": scored(nets.test, y_test)}
    for size in (2, 4, 5, 8, 16):
        found[f"ensemble of {size}"] = scored(ensembles(nets.test, size), y_test)

    teacher = nets.train.mean(0)
    warm = soften(teacher, T)
    recipes = [
        Recipe.hard("labels again"),
        Recipe.distil("of the ensemble", teacher, T),
        Recipe("of the ensemble, permuted", permuted_targets(warm, y, seed), T, 0.9),
        Recipe("of the ensemble, even", matched_smoothing(warm, y), T, 0.9),
    ]
    students = Chosen(train(task, recipes, seeds=range(100, 100 + FEW), model=net, **EPOCHS), task)
    for name in dict.fromkeys(students.recipes):
        found[name] = scored(students.test[[r == name for r in students.recipes]], y_test)

    before, chain = nets.train[:FEW], [nets.test[:FEW]]
    for generation in (1, 2, 3):
        seeds = range(100 * generation, 100 * generation + FEW)  # the first start as the students above do
        next_ones = Chosen(fit(task, seeds, net, on_teacher(task, before, T, 0.9), **EPOCHS), task)
        found[f"of one network, generation {generation}"] = scored(next_ones.test, y_test)
        before = next_ones.train
        chain.append(next_ones.test)
    found["teacher and student"] = scored((chain[0] + chain[1]) / 2, y_test)
    found["ensemble of the chain"] = scored(sum(chain) / 4, y_test)  # type: ignore[arg-type]
    found |= halves(task, nets, seed)
    frame = pd.DataFrame({"recipe": list(found), "accuracy": [float(a.mean()) for a in found.values()]})
    for name, logits in {"one": nets.train[0], "ensemble of 16": teacher}.items():
        energies = split_teacher(soften(logits.double(), T), y).energies
        for part, energy in energies.items():
            frame.loc[frame["recipe"] == name, f"energy_{part}"] = float(energy)
    return frame


def halves(task: Task, nets: Chosen, seed: int) -> dict[str, Tensor]:
    """Linear heads on one half of a network's hidden units, on the other, on all; trained units, and those of a fresh network."""
    w, b = nets.weights[0]
    fresh = MLP((64, 64, 10), [10_000 + seed])
    found = {}
    for kind, (weight, bias) in {"trained": (w[0], b[0]), "fresh": (fresh.weights[0][0], fresh.biases[0][0])}.items():
        tests = {}
        for name, units in {"first": slice(0, 32), "second": slice(32, 64), "all": slice(0, 64)}.items():

            def seen(x: Tensor, weight: Tensor = weight, bias: Tensor = bias, units: slice = units) -> Tensor:
                return torch.relu(x.flatten(1) @ weight + bias)[:, units].detach()

            own = {"x_validation": seen(task.extra["x_validation"]), "y_validation": task.extra["y_validation"]}
            heads = Task(seen(task.x_train), task.y_train, seen(task.x_test), task.y_test, 10, extra=own)
            tests[name] = Chosen(train(heads, Recipe.hard(), seeds=[seed], hidden=(), **EPOCHS), heads).test
        both = (tests["first"] + tests["second"]) / 2
        first, second = (scored(tests[half], task.y_test) for half in ("first", "second"))
        found[f"half the {kind} units"] = (first + second) / 2
        found[f"all {kind} units"] = scored(tests["all"], task.y_test)
        found[f"both halves of the {kind} units"] = scored(both, task.y_test)
    return found


def experiment(where: str, seed: int) -> pd.DataFrame:
    """One row per recipe: accuracy on test examples, mean over its networks; on digits the energies of two teachers' parts."""
    if where == "digits":
        return on_digits(seed).round(4)
    kind, size = where.split(", ")
    frame = on_features(seed, int(size)) if kind == "random features" else on_mixture(seed, int(size))
    return frame.round(4)
