"""Lipschitz tools against SVD, autograd's full Jacobian and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jacrev, vmap

from kdlib.mechanisms import lipschitz
from kdlib.models import CNN, MLP


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_spectral_norms_are_those_of_the_svd() -> None:
    w = normal(200, 6, 9)
    expected = torch.from_numpy(np.linalg.svd(w.numpy())[1][:, 0])
    torch.testing.assert_close(lipschitz.spectral_norm(w), expected)
    torch.testing.assert_close(lipschitz.spectral_norm(w, 3000), expected, rtol=1e-6, atol=0)
    assert (lipschitz.spectral_norm(w, 2) <= expected + 1e-12).all()
    assert lipschitz.spectral_norm(torch.zeros(2, 3, 4), 5).tolist() == [0, 0]


def test_power_iteration_leaves_a_longest_row_that_is_not_the_steepest_direction() -> None:
    w = torch.tensor([[1.3, 0, 0], [0, 0.9, 0.9], [0, 0.9, 0.9]], dtype=torch.float64)  # norm 1.8, longest row 1.3
    torch.testing.assert_close(lipschitz.spectral_norm(w, 200), w.new_tensor(1.8))
    torch.testing.assert_close(lipschitz.spectral_norm(w.expand(2, 3, 3), 200), w.new_tensor([1.8, 1.8]))


@pytest.mark.parametrize("kernel", [(4, 3, 3, 3), (2, 5, 1, 5), (3, 2, 3, 1)])
def test_a_convolution_is_the_operator_on_the_image(kernel: tuple[int, ...]) -> None:
    w, (height, width) = normal(2, *kernel), (5, 6)
    dense = torch.zeros(2, kernel[0] * height * width, kernel[1] * height * width, dtype=torch.float64)
    for j in range(dense.shape[2]):
        one = torch.zeros(1, kernel[1], height, width, dtype=torch.float64)
        one.view(-1)[j] = 1
        for f in range(2):
            dense[f, :, j] = F.conv2d(one, w[f], padding="same").flatten()
    expected = torch.from_numpy(np.linalg.svd(dense.numpy())[1][:, 0])
    torch.testing.assert_close(lipschitz.spectral_norm(w, image=(height, width)), expected)
    torch.testing.assert_close(lipschitz.spectral_norm(w[1], image=(height, width)), expected[1])
    torch.testing.assert_close(lipschitz.spectral_norm(w, 2000, image=(height, width)), expected, rtol=1e-5, atol=0)
    reshaped = torch.linalg.matrix_norm(w.flatten(2), ord=2)
    assert (expected > 1.01 * reshaped).all()


def test_a_cnn_is_less_steep_than_its_product() -> None:
    model = CNN((2, 3, 4), 5, range(6), torch.float64)
    bound, x = lipschitz.product_bound(model, (6, 6)), normal(10, 2, 6, 6)
    for f in range(6):
        own = model.part(slice(f, f + 1))
        assert (lipschitz.local_norm(lambda rows, own=own: own(rows)[0], x) <= bound[f]).all()
    parts = [lipschitz.spectral_norm(w, image=(n, n)) for (w, _), n in zip(model.layers()[:2], (6, 3), strict=True)]
    torch.testing.assert_close(bound, parts[0] * parts[1] * lipschitz.spectral_norm(model.layers()[2][0]) / 3)
    oblong, halved = lipschitz.product_bound(model, (6, 2)), [(6, 2), (3, 1)]
    parts = [lipschitz.spectral_norm(w, image=n) for (w, _), n in zip(model.layers()[:2], halved, strict=True)]
    last = lipschitz.spectral_norm(model.layers()[2][0])
    torch.testing.assert_close(oblong, parts[0] * parts[1] * last / 3**0.5)  # the mean over 3 positions


def steepest(model: MLP, x: Tensor) -> Tensor:
    """Largest norm of the full Jacobian at points x (N, d), (F,): slopes multiplied along the open units."""
    h, slope = x.T.expand(len(model.seeds), -1, -1), torch.eye(x.shape[1], dtype=x.dtype)  # (F, d, N)
    slope = slope.expand(len(model.seeds), len(x), -1, -1)  # (F, N, d, d)
    for k, (w, b) in enumerate(model.layers(model.flat.detach())):
        z, slope = w @ h + b, w.unsqueeze(1) @ slope
        if k < len(model.sizes) - 2:
            h, slope = z.relu(), slope * (z > 0).mT.unsqueeze(-1)
    return torch.linalg.matrix_norm(slope, ord=2).amax(1)


def biased(sizes: tuple[int, ...], seeds: range) -> MLP:
    model = MLP(sizes, seeds, torch.float64)
    for b in model.biases:
        b.copy_(0.5 * normal(*b.shape))
    return model


@pytest.mark.parametrize("sizes", [(2, 4, 1), (2, 2, 2, 2), (3, 3, 2)])
def test_exact_constants_lie_between_dense_samples_and_the_product(sizes: tuple[int, ...]) -> None:
    model = biased(sizes, range(70))
    exact, x = lipschitz.exact_constant(model), 6 * normal(10_000, sizes[0])
    seen = steepest(model, x)
    assert (seen <= exact * (1 + 1e-9)).all()
    assert (exact <= lipschitz.product_bound(model) * (1 + 1e-9)).all()
    assert (seen > exact * (1 - 1e-9)).double().mean() > 0.8  # most of the steepest pieces are met


def test_the_steepest_piece_of_two_bends_is_known() -> None:
    """f = 2 relu(x) - 3 relu(x - 1): slopes 0, 2, -1; and in one dimension more, where the second input does nothing."""
    model = MLP((2, 2, 1), [0], torch.float64)
    for stored, wanted in zip(model.layers(), [([[1.0, 0], [1, 0]], [0.0, -1]), ([[2.0, -3]], [0.0])], strict=True):
        for own, value in zip(stored, wanted, strict=True):
            own.data[0] = torch.tensor(value, dtype=torch.float64).view(own.shape[1:])
    assert lipschitz.exact_constant(model).item() == pytest.approx(2)


def test_the_overhaul_loss_leaves_out_what_is_shut_in_both() -> None:
    teacher = torch.tensor([[[1.0, -2.0, -4.0, 3.0]]])  # margin -3
    student = torch.tensor([[[0.0, -5.0, -1.0, 4.0]]])
    # wanted 1, -2, -3, 3: gaps -1, left out, 2, 1
    assert lipschitz.overhaul_loss(student, teacher).tolist() == [(1 + 0 + 4 + 1) / 4]
    two = torch.tensor([[[-1.0, 2.0], [-8.0, 1.0]], [[-3.0, 1.0], [1.0, 1.0]]])  # margins -2 and -8, of a channel each
    assert lipschitz.overhaul_loss(torch.zeros(2, 2, 2), two).tolist() == [(1 + 4 + 64 + 1) / 4, (4 + 1 + 1 + 1) / 4]


def test_features_are_what_the_network_computes() -> None:
    model, x = MLP((5, 8, 6, 4), [1, 2], torch.float64), normal(2, 9, 5)
    maps = lipschitz.features(model, x)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 9), (2, 6, 9), (2, 4, 9)]
    torch.testing.assert_close(maps[-1].mT, model.each(x))


def test_local_norms_are_those_of_the_full_jacobian_and_below_the_product() -> None:
    model, x = MLP((5, 8, 8, 4), range(20), torch.float64), normal(20, 5)
    full = vmap(jacrev(lambda row: model(row[None])[:, 0]))(x)  # (N, F, K, d)
    exact = torch.linalg.matrix_norm(full, ord=2)
    assert (exact <= lipschitz.product_bound(model) + 1e-12).all()
    got = lipschitz.local_norm(lambda rows: model(rows)[0], x, 2000)
    torch.testing.assert_close(got, exact[:, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [16, 1])
def test_the_estimate_is_the_root_of_the_iteration_on_the_cross_moment(n: int) -> None:
    a, b = normal(7, 5, n), normal(7, 4, n)
    G = np.einsum("bin,bjn->bij", a, b) / n
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
    with pytest.raises(ValueError, match=r"image must be \(height, width\).*got None"):
        lipschitz.spectral_norm(torch.zeros(2, 2, 3, 3))
    with pytest.raises(ValueError, match="image must be"):
        lipschitz.product_bound(CNN((1, 2), 2, [0]))
    with pytest.raises(ValueError, match="kernels of odd size"):
        lipschitz.spectral_norm(torch.zeros(2, 2, 2, 3), image=(4, 4))
    with pytest.raises(ValueError, match="steps must be given"):
        lipschitz.spectral_norm(torch.zeros(2, 8, 3, 3), image=(32, 32))
    with pytest.raises(ValueError, match="at most 16 hidden units"):
        lipschitz.exact_constant(MLP((2, 10, 10, 1), [0]))
