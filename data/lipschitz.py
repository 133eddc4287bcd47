"""Does matching it help? Students taught by labels, by a teacher's answers, and with a Lipschitz or another term beside them.

    kdlib study data/lipschitz.py --store _build/studies/lipschitz --table data/lipschitz.npz

One point is a world drawn from one seed, its teacher, and students of two hidden layers that start alike. Every way of teaching has
four values to choose from, and each student stands at the epoch at which it was best on validation data. A term is divided by
the teacher's own value of what it compares, so that a weight means the same in each world.

The part `rivals`, made later on H, adds other baselines and the estimate held at a share of the loss at each step, and measures two
yardsticks more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from kdlib import Recipe, Task, _seeds, data, train
from kdlib.fleet import early_stopped, fitting
from kdlib.losses import cross_entropy, kd_loss
from kdlib.mechanisms import lipschitz
from kdlib.models import MLP, FleetModel

SIZES = {"H": 1000, "S": 2000, "F": 200}
EPOCHS = {"H": 30, "S": 20, "F": 150}
HIDDEN = (32, 32)  # of a student
T, ALPHA, CHECKS = 4.0, 0.9, 15
WEIGHTS = {"labels": (0.0, 0.03, 0.1, 0.3), "KD": (0.5, 0.75, 0.9, 1.0)}  # smoothing, alpha
TERM = (0.01, 0.1, 1.0, 10.0)
BESIDE = ("KD + estimate", "KD + energies", "KD + spectral norms", "KD + Jacobians")
TERMS = ("labels", "KD", *BESIDE, "features", "features + estimate")
RIVALS: dict[str, tuple[float, ...]] = {
    "KD + FSP": TERM,
    "KD + input gradients": TERM,
    "KD, spectral normalisation": (0.5, 0.7, 1.0, 1.4),  # of the teacher's norms
    "KD + estimate, by share": (0.001, 0.01, 0.05, 0.2, 0.5),
}
grid = pd.DataFrame(
    [
        (part, world, seed)
        for part, worlds in (("terms", "FHS"), ("rivals", "H"))
        for world in worlds
        for seed in range(20)
    ],
    columns=["part", "world", "seed"],
)


class Connected(MLP):
    """A student with a linear connector behind each hidden layer, to the teacher's width; `apply` is the student's own."""

    def __init__(
        self, sizes: Sequence[int], widths: Sequence[int], seeds: Sequence[int], flat: Tensor | None = None
    ) -> None:
        self.connectors = list(zip(widths, sizes[1:-1], strict=True))
        super().__init__(sizes, seeds, flat=flat)
        self.shapes = [*self.shapes, *self.connectors]

    def _initial(self) -> Tensor:
        drawn = []
        for seed in self.seeds:
            g = _seeds.stream(seed, "connectors")
            parts = [torch.cat([torch.randn(o * i, generator=g) / i**0.5, torch.zeros(o)]) for o, i in self.connectors]
            drawn.append(torch.cat(parts))
        return torch.cat([super()._initial(), torch.stack(drawn)], 1)

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        return lipschitz.features(self, x, flat)[-1].mT

    def connected(self, maps: list[Tensor]) -> list[Tensor]:
        layers = self.layers()[len(self.sizes) - 1 :]
        return [torch.baddbmm(b, w, h) for (w, b), h in zip(layers, maps, strict=False)]


class Normalised(Connected):
    """A student whose layers have spectral norms `norms`, each (F,): their weights are divided by their own (spectral normalisation)."""

    norms: Sequence[Tensor] = ()

    def layers(self, flat: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        own = super().layers(flat)
        wanted = [n[self.rows].view(-1, 1, 1) for n in self.norms]
        scaled = [
            (w * n / lipschitz.spectral_norm(w).view(-1, 1, 1), b) for (w, b), n in zip(own, wanted, strict=False)
        ]
        return [*scaled, *own[len(scaled) :]]


class Lesson:
    """What a teacher knows of the training examples, and the terms that compare a student with it."""

    def __init__(self, task: Task, teacher: MLP, seed: int) -> None:
        self.y, x = task.y_train, task.x_train.unsqueeze(0)
        with torch.no_grad():
            *self.maps, z = [m[0] for m in lipschitz.features(teacher, x)]  # (units, N)
            self.v, self.energy = z.T, [m.square().mean() for m in self.maps]
            self.estimate = lipschitz.transmitting_estimate(self.maps[0][None], self.maps[1][None])
            self.norms = [lipschitz.spectral_norm(w) for w, _ in teacher.layers()]
            self.slopes = slopes(teacher, task.x_train)[0]  # (N, K, d)
        self.steep = self.slopes.square().sum((1, 2)).mean()
        wrong = self.v.softmax(1) - torch.nn.functional.one_hot(self.y, self.v.shape[1])
        self.uphill = torch.einsum("nkd,nk->nd", self.slopes, wrong).square().sum(1).mean()  # of the labels' loss
        self.generator = _seeds.stream(seed, "directions")

    def own(self, index: Tensor) -> list[Tensor]:
        return [m[:, index].transpose(0, 1) for m in self.maps]  # (F, units, B)

    def estimates(self, maps: list[Tensor], index: Tensor) -> Tensor:
        return lipschitz.guided_loss(maps[:2], self.own(index)) / self.estimate.square()

    def energies(self, maps: list[Tensor]) -> Tensor:
        pairs = zip(maps, self.energy, strict=False)
        return sum(((m.square().mean((1, 2)) / e - 1).square() / 2 for m, e in pairs), torch.zeros(len(maps[0])))

    def flows(self, maps: list[Tensor], index: Tensor) -> Tensor:
        """The whole cross moment (FSP matrix) of two connected maps, of which the estimate is the largest singular value."""
        theirs = self.own(index)
        own, wanted = (a @ b.mT / index.shape[1] for a, b in (maps[:2], theirs[:2]))
        return (own - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2))

    def gradients(self, x: Tensor, z: Tensor, index: Tensor) -> Tensor:
        """Squared length of the input's gradient of the labels' loss: a penalty that needs no teacher."""
        (own,) = torch.autograd.grad(cross_entropy(z, self.y[index]).sum(), x, create_graph=True)
        return own.square().sum(-1).mean(-1) / self.uphill

    def spectral(self, model: Connected) -> Tensor:
        pairs = zip(model.layers(), self.norms, strict=False)
        return sum(
            ((lipschitz.spectral_norm(w) / n - 1).square() / 3 for (w, _), n in pairs), torch.zeros(len(model.seeds))
        )

    def jacobians(self, model: Connected, x: Tensor, index: Tensor) -> Tensor:
        """E || (J - J_teacher)' v ||^2 over normal v is the squared Frobenius distance; one v an example."""
        x = x.detach().requires_grad_()
        z = lipschitz.features(model, x)[-1]
        v = torch.randn(z.shape[1:], generator=self.generator)  # (K, B), the same for all columns
        (own,) = torch.autograd.grad((z * v).sum(), x, create_graph=True)  # (F, B, d)
        theirs = torch.einsum("fbkd,kb->fbd", self.slopes[index], v)
        return (own.flatten(2) - theirs).square().sum(-1).mean(-1) / self.steep

    def overhaul(self, maps: list[Tensor], index: Tensor) -> Tensor:
        pairs = zip(maps, self.own(index), self.energy, (0.5, 1.0), strict=True)
        return sum((w * lipschitz.overhaul_loss(m, t) / e for m, t, e, w in pairs), torch.zeros(len(maps[0])))


def slopes(model: MLP, x: Tensor) -> Tensor:
    """Jacobians of ReLU networks at x (N, d), (F, N, K, d)."""
    layers = model.layers()[: len(model.sizes) - 1]
    h, along = x.T.expand(len(model.seeds), -1, -1), None
    for k, (w, b) in enumerate(layers):
        z, along = torch.baddbmm(b, w, h), w.unsqueeze(1) if along is None else w.unsqueeze(1) @ along
        if k < len(layers) - 1:
            h, along = z.relu(), along * (z > 0).mT.unsqueeze(-1)
    assert along is not None
    return along


def ways(lesson: Lesson) -> dict[str, Callable[[Connected, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Of each way of teaching (loss without the term, term), each (F,); the weights (F,) are those of the columns."""

    def labels(m: Connected, x: Tensor, i: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        z = m.each(x)
        hard, even = cross_entropy(z, lesson.y[i]).mean(1), -log_softmax(z, -1).mean((1, 2))
        return (1 - w) * hard + w * even, torch.zeros_like(w)

    def distilled(z: Tensor, i: Tensor, alpha: Tensor | float) -> Tensor:
        hard, soft = cross_entropy(z, lesson.y[i]).mean(1), kd_loss(z, lesson.v[i], None, T, 1.0).mean(1)
        return (1 - alpha) * hard + alpha * soft

    def kd(m: Connected, x: Tensor, i: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return distilled(m.each(x), i, w), torch.zeros_like(w)

    def beside(term: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
        def way(m: Connected, x: Tensor, i: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            maps = lipschitz.features(m, x)
            return distilled(maps[-1].mT, i, ALPHA), w * term(m, x, i, maps)

        return way

    def overhaul(m: Connected, x: Tensor, i: Tensor, w: Tensor, guided: bool = False) -> tuple[Tensor, Tensor]:
        maps = lipschitz.features(m, x)
        own, hard = m.connected(maps), cross_entropy(maps[-1].mT, lesson.y[i]).mean(1)
        if guided:
            return hard + lesson.overhaul(own, i), w * lesson.estimates(own, i)
        return hard, w * lesson.overhaul(own, i)

    def by_share(m: Connected, x: Tensor, i: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        maps = lipschitz.features(m, x)
        loss, term = distilled(maps[-1].mT, i, ALPHA), lesson.estimates(maps, i)
        return loss, term * (w / (1 - w) * loss / term.clamp_min(1e-6)).detach()

    def penalised(m: Connected, x: Tensor, i: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        z = lipschitz.features(m, x)[-1].mT
        return distilled(z, i, ALPHA), w * lesson.gradients(x, z, i)

    return {
        "labels": labels,
        "KD": kd,
        "KD + estimate": beside(lambda m, x, i, maps: lesson.estimates(maps, i)),
        "KD + energies": beside(lambda m, x, i, maps: lesson.energies(maps[:2])),
        "KD + spectral norms": beside(lambda m, x, i, maps: lesson.spectral(m)),
        "KD + Jacobians": beside(lambda m, x, i, maps: lesson.jacobians(m, x, i)),
        "features": overhaul,
        "features + estimate": lambda m, x, i, w: overhaul(m, x, i, w, guided=True),
        "KD + FSP": beside(lambda m, x, i, maps: lesson.flows(m.connected(maps), i)),
        "KD + input gradients": penalised,
        "KD, spectral normalisation": lambda m, x, i, w: (distilled(m.each(x), i, ALPHA), torch.zeros_like(w)),
        "KD + estimate, by share": by_share,
    }


def experiment(part: str, world: str, seed: int) -> pd.DataFrame:
    """One row per way and weight: scores at the epoch that validation chooses."""
    task = data.world(world, seed, n_train=2 * SIZES[world]).split_validation(0.5, seed)
    teacher = train(task.for_teacher, Recipe.hard(), seeds=[seed], threads=1, **data.TEACHER[world]).model
    assert isinstance(teacher, MLP)
    lesson = Lesson(task, teacher, seed)
    rows, every = [], ways(lesson)
    wanted = RIVALS if part == "rivals" else {w: WEIGHTS.get(w, TERM) for w in TERMS}
    for name, values in wanted.items():
        way, weights = every[name], torch.tensor(values)
        norms = [n * weights for n in lesson.norms] if "normalisation" in name else []
        model, epochs = taught(task, way, weights, teacher, seed, EPOCHS[world], norms)
        scores = measured(task, model, teacher, way, weights)
        blank = torch.full_like(weights, torch.nan)  # the first part was made before these were measured
        scores |= (
            yardsticks(model, task.x_test[:2000]) if part == "rivals" else dict.fromkeys(("product", "energy"), blank)
        )
        rows.append(pd.DataFrame({"way": name, "weight": weights.double(), "epochs": epochs, **scores}))
    return pd.concat(rows, ignore_index=True).round(4)


def taught(
    task: Task, way: Any, weights: Tensor, teacher: MLP, seed: int, epochs: int, norms: Sequence[Tensor] = ()
) -> tuple[Connected, list[int]]:
    """Students, one a weight, each as it was at its best epoch on validation data, with those epochs."""
    sizes = (teacher.sizes[0], *HIDDEN, teacher.sizes[-1])

    def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        return sum(way(model, x, index, weights[model.rows]))

    def make(seeds: Sequence[int]) -> Connected:
        model = (Normalised if norms else Connected)(sizes, teacher.sizes[1:-1], seeds)
        if isinstance(model, Normalised):
            model.norms = norms
        return model

    students = pd.DataFrame({"seed": [seed] * len(weights)})
    run = fitting(task, students, make, objective, epochs=epochs, threads=1)
    x, y = task.extra["x_validation"], task.extra["y_validation"]
    fleet, best = early_stopped(
        run, lambda fleet: (fleet.predict(x).argmax(-1) != y).float().mean(1), every=max(1, epochs // CHECKS)
    )
    assert isinstance(fleet.model, Connected)
    return fleet.model, best


def measured(task: Task, model: Connected, teacher: MLP, way: Any, weights: Tensor) -> dict[str, Tensor]:
    """Accuracies (0..1) clean, on training and validation examples, under noise and after a small step uphill; slopes and the estimate."""
    x, y, size = task.x_test[:2000], task.y_test[:2000], task.x_test.std()
    noise = torch.randn(x.shape, generator=_seeds.stream(0, "noise"))

    def right(x: Tensor, y: Tensor) -> Tensor:
        return (model.each(x if x.dim() == 3 else x.expand(len(weights), -1, -1)).argmax(-1) == y).float().mean(1)

    near = x.expand(len(weights), -1, -1).clone().requires_grad_()
    (uphill,) = torch.autograd.grad(cross_entropy(model.each(near), y.expand(len(weights), -1)).sum(), near)
    moved = x + 0.5 * size * uphill / uphill.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    with torch.no_grad():
        index = torch.arange(len(task.x_train)).expand(len(weights), -1)
    loss, term = way(model, task.x_train.expand(len(weights), -1, -1), index, weights)
    with torch.no_grad():
        maps, theirs = lipschitz.features(model, x.expand(len(weights), -1, -1)), lipschitz.features(teacher, x[None])
        own = lipschitz.transmitting_estimate(maps[0], maps[1])
        return {
            "accuracy": right(task.x_test, task.y_test),
            "train": right(task.x_train, task.y_train),
            "val_accuracy": right(task.extra["x_validation"], task.extra["y_validation"]),
            "noisy": right(x + 0.5 * size * noise, y),
            "uphill": right(moved, y),
            "slope": torch.linalg.matrix_norm(slopes(model, x[:500]), ord=2).mean(1),
            "teacher_slope": torch.linalg.matrix_norm(slopes(teacher, x[:500]), ord=2).mean(1).expand(len(weights)),
            "estimate": own / lipschitz.transmitting_estimate(theirs[0], theirs[1]),
            "share": term.detach() / (loss + term).detach(),
        }


def yardsticks(model: Connected, x: Tensor) -> dict[str, Tensor]:
    """The product of the layers' norms, and the geometric mean of the hidden maps' mean squares, each (F,)."""
    with torch.no_grad():
        layers = model.layers()[: len(model.sizes) - 1]
        maps = lipschitz.features(model, x.expand(len(model.seeds), -1, -1))[:-1]
        return {
            "product": torch.stack([lipschitz.spectral_norm(w) for w, _ in layers]).prod(0),
            "energy": torch.stack([m.square().mean((1, 2)) for m in maps]).log().mean(0).exp(),
        }
