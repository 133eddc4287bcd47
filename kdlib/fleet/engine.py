"""Train a fleet: F students at once, one row of (recipe, seed) each.

The gradient of the distillation loss with respect to a student's logits z is linear in the targets,

    dL/dz = (1 - alpha) softmax(z) + alpha T softmax(z / T) - c,      c = (1 - alpha) y + alpha T targets,

so each recipe becomes one table c made before training, and a step needs two softmaxes and one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, repeat

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kdlib import _check, _cpu, _seeds
from kdlib.data.task import Task
from kdlib.losses import cross_entropy
from kdlib.models import MLP, FleetModel

# Students are trained in groups whose working set fits a core's share of the cache: measured best between 7 and 20 MB.
CACHE_BYTES = 10_000_000
# Below this many multiply-adds a step, a second thread costs more than it brings.
WORK_PER_THREAD = 40_000_000


@dataclass(frozen=True, eq=False)
class Recipe:
    """What one student is asked to learn: (targets, temperature, alpha). Nothing else distinguishes recipes.

    The loss of an example is (1 - alpha) CE(y, softmax(z)) + alpha T^2 KL(targets || softmax(z / T)). `targets (N, K)` is
    the table the student's tempered softmax is compared with, so it is already at this temperature: for plain distillation
    `soften(teacher_logits, temperature)`. Without a table only the labels count and alpha is 0. `t_squared=False` drops
    the factor T^2.

    Raises ValueError for targets that are not rows of probabilities, T <= 0 or alpha outside [0, 1].
    """

    name: str
    targets: Tensor | None = None
    temperature: float = 1.0
    alpha: float = 0.9
    t_squared: bool = True

    def __post_init__(self) -> None:
        _check.temperature(self.temperature)
        _check.fraction(self.alpha, "alpha")
        if self.targets is None:
            object.__setattr__(self, "alpha", 0.0)
        else:
            _check.probabilities("targets", self.targets)

    @classmethod
    def hard(cls, name: str = "hard labels") -> Recipe:
        """The recipe without a teacher: cross-entropy with the labels."""
        return cls(name)

    @property
    def pull(self) -> float:
        """Weight of the soft part in the logit gradient: alpha T, or alpha / T without the factor T^2."""
        return self.alpha * (self.temperature if self.t_squared else 1 / self.temperature)


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; `fleet` can be evaluated at any time."""

    step: int
    steps: int
    epoch: int
    epochs: int
    fleet: Fleet


class Fleet:
    """F trained students. `students` has one row each: recipe, temperature, alpha, seed."""

    def __init__(self, model: FleetModel, students: pd.DataFrame) -> None:
        self.model = model
        self.students = students

    def __len__(self) -> int:
        return len(self.students)

    def __repr__(self) -> str:
        recipes = self.students["recipe"].nunique()
        return f"Fleet({len(self)} students: {recipes} recipes, {self.students['seed'].nunique()} seeds)"

    @property
    def weights(self) -> list[Tensor]:
        """Weights of each layer, (F, in, out) for linear ones."""
        return self.model.weights

    @property
    def biases(self) -> list[Tensor]:
        """Biases of each layer, (F, out)."""
        return self.model.biases

    @torch.no_grad()
    def predict(self, x: Tensor, batch_size: int = 2048) -> Tensor:
        """Logits (F, N, K) of every student for inputs x (N, ...), on the device of x."""
        _check.floating("x", x)
        _check.positive_int(batch_size, "batch_size")
        flat = self.model.flat
        parts = [self.model(part.to(flat)).to(x.device) for part in x.split(batch_size)]
        return torch.cat(parts, dim=1).to(x.dtype)

    def evaluate(self, task: Task) -> pd.DataFrame:
        """One row per student: `students` and test accuracy, nll (nats), ece, confidence, logit_norm.

        accuracy and ece (15 equal-width bins, Guo et al. 2017) are fractions; confidence is the mean largest probability;
        logit_norm the mean length of the centred logit vector.
        """
        columns: list[dict[str, Tensor]] = []
        for rows in _slices(len(self), 32):
            part = Fleet(self.model.part(rows), self.students[rows])
            columns.append(scores(part.predict(task.x_test), task.y_test))
        measured = {name: torch.cat([c[name] for c in columns]).cpu().numpy() for name in columns[0]}
        return self.students.assign(**measured)


def scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Accuracy, nll, ece, confidence and logit_norm, each (F,), of logits (F, N, K) on labels (N,)."""
    _check.shape("logits", logits, (None, None, None))
    nll = cross_entropy(logits, labels).mean(-1)
    confidence, guess = torch.softmax(logits, dim=-1).max(-1)  # (F, N)
    right = (guess == labels).to(logits.dtype)
    bins = (confidence * 15).long().clamp_(max=14)  # (F, N)
    gap = torch.zeros(len(logits), 15, dtype=logits.dtype, device=logits.device)
    gap.scatter_add_(1, bins, right - confidence)
    centred = logits - logits.mean(-1, keepdim=True)
    return {
        "accuracy": right.mean(-1),
        "nll": nll,
        "ece": gap.abs().sum(-1) / logits.shape[1],
        "confidence": confidence.mean(-1),
        "logit_norm": centred.norm(dim=-1).mean(-1),
    }


def train(task: Task, recipes: Recipe | Sequence[Recipe], *, progress: bool = False, **settings: object) -> Fleet:
    """Train len(recipes) x len(seeds) students to the end and return them. Settings: see `training`.

    `progress=True` shows a progress bar.
    """
    fleet = None
    with tqdm(disable=not progress, unit="step", leave=False) as bar:
        for state in training(task, recipes, **settings):  # type: ignore[arg-type]
            if fleet is None:
                bar.reset(total=state.steps)  # a notebook's bar learns its length in no other way
            fleet = state.fleet
            bar.update(state.step - bar.n)
    assert fleet is not None
    return fleet


def training(
    task: Task,
    recipes: Recipe | Sequence[Recipe],
    *,
    seeds: int | Iterable[int] = 8,
    hidden: Sequence[int] = (128,),
    epochs: int = 40,
    batch_size: int = 128,
    lr: float = 3e-3,
    weight_decay: float = 0.0,
    model: Callable[[Sequence[int]], FleetModel] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    compile: bool = False,
) -> Iterator[Progress]:
    """Train len(recipes) x len(seeds) students at once; yield a `Progress` after every epoch. Close it to stop.

    seeds: a number n (0..n-1) or the seeds themselves. A seed fixes initialisation and data order whatever the recipe, so
        students that share it form a pair; a fleet of F equals F separate runs.
    hidden: widths of the MLP's hidden layers; `model`, a function from seeds to a `FleetModel`, replaces the MLP.
    lr, weight_decay: AdamW, cosine decay to 0 over all steps. Weight decay is decoupled.
    device: default is where `task` lies. threads: CPU threads; default by the size of a step, at most what torch has.
    compile: run the model through torch.compile. On a CPU it has been slower in all our benchmarks: for GPUs and own models.

    Raises ValueError for empty or wrong settings and for targets that do not match the task.
    """
    recipes = [recipes] if isinstance(recipes, Recipe) else list(recipes)
    seeds = list(seeds) if isinstance(seeds, Iterable) else list(range(_check.positive_int(seeds, "seeds")))
    _check_settings(task, recipes, seeds, hidden, epochs, batch_size, lr, weight_decay, dtype, threads)
    device = torch.device(device) if device is not None else task.x_train.device

    students = pd.DataFrame(
        [(r.name, r.temperature, r.alpha, s) for r in recipes for s in seeds],
        columns=["recipe", "temperature", "alpha", "seed"],
    )
    every_seed = [s for _ in recipes for s in seeds]
    if model is None:
        sizes = (task.x_train[0].numel(), *hidden, task.num_classes)
        network: FleetModel = MLP(sizes, every_seed, dtype)
    else:
        network = model(every_seed).to(dtype)
    network.to(device)
    fleet = Fleet(network, students)

    x = task.x_train.to(device, dtype)
    with torch.no_grad():
        made, expected = tuple(network(x[:1]).shape), (len(fleet), 1, task.num_classes)
    if made != expected:
        raise ValueError(f"model must give logits of shape {expected} for one example, got {made}")
    x = x.flatten(1) if isinstance(network, MLP) else x
    objective = _Objective(task, recipes, len(seeds), device, dtype)
    steps = epochs * -(-len(x) // batch_size)
    generators = [_seeds.stream(seed, "data order") for seed in seeds]
    slot = torch.arange(len(fleet)) % len(seeds)

    # Groups of students run in threads of their own. Threads that are left over share each operation's work.
    on_cpu = device.type == "cpu"
    threads = _thread_count(threads, 3 * network.flat.numel() * batch_size) if on_cpu else 1
    workers = 1 if compile else min(threads, len(fleet))
    limit = _group_size(network, batch_size) if on_cpu else len(fleet)
    rounds = -(-len(fleet) // (limit * workers))  # of one group a thread, all about as large
    parts = _slices(len(fleet), -(-len(fleet) // (rounds * workers)))
    groups = [_Group(network.part(rows), objective.part(rows), x, lr, weight_decay, steps, compile) for rows in parts]
    with ThreadPoolExecutor(workers) as pool:
        each = pool.map if workers > 1 else map
        for epoch in range(1, epochs + 1):
            orders = torch.stack([torch.randperm(len(x), generator=g) for g in generators]).to(device)  # (S, N)
            # Between epochs the caller has its own settings back, also if it never resumes us.
            with _cpu.settings(threads // workers, onednn=on_cpu and not compile):
                own = [orders[slot[rows]] for rows in parts]
                list(each(_Group.epoch, groups, own, repeat(batch_size)))
            yield Progress(epoch * steps // epochs, steps, epoch, epochs, fleet)


class _Objective:
    """The logit gradient of every student's loss, from one table per recipe."""

    def __init__(
        self, task: Task, recipes: Sequence[Recipe], repeats: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        n, k = len(task.y_train), task.num_classes
        hard = torch.nn.functional.one_hot(task.y_train, k).to(device, dtype)
        tables = [(1 - r.alpha) * hard + (0 if r.targets is None else r.pull * r.targets.to(hard)) for r in recipes]
        self.table = torch.cat(tables).T.contiguous()  # (K, R * N)

        def column(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), device=device, dtype=dtype).repeat_interleave(repeats).view(-1, 1, 1)

        self.row = torch.arange(len(recipes), device=device).repeat_interleave(repeats).unsqueeze(1) * n  # (F, 1)
        self.hard = column(1 - r.alpha for r in recipes)  # (F, 1, 1)
        self.pull = column(r.pull for r in recipes)
        self.cold = column(1 / r.temperature for r in recipes)

    def part(self, rows: slice) -> _Objective:
        part = object.__new__(_Objective)
        part.table, part.row = self.table, self.row[rows]
        part.hard, part.pull, part.cold = self.hard[rows], self.pull[rows], self.cold[rows]
        part.warm = bool((part.cold != 1).any())  # read once: no synchronisation inside the loop
        return part

    warm = True

    def gradient(self, z: Tensor, index: Tensor) -> Tensor:
        """Gradient of the mean loss, (F, K, B), at logits z (F, K, B) of examples index (F, B). Overwrites z."""
        students, classes, batch = z.shape
        c = self.table.index_select(1, (index + self.row).view(-1)).view(classes, students, batch).transpose(0, 1)
        if not self.warm:
            return torch.softmax(z, 1).mul_(self.hard + self.pull).sub_(c).div_(batch)
        g = torch.softmax(z, 1).mul_(self.hard)
        return g.addcmul_(torch.softmax(z.mul_(self.cold), 1), self.pull).sub_(c).div_(batch)


class _Group:
    """Students that step together, with their optimiser."""

    def __init__(
        self,
        model: FleetModel,
        objective: _Objective,
        x: Tensor,
        lr: float,
        weight_decay: float,
        steps: int,
        compile: bool,
    ) -> None:
        self.model, self.objective, self.x = model, objective, x
        self.each = torch.compile(model.each) if compile else model.each
        self.tape = model.tape() if isinstance(model, MLP) and not compile else None
        parameter = model.flat if self.tape is None else self.tape.parameter
        self.optimiser = torch.optim.AdamW([parameter], lr=lr, weight_decay=weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, steps)

    def epoch(self, orders: Tensor, batch_size: int) -> None:
        """One step for each batch of the data orders (F, N)."""
        for index in orders.split(batch_size, dim=1):
            self.step(index)
        if self.tape is not None:
            self.tape.store()

    def step(self, index: Tensor) -> None:
        """One optimiser step on examples index (F, B)."""
        x = self.x.index_select(0, index.reshape(-1)).view(*index.shape, *self.x.shape[1:])
        if self.tape is not None:
            with torch.no_grad():
                self.tape.backward(self.objective.gradient(self.tape.forward(x), index))
        else:
            z = self.each(x).mT  # (F, K, B)
            self.optimiser.zero_grad(set_to_none=False)
            z.backward(self.objective.gradient(z.detach().clone(memory_format=torch.contiguous_format), index))
        self.optimiser.step()
        self.schedule.step()


def _group_size(model: FleetModel, batch_size: int) -> int:
    """Students whose weights, gradients, moments and activations fit the cache together."""
    bytes_each = 4 * model.flat[0].numel()
    if isinstance(model, MLP):
        bytes_each += 2 * batch_size * sum(model.sizes[1:])
    return max(4, CACHE_BYTES // (bytes_each * model.flat.element_size()))


def _slices(length: int, size: int) -> list[slice]:
    """0..length in the fewest slices of at most `size`, as even as can be."""
    count = -(-length // size)
    edges = [i * length // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _thread_count(threads: int | None, work: int) -> int:
    """Threads asked for, or by the multiply-adds of a step, at most what torch has."""
    return threads or max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))


def _check_settings(
    task: Task,
    recipes: list[Recipe],
    seeds: list[int],
    hidden: Sequence[int],
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    dtype: torch.dtype,
    threads: int | None,
) -> None:
    if not isinstance(task, Task):
        raise ValueError(f"task must be a kdlib.Task, got {type(task).__name__}")
    if not recipes or not seeds:
        raise ValueError(f"recipes and seeds must not be empty, got {len(recipes)} recipes and {len(seeds)} seeds")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must differ from each other, got {seeds}")
    _check.positive_int(epochs, "epochs")
    _check.positive_int(batch_size, "batch_size")
    for width in hidden:
        _check.positive_int(width, "hidden")
    if threads is not None:
        _check.positive_int(threads, "threads")
    if not 0 < lr < float("inf") or not 0 <= weight_decay < float("inf"):
        raise ValueError(f"lr must be positive and weight_decay not negative, got {lr} and {weight_decay}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    for recipe in recipes:
        if not isinstance(recipe, Recipe):
            raise ValueError(f"recipes must be kdlib.Recipe objects, got {type(recipe).__name__}")
        expected = (len(task.x_train), task.num_classes)
        if recipe.targets is not None and tuple(recipe.targets.shape) != expected:
            raise ValueError(
                f"targets of recipe {recipe.name!r} must have shape {expected}, got {tuple(recipe.targets.shape)}"
            )
