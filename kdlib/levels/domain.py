"""Level 2, knowledge of the domain: which classes are alike, and how that shapes a student's last layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import _check, _cpu, _seeds
from kdlib.losses import soft_cross_entropy, without_true_class


def class_mean_targets(probs: Tensor, labels: Tensor) -> Tensor:
    """The teacher's average answer for each class, one row per example: table (N, K) for probs (N, K), labels (N,).

    Every example of a class gets the same row, E[p | y], so nothing of the single example is left: this is exactly the
    class-level part of the teacher. For distillation at temperature T pass the tempered table `soften(logits, T)`.

    Raises ValueError for rows that are no distributions or labels that do not match.
    Source: this book's control; a clean alternative to KD-sim of Tang et al. 2020.

    >>> class_mean_targets(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 0]))
    tensor([[0.7500, 0.2500],
            [0.7500, 0.2500]])
    """
    n, k = _check.probabilities("probs", probs).shape
    _check.labels("labels", labels, k, n)
    total = probs.new_zeros(k, k).index_add_(0, labels, probs)  # (K, K): a row per label
    return total[labels] / torch.bincount(labels, minlength=k)[labels].unsqueeze(1)


def similarity_targets(class_weights: Tensor, labels: Tensor, temperature: float = 0.3) -> Tensor:
    """KD-sim: classes are as probable as their weight rows are similar; (N, K) for class_weights (K, h), labels (N,).

    softmax over k of cos(w_y, w_k) / temperature, the own class included (cosine 1). Rows of `class_weights` are classes:
    for student f of a fleet that is `fleet.weights[-1][f].mT`. Cosines span a short range, so temperatures are near 0.2.

    Raises ValueError for rows without direction, labels out of range or a temperature that is not positive.
    Source: Tang et al. 2020, rho^sim (up to how the paper stretches the cosines, which we do not know).
    """
    k = _weights(class_weights).shape[0]
    _check.labels("labels", labels, k)
    _check.temperature(_check.number("temperature", temperature))
    rows = F.normalize(class_weights, dim=1)
    return torch.softmax(rows @ rows.T / temperature, dim=1)[labels]


def class_correlation(probs: Tensor) -> Tensor:
    """Pearson correlation over examples between the probabilities of two classes: (K, K), float64, for probs (N, K).

    Sorted by superclass this is the heat map of Tang et al. 2020: blocks show at high temperature, hardly at T = 1, where
    columns are nearly exclusive and sit at -1 / (K - 1). Tempering: `class_correlation(soften(logits, T))`.

    Raises ValueError for rows that are no distributions or a class whose probability never changes.
    """
    _check.probabilities("probs", probs)
    still = (probs == probs[:1]).all(0).nonzero().flatten().tolist()
    if still:
        raise ValueError(f"probs must vary over examples in every class, got constant columns {still}")
    return torch.corrcoef(probs.double().T)


def class_cosines(class_weights: Tensor) -> Tensor:
    """Cosines between mean-centred weight rows, (..., K, K) for class_weights (..., K, h): the last layer's geometry.

    Centred, because a vector common to all classes cancels in the softmax. K equiangular rows give -1 / (K - 1).

    Raises ValueError for rows without direction.
    """
    rows = F.normalize(_weights(class_weights - class_weights.mean(-2, keepdim=True)), dim=-1)
    return rows @ rows.mT


def contrast(matrix: Tensor, groups: Tensor) -> pd.DataFrame:
    """Mean off-diagonal entry inside and between superclasses: matrix (K, K) or (F, K, K), groups (K,).

    One row per matrix with columns within, between and contrast = within - between. Raises ValueError for other shapes,
    or groups without a pair of either kind.
    """
    matrix = matrix.unsqueeze(0) if matrix.dim() == 2 else matrix
    k = matrix.shape[-1]
    _check.shape("matrix", matrix, (None, k, k))
    _check.labels("groups", groups, k, k)
    same = groups.unsqueeze(0) == groups.unsqueeze(1)
    inside = same & ~torch.eye(k, dtype=torch.bool, device=groups.device)
    if not inside.any() or same.all():
        raise ValueError(f"groups must put some classes together and some apart, got {groups.tolist()}")
    within, between = matrix[:, inside].mean(1), matrix[:, ~same].mean(1)
    columns = {"within": within, "between": between, "contrast": within - between}
    return pd.DataFrame({name: value.tolist() for name, value in columns.items()})


def logit_geometry(class_weights: Tensor, groups: Tensor) -> pd.DataFrame:
    """How a last layer arranges its classes: class_weights (K, h) or (F, K, h), groups (K,).

    One row per student: within, between and contrast of `class_cosines`, and norm_spread, the standard deviation of the
    rows' lengths over their mean (the ordering of distances is only promised for equal lengths). For a fleet:
    `fleet.students.join(logit_geometry(fleet.weights[-1].mT, groups))`. Raises ValueError as `contrast`.
    """
    lengths = class_weights.norm(dim=-1).reshape(-1, class_weights.shape[-2])  # (F, K)
    spread = lengths.std(1, correction=0) / lengths.mean(1)
    return contrast(class_cosines(class_weights), groups).assign(norm_spread=spread.tolist())


def family_targets(groups: Tensor, mass: float, share: float | None = None, seed: int | None = None) -> Tensor:
    """One target row per class with family structure, (K, K) float32 for families groups (K,): what `free_feature_model` fits.

    `mass` lies on the class itself; of the rest `share` goes evenly to the classes of its family, what is left evenly to all
    others, and None spreads all of it evenly (smoothing). With `seed` the wrong classes of each row are shuffled: the
    same numbers, no relations.

    Raises ValueError for numbers outside [0, 1], or a class that has no family or no strangers for its share.
    """
    k = len(_check.shape("groups", groups, (None,)))
    _check.labels("groups", groups, k, k)
    for name, value in (("mass", mass), ("share", share)):
        if value is not None and not 0 <= _check.number(name, value) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    classes = torch.arange(k, dtype=torch.int64, device=groups.device)
    wrong = without_true_class((groups.unsqueeze(1) == groups.unsqueeze(0)).double(), classes)  # (K, K - 1)
    family, strangers = wrong.sum(1, keepdim=True), (1 - wrong).sum(1, keepdim=True)
    if share is None:
        rest = torch.ones_like(wrong) / (k - 1)
    elif family.min() == 0 or strangers.min() == 0:
        raise ValueError(f"groups must give every class both a family and strangers, got {groups.tolist()}")
    else:
        rest = share * wrong / family + (1 - share) * (1 - wrong) / strangers
    if seed is not None:
        draw = torch.rand(k, k - 1, generator=_seeds.stream(seed, "family targets"), dtype=torch.float64, device="cpu")
        rest = rest.gather(1, draw.argsort(1).to(rest.device))
    own = mass * torch.eye(k, dtype=torch.float64, device=groups.device)
    return own.scatter(1, without_true_class(classes.expand(k, k), classes), (1 - mass) * rest).float()


def free_feature_model(
    targets: Tensor,
    width: int = 30,
    mu: float = 2e-3,
    lr: float = 0.02,
    steps: int = 6000,
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """Last layers (F, K, width) fitted to one target row per class, with features as free as the weights.

    Each table of `targets (K, K)` or `(F, K, K)` gets its own weights W and features H, and minimises
    mean_c CE(targets_c, softmax(W h_c)) + mu / 2 (|W|^2 + |H|^2) by Adam. No data, no network: what is left is what the
    targets alone ask of the geometry. One-hot or evenly smoothed targets give an equiangular frame. `seed` draws the
    start: one number for all tables, or one for each.

    Raises ValueError for rows that are no distributions, other shapes or settings out of range.
    Source: the unconstrained-features model of the neural-collapse literature; the targets are this book's.
    """
    targets = targets.unsqueeze(0) if targets.dim() == 2 else targets
    k = targets.shape[-1]
    _check.probabilities("targets", targets, (None, k, k))
    for name, value in (("width", width), ("steps", steps)):
        _check.positive_int(value, name)
    if not mu >= 0 or not lr > 0:
        raise ValueError(f"mu must not be negative and lr must be positive, got {mu} and {lr}")
    seeds = list(seed) if isinstance(seed, Iterable) else [seed] * len(targets)
    if len(seeds) != len(targets):
        raise ValueError(f"seed must be one number or one for each of the {len(targets)} tables, got {len(seeds)}")
    draws = [_seeds.stream(s, "free features") for s in seeds]
    starts = [torch.randn(2, k, width, generator=g, dtype=torch.float32, device="cpu") for g in draws]
    both = (
        torch.stack(starts, dim=1).to(targets).div_(width**0.5).requires_grad_()
    )  # (2, F, K, width): weights, features
    optimiser = torch.optim.Adam([both], lr=lr)
    with _cpu.settings(threads=1):  # products this small run several times slower on two
        for _ in range(steps):
            weights, features = both
            logits = features @ weights.mT  # (F, examples K, classes K)
            loss = soft_cross_entropy(logits, targets).mean(-1).sum() + mu / 2 * both.square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return both[0].detach()


def stationary_logits(
    teacher_logits: Tensor, labels: Tensor, temperature: float = 1.0, alpha: float = 0.9, t_squared: bool = True
) -> Tensor:
    """Student logits with no distillation gradient left, example by example: (N, K) float64, centred.

    The minimum of `kd_loss` for teacher_logits (N, K) and labels (N,), by Newton's method. There wrong classes stand in the
    teacher's order at every T and alpha, and at T = 1 with its exact gaps, z_i - z_j = log(p_i / p_j).
    The gradient left is about 1e-15; classes whose target is smaller than that are not resolved.

    Raises ValueError for arguments out of range (alpha = 0 has no finite minimum) and RuntimeError without convergence.
    Source: Tang et al. 2020, level 2 (T = 1); any T is this book's extension.
    """
    n, k = _check.shape("teacher_logits", _check.finite("teacher_logits", teacher_logits), (None, None)).shape
    _check.labels("labels", labels, k, n)
    if not 0 < _check.number("alpha", alpha) <= 1:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
    _check.temperature(_check.number("temperature", temperature))
    v = teacher_logits.double()
    one_hot = F.one_hot(labels, k).double()
    soft = alpha * (temperature if t_squared else 1 / temperature)
    target = (1 - alpha) * one_hot + soft * torch.softmax(v / temperature, dim=1)
    ridge = 1 / k + 1e-14 * torch.eye(k, dtype=torch.float64, device=v.device)  # the constant direction is free
    halvings = 0.5 ** torch.arange(12, dtype=torch.float64, device=v.device).view(-1, 1, 1)

    def gradient(z: Tensor) -> Tensor:
        return (1 - alpha) * torch.softmax(z, -1) + soft * torch.softmax(z / temperature, -1) - target

    # Exact for alpha = 1 and for T = 1; in between the better of the two.
    starts = torch.stack([v, torch.log((1 - alpha) * one_hot + alpha * torch.softmax(v, dim=1))])  # (2, N, K)
    z = starts[gradient(starts).norm(dim=-1).argmin(0), torch.arange(n, device=v.device)]
    for _ in range(200):
        g = gradient(z)  # (N, K)
        if g.abs().max() < 1e-14 * max(1.0, soft):
            break
        q, q_soft = torch.softmax(z, 1), torch.softmax(z / temperature, 1)
        hessian = (1 - alpha) * _covariance(q) + soft / temperature * _covariance(q_soft) + ridge
        step = torch.linalg.solve(hessian, g)
        trials = z - halvings * step  # (12, N, K): a full step, a half, a quarter, ...
        best = gradient(trials).norm(dim=-1).argmin(0)
        z = trials[best, torch.arange(n, device=v.device)]
    residual = float(gradient(z).abs().max())
    if residual > 1e-12 * max(1.0, soft):
        raise RuntimeError(f"the stationary point was not reached: a gradient of {residual:.1e} is left")
    return z - z.mean(1, keepdim=True)


def template_distances(logits: Tensor, class_weights: Tensor) -> Tensor:
    """Squared distances |h - w_k|^2, (N, K), between each example's feature and the rows of class_weights (K, h).

    h is the shortest feature with W h = logits + constant, for logits (N, K). With rows of equal length, differences of distances
    are -2 times differences of logits: a nearer template is a more probable class.

    Raises ValueError for rows that are linearly dependent, since then no feature need have these logits.
    """
    k, width = _weights(class_weights).shape
    _check.shape("logits", logits, (None, k))
    if width < k or int(torch.linalg.matrix_rank(class_weights)) < k:
        raise ValueError(f"class_weights must have linearly independent rows, got shape {tuple(class_weights.shape)}")
    features = torch.linalg.lstsq(class_weights, logits.to(class_weights).T, driver="gelsd").solution.T  # (N, h)
    return (features.unsqueeze(1) - class_weights).square().sum(-1)


def order_agreement(scores: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Rank correlation between scores and teacher over each example's wrong classes: (..., N), from -1 to 1.

    Spearman's, for scores (..., N, K), which may be a student's logits or minus its `template_distances`, teacher_logits
    (N, K) and labels (N,); equal scores share their mean rank, and where all are equal on one side there is no order to agree
    with: 0. 1 for every example is what the ordering of wrong classes at a stationary point promises.

    Raises ValueError for shapes that do not match, NaN or fewer than 3 classes.
    """
    n, k = _check.shape("teacher_logits", teacher_logits, (None, None)).shape
    if scores.dim() < 2 or tuple(scores.shape[-2:]) != (n, k):
        raise ValueError(f"scores must end in the teacher's (N, K) = {(n, k)}, got shape {tuple(scores.shape)}")
    _check.labels("labels", labels, k, n)
    if k < 3:
        raise ValueError(f"teacher_logits must have at least 3 classes, for two wrong ones, got {k}")
    for name, value in (("scores", scores), ("teacher_logits", teacher_logits)):
        if value.isnan().any():
            raise ValueError(f"{name} must be numbers, got {int(value.isnan().sum())} NaN of {value.numel()}")
    one, other = (_ranks(without_true_class(t, labels)) - (k - 2) / 2 for t in (scores, teacher_logits))  # centred
    spread = one.square().sum(-1) * other.square().sum(-1)
    return (one * other).sum(-1) / spread.sqrt().masked_fill(spread == 0, 1)


def _ranks(values: Tensor) -> Tensor:
    """Ranks 0, 1, ... along the last axis, float64; equal values share the mean of theirs."""
    values = values.contiguous()
    ordered, _ = values.sort(-1)
    ends = [torch.searchsorted(ordered, values, right=right).double() for right in (False, True)]
    return (ends[0] + ends[1] - 1) / 2


def _covariance(q: Tensor) -> Tensor:
    return torch.diag_embed(q) - q.unsqueeze(-1) * q.unsqueeze(-2)


def _weights(value: Tensor) -> Tensor:
    _check.finite("class_weights", _check.floating("class_weights", value))
    if value.dim() < 2 or not value.norm(dim=-1).min() > 0:
        raise ValueError(f"class_weights must be rows (..., K, h) that are not zero, got shape {tuple(value.shape)}")
    return value
