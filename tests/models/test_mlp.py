"""The MLP fleet and its hand-written chain rule against ordinary networks and autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kdlib.models import MLP

from .ordinary import DTYPE, normal, ordinary_mlp, with_biases

DEPTHS = [(5, 3), (5, 7, 3), (5, 7, 6, 4, 3)]


@pytest.mark.parametrize("sizes", DEPTHS)
def test_mlp_fleet_is_ordinary_mlps(sizes: tuple[int, ...]) -> None:
    fleet, x = MLP(sizes, [4, 0, 9], DTYPE), normal(6, 5)
    with_biases(fleet)
    expected = torch.stack([ordinary_mlp(fleet, f)(x) for f in range(3)])
    torch.testing.assert_close(fleet(x), expected, rtol=0, atol=1e-12)
    own = normal(3, 6, 5)  # another batch for each student
    expected = torch.stack([ordinary_mlp(fleet, f)(own[f]) for f in range(3)])
    torch.testing.assert_close(fleet.each(own), expected, rtol=0, atol=1e-12)


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

    def test_arranges_a_table_of_parameters_as_its_own(self) -> None:
        fleet = MLP((5, 7, 3), [4, 0], DTYPE)
        tape = fleet.tape()
        assert torch.equal(tape.arranged(fleet.flat.data), tape.parameter.data)
        mask = fleet.flat.data > 0
        assert torch.equal(tape.arranged(mask), tape.parameter.data > 0)

    def test_is_for_the_mlp_alone(self) -> None:
        class Other(MLP):
            pass

        assert Other((5, 3), [0]).tape() is None


def test_cost_counts_products_and_a_subclass_its_own() -> None:
    class Same(MLP):
        """Costed by a pass, not by the formula."""

    x = torch.zeros(6, 5)
    stated, measured = MLP((5, 70, 30, 3), [0, 1]).cost(x), Same((5, 70, 30, 3), [0, 1]).cost(x)
    assert stated.multiply_adds == measured.multiply_adds == 6 * (5 * 70 + 70 * 30 + 30 * 3)
    assert stated.activation_bytes == 6 * 4 * (5 + 2 * (70 + 30) + 5 * 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP((5,), [0]), r"sizes must name at least inputs and classes, got \(5,\)"),
        (lambda: MLP((5, 0, 3), [0]), "sizes must be an integer of at least 1, got 0"),
        (lambda: MLP((5, 2.0, 3), [0]), "sizes must be an integer of at least 1, got 2.0"),  # type: ignore[arg-type]
        (lambda: MLP((5, 3), [0])(torch.zeros(2, 4)), r"x must have 5 features per example, got shape \(4,\)"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
