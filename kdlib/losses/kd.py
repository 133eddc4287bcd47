"""Distillation losses as pure functions, usable in anybody's training loop.

Every loss takes logits with the class axis last, works in log space, broadcasts over leading axes (a fleet's student
axis) and returns one value per example, in nats. There is no reduction argument: take the mean yourself, once.
Half-precision logits are widened to float32 before anything is computed with them. A class to which the teacher gives
probability 0, by a logit of -inf as in `table.log()`, costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdlib import _check


def soften(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Probabilities softmax(logits / temperature), shape unchanged (Hinton et al. 2015, eq. 1).

    Log-probabilities are logits too, so `soften(p.log(), T)` tempers a table of probabilities. (Tempering is a power of
    p, renormalised. The softmax of p / T is something else: almost uniform whatever the teacher knows.)

    Raises ValueError for a temperature that is not positive.

    >>> soften(torch.tensor([2.0, 0.0]), temperature=2.0)
    tensor([0.7311, 0.2689])
    """
    return torch.softmax(_scaled(logits, temperature, "logits"), dim=-1)


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Cross-entropy H(targets, softmax(logits / temperature)) of each example, in nats.

    logits (..., N, K), targets (N, K) or (..., N, K) rows that sum to 1 -> (..., N). With `targets` from
    `levels.universe.smooth_labels` this is label smoothing; no factor T^2 is applied.

    Raises ValueError for shapes that do not match, integer targets or a temperature that is not positive.

    >>> soft_cross_entropy(torch.zeros(1, 4), torch.full((1, 4), 0.25))
    tensor([1.3863])
    """
    _check.floating("targets", targets)
    _same_examples("targets", targets, "logits", logits)
    log_q = torch.log_softmax(_scaled(logits, temperature, "logits"), dim=-1)
    return -(targets * log_q).sum(-1)


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 4.0,
    alpha: float | Tensor = 0.9,
    t_squared: bool = True,
) -> Tensor:
    """Distillation loss (1 - alpha) CE(y, q) + alpha T^2 KL(p_T || q_T) of each example, in nats.

    q = softmax(z), q_T = softmax(z / T), p_T = softmax(v / T) for student logits z (..., N, K), teacher logits v (N, K) or
    (..., N, K) and labels (N,). `temperature` and `alpha` are numbers or tensors that broadcast against (..., N), such as
    (F, 1) for one value per student. `t_squared=False` drops the factor. Returns (..., N).

    Raises ValueError for shapes that do not match, a temperature that is not positive or alpha outside [0, 1].
    Source: Hinton, Vinyals & Dean 2015, section 2. Acts on all three levels of the teacher's knowledge at once.

    >>> z = torch.tensor([[1.0, 0.0, 0.0]])
    >>> kd_loss(z, z, torch.tensor([0]), alpha=1.0)
    tensor([0.])
    """
    _same_examples("teacher_logits", teacher_logits, "student_logits", student_logits)
    _broadcasts("alpha", _check.fraction(alpha, "alpha"), student_logits.shape[:-1])
    student_logits = _wide(student_logits)  # once, so that both terms' gradients meet before they are rounded
    log_p = torch.log_softmax(_scaled(teacher_logits, temperature, "teacher_logits"), dim=-1)
    log_q = torch.log_softmax(_scaled(student_logits, temperature, "student_logits"), dim=-1)
    scale = temperature**2 if t_squared else 1.0
    return (1 - alpha) * cross_entropy(student_logits, labels) + alpha * scale * _kl(log_p, log_q)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy -log softmax(logits)[label] of each example, in nats: logits (..., N, K), labels (N,) -> (..., N).

    Raises ValueError for shapes or dtypes that do not match. Same as torch's, with leading axes and no reduction.
    """
    _check.floating("logits", logits)
    _check_labels(logits, labels)
    index = labels.view(-1, 1).expand(*logits.shape[:-1], 1)
    return -torch.log_softmax(_wide(logits), dim=-1).gather(-1, index).squeeze(-1)


def without_true_class(values: Tensor, labels: Tensor) -> Tensor:
    """The entries of the wrong classes in class order: values (..., N, K), labels (N,) -> (..., N, K - 1).

    Raises ValueError for labels that do not match.

    >>> without_true_class(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]))
    tensor([[1., 3.]])
    """
    _check_labels(values, labels)
    index = torch.arange(values.shape[-1] - 1, device=values.device)
    index = index + (index >= labels.unsqueeze(-1))  # (N, K - 1): skip the label
    return values.gather(-1, index.expand(*values.shape[:-1], -1))


def true_class_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds log(q_t / (1 - q_t)) of the true class, exact also where q_t rounds to 1: (..., N, K), (N,) -> (..., N).

    Raises ValueError for shapes or dtypes that do not match.
    """
    _check.floating("logits", logits)
    wrong = torch.logsumexp(without_true_class(logits, labels), dim=-1)
    return logits.gather(-1, labels.view(-1, 1).expand(*logits.shape[:-1], 1)).squeeze(-1) - wrong


def _scaled(logits: Tensor, temperature: float | Tensor, name: str) -> Tensor:
    _check.floating(name, logits)
    _broadcasts("temperature", _check.temperature(temperature), logits.shape[:-1])
    if isinstance(temperature, Tensor) and temperature.dim():
        temperature = temperature.unsqueeze(-1)
    return _wide(logits) / temperature


def _wide(logits: Tensor) -> Tensor:
    # Dividing by T in half precision would round the logits before log_softmax sees them: the value still looks right,
    # the gradient is off by percents.
    return logits.float() if logits.dtype.itemsize < 4 else logits


def _broadcasts(name: str, value: float | Tensor, examples: torch.Size) -> None:
    if isinstance(value, Tensor):
        try:
            torch.broadcast_shapes(value.shape, examples)
        except RuntimeError:
            expected = f"a shape that broadcasts against the examples' {tuple(examples)}"
            raise ValueError(f"{name} must have {expected}, got {tuple(value.shape)}") from None


def _same_examples(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    _check.floating(name, value)
    _broadcasts(name, value, _check.floating(other_name, other).shape)
    if value.dim() < 2 or other.dim() < 2 or value.shape[-2:] != other.shape[-2:]:
        raise ValueError(
            f"{name} must end in the same (N, K) as {other_name} {tuple(other.shape)}, got {tuple(value.shape)}"
        )


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    gap = (log_p - log_q).masked_fill(p == 0, 0)  # 0 log 0 = 0, also where the logarithm is -inf
    return (p * gap).sum(-1)


def _check_labels(values: Tensor, labels: Tensor) -> None:
    if values.dim() < 2:
        raise ValueError(f"logits must have shape (..., N, K), got {tuple(values.shape)}")
    _check.shape("labels", labels, (values.shape[-2],))
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must have dtype torch.int64, got {labels.dtype}")
