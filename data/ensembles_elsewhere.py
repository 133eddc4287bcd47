"""Ensembles and their students where there are no views: two other kinds of data.

    kdlib study data/ensembles_elsewhere.py --store _build/studies/ensembles_elsewhere --table data/ensembles_elsewhere.npz

Ridge regression on random features and networks on a mixture of Gaussians. Every ridge parameter and every length of training is
chosen by data that were left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from kdlib import Fleet, Recipe, Task, fleet, train
from kdlib.mechanisms.ensembles import ensembles

T = 4.0  # temperature of all students
grid = {"where": ["random features, 30", "mixture, 300", "mixture, 3000"], "seed": range(20)}


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
        self.train, self.test = (networks.predict(x)[rows] for x in (task.x_train, task.x_test))


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


def experiment(where: str, seed: int) -> pd.DataFrame:
    """One row per recipe: accuracy on test examples, mean over its networks."""
    kind, size = where.split(", ")
    frame = on_features(seed, int(size)) if kind == "random features" else on_mixture(seed, int(size))
    return frame.round(4)
