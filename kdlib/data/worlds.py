"""Three synthetic worlds with 20 classes in 4 superclasses of 5, each built so that another level of knowledge matters.

H has labels that are noisy on one side of every class, S a sine task that a small student underfits, F clean data and few
examples. In H and F the teacher may train on 8000 examples of its own (`Task.for_teacher`); say so when you use them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdlib import _check, _seeds
from kdlib.data.task import Task

CLASSES, SUPERCLASSES = 20, 4
GROUPS = torch.arange(CLASSES, device="cpu") // (CLASSES // SUPERCLASSES)

# Settings for `kdlib.train` under which students converge, and teachers teach, in each world.
STUDENT: dict[str, dict[str, Any]] = {
    "H": {"hidden": (128,), "epochs": 40},
    "S": {"hidden": (32,), "epochs": 30},
    "F": {"hidden": (128,), "epochs": 400},
}
TEACHER: dict[str, dict[str, Any]] = {
    "H": {"hidden": (128, 128), "epochs": 10, "lr": 2e-3, "weight_decay": 0.1},
    "S": {"hidden": (256, 256), "epochs": 12, "lr": 2e-3, "weight_decay": 0.05},
    "F": {"hidden": (128, 128), "epochs": 10, "lr": 2e-3, "weight_decay": 0.1},
}


def world(name: str, seed: int = 0, n_train: int | None = None, n_test: int | None = None) -> Task:
    """World "H", "S" or "F": a `Task` drawn from `seed`, float32 inputs (N, 30) or (N, 50).

    H: class centres in 30 dimensions; a label is corrupted with probability 0.6 (80 % inside the superclass) if the
        example lies on the positive side of its centre's first coordinate. 1000 noisy examples, test labels clean.
        `extra["clean"] (N,)` says which training labels are right, `extra["posterior"] (N, K)` with which probability a
        label is drawn, given x.
    S: argmax of class scores s + 1/4 sum_j sin(a_j s + b_j) in 50 dimensions. 2000 examples; the teacher has the same.
    F: H without noise, classes closer together, 10 examples per class on average.

    `n_train` and `n_test` replace the sizes (1000, 2000, 200 and 5000, 10000, 5000). Sizes and constants are this book's;
    those of Tang et al. 2020 are not known. Raises ValueError for another name or sizes below 1.
    """
    makers = {"H": (_noisy, 1000, 5000), "S": (_sines, 2000, 10_000), "F": (_few, 200, 5000)}
    if name not in makers:
        raise ValueError(f"name must be one of {', '.join(makers)}, got {name!r}")
    make, train, test = makers[name]
    n_train = train if n_train is None else _check.positive_int(n_train, "n_train")
    n_test = test if n_test is None else _check.positive_int(n_test, "n_test")
    return make(seed, n_train, n_test)


def _normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


def _uniform(generator: torch.Generator, n: int) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float32, device="cpu")


def _integers(generator: torch.Generator, low: int, high: int, n: int) -> Tensor:
    return torch.randint(low, high, (n,), generator=generator, device="cpu")


def _centres(generator: torch.Generator, d: int, spread: float) -> Tensor:
    above = _normal(generator, SUPERCLASSES, d, scale=3 / math.sqrt(d))
    return above[GROUPS] + _normal(generator, CLASSES, d, scale=spread / math.sqrt(d))  # (K, d)


def _around(generator: torch.Generator, centres: Tensor, labels: Tensor) -> Tensor:
    return centres[labels] + _normal(generator, len(labels), centres.shape[1], scale=0.35)


def _noisy(seed: int, n_train: int, n_test: int) -> Task:
    generator = _seeds.stream(seed, "world")
    centres = _centres(generator, 30, 1.6)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        labels = _integers(generator, 0, CLASSES, n)
        return _around(generator, centres, labels), labels

    def corrupt(x: Tensor, labels: Tensor) -> Tensor:
        hit = (x[:, 0] > centres[labels, 0]) & (_uniform(generator, len(x)) < 0.6)
        inside = _uniform(generator, len(x)) < 0.8
        size = CLASSES // SUPERCLASSES
        sibling = GROUPS[labels] * size + (labels % size + _integers(generator, 1, size, len(x))) % size
        # The classes outside are the 15 that follow the superclass, counted around the circle.
        stranger = ((GROUPS[labels] + 1) * size + _integers(generator, 0, CLASSES - size, len(x))) % CLASSES
        return torch.where(hit, torch.where(inside, sibling, stranger), labels)

    def posterior(x: Tensor) -> Tensor:
        truth = torch.softmax(-torch.cdist(x, centres).square() / (2 * 0.35**2), dim=1)  # (N, K), of the true class
        hit = 0.6 * truth * (x[:, :1] > centres[:, 0])
        same = GROUPS.unsqueeze(1) == GROUPS  # (K, K)
        size = CLASSES // SUPERCLASSES
        spread = torch.full((CLASSES, CLASSES), 0.2 / (CLASSES - size), dtype=x.dtype, device=x.device)
        spread = spread.masked_fill(same, 0.8 / (size - 1)).fill_diagonal_(0)
        return truth - hit + hit @ spread

    # The training set is drawn first, whole: another n_test leaves it as it is.
    x_train, clean_train = draw(n_train)
    y_train = corrupt(x_train, clean_train)
    x_teacher, clean_teacher = draw(8000)
    y_teacher = corrupt(x_teacher, clean_teacher)
    x_test, y_test = draw(n_test)
    extra = {
        "clean": y_train == clean_train, "posterior": posterior(x_train), "x_teacher": x_teacher, "y_teacher": y_teacher
    }  # fmt: skip
    return Task(x_train, y_train, x_test, y_test, CLASSES, GROUPS, "world H", extra)


def _few(seed: int, n_train: int, n_test: int) -> Task:
    generator = _seeds.stream(seed, "world")
    centres = _centres(generator, 30, 1.0)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        labels = _integers(generator, 0, CLASSES, n)
        return _around(generator, centres, labels), labels

    (x_train, y_train), (x_teacher, y_teacher), (x_test, y_test) = draw(n_train), draw(8000), draw(n_test)
    extra = {"x_teacher": x_teacher, "y_teacher": y_teacher}
    return Task(x_train, y_train, x_test, y_test, CLASSES, GROUPS, "world F", extra)


def _sines(seed: int, n_train: int, n_test: int) -> Task:
    generator = _seeds.stream(seed, "world")
    d = 50
    above = torch.linalg.qr(_normal(generator, d, SUPERCLASSES)).Q.T  # (C, d), orthonormal rows
    directions = above[GROUPS] + _normal(generator, CLASSES, d, scale=0.35 * 3 / math.sqrt(d))
    directions = directions / directions.norm(dim=1, keepdim=True)
    rate = 1 + 2 * _uniform(generator, 4)
    phase = 2 * math.pi * _uniform(generator, 4)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = _normal(generator, n, d)
        s = x @ directions.T  # (n, K)
        return x, (s + torch.sin(s.unsqueeze(-1) * rate + phase).sum(-1) / 4).argmax(-1)

    (x_train, y_train), (x_test, y_test) = draw(n_train), draw(n_test)
    return Task(x_train, y_train, x_test, y_test, CLASSES, GROUPS, "world S")
