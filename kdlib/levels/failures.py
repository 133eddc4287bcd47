"""Where distillation fails, in the terms of the levels: teachers that lost what they knew, settings that drown them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor

from kdlib import _check, claims
from kdlib.data.task import Task
from kdlib.fleet import Recipe, chosen, train
from kdlib.levels.domain import class_correlation, contrast, logit_geometry
from kdlib.levels.instance import gradient_rescaling
from kdlib.levels.split import split_teacher
from kdlib.levels.universe import smooth_labels
from kdlib.losses import soften

NOVICE = 24  # optimiser steps on hard labels after which a student is a novice


def smoothed_teacher(task: Task, epsilon: float) -> Recipe:
    """The recipe of a teacher trained with label smoothing on task's own labels; epsilon 0 is the ordinary teacher.

    `kdlib.train(task.for_teacher, [smoothed_teacher(task.for_teacher, e) for e in (0, 0.1, 0.3)], ...)` trains them side
    by side. Such teachers are often more accurate, and know less: every wrong class is pulled to the same distance (level
    2), every confidence to the same value (level 3).

    Raises ValueError for epsilon outside [0, 1]. Source: Müller, Kornblith & Hinton 2019.
    """
    targets = smooth_labels(task.y_train, task.num_classes, epsilon)
    return Recipe(f"smoothing {epsilon:g}", targets, temperature=1.0, alpha=1.0)


def symptoms(
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    groups: Tensor | None = None,
    clean: Tensor | None = None,
) -> pd.Series:
    """What a teacher still has to tell at a temperature: one number for every level, from logits (N, K), labels (N,).

    confidence: mean true-class probability; the smoothing budget (level 1) is 1 minus this
    contrast: correlation of class probabilities inside minus between superclasses (level 2), with `groups (K,)`
    spread: standard deviation of the true-class probability over examples (level 3)
    clean: correlation of the true-class probability with `clean (N,)`, whether the label is right (level 3)
    energy of universe, domain, confidence and shape: `split_teacher`

    A teacher with a confidence near 1, a small spread and no contrast teaches what the labels teach. Contrast and clean are
    NaN where a probability does not vary at all. Raises ValueError for shapes, labels or a temperature that do not fit.
    """
    probs = soften(teacher_logits, temperature)
    parts = split_teacher(probs, labels)
    p_t = probs.gather(1, labels.unsqueeze(1)).squeeze(1).double()
    values = {"confidence": float(p_t.mean()), "spread": float(p_t.std(correction=0))}
    if groups is not None:
        constant = bool((probs == probs[:1]).all(0).any())
        values["contrast"] = float("nan") if constant else contrast(class_correlation(probs), groups)["contrast"][0]
    if clean is not None:
        _check.shape("clean", clean, (len(labels),))
        values["clean"] = float(torch.corrcoef(torch.stack([p_t, clean.double()]))[0, 1])
    return pd.Series(values | {f"energy of {part}": energy for part, energy in parts.energies.items()})


def equally_sure(teacher_logits: Tensor, labels: Tensor, confidence: float) -> float:
    """The temperature, 0.01 to 100, at which a teacher's mean true-class probability is `confidence`: logits (N, K).

    Two teachers at one temperature may differ in loudness alone: shorter logits make every energy but the universe's smaller,
    with all relations intact. Compare them where they smooth equally, so that a difference is one of shape.

    Raises ValueError for logits and labels that do not match, or where no such temperature gives this confidence.
    """
    _check.labels("labels", labels, teacher_logits.shape[1], len(teacher_logits))

    def excess(log_temperature: float) -> float:
        probs = soften(teacher_logits.double(), math.exp(log_temperature))
        return float(probs.gather(1, labels.unsqueeze(1)).mean()) - confidence

    cold, hot = math.log(0.01), math.log(100)
    if not excess(hot) < 0 < excess(cold):
        ends = f"{excess(hot) + confidence:.3g} at T = 100 and {excess(cold) + confidence:.3g} at T = 0.01"
        raise ValueError(f"confidence must lie between that at both ends, {ends}, got {confidence:.3g}")
    return math.exp(brentq(excess, cold, hot))


def virtual_teacher(labels: Tensor, num_classes: int, confidence: float = 0.99) -> Tensor:
    """A teacher made of labels: `confidence` on the true class, the rest spread evenly; (N, K) float32 for labels (N,).

    Level 1 alone: label smoothing with epsilon = (1 - confidence) K / (K - 1). Raises ValueError for a confidence outside
    [0, 1], fewer than 2 classes or labels out of range. Source: Yuan et al. 2020 (Tf-KD).
    """
    _check.fraction(_check.number("confidence", confidence), "confidence")
    _check.labels("labels", labels, _check.positive_int(num_classes, "num_classes"))
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    one_hot = F.one_hot(labels, num_classes).float()
    return confidence * one_hot + (1 - confidence) / (num_classes - 1) * (1 - one_hot)


def softmax_of_probabilities(probs: Tensor, temperature: float) -> Tensor:
    """The wrong way to temper a table: softmax(probs / T), shape unchanged. Kept for showing; use `soften(probs.log(), T)`.

    Probabilities are no logits: they differ by at most 1, so at T = 20 every teacher becomes almost uniform, whatever it
    knows. The released Tf-KD code does this to its virtual teacher. Raises ValueError for rows that are no
    distributions or a temperature that is not positive.
    """
    return soften(_check.probabilities("probs", probs), temperature)


def chart(recipe: Recipe, labels: Tensor, student_logits: Tensor) -> pd.Series:
    """Two instruments on one recipe: the energies of its table, and w at a student with logits (N, K), labels (N,).

    Entries universe, domain, confidence, shape (`split_teacher`), then "w low", "w", "w high": the 10, 50 and 90 % quantiles of
    `gradient_rescaling` over the examples. Raises ValueError for a recipe without a table, or shapes that do not match.
    """
    if recipe.targets is None:
        raise ValueError(f"recipe must have a table of targets, got {recipe.name!r} without")
    low, middle, high = (
        _factors(recipe, labels, student_logits)
        .quantile(torch.tensor([0.1, 0.5, 0.9], dtype=student_logits.dtype, device=student_logits.device))
        .tolist()
    )
    return pd.concat(
        [split_teacher(recipe.targets, labels).energies, pd.Series({"w low": low, "w": middle, "w high": high})]
    )


def novice(task: Task, seed: int, **settings: Any) -> Tensor:
    """Logits (N, K) on the training set of a student after 24 steps on hard labels, in whole epochs. Settings: see `kdlib.train`.

    One student for all recipes, so that a difference in w is a difference between recipes.
    """
    batches = -(-len(task.x_train) // settings.get("batch_size", 128))
    return train(task, Recipe.hard(), seeds=[seed], **settings | {"epochs": -(-NOVICE // batches)}).predict(
        task.x_train
    )[0]


def examine(
    task: Task, recipes: Sequence[Recipe], seed: int, lengths: Sequence[float], **settings: Any
) -> pd.DataFrame:
    """Train one student per recipe, and one on hard labels, at each of `lengths` times `epochs`; a chart beside each.

    One row per recipe and length: `Fleet.evaluate` (its confidence is named sure), length, `chart` at one novice, "w end", the
    median of w at the student itself, and with superclasses geometry, the cosine contrast of its last layer. Settings, with
    `epochs`: see `kdlib.train`. Raises ValueError for a task without a validation part, and as `kdlib.train`.
    """
    if "x_validation" not in task.extra:
        raise ValueError(f"task must have a validation part, by Task.split_validation; {task.name} has none")
    usual = settings["epochs"]
    epochs = [max(1, round(length * usual)) for length in lengths]
    fleet = train(task, [Recipe.hard(), *recipes], seeds=[seed], **settings | {"epochs": epochs})
    start, ends = novice(task, seed, **settings), fleet.predict(task.x_train)
    known = {recipe.name: recipe for recipe in recipes}
    charts = {name: chart(recipe, task.y_train, start) for name, recipe in known.items()}
    frame = fleet.evaluate(task).rename(columns={"confidence": "sure"})
    read = [charts.get(name, pd.Series(dtype=float)) for name in frame["recipe"]]
    rest = [
        float(_factors(known[name], task.y_train, end).median()) if name in known else math.nan
        for name, end in zip(frame["recipe"], ends, strict=True)
    ]
    frame = frame.join(pd.DataFrame(read, index=frame.index)).assign(length=frame["epochs"] / usual, **{"w end": rest})
    if task.groups is not None:
        frame["geometry"] = logit_geometry(fleet.weights[-1].mT, task.groups)["contrast"].to_numpy()
    return frame


def at_lengths(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a frame by `examine`, four choices of length, named in a column `at`.

    chosen: each recipe and seed at the length that validation chooses; shortest, usual and longest: all at that length, where
    the usual one is 1.
    """
    lengths = {"shortest": frame["length"].min(), "usual": 1, "longest": frame["length"].max()}
    fixed = [frame[frame["length"] == length].assign(at=at) for at, length in lengths.items()]
    return pd.concat([chosen(frame).assign(at="chosen"), *fixed], ignore_index=True)


def gain(frame: pd.DataFrame, better: str, worse: str = "hard labels", at: str = "chosen") -> np.ndarray:
    """Points of accuracy between two recipes, one per seed, from a frame by `at_lengths`.

    Raises ValueError as `claims.paired`.
    """
    return 100 * claims.paired(frame[frame["at"] == at], "accuracy", better, worse)


def contrasts(frame: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Named pairs (better, worse) in points: chosen, with an interval of 95 % by itself, usual and longest (`at_lengths`)."""
    rows = {
        name: [*claims.interval(gain(frame, *pair)), *(gain(frame, *pair, at).mean() for at in ("usual", "longest"))]
        for name, pair in pairs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["chosen", "from (95 %)", "to", "usual", "longest"])


def _factors(recipe: Recipe, labels: Tensor, student_logits: Tensor) -> Tensor:
    assert recipe.targets is not None
    v = recipe.temperature * recipe.targets.clamp_min(1e-30).log()
    return gradient_rescaling(student_logits, v, labels, recipe.temperature, recipe.alpha, recipe.t_squared)
