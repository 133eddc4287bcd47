"""Distillation over very many classes by sampling them: estimators, proposals, what they cost in bias and variance.

The gradient of T^2 KL(p || q) is T sum_k (q_k - p_k) g_k, with g_k the gradient of the student's logit z_k. Its K terms are
replaced by S classes drawn from a proposal Q. t are the teacher's logits, z the student's, p = softmax(t / T) and
q = softmax(z / T), all (..., K). Idea: Li et al. 2018 (dynamic importance sampling); the formulation is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdlib import _check
from kdlib.losses import soften

ESTIMATORS = ("unbiased", "self-normalised", "hybrid", "uncorrected")


def draw(Q: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` classes from each row of Q (..., K), with replacement: (..., count) in int64."""
    _check.positive_int(count, "count")
    rows = _check.floating("Q", Q).reshape(-1, Q.shape[-1])
    return torch.multinomial(rows, count, True, generator=generator).view(*Q.shape[:-1], count)


def coefficients(kind: str, t: Tensor, z: Tensor, Q: Tensor, classes: Tensor, temperature: float = 1.0) -> Tensor:
    """What multiplies the gradient of each drawn logit: (..., S) for t, z, Q (..., K) and classes (..., S) or shared (S,).

    The estimate of the gradient is sum_s c_s g_(k_s), with T c_s by `kind`:
    - "unbiased": (q - p) / (S Q). Its mean is the gradient; it needs both normalisers, so it saves only the backward pass.
    - "self-normalised": softmax over the drawn of z / T - log Q, minus the same of t. S logits suffice; bias O(1 / S).
    - "hybrid": the student's part self-normalised, the teacher's p / (S Q) exact on average: a cached teacher.
    - "uncorrected": softmax over the drawn without log Q. Wrong however many are drawn, unless Q is uniform.

    Raises ValueError for another kind or a temperature that is not positive.
    """
    if kind not in ESTIMATORS:
        raise ValueError(f"kind must be one of {ESTIMATORS}, got {kind!r}")
    _check.temperature(temperature)
    t, z, log_Q = t / temperature, z / temperature, _check.floating("Q", Q).log()
    count = classes.shape[-1]
    if kind == "unbiased":
        return temperature * (_at(z.softmax(-1) - t.softmax(-1), classes) / _at(Q, classes)) / count
    shift = 0.0 if kind == "uncorrected" else _at(log_Q, classes)
    q = (_at(z, classes) - shift).softmax(-1)
    p = _at(t.softmax(-1) / Q, classes) / count if kind == "hybrid" else (_at(t, classes) - shift).softmax(-1)
    return temperature * (q - p)


def sampled_kd_loss(
    hidden: Tensor,
    weight: Tensor,
    teacher_logits: Tensor,
    classes: Tensor,
    log_Q: Tensor,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The self-normalised loss T^2 KL(p~ || q~) over drawn classes of each example (N,), which never touches other classes.

    hidden (N, d), weight (K, d), bias (K,); `teacher_logits` and `log_Q` of the drawn classes, (N, S). `classes` (S,) is one
    draw shared by the batch (one small product), (N, S) one per example (gathered rows: slower, less noise together).
    p~ and q~ are softmaxes of logits / T - log Q, so the gradient is that of the "self-normalised" coefficients. Raises
    ValueError for shapes that do not match. Source: as Bengio & Senecal 2003 and Jean et al. 2015 do for hard labels.
    """
    n, d = _check.shape("hidden", _check.floating("hidden", hidden), (None, None)).shape
    _check.shape("weight", _check.floating("weight", weight), (None, d))
    if classes.dim() not in (1, 2) or classes.shape[:-1] not in ((), (n,)):
        raise ValueError(f"classes must have shape (S,) or ({n}, S), got {tuple(classes.shape)}")
    for name, value in (("teacher_logits", teacher_logits), ("log_Q", log_Q)):
        if value.shape not in (expected := (n, classes.shape[-1]), expected[1:]):
            raise ValueError(f"{name} must have shape {expected} or {expected[1:]}, got {tuple(value.shape)}")
    rows = weight[classes]  # (S, d) or (N, S, d)
    z = hidden @ rows.T if classes.dim() == 1 else (rows @ hidden.unsqueeze(-1)).squeeze(-1)  # (N, S)
    z = z if bias is None else z + bias[classes]
    log_p, log_q = ((x / _check.temperature(temperature) - log_Q).log_softmax(-1) for x in (teacher_logits, z))
    p = log_p.exp()
    return temperature**2 * (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)


def with_floor(Q: Tensor, epsilon: float) -> Tensor:
    """(1 - epsilon) Q + epsilon / K: no weight is larger than K / epsilon times |p - q|."""
    _check.fraction(epsilon, "epsilon")
    return (1 - epsilon) * Q + epsilon / Q.shape[-1]


def difference(p: Tensor, q: Tensor) -> Tensor:
    """|p - q|, normalised (uniform where p = q): with gradients of equal length the proposal of least variance."""
    gap = (p - q).abs()
    total = gap.sum(-1, keepdim=True)
    return torch.where(total > 0, gap / total, 1 / p.shape[-1])


def ranked(p: Tensor, q: Tensor, epsilon: float = 0.1) -> Tensor:
    """Two Laplace tails over the ranks of p - q, fitted to these rows and handed back to the classes."""
    ranks = (p - q).argsort(-1, descending=True).argsort(-1)
    return tails(p.shape[-1], *fit_tails(p - q), epsilon).to(p)[ranks]


# Q (..., K) from p and q.
PROPOSALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "uniform": lambda p, q: torch.full_like(p, 1 / p.shape[-1]),
    "teacher": lambda p, q: p,
    "student": lambda p, q: q,
    "half and half": lambda p, q: (p + q) / 2,  # |q - p| / Q is at most 2
    "ranked": ranked,
    "|p - q|": difference,
}


def tails(num_classes: int, b1: float, b2: float, epsilon: float = 0.1, share: float = 0.5) -> Tensor:
    """The law of ranks: a share as exp(-r / b1), the rest as exp(-(K - 1 - r) / b2), and a floor; (K,).

    The positive and the negative part of p - q have the same mass, so a share of 1/2 is exact.
    """
    if not (0 < b1 < math.inf and 0 < b2 < math.inf):
        raise ValueError(f"b1 and b2 must be positive finite numbers, got {b1!r} and {b2!r}")
    r = torch.arange(num_classes, dtype=torch.float64, device="cpu")
    front, back = (-r / b1).softmax(0), (-r / b2).softmax(0).flip(0)
    return with_floor(_check.fraction(share, "share") * front + (1 - share) * back, epsilon)


def fit_tails(gap: Tensor, order: Tensor | None = None) -> tuple[float, float]:
    """(b1, b2) by moments, for p - q of some examples (..., K): mean rank, by p - q or `order`, of either sign's mass."""
    profile = gap.gather(-1, gap.argsort(-1, descending=True) if order is None else order)
    profile = profile.reshape(-1, gap.shape[-1]).double()
    r = torch.arange(profile.shape[-1], dtype=torch.float64, device="cpu")
    ends = profile.clamp(min=0).mean(0), (-profile).clamp(min=0).mean(0).flip(0)
    b1, b2 = (max(2.0, float((r @ end) / end.sum().clamp(min=1e-300))) for end in ends)
    return b1, b2


@dataclass(frozen=True, eq=False)
class Ranking:
    """Each example's classes in the order of p - q as it was when last looked at, and the tails fitted then.

    A stale `order` (N, K) is never wrong, since any proposal that reaches all classes is legal; it only costs variance.
    """

    order: Tensor
    b1: float
    b2: float
    epsilon: float = 0.1

    @classmethod
    def start(cls, p: Tensor, epsilon: float = 0.1) -> Ranking:
        """The teacher's order, which is that of a flat student, with b1 = 2 and b2 = 0.4 K."""
        _check.shape("p", _check.floating("p", p), (None, None))
        return cls(p.argsort(-1, descending=True), 2.0, max(2.0, 0.4 * p.shape[-1]), epsilon)

    def refreshed(self, rows: Tensor, gap: Tensor) -> Ranking:
        """After a full look at the examples `rows` (R,), whose p - q is `gap` (R, K): R K d multiply-adds and R sorts."""
        _check.shape("gap", _check.floating("gap", gap), (len(rows), self.order.shape[1]))
        order = gap.argsort(-1, descending=True)
        b1, b2 = fit_tails(gap, order)
        return replace(self, order=self.order.index_copy(0, rows, order), b1=b1, b2=b2)

    def draw(self, rows: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Classes (R, S) and their log Q (R, S) for the examples `rows` (R,): one law of ranks serves all of them."""
        Q = tails(self.order.shape[1], self.b1, self.b2, self.epsilon)
        ranks = draw(Q, len(rows) * count, generator).view(len(rows), count)
        return self.order[rows.unsqueeze(1), ranks], Q.log()[ranks]


def variance(p: Tensor, q: Tensor, Q: Tensor, g: Tensor, count: int, temperature: float = 1.0) -> Tensor:
    """Trace of the unbiased estimate's covariance, (sum (q - p)^2 |g|^2 / Q - |sum (q - p) g|^2) T^2 / S, for g (K, d)."""
    terms = torch.where(p == q, 0, (q - p).square() * g.square().sum(-1) / Q)
    return temperature**2 * (terms.sum() - ((q - p) @ g).square().sum()) / count


def least_variance(p: Tensor, q: Tensor, g: Tensor, count: int, temperature: float = 1.0) -> Tensor:
    """The same for the best proposal there is, |q - p| |g|, which moves with the student."""
    best = ((q - p).abs() * g.norm(dim=-1)).sum().square()
    return temperature**2 * (best - ((q - p) @ g).square().sum()) / count


def bias(p: Tensor, q: Tensor, Q: Tensor, g: Tensor, count: int, temperature: float = 1.0) -> Tensor:
    """Bias of the self-normalised estimate up to O(1 / S^2), (d,): -T / S of sum q^2 / Q (g - E_q g), minus the same of p."""
    student, teacher = ((x.square() / Q) @ (g - x @ g) for x in (q, p))
    return -temperature * (student - teacher) / count


def log_normaliser_bias(q: Tensor, Q: Tensor, count: int) -> Tensor:
    """Mean of log Z^ - log Z for S draws, -chi^2(q || Q) / 2 S: Jensen's gap. Good while it is small against 1."""
    return (1 - (q.square() / Q).sum(-1)) / (2 * count)


def effective_sample_size(weights: Tensor) -> Tensor:
    """Kish's (sum w)^2 / sum w^2 over the last axis: S for equal weights, 1 where one draw carries everything."""
    return weights.sum(-1).square() / weights.square().sum(-1)


def regimes(num_classes: int = 1000, seed: int = 0) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Teacher logits, student logits (K,) in float64 and T of five stages of training, for the comparison of proposals."""
    u, e = torch.randn(2, num_classes, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(seed))
    t = 3 * u
    middle, spurious = 2.4 * u + 0.8 * e, t.clone()
    spurious[t.argmin()] = t.max() + 1  # one that the teacher all but excludes
    students = {"early": 0.1 * e, "middle": middle, "late": t + 0.15 * e, "spurious mode": spurious}
    return {name: (t, z, 1.0) for name, z in students.items()} | {"T = 4": (t, middle, 4.0)}


@dataclass(frozen=True, eq=False)
class RandomSampledTargets:
    """Soft targets from S classes drawn from each row of a teacher, `classes` (N, S).

    Counts / S are an unbiased table, of variance p (1 - p) / S, and the gradient of the cross-entropy, linear in it, is
    unbiased too. Source: Anshumann et al. 2025 (sparse logit sampling).
    """

    classes: Tensor
    num_classes: int

    @classmethod
    def draw(cls, teacher_logits: Tensor, draws: int, temperature: float = 1.0, seed: int = 0) -> RandomSampledTargets:
        """Drawn from softmax(teacher_logits / temperature), (N, K)."""
        _check.shape("teacher_logits", teacher_logits, (None, None))
        p = soften(teacher_logits, temperature)
        return cls(draw(p, draws, torch.Generator(p.device).manual_seed(seed)), p.shape[1])

    def table(self) -> Tensor:
        """The estimate of the teacher's table, (N, K) in float32."""
        ones = torch.ones(self.classes.shape, dtype=torch.float32, device=self.classes.device)
        return ones.new_zeros(len(ones), self.num_classes).scatter_add_(1, self.classes, ones) / self.classes.shape[1]

    def cross_entropy(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        """H(table, softmax(logits / temperature)) of each example, (N,), without the table."""
        _check.shape("logits", _check.floating("logits", logits), (len(self.classes), self.num_classes))
        _check.temperature(temperature)
        return -(logits / temperature).log_softmax(-1).gather(1, self.classes).mean(1)


def top_only(probs: Tensor, k: int) -> Tensor:
    """What a student of the k largest probabilities alone converges to: these over their mass, and 0 elsewhere; (N, K).

    Every kept class is too probable by 1 / mass; `levels.split.topk_targets` keeps the mass.
    """
    if _check.positive_int(k, "k") > _check.probabilities("probs", probs).shape[1]:
        raise ValueError(f"k must be at most the number of classes, {probs.shape[1]}, got {k}")
    values, classes = probs.topk(k, dim=1)
    return torch.zeros_like(probs).scatter_(1, classes, values / values.sum(1, keepdim=True))


def _at(values: Tensor, classes: Tensor) -> Tensor:
    """The entries (..., S) at `classes` (..., S), or at shared ones (S,)."""
    return values[..., classes] if classes.dim() == 1 else values.expand(*classes.shape[:-1], -1).gather(-1, classes)
