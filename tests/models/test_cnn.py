"""The CNN fleet and its hand-written chain rule against ordinary networks and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdlib.models import CNN

from .ordinary import DTYPE, gradient, normal, ordinary_cnn, with_biases

CHANNELS = [(1, 4), (3, 4, 6), (2, 4, 5, 6)]
SIZES = [(8, 12), (9, 11), (4, 7), (13, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("way", ["_one_by_one", "_grouped"])
def test_cnn_fleet_is_ordinary_cnns_in_value_and_gradient(
    way: str, channels: tuple[int, ...], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CNN, "_one_by_one", getattr(CNN, way))  # the grouped way is a GPU's, and right here too
    fleet, x = CNN(channels, 5, [4, 0, 9], DTYPE), normal(3, 2, channels[0], *size)
    with_biases(fleet)
    pull = normal(3, 2, 5)
    singles = [ordinary_cnn(fleet, f) for f in range(3)]
    logits = torch.stack([single(x[f]) for f, single in enumerate(singles)])
    torch.testing.assert_close(fleet.each(x), logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(fleet(x[0])[1], singles[1](x[0]), rtol=0, atol=1e-12)

    (logits * pull).sum().backward()
    (fleet.each(x) * pull).sum().backward()
    expected = torch.stack([gradient(single) for single in singles])
    torch.testing.assert_close(fleet.flat.grad, expected, rtol=0, atol=1e-11)


class TestTape:
    def check(self, channels: tuple[int, ...], batches: list[Tensor], seed: int = 4) -> None:
        """Against plain networks, for one batch after the other."""
        fleet = CNN(channels, 3, [seed, 0], DTYPE)
        with_biases(fleet)
        tape = fleet.tape()
        assert tape is not None
        for x in batches:
            pull = normal(2, x.shape[1], 3)
            singles = [ordinary_cnn(fleet, f) for f in range(2)]
            logits = torch.stack([single(own) for single, own in zip(singles, x, strict=True)])
            (logits * pull).sum().backward()
            torch.testing.assert_close(tape.forward(x).mT, logits.detach(), rtol=0, atol=1e-12)
            tape.backward(pull.mT.contiguous())
            tape.store()
            expected = torch.stack([gradient(single) for single in singles])
            torch.testing.assert_close(fleet.flat.grad, expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_is_ordinary_networks_for_batches_of_any_size(
        self, channels: tuple[int, ...], size: tuple[int, int]
    ) -> None:
        self.check(channels, [normal(2, b, channels[0], *size) for b in (5, 1, 3)])

    @pytest.mark.parametrize("size", [(8, 8), (9, 7)])
    def test_where_values_of_a_window_tie_the_first_has_the_gradient(self, size: tuple[int, int]) -> None:
        """Constant images tie inside, rounded ones here and there; signs of 0 may differ."""
        grey = torch.full((2, 3, 1, *size), 0.7, dtype=DTYPE)
        coarse = normal(2, 3, 1, *size).mul(2).round().div(2)
        self.check((1, 4, 6), [grey, coarse, -grey, torch.zeros_like(grey)])

    def test_with_weights_that_make_every_window_tie_or_shut(self) -> None:
        fleet = CNN((1, 2, 2), 3, [0], DTYPE)
        fleet.flat.data.fill_(0.5)
        fleet.biases[0].copy_(torch.tensor([[0.25, -9.0]]))  # the second channel's ReLU is shut everywhere
        tape = fleet.tape()
        assert tape is not None
        x = torch.ones(1, 2, 1, 6, 6, dtype=DTYPE)
        single = ordinary_cnn(fleet, 0)
        single(x[0]).sum().backward()
        tape.forward(x)
        tape.backward(torch.ones(1, 3, 2, dtype=DTYPE))
        torch.testing.assert_close(tape.parameter.grad, gradient(single).unsqueeze(0), rtol=0, atol=1e-12)

    def test_steps_the_models_own_memory(self) -> None:
        fleet = CNN((1, 4), 3, [0], DTYPE)
        tape = fleet.tape()
        assert tape is not None
        tape.parameter.data.add_(1)
        assert torch.equal(fleet.flat.data, tape.parameter.data)

    def test_is_for_the_cnn_alone(self) -> None:
        class Other(CNN):
            pass

        assert Other((1, 4), 3, [0]).tape() is None


def test_of_a_convolution_the_initialisation_counts_its_window() -> None:
    fleet = CNN((16, 64, 64), 10, range(3))
    stds = [w.std().item() for w in fleet.weights]
    assert stds == pytest.approx([(2 / (16 * 9)) ** 0.5, (2 / (64 * 9)) ** 0.5, 0.5 * (2 / 64) ** 0.5], rel=0.03)


def test_cost_counts_products() -> None:
    cost = CNN((1, 4, 6), 3, [0, 1]).cost(torch.zeros(5, 1, 9, 8))
    assert cost.multiply_adds == 5 * (9 * 8 * 4 * 9 + 4 * 4 * 6 * 4 * 9 + 6 * 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CNN((1,), 3, [0]), r"channels must name the input's and at least one layer's, got \(1,\)"),
        (lambda: CNN((1, -4), 3, [0]), "channels must be an integer of at least 1, got -4"),
        (lambda: CNN((1, 4), 0, [0]), "classes must be an integer of at least 1, got 0"),
        (lambda: CNN((1, 4), 3, [0])(torch.zeros(2, 3, 8, 8)), r"x must have examples \(1, height, width\)"),
        (lambda: CNN((1, 4), 3, [0])(torch.zeros(2, 64)), r"x must have examples .*, got shape \(64,\)"),
        (
            lambda: CNN((1, 4, 4, 4), 3, [0])(torch.zeros(2, 1, 3, 8)),
            r"x must have images of at least 4 pixels a side for 2 poolings, got \(3, 8\)",
        ),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
