"""Networks on multi-view data: alone, in ensembles, taught by them, with every control, on ten draws of the data.

    kdlib study data/ensembles.py --store _build/studies/ensembles --table data/ensembles.npz

A point is one draw of the data under one heading. "A": multi-view images to train on. "A, own features alone": the same without
features of other classes in the training images. "A, changed": one thing changed at a time, and the exponent together with the share
of single-view images to train on. "B": longer noise, and 5 % single-view images to train on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdlib import Fleet, Task, data
from kdlib.fleet import fitting
from kdlib.fleet.engine import Progress
from kdlib.levels.split import permuted_targets
from kdlib.levels.universe import smooth_labels
from kdlib.losses import cross_entropy, soften
from kdlib.mechanisms.ensembles import (
    Linearised,
    MultiViewNet,
    averaged,
    descent,
    ensembles,
    errors,
    on_labels,
    on_teacher,
    views_known,
)

STOP, SIZES = 0.03, (2, 3, 5, 10)
DATA: dict[str, dict[str, Any]] = {
    "A": {},
    "A, own features alone": {"others_train": 0},
    "B": {"dimension": 800, "noise": 0.6, "other": (0.2, 0.4), "single_train": 0.05},
}
LONG = {"A": 850, "A, own features alone": 850, "B": 500}  # steps of every student and of its control
NETS = STUDENTS = 20
SHARES = {"": 0.0, "5 % single-view": 0.05, "10 % single-view": 0.1, "a third single-view": 1 / 3}
SETTINGS = ["A", "A, own features alone", "A, changed", "B"]
grid = {"draw": range(10, 20), "setting": SETTINGS}


def settled(run: Iterator[Progress], task: Task, stop: float = STOP) -> Fleet:
    """The networks once the loss of every one is below `stop`, or at the end."""
    for state in run:
        if state.step % 20 == 0:
            z = state.fleet.predict(task.x_train)
            if bool((cross_entropy(z, task.y_train.expand(z.shape[:2])).mean(-1) < stop).all()):
                break
    return state.fleet


def learn(task: Task, seeds: Any, objective: Any, steps: int, stop: float = STOP, **changed: Any) -> Fleet:
    """Networks of this book's size, one for each seed; `changed` has settings of the network and, by name, of the run."""
    kind, coupled, flat = (changed.pop(k, d) for k, d in (("kind", MultiViewNet), ("coupled", 1), ("flat", None)))
    settings = descent(task, coupled) | {k: changed.pop(k) for k in ("optimiser", "lr") if k in changed}
    width = changed.pop("width", 12)
    network = partial(kind, task.num_classes, width, task.x_train.shape[-1], flat=flat, **changed)
    return settled(fitting(task, seeds, network, objective, coupled=coupled, epochs=steps, **settings), task, stop)


def rows(recipe: str, z: Tensor, z_train: Tensor, task: Task, fleet: Fleet | None = None) -> pd.DataFrame:
    """Errors of logits z (F, M, K) on the test set and z_train on the training set; what a fleet's networks know."""
    frame = errors(z, task).assign(recipe=recipe, seed=range(len(z)))
    frame["train"] = (z_train.argmax(-1) != task.y_train).double().mean(1).numpy()
    frame["loss"] = cross_entropy(z_train, task.y_train.expand(z_train.shape[:2])).mean(-1).numpy()
    blank = torch.full((len(z),), torch.nan)
    views = lopsided = foretold = blank
    if fleet is not None:
        model, features = fleet.model, task.extra["features"]
        end = model.correlations(features)  # (F, K, 2)
        start = MultiViewNet(task.num_classes, model.width, model.inputs, model.seeds, scale=model.scale)
        begun = start.correlations(features)
        views = views_known(model, task).double().sum(2).mean(1)
        low, high = end.aminmax(dim=2)
        lopsided = (high > 3 * low).double().mean(1)  # share of classes
        foretold = (begun.argmax(2) == end.argmax(2)).double().mean(1)
    return frame.assign(views=views.numpy(), lopsided=lopsided.numpy(), foretold=foretold.numpy())


def trained(recipe: str, fleet: Fleet, task: Task) -> pd.DataFrame:
    return rows(recipe, fleet.predict(task.x_test), fleet.predict(task.x_train), task, fleet)


def taught(task: Task, setting: str, seed: int) -> list[pd.DataFrame]:
    """Networks, their ensembles, and students: of the ensemble, of one network, and of the controls."""
    many, few, long = NETS, STUDENTS, LONG[setting]
    y, k = task.y_train, task.num_classes
    # other networks on every draw: what one learns hangs on how it starts
    own = range(100 * seed, 100 * seed + many + few)
    nets = learn(task, own, on_labels(task, STOP), 400)
    z, v = nets.predict(task.x_test), nets.predict(task.x_train)
    frames = [trained("one network", nets, task)]
    for size in SIZES:
        frames.append(rows(f"ensemble of {size}", ensembles(z, size), ensembles(v, size), task))
    pairs = [(logits[:few] + logits[many:]) / 2 for logits in (z, v)]  # students start as the twins do
    frames.append(rows("teacher and twin", pairs[0], pairs[1], task))

    teachers = ensembles(v[:many], 10).repeat_interleave(-(-few // 2), 0)[:few]  # half of the students each
    warm = soften(teachers, 3)
    shuffled = 3 * torch.stack([permuted_targets(p, y, seed) for p in warm]).log()
    recipes = {
        "labels, long": on_labels(task),
        "of the ensemble": on_teacher(task, teachers, 3.0),
        "of the ensemble, permuted": on_teacher(task, shuffled, 3.0),
        "label smoothing": on_labels(task, targets=smooth_labels(y, k, 0.1)),
    }
    if setting != "A, own features alone":
        recipes["of the ensemble, regression"] = on_teacher(task, teachers)
        recipes["of one network"] = on_teacher(task, v[:few], 1.0)
        recipes["of one network, regression"] = on_teacher(task, v[:few])
    for name, objective in recipes.items():
        students = learn(task, own[many:], objective, long, 0.0)
        frames.append(trained(name, students, task))
        if name == "of the ensemble, regression":
            both = (ensembles(students.predict(x), 4) for x in (task.x_test, task.x_train))
            frames.append(rows("ensemble of 4 students", *both, task))
    if setting == "A":
        frames += together(task, nets, 1000 * seed)
    return frames


def together(task: Task, nets: Fleet, first: int) -> list[pd.DataFrame]:
    """What has as many neurons as an ensemble of ten: trained jointly, one wide network, and the mean of the weights."""
    joint = learn(task, range(first, first + 10 * NETS), on_labels(task, STOP, members=10), 600, coupled=10)
    z, v = (ensembles(joint.predict(x), 10) for x in (task.x_test, task.x_train))
    frames = [rows("ten trained as one", z, v, task)]
    wide = learn(task, range(first, first + NETS), on_labels(task, STOP), 400, width=120)
    frames.append(trained("ten times as wide", wide, task))
    mean = averaged(nets, 10)
    seeds = range(len(mean))
    weights = Fleet(MultiViewNet(5, 12, nets.model.inputs, seeds, flat=mean), pd.DataFrame({"seed": seeds}))
    return [*frames, trained("mean weights of 10", weights, task)]


def changed(draw: int) -> list[pd.DataFrame]:
    """Networks on labels with one thing changed."""
    task, frames, some = data.multiview(draw), [], range(100 * draw, 100 * draw + NETS)
    for width in (8, 16, 32, 64):
        frames.append(trained(f"width {width}", learn(task, some, on_labels(task, STOP), 400, width=width), task))
    for name, how in {
        "q = 3, start / 10": {"exponent": 3, "scale": 0.001},
        "Adam": {"optimiser": torch.optim.Adam, "lr": 3e-3},
        "linearised": {"kind": Linearised, "scale": 0.3},
    }.items():
        frames.append(trained(name, learn(task, some, on_labels(task, STOP), 800, **how), task))
    for name, setup in {
        "Adam, rotated": {"rotated": True},
        "noise along the features": {"noise_inside": 0.1},
        "noise 2": {"noise": 2.0},
        "hidden as strong as others": {"hidden": (0.3, 0.5)},
    }.items():
        task = data.multiview(draw, **setup)
        how = {"optimiser": torch.optim.Adam, "lr": 3e-3} if "Adam" in name else {}
        frames.append(trained(name, learn(task, some, on_labels(task, STOP), 800, **how), task))
    for share, single in SHARES.items():
        task = data.multiview(draw, single_train=single)
        for q in (2, 3, 4):
            name = ", ".join(part for part in (f"q = {q}" if q < 4 else "", share) if part)
            if not name:
                continue  # the networks of "A"
            nets = learn(task, some, on_labels(task, STOP), 800, exponent=q)
            tens = (ensembles(nets.predict(x), 10) for x in (task.x_test, task.x_train))
            frames += [trained(name, nets, task), rows(f"{name}, ensemble of 10", *tens, task)]
    return frames


def experiment(draw: int, setting: str) -> pd.DataFrame:
    """One row per recipe and network (or ensemble): errors, training error and loss, views known, and by which the class went."""
    frames = changed(draw) if setting == "A, changed" else taught(data.multiview(draw, **DATA[setting]), setting, draw)
    columns = ["recipe", "seed", "single", "multi", "train", "loss", "views", "lopsided", "foretold"]
    return pd.concat(frames, ignore_index=True)[columns].round(dict.fromkeys(columns[2:], 4))
