"""Losses after Hinton's, with the same shape of call as `kd_loss`: which part of a teacher does each hear?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import _check
from kdlib.losses._arguments import fits
from kdlib.losses.kd import (
    _expected,
    _hard,
    _kl,
    _mixed,
    _over,
    _prepared,
    _times,
    true_class_odds,
    without_true_class,
)

FLAT = 0.01  # logits that spread less than this have no shape: divided by it, and not by their own spread


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 4.0,
    alpha: float | Tensor = 0.5,
    target_weight: float | Tensor = 1.0,
    other_weight: float | Tensor = 8.0,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Decoupled distillation (1 - alpha) CE + alpha T^2 [a KL(b^p || b^q) + b KL(p^ || q^)] of each example, in nats.

    b = (true class, all others) and p^ = the wrong classes among themselves, both at temperature T; a = `target_weight`,
    b = `other_weight`. Plain distillation is a = 1, b = 1 - p_t: the identity KL(p || q) = KL(b^p || b^q) + (1 - p_t)
    KL(p^ || q^). The paper adds its two terms to an undamped CE, which is twice this loss at alpha = 0.5. Shapes and
    errors as `kd_loss`; the weights are numbers or tensors that broadcast to (..., N). A true class is always needed: in
    soft labels it is the largest entry. A teacher without any wrong class, all their logits -inf, has no second term.

    Source: Zhao et al. 2022, section 3. The first term carries universe and instance confidence (it sees p_t alone), the
    second the class relations and the instance's own wrong-class shape.
    """
    z, v, y, temperature, alpha = _prepared(student_logits, teacher_logits, labels, temperature, alpha, weights)
    for name, value in (("target_weight", target_weight), ("other_weight", other_weight)):
        fits(name, _check.weight(name, value), torch.broadcast_shapes(z.shape, v.shape)[:-1])
    if y is None:
        raise ValueError("labels must be given: dkd_loss splits a teacher by the true class, got None")
    true = y.argmax(-1) if y.is_floating_point() else y
    pair = [x.contiguous() for x in torch.broadcast_tensors(_over(v, temperature), _over(z, temperature))]
    target = _kl(*(_log_odds(true_class_odds(x, true)) for x in pair))  # (..., N)
    others = _kl(*(_log_wrong(x, true) for x in pair))
    soft = temperature**2 * (_times(target_weight, target) + _times(other_weight, others))
    return _mixed(_hard(z, y, alpha), soft, alpha, weights)


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    alpha: float | Tensor = 0.5,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Correlation instead of KL: (1 - alpha) CE + alpha T^2 [b (1 - r_n) + g mean_k (1 - r_k)] of each example.

    r_n is Pearson's correlation of the teacher's and student's probabilities over the classes of example n ("inter"), r_k
    over the examples of the batch (axis -2, those of weight 0 left out) for class k ("intra"); b = `inter_weight`, g =
    `intra_weight`. The intra term belongs to the batch: every example carries the same share of it, so the mean over the
    batch is the paper's loss, and a batch cut in parts is another loss. Where probabilities hardly vary, as those of
    logits with a spread below 0.01, r fades to 0 with a finite slope. Shapes and errors as `kd_loss`.

    Source: Huang et al. 2022 (DIST), section 3; T^2 as in the authors' code. A correlation ignores mean and scale, so the
    inter term does not see the confidence of a row whose wrong classes are even and whose label leads: it acts on class
    relations and wrong-class shape. The intra term compares examples, so it sees which ones are confident: instance level.
    """
    z, v, labels, temperature, alpha = _prepared(student_logits, teacher_logits, labels, temperature, alpha, weights)
    for name, value in (("inter_weight", inter_weight), ("intra_weight", intra_weight)):
        _check.weight(name, _check.number(name, value))
    p, q = torch.broadcast_tensors(*(torch.softmax(_over(x, temperature), dim=-1) for x in (v, z)))
    flat = (q.new_full(q.shape[:-1], FLAT) / temperature).unsqueeze(-1).expand(q.shape)
    keep = torch.ones_like(q) if weights is None else (weights != 0).to(q.dtype).unsqueeze(-1).expand(q.shape)
    inter = 1 - _pearson(p, q, torch.ones_like(q), flat, dim=-1)  # (..., N)
    intra = 1 - _pearson(p, q, keep, flat, dim=-2).mean(-1, keepdim=True)  # (..., 1)
    soft = temperature**2 * (_times(inter_weight, inter) + _times(intra_weight, intra))
    return _mixed(_hard(z, labels, alpha), soft, alpha, weights)


def logit_standardised_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 2.0,
    alpha: float | Tensor = 0.9,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Distillation of z-scores: (1 - alpha) CE(y, q) + alpha T^2 KL(softmax(s(v) / T) || softmax(s(z) / T)), in nats.

    s(v) = (v - mean) / standard deviation over the K classes of one example, so the student need not copy how large the
    teacher's logits are. CE sees the logits as they come. The deviation divides by K as in the paper (the released code
    divides by K - 1: another T), leaves classes at -inf out and is taken as 0.01 if it is less, so that a head that starts
    at zero has a gradient of ordinary size. Shapes and errors as `kd_loss`.

    Source: Sun et al. 2024, section 3. Acts on class relations and on the instance's wrong-class shape. A row whose wrong
    classes are even becomes the same target as long as its label leads, so the confidence of KD-pt does not get through; in
    a row with uneven wrong classes it does, since the label's lead decides how much of the deviation is left for them.
    """
    z, v, labels, temperature, alpha = _prepared(student_logits, teacher_logits, labels, temperature, alpha, weights)
    log_p, log_q = (torch.log_softmax(_over(_standardised(x), temperature), dim=-1) for x in (v, z))
    return _mixed(_hard(z, labels, alpha), temperature**2 * _kl(log_p, log_q), alpha, weights)


def jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    alpha: float | Tensor = 0.9,
    beta: float = 0.5,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Generalised Jensen-Shannon distillation (1 - alpha) CE + alpha T^2 D_beta(p, q) of each example, in nats.

    D_beta = [beta KL(p || m) + (1 - beta) KL(q || m)] / (beta (1 - beta)), m = beta p + (1 - beta) q: a continuous family
    from forward KL(p || q) at beta = 0 to reverse KL(q || p) at beta = 1, and for q near p the same for every beta, so
    beta changes what is punished and not how much. GKD and TRL use the bracket alone, which fades out towards both ends,
    and put the two KLs there by definition; multiply by beta (1 - beta) to get theirs. At beta = 1/2 this is four times
    the usual Jensen-Shannon divergence. At beta = 1 it is inf where the teacher rules a class out and the student does
    not; below it is finite. Shapes as `kd_loss`; raises ValueError as it does, and for beta outside [0, 1].

    Source: Agarwal et al. 2024 (GKD), eq. 1. Acts on all levels at once; towards beta = 1 classes that the teacher holds
    impossible cost more, and small probabilities that the student ignores cost less.
    """
    _check.fraction(_check.number("beta", beta), "beta")
    z, v, labels, temperature, alpha = _prepared(student_logits, teacher_logits, labels, temperature, alpha, weights)
    log_p, log_q = (torch.log_softmax(_over(x, temperature), dim=-1) for x in (v, z))
    if beta in (0, 1):
        divergence = _kl(log_p, log_q) if beta == 0 else _kl(log_q, log_p)
    else:  # -1e30: logaddexp of two -inf has no gradient
        one, other = (x.clamp(min=-1e30) + math.log(b) for x, b in ((log_p, beta), (log_q, 1 - beta)))
        log_m = torch.logaddexp(one, other)
        divergence = _kl(log_p, log_m) / (1 - beta) + _kl(log_q, log_m) / beta
    return _mixed(_hard(z, labels, alpha), temperature**2 * divergence, alpha, weights)


def multilabel_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 4.0,
    alpha: float | Tensor = 0.9,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Distillation of K yes-or-no questions, sum_k (1 - alpha) BCE + alpha T^2 KL(Bernoulli || Bernoulli), in nats.

    p_k = sigmoid(v_k / T), q_k = sigmoid(z_k / T): for each question this is `kd_loss` on the logits (z_k, 0). Logits
    (..., N, K), labels (..., N, K) floating, 1 where the example has label k and 0 elsewhere (or between, if soft), None
    where alpha is the number 1. The sum runs over questions, not their mean. Returns (..., N); the rest as `kd_loss`.

    Source: Hinton, Vinyals & Dean 2015 applied to each output; the T^2 for the same reason.
    """
    if labels is not None and not (isinstance(labels, Tensor) and labels.is_floating_point()):
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be a floating-point torch.Tensor of zeros and ones (..., N, K), got {kind}")
    z, v, y, temperature, alpha = _prepared(student_logits, teacher_logits, labels, temperature, alpha, weights)
    divergence = _kl(*(_log_odds(_over(x, temperature)) for x in (v, z))).sum(-1)
    hard = None if y is None else _expected(torch.stack([y, 1 - y], dim=-1), _log_odds(z)).sum(-1)
    return _mixed(hard, temperature**2 * divergence, alpha, weights)


def _log_odds(odds: Tensor) -> Tensor:
    return torch.stack([F.logsigmoid(odds), F.logsigmoid(-odds)], dim=-1)  # (..., 2): yes and no


def _log_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the wrong classes among themselves, (..., N, K - 1); all -inf where none is possible."""
    wrong = without_true_class(logits, labels)
    none = (wrong == -torch.inf).all(-1, keepdim=True)
    return torch.log_softmax(wrong.masked_fill(none, 0), dim=-1).masked_fill(none, -torch.inf)


def _pearson(a: Tensor, b: Tensor, keep: Tensor, flat: Tensor, dim: int) -> Tensor:
    """Correlation over an axis where `keep` is 1, of values whose relative spread is taken as `flat` if it is less."""
    count = keep.sum(dim, keepdim=True).clamp_min(1)
    least = (flat * keep).sum(dim, keepdim=True) / count.sqrt()

    def unit(x: Tensor) -> Tensor:
        mean = (x * keep).sum(dim, keepdim=True) / count
        relative = (x - mean) * keep / mean.detach().clamp_min(1e-30)  # no square of it underflows
        return relative / torch.maximum(torch.linalg.vector_norm(relative, dim=dim, keepdim=True), least)

    return (unit(a) * unit(b)).sum(dim)


def _standardised(logits: Tensor) -> Tensor:
    never = logits == -torch.inf
    count = (~never).sum(-1, keepdim=True).clamp_min(1)
    centred = (logits - logits.masked_fill(never, 0).sum(-1, keepdim=True) / count).masked_fill(never, 0)
    deviation = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / count.to(logits.dtype).sqrt()
    return (centred / deviation.clamp_min(FLAT)).masked_fill(never, -torch.inf)
