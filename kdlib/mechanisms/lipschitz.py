"""Lipschitz constants of networks, and the estimate that Lipschitz-guided distillation (Shang et al. 2021) uses for them.

`product_bound` lies above a network's constant, `local_norm` at any input below it, `exact_constant` is it, where units are
few. `transmitting_estimate` is none of them: it is the largest singular value of an uncentred second moment of two feature
maps, as the released code computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import Tensor
from torch.func import vjp

from kdlib import _check
from kdlib.models import CNN, MLP

DENSE = 4096  # numbers of an image whose convolution is written out as a matrix
UNITS = 16  # hidden units whose patterns are enumerated
THIN = 1e-9  # a region whose largest ball is smaller counts as none


def spectral_norm(weight: Tensor, steps: int | None = None, *, image: tuple[int, int] | None = None) -> Tensor:
    """Largest singular value of matrices (out, in) or (F, out, in): () or (F,); or of convolutions, as operators on an `image`.

    A convolution is (out, in, h, w) or (F, out, in, h, w), h and w odd, with zeros around the image (height, width) so that
    it keeps its size. Its reshaped kernel, which torch's `parametrizations.spectral_norm` takes, has another norm, smaller
    by up to sqrt(h w). `steps` None: by SVD, of a convolution's dense matrix; else a lower bound by power iterations from a
    normalised start. Raises ValueError for other shapes, a convolution without an image, or one too large to write out.
    """
    steps = None if steps is None else _check.positive_int(steps, "steps")
    shape = tuple(_check.floating("weight", weight).shape)
    if len(shape) in (4, 5):
        if image is None:
            raise ValueError(f"image must be (height, width) for a convolution of shape {shape}, got None")
        if not (shape[-1] % 2 and shape[-2] % 2):
            raise ValueError(f"weight must have kernels of odd size, got shape {shape}")
        height, width = (_check.positive_int(n, "image") for n in image)
        norms = torch.stack([_of_convolution(w, steps, height, width) for w in weight.view(-1, *shape[-4:])])
        return norms if len(shape) == 5 else norms[0]
    if len(shape) not in (2, 3) or image is not None:
        raise ValueError(
            f"weight must have shape ([F,] out, in), or ([F,] out, in, h, w) with an image, got {shape}, image {image}"
        )
    if steps is None:
        return torch.linalg.matrix_norm(weight, ord=2)
    v = _start(weight.new_empty(1, shape[-1], 1))[0]  # (in, 1), at random: a row can lie across the steepest direction
    for _ in range(steps):
        v = _unit(weight.mT @ (weight @ v))
    return (weight @ v).norm(dim=(-2, -1))


def _of_convolution(kernel: Tensor, steps: int | None, height: int, width: int) -> Tensor:
    numbers, around = kernel.shape[1] * height * width, (kernel.shape[2] // 2, kernel.shape[3] // 2)
    if steps is None:
        if numbers > DENSE:
            raise ValueError(f"steps must be given for images of more than {DENSE} numbers, got None for {numbers}")
        basis = torch.eye(numbers, dtype=kernel.dtype, device=kernel.device).view(numbers, -1, height, width)
        return torch.linalg.matrix_norm(F.conv2d(basis, kernel, padding=around).flatten(1), ord=2)
    v = _start(torch.empty(1, kernel.shape[1], height, width, dtype=kernel.dtype, device=kernel.device))
    for _ in range(steps):
        u = F.conv_transpose2d(F.conv2d(v, kernel, padding=around), kernel, padding=around)
        v = u / u.norm().clamp_min(torch.finfo(u.dtype).tiny)
    return F.conv2d(v, kernel, padding=around).norm()


def product_bound(model: MLP | CNN, image: tuple[int, int] | None = None, steps: int | None = None) -> Tensor:
    """Product of the layers' norms, (F,): no ReLU network's constant is larger.

    A CNN's convolutions are operators on an `image`, halved by each pooling; max-pooling and ReLU have constant 1, and the
    mean over n positions 1 / sqrt(n). With `steps`, as for `spectral_norm`, norms come from below, and after few rounds the
    product need not be a bound. Raises ValueError for another model or no image.
    """
    if type(model) is MLP:
        return torch.stack([spectral_norm(w, steps) for w, _ in model.layers()]).prod(0)
    if type(model) is not CNN:
        raise ValueError(f"model must be an MLP or a CNN, got {type(model).__name__}")
    *filters, (last, _) = model.layers()
    norms = [spectral_norm(last, steps)]
    for k, (w, _) in enumerate(filters):
        norms.append(spectral_norm(w, steps, image=image))
        if image is not None and k < len(filters) - 1:
            image = (image[0] // 2, image[1] // 2)
    assert image is not None  # or the first filter had refused
    return torch.stack(norms).prod(0) / math.sqrt(image[0] * image[1])


def local_norm(f: Callable[[Tensor], Tensor], x: Tensor, steps: int = 50) -> Tensor:
    """Spectral norm of the Jacobian of `f` at each example of x (N, ...): (N,), by power iteration from below.

    `f` maps (N, ...) to (N, K), example by example. The Jacobian is never formed: a step costs products with it and its
    transpose. Raises ValueError for x without a second axis.
    """
    if _check.floating("x", x).dim() < 2:
        raise ValueError(f"x must have shape (N, ...), got {tuple(x.shape)}")
    out, back = vjp(f, x)[:2]
    along = vjp(lambda u: back(u)[0], torch.zeros_like(out))[1]  # J' u is linear in u: its own transpose is v -> J v
    v = _start(x)
    for _ in range(_check.positive_int(steps, "steps")):
        (u,) = back(along(v)[0])
        norms = u.flatten(1).norm(dim=1).clamp_min(torch.finfo(u.dtype).tiny)
        v = u / norms.view(-1, *[1] * (u.dim() - 1))
    return along(v)[0].norm(dim=1)


def exact_constant(model: MLP) -> Tensor:
    """Each ReLU network's Lipschitz constant on all of its input space, (F,), float64: the steepest of its linear pieces.

    Units are added one by one, and a linear program asks on which sides of its bend a region has room. Raises ValueError for
    another model or more than 16 hidden units: with d inputs, n of them in a layer make up to sum_k<=d (n choose k) regions.
    """
    if type(model) is not MLP:
        raise ValueError(f"model must be an MLP, got {type(model).__name__}")
    if (units := sum(model.sizes[1:-1])) > UNITS:
        raise ValueError(f"model must have at most {UNITS} hidden units to enumerate their patterns, got {units}")
    found = []
    for row in model.flat.detach().split(1):
        layers = [(w[0].double().cpu().numpy(), b[0, :, 0].double().cpu().numpy()) for w, b in model.layers(row)]
        found.append(max(float(np.linalg.norm(slope, 2)) for slope in _slopes(layers)))
    return torch.tensor(found, dtype=torch.float64, device=model.flat.device)


def _slopes(layers: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """Jacobians of a network's linear pieces; a piece is kept as half-spaces a x + c > 0 with a point inside."""
    d = layers[0][0].shape[1]

    def visit(
        k: int, A: np.ndarray, c: np.ndarray, on: list[bool], walls: np.ndarray, x: np.ndarray
    ) -> Iterator[np.ndarray]:
        w, b = layers[k]
        if k == len(layers) - 1:
            yield w @ A
        elif len(on) == len(w):
            open_ = np.array(on, dtype=float)
            yield from visit(k + 1, open_[:, None] * (w @ A), open_ * (w @ c + b), [], walls, x)
        else:
            bend = np.append(w[len(on)] @ A, w[len(on)] @ c + b[len(on)])
            if (length := np.linalg.norm(bend[:-1])) < THIN:  # the same side everywhere
                yield from visit(k, A, c, [*on, bool(bend[-1] > 0)], walls, x)
                return
            bend /= length
            for side in (1, -1):
                inside = x if side * (bend[:-1] @ x + bend[-1]) > THIN else _inside(np.vstack([walls, side * bend]))
                if inside is not None:
                    yield from visit(k, A, c, [*on, side > 0], np.vstack([walls, side * bend]), inside)

    yield from visit(0, np.eye(d), np.zeros(d), [], np.empty((0, d + 1)), np.zeros(d))


def _inside(walls: np.ndarray) -> np.ndarray | None:
    """Centre of the largest ball, of radius at most 1, in half-spaces with unit normals; None where there is no room."""
    m, d = walls.shape[0], walls.shape[1] - 1
    found = linprog(
        np.append(np.zeros(d), -1),
        A_ub=np.hstack([-walls[:, :-1], np.ones((m, 1))]),
        b_ub=walls[:, -1],
        bounds=[(None, None)] * d + [(None, 1)],
    )
    return found.x[:-1] if found.status == 0 and found.x[-1] > THIN else None


def transmitting_estimate(a: Tensor, b: Tensor, steps: int = 10) -> Tensor:
    """Root of the power iteration's last norm for G G', G = a b' / n: (B,) for maps a (B, C1, n) and b (B, C2, n).

    As in the released code, with its CIFAR setting of `steps` and its ImageNet start, all ones and not normalised. For one
    step it is no estimate; from two on it lies below the largest singular value of G. Source: Shang et al. 2021, code.
    """
    _check.shape("a", _check.floating("a", a), (None, None, None))
    _check.shape("b", _check.floating("b", b), (len(a), None, a.shape[2]))
    wide, long, n = a.shape[1], b.shape[1], a.shape[2]
    if wide * long <= n * (wide + long):
        G = a @ b.mT / n
        factors = [G.mT, G]
    else:  # few positions: in pieces, G is never formed
        factors = [a.mT, b / n, b.mT, a / n]
    v = torch.ones_like(a[..., :1])
    for _ in range(_check.positive_int(steps, "steps")):
        m = v
        for factor in factors:
            m = factor @ m
        norm = m.norm(dim=(-2, -1), keepdim=True)
        v = m / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return norm.flatten().sqrt()


def guided_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], steps: int = 10) -> Tensor:
    """Squared gaps of the estimates of consecutive maps, (B,); the last pair weighs 1/2, the one before it 1/4, and so on.

    Each map is (B, C, n), all with one n; a teacher's map is a constant. The code adds its mean over B times alpha / 200, with
    alpha from 0.2 to 4 on CIFAR-100. Raises ValueError unless both have as many maps, at least two. Source: Shang et al. 2021, code.
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


def overhaul_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The feature loss that the guided one is added to, (B,): mean squared gap of maps (B, C, n) before their ReLU.

    The teacher's negative values are raised to their channel's mean, taken here over B and n, and a student below a teacher that is not
    positive has no loss. Source: Heo et al. 2019, as in the code of Shang et al. 2021. Raises ValueError for other shapes.
    """
    _check.shape("student", _check.floating("student", student), (None, None, None))
    teacher = _check.shape("teacher", teacher, tuple(student.shape)).detach()
    shut = teacher < 0
    margin = (teacher * shut).sum((0, 2), keepdim=True) / shut.sum((0, 2), keepdim=True).clamp_min(1)
    wanted = torch.maximum(teacher, margin)
    counts = (student > wanted) | (wanted > 0)
    return ((student - wanted).square() * counts).mean((1, 2))


def features(model: MLP, x: Tensor, flat: Tensor | None = None) -> list[Tensor]:
    """What each layer of F networks says before its ReLU, (F, units, B), the logits last, for x (F, B, inputs)."""
    h = x.flatten(2).mT
    maps: list[Tensor] = []
    for w, b in model.layers(flat)[: len(model.sizes) - 1]:
        maps.append(torch.baddbmm(b, w, torch.relu(maps[-1]) if maps else h))
    return maps


def _start(like: Tensor) -> Tensor:
    v = torch.randn(like.shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float64, device="cpu").to(
        like
    )
    return v / v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1))


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
