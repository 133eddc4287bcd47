"""What students of a teacher with a shortcut inherit, and from which part of its table.

    kdlib study data/causal_students.py --store _build/studies/causal_students --table data/causal_students.npz

The world with a spurious child, drawn anew for each seed; under the shift the child has the other sign. "values": teachers of a number,
their students, and mixtures of an accurate teacher with the causal regression, or with a constant as the control. "classes": the same
world cut into five classes, and students of the tables of `kdlib.levels.split.lattice` of an accurate and of a causal teacher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdlib import Fleet, Recipe, Task, data, train
from kdlib.data.causal import Shift, spurious_child
from kdlib.fleet import early_stopped, fitting
from kdlib.fleet.engine import Progress
from kdlib.levels.split import lattice, permuted_targets
from kdlib.mechanisms.causal import fitted, on_values
from kdlib.models import MLP

FLIPS = {"S": Shift(gain=-1)}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the causal regression in a mixture
NOISES = {"sees S": 0.0, "through noise 1": 1.0, "through noise 10": 10.0}
LENGTHS = [10, 20, 40, 80, 160]
grid = {"setting": ["values", "classes"], "seed": range(20)}
NUMBERS = ["share", "epochs", "source", "flips", "val_accuracy"]


def best(run: Iterator[Progress], x: Tensor, wanted: Tensor) -> Fleet:
    """Each network as it was after the epoch at which it was nearest to its row of `wanted (F, n)` on held-out inputs x."""
    return early_stopped(run, lambda fleet: (fleet.predict(x).squeeze(-1) - wanted).square().mean(1))[0]


def learnt(task: Task, seeds: Any, wanted: Tensor, targets: Tensor | None = None, noise: Tensor | None = None) -> Fleet:
    make = partial(MLP, (4, 32, 1))
    how: dict[str, Any] = {"epochs": 80, "batch_size": 64, "lr": 3e-3, "threads": 1}
    run = fitting(task, pd.DataFrame({"seed": seeds}), make, on_values(task, targets, noise, seed=min(seeds)), **how)
    return best(run, task.extra["x_validation"], wanted)


def values(seed: int) -> Iterator[dict[str, Any]]:
    """Rows of mean squared errors; a share of NaN where there is no mixture."""
    task = data.causal_world(spurious_child(), seed, shift=FLIPS)
    held, names = task.extra["y_validation"], list(task.extra["names"])
    tests = {"source": (task.extra["x_source_test"], task.extra["y_source_test"]), "flips": (task.x_test, task.y_test)}

    def row(recipe: str, kind: str, said: dict[str, Tensor], share: float = torch.nan) -> dict[str, Any]:
        errors = {name: float((said[name] - y).square().mean()) for name, (_, y) in tests.items()}
        return {"recipe": recipe, "kind": kind, "share": share, **errors}

    noise = torch.tensor(list(NOISES.values())).unsqueeze(1) * torch.tensor([0.0, 0.0, 0.0, 1.0])
    teachers = learnt(task, [3 * seed + i for i in range(3)], held.expand(3, -1), noise=noise)
    rule = fitted(spurious_child(), frame(task.x_train, names).assign(Y=task.y_train.double().numpy()), ["Y"])["Y"]

    def says(x: Tensor) -> tuple[Tensor, Tensor]:
        """Of inputs: the networks (3, n), and the causal regression (n,)."""
        return teachers.predict(x).squeeze(-1), rule(frame(x, names)).float()

    at = {name: says(x) for name, (x, _) in tests.items()}
    (nets, causal), (nets_held, causal_held) = says(task.x_train), says(task.extra["x_validation"])
    mean = float(task.y_train.mean())
    targets, wanted, rows = [], [], []
    for i, name in enumerate(NOISES):
        targets.append(nets[i])
        wanted.append(nets_held[i])
        rows.append((name, torch.nan, {k: v[0][i] for k, v in at.items()}))
    for name, second in (("causal", None), ("constant", mean)):
        for share in SHARES:

            def mixed(net: Tensor, cause: Tensor, share: float = share, second: float | None = second) -> Tensor:
                return (1 - share) * net + share * (cause if second is None else torch.full_like(cause, second))

            targets.append(mixed(nets[0], causal))
            wanted.append(mixed(nets_held[0], causal_held))
            rows.append((f"with the {name}", share, {k: mixed(v[0][0], v[1]) for k, v in at.items()}))
    # All students of a seed start alike: what differs is what they are told.
    targets.append(task.y_train)
    wanted.append(held)
    students = learnt(task, [1_000_000 + seed] * len(targets), torch.stack(wanted), torch.stack(targets))
    after = {name: students.predict(x).squeeze(-1) for name, (x, _) in tests.items()}
    for i, (name, share, said) in enumerate(rows):
        yield row(name, "teacher", said, share)
        yield row(name, "student", {k: v[i] for k, v in after.items()}, share)
    yield row("labels", "student", {k: v[-1] for k, v in after.items()})


def frame(x: Tensor, names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(x.double().numpy(), columns=names)


def classes(seed: int) -> pd.DataFrame:
    """Rows of accuracies, in 0..1, at every length."""
    task = data.causal_world(spurious_child(), seed, shift=FLIPS, classes=5)
    y, mask = task.y_train, torch.tensor([1.0, 1.0, 0.0, 0.0])
    x = ("x_validation", "x_source_test")
    blind = replace(
        task, x_train=task.x_train * mask, x_test=task.x_test * mask, extra=task.extra | {k: task.extra[k] * mask for k in x}
    )  # fmt: skip
    recipes, teachers = [Recipe.hard()], {}
    for name, own in (("accurate", task), ("causal", blind)):
        made = train(own, Recipe.hard(), seeds=[seed], hidden=(32,), epochs=LENGTHS, batch_size=64, threads=1)
        rows = made.evaluate(own)
        pick = int(rows["val_nll"].argmin())
        p = made.predict(own.x_train)[pick].double().softmax(-1)
        teachers[name] = scored(made, own).iloc[[pick]].assign(recipe="teacher itself", kind=name)
        tables = lattice(p, y) | {"permuted": permuted_targets(p, y, seed)}
        del tables["hard labels"]
        recipes += [Recipe.soft(f"{name}: {table}", targets.float()) for table, targets in tables.items()]
    students = train(task, recipes, seeds=[1_000_000 + seed], hidden=(32,), epochs=LENGTHS, batch_size=64, threads=1)
    made = scored(students, task)
    split = made["recipe"].str.split(": ", expand=True)
    labels = split[1].isna()
    made = made.assign(recipe=split[1].mask(labels, split[0]), kind=split[0].mask(labels, "labels"))
    return pd.concat([made, *teachers.values()], ignore_index=True)


def scored(fleet: Fleet, task: Task) -> pd.DataFrame:
    source = fleet.scored(task.extra["x_source_test"], task.extra["y_source_test"])["accuracy"]
    rows = fleet.evaluate(task)
    return rows.assign(source=source, flips=rows["accuracy"])


def experiment(setting: str, seed: int) -> pd.DataFrame:
    """One row per teacher or student: what it is, and its error (values) or accuracy (classes) on the source and under the shift."""
    found = pd.DataFrame(list(values(seed))) if setting == "values" else classes(seed)
    return found.reindex(columns=["recipe", "kind", *NUMBERS]).astype(dict.fromkeys(NUMBERS, float)).round(4)
