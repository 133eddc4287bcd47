"""Students taught by all classes and by sampled ones: 1,000 made classes (20 seeds), and 32,768 pieces of Shakespeare's text (5).

    kdlib study data/sampling.py --store _build/studies/sampling --table data/sampling.npz

One point is one method on one problem drawn from a seed. Every method starts from the same weights, sees the same batches,
and has the same rates to choose from. What a method costs is counted in multiply-adds of the output layer, ranking included,
as a share of one step over all classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kdlib import Task, _seeds, fleet
from kdlib.data import places
from kdlib.losses import chunked_kd_loss
from kdlib.mechanisms import sampling
from kdlib.models import MLP, FleetModel

SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # sha256 of text/tinyshakespeare.txt
EPSILON = 0.1
SEEDS = {"made": 20, "Shakespeare": 5}
BOTH = ("all classes", "teacher", "teacher, as dear", "ranked", "top 12", "12 draws")
ONLY = {
    "made": (
        "uniform",
        "order frozen",
        "tails frozen",
        "both frozen",
        "half and half, each step",
        "|p - q|, each step",
    ),
    "Shakespeare": ("prior",),
}
grid = pd.DataFrame(
    [(where, seed, method) for where, n in SEEDS.items() for seed in range(n) for method in BOTH + ONLY[where]],
    columns=["where", "seed", "method"],
)


@dataclass(frozen=True)
class Where:
    """Sizes of one problem: examples to train, validate and test on, hidden units, classes drawn a step, rates, marks."""

    counts: tuple[int, int, int]
    hidden: int
    batch: int
    drawn: int
    rates: tuple[float, ...]
    epochs: tuple[int, ...]  # at which students are judged
    every: int = 25  # steps between two looks at all classes
    look: float = 0.125  # of the training examples are looked at


PLACES = {
    "made": Where((2048, 500, 1000), 24, 64, 20, (4.0, 8.0), (1, 2, 4, 8, 16, 32)),
    "Shakespeare": Where((768, 100, 200), 32, 32, 328, (16.0,), (1, 2, 4, 8, 16)),
}


class Student(MLP):
    """Tanh units; the output weights start at 0, its biases at `start` (K,)."""

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int], start: Tensor) -> None:
        super().__init__(sizes, seeds)
        weight, bias = self.layers(self.flat.data)[-1]
        weight.zero_()
        bias.copy_(start[:, None])

    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


@dataclass(frozen=True)
class Problem:
    """Inputs and teacher's log-probabilities of all examples, the training ones first; `prior` (K,) are the classes' shares."""

    x: Tensor
    log_p: Tensor
    prior: Tensor
    where: Where

    @property
    def task(self) -> Task:
        n, top = self.where.counts[0], self.log_p.argmax(1)
        return Task(self.x[:n], top[:n], self.x[n:], top[n:], self.log_p.shape[1])


def problem(where: str, seed: int) -> Problem:
    """A problem drawn from the seed."""
    return made(seed) if where == "made" else text(seed)


def made(seed: int) -> Problem:
    """Normal inputs; a teacher of 48 tanh units over 1,000 classes, softened at T = 2."""
    where, generator = PLACES["made"], _seeds.stream(seed, "problem")
    x = torch.randn(sum(where.counts), 24, generator=generator)
    A, B = torch.randn(24, 48, generator=generator) / 24**0.5, torch.randn(48, 1000, generator=generator)
    log_p = (torch.tanh(1.5 * x @ A) @ B / 2).log_softmax(1)
    return Problem(x, log_p, torch.full((1000,), 1e-3), where)


KEPT: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # what `corpus` found, for the process's next point


def corpus() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Characters of the text as numbers, the class of the four that follow each place (-1: a rarer piece), and the shares."""
    if KEPT:
        return KEPT[0]
    path = places.data_root() / "text" / "tinyshakespeare.txt"
    if not path.is_file() or str(places.pooch.file_hash(str(path), alg="sha256")) != SHAKESPEARE:
        raise ValueError(f"{path} must be the text of github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt")
    letters = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int64)
    letters = np.unique(letters, return_inverse=True)[1]
    codes = letters[:-3] + 65 * (letters[1:-2] + 65 * (letters[2:-1] + 65 * letters[3:]))
    pieces, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[:32_768])
    place = np.full(len(pieces), -1)
    place[kept] = np.arange(len(kept))
    KEPT.append((letters, place[inverse], counts[kept] / counts[kept].sum()))
    return KEPT[0]


def text(seed: int) -> Problem:
    """The next four characters from the last three, for 1,068 of the 2,000 most frequent contexts drawn at random.

    The teacher is a table of counts: those after all three characters, after two, after one and after none, mixed half,
    quarter, eighth and eighth.
    """
    where, (letters, classes, shares) = PLACES["Shakespeare"], corpus()
    k, generator = len(shares), _seeds.stream(seed, "problem")
    at = np.arange(3, len(classes))
    at = at[classes[at] >= 0]
    last = [letters[at - i] for i in (1, 2, 3)]
    context = last[0] + 65 * (last[1] + 65 * last[2])
    found, counts = np.unique(context, return_counts=True)
    usual = torch.from_numpy(found[np.argsort(-counts, kind="stable")[:2000]])
    asked = usual[torch.randperm(len(usual), generator=generator)[: sum(where.counts)]].numpy()
    p = torch.from_numpy(shares).float().expand(len(asked), -1) / 8
    for length, share in ((1, 1 / 8), (2, 1 / 4), (3, 1 / 2)):
        keys, inverse = np.unique(asked % 65**length, return_inverse=True)
        row = np.searchsorted(keys, context % 65**length).clip(max=len(keys) - 1)
        hit = keys[row] == context % 65**length
        table = np.bincount(row[hit] * k + classes[at][hit], minlength=len(keys) * k).reshape(len(keys), k)
        table = torch.from_numpy(table).float()
        p = p + share * (table / table.sum(1, keepdim=True))[torch.from_numpy(inverse)]
    digits = torch.from_numpy(np.stack([asked // 65**i % 65 for i in range(3)], 1))
    x = torch.nn.functional.one_hot(digits, 65).flatten(1).float()
    return Problem(x, p.log_(), torch.from_numpy(shares).float(), where)


@dataclass(eq=False)
class Sampled:
    """An objective for one student: the self-normalised loss over classes that `draw` gives each example of a batch."""

    problem: Problem
    generator: torch.Generator
    drawn: int
    steps: int = 0

    def __call__(self, model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        (w1, b1), (w2, b2) = (tuple(part[0] for part in layer) for layer in model.layers())
        h = torch.tanh(x[0] @ w1.T + b1.mT)
        return self.loss(h, w2, b2[:, 0], model, index[0]).mean()[None]

    def loss(self, h: Tensor, weight: Tensor, bias: Tensor, model: FleetModel, index: Tensor) -> Tensor:
        """One value per example of the batch, (B,)."""
        with torch.no_grad():
            classes, log_Q = self.draw(lambda rows: self.log_q(model, rows), index)
        self.steps += 1
        log_p = self.problem.log_p[index[:, None], classes]
        return sampling.sampled_kd_loss(h, weight, log_p, classes, log_Q, bias)

    def log_q(self, model: FleetModel, rows: Tensor) -> Tensor:
        """A look at all classes, (R, K)."""
        return model.each(self.problem.x[None, rows])[0].log_softmax(-1)

    def draw(self, look: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (B, S) and their log Q, uniform here."""
        k = self.problem.log_p.shape[1]
        classes = torch.randint(k, (len(rows), self.drawn), generator=self.generator)
        return classes, torch.full(classes.shape, -math.log(k))


class Prior(Sampled):
    """From the classes' shares, the same for every example."""

    def draw(self, look: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        classes = sampling.draw(self.problem.prior, len(rows) * self.drawn, self.generator).view(len(rows), -1)
        return classes, self.problem.prior.log()[classes]


class Teacher(Sampled):
    """From the teacher's row, with a floor."""

    def draw(self, look: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        Q = sampling.with_floor(self.problem.log_p[rows].exp(), EPSILON)
        classes = sampling.draw(Q, self.drawn, self.generator)
        return classes, Q.gather(1, classes).log()


@dataclass(eq=False)
class Oracle(Sampled):
    """From a proposal that looks at the student's whole row at every step, which is what sampling should avoid."""

    proposal: str = "|p - q|"

    def draw(self, look: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        p, q = self.problem.log_p[rows].exp(), look(rows).exp()
        Q = sampling.with_floor(sampling.PROPOSALS[self.proposal](p, q), EPSILON)
        classes = sampling.draw(Q, self.drawn, self.generator)
        return classes, Q.gather(1, classes).log()


@dataclass(eq=False)
class Ranked(Sampled):
    """From two tails over ranks; every so many steps a look at some examples renews their order, the tails, or both."""

    every: int = 25
    order: bool = True
    tails: bool = True
    ranking: sampling.Ranking = field(init=False)

    def __post_init__(self) -> None:
        self.ranking = sampling.Ranking.start(self.problem.log_p[: self.problem.where.counts[0]], EPSILON)

    def draw(self, look: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        if self.steps and self.steps % self.every == 0 and (self.order or self.tails):
            n = self.problem.where.counts[0]
            some = torch.randperm(n, generator=self.generator)[: round(n * self.problem.where.look)]
            self.renew(some, self.problem.log_p[some].exp() - look(some).exp())
        return self.ranking.draw(rows, self.drawn, self.generator)

    def renew(self, some: Tensor, gap: Tensor) -> None:
        old = self.ranking
        if self.order:
            self.ranking = old.refreshed(some, gap)
        b1, b2 = (old.b1, old.b2) if not self.tails else (self.ranking.b1, self.ranking.b2)
        if self.tails and not self.order:
            b1, b2 = sampling.fit_tails(gap, old.order[some])
        self.ranking = replace(self.ranking, b1=b1, b2=b2)


class Full(Sampled):
    """All classes, from rows of log targets (N, K)."""

    def __init__(self, problem: Problem, log_targets: Tensor) -> None:
        super().__init__(problem, torch.Generator(), problem.log_p.shape[1])
        self.log_targets = log_targets

    def loss(self, h: Tensor, weight: Tensor, bias: Tensor, model: FleetModel, index: Tensor) -> Tensor:
        log_p = self.log_targets[index]
        return chunked_kd_loss(h, weight, teacher_logits=log_p, student_bias=bias, temperature=1.0, alpha=1.0)


def cost(problem: Problem, drawn: int, every: float = math.inf) -> tuple[float, float]:
    """Multiply-adds of a step of the output layer over those of a step over all classes: for drawn classes, for ranking.

    All classes: 3 B K d (forward, and back to weights and hidden units). A look at R examples every M steps costs R K d
    for the logits and R K log2 K for the sort, spread over M steps.
    """
    where, k = problem.where, problem.log_p.shape[1]
    looked = where.counts[0] * where.look / every
    return drawn / k, looked * k * (where.hidden + math.log2(k)) / (3 * where.batch * k * where.hidden)


def contender(method: str, problem: Problem, seed: int) -> tuple[Sampled, tuple[float, float]]:
    """A method's objective, and what a step of it costs."""
    S, n, k = problem.where.drawn, problem.where.counts[0], problem.log_p.shape[1]
    generator = _seeds.stream(seed, "drawn classes")
    plain, looking, every_step = cost(problem, S), cost(problem, S, 25), (S / k, 1 / 3)
    if method in ("all classes", "top 12", "12 draws"):
        log_p = problem.log_p[:n]
        if method == "top 12":
            log_p = sampling.top_only(log_p.exp(), 12).log()
        if method == "12 draws":
            log_p = sampling.RandomSampledTargets.draw(log_p, 12, seed=seed).table().log()
        return Full(problem, log_p), (1.0, 0.0)
    if method == "teacher, as dear":  # draws for the price of draws and ranking
        drawn = round(k * sum(looking))
        return Teacher(problem, generator, drawn), cost(problem, drawn)
    found: dict[str, tuple[Callable[..., Sampled], tuple[float, float]]] = {
        "uniform": (Sampled, plain),
        "prior": (Prior, plain),
        "teacher": (Teacher, plain),
        "ranked": (Ranked, looking),
        "order frozen": (partial(Ranked, order=False), looking),
        "tails frozen": (partial(Ranked, tails=False), looking),
        "both frozen": (partial(Ranked, order=False, tails=False), plain),
        "half and half, each step": (partial(Oracle, proposal="half and half"), every_step),
        "|p - q|, each step": (partial(Oracle, proposal="|p - q|"), every_step),
    }
    make, price = found[method]
    return make(problem, generator, S), price


def judged(problem: Problem, z: Tensor) -> dict[str, float]:
    """Of logits z of validation and test examples: KL(p || q) in nats, and what top-K targets are said to spoil."""
    n, held = problem.where.counts[:2]
    log_p, log_q = problem.log_p[n:], z.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    kl = (p * (log_p - log_q)).sum(1)
    kept = log_p[held:].topk(12).indices
    found = {"val_kl": kl[:held].mean(), "kl": kl[held:].mean()}
    for name, row in (("", q[held:]), ("teacher_", p[held:])):
        found |= {f"{name}top": row.amax(1).mean(), f"{name}tail": 1 - row.gather(1, kept).sum(1).mean()}
    return {name: float(value) for name, value in (found | profile((p - q)[held : held + 50])).items()}


def profile(gap: Tensor) -> dict[str, float]:
    """KL of the averaged, normalised |p - q| over ranks to two fitted tails, to one, and to uniform; in nats."""
    k = gap.shape[1]
    P = gap.sort(1, descending=True)[0].abs().double().mean(0)
    P /= P.sum()
    b1, b2 = sampling.fit_tails(gap)
    front = max(2.0, float((torch.arange(k) * P).sum()))
    laws = {
        "two_tails": sampling.tails(k, b1, b2, EPSILON),
        "one_tail": sampling.tails(k, front, 2.0, EPSILON, share=1.0),
        "flat": torch.full((k,), 1 / k, dtype=torch.float64),
    }
    found = {f"profile_{name}": float((P * (P.clamp(min=1e-300) / Q).log()).sum()) for name, Q in laws.items()}
    return found | {"b1": b1, "b2": b2}


def experiment(where: str, seed: int, method: str, epochs: Sequence[int] | None = None) -> pd.DataFrame:
    """One row per rate and length; `epochs` if other than the table's."""
    drawn = problem(where, seed)
    task, sizes, rows = drawn.task, drawn.where, []
    epochs = sizes.epochs if epochs is None else epochs
    steps = math.ceil(sizes.counts[0] / sizes.batch)
    start = drawn.prior.log() - drawn.prior.log().mean()
    network = partial(Student, (drawn.x.shape[1], sizes.hidden, len(start)), start=start)
    settings = {"batch_size": sizes.batch, "schedule": "constant", "optimiser": torch.optim.SGD, "threads": 1}
    for rate in sizes.rates:
        objective, (draws, ranking) = contender(method, drawn, seed)
        for state in fleet.fitting(task, [seed], network, objective, lr=rate, epochs=max(epochs), **settings):
            if state.epoch in epochs:
                own = {"rate": rate, "steps": state.epoch * steps}
                price = {"cost_draws": draws * own["steps"], "cost_ranking": ranking * own["steps"]}
                rows.append(own | price | judged(drawn, state.fleet.model(task.x_test)[0].detach()))
    return pd.DataFrame(rows).round(5)
