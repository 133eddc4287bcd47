"""Logit losses proposed after Hinton's, with the same shape of call as `kd_loss`: which part of a teacher does each hear?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import _check
from kdlib.losses.kd import (
    _broadcasts,
    _kl,
    _same_examples,
    _scaled,
    _wide,
    cross_entropy,
    true_class_odds,
    without_true_class,
)


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


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    a, b = (F.normalize(x - x.mean(dim, keepdim=True), dim=dim) for x in (a, b))
    return (a * b).sum(dim)


def _standardised(logits: Tensor) -> Tensor:
    # Centred and of length sqrt(K); logits that are all equal stay 0, and so does their gradient's blow-up.
    centred = logits - logits.mean(-1, keepdim=True)
    return math.sqrt(logits.shape[-1]) * F.normalize(centred, dim=-1, eps=1e-7)
