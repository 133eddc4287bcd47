"""Train a fleet: F students at once, one row of (recipe, seed) each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Unpack

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kdlib import _check
from kdlib.data.task import Task
from kdlib.fleet.engine import Block, Engine, Progress
from kdlib.fleet.objective import Distillation, LogitObjective, LossObjective, Objective
from kdlib.fleet.recipe import Recipe, check_recipes
from kdlib.fleet.result import Fleet
from kdlib.fleet.settings import (
    Maker,
    Number,
    Optimiser,
    Settings,
    TrainSettings,
    adamw,
    grid,
    marks,
    seed_list,
)
from kdlib.models import MLP, FleetModel


def train(
    task: Task, recipes: Recipe | Sequence[Recipe], *, progress: bool = False, **settings: Unpack[TrainSettings]
) -> Fleet:
    """Train len(recipes) x len(seeds) students to the end and return them. Settings: see `training`.

    `progress=True` shows a progress bar.
    """
    return _finished(training(task, recipes, **settings), progress)


def training(
    task: Task,
    recipes: Recipe | Sequence[Recipe],
    *,
    seeds: int | Iterable[int] = 8,
    hidden: Sequence[int] = (128,),
    epochs: int | Sequence[int] = 40,
    batch_size: int | None = 128,
    lr: Number = 3e-3,
    weight_decay: Number = 0.0,
    optimiser: Optimiser = adamw,
    schedule: str = "cosine",
    model: Maker | None = None,
    curve: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    compile: bool = False,
) -> Iterator[Progress]:
    """Train len(recipes) x len(seeds) students at once; yield a `Progress` after every epoch. Close it to stop.

    seeds: a number n (0..n-1) or the seeds themselves. A seed fixes initialisation and data order whatever the recipe, so
        students that share it form a pair; a fleet of F equals F separate runs.
    hidden: widths of the MLP's hidden layers; `model`, a function from seeds to a `FleetModel`, replaces the MLP.
    epochs, lr, weight_decay: numbers, or sequences of them: then every student is trained with each, and the value is a
        column of `students`. The schedule ends with a student's own last epoch.
    batch_size: examples a step; None for all of them at once, in no order.
    optimiser: called like `torch.optim.SGD(parameters, lr=..., weight_decay=...)`; the default is AdamW, whose decay is
        decoupled. schedule: "cosine" to 0 over all steps, or "constant".
    curve: evaluate after every so many epochs, or after those named, and after a student's last: `Fleet.curve`, with the
        test set and, where the task has one (`Task.split_validation`), the validation part.
    device: default is where `task` lies. threads: CPU threads; default by the size of a step, at most what torch has.
    compile: run the model through torch.compile. On a CPU it has been slower in all our benchmarks: for GPUs and own models.

    Raises ValueError for empty or wrong settings and for targets that do not match the task; FloatingPointError, while it
    runs, where a student's weights or logits are no longer finite, naming student and epoch.
    """
    recipes = [recipes] if isinstance(recipes, Recipe) else list(recipes)
    check_recipes(task, recipes)
    chosen = seed_list(seeds)
    students = pd.DataFrame(
        [(r.name, r.temperature, r.alpha, s) for r in recipes for s in chosen],
        columns=["recipe", "temperature", "alpha", "seed"],
    )
    if model is None:
        if not isinstance(hidden, Iterable):
            raise ValueError(f"hidden must be a sequence of widths, got {hidden!r}")
        widths = [_check.positive_int(width, "hidden") for width in hidden]
        model = partial(MLP, (task.x_train[0].numel(), *widths, task.num_classes))

    def objectives(like: Tensor) -> list[tuple[int, LogitObjective]]:
        """With the number of students of each, in their order."""
        made: list[tuple[int, LogitObjective]] = []
        for plain, some in groupby(recipes, key=lambda recipe: recipe.loss is None):
            own = list(some)
            if plain:
                made.append((len(own) * len(chosen), Distillation(task, own, len(chosen), like)))
            else:
                made += [(len(chosen), LossObjective(task, recipe, like)) for recipe in own]
        return made

    return _start(
        task, students, model, objectives, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay,
        optimiser=optimiser, schedule=schedule, curve=curve, device=device, dtype=dtype, threads=threads, compile=compile,
    )  # fmt: skip


def fit(
    task: Task,
    students: pd.DataFrame | int | Iterable[int],
    model: Maker,
    objective: Objective,
    *,
    trainable: Sequence[int] | Tensor | None = None,
    coupled: int = 1,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> Fleet:
    """Train students on an objective of your own, to the end. Settings: see `training`; the network is `model`'s.

    students: a data frame with a column `seed`, one row each, or seeds as for `training`.
    objective: called with a part of the model, inputs x (F, B, ...) of one batch for each of its students and the examples'
        numbers index (F, B) in the training set; returns the value (F,) that each of them minimises, differentiable in
        `model.flat`. `model.rows (F,)` are the students' places in the whole fleet, for a value that each has of its own.
    trainable: numbers of the layers to train (-1 for the last; the others stay as they started), or a mask (P,) or (F, P).
    coupled: this many neighbours, in the order of `students`, always step together, so that an objective may join them.
        Each has the batch of its own seed; one batch for all is `x[:1]`, or `batch_size=None`.

    Raises ValueError as `training`, and for an objective that returns another shape or has no gradient.
    """
    return _finished(
        fitting(task, students, model, objective, trainable=trainable, coupled=coupled, **settings), progress
    )


def fitting(
    task: Task,
    students: pd.DataFrame | int | Iterable[int],
    model: Maker,
    objective: Objective,
    *,
    trainable: Sequence[int] | Tensor | None = None,
    coupled: int = 1,
    **settings: Unpack[Settings],
) -> Iterator[Progress]:
    """`fit` as a generator: yields a `Progress` after every epoch."""
    base = students if isinstance(students, pd.DataFrame) else pd.DataFrame({"seed": seed_list(students)})
    if "seed" not in base or base.empty:
        raise ValueError(
            f"students must have a column 'seed' and at least one row, got {len(base)} rows of {list(base.columns)}"
        )
    base = base.assign(seed=[_check.integer(seed, "seed") for seed in base["seed"]])
    if not callable(objective):
        raise ValueError(f"objective must be a function of (model, x, index), got {type(objective).__name__}")
    if _check.positive_int(coupled, "coupled") > 1 and len(base) % coupled:
        raise ValueError(f"coupled must divide the number of students, {len(base)}, got {coupled}")
    chosen: dict[str, Any] = {**DEFAULTS, **settings}
    if chosen["compile"]:
        raise ValueError("compile must be False for an objective of your own, got True: compile inside the objective")
    return _start(
        task, base.reset_index(drop=True), model, lambda like: [(len(base), objective)],
        trainable=trainable, coupled=coupled, **chosen,
    )  # fmt: skip


DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(training).parameters.items()
    if name in Settings.__annotations__
}


def _start(
    task: Task,
    students: pd.DataFrame,
    make: Maker,
    objectives: Callable[[Tensor], Sequence[tuple[int, Any]]],
    *,
    epochs: int | Sequence[int],
    batch_size: int | None,
    lr: Number,
    weight_decay: Number,
    optimiser: Optimiser,
    schedule: str,
    curve: int | Sequence[int] | None,
    device: str | torch.device | None,
    dtype: torch.dtype,
    threads: int | None,
    compile: bool,
    trainable: Sequence[int] | Tensor | None = None,
    coupled: int = 1,
) -> Iterator[Progress]:
    """Check everything, make the networks of all settings of the grid, and hand them to an engine."""
    if not isinstance(task, Task):
        raise ValueError(f"task must be a kdlib.Task, got {type(task).__name__}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule must be 'cosine' or 'constant', got {schedule!r}")
    if not callable(optimiser):
        raise ValueError(f"optimiser must be called like torch.optim.SGD, got {type(optimiser).__name__}")
    batch_size = None if batch_size is None else _check.positive_int(batch_size, "batch_size")
    threads = None if threads is None else _check.positive_int(threads, "threads")
    combinations, swept = grid(lr, weight_decay, epochs)
    columns = [{name: getattr(setting, name) for name in swept} for setting in combinations]
    everybody = pd.concat([students.assign(**own) for own in columns], ignore_index=True)

    if not callable(make):
        raise ValueError(f"model must be a function from seeds to a FleetModel, got {type(make).__name__}")
    seeds = everybody["seed"].tolist()
    network = make(seeds)
    if not isinstance(network, FleetModel):
        raise ValueError(f"model must be a function from seeds to a FleetModel, got {type(network).__name__}")
    if tuple(network.seeds) != tuple(seeds):
        raise ValueError(f"model must make one student for each of the {len(seeds)} seeds it is given, in their order")
    network.to(dtype).to(task.x_train.device if device is None else _check.device(device))
    _check_output(network, task)
    made = objectives(network.flat.detach()[:0])
    blocks, at = [], 0
    for setting in combinations:
        for count, objective in made:
            blocks.append(Block(slice(at, at + count), objective, setting))
            at += count
    engine = Engine(
        task, Fleet(network, everybody), blocks, batch_size=batch_size, optimiser=optimiser, schedule=schedule,
        mask=_mask(network, trainable), coupled=coupled, marks=marks(curve, max(s.epochs for s in combinations)),
        threads=threads, compile=compile,
    )  # fmt: skip
    return engine.run()


@torch.enable_grad()
def _check_output(network: FleetModel, task: Task) -> None:
    examples = 4 if task.num_classes == 3 else 3  # another number than of classes: no axis passes for the other
    x = task.x_train[:1].to(network.flat)
    made = network.part(slice(0, 2))(x.expand(examples, *x.shape[1:]))
    expected = (min(2, len(network.seeds)), examples, task.num_classes)
    if not isinstance(made, Tensor) or tuple(made.shape) != expected:
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"model must give logits of shape {expected}, students x examples x classes, got {got}")
    if not made.requires_grad:
        raise ValueError("model must give logits that depend on its parameters, got logits without gradient")


def _mask(model: FleetModel, trainable: Sequence[int] | Tensor | None) -> Tensor | None:
    """Which parameters change, (F, P): by `fit`'s argument and the model's own opinion; None for all."""
    own = None if model.trainable is None else model.trainable.to(model.flat.device).expand_as(model.flat)
    if trainable is None:
        return own
    mask = torch.zeros_like(model.flat, dtype=torch.bool)
    if isinstance(trainable, Tensor):
        if trainable.dtype != torch.bool or trainable.shape not in (mask.shape, mask.shape[1:]):
            got = f"{trainable.dtype} {tuple(trainable.shape)}"
            raise ValueError(f"trainable must be layers or a bool mask {tuple(mask.shape)}, got {got}")
        mask |= trainable.to(mask.device)
    else:
        if not isinstance(trainable, Iterable):
            raise ValueError(f"trainable must be a sequence of layers or a bool mask, got {trainable!r}")
        layers = model.layers(mask)
        for k in trainable:
            if _check.integer(k, "trainable", -len(layers)) >= len(layers):
                raise ValueError(f"trainable must name layers of the {len(layers)} that the model has, got {k}")
            for part in layers[k]:
                part.fill_(True)
    return mask if own is None else mask & own


def _finished(run: Iterator[Progress], progress: bool) -> Fleet:
    fleet = None
    with tqdm(disable=not progress, unit="step", leave=False) as bar:
        for state in run:
            if fleet is None:
                bar.reset(total=state.steps)  # a notebook's bar learns its length in no other way
            fleet = state.fleet
            bar.update(state.step - bar.n)
    assert fleet is not None
    return fleet


# What help() shows of `train`: its own arguments and all of `training`'s, by name.
_own = [p for p in inspect.signature(train).parameters.values() if p.kind is not p.VAR_KEYWORD]
_others = [p for p in inspect.signature(training).parameters.values() if p.kind is p.KEYWORD_ONLY]
train.__signature__ = inspect.Signature([*_own, *_others], return_annotation="Fleet")  # type: ignore[attr-defined]
