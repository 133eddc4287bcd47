"""Distillation losses as pure functions, usable in anybody's training loop.

Every loss takes logits with the class axis last, works in log space, broadcasts over leading axes (a fleet's student
axis) and returns one value per example, in nats. There is no reduction argument: take the mean yourself, once.
Half-precision logits are widened to float32 before anything is computed with them. A class to which the teacher gives
probability 0, by a logit of -inf as in `table.log()`, costs nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 4.0,
    alpha: float | Tensor = 0.5,
    target_weight: float | Tensor = 1.0,
    other_weight: float | Tensor = 8.0,
) -> Tensor:
    """Decoupled distillation (1 - alpha) CE + alpha T^2 [a KL(b^p || b^q) + b KL(p^ || q^)] of each example, in nats.

    b = (true class, all others) and p^ = the wrong classes among themselves, both at temperature T; a = `target_weight`,
    b = `other_weight`. Plain distillation is a = 1, b = 1 - p_t: the identity KL(p || q) = KL(b^p || b^q) + (1 - p_t)
    KL(p^ || q^). The paper adds its two terms to an undamped CE, which is twice this loss at alpha = 0.5. Shapes and
    errors as `kd_loss`; the weights are numbers or tensors that broadcast against (..., N). A teacher without any wrong class,
    all their logits -inf, has no p^ and gives NaN.

    Source: Zhao et al. 2022, section 3. The first term carries universe and instance confidence (it sees p_t alone), the
    second the class relations and the instance's own wrong-class shape.
    """
    student_logits = _wide(student_logits)
    v, z = _scaled_pair(teacher_logits, student_logits, temperature)
    odds = (true_class_odds(x, labels) for x in (v, z))
    target = _kl(*(torch.stack([F.logsigmoid(o), F.logsigmoid(-o)], dim=-1) for o in odds))  # (..., N)
    others = _kl(*(torch.log_softmax(without_true_class(x, labels), dim=-1) for x in (v, z)))
    return _beside_ce(target_weight * target + other_weight * others, student_logits, labels, temperature, alpha)


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 1.0,
    alpha: float | Tensor = 0.5,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> Tensor:
    """Correlation instead of KL: (1 - alpha) CE + alpha T^2 [b (1 - r_n) + g mean_k (1 - r_k)] of each example.

    r_n is Pearson's correlation of the teacher's and student's probabilities over the classes of example n ("inter"), r_k
    over the examples of the batch for class k ("intra"); b = `inter_weight`, g = `intra_weight`. The intra term belongs to
    the batch: every example carries the same share of it, so the mean over the batch is the paper's loss, and a batch cut
    in parts is another loss. Shapes and errors as `kd_loss`.

    Source: Huang et al. 2022 (DIST), section 3; T^2 as in the authors' code. A correlation ignores mean and scale, so the
    inter term does not see the confidence of a row whose wrong classes are even and whose label leads: it acts on class
    relations and wrong-class shape. The intra term compares examples, so it sees which ones are confident: instance level.
    """
    student_logits = _wide(student_logits)
    p, q = (torch.softmax(x, dim=-1) for x in _scaled_pair(teacher_logits, student_logits, temperature))
    inter = 1 - _pearson(p, q, dim=-1)  # (..., N)
    intra = 1 - _pearson(p, q, dim=-2).mean(-1, keepdim=True)  # (..., 1)
    return _beside_ce(inter_weight * inter + intra_weight * intra, student_logits, labels, temperature, alpha)


def logit_standardised_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 2.0,
    alpha: float | Tensor = 0.9,
) -> Tensor:
    """Distillation of z-scores: (1 - alpha) CE(y, q) + alpha T^2 KL(softmax(s(v) / T) || softmax(s(z) / T)), in nats.

    s(v) = (v - mean) / standard deviation over the K classes of one example, so the student need not copy how large the
    teacher's logits are. CE sees the logits as they come. The deviation divides by K as in the paper (the released code
    divides by K - 1: another T). Logits must be finite. Shapes and errors as `kd_loss`.

    Source: Sun et al. 2024, section 3. Acts on class relations and on the instance's wrong-class shape. A row whose wrong
    classes are even becomes the same target as long as its label leads, so the confidence of KD-pt does not get through; in
    a row with uneven wrong classes it does, since the label's lead decides how much of the deviation is left for them.
    """
    student_logits = _wide(student_logits)
    pair = (_standardised(x) for x in _scaled_pair(teacher_logits, student_logits, 1.0))
    log_p, log_q = (torch.log_softmax(_scaled(x, temperature, "logits"), dim=-1) for x in pair)
    return _beside_ce(_kl(log_p, log_q), student_logits, labels, temperature, alpha)


def jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 1.0,
    alpha: float | Tensor = 0.9,
    beta: float = 0.5,
) -> Tensor:
    """Generalised Jensen-Shannon distillation (1 - alpha) CE + alpha T^2 D_beta(p, q) of each example, in nats.

    D_beta = [beta KL(p || m) + (1 - beta) KL(q || m)] / (beta (1 - beta)), m = beta p + (1 - beta) q: a continuous family
    from forward KL(p || q) at beta = 0 to reverse KL(q || p) at beta = 1, and for q near p the same for every beta, so
    beta changes what is punished and not how much. GKD and TRL use the bracket alone, which fades out towards both ends,
    and put the two KLs there by definition; multiply by beta (1 - beta) to get theirs. At beta = 1/2 this is four times
    the usual Jensen-Shannon divergence. Shapes as `kd_loss`; raises ValueError as it does, and for beta outside [0, 1].

    Source: Agarwal et al. 2024 (GKD), eq. 1. Acts on all levels at once; towards beta = 1 classes that the teacher holds
    impossible cost more, and small probabilities that the student ignores cost less.
    """
    _check.fraction(beta, "beta")
    student_logits = _wide(student_logits)
    pair = _scaled_pair(teacher_logits, student_logits, temperature)
    log_p, log_q = (torch.log_softmax(x, dim=-1) for x in pair)
    if beta in (0, 1):
        divergence = _kl(log_p, log_q) if beta == 0 else _kl(log_q, log_p)
    else:
        log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
        divergence = _kl(log_p, log_m) / (1 - beta) + _kl(log_q, log_m) / beta
    return _beside_ce(divergence, student_logits, labels, temperature, alpha)


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


def _scaled_pair(teacher_logits: Tensor, student_logits: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    v, z = (
        _scaled(x, temperature, name)
        for x, name in ((teacher_logits, "teacher_logits"), (student_logits, "student_logits"))
    )
    _same_examples("teacher_logits", v, "student_logits", z)
    return v, z


def _beside_ce(
    soft: Tensor, student_logits: Tensor, labels: Tensor, temperature: float | Tensor, alpha: float | Tensor
) -> Tensor:
    _broadcasts("alpha", _check.fraction(alpha, "alpha"), student_logits.shape[:-1])
    return (1 - alpha) * cross_entropy(student_logits, labels) + alpha * temperature**2 * soft


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    gap = (log_p - log_q).masked_fill(p == 0, 0)  # 0 log 0 = 0, also where the logarithm is -inf
    return (p * gap).sum(-1)


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    a, b = (F.normalize(x - x.mean(dim, keepdim=True), dim=dim) for x in (a, b))
    return (a * b).sum(dim)


def _standardised(logits: Tensor) -> Tensor:
    # Centred and of length sqrt(K); logits that are all equal stay 0, and so does their gradient's blow-up.
    centred = logits - logits.mean(-1, keepdim=True)
    return math.sqrt(logits.shape[-1]) * F.normalize(centred, dim=-1, eps=1e-7)


def _check_labels(values: Tensor, labels: Tensor) -> None:
    if values.dim() < 2:
        raise ValueError(f"logits must have shape (..., N, K), got {tuple(values.shape)}")
    _check.shape("labels", labels, (values.shape[-2],))
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must have dtype torch.int64, got {labels.dtype}")
