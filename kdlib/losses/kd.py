"""Distillation losses as pure functions, usable in anybody's training loop.

Every loss takes logits with the class axis last, works in log space, broadcasts over leading axes (students, positions)
and returns one value per example (..., N), in nats. There is no reduction argument: take the mean yourself, once.

Labels are classes (..., N) int64, or a table of soft labels (..., N, K) such as mixup's, or None where alpha is the
number 1. `weights (..., N)` multiply an example's loss. Where they are 0 nothing of the example is left, whatever stands
there, be it NaN or a label of -100: `weights=labels != -100`. Temperature, alpha and weights broadcast to (..., N) and
never enlarge it: (F, 1) is one value per student, (N,) one per example.

Half-precision logits are widened to float32 before anything is computed with them. A class to which the teacher gives
probability 0, by a logit of -inf as in `table.log()`, costs nothing, and a term of weight 0 is left out even if it is
infinite. Where mathematics gives infinity (the student rules out a class that its target holds possible) the value is
inf, and the gradient is that of the other classes: finite, never NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlib import _check
from kdlib.losses._arguments import check_labels, check_range, examples_of, fits, kept, same_examples, wide


def soften(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Probabilities softmax(logits / temperature), shape unchanged (Hinton et al. 2015, eq. 1).

    Log-probabilities are logits too, so `soften(p.log(), T)` tempers a table of probabilities. (Tempering is a power of
    p, renormalised. The softmax of p / T is something else: almost uniform whatever the teacher knows.)

    Raises ValueError for a temperature that is not positive or has another shape than (...).

    >>> soften(torch.tensor([2.0, 0.0]), temperature=2.0)
    tensor([0.7311, 0.2689])
    """
    fits("temperature", _check.temperature(temperature), _check.floating("logits", logits).shape[:-1])
    return torch.softmax(_over(wide(logits), wide(temperature)), dim=-1)


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 4.0,
    alpha: float | Tensor = 0.9,
    t_squared: bool = True,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Distillation loss (1 - alpha) CE(y, q) + alpha T^2 KL(p_T || q_T) of each example, in nats.

    q = softmax(z), q_T = softmax(z / T), p_T = softmax(v / T) for student logits z and teacher logits v, (..., N, K) both,
    and labels (..., N), a table (..., N, K) or None: see the module's text, also on `temperature`, `alpha` and `weights`.
    `t_squared=False` drops the factor. Returns (..., N).

    Raises ValueError for shapes that do not match, a temperature that is not positive, alpha outside [0, 1] and, on a CPU,
    labels out of range. Source: Hinton, Vinyals & Dean 2015, section 2. Acts on all three levels of the teacher at once.

    >>> z = torch.tensor([[1.0, 0.0, 0.0]])
    >>> kd_loss(z, z, torch.tensor([0]), alpha=1.0)
    tensor([0.])
    """
    z, v, labels, temperature, alpha = _prepared(student_logits, teacher_logits, labels, temperature, alpha, weights)
    log_p = torch.log_softmax(_over(v, temperature), dim=-1)
    log_q = torch.log_softmax(_over(z, temperature), dim=-1)
    scale = temperature**2 if t_squared else 1.0
    return _mixed(_hard(z, labels, alpha), scale * _kl(log_p, log_q), alpha, weights)


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, temperature: float | Tensor = 1.0, *, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy H(targets, softmax(logits / temperature)) of each example, in nats.

    logits and targets (..., N, K), rows of targets sum to 1 -> (..., N). With `targets` from
    `levels.universe.smooth_labels` this is label smoothing; no factor T^2 is applied.

    Raises ValueError for shapes that do not match, integer targets or a temperature that is not positive.

    >>> soft_cross_entropy(torch.zeros(1, 4), torch.full((1, 4), 0.25))
    tensor([1.3863])
    """
    examples = same_examples("targets", targets, "logits", logits)
    fits("temperature", _check.temperature(temperature), examples)
    logits, targets = kept(weights, examples, logits, targets)
    log_q = torch.log_softmax(_over(wide(logits), wide(temperature)), dim=-1)
    return _weighted(_expected(targets, log_q), weights)


def cross_entropy(logits: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy -log softmax(logits)[label] in nats: logits (..., N, K), labels (..., N) or soft (..., N, K) -> (..., N).

    Raises ValueError for shapes, dtypes or labels that do not match. torch's, with leading axes and no reduction.
    """
    examples = examples_of(_check.floating("logits", logits))
    check_labels(labels, examples, logits.shape[-1])
    logits, labels = kept(weights, examples, logits, labels)
    check_range(labels, logits.shape[-1])
    return _weighted(_cross_entropy(wide(logits), labels), weights)


def without_true_class(values: Tensor, labels: Tensor) -> Tensor:
    """The entries of the wrong classes in class order: values (..., N, K), labels (..., N) -> (..., N, K - 1).

    Raises ValueError for labels that do not match.

    >>> without_true_class(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
    tensor([[1., 3.]])
    """
    check_labels(labels, examples_of(values), values.shape[-1], soft=False)
    check_range(labels, values.shape[-1])
    index = torch.arange(values.shape[-1] - 1, device=values.device)
    index = index + (index >= labels.unsqueeze(-1))  # (..., N, K - 1): skip the label
    return values.gather(-1, index.expand(*values.shape[:-1], -1))


def true_class_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds log(q_t / (1 - q_t)) of the true class, exact also where q_t rounds to 1: (..., N, K), (..., N) -> (..., N).

    Raises ValueError for shapes or dtypes that do not match.
    """
    logits = wide(_check.floating("logits", logits))
    wrong = without_true_class(logits, labels)
    none = (wrong == -torch.inf).all(-1)  # logsumexp's gradient would be NaN there
    rest = torch.logsumexp(wrong.masked_fill(none.unsqueeze(-1), 0), dim=-1).masked_fill(none, -torch.inf)
    return _at(logits, labels) - rest


# What the losses share: arguments checked and widened once, the divergence, and what is done with weights.


def _prepared(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    temperature: float | Tensor,
    alpha: float | Tensor,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, float | Tensor, float | Tensor]:
    examples = same_examples("teacher_logits", teacher_logits, "student_logits", student_logits)
    fits("temperature", _check.temperature(temperature), examples)
    fits("alpha", _check.fraction(alpha, "alpha"), examples)
    if labels is not None:
        check_labels(labels, examples, student_logits.shape[-1])
        (labels,) = kept(weights, examples, labels)
        check_range(labels, student_logits.shape[-1])
    elif isinstance(alpha, Tensor) or alpha != 1:
        raise ValueError(f"labels may be None (unlabelled data) only where alpha is the number 1, got alpha = {alpha}")
    z, v = (wide(x) for x in kept(weights, examples, student_logits, teacher_logits))
    return z, v, labels, wide(temperature), wide(alpha)


def _mixed(hard: Tensor | None, soft: Tensor, alpha: float | Tensor, weights: Tensor | None) -> Tensor:
    soft = _times(alpha, soft)
    return _weighted(soft if hard is None else _times(1 - alpha, hard) + soft, weights)


def _hard(z: Tensor, labels: Tensor | None, alpha: float | Tensor) -> Tensor | None:
    unused = not isinstance(alpha, Tensor) and alpha == 1
    return None if labels is None or unused else _cross_entropy(z, labels)


def _cross_entropy(z: Tensor, labels: Tensor) -> Tensor:
    log_q = torch.log_softmax(z, dim=-1)
    return _expected(labels, log_q) if labels.is_floating_point() else -_at(log_q, labels)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p, never = log_p.exp(), log_q == -torch.inf
    gap = (log_p - log_q).masked_fill((p == 0) | never, 0)  # 0 log 0 = 0, also where the logarithm is -inf
    return _infinite((p * gap).sum(-1), never & (p > 0))


def _expected(targets: Tensor, log_q: Tensor) -> Tensor:
    never = log_q == -torch.inf
    return _infinite(-(targets * log_q.masked_fill(never, 0)).sum(-1), never & (targets > 0))


def _infinite(value: Tensor, classes: Tensor) -> Tensor:
    """`value (...)`, made inf where any of `classes (..., K)` is true, with the gradient left as it is."""
    return value + torch.zeros_like(value).masked_fill(classes.any(-1), torch.inf)


def _times(weight: float | Tensor, term: Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        return weight * term.masked_fill((weight == 0) & ~term.isfinite(), 0)
    return weight * term if weight else torch.zeros_like(term)


def _weighted(loss: Tensor, weights: Tensor | None) -> Tensor:
    return loss if weights is None else loss * weights.to(loss.dtype)


def _over(logits: Tensor, temperature: float | Tensor) -> Tensor:
    if not isinstance(temperature, Tensor):
        return logits / temperature
    temperature = temperature.unsqueeze(-1) if temperature.dim() else temperature
    never = logits == -torch.inf  # 0 times infinity in the temperature's gradient
    return (logits.masked_fill(never, 0) / temperature).masked_fill(never, -torch.inf)


def _at(values: Tensor, labels: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(values.shape[:-1], labels.shape)
    return values.expand(*shape, -1).gather(-1, labels.expand(shape).unsqueeze(-1)).squeeze(-1)
