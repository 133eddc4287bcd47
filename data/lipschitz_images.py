"""Does matching it help on images? Small CNNs on digits and on 10 classes of CIFAR-100, with one of several terms beside their lesson.

    kdlib study data/lipschitz_images.py --store _build/studies/lipschitz_images --table data/lipschitz_images.npz

A point is one data set and seed: a teacher, its student's own few images, as many others to validate, and students that start
alike. Every way of teaching has four values to choose from, and two seeds of their own, `TUNING`, choose for each data set by the
mean accuracy on validation images; the other twenty seeds train with what was chosen, and with `CARRIER`, what terms were added to. A student stands at the epoch at which
it was best on validation images. A term is divided by the teacher's own value of what it compares, as in `lipschitz.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import Recipe, Task, _seeds, train
from kdlib.data.images import cifar100, digits
from kdlib.fleet import early_stopped, fitting
from kdlib.losses import cross_entropy, kd_loss
from kdlib.mechanisms import lipschitz
from kdlib.models import CNN, FleetModel

FAMILIES = ["vehicles_1", "large_carnivores"]
CIFAR = "CIFAR-100, 10 classes"
PLACES: dict[str, dict[str, Any]] = {  # images of the student, of its teacher; passes of both
    "digits": {"n": 150, "taught": 1000, "epochs": 40, "master": 15, "step": 1.0},
    CIFAR: {"n": 600, "taught": 2500, "epochs": 14, "master": 10, "step": 0.5},
}
OWN, THEIRS = (8, 16, 16), (16, 32, 32)  # channels of a student and of a teacher
T, ALPHA, BATCH, ROUNDS = 4.0, 0.9, 50, 4
KD, TERM = (0.5, 0.75, 0.9, 1.0), (0.01, 0.1, 1.0, 10.0)
TUNING, CARRIER = (20, 21), {"KD": ALPHA, "features": 1.0}
CHOSEN: dict[str, dict[str, float]] = {
    "digits": {
        "KD": 0.9,
        "KD + estimate": 0.1,
        "KD + energies": 0.1,
        "KD + spectral norms": 0.01,
        "KD + Jacobians": 10.0,
        "features": 1.0,
        "features + estimate": 0.01,
    },
    CIFAR: {
        "KD": 0.5,
        "KD + estimate": 0.01,
        "KD + energies": 0.01,
        "KD + spectral norms": 10.0,
        "KD + Jacobians": 10.0,
        "features": 1.0,
        "features + estimate": 1.0,
    },
}
grid = {"where": [CIFAR, "digits"], "seed": range(22)}


class Student(CNN):
    """A CNN with a connector of 1 x 1 filters behind each convolution, to the teacher's channels; `apply` is the CNN's own."""

    def __init__(
        self, channels: Sequence[int], widths: Sequence[int], k: int, seeds: Sequence[int], flat: Tensor | None = None
    ) -> None:
        self.connectors = list(zip(widths, channels[1:], strict=True))
        super().__init__(channels, k, seeds, flat=flat)
        self.shapes = [*self.shapes, *self.connectors]

    def _initial(self) -> Tensor:
        drawn = []
        for seed in self.seeds:
            g = _seeds.stream(seed, "connectors")
            parts = [torch.cat([torch.randn(o * i, generator=g) / i**0.5, torch.zeros(o)]) for o, i in self.connectors]
            drawn.append(torch.cat(parts))
        return torch.cat([super()._initial(), torch.stack(drawn)], 1)

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        return looked(self, x, flat)[-1]

    def connected(self, maps: list[Tensor]) -> list[Tensor]:
        layers = self.layers()[len(self.channels) :]
        return [
            torch.einsum("foi,fbihw->fbohw", w, m) + b[:, None, :, :, None]
            for (w, b), m in zip(layers, maps, strict=False)
        ]

    def plain(self) -> CNN:
        """The same networks without connectors."""
        bare = CNN(self.channels, self.classes, self.seeds)
        bare.flat.data.copy_(self.flat.data[:, : bare.flat.shape[1]])
        return bare


def looked(model: CNN, x: Tensor, flat: Tensor | None = None) -> list[Tensor]:
    """What each convolution says before its ReLU, (F, B, C, h, w), the logits (F, B, K) last."""
    *filters, (w_out, b_out) = model.layers(flat)[: len(model.channels)]
    seen = []
    for f, own in enumerate(x):
        h, maps = own.contiguous(memory_format=torch.channels_last), []
        for k, (w, b) in enumerate(filters):
            h = F.conv2d(h, w[f].contiguous(memory_format=torch.channels_last), b[f, :, 0], padding=1)
            maps.append(h)
            h = torch.relu(h if k == len(filters) - 1 else F.max_pool2d(h, 2))
        seen.append([*maps, F.linear(h.mean((2, 3)), w_out[f], b_out[f, :, 0])])
    return [torch.stack(own) for own in zip(*seen, strict=True)]


def pairs(maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Consecutive maps of single images (B, C, n), the earlier one pooled to the size of the later, as in the released code."""
    return [(F.adaptive_avg_pool2d(a, (b.shape[-2], b.shape[-1])).flatten(2), b.flatten(2)) for a, b in pairwise(maps)]


def estimates(maps: Sequence[Tensor]) -> Tensor:
    """Of every image and pair of maps (N, C, h, w), (N, pairs)."""
    return torch.stack([lipschitz.transmitting_estimate(a, b) for a, b in pairs(maps)], 1)


def norms(filters: Sequence[tuple[Tensor, Tensor]], size: int) -> list[Tensor]:
    """Spectral norms of the layers, each (F,), convolutions as operators on their image, by a few rounds."""
    *convolutions, (last, _) = filters
    found = [lipschitz.spectral_norm(w, ROUNDS, image=(size >> k, size >> k)) for k, (w, _) in enumerate(convolutions)]
    return [*found, lipschitz.spectral_norm(last)]


class Lesson:
    """What a teacher knows of the training images, and the terms that compare a student with it."""

    def __init__(self, task: Task, teacher: CNN, seed: int) -> None:
        self.y, self.size = task.y_train, task.x_train.shape[-1]
        with torch.no_grad():
            *self.maps, self.v = (m[0] for m in looked(teacher, task.x_train[None]))
            self.energy = [m.square().mean() for m in self.maps]
            self.estimate = estimates(self.maps)
            self.norms = norms(teacher.layers(), self.size)
        self.slopes = slopes(teacher, task.x_train)[0]  # (N, K, C, h, w)
        self.steep = self.slopes.square().sum((1, 2, 3, 4)).mean()
        self.generator = _seeds.stream(seed, "directions")

    def lesson(self, z: Tensor, i: Tensor, alpha: Tensor | float) -> Tensor:
        hard, soft = cross_entropy(z, self.y[i]).mean(1), kd_loss(z, self.v[i], None, T, 1.0).mean(1)
        return (1 - alpha) * hard + alpha * soft

    def estimates(self, maps: Sequence[Tensor], i: Tensor) -> Tensor:
        """The gaps of the estimates, the later pair twice as heavy, each over the teacher's mean square."""
        own = estimates([m.flatten(0, 1) for m in maps]).unflatten(0, i.shape)  # (F, B, pairs)
        gaps = (own - self.estimate[i]).square().mean(1) / self.estimate.square().mean(0)
        return gaps @ gaps.new_tensor([0.25, 0.5])

    def energies(self, maps: Sequence[Tensor]) -> Tensor:
        gaps = [(m.square().flatten(1).mean(1) / e - 1).square() for m, e in zip(maps, self.energy, strict=True)]
        return torch.stack(gaps).mean(0)

    def spectral(self, model: Student) -> Tensor:
        own = norms(model.layers()[: len(model.channels)], self.size)
        return torch.stack([(n / t - 1).square() for n, t in zip(own, self.norms, strict=True)]).mean(0)

    def jacobians(self, x: Tensor, z: Tensor, i: Tensor) -> Tensor:
        """E || (J - J_teacher)' v ||^2 over normal v is the squared Frobenius distance; one v an image."""
        v = torch.randn(z.shape[1:], generator=self.generator)  # (B, K), the same for all columns
        (own,) = torch.autograd.grad((z * v).sum(), x, create_graph=True)
        theirs = torch.einsum("fbk...,bk->fb...", self.slopes[i], v)
        return (own - theirs).flatten(2).square().sum(-1).mean(-1) / self.steep

    def overhaul(self, maps: Sequence[Tensor], i: Tensor) -> Tensor:
        """Each map's feature loss over its energy, the later twice as heavy as the one before."""
        total = self.v.new_zeros(len(i))
        for m, t, e, weight in zip(maps, self.maps, self.energy, (0.25, 0.5, 1.0), strict=True):
            loss = [lipschitz.overhaul_loss(own.flatten(2), t[rows].flatten(2)) for own, rows in zip(m, i, strict=True)]
            total = total + weight * torch.stack(loss).mean(1) / e
        return total


@torch.enable_grad()
def slopes(model: CNN, x: Tensor) -> Tensor:
    """Jacobians at images x (N, C, h, w), (F, N, K, C, h, w)."""
    near = x.expand(len(model.seeds), *x.shape).clone().requires_grad_()
    z = looked(model, near)[-1]
    found = [torch.autograd.grad(z[..., k].sum(), near, retain_graph=True)[0] for k in range(z.shape[-1])]
    return torch.stack(found, 2)


Way = Callable[[Student, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def ways(lesson: Lesson) -> dict[str, Way]:
    """Of each way of teaching (loss without the term, term), each (F,); the weights (F,) are those of the columns."""

    def kd(m: Student, x: Tensor, i: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return lesson.lesson(m.each(x), i, w), torch.zeros_like(w)

    def beside(term: Callable[..., Tensor]) -> Way:
        def way(m: Student, x: Tensor, i: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach().requires_grad_()
            *maps, z = looked(m, x)
            return lesson.lesson(z, i, ALPHA), w * term(m, x, i, maps, z)

        return way

    def overhaul(m: Student, x: Tensor, i: Tensor, w: Tensor, guided: bool = False) -> tuple[Tensor, Tensor]:
        *maps, z = looked(m, x)
        own, hard = m.connected(maps), cross_entropy(z, lesson.y[i]).mean(1)
        if guided:
            return hard + lesson.overhaul(own, i), w * lesson.estimates(own, i)
        return hard, w * lesson.overhaul(own, i)

    return {
        "KD": kd,
        "KD + estimate": beside(lambda m, x, i, maps, z: lesson.estimates(maps, i)),
        "KD + energies": beside(lambda m, x, i, maps, z: lesson.energies(maps)),
        "KD + spectral norms": beside(lambda m, x, i, maps, z: lesson.spectral(m)),
        "KD + Jacobians": beside(lambda m, x, i, maps, z: lesson.jacobians(x, z, i)),
        "features": overhaul,
        "features + estimate": lambda m, x, i, w: overhaul(m, x, i, w, guided=True),
    }


def drawn(where: str, seed: int) -> tuple[Task, Task]:
    """The student's task, with validation images, and its teacher's."""
    size = PLACES[where]["n"]
    task = digits(seed) if where == "digits" else cifar100(FAMILIES, size=16)
    order = torch.randperm(len(task.y_train), generator=torch.Generator().manual_seed(seed))
    taught = task.subset(order[: PLACES[where]["taught"]])
    return task.subset(order[: 2 * size]).split_validation(0.5, seed), taught


def experiment(where: str, seed: int) -> pd.DataFrame:
    """One row per way and weight: scores at the epoch that validation chooses."""
    place, rows = PLACES[where], []
    task, taught = drawn(where, seed)
    c, k = task.x_train.shape[1], task.num_classes
    school: dict[str, Any] = {"epochs": place["master"], "batch_size": BATCH, "lr": 3e-3, "weight_decay": 0.01}
    master = train(taught, Recipe.hard(), seeds=[seed], model=partial(CNN, (c, *THEIRS), k), threads=1, **school)
    teacher, right = master.model, master.evaluate(task)["accuracy"].item()
    assert isinstance(teacher, CNN)
    lesson = Lesson(task, teacher, seed)
    for name, way in ways(lesson).items():
        every: tuple[float, ...] = KD if name == "KD" else TERM
        if seed not in TUNING:
            chosen = CHOSEN[where][name]
            every = tuple(sorted({chosen, CARRIER.get(name, chosen)}))
        weights = torch.tensor(every)
        model, epochs = best(task, way, weights, seed, place["epochs"])
        scores = measured(task, lesson, model, way, weights, place["step"])
        rows.append(pd.DataFrame({"way": name, "weight": weights.double(), "epochs": epochs, **scores}))
    frame = pd.concat(rows, ignore_index=True).assign(teacher=right)
    return frame.round(
        {column: 3 if column in ("slope", "product", "energy") else 4 for column in frame if column != "way"}
    )


def best(task: Task, way: Way, weights: Tensor, seed: int, epochs: int) -> tuple[Student, list[int]]:
    """Students, one a weight, each as it was at its best epoch on validation images, with those epochs."""
    channels, k = (task.x_train.shape[1], *OWN), task.num_classes

    def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        assert isinstance(model, Student)
        return sum(way(model, x, index, weights[model.rows]))  # type: ignore[return-value]

    run = fitting(
        task, pd.DataFrame({"seed": [seed] * len(weights)}), lambda seeds: Student(channels, THEIRS, k, seeds), objective,
        epochs=epochs, batch_size=BATCH, lr=1e-2, threads=1,
    )  # fmt: skip
    x, y = task.extra["x_validation"], task.extra["y_validation"]
    fleet, chosen = early_stopped(
        run, lambda fleet: (fleet.predict(x).argmax(-1) != y).float().mean(1), every=max(1, epochs // 12)
    )
    assert isinstance(fleet.model, Student)
    return fleet.model, chosen


def measured(task: Task, lesson: Lesson, model: Student, way: Way, weights: Tensor, step: float) -> dict[str, Tensor]:
    """Accuracies (0..1) clean, on training and validation images, under noise and after a step uphill; and the yardsticks."""
    x, y, some = task.x_test[:500], task.y_test[:500], task.x_test[:40]
    noise = torch.randn(x.shape, generator=_seeds.stream(0, "noise"))

    def right(x: Tensor, y: Tensor) -> Tensor:
        return (model.each(x if x.dim() == 5 else x.expand(len(weights), *x.shape)).argmax(-1) == y).float().mean(1)

    near = x.expand(len(weights), *x.shape).clone().requires_grad_()
    (uphill,) = torch.autograd.grad(cross_entropy(model.each(near), y.expand(len(weights), -1)).sum(), near)
    moved = x + step * uphill / uphill.flatten(2).norm(dim=-1).clamp_min(1e-12)[..., None, None, None]
    first = task.x_train[:150]
    index = torch.arange(len(first)).expand(len(weights), -1)
    loss, term = way(model, first.expand(len(weights), *first.shape), index, weights)
    with torch.no_grad():
        *maps, _ = looked(model, some.expand(len(weights), *some.shape))
        own = estimates([m.flatten(0, 1) for m in maps]).unflatten(0, maps[0].shape[:2]).mean(1)  # (F, pairs)
        energy = torch.stack([m.square().flatten(1).mean(1) for m in maps]).log().mean(0).exp()
        return {
            "accuracy": right(task.x_test, task.y_test),
            "train": right(task.x_train, task.y_train),
            "val_accuracy": right(task.extra["x_validation"], task.extra["y_validation"]),
            "clean": right(x, y),
            "noisy": right(x + 0.5 * noise, y),
            "uphill": right(moved, y),
            "slope": torch.linalg.matrix_norm(slopes(model, some).flatten(3), ord=2).mean(1),
            "teacher_slope": torch.linalg.matrix_norm(lesson.slopes[:40].flatten(2), ord=2).mean().expand(len(weights)),
            "estimate": (own / lesson.estimate.mean(0)).log().mean(1).exp(),
            "product": lipschitz.product_bound(model.plain(), (x.shape[-1],) * 2, 30),
            "energy": energy,
            "share": term.detach() / (loss + term).detach(),
        }
