"""Candidates and their scores: a hundred networks in each of 40 worlds of three kinds, fifty on each regime and target of the proteins.

    kdlib study data/causal.py --store _build/studies/causal --table data/causal.npz

"child": the world with a spurious child; a quarter of the candidates see the child as it is, the others through noise, and there are
four architectures. "bent": the same with equations that saturate, while every score goes on fitting lines. "replica": the setting of the released code at a smaller size, random graphs and networks that differ by seed
alone. "proteins": one regime held out (the seed is its number), candidates that see their inputs through noise; it takes the file
that `kdlib.data.causal.sachs` reads. All choices were made before the run, and all lengths by validation data.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import networkx as nx
import pandas as pd
import torch
from torch import Tensor

from kdlib import Fleet, Task, _seeds, data
from kdlib.data import causal
from kdlib.data.causal import Shift, random_dag, spurious_child
from kdlib.fleet import early_stopped, fitting
from kdlib.fleet.engine import Progress
from kdlib.mechanisms.causal import log_likelihood, on_values, plug_in_distance
from kdlib.models import MLP

CHILD = {
    "flips": {"S": Shift(gain=-1)},
    "noisy": {"S": Shift(scale=10)},
    "covariate": {"A": Shift(1, 2), "B": Shift(0.5, 2)},
}
WIDTHS: dict[str, tuple[int, ...]] = {"linear": (), "8": (8,), "32": (32,), "16-16": (16, 16)}
EACH = 25  # candidates of an architecture
FLOOR = 1e-3  # of residual variances, as a share of the target's
TARGETS = ("raf", "mek", "erk", "plc", "pip2", "pka", "pkc")  # proteins with parents and children
ROWS = {"train": 1500, "validation": 500, "selection": 500}
SIZES = {"child": 40, "bent": 40, "replica": 40, "proteins": 9}
grid = pd.DataFrame([(world, seed) for world, n in SIZES.items() for seed in range(n)], columns=["world", "seed"])
SCORES = ["refit", "joint", "plug", "plug_joint", "imposter", "imposter_plug", "incomplete", "incomplete_plug"]
THERE = ["flips", "noisy", "covariate", "all", "one", "regime"]


def best(run: Iterator[Progress], task: Task) -> Fleet:
    """Each network as it was after the epoch that validation data choose."""
    x, y = task.extra["x_validation"], task.extra["y_validation"]
    return early_stopped(run, lambda fleet: (fleet.predict(x).squeeze(-1) - y).square().mean(1))[0]


def networks(task: Task, widths: tuple[int, ...], seeds: Any, noise: Tensor | None = None, **how: Any) -> Fleet:
    make = partial(MLP, (task.x_train.shape[1], *widths, 1))
    settings: dict[str, Any] = {"epochs": 60, "batch_size": 64, "lr": 3e-3 if widths else 3e-2, "threads": 1}
    return best(fitting(task, seeds, make, on_values(task, noise=noise, seed=min(seeds)), **settings | how), task)


def measured(
    fleet: Fleet, task: Task, graph: nx.DiGraph, target: str, wrong: nx.DiGraph, less: nx.DiGraph | None
) -> pd.DataFrame:
    """One row per candidate: its error and scores on the selection set, which every criterion may use."""
    frame = task.extra["selection"]
    f = predicted(fleet, frame, task)
    floor = FLOOR * float(frame[target].var())
    rows = len(frame)
    found = {"error": (f - torch.tensor(frame[target].to_numpy())).square().mean(1)}
    score = partial(log_likelihood, frame=frame, target=target, predictions=f, floor=floor)
    found |= {"refit": score(graph, terms="target") / rows, "joint": score(graph) / rows}
    # The labelled rows that the plug-in form is fitted on are those that every candidate was trained on.
    source = task.extra["source"]
    found["plug"] = plug_in_distance(graph, frame, target, f, source)
    found["plug_joint"] = score(graph, source=source) / rows
    for name, other in (("imposter", wrong), ("incomplete", less)):
        blank = torch.full((len(f),), torch.nan, dtype=torch.float64)
        found[name] = blank if other is None else score(other, terms="target") / rows
        found[f"{name}_plug"] = blank if other is None else plug_in_distance(other, frame, target, f, source)
    return pd.DataFrame({name: values.numpy() for name, values in found.items()})


def predicted(fleet: Fleet, frame: pd.DataFrame, task: Task) -> Tensor:
    """What each network says (F, n), float64, to the inputs of a frame."""
    x = torch.tensor(frame[list(task.extra["names"])].to_numpy(), dtype=torch.float32)
    return fleet.predict(x).squeeze(-1).double()


def there(fleet: Fleet, task: Task, graph: nx.DiGraph, target: str, frame: pd.DataFrame, name: str) -> dict[str, Any]:
    """Error under a shift, and the two scores of its inputs alone."""
    f, y = predicted(fleet, frame, task), torch.tensor(frame[target].to_numpy())
    floor = FLOOR * float(task.extra["selection"][target].var())
    unlabelled = frame.drop(columns=target)
    return {
        name: (f - y).square().mean(1).numpy(),
        f"refit_{name}": (
            log_likelihood(graph, unlabelled, target, f, terms="target", floor=floor) / len(frame)
        ).numpy(),
        f"plug_{name}": plug_in_distance(graph, unlabelled, target, f, task.extra["source"]).numpy(),
    }


def sourced(task: Task, target: str) -> Task:
    """The task with its training rows as a frame, `source`."""
    x = pd.DataFrame(task.x_train.double().numpy(), columns=list(task.extra["names"]))
    task.extra["source"] = x.assign(**{target: task.y_train.double().numpy()})  # type: ignore[index]
    return task


def without(graph: nx.DiGraph, target: str, parents: list[str]) -> nx.DiGraph:
    """The graph with other parents of the target; edges back are taken out."""
    other = copy.deepcopy(graph)
    other.remove_edges_from([(p, target) for p in graph.predecessors(target)] + [(target, p) for p in parents])
    other.add_edges_from((p, target) for p in parents)
    return other


def child(seed: int, mechanism: str = "linear") -> Iterator[pd.DataFrame]:
    graph = spurious_child()
    world = partial(data.causal_world, graph, seed, mechanism=mechanism)
    task = sourced(world(), "Y")
    draws = {name: world(shift=shift).extra["shifted"] for name, shift in CHILD.items()}
    wrong, less = without(graph, "Y", ["S"]), without(graph, "Y", ["B"])
    generator = _seeds.stream(seed, "candidates")
    for number, (group, widths) in enumerate(WIDTHS.items()):
        sd = 10 ** (2.2 * torch.rand(EACH, generator=generator) - 1)  # 0.1 to 16
        sd[: EACH // 4] = 0
        noise = sd.unsqueeze(1) * torch.tensor([0.0, 0.0, 0.0, 1.0])
        fleet = networks(task, widths, [1000 * seed + EACH * number + i for i in range(EACH)], noise)
        shifted = {}
        for name, frame in draws.items():
            shifted |= there(fleet, task, graph, "Y", frame, name)
        yield measured(fleet, task, graph, "Y", wrong, less).assign(**shifted, group=group, target="Y")


def replica(seed: int) -> Iterator[pd.DataFrame]:
    graph = random_dag(5, seed)
    names = [node for node in graph if node != "Y"]
    sizes = {"n_train": 1200, "n_validation": 400, "n_selection": 400, "n_test": 1000}
    one = names[int(torch.randint(0, 4, (1,), generator=_seeds.stream(seed, "shifted node")))]
    shifts = {"all": {node: Shift(1, 2) for node in graph}, "one": {one: Shift(1, 2)}}
    task = sourced(data.causal_world(graph, seed, **sizes), "Y")
    parents = list(graph.predecessors("Y"))
    wrong = without(graph, "Y", [n for n in names if n not in parents] or parents[:1])
    less = without(graph, "Y", parents[1:]) if len(parents) > 1 else None
    sgd = partial(torch.optim.SGD, momentum=0.9)
    how = {"optimiser": sgd, "lr": 1e-3, "epochs": 8, "schedule": "constant"}
    fleet = networks(task, (32, 32), range(1000 * seed, 1000 * seed + 100), **how)
    shifted = {}
    for name, shift in shifts.items():
        frame = data.causal_world(graph, seed, shift=shift, **sizes).extra["shifted"]
        shifted |= there(fleet, task, graph, "Y", frame, name)
    yield measured(fleet, task, graph, "Y", wrong, less).assign(**shifted, group="32-32", target="Y")


def proteins(regime: int) -> Iterator[pd.DataFrame]:
    graph, frame = causal.sachs()
    frame[list(graph)] = (frame[list(graph)] - frame[list(graph)].mean()) / frame[list(graph)].std()
    away, rest = (frame[frame["regime"].eq(regime) == side][list(graph)] for side in (True, False))
    order = torch.randperm(len(rest), generator=_seeds.stream(regime, "proteins"))
    start, parts = 0, {}
    for name, size in ROWS.items():
        parts[name] = rest.iloc[order[start : start + size].tolist()].reset_index(drop=True)
        start += size
    for target in TARGETS:
        names = [node for node in graph if node != target]
        xy = {
            f"{kind}_{name}": torch.tensor(part[names if kind == "x" else target].to_numpy(), dtype=torch.float32)
            for name, part in {**parts, "test": away}.items()
            for kind in "xy"
        }
        held = {k: xy[k] for k in ("x_validation", "y_validation")}
        extra = {**held, "names": tuple(names), "selection": parts["selection"], "source": parts["train"]}
        task = Task(xy["x_train"], xy["y_train"], xy["x_test"], xy["y_test"], 1, name="proteins", extra=extra)
        parents = list(graph.predecessors(target))
        wrong = graph.reverse()
        less = without(graph, target, parents[1:]) if len(parents) > 1 else None
        generator = _seeds.stream(regime, f"candidates for {target}")
        for number, group in enumerate(("linear", "32")):
            noise = 10 ** (2.2 * torch.rand(EACH, len(names), generator=generator) - 1)
            noise[: EACH // 4] = 0
            noise *= torch.rand(EACH, len(names), generator=generator) < 0.5  # half the inputs are seen as they are
            seeds = [1000 * regime + EACH * number + i for i in range(EACH)]
            fleet = networks(task, WIDTHS[group], seeds, noise, epochs=30)
            shifted = there(fleet, task, graph, target, away, "regime")
            found = measured(fleet, task, graph, target, wrong, less)
            yield found.assign(**shifted, group=group, target=target)


def experiment(world: str, seed: int) -> pd.DataFrame:
    """One row per candidate: error and scores on the selection set, and under each shift its error and the scores of the inputs alone."""
    bent = partial(child, mechanism="nonlinear")
    made = {"child": child, "bent": bent, "replica": replica, "proteins": proteins}[world](seed)
    frame = pd.concat(made, ignore_index=True)
    frame["candidate"] = frame.groupby("target").cumcount()
    names = ["error", *SCORES, *(f"{kind}{name}" for name in THERE for kind in ("", "refit_", "plug_"))]
    frame = frame.reindex(columns=["target", "group", "candidate", *names])
    return frame.round(dict.fromkeys(names, 4))
