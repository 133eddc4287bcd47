"""What every fleet model shares, and models of an author's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdlib.models import CNN, MLP, FleetModel, stack

from .ordinary import DTYPE, normal


class Tower(FleetModel):
    """Somebody's own: tanh, and a skip connection."""

    def __init__(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__([(6, 5), (6, 6), (3, 6)], seeds, dtype)

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        (w1, b1), (w2, b2), (w3, b3) = self.layers(flat)
        h = torch.baddbmm(b1, w1, x.mT).tanh()
        return torch.baddbmm(b3, w3, torch.baddbmm(b2, w2, h).tanh() + h).mT


class TestInitialisation:
    def test_is_he_with_the_last_layer_halved_and_biases_zero(self) -> None:
        fleet = MLP((300, 300, 300), range(3))  # equal shapes: only the last layer is halved
        first, last = fleet.weights
        for w, scale in ((first, 1.0), (last, 0.5)):
            assert w.std().item() == pytest.approx(scale * (2 / 300) ** 0.5, rel=0.01)
            assert abs(w.mean().item()) < 1e-3
        assert all((b == 0).all() for b in fleet.biases)

    @pytest.mark.parametrize(
        "make", [lambda s, d: MLP((5, 7, 3), s, d), lambda s, d: CNN((1, 4, 6), 3, s, d), lambda s, d: Tower(s, d)]
    )
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

    def test_takes_numpys_seeds_as_they_are(self) -> None:
        assert torch.equal(MLP((5, 3), np.array([4, 1])).flat, MLP((5, 3), [4, 1]).flat)


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


@pytest.mark.parametrize(
    "fleet",
    [
        MLP((16, 7, 3), [3, 4, 5]),
        CNN((1, 4, 6), 3, [3, 4, 5]),
        stack(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), [3, 4, 5]),
    ],
    ids=["MLP", "CNN", "stack"],
)
def test_part_is_a_fleet_in_the_same_memory(fleet: FleetModel) -> None:
    x = torch.ones(2, 1, 4, 4)
    part = fleet.part(slice(1, 3))
    assert type(part) is type(fleet)
    assert part.seeds == (4, 5)
    assert part.rows.tolist() == [1, 2]
    assert part.part(slice(1, 2)).rows.tolist() == [2]  # places in the whole fleet
    torch.testing.assert_close(part(x), fleet(x)[1:])
    kept = fleet.flat[0].clone()
    part.flat.data.zero_()
    assert (fleet.flat[1:] == 0).all()
    assert torch.equal(fleet.flat[0], kept)


def test_an_own_models_attributes_go_along_with_its_parts() -> None:
    fleet = Tower([0, 1])
    fleet.note = "mine"  # type: ignore[assignment]
    part = fleet.part(slice(1, 2))
    assert part.note == "mine"
    assert part.flat is not fleet.flat
    assert len(fleet.flat) == 2


def test_layers_are_differentiable_so_that_a_penalty_may_use_them() -> None:
    """Of sum of w^2 / 2 + 3 b: the weights themselves, and 3."""
    for fleet in (Tower([0, 1], DTYPE), MLP((5, 6, 3), [0, 1], DTYPE), CNN((1, 2), 3, [0, 1], DTYPE)):
        penalty = sum(w.square().sum() / 2 + 3 * b.sum() for w, b in fleet.layers())
        penalty.backward()  # type: ignore[union-attr]
        assert fleet.flat.grad is not None
        for (w, b), (dw, db) in zip(fleet.layers(fleet.flat.data), fleet.layers(fleet.flat.grad), strict=True):
            assert torch.equal(w, dw)
            assert (db == 3).all()
            assert b.shape == (2, w.shape[1], 1)


class TestCost:
    def test_counts_the_products_of_one_student(self) -> None:
        x = torch.zeros(7, 5)
        for seeds in ([0], [0, 1, 2]):
            assert Tower(seeds).cost(x).multiply_adds == 7 * (6 * 5 + 6 * 6 + 3 * 6)

    def test_counts_bytes_alive_at_once_whatever_the_size_of_the_fleet(self) -> None:
        """Eight large tables made one after another and summed: autograd keeps those it needs, and no others."""

        class Wide(FleetModel):
            keeps = True

            def __init__(self, seeds: Sequence[int]) -> None:
                super().__init__([(3, 5)], seeds)

            def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
                ((w, b),) = self.layers(flat)
                z = torch.baddbmm(b, w, x.mT)
                for _ in range(8):
                    z = z * z.detach() if self.keeps else z + 1
                return z.mT

        table = 1000 * 3 * 4
        x = torch.zeros(1000, 5)
        few, many = Wide([0]).cost(x), Wide(range(50)).cost(x)
        assert few == many
        inputs = 1000 * 5 * 4
        assert 8 * table + inputs <= few.activation_bytes <= 11 * table + inputs
        Wide.keeps = False
        assert Wide([0]).cost(x).activation_bytes <= 4 * table + inputs

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_is_the_same_where_gradients_are_off(self, mode: Callable[[], torch.no_grad]) -> None:
        fleet = Tower([0])
        expected = fleet.cost(torch.zeros(7, 5))
        with mode():
            assert fleet.cost(torch.zeros(7, 5)) == expected
        assert expected.activation_bytes > 0

    def test_leaves_no_gradient(self) -> None:
        fleet = Tower([0, 1])
        fleet.cost(torch.zeros(7, 5))
        assert fleet.flat.grad is None

    def test_needs_no_apply_where_an_older_model_has_each(self) -> None:
        class Older(FleetModel):
            def each(self, x: Tensor) -> Tensor:
                ((w, b),) = self.layers()
                return torch.baddbmm(b, w, x.mT).mT

        assert Older([(3, 5)], [0, 1]).cost(torch.zeros(7, 5)).multiply_adds == 7 * 15

    def test_of_a_model_that_draws_random_numbers_is_refused(self) -> None:
        class Noisy(Tower):
            def apply(self, flat: Tensor, x: Tensor) -> Tensor:
                return super().apply(flat, x + torch.randn_like(x))

        with pytest.raises(ValueError, match="must not draw random numbers, got a Noisy that calls aten::randn_like"):
            Noisy([0]).cost(torch.zeros(7, 5))


@pytest.mark.parametrize(
    "make",
    [
        partial(MLP, (5, 4, 3)),
        Tower,
        partial(stack, lambda: nn.Sequential(nn.Linear(5, 3, dtype=torch.float32), nn.GELU())),
    ],
    ids=["MLP", "own", "stack"],
)
def test_the_callers_defaults_have_no_influence(make: Callable[[list[int]], FleetModel]) -> None:
    x = torch.ones(2, 5, dtype=torch.float32)
    expected = make([0, 1])
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        fleet = make([0, 1])
        logits, cost = fleet(x), fleet.cost(x)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert fleet.flat.dtype == torch.float32
    assert torch.equal(fleet.flat, expected.flat)
    assert fleet.rows.device.type == "cpu"
    assert torch.equal(logits, expected(x))
    assert cost == expected.cost(x)


def test_an_author_who_wrote_no_apply_is_told() -> None:
    with pytest.raises(NotImplementedError, match=r"FleetModel must define apply\(flat, x\)"):
        FleetModel([(3, 5)], [0])(torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP((5, 3), []), r"seeds must be .* at least one student, got \[\]"),
        (lambda: MLP((5, 3), 2), "seeds must be a sequence .*, got 2"),  # type: ignore[arg-type]
        (lambda: MLP((5, 3), np.int64(2)), r"seeds must be a sequence .*, got .*2"),  # type: ignore[arg-type]
        (lambda: MLP((5, 3), [0.5]), "seed must be an integer of at least 0, got 0.5"),  # type: ignore[list-item]
        (lambda: MLP((5, 3), [-1]), "seed must be an integer of at least 0, got -1"),
        (lambda: MLP((5, 3), [0, 1], flat=torch.zeros(3, 18)), r"flat must have shape \(2, any\), got \(3, 18\)"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
