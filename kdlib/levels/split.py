"""The three levels together: an exact split of a teacher into four parts, and recipes that add one part at a time.

Every table here is for one temperature: to distil at T, pass the tempered table `soften(logits, T)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import _check, _seeds, claims
from kdlib.fleet.recipe import Loss
from kdlib.levels.domain import class_mean_targets
from kdlib.levels.instance import confidence_targets
from kdlib.levels.universe import matched_smoothing, smooth_labels
from kdlib.losses import soften, without_true_class

PARTS = ("universe", "domain", "confidence", "shape")


@dataclass(frozen=True, eq=False)
class Split:
    """What a teacher adds to the labels, in four parts (N, K): one-hot label + their sum = the teacher's table."""

    universe: Tensor
    domain: Tensor
    confidence: Tensor
    shape: Tensor

    @property
    def energies(self) -> pd.Series:
        """Mean squared length of each part over the examples. The four sum to the mean of |probs - one-hot|^2."""
        values = [float(getattr(self, part).double().square().sum(1).mean()) for part in PARTS]
        return pd.Series(values, index=pd.Index(PARTS, name="part"), name="energy")


def split_teacher(probs: Tensor, labels: Tensor) -> Split:
    """Split a teacher's table (N, K) into four parts that are orthogonal on average over the examples.

    With c the mean true-class probability, u the even table of that confidence, m(y) = E[p | y] and d = e_t - (1 - e_t) /
    (K - 1) the direction from the wrong classes to the true one:

        p - e_t = (u - e_t)          universe: how much smoothing
                + (m(y) - u)         domain: which classes are alike, and how sure each class is
                + (p_t - m_t(y)) d   confidence: how sure this example is
                + rest               shape: the example's own opinion on the wrong classes

    The energies add up, E|p - e_t|^2 = sum of E|part|^2; that of confidence is K / (K - 1) times the mean variance of p_t
    inside a class. Raises ValueError for rows that are no distributions, fewer than 2 classes or wrong labels.
    Source: derived here; the fourth part has no teacher in Tang et al. 2020.
    """
    even = matched_smoothing(probs, labels)
    k = probs.shape[1]
    one_hot = F.one_hot(labels, k).to(probs)
    mean = class_mean_targets(probs, labels)
    direction = one_hot - (1 - one_hot) / (k - 1)
    confidence = ((probs - mean) * one_hot).sum(1, keepdim=True) * direction
    return Split(even - one_hot, mean - even, confidence, probs - mean - confidence)


def ladder(probs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """From one-hot labels to the whole teacher in steps of one level: name -> table (N, K).

    "hard labels", "universe" (confidence-matched smoothing), "domain" (class mean), "confidence" (KD-pt), "domain +
    confidence" (p_t on the true class, the class mean's shape on the others), "teacher".

    Raises ValueError for rows that are no distributions, fewer than 2 classes or wrong labels.
    """
    mean = class_mean_targets(probs, labels)
    return {
        "hard labels": F.one_hot(labels, probs.shape[1]).to(probs),
        "universe": matched_smoothing(probs, labels),
        "domain": mean,
        "confidence": confidence_targets(probs, labels),
        "domain + confidence": _compose(_true(probs, labels), mean, labels),
        "teacher": probs,
    }


def lattice(probs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The ladder and the two steps beside it, so that every subset of {domain, confidence, shape} has a table.

    Parts of the split cannot simply be added: leave one out and entries turn negative. A table is instead put together
    from a confidence and a distribution over the wrong classes, each from the most specific source in the subset:

        confidence:  the example's own p_t with "confidence", else the class mean with "domain", else the overall mean
        wrong ones:  the example's own with "shape", else the class mean's with "domain", else even

    Every table is a distribution by construction, and the subsets of the ladder get exactly the ladder's tables. What an
    example says includes what its class says, so "confidence + shape" is already the teacher, with or without "domain".
    Adds "shape" and "domain + shape". Raises ValueError as `ladder`.
    """
    overall = matched_smoothing(probs, labels)
    mean = class_mean_targets(probs, labels)
    return ladder(probs, labels) | {
        "shape": _compose(_true(overall, labels), probs, labels),
        "domain + shape": _compose(_true(mean, labels), probs, labels),
    }


def shapley(frame: pd.DataFrame, value: str = "accuracy") -> pd.DataFrame:
    """Share of the gain of each level, per seed: a tidy frame of `lattice` runs -> columns seed, level, gain, alone, last.

    `frame` has columns recipe, seed and `value`. The universe comes first, since every table smooths: its gain is universe minus
    hard labels. domain, confidence and shape get Shapley values over the lattice, the mean gain of adding the level over
    all orders; gains of a seed sum to teacher minus hard labels exactly. `alone` is the gain over the universe without the
    other levels, `last` the gain when all others are there already: far apart they say that levels overlap or depend on
    each other. As an example's own answer contains its class's, domain is worth nothing when it comes last.

    Raises ValueError if a recipe is missing or seeds are not complete, once each.
    Source: Shapley 1953; the lattice is this book's.
    """
    missing = {"recipe", "seed", value} - set(frame.columns)
    if missing:
        raise ValueError(f"frame must have columns recipe, seed and {value}, got no {sorted(missing)}")
    if frame.duplicated(["recipe", "seed"]).any():
        raise ValueError("frame must have each recipe and seed once, got some twice; choose one temperature and alpha")
    scores = frame.pivot_table(index="seed", columns="recipe", values=value)
    names = [
        "hard labels",
        "universe",
        "domain",
        "confidence",
        "shape",
        "domain + confidence",
        "domain + shape",
        "teacher",
    ]
    absent = [name for name in names if name not in scores or scores[name].isna().any()]
    if absent:
        raise ValueError(f"frame must have every recipe of the lattice for every seed, got no complete {absent}")

    def worth(*levels: str) -> pd.Series:
        members = [level for level in PARTS[1:] if level in levels]
        whole = {"confidence", "shape"} <= set(members)
        return scores["teacher" if whole else " + ".join(members) or "universe"]

    universe = worth() - scores["hard labels"]
    rows = [pd.DataFrame({"level": "universe", "gain": universe, "alone": universe, "last": universe})]
    for level in PARTS[1:]:
        a, b = (other for other in PARTS[1:] if other != level)
        alone = worth(level) - worth()
        last = worth(level, a, b) - worth(a, b)
        second = [worth(level, other) - worth(other) for other in (a, b)]
        gain = (2 * alone + second[0] + second[1] + 2 * last) / 6  # weights |S|! (2 - |S|)! / 3!
        rows.append(pd.DataFrame({"level": level, "gain": gain, "alone": alone, "last": last}))
    return pd.concat(rows).reset_index()


def stopping(
    chosen: pd.DataFrame, longer: pd.DataFrame, recipe: str = "teacher", value: str = "accuracy"
) -> pd.DataFrame:
    """What a teacher's gain over hard labels that train on is made of, per seed: columns seed, resists, smooths, knows, gain.

    `chosen` has each student at the length that validation chooses (`kdlib.fleet.chosen`), `longer` all at one length. With
    A for `value`, resists = what hard labels lose from chosen to longer, minus what `recipe` loses; smooths = A(universe) -
    A(hard labels) and knows = A(recipe) - A(universe), both at chosen. The three sum to the gain at longer exactly.

    Raises ValueError if a column, recipe or seed is missing, or there twice.
    Source: derived here, a sum of differences.
    """

    def difference(frame: pd.DataFrame, better: str, worse: str) -> np.ndarray:
        return claims.paired(frame, value, better, worse)

    gain, stopped = (difference(frame, recipe, "hard labels") for frame in (longer, chosen))
    seeds, others = (frame[frame["recipe"] == recipe]["seed"].sort_values().tolist() for frame in (chosen, longer))
    if seeds != others:
        raise ValueError(f"longer must have the seeds of chosen, {seeds}, got {others}")
    smooths, knows = difference(chosen, "universe", "hard labels"), difference(chosen, recipe, "universe")
    return pd.DataFrame({"seed": seeds, "resists": gain - stopped, "smooths": smooths, "knows": knows, "gain": gain})


def exchanged_targets(probs: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """The teacher with each example's wrong-class proportions exchanged for those of another example of its class; (N, K).

    Its own confidence stays, and so do the proportions that occur in a class: what is lost is only which example they
    belong to. A control for `permuted_targets`, which makes relations false, and for the step from "domain + confidence" to
    the teacher, which changes entropy as well. An example that is alone in its class keeps its own. Raises ValueError for
    rows that are no distributions or wrong labels. Source: this book's.
    """
    n, k = _check.probabilities("probs", probs).shape
    _check.labels("labels", labels, k, n)
    keys = torch.rand(n, generator=_seeds.stream(seed, "exchanged teacher"), dtype=torch.float64, device="cpu")
    order = keys.to(probs.device).argsort()
    other = torch.empty_like(order)
    for label in labels.unique():
        own = order[labels[order] == label]
        other[own] = own.roll(1)
    return _compose(_true(probs, labels), probs[other], labels)


def heard(
    losses: Mapping[str, Loss], student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> pd.DataFrame:
    """Which part of a teacher moves the gradient of which loss: tidy columns loss, part, share (per cent).

    The tables of the ladder at `temperature`, from nearly hard labels (smoothing by 0.01: a logit has no zero) to the
    teacher, are given to each loss f(z, v, y) as logits T log p, at one student's logits z (N, K). The share of a part is the
    root mean square over examples of how far the slope in z moves at its step, of the sum over the four steps. Raises
    ValueError for logits and labels that do not fit. Source: this book's.
    """
    _check.shape("student_logits", student_logits, tuple(teacher_logits.shape))
    tables = ladder(soften(teacher_logits, temperature), labels)
    first = smooth_labels(labels, teacher_logits.shape[1], 0.01).to(teacher_logits)
    rungs = [first, *(tables[name] for name in ("universe", "domain", "domain + confidence", "teacher"))]
    frames = []
    for name, loss in losses.items():
        slopes: list[Tensor] = []
        for table in rungs:
            z = student_logits.detach().clone().requires_grad_()
            slopes += torch.autograd.grad(loss(z, temperature * table.log(), labels).sum(), z)
        steps = torch.stack(slopes).diff(dim=0).square().sum(-1).mean(-1).sqrt().double().cpu()  # (4,)
        frames.append(pd.DataFrame({"loss": name, "part": PARTS, "share": (100 * steps / steps.sum()).numpy()}))
    return pd.concat(frames, ignore_index=True)


def topk_targets(probs: Tensor, k: int) -> Tensor:
    """KD-topk: each row's k largest probabilities stay, the rest of the mass is spread evenly; (N, K) for probs (N, K).

    Of equal ones the first are taken. Raises ValueError for rows that are no distributions or k outside 1..K.
    Source: Tang et al. 2020; that the rest is spread evenly (and not dropped) is our reading.

    >>> topk_targets(torch.tensor([[0.6, 0.3, 0.1, 0.0]]), k=2)
    tensor([[0.6000, 0.3000, 0.0500, 0.0500]])
    """
    classes = _check.probabilities("probs", probs).shape[1]
    if _check.positive_int(k, "k") > classes:
        raise ValueError(f"k must be at most the number of classes, {classes}, got {k}")
    largest = probs.argsort(dim=1, descending=True, stable=True)[:, :k]
    top = torch.zeros_like(probs, dtype=torch.bool).scatter_(1, largest, True)
    rest = torch.where(top, 0, probs).sum(1, keepdim=True) / max(classes - k, 1)
    return torch.where(top, probs, rest)


def permuted_targets(probs: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """The teacher with the wrong classes' probabilities shuffled in every row anew; (N, K) for probs (N, K), labels (N,).

    Confidence and entropy of every example stay, relations between classes become false. That is not a neutral ablation:
    false relations hurt more than none (`confidence_targets`). Raises ValueError for rows that are no distributions or wrong labels.
    Source: Furlanello et al. 2018, "dark knowledge with permuted predictions".
    """
    n, k = _check.probabilities("probs", probs).shape
    _check.labels("labels", labels, k, n)
    generator = _seeds.stream(seed, "permuted teacher")
    order = torch.rand(n, k - 1, generator=generator, dtype=torch.float32, device="cpu").argsort(1).to(probs.device)
    return _with_wrong(probs, without_true_class(probs, labels).gather(1, order), labels)


def _true(probs: Tensor, labels: Tensor) -> Tensor:
    return probs.gather(1, labels.unsqueeze(1))  # (N, 1)


def _compose(confidence: Tensor, shape: Tensor, labels: Tensor) -> Tensor:
    """`confidence (N, 1)` on the true class; the rest in the proportions of the wrong classes of `shape (N, K)`."""
    wrong = without_true_class(shape, labels)  # (N, K - 1)
    mass = wrong.sum(1, keepdim=True)
    # A row that is sure to the last digit has no opinion on the wrong classes: even.
    wrong = torch.where(mass > 0, wrong / mass.clamp_min(torch.finfo(mass.dtype).tiny), 1 / wrong.shape[1])
    table = torch.zeros_like(shape).scatter_(1, labels.unsqueeze(1), confidence)
    return _with_wrong(table, wrong * (1 - confidence), labels)


def _with_wrong(table: Tensor, wrong: Tensor, labels: Tensor) -> Tensor:
    index = without_true_class(torch.arange(table.shape[1], device=table.device).expand_as(table), labels)
    return table.scatter(1, index, wrong)
