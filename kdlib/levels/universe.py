"""Level 1, knowledge of the universe: label smoothing as a teacher that knows only how many classes there are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def _checked(probs: Tensor, labels: Tensor) -> torch.Size:
    n, k = _check.probabilities("probs", probs).shape
    if n < 1 or k < 2:
        raise ValueError(f"probs must have at least 1 example and 2 classes, got shape {(n, k)}")
    _check.labels("labels", labels, k, n)
    return probs.shape
