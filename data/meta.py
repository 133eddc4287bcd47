"""Teachers that learn to teach, beside static ones with the same data: Gaussian classes and digits with wrong labels, 20 seeds.

    kdlib study data/meta.py --store _build/studies/meta --table data/meta.npz

A point is one setting; its 20 worlds, teachers and students train beside each other. A world has 700 examples to train on, a quiz
of 300, 300 to choose the length by, labelled as the quiz is, and a test set with right labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdlib import data
from kdlib.mechanisms import meta
from kdlib.models import MLP, FleetModel

SEEDS = range(20)
MARKS = (75, 150, 300)  # steps at which students are scored
RATES = {"right quiz": (3e-4, 1e-3), "wrong quiz": (3e-4,), "random labels": (1e-3,), "digits": (3e-4,)}
SHARE = defaultdict(lambda: 0.45, {"random labels": 0.4})  # of wrong labels
CHANGES: list[dict[str, Any]] = [
    {"width": 4},
    {"width": 32},
    {"temperature": 1.0},
    {"temperature": 10.0},
    {"alpha": 0.1},
]
PART, QUIZ, HELD, TEST = slice(0, 700), slice(700, 1000), slice(1000, 1300), slice(1300, None)
BOTH = slice(0, 1000)
EARLY = 300  # steps of a teacher on labels
grid = {"setting": ["right quiz", "stream", "wrong quiz", "random labels", "digits", "changes"]}


class Tanh(MLP):
    """The dossier's network."""

    def activation(self, h: Tensor) -> Tensor:
        """Of any shape."""
        return torch.tanh(h)


@dataclass(frozen=True)
class World:
    """x (F, N, d), right labels (F, N) and those that one gets (F, N), in the order part, quiz, held, test."""

    x: Tensor
    right: Tensor
    given: Tensor

    def net(self, width: int, offset: int = 0) -> Tanh:
        """A network for each seed, others with another offset."""
        return Tanh((self.x.shape[-1], width, 10), [offset + seed for seed in SEEDS])

    def accuracy(self, model: FleetModel, rows: slice, y: Tensor) -> Tensor:
        """(F,) share of these rows that get the label y."""
        with torch.no_grad():
            return (model.each(self.x[:, rows]).argmax(-1) == y[:, rows]).float().mean(1)


def wrong(right: Tensor, seed: int, share: float, random: bool = False) -> Tensor:
    """Labels (N,) of which a share is another: the next class, or any other one."""
    g = torch.Generator().manual_seed(7000 + seed)
    hit = torch.rand(len(right), generator=g) < share
    step = torch.randint(1, 10, (len(right),), generator=g) if random else torch.ones_like(right)
    return torch.where(hit, (right + step) % 10, right)


def gaussians(n: int = 3300, random: bool = False, share: float = 0.45) -> World:
    """Ten classes in 20 dimensions, their means and all examples drawn anew for each seed."""
    drawn = []
    for seed in SEEDS:
        g = torch.Generator().manual_seed(1000 + seed)
        means = 0.757 * torch.randn(10, 20, generator=g, dtype=torch.float32)
        right = torch.randint(10, (n,), generator=g)
        x = means[right] + torch.randn(n, 20, generator=g, dtype=torch.float32)
        drawn.append((x, right, wrong(right, seed, share, random)))
    return World(*map(torch.stack, zip(*drawn, strict=True)))


def handwritten() -> World:
    """Digits, 45 % of them called the next one; divided anew for each seed."""
    drawn = []
    for seed in SEEDS:
        task = data.digits(seed, n_train=1297, n_test=500)
        x = torch.cat([task.x_train, task.x_test]).flatten(1)
        right = torch.cat([task.y_train, task.y_test])
        x = torch.cat([x[:1000], x[-300 - 497 :]])  # 300 to choose by, 497 to test on
        right = torch.cat([right[:1000], right[-300 - 497 :]])
        drawn.append((x, right, wrong(right, seed, 0.45)))
    return World(*map(torch.stack, zip(*drawn, strict=True)))


def scored(run: Iterator[meta.Step], world: World, judge: Tensor, marks: tuple[int, ...]) -> Iterator[pd.DataFrame]:
    """Rows at the marks; `judge` are the labels that the 300 held examples have. `towards`: share of updates since the last mark."""
    closer: list[Tensor] = []
    for state in run:
        closer.append((state.after < state.before).float() + 0 * state.after)  # NaN where nothing moved
        if state.step in marks:
            columns = {
                "accuracy": world.accuracy(state.student, TEST, world.right),
                "val_accuracy": world.accuracy(state.student, HELD, judge),
                "teacher": state.quiz * torch.nan
                if state.teacher is None or isinstance(state.teacher, meta.Table)
                else world.accuracy(state.teacher, TEST, world.right),
                "towards": torch.stack(closer).nanmean(0),
                "quiz": state.quiz,
            }
            yield pd.DataFrame({k: v.numpy() for k, v in columns.items()}).assign(seed=list(SEEDS), steps=state.step)
            closer = []


@dataclass
class Contest:
    """Students of every recipe on one world; `rows` fills up."""

    world: World
    trusted: Tensor  # (F, N) labels of quiz and held examples
    marks: tuple[int, ...]
    rows: list[pd.DataFrame]

    def run(
        self,
        recipe: str,
        teacher: FleetModel | None,
        rows: slice = PART,
        y: Tensor | None = None,
        quiz: Tensor | None = None,
        width: int = 8,
        **how: Any,
    ) -> None:
        """Train and score; the teacher is left as the run left it."""
        world, y = self.world, self.world.given if y is None else y
        mu = how.get("teacher_lr", 0.0) if quiz is not None else 0.0
        tested = (world.x[:, QUIZ], quiz[:, QUIZ]) if quiz is not None else ()
        if teacher is None:
            how["alpha"] = 0.0
        settings = {"steps": max(self.marks)} | how | {"teacher_lr": mu}
        state = meta.train(world.net(width), teacher, world.x[:, rows], y[:, rows], *tested, **settings)
        about = {"recipe": recipe, "mu": mu, "temperature": how.get("temperature", 3.0), "alpha": how.get("alpha", 0.9)}
        for frame in scored(state, world, self.trusted, self.marks):
            self.rows.append(frame.assign(**about, width=width))


def on_labels(world: World, rows: slice, y: Tensor, start: Tanh | None = None, steps: int | None = None) -> Tanh:
    """A teacher on labels; from `start` if there is one, at a third of the rate."""
    net = world.net(128, 500) if start is None else deepcopy(start)
    lr, steps = (3e-3, EARLY) if start is None else (1e-3, 200)
    for _ in meta.train(net, None, world.x[:, rows], y[:, rows], alpha=0.0, teacher_lr=0.0, lr=lr, steps=steps):
        pass
    return net


def contest(world: World, trusted: Tensor, marks: tuple[int, ...]) -> tuple[Contest, Tensor, tuple[Tanh, Tanh, Tanh]]:
    """The contest, labels of training part and quiz together, and three teachers: of the part, of both, tuned on the quiz."""
    mixed = world.given.clone()
    mixed[:, QUIZ] = trusted[:, QUIZ]
    teacher = on_labels(world, PART, world.given)
    teachers = teacher, on_labels(world, BOTH, mixed), on_labels(world, QUIZ, trusted, teacher)
    return Contest(world, trusted, marks, []), mixed, teachers


def main_run(
    world: World, trusted: Tensor, marks: tuple[int, ...], rates: tuple[float, ...], controls: bool = False
) -> Contest:
    """Every recipe of the comparison; `controls`: the taught teacher frozen, no pilot, a quiz of random labels."""
    here, mixed, (teacher, equal, tuned) = contest(world, trusted, marks)
    here.run("labels", None)
    here.run("labels, equal data", None, BOTH, mixed)
    here.run("static", teacher)
    here.run("equal data", equal, BOTH, mixed)
    here.run("tuned teacher", tuned)
    for mu in rates:
        taught = deepcopy(teacher)
        here.run("meta", taught, quiz=trusted, teacher_lr=mu)
        if controls and mu == 3e-4:
            here.run("its teacher, frozen", taught)
    if controls:
        nothing = torch.randint(10, trusted.shape, generator=torch.Generator().manual_seed(0))
        for recipe, quiz, pilot in (("no pilot", trusted, False), ("quiz of random labels", nothing, True)):
            here.run(recipe, deepcopy(teacher), quiz=quiz, teacher_lr=3e-4, pilot=pilot)
    return here


def stream() -> Contest:
    """A teacher that is a table, over 8,000 examples shown once: static, without the pilot and with it."""
    world = gaussians(11300)
    early = on_labels(world, BOTH, world.given)
    lesson, quiz = slice(3300, 11300), slice(700, 1000)
    x, y = world.x[:, lesson], world.given[:, lesson]
    number = torch.arange(8000, dtype=torch.float32).expand(len(SEEDS), 8000).unsqueeze(-1)
    here = Contest(World(world.x[:, :3300], world.right[:, :3300], world.given[:, :3300]), world.right, (125,), [])
    with torch.no_grad():
        said = early.each(x)
    for recipe, mu, pilot in (("static", 0.0, True), ("no pilot", 2000.0, False), ("meta", 2000.0, True)):
        run = meta.train(
            world.net(8), meta.Table(said, early.seeds), x, y, world.x[:, quiz], world.right[:, quiz], steps=125,
            rate=2.0, teacher_lr=mu, teacher_optimiser=torch.optim.SGD, pilot=pilot, teacher_x=number,
        )  # fmt: skip
        for frame in scored(run, here.world, world.right, here.marks):
            about = {"recipe": recipe, "mu": mu, "temperature": 3.0, "alpha": 0.9, "width": 8}
            here.rows.append(frame.assign(**about))
    return here


def experiment(setting: str) -> pd.DataFrame:
    """One row per recipe, setting of it, number of steps and seed."""
    world = handwritten() if setting == "digits" else gaussians(random=setting == "random labels", share=SHARE[setting])
    trusted = world.given if setting in ("wrong quiz", "random labels") else world.right
    if setting == "stream":
        here = stream()
    elif setting == "changes":
        here, mixed, teachers = contest(world, trusted, MARKS[:2])
        for how in CHANGES:
            here.run("static", teachers[0], **how)
            here.run("equal data", teachers[1], BOTH, mixed, **how)
            here.run("tuned teacher", teachers[2], **how)
            for mu in (3e-4,) if "width" in how else (3e-4, 1e-3):
                here.run("meta", deepcopy(teachers[0]), quiz=trusted, teacher_lr=mu, **how)
    else:
        here = main_run(world, trusted, MARKS, RATES[setting], controls=setting == "right quiz")
    frame = pd.concat(here.rows, ignore_index=True)
    scores = ["accuracy", "val_accuracy", "teacher", "towards", "quiz"]
    kept = ["recipe", "mu", "temperature", "alpha", "width", "seed", "steps", *scores]
    return frame[kept].round(dict.fromkeys(scores, 4))
