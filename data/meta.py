"""Teachers that learn to teach, beside static ones with the same data: Gaussian classes and real images, 20 seeds.

    kdlib study data/meta.py --store _build/studies/meta --table data/meta.npz

A point is one setting; its 20 worlds, teachers and students train beside each other. A world has 700 examples to train on (of
images 2,700), a quiz of 300, 300 to choose the length by, labelled as the quiz is, and a test set with right labels. The settings
"earlier" repeat a run of another program: longer, at one length.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdlib import data
from kdlib.data.images import cifar100
from kdlib.fleet.settings import adamw
from kdlib.losses import cross_entropy
from kdlib.mechanisms import meta
from kdlib.models import CNN, MLP, FleetModel

SEEDS = range(20)
MARKS = (75, 150, 300)  # steps at which students are scored
RATES = (3e-4, 1e-3)  # of the teacher
ON_IMAGES = (1e-4, 3e-4)  # the paper's; at 1e-3 such a teacher collapses
EARLIER = {
    "right quiz": (1e-5, 3e-4),
    "wrong quiz": (1e-5, 3e-4),
    "random labels": (1e-5, 1e-4),
    "any labels": (1e-5, 1e-4),
}
NOISE = {"random labels": "other", "any labels": "any"}
SCHEDULES: dict[str, dict[str, Any]] = {"late start": {"start": 0.5}, "cooling": {"cooling": 0.01}}
FAMILIES = ["vehicles_1", "large_carnivores", "trees", "household_furniture"]  # 20 classes of CIFAR-100
CHANGES: list[dict[str, Any]] = [
    {"width": 4},
    {"width": 16},
    {"width": 32},
    {"temperature": 1.0},
    {"temperature": 10.0},
    {"alpha": 0.1},
    {"alpha": 0.5},
]
SETTINGS = ["right quiz", "stream", "wrong quiz", "random labels", "digits", "changes"]
SETTINGS += [f"earlier, {name}" for name in EARLIER]
SETTINGS += [f"images, {name}" for name in ("right labels", "right quiz", "wrong quiz")]
grid = {"setting": SETTINGS}
WATCHED = ["towards", "quiz before", "quiz after", "fresh before", "fresh after"]


class Tanh(MLP):
    """The dossier's network."""

    def activation(self, h: Tensor) -> Tensor:
        """Of any shape."""
        return torch.tanh(h)


@dataclass
class World:
    """x (F, N, ...), right labels (F, N) and those that one gets (F, N): n to train on, 300 of quiz, 300 held, test.

    `wide`: width of a teacher; `early`: its steps on labels; `how`: settings of every run.
    """

    x: Tensor
    right: Tensor
    given: Tensor
    _: KW_ONLY
    n: int = 700
    wide: int = 128
    early: int = 300
    how: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = self.n
        self.part, self.quiz, self.both = slice(0, n), slice(n, n + 300), slice(0, n + 300)
        self.held, self.test = slice(n + 300, n + 600), slice(n + 600, None)

    def net(self, width: int, offset: int = 0) -> FleetModel:
        """A network for each seed, others with another offset: dense, or three layers of 3 x 3 filters."""
        seeds = [offset + seed for seed in SEEDS]
        if self.x.dim() == 5:
            return CNN((3, width, 2 * width, 4 * width), 20, seeds)
        return Tanh((self.x.shape[-1], width, 10), seeds)

    def accuracy(self, model: FleetModel, rows: slice, y: Tensor) -> Tensor:
        """(F,) share of these rows that get the label y."""
        with torch.no_grad():
            return (model.each(self.x[:, rows]).argmax(-1) == y[:, rows]).float().mean(1)


def wrong(right: Tensor, seed: int, share: float, noise: str = "next", family: int = 10) -> Tensor:
    """Labels (N,) of which a share is drawn anew in its family: the next class, any other one, or any, the right one too."""
    g = torch.Generator().manual_seed(7000 + seed)
    hit = torch.rand(len(right), generator=g) < share
    first = {"next": None, "other": 1, "any": 0}[noise]
    step = torch.ones_like(right) if first is None else torch.randint(first, 10, (len(right),), generator=g)
    place = right % family
    return torch.where(hit, right - place + (place + step) % family, right)


def gaussians(n: int = 3300, noise: str = "next", early: int = 300) -> World:
    """Ten classes in 20 dimensions, their means and all examples drawn anew for each seed."""
    drawn = []
    for seed in SEEDS:
        g = torch.Generator().manual_seed(1000 + seed)
        means = 0.757 * torch.randn(10, 20, generator=g, dtype=torch.float32)
        right = torch.randint(10, (n,), generator=g)
        x = means[right] + torch.randn(n, 20, generator=g, dtype=torch.float32)
        drawn.append((x, right, wrong(right, seed, 0.45 if noise == "next" else 0.4, noise)))
    return World(*map(torch.stack, zip(*drawn, strict=True)), early=early)


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


def photographs(share: float) -> World:
    """CIFAR-100's images of four superclasses, a share of them called the next class of theirs; drawn anew for each seed."""
    task, drawn = cifar100(FAMILIES, size=8), []
    for seed in SEEDS:
        rows = torch.randperm(len(task.y_train), generator=torch.Generator().manual_seed(1000 + seed))[:3300]
        right = torch.cat([task.y_train[rows], task.y_test])
        drawn.append((torch.cat([task.x_train[rows], task.x_test]), right, wrong(right, seed, share, family=5)))
    how = {"lr": 3e-3, "rate": 0.05, "quiz_batch": 64}
    return World(*map(torch.stack, zip(*drawn, strict=True)), n=2700, wide=32, how=how)


def agreement(net: FleetModel, flat: Tensor, x: Tensor, y: Tensor, state: meta.Step) -> Tensor:
    """Cosine at `flat` of the gradient of the loss on (x, y) with the student's own, before and after the update: (2, F)."""
    own = flat.clone().requires_grad_()
    (u,) = torch.autograd.grad(cross_entropy(net.apply(own, x), y).mean(-1).sum(), own)
    return torch.stack([torch.cosine_similarity(u, g, dim=1) for g in (state.asked, state.taken)])


def scored(
    run: Iterator[meta.Step],
    world: World,
    judge: Tensor,
    marks: tuple[int, ...],
    watched: tuple[FleetModel, Tensor] | None = None,
) -> Iterator[pd.DataFrame]:
    """Rows at the marks; `judge` are the labels that the 300 held examples have.

    `towards`: share of updates since the last mark; of a student `watched` with its quiz labels, the mean cosines since then
    with the gradient of the quiz and with that of the held examples with their right labels.
    """
    counts: list[dict[str, Tensor]] = []
    flat = None if watched is None else watched[0].flat.detach().clone()
    for state in run:
        count = {"towards": (state.after < state.before).float() + 0 * state.after}  # NaN where nothing moved
        if watched is not None and flat is not None:
            for name, rows, y in (("quiz", world.quiz, watched[1]), ("fresh", world.held, world.right)):
                pair = agreement(watched[0], flat, world.x[:, rows], y[:, rows], state)
                count |= {f"{name} before": pair[0], f"{name} after": pair[1]}
            flat = watched[0].flat.detach().clone()
        counts.append(count)
        if state.step in marks:
            nothing = state.quiz * torch.nan
            columns = {
                "accuracy": world.accuracy(state.student, world.test, world.right),
                "val_accuracy": world.accuracy(state.student, world.held, judge),
                "teacher": nothing
                if state.teacher is None or isinstance(state.teacher, meta.Table)
                else world.accuracy(state.teacher, world.test, world.right),
                "quiz": state.quiz,
            }
            columns |= {k: torch.stack([c[k] for c in counts]).nanmean(0) if k in count else nothing for k in WATCHED}
            yield pd.DataFrame({k: v.numpy() for k, v in columns.items()}).assign(seed=list(SEEDS), steps=state.step)
            counts = []


@dataclass
class Contest:
    """Students of every recipe on one world; `rows` fills up. `watch`: with the cosines of those that hear."""

    world: World
    trusted: Tensor  # (F, N) labels of quiz and held examples
    marks: tuple[int, ...]
    rows: list[pd.DataFrame]
    watch: bool = False

    def run(
        self,
        recipe: str,
        teacher: FleetModel | None,
        both: Tensor | None = None,
        quiz: Tensor | None = None,
        width: int = 8,
        **how: Any,
    ) -> None:
        """Train and score, on the part or, with labels `both`, on the quiz as well; the teacher is left as the run left it."""
        world, student = self.world, self.world.net(width)
        lesson = (world.part, world.given) if both is None else (world.both, both)
        mu = how.get("teacher_lr", 0.0) if quiz is not None else 0.0
        tested = (world.x[:, world.quiz], quiz[:, world.quiz]) if quiz is not None else ()
        if teacher is None:
            how["alpha"] = 0.0
        settings = {"steps": max(self.marks)} | world.how | how | {"teacher_lr": mu}
        x, y = (t[:, lesson[0]] for t in (world.x, lesson[1]))
        run = meta.train(student, teacher, x, y, *tested, **settings)
        about = {"recipe": recipe, "mu": mu, "temperature": how.get("temperature", 3.0), "alpha": how.get("alpha", 0.9)}
        watched = (student, quiz) if self.watch and quiz is not None else None
        for frame in scored(run, world, self.trusted, self.marks, watched):
            self.rows.append(frame.assign(**about, width=width))


def on_labels(world: World, rows: slice, y: Tensor, start: FleetModel | None = None) -> FleetModel:
    """A teacher on labels; from `start` if there is one, at a third of the rate."""
    net = world.net(world.wide, 500) if start is None else deepcopy(start)
    lr, steps = (3e-3, world.early) if start is None else (1e-3, 200)
    for _ in meta.train(net, None, world.x[:, rows], y[:, rows], alpha=0.0, teacher_lr=0.0, lr=lr, steps=steps):
        pass
    return net


def contest(world: World, trusted: Tensor, marks: tuple[int, ...]) -> tuple[Contest, Tensor, list[FleetModel]]:
    """The contest, labels of training part and quiz together, and three teachers: of the part, of both, tuned on the quiz."""
    mixed = world.given.clone()
    mixed[:, world.quiz] = trusted[:, world.quiz]
    teacher = on_labels(world, world.part, world.given)
    teachers = [teacher, on_labels(world, world.both, mixed), on_labels(world, world.quiz, trusted, teacher)]
    return Contest(world, trusted, marks, []), mixed, teachers


def main_run(
    world: World,
    trusted: Tensor,
    marks: tuple[int, ...] = (),
    rates: tuple[float, ...] = RATES,
    schedules: bool = False,
    controls: bool = False,
) -> Contest:
    """Every recipe of the comparison, at `MARKS` if none are given; `schedules`: the higher rate late and cooling."""
    here, mixed, (teacher, equal, tuned) = contest(world, trusted, marks or MARKS)
    here.run("labels", None)
    here.run("labels, equal data", None, mixed)
    here.run("static", teacher)
    here.run("equal data", equal, mixed)
    here.run("tuned teacher", tuned)
    here.watch = controls
    for mu in rates:
        taught = deepcopy(teacher)
        here.run("meta", taught, quiz=trusted, teacher_lr=mu)
        if controls and mu == 3e-4:
            here.run("its teacher, frozen", taught)
    for recipe, how in SCHEDULES.items() if schedules else ():
        here.run(recipe, deepcopy(teacher), quiz=trusted, teacher_lr=max(rates), **how)
    if controls:
        nothing = torch.randint(10, trusted.shape, generator=torch.Generator().manual_seed(0))
        for recipe, quiz, pilot in (("no pilot", trusted, False), ("quiz of random labels", nothing, True)):
            here.run(recipe, deepcopy(teacher), quiz=quiz, teacher_lr=3e-4, pilot=pilot)
    return here


def stream() -> Contest:
    """A teacher that is a table, over 8,000 examples shown once and then twice more, in a new order every time or in one order.

    Static, without the pilot and with it; and static tables with the quiz: by a teacher of equal data, whose student finds the
    quiz among its examples, and by one tuned on it.
    """
    whole = gaussians(11300, early=800)
    mixed = whole.given.clone()
    mixed[:, whole.quiz] = whole.right[:, whole.quiz]
    early = on_labels(whole, whole.both, whole.given)
    shown = list(range(3300, 11300))
    world = World(*(t[:, :3300] for t in (whole.x, whole.right, whole.given)))
    here = Contest(world, world.right, (125, 375), [])

    def run(
        recipe: str, teacher: FleetModel, rows: list[int], lengths: list[int], mu: float = 0.0, pilot: bool = True
    ) -> None:
        x, number = whole.x[:, rows], torch.arange(len(rows), dtype=torch.float32).expand(len(SEEDS), -1).unsqueeze(-1)
        with torch.no_grad():
            said = meta.Table(teacher.each(x), teacher.seeds)
        quiz = (world.x[:, world.quiz], world.right[:, world.quiz]) if mu else ()
        states = passes(
            lengths, world.net(8), said, x, mixed[:, rows], *quiz,
            rate=2.0, teacher_lr=mu, teacher_optimiser=torch.optim.SGD, pilot=pilot, teacher_x=number,
        )  # fmt: skip
        about: dict[str, Any] = {"recipe": recipe, "mu": mu, "temperature": 3.0, "alpha": 0.9, "width": 8}
        here.rows += [frame.assign(**about) for frame in scored(states, world, world.right, here.marks)]

    for order, lengths in {"": [375], ", one order": [125] * 3}.items():
        run("static" + order, early, shown, lengths)
        run("no pilot" + order, early, shown, lengths, 2000.0, pilot=False)
        run("meta" + order, early, shown, lengths, 2000.0)
    run("equal data", on_labels(whole, whole.both, mixed), [*range(700, 1000), *shown], [375])
    run("tuned teacher", on_labels(whole, whole.quiz, whole.right, early), shown, [375])
    return here


def passes(lengths: list[int], *networks_and_data: Any, **how: Any) -> Iterator[meta.Step]:
    """`meta.train` again and again with one optimiser of the student, each time from the start of its data order."""
    kept: list[torch.optim.Optimizer] = []

    def optimiser(params: Any, **settings: Any) -> torch.optim.Optimizer:
        if not kept:
            kept.append(adamw(params, **settings))
        return kept[0]

    done = 0
    for length in lengths:
        for state in meta.train(*networks_and_data, steps=length, optimiser=optimiser, **how):
            yield replace(state, step=done + state.step)
        done += length


def changes() -> Contest:
    """Other widths, temperatures and alphas, with a right quiz."""
    world = gaussians()
    here, mixed, teachers = contest(world, world.right, MARKS)
    for how in CHANGES:
        here.run("static", teachers[0], **how)
        here.run("equal data", teachers[1], mixed, **how)
        here.run("tuned teacher", teachers[2], **how)
        for mu in RATES:
            here.run("meta", deepcopy(teachers[0]), quiz=world.right, teacher_lr=mu, **how)
    return here


def experiment(setting: str) -> pd.DataFrame:
    """One row per recipe, setting of it, number of steps and seed."""
    where, _, kind = setting.rpartition(", ")
    if setting in ("stream", "changes"):
        here = stream() if setting == "stream" else changes()
    elif where == "images":
        world = photographs(0.0 if kind == "right labels" else 0.45)
        here = main_run(world, world.given if kind == "wrong quiz" else world.right, rates=ON_IMAGES)
    elif setting == "digits":
        world = handwritten()
        here = main_run(world, world.right)
    else:
        world = gaussians(noise=NOISE.get(kind, "next"), early=1200 if where else 300)
        trusted = world.right if kind == "right quiz" else world.given
        if where:
            here = main_run(world, trusted, (1000,), EARLIER[kind])
        else:
            here = main_run(world, trusted, schedules=True, controls=kind == "right quiz")
    frame = pd.concat(here.rows, ignore_index=True)
    scores = ["accuracy", "val_accuracy", "teacher", "quiz", *WATCHED]
    kept = ["recipe", "mu", "temperature", "alpha", "width", "seed", "steps", *scores]
    return frame[kept].round(dict.fromkeys(scores, 4))
