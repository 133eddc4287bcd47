"""Lipschitz constants of networks, and the estimate that Lipschitz-guided distillation (Shang et al. 2021) uses for them.

`product_bound` lies above a network's constant, `local_norm` at any input below it. `transmitting_estimate` is neither: it
is the largest singular value of an uncentred second moment of two feature maps, as the released code computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp

from kdlib import _check
from kdlib.models import MLP


def spectral_norm(weight: Tensor, steps: int | None = None) -> Tensor:
    """Largest singular value of each matrix (..., out, in): (...), by SVD, or a lower bound by `steps` power iterations.

    The iteration starts at the normalised longest row, so a matrix of zeros gives 0. Raises ValueError for a tensor
    without two axes or for `steps` below 1.
    """
    if _check.floating("weight", weight).dim() < 2:
        raise ValueError(f"weight must have shape (..., out, in), got {tuple(weight.shape)}")
    if steps is None:
        return torch.linalg.matrix_norm(weight, ord=2)
    longest = weight.norm(dim=-1).argmax(-1)[..., None, None].expand(*weight.shape[:-2], 1, weight.shape[-1])
    v = _unit(weight.gather(-2, longest).mT)  # (..., in, 1)
    for _ in range(_check.positive_int(steps, "steps")):
        v = _unit(weight.mT @ (weight @ v))
    return (weight @ v).norm(dim=(-2, -1))


def product_bound(model: MLP) -> Tensor:
    """Product of the layers' spectral norms, (F,): no ReLU network's constant is larger. ValueError for another model."""
    if type(model) is not MLP:
        raise ValueError(f"model must be an MLP, got {type(model).__name__}")
    return torch.stack([spectral_norm(w) for w, _ in model.layers()]).prod(0)


def local_norm(f: Callable[[Tensor], Tensor], x: Tensor, steps: int = 50) -> Tensor:
    """Spectral norm of the Jacobian of `f` at each row of x (N, d): (N,), by power iteration from below.

    `f` maps (N, d) to (N, K), row by row. The Jacobian is never formed: a step costs products with it and its transpose.
    """
    _check.shape("x", _check.floating("x", x), (None, None))
    out, back = vjp(f, x)
    _, along = vjp(lambda u: back(u)[0], torch.zeros_like(out))  # J' u is linear in u: its own transpose is v -> J v
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu").to(x)
    v = v / v.norm(dim=1, keepdim=True)
    for _ in range(_check.positive_int(steps, "steps")):
        (u,) = back(along(v)[0])
        v = u / u.norm(dim=1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
    return along(v)[0].norm(dim=1)


def transmitting_estimate(a: Tensor, b: Tensor, steps: int = 10) -> Tensor:
    """Root of the power iteration's last norm for G G', G = a b' / n: (B,) for maps a (B, C1, n) and b (B, C2, n).

    As in the released code, with its CIFAR setting of `steps` and its ImageNet start, all ones and not normalised. For one
    step it is no estimate; from two on it lies below the largest singular value of G. Source: Shang et al. 2021, code.
    """
    _check.shape("a", _check.floating("a", a), (None, None, None))
    _check.shape("b", _check.floating("b", b), (len(a), None, a.shape[2]))
    G = a @ b.mT / a.shape[2]  # (B, C1, C2)
    v = torch.ones_like(G[..., :1])
    for _ in range(_check.positive_int(steps, "steps")):
        m = G @ (G.mT @ v)
        norm = m.norm(dim=(-2, -1), keepdim=True)
        v = m / norm
    return norm.flatten().sqrt()


def guided_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], steps: int = 10) -> Tensor:
    """Squared gaps of the estimates of consecutive maps, (B,); the last pair weighs 1/2, the one before it 1/4, and so on.

    Each map is (B, C, n), all with one n; a teacher's map is a constant. Raises ValueError unless both have as many maps,
    at least two. Source: Shang et al. 2021, code.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise ValueError(
            f"student and teacher must have as many maps, at least 2, got {len(student)} and {len(teacher)}"
        )
    total = student[0].new_zeros(len(student[0]))
    for i in range(1, len(student)):
        own = transmitting_estimate(student[i - 1], student[i], steps)
        theirs = transmitting_estimate(teacher[i - 1].detach(), teacher[i].detach(), steps)
        total = total + 2.0 ** (i - len(student)) * (own - theirs).square()
    return total


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
