"""Lipschitz tools against SVD, autograd's full Jacobian and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from kdlib.mechanisms import lipschitz
from kdlib.models import MLP


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_spectral_norms_are_those_of_the_svd() -> None:
    w = normal(200, 6, 9)
    expected = torch.from_numpy(np.linalg.svd(w.numpy())[1][:, 0])
    torch.testing.assert_close(lipschitz.spectral_norm(w), expected)
    torch.testing.assert_close(lipschitz.spectral_norm(w, 3000), expected, rtol=1e-6, atol=0)
    assert (lipschitz.spectral_norm(w, 2) <= expected + 1e-12).all()
    assert lipschitz.spectral_norm(torch.zeros(2, 3, 4), 5).tolist() == [0, 0]


def test_local_norms_are_those_of_the_full_jacobian_and_below_the_product() -> None:
    model, x = MLP((5, 8, 8, 4), range(200), torch.float64), normal(20, 5)
    full = vmap(jacrev(lambda row: model(row[None])[:, 0]))(x)  # (N, F, K, d)
    exact = torch.linalg.matrix_norm(full, ord=2)
    assert (exact <= lipschitz.product_bound(model) + 1e-12).all()
    got = lipschitz.local_norm(lambda rows: model(rows)[0], x, 2000)
    torch.testing.assert_close(got, exact[:, 0], rtol=1e-6, atol=0)


def test_the_estimate_is_the_root_of_the_iteration_on_the_cross_moment() -> None:
    a, b = normal(7, 5, 16), normal(7, 4, 16)
    G = np.einsum("bin,bjn->bij", a, b) / 16
    for steps in (1, 2, 10):
        v, nu = np.ones((7, 5)), np.ones(7)
        for _ in range(steps):
            v = np.einsum("bij,bj->bi", G @ G.transpose(0, 2, 1), v)
            nu = np.linalg.norm(v, axis=1)
            v = v / nu[:, None]
        np.testing.assert_allclose(lipschitz.transmitting_estimate(a, b, steps), np.sqrt(nu))


def test_the_loss_weighs_the_later_pair_twice_and_sends_no_gradient_to_the_teacher() -> None:
    student = [normal(3, 4 + i, 6).requires_grad_() for i in range(3)]
    teacher = [normal(3, 5 + i, 6).requires_grad_() for i in range(3)]
    gaps = [
        lipschitz.transmitting_estimate(*student[i : i + 2]) - lipschitz.transmitting_estimate(*teacher[i : i + 2])
        for i in range(2)
    ]
    loss = lipschitz.guided_loss(student, teacher)
    torch.testing.assert_close(loss, gaps[0] ** 2 / 4 + gaps[1] ** 2 / 2)
    loss.sum().backward()
    assert all(t.grad is None for t in teacher)
    assert all(s.grad is not None and s.grad.abs().sum() > 0 for s in student)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="weight must have shape"):
        lipschitz.spectral_norm(torch.zeros(3))
    with pytest.raises(ValueError, match="steps must be an integer"):
        lipschitz.spectral_norm(torch.zeros(3, 3), 0)
    with pytest.raises(ValueError, match="b must have shape"):
        lipschitz.transmitting_estimate(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="as many maps"):
        lipschitz.guided_loss([torch.zeros(1, 2, 3)], [torch.zeros(1, 2, 3)])
    with pytest.raises(ValueError, match="model must be an MLP"):
        lipschitz.product_bound(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
