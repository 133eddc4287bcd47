"""What a reader waits for: a slider's whole grid, a setting trained live, a slider's picture."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import seaborn as sns
import torch

import kdlib
from kdlib import losses
from kdlib.levels import split

from . import baselines
from .baselines import Problem
from .conftest import Contest

PLAIN = "plain batched torch"
T, ALPHA = (1.0, 2.0, 4.0, 8.0), (0.25, 0.5, 0.75, 1.0)


def problem_on_h(
    timing: bool, seeds: int, make: Callable[[torch.Tensor, torch.Tensor], list[kdlib.Recipe]], threads: int = 1
) -> Problem:
    """World H and the recipes that `make` forms from a trained teacher's logits and the labels."""
    task = kdlib.data.world("H", n_test=5000 if timing else 50)
    quick = {} if timing else {"epochs": 1}
    teacher = kdlib.train(task.for_teacher, kdlib.Recipe.hard(), seeds=[0], **kdlib.data.TEACHER["H"] | quick)
    recipes = make(teacher.predict(task.x_train)[0], task.y_train)
    student = kdlib.data.STUDENT["H"] | quick
    seeds = seeds if timing else 1
    return Problem(task, recipes, seeds, student["hidden"], student["epochs"], 128, weight_decay=0.0, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("contender", ["kdlib", PLAIN])
def test_grid(threads: int, contender: str, timing: bool, measure: Callable[..., None]) -> None:
    """4 x 4 settings of (T, alpha), 8 seeds each: one training run."""
    torch.set_num_threads(threads)
    settings = list(itertools.product(T, ALPHA if timing else ALPHA[:1]))
    problem = problem_on_h(
        timing, 8, lambda v, _: [kdlib.Recipe(f"{t}, {a}", losses.soften(v, t), t, a) for t, a in settings], threads
    )
    run = baselines.fleet if contender == "kdlib" else baselines.plain_batch
    contest = Contest(f"grid of 128 students, 40 epochs of world H, threads: {threads}", PLAIN)
    measure(contest, contender, lambda: list(run(problem)), 3, 0)


@pytest.mark.parametrize("contender", ["kdlib", PLAIN])
def test_retrain(contender: str, timing: bool, measure: Callable[..., None]) -> None:
    """16 seeds of one setting, trained and evaluated."""
    problem = problem_on_h(timing, 16, lambda v, _: [kdlib.Recipe("KD", losses.soften(v, 3.0), 3.0, 0.8)])
    run = baselines.fleet if contender == "kdlib" else baselines.plain_batch

    def retrain() -> dict[str, torch.Tensor]:
        *_, predict = run(problem)
        return kdlib.fleet.scores(predict(problem.task.x_test), problem.task.y_test)

    measure(Contest("live retrain of 16 students, with evaluation", PLAIN), contender, retrain, 5)


@pytest.mark.parametrize("contender", ["kdlib", "one student after the other"])
def test_ladder(contender: str, timing: bool, measure: Callable[..., None]) -> None:
    """The whole ladder of the levels: 6 recipes at T = 1 and at T = 4, 20 seeds each."""

    def make(v: torch.Tensor, y: torch.Tensor) -> list[kdlib.Recipe]:
        rungs = [(t, split.ladder(losses.soften(v, t), y)) for t in (1.0, 4.0)]
        return [kdlib.Recipe(f"{name}, T={t}", table, t) for t, tables in rungs for name, table in tables.items()]

    problem = problem_on_h(timing, 20, make)
    run = baselines.fleet if contender == "kdlib" else baselines.loop
    contest = Contest("ladder of 240 students, world H", "one student after the other")
    measure(contest, contender, lambda: list(run(problem)), 3 if contender == "kdlib" else 1, 0)


@pytest.mark.parametrize("contender", ["kdlib, drawn anew", "seaborn and PNG, as by interact"])
def test_redraw(contender: str, timing: bool, measure: Callable[..., None]) -> None:
    """One picture by Python: accuracy against alpha at some T, mean and interval of 8 seeds. A slider of kdlib asks for none."""
    positions = T if timing else T[:2]
    generator = torch.Generator().manual_seed(0)
    frame = pd.DataFrame(itertools.product(T, ALPHA, range(8)), columns=["T", "alpha", "seed"])
    frame["accuracy"] = 0.7 + 0.02 * torch.randn(len(frame), generator=generator).numpy()

    def draw(T: float) -> str:
        sns.lineplot(frame[frame["T"] == T], x="alpha", y="accuracy", errorbar=("ci", 95), seed=0)
        return f"Accuracy against alpha at T = {T:g}."

    def interact(T: float) -> None:
        figure = plt.figure(figsize=kdlib.explore.FIGSIZE, layout="constrained")
        draw(T)
        figure.savefig(io.BytesIO(), format="png")
        plt.close(figure)

    figure = kdlib.explore.explore(draw, T=positions, table=frame)
    values = itertools.cycle(positions[1:] + positions[:1])
    moves: dict[str, Callable[[float], object]] = {
        "kdlib, drawn anew": lambda value: figure.render({"T": value}),
        "seaborn and PNG, as by interact": interact,
    }
    contest = Contest("picture of a slider's state", "seaborn and PNG, as by interact", "ms")
    measure(contest, contender, lambda: moves[contender](next(values)), 12 if timing else 1)
