"""Level 3, knowledge of the instance: the teacher's confidence rescales each example's gradient."""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import _check, _seeds
from kdlib.losses import soften, true_class_odds
from kdlib.losses.kd import _over, _prepared


def gradient_rescaling(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 4.0,
    alpha: float | Tensor = 0.9,
    t_squared: bool = True,
) -> Tensor:
    """The factor w by which distillation rescales an example's gradient: (..., N), for logits (..., N, K), labels (..., N).

    `temperature` and `alpha` broadcast to (..., N), such as (F, 1) for one value per student.
    w = (1 - alpha) + alpha T (p_T,t - q_T,t) / (1 - q_t), with alpha / T for `t_squared=False`. It is the ratio of the
    distillation gradient to the hard-label gradient at the true logit, and the same for the sum over the wrong logits: an
    identity, for any student and teacher. Below 0 the student is pushed away from its label, which at T = 1 happens once
    q_t exceeds 1 - alpha (1 - p_t). Stable also where q_t rounds to 1: there w may be very large and negative.

    Raises ValueError for shapes that do not match, a temperature that is not positive or alpha outside [0, 1].
    Source: Tang et al. 2020, level 3; as an identity without their noise model, derived here.

    >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]])
    >>> gradient_rescaling(z, v, torch.tensor([0]), temperature=1.0, alpha=1.0)
    tensor([0.9051])
    """
    z, v, y, temperature, alpha = _prepared(student_logits, teacher_logits, labels, temperature, alpha, None)
    if y is None or y.is_floating_point():
        raise ValueError(f"labels must be classes {tuple(z.shape[:-1])} int64, got {'None' if y is None else y.dtype}")
    v, z = torch.broadcast_tensors(v, z)
    teacher = true_class_odds(_over(v, temperature), y)  # log(p_t / (1 - p_t)), (..., N)
    student = true_class_odds(_over(z, temperature), y)
    # p - q for odds a > b is sigmoid(a) sigmoid(-b) (1 - e^(b - a)): no difference of numbers near 1 is ever taken.
    high, low = torch.maximum(teacher, student), torch.minimum(teacher, student)
    same = high == low  # also of a class that both rule out
    log_gap = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1((low - high).masked_fill(same, -1)))
    log_error = F.logsigmoid(-true_class_odds(z, y))  # log(1 - q_t)
    ratio = (torch.sign(teacher - student) * torch.exp(log_gap - log_error)).masked_fill(same, 0)
    return (1 - alpha) + alpha * (temperature if t_squared else 1 / temperature) * ratio


def confidence_targets(probs: Tensor, labels: Tensor) -> Tensor:
    """KD-pt: the teacher's probability on the true class, the rest spread evenly; (N, K) for probs (N, K), labels (N,).

    Destroys every relation between classes and keeps `gradient_rescaling` exactly: at one student state a KD-pt gradient
    has the same true-class entry, and the same sum over wrong classes, as full distillation. For temperature T pass the tempered
    table `soften(logits, T)`.

    Raises ValueError for rows that are no distributions, fewer than 2 classes or labels that do not match.
    Source: Tang et al. 2020, rho^pt.

    >>> confidence_targets(torch.tensor([[0.7, 0.3, 0.0]]), torch.tensor([0]))
    tensor([[0.7000, 0.1500, 0.1500]])
    """
    n, k = _check.probabilities("probs", probs).shape
    _check.labels("labels", labels, k, n)
    if k < 2:
        raise ValueError(f"probs must have at least 2 classes, got {k}")
    index = labels.unsqueeze(1)
    confidence = probs.gather(1, index)  # (N, 1)
    return ((1 - confidence) / (k - 1)).repeat(1, k).scatter_(1, index, confidence)


def with_confidence(probs: Tensor, labels: Tensor, confidence: float | Tensor) -> Tensor:
    """The table with `confidence`, one number or one for each example (N,), on the true class; (N, K) for probs (N, K).

    The wrong classes keep their proportions, evenly where a row has nothing on them. It sets two teachers of another kind
    equal in how sure they are. Raises ValueError for rows that are no distributions, fewer than 2 classes, labels that do
    not match or a confidence outside [0, 1].

    >>> with_confidence(torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0]), 0.4)
    tensor([[0.4000, 0.4000, 0.2000]])
    """
    n, k = _check.probabilities("probs", probs).shape
    _check.labels("labels", labels, k, n)
    if k < 2:
        raise ValueError(f"probs must have at least 2 classes, got {k}")
    wanted = torch.as_tensor(confidence, dtype=probs.dtype, device=probs.device)
    if wanted.dim():
        _check.shape("confidence", wanted, (n,))
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"confidence must lie in [0, 1], got {wanted.min().item():g} to {wanted.max().item():g}")
    true = F.one_hot(labels, k).bool()
    wrong = probs.masked_fill(true, 0)
    mass = wrong.sum(1, keepdim=True)
    even = (~true).to(probs) / (k - 1)
    share = torch.where(mass > 0, wrong / mass.clamp_min(torch.finfo(mass.dtype).tiny), even)
    return torch.where(true, wanted.reshape(-1, 1), (1 - wanted.reshape(-1, 1)) * share)


def dealt_confidences(probs: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """The null of KD-pt: the teacher's confidences dealt out to the examples at random; (N, K) for probs (N, K).

    As sure as the teacher, as often, and ignorant of which example is hard: what a measurement gives with this table, it does
    not owe to the teacher's knowledge. Raises ValueError as `confidence_targets`. Fixed by `seed`.
    """
    table = confidence_targets(probs, labels)
    generator = _seeds.stream(seed, "dealt confidences")
    order = torch.randperm(len(labels), generator=generator, device="cpu").to(labels.device)
    confidence = table.gather(1, labels.unsqueeze(1)).squeeze(1)
    return with_confidence(table, labels, confidence[order])


def diary_page(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    alpha: float = 0.9,
) -> pd.DataFrame:
    """What distillation says to each example at one state of one student, a row each, for logits (N, K), labels (N,).

    Columns p and q, the teacher's and the student's probability of the label at T = 1; w, `gradient_rescaling`; norms, the L1
    length of the distillation gradient over that of the hard label's, which is |w| at least. Raises ValueError as
    `gradient_rescaling`, and for logits of several students.
    """
    w = gradient_rescaling(student_logits, teacher_logits, labels, temperature, alpha)
    _check.shape("student_logits", student_logits, (None, None))
    _check.shape("teacher_logits", teacher_logits, tuple(student_logits.shape))
    z, v = _over(student_logits, temperature), _over(teacher_logits, temperature)
    hard = soften(student_logits) - F.one_hot(labels, student_logits.shape[1])
    slope = (1 - alpha) * hard + alpha * temperature * (soften(z) - soften(v))
    columns = {name: soften(x).gather(1, labels.unsqueeze(1)).squeeze(1) for name, x in
               (("p", teacher_logits), ("q", student_logits))}  # fmt: skip
    columns |= {"w": w, "norms": slope.abs().sum(1) / hard.abs().sum(1)}
    return pd.DataFrame({name: value.numpy(force=True) for name, value in columns.items()})
