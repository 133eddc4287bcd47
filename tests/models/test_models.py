"""Fleets of networks against ordinary torch modules, one per student."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdlib.models import CNN, MLP, FleetModel

DTYPE = torch.float64
DEPTHS = [(5, 3), (5, 7, 3), (5, 7, 6, 4, 3)]


def ordinary_mlp(fleet: MLP, f: int) -> nn.Sequential:
    """Student f as a plain network."""
    layers: list[nn.Module] = []
    for w, b in zip(fleet.weights, fleet.biases, strict=True):
        linear = nn.Linear(w.shape[1], w.shape[2], dtype=w.dtype)
        linear.weight.data, linear.bias.data = w[f].T.clone(), b[f].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def ordinary_cnn(fleet: CNN, f: int) -> nn.Sequential:
    """Student f as a plain network."""
    layers: list[nn.Module] = []
    *convolutions, (w_out, b_out) = zip(fleet.weights, fleet.biases, strict=True)
    for w, b in convolutions:
        conv = nn.Conv2d(w.shape[2], w.shape[1], 3, padding=1, dtype=w.dtype)
        conv.weight.data, conv.bias.data = w[f].clone(), b[f].clone()  # type: ignore[union-attr]
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
    linear = nn.Linear(w_out.shape[1], w_out.shape[2], dtype=w_out.dtype)
    linear.weight.data, linear.bias.data = w_out[f].T.clone(), b_out[f].clone()
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def with_biases(fleet: FleetModel) -> None:
    """Biases start at zero, which would hide a mistake in how they are used."""
    for b in fleet.biases:
        b.normal_(generator=torch.Generator().manual_seed(1))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DTYPE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("sizes", DEPTHS)
def test_mlp_fleet_is_ordinary_mlps(sizes: tuple[int, ...]) -> None:
    fleet, x = MLP(sizes, [4, 0, 9], DTYPE), normal(6, 5)
    with_biases(fleet)
    expected = torch.stack([ordinary_mlp(fleet, f)(x) for f in range(3)])
    torch.testing.assert_close(fleet(x), expected, rtol=0, atol=1e-12)
    own = normal(3, 6, 5)  # another batch for each student
    expected = torch.stack([ordinary_mlp(fleet, f)(own[f]) for f in range(3)])
    torch.testing.assert_close(fleet.each(own), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [(1, 4), (3, 4, 6), (2, 4, 5, 6)])
def test_cnn_fleet_is_ordinary_cnns_in_value_and_gradient(channels: tuple[int, ...]) -> None:
    fleet, x = CNN(channels, 5, [4, 0, 9], DTYPE), normal(3, 2, channels[0], 8, 12)
    with_biases(fleet)
    pull = normal(3, 2, 5)
    singles = [ordinary_cnn(fleet, f) for f in range(3)]
    logits = torch.stack([single(x[f]) for f, single in enumerate(singles)])
    torch.testing.assert_close(fleet.each(x), logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(fleet(x[0])[1], singles[1](x[0]), rtol=0, atol=1e-12)

    (logits * pull).sum().backward()
    (fleet.each(x) * pull).sum().backward()
    expected = [torch.cat([p.grad.flatten() for p in single.parameters() if p.grad is not None]) for single in singles]
    torch.testing.assert_close(fleet.flat.grad, torch.stack(expected), rtol=0, atol=1e-11)


class TestTape:
    @pytest.mark.parametrize("sizes", DEPTHS)
    def test_is_autograd_for_batches_of_any_size(self, sizes: tuple[int, ...]) -> None:
        fleet = MLP(sizes, [4, 0], DTYPE)
        with_biases(fleet)
        tape = fleet.tape()
        for batch in (6, 1, 6, 2):  # buffers are used again: nothing may be left over from the call before
            x, pull = normal(2, batch, 5), normal(2, batch, 3)
            (expected,) = torch.autograd.grad((fleet.each(x) * pull).sum(), fleet.flat)
            logits = tape.forward(x)
            torch.testing.assert_close(logits.mT, fleet.each(x).detach(), rtol=0, atol=1e-12)
            tape.backward(pull.mT.contiguous())
            tape.store()
            torch.testing.assert_close(fleet.flat.grad, expected, rtol=0, atol=1e-11)

    def test_at_the_relus_corner(self) -> None:
        """Inputs of exactly 0 with biases 0: every ReLU stands at its corner, where torch's gradient is 0."""
        fleet, x = MLP((5, 7, 3), [0], DTYPE), torch.zeros(1, 4, 5, dtype=DTYPE)
        (expected,) = torch.autograd.grad(fleet.each(x).sum(), fleet.flat)
        tape = fleet.tape()
        tape.forward(x)
        tape.backward(torch.ones(1, 3, 4, dtype=DTYPE))
        tape.store()
        torch.testing.assert_close(fleet.flat.grad, expected, rtol=0, atol=0)

    def test_stores_what_an_optimiser_did_to_its_parameter(self) -> None:
        fleet, same = MLP((5, 7, 3), [4, 0], DTYPE), MLP((5, 7, 3), [4, 0], DTYPE)
        x, pull = normal(2, 6, 5), normal(2, 6, 3)
        tape = fleet.tape()
        ours, theirs = (torch.optim.AdamW([p], lr=0.1, weight_decay=0.3) for p in (tape.parameter, same.flat))
        for _ in range(3):
            tape.forward(x)
            tape.backward(pull.mT.contiguous())
            ours.step()
            theirs.zero_grad()
            (same.each(x) * pull).sum().backward()
            theirs.step()
        tape.store()
        torch.testing.assert_close(fleet.flat, same.flat, rtol=0, atol=1e-11)


class TestInitialisation:
    def test_is_he_with_the_last_layer_halved_and_biases_zero(self) -> None:
        fleet = MLP((300, 300, 300), range(3))  # equal shapes: only the last layer is halved
        first, last = fleet.weights
        for w, scale in ((first, 1.0), (last, 0.5)):
            assert w.std().item() == pytest.approx(scale * (2 / 300) ** 0.5, rel=0.01)
            assert abs(w.mean().item()) < 1e-3
        assert all((b == 0).all() for b in fleet.biases)

    def test_of_a_convolution_counts_its_window(self) -> None:
        fleet = CNN((16, 64, 64), 10, range(3))
        stds = [w.std().item() for w in fleet.weights]
        assert stds == pytest.approx([(2 / (16 * 9)) ** 0.5, (2 / (64 * 9)) ** 0.5, 0.5 * (2 / 64) ** 0.5], rel=0.03)

    @pytest.mark.parametrize("make", [lambda s, d: MLP((5, 7, 3), s, d), lambda s, d: CNN((1, 4, 6), 3, s, d)])
    def test_of_a_seed_is_the_same_in_any_fleet_and_dtype(
        self, make: Callable[[list[int], torch.dtype], FleetModel]
    ) -> None:
        fleet = make([5, 2, 5], torch.float32).flat
        assert torch.equal(fleet[0], fleet[2])
        assert torch.equal(fleet[1], make([2], torch.float32).flat[0])
        assert torch.equal(fleet.double(), make([5, 2, 5], torch.float64).flat)
        assert not torch.equal(fleet[0], fleet[1])

    def test_ignores_the_global_generator(self) -> None:
        torch.manual_seed(0)
        before = torch.get_rng_state()
        one = MLP((5, 3), [1]).flat
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        assert torch.equal(one, MLP((5, 3), [1]).flat)


def test_weights_and_biases_are_views_with_the_fleet_first() -> None:
    fleet = MLP((5, 7, 3), [0, 1], DTYPE)
    assert [tuple(w.shape) for w in fleet.weights] == [(2, 5, 7), (2, 7, 3)]
    assert [tuple(b.shape) for b in fleet.biases] == [(2, 7), (2, 3)]
    before = fleet(normal(4, 5))
    fleet.weights[1][0].zero_()
    fleet.biases[1][0] = torch.tensor([1.0, 2.0, 3.0])
    after = fleet(normal(4, 5))
    assert torch.equal(after[0], torch.tensor([1.0, 2.0, 3.0], dtype=DTYPE).expand(4, 3))
    assert torch.equal(after[1], before[1])
    assert [tuple(w.shape) for w in CNN((1, 4, 6), 3, [0, 1]).weights] == [(2, 4, 1, 3, 3), (2, 6, 4, 3, 3), (2, 6, 3)]


@pytest.mark.parametrize("fleet", [MLP((16, 7, 3), [3, 4, 5]), CNN((1, 4, 6), 3, [3, 4, 5])])
def test_part_is_a_fleet_in_the_same_memory(fleet: FleetModel) -> None:
    x = torch.ones(2, 1, 4, 4)
    part = fleet.part(slice(1, 3))
    assert type(part) is type(fleet)
    assert part.seeds == (4, 5)
    torch.testing.assert_close(part(x), fleet(x)[1:])
    kept = fleet.flat[0].clone()
    part.flat.data.zero_()
    assert (fleet.flat[1:] == 0).all()
    assert torch.equal(fleet.flat[0], kept)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP((5,), [0]), r"sizes must name at least inputs and classes, got \(5,\)"),
        (lambda: MLP((5, 0, 3), [0]), "sizes must be an integer of at least 1, got 0"),
        (lambda: MLP((5, 2.0, 3), [0]), "sizes must be an integer of at least 1, got 2.0"),  # type: ignore[arg-type]
        (lambda: MLP((5, 3), []), r"seeds must be .* at least one student, got \[\]"),
        (lambda: MLP((5, 3), 2), "seeds must be a sequence .*, got 2"),  # type: ignore[arg-type]
        (lambda: MLP((5, 3), [0.5]), "seed must be an integer of at least 0, got 0.5"),  # type: ignore[list-item]
        (lambda: MLP((5, 3), [-1]), "seed must be an integer of at least 0, got -1"),
        (lambda: MLP((5, 3), [0])(torch.zeros(2, 4)), r"x must have 5 features per example, got shape \(4,\)"),
        (lambda: CNN((1,), 3, [0]), r"channels must name the input's and at least one layer's, got \(1,\)"),
        (lambda: CNN((1, -4), 3, [0]), "channels must be an integer of at least 1, got -4"),
        (lambda: CNN((1, 4), 0, [0]), "classes must be an integer of at least 1, got 0"),
        (lambda: CNN((1, 4), 3, [0])(torch.zeros(2, 3, 8, 8)), r"x must have examples \(1, height, width\)"),
        (lambda: CNN((1, 4), 3, [0])(torch.zeros(2, 64)), r"x must have examples .*, got shape \(64,\)"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
