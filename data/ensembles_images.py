"""Small CNNs on real images: alone, in ensembles of up to 16, taught by them and by each other; digits, and 20 classes of CIFAR-100.

    kdlib study data/ensembles_images.py --store _build/studies/ensembles_images --table data/ensembles_images.npz

A point is one data set and seed: its few training images and as many or more to validate, a pool of 16 networks, and students of the
same size. Students of every kind choose the shorter or the longer training by validation; the pool's length and all else was settled
on seed 100, which is not in the table.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor

from kdlib import Recipe, Task, fleet, train
from kdlib.data.images import cifar100, digits
from kdlib.levels.split import PARTS, permuted_targets, split_teacher
from kdlib.levels.universe import matched_smoothing
from kdlib.losses import soften
from kdlib.mechanisms.ensembles import ensembles
from kdlib.models import CNN, FleetModel

FAMILIES = ["vehicles_1", "large_carnivores", "trees", "household_furniture"]
SIZES = {"digits": (160, 240), "CIFAR-100, 20 classes": (320, 680)}  # 16 a class to train, the rest to validate
POOL, LENGTHS, T, GENERATIONS = 16, [20, 40], 4.0, 3
SETTINGS: dict[str, Any] = {"batch_size": 32, "lr": 1e-2}
grid = {"where": list(SIZES), "seed": range(20)}


@lru_cache
def images() -> Task:
    return cifar100(FAMILIES, size=16)


def drawn(where: str, seed: int) -> Task:
    """A few images of the set, drawn by the seed, with a validation set; the test images of CIFAR-100 are always the same."""
    few, held = SIZES[where]
    if where == "digits":
        task = digits(seed, n_train=few + held)
    else:
        rows = torch.randperm(len(images().y_train), generator=torch.Generator().manual_seed(seed))
        task = images().subset(rows[: few + held].sort().values)
    return task.split_validation(held / (few + held), seed)


class Trained:
    """A network for each recipe and seed, at the length that validation data choose: logits on training and test images."""

    def __init__(self, task: Task, recipes: list[Recipe], seeds: list[int], lengths: list[int]) -> None:
        size = (task.x_train.shape[1], 8, 16, 32)
        networks = train(
            task, recipes, seeds=seeds, model=partial(CNN, size, task.num_classes), epochs=lengths, **SETTINGS
        )
        frame = networks.evaluate(task)
        frame = frame.assign(
            **{k: v for k, v in {"recipe": recipes[0].name, "epochs": lengths[0]}.items() if k not in frame}
        )
        self.best = fleet.chosen(frame)
        rows = self.best[["recipe", "seed", "epochs"]].merge(frame.reset_index(), how="left")["index"].tolist()
        self.model = networks.model
        self.train, self.test = (networks.predict(x)[rows] for x in (task.x_train, task.x_test))


def accuracy(z: Tensor, task: Task) -> float:
    """Mean accuracy of logits (..., N, K) on the test images."""
    return float((z.argmax(-1) == task.y_test).double().mean())


def channels(model: FleetModel, x: Tensor) -> np.ndarray:
    """Mean over space of the first network's last hidden channels, (N, C): what its linear layer reads."""
    *convolutions, _ = model.layers()
    with torch.no_grad():
        for k, (w, b) in enumerate(convolutions):
            x = F.conv2d(x, w[0], b[0, :, 0], padding=1)
            x = torch.relu(x if k == len(convolutions) - 1 else F.max_pool2d(x, 2))
    return np.asarray(x.mean((2, 3)))


def halves(kind: str, model: FleetModel, task: Task) -> dict[str, float]:
    """Accuracy of new heads on all channels of the last hidden layer, on each half (mean of the two), and of the halves' mean."""
    h, h_test = (channels(model, x) for x in (task.x_train, task.x_test))
    middle = h.shape[1] // 2
    heads, answers = {}, []
    for name, part in {"all": slice(None), "first": slice(middle), "second": slice(middle, None)}.items():
        ridge = RidgeClassifierCV(np.logspace(-3, 3, 7)).fit(h[:, part], task.y_train)
        answers.append(torch.from_numpy(ridge.decision_function(h_test[:, part])))
        heads[name] = accuracy(answers[-1], task)
    both = accuracy(answers[1] + answers[2], task)
    half = (heads["first"] + heads["second"]) / 2
    return {f"half, {kind}": half, f"both halves, {kind}": both, f"whole, {kind}": heads["all"]}


def experiment(where: str, seed: int) -> pd.DataFrame:
    """One row per recipe: accuracy on test images, mean length chosen, and of a teacher the shares of its four parts."""
    task, first = drawn(where, seed), 100 * seed
    y, found, rows = task.y_train, {}, []
    pool = Trained(task, [Recipe.hard()], list(range(first, first + POOL)), LENGTHS[-1:])
    found["one network"] = accuracy(pool.test, task)
    teachers = {"one network": pool.train[0]}
    for size in (2, 3, 4, 8, 16):
        found[f"ensemble of {size}"] = accuracy(ensembles(pool.test, size), task)
        teachers[f"ensemble of {size}"] = pool.train[:size].mean(0)
    warm = soften(pool.train.mean(0), T)
    recipes = [
        Recipe.hard("labels again"),
        Recipe.distil("of the ensemble", pool.train.mean(0), T),
        Recipe("of the ensemble, permuted", permuted_targets(warm, y, seed), T, 0.9),
        Recipe("of the ensemble, even", matched_smoothing(warm, y), T, 0.9),
        Recipe.distil("of one network", pool.train[0], T),
    ]
    taught = Trained(task, recipes, [first + POOL], LENGTHS)
    lengths = dict(zip(taught.best["recipe"], taught.best["epochs"], strict=True))
    place = {name: k for k, name in enumerate(taught.best["recipe"])}
    for name, k in place.items():
        found[name] = accuracy(taught.test[k], task)
    chain = [(taught.train[place["of one network"]], taught.test[place["of one network"]])]
    for g in range(1, GENERATIONS):  # each is taught by the one before; the first is the student of one network
        name = f"generation {g + 1}"
        born = Trained(task, [Recipe.distil(name, chain[-1][0], T)], [first + POOL + g], LENGTHS)
        chain.append((born.train[0], born.test[0]))
        found[name], lengths[name] = accuracy(born.test, task), born.best["epochs"].item()
    found["ensemble of 3 generations"] = accuracy(torch.stack([z for _, z in chain]).mean(0), task)
    found |= halves("trained", pool.model, task)
    found |= halves("untrained", CNN(pool.model.channels, task.num_classes, [first]), task)
    for name, value in found.items():
        row: dict[str, Any] = {"recipe": name, "accuracy": value, "epochs": float(lengths.get(name, np.nan))}
        if name in teachers:
            energies = split_teacher(soften(teachers[name].double(), T), y).energies
            row |= (energies / energies.sum()).to_dict()
        rows.append(row)
    frame = pd.DataFrame(rows)[["recipe", "accuracy", "epochs", *PARTS]]
    return frame.round(dict.fromkeys(["accuracy", *PARTS], 5))
