"""Candidates for a teacher of classes, and their scores under a causal graph.

    kdlib study data/causal_classes.py --store _build/studies/causal_classes --table data/causal_classes.npz

The world with a spurious child, its target cut into five classes, on 40 draws of its own. The hundred candidates of a draw are one
fleet: four architectures, 25 of each, padded to one shape with weights that stay 0. A quarter of them see the child as it is, the others
through noise. All choices were made before the run, and all lengths by validation data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from kdlib import Fleet, Task, _seeds, data, losses
from kdlib.data.causal import Shift, draw, spurious_child
from kdlib.fleet import early_stopped, fitting
from kdlib.mechanisms.causal import class_score
from kdlib.models import MLP, FleetModel

SHIFTS = {"flips": {"S": Shift(gain=-1)}, "covariate": {"A": Shift(1, 2), "B": Shift(0.5, 2)}}
WIDTHS: dict[str, tuple[int, ...]] = {"8": (8,), "16": (16,), "8-8": (8, 8), "16-16": (16, 16)}
WIDE, EACH = 16, 25  # units of a padded layer, candidates of an architecture
K = 5
grid = {"seed": range(100, 140)}


def padded(seeds: list[int], widths: list[tuple[int, ...]]) -> tuple[MLP, Tensor]:
    """Networks of different `widths`, one a seed, as one fleet of two hidden layers, and which of its weights to train (F, P).

    Units that a network lacks have weights 0. Where it lacks a layer, that is the identity, which ReLU leaves as it is.
    """
    model = MLP((4, WIDE, WIDE, K), seeds)
    model.flat.data.zero_()
    train = torch.zeros_like(model.flat.data, dtype=torch.bool)
    for f, (seed, own) in enumerate(zip(seeds, widths, strict=True)):
        places = [0, 2] if len(own) == 1 else [0, 1, 2]
        alone = MLP((4, *own, K), [seed])
        for place, parts in zip(places, alone.layers(alone.flat.data), strict=True):
            for part, whole, mask in zip(
                parts, model.layers(model.flat.data)[place], model.layers(train)[place], strict=True
            ):
                here = (f, *(slice(n) for n in part.shape[1:]))
                whole[here], mask[here] = part[0], True
        if len(own) == 1:
            model.layers(model.flat.data)[1][0][f] = torch.eye(WIDE)
    return model, train


def on_classes(task: Task, noise: Tensor, seed: int) -> Any:
    """Cross-entropy, with noise on the inputs as in `kdlib.mechanisms.causal.on_values`."""
    drawn = torch.randn(task.x_train.shape, generator=_seeds.stream(seed, "noise on inputs"))

    def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        z = model.each(x + noise[model.rows].unsqueeze(1) * drawn[index])
        return losses.cross_entropy(z, task.y_train[index]).mean(-1)

    return objective


def held(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy (F,) of logits (F, n, K), nats."""
    return losses.cross_entropy(z, y.expand(len(z), -1)).mean(1)


def wrong(z: Tensor, y: Tensor) -> Tensor:
    """Share of wrong answers (F,), in 0..1."""
    return (z.argmax(-1) != y).double().mean(1)


def candidates(task: Task, seed: int) -> Fleet:
    """A hundred networks, each as it was after the epoch that validation data choose; a quarter saw S as it is."""
    generator = _seeds.stream(seed, "candidates")
    sd = 10 ** (2.2 * torch.rand(len(WIDTHS), EACH, generator=generator) - 1)  # 0.1 to 16
    sd[:, : EACH // 4] = 0
    noise = sd.reshape(-1, 1) * torch.tensor([0.0, 0.0, 0.0, 1.0])
    seeds = [1000 * seed + i for i in range(len(noise))]
    model, train = padded(seeds, [own for own in WIDTHS.values() for _ in range(EACH)])
    how: dict[str, Any] = {"epochs": 60, "batch_size": 64, "lr": 3e-3, "threads": 1}
    run = fitting(task, seeds, lambda seeds: model, on_classes(task, noise, seed), trainable=train, **how)
    x, y = task.extra["x_validation"], task.extra["y_validation"]
    return early_stopped(run, lambda fleet: held(fleet.predict(x), y))[0]


def experiment(seed: int) -> pd.DataFrame:
    """One row per candidate: error and scores on the selection set, and under each shift its share of wrong answers and its distance."""
    graph = spurious_child()
    task = data.causal_world(graph, seed, classes=K)
    source = draw(graph, len(task.y_train), seed, None, "linear", "causal train")
    cuts = source["Y"].quantile(np.arange(1, K) / K).to_numpy()
    parents = list(graph.predecessors("Y"))
    rule = LogisticRegression(max_iter=1000).fit(source[parents].to_numpy(), task.y_train.numpy())
    fleet = candidates(task, seed)

    def at(frame: pd.DataFrame) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (F, n, K), true classes (n,), and the classes' probabilities given the parents alone (n, K)."""
        x = torch.tensor(frame[list(task.extra["names"])].to_numpy(), dtype=torch.float32)
        y = torch.tensor(np.searchsorted(cuts, frame["Y"]))
        return fleet.predict(x).double(), y, torch.tensor(rule.predict_proba(frame[parents].to_numpy()))

    z, y, p = at(task.extra["selection"])
    found = {"error": held(z, y), "wrong": wrong(z, y)}
    found |= {"divergence": -class_score(z.softmax(-1), p), "likelihood": (z.softmax(-1) * p.log()).sum(-1).mean(-1)}
    for name, shift in SHIFTS.items():
        z, y, p = at(data.causal_world(graph, seed, shift=shift).extra["shifted"])
        found |= {name: wrong(z, y), f"divergence_{name}": -class_score(z.softmax(-1), p)}
    frame = pd.DataFrame({name: values.numpy() for name, values in found.items()})
    frame.insert(0, "candidate", range(len(frame)))
    frame.insert(0, "group", np.repeat(list(WIDTHS), EACH))
    return frame.round(dict.fromkeys(found, 4))
