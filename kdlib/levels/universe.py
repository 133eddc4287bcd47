"""Level 1, knowledge of the universe: label smoothing as a teacher that knows only how many classes there are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor

from kdlib import _check


def smooth_labels(labels: Tensor, num_classes: int, epsilon: float) -> Tensor:
    """Smoothed labels (1 - epsilon) y + epsilon / K, a table (N, K) in float32, for labels (N,).

    The true class gets 1 - epsilon + epsilon / K. (Some code puts 1 - epsilon there and epsilon / (K - 1) elsewhere; that
    is this table at epsilon K / (K - 1).) Training on it is distillation from a uniform teacher at T = 1 with
    alpha = epsilon, exactly: Tang et al. 2020, level 1.

    Raises ValueError for epsilon outside [0, 1] or labels out of range.

    >>> smooth_labels(torch.tensor([1]), num_classes=4, epsilon=0.2)
    tensor([[0.0500, 0.8500, 0.0500, 0.0500]])
    """
    _check.positive_int(num_classes, "num_classes")
    _check.fraction(_check.number("epsilon", epsilon), "epsilon")
    _check.labels("labels", labels, num_classes)
    return (1 - epsilon) * F.one_hot(labels, num_classes).float() + epsilon / num_classes


def matched_smoothing(probs: Tensor, labels: Tensor) -> Tensor:
    """The fair control for a teacher `probs (N, K)`: as confident on average, and knowing nothing else; (N, K).

    Every row puts the data set's mean of the true-class probability on its label and spreads the rest evenly. At T = 1
    this is label smoothing; for distillation at temperature T pass the tempered table `soften(logits, T)`.

    Raises ValueError for rows that are no distributions, fewer than 2 classes or labels that do not match.
    Source: confidence matching in the spirit of Zhang & Sabuncu 2020; the control is this book's.
    """
    n, k = _checked(probs, labels)
    confidence = probs.gather(1, labels.unsqueeze(1)).mean()
    table = ((1 - confidence) / (k - 1)).repeat(n, k)
    return table.scatter_(1, labels.unsqueeze(1), confidence.item())


def effective_epsilon(probs: Tensor, labels: Tensor, alpha: float = 1.0) -> Tensor:
    """Smoothing strength of each example, alpha (1 - p_t) K / (K - 1), shape (N,), for a teacher `probs (N, K)`.

    The epsilon of label smoothing that leaves the same mass on the true class as distillation with weight alpha, for a
    student at T = 1. Raises ValueError as `matched_smoothing`. Source: derived from the loss of Hinton et al. 2015.
    """
    k = _checked(probs, labels)[1]
    _check.fraction(_check.number("alpha", alpha), "alpha")
    return alpha * (1 - probs.gather(1, labels.unsqueeze(1)).squeeze(1)) * k / (k - 1)


def resting_confidence(confidence: float, num_classes: int, temperature: float, alpha: float = 0.9) -> float:
    """True-class probability, at T = 1, of the student that minimises the distillation loss against an even table.

    The table puts `confidence` on the label and spreads the rest evenly. Loss and table treat all wrong classes alike, so the
    student's logits are (a, 0, ..., 0), and with q and q~ its softmax at 1 and T, their gradient vanishes where

        (1 - alpha) (q_t - 1) + alpha T (q~_t - confidence) = 0.

    At T = 1 that is q_t = 1 - alpha (1 - confidence); above, q_t is larger than it: a tempered student is smoothed by less
    than its table. Raises ValueError for a confidence or alpha outside (0, 1) (alpha may be 1), T <= 0 or fewer than 2 classes.
    Source: derived.
    """
    if not 0 < _check.number("confidence", confidence) < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if _check.positive_int(num_classes, "num_classes") < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    _check.temperature(temperature)
    if not 0 < _check.number("alpha", alpha) <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")

    def true(a: float, t: float) -> float:
        return float(expit(a / t - math.log(num_classes - 1)))

    def slope(a: float) -> float:
        return (1 - alpha) * (true(a, 1) - 1) + alpha * temperature * (true(a, temperature) - confidence)

    low, high = -1.0, 1.0
    while slope(low) > 0:
        low *= 2
    while slope(high) < 0:
        high *= 2
    return true(brentq(slope, low, high, xtol=1e-12), 1)


def fault_of_control(candidate: Callable[[Tensor, Tensor], Tensor]) -> str:
    """What is wrong with a reader's `candidate(probs, labels)` for `matched_smoothing`, in a sentence; "" if nothing is."""
    generator = torch.Generator("cpu").manual_seed(0)
    p = torch.softmax(3 * torch.randn(200, 7, generator=generator, dtype=torch.float64, device="cpu"), 1)
    y = torch.randint(7, (200,), generator=generator, device="cpu")
    table = candidate(p.clone(), y.clone())
    if not isinstance(table, Tensor) or table.shape != p.shape:
        found = f"shape {tuple(table.shape)}" if isinstance(table, Tensor) else f"type {type(table).__name__}"
        return f"The table has {found}; it must be a tensor with one row per example and one column per class, {tuple(p.shape)}."
    at = y.unsqueeze(1)
    on_label = table.gather(1, at).squeeze(1)
    others = table[F.one_hot(y, 7) == 0].view(200, 6)
    if not (table.sum(1) - 1).abs().max() <= 1e-6:
        return f"Rows must sum to 1; yours sum to {table.sum(1).mean():.3f}. What happens to the mass that the label does not get?"
    if on_label.std() > 1e-6:
        return "The label's probability differs between rows: you kept each example's own confidence. That is the instance level."
    if (on_label.mean() - p.gather(1, at).mean()).abs() > 1e-6:
        return "Your label gets another mean than the teacher's. Did you average the largest probability instead of the true class's?"
    if (others.max(1).values - others.min(1).values).max() > 1e-6:
        return "The wrong classes of a row differ: something of the teacher's view of them is left. The universe spreads evenly."
    return ""


def _checked(probs: Tensor, labels: Tensor) -> torch.Size:
    n, k = _check.probabilities("probs", probs).shape
    if n < 1 or k < 2:
        raise ValueError(f"probs must have at least 1 example and 2 classes, got shape {(n, k)}")
    _check.labels("labels", labels, k, n)
    return probs.shape
