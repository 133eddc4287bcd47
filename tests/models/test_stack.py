"""Anybody's modules as a fleet, against the modules themselves."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib._seeds import stream
from kdlib.models import stack

from .ordinary import DTYPE, gradient, normal

stacking = import_module("kdlib.models.stack")  # where `stack` lies, and not the function
WORDS, WIDTH, CLASSES = 11, 8, 3


class Reader(nn.Module):
    """A tiny transformer on token numbers, its own initialisation, output tied to the embedding, positions frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(5, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)
        self.head.weight = self.words.weight
        self.scale = nn.Parameter(torch.tensor(0.5))
        nn.init.orthogonal_(self.words.weight)
        self.places.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x.long()) + self.places(torch.arange(x.shape[1], device=x.device))
        return self.scale * self.head(self.norm(self.block(h)).mean(1))


class Recurrent(nn.Module):
    """What vmap cannot map."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.unsqueeze(-1))[0][:, -1])


class Branching(nn.Module):
    """Its way depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x if float(x.sum()) > 0 else 2 * x)


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 6, bias=False), nn.SiLU())


def mixed() -> nn.Module:
    return nn.Sequential(nn.Unflatten(-1, (1, 5)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(1))


MODULES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "dense": (dense, normal(3, 4, 5)),
    "mixed": (mixed, normal(3, 4, 5)),
    "transformer": (Reader, normal(3, 4, 5).mul(3).abs().round().clamp(max=WORDS - 1)),
    "recurrent": (Recurrent, normal(3, 4, 5)),
    "branching": (Branching, normal(3, 4, 5)),
}


def ordinary(make: Callable[[], nn.Module], seed: int, dtype: torch.dtype = DTYPE) -> nn.Module:
    """The module that a user gets who seeds torch's generator from the student's seed."""
    torch.manual_seed(stream(seed, "initialisation").initial_seed())
    return make().to(dtype)


@pytest.mark.parametrize("work_alone", [0, 10**9], ids=["one by one", "together"])
@pytest.mark.parametrize("name", MODULES)
def test_is_the_modules_in_value_and_gradient(name: str, work_alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "WORK_ALONE", work_alone)
    make, x = MODULES[name]
    fleet = stack(make, [4, 0, 9], DTYPE)
    modules = [ordinary(make, seed) for seed in (4, 0, 9)]
    logits = torch.stack([module(own) for module, own in zip(modules, x, strict=True)])
    torch.testing.assert_close(fleet.each(x), logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(fleet(x[0])[2], modules[2](x[0]), rtol=0, atol=1e-10)
    pull = normal(*logits.shape)
    (logits * pull).sum().backward()
    (fleet.each(x) * pull).sum().backward()
    expected = torch.stack([gradient(module) for module in modules])
    changes = slice(None) if fleet.trainable is None else fleet.trainable
    torch.testing.assert_close(fleet.flat.grad[:, changes], expected, rtol=0, atol=1e-10)
    together = name not in ("recurrent", "branching") and work_alone > 0
    assert set(fleet.alone.values()) == {not together}  # both ways were taken
    part = fleet.part(slice(1, 2))
    torch.testing.assert_close(part.each(x[1:2]), logits[1:2], rtol=0, atol=1e-10)


def test_a_mapped_loop_over_students_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    """torch warns where it maps an operation by a loop: the numbers are the same, and the user hears nothing."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.histc(x.detach(), 5) + x)

    fleet = stack(Counted, [0, 1], DTYPE)
    x = normal(2, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = fleet.each(x)
    assert set(fleet.alone.values()) == {False}
    expected = torch.stack([ordinary(Counted, seed)(own) for seed, own in zip((0, 1), x, strict=True)])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


class TestInitialisation:
    def test_is_the_modules_own_by_seed_in_any_fleet(self) -> None:
        fleet = stack(dense, [5, 2, 5])
        for f, seed in enumerate((5, 2, 5)):
            parameters = ordinary(dense, seed, torch.float32).parameters()
            assert torch.equal(fleet.flat[f], nn.utils.parameters_to_vector(parameters))
        assert not torch.equal(fleet.flat[0], fleet.flat[1])

    def test_leaves_the_global_generator_alone(self) -> None:
        torch.manual_seed(0)
        before = torch.get_rng_state()
        stack(dense, [1])
        assert torch.equal(torch.get_rng_state(), before)

    def test_in_two_threads_at_once_is_that_of_one_after_another(self) -> None:
        """A module whose maker waits halfway lets the other thread draw in between, if anything does."""
        both = threading.Barrier(2)

        def slow() -> nn.Module:
            first = nn.Linear(5, 4)
            try:
                both.wait(timeout=0.3)
            except threading.BrokenBarrierError:
                both.reset()
            return nn.Sequential(first, nn.Linear(4, CLASSES))

        made: dict[int, Tensor] = {}
        threads = [threading.Thread(target=lambda s=s: made.update({s: stack(slow, [s]).flat.data})) for s in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed in (0, 1):
            expected = ordinary(lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, CLASSES)), seed, torch.float32)
            assert torch.equal(made[seed][0], nn.utils.parameters_to_vector(expected.parameters()))


def test_names_parameters_as_the_module_does() -> None:
    fleet = stack(Reader, [0, 1])
    parameters = fleet.parameters_of()
    plain = dict(Reader().named_parameters())
    assert list(parameters) == list(plain)  # the tied matrix once
    assert all(parameters[name].shape == (2, *p.shape) for name, p in plain.items())
    parameters["words.weight"].sum().backward()
    assert fleet.flat.grad is not None
    assert int(fleet.flat.grad.sum()) == 2 * WORDS * WIDTH


def test_frozen_parameters_are_not_trainable() -> None:
    fleet = stack(Reader, [0, 1])
    assert fleet.trainable is not None
    frozen = fleet.parameters_of((~fleet.trainable).expand(2, -1))
    assert {name for name, rows in frozen.items() if rows.all()} == {"places.weight"}
    assert not any(rows.any() for name, rows in frozen.items() if name != "places.weight")
    assert stack(dense, [0]).trainable is None


def test_cost_counts_a_students_products() -> None:
    assert stack(dense, [0, 1]).cost(torch.zeros(9, 5)).multiply_adds == 9 * (5 * 7 + 7 * 6)
    long, short = (stack(Reader, [0]).cost(torch.ones(2, n)).multiply_adds for n in (4, 2))
    assert long > 2 * short  # attention grows with the square of the length


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(x), x


class Chance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(x, 0.2))


SHARED = nn.Linear(5, CLASSES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stack(lambda: nn.BatchNorm1d(5), [0]), "without buffers, got running_mean, running_var, num_batches"),
        (
            lambda: stack(lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.1)), [0]),
            "without dropout, got p = 0.1 in 1",
        ),
        (lambda: stack(lambda: nn.MultiheadAttention(4, 2, dropout=0.2), [0]), "without dropout, got p = 0.2"),
        (lambda: stack(lambda: nn.LSTM(4, 2, 2, dropout=0.2), [0]), "without dropout, got p = 0.2"),
        (lambda: stack(nn.ReLU, [0]), "make must return an nn.Module with parameters, got ReLU"),
        (lambda: stack(lambda: torch.relu, [0]), "make must return an nn.Module .*, got builtin_function"),  # type: ignore[arg-type,return-value]
        (lambda: stack(lambda: SHARED, [0, 1]), "make must return a new module each time, got the same one twice"),
        (lambda: stack(dense, []), r"seeds must be .* at least one student, got \[\]"),
        (lambda: stack(Two, [0])(torch.zeros(4, 5)), "output is one tensor, got tuple"),
        (lambda: stack(Two, [0, 1])(torch.zeros(4, 5)), "output is one tensor, got tuple"),
        (lambda: stack(Chance, [0, 1])(torch.zeros(4, 5)), "must not draw random numbers, got a Stack that calls"),
        (lambda: stack(dense, [0]).weights, r"of a stack: parameters_of\(flat\)"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_module_of_dropout_0_is_one_without() -> None:
    fleet = stack(partial(nn.Sequential, nn.Linear(5, 3), nn.Dropout(0.0)), [0])
    assert fleet(torch.zeros(4, 5)).shape == (1, 4, 3)


def test_a_callers_default_dtype_draws_the_same_weights() -> None:
    def made() -> Tensor:
        return stack(lambda: nn.Linear(3, 2), [0, 1]).flat.detach()

    expected, before = made(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(made(), expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
