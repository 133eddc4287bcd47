"""A fleet of F against F ordinary training runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdlib
import kdlib.fleet.plan as planning
from kdlib import Fleet, Recipe, Task, fleet, train
from kdlib.fleet.engine import Group
from kdlib.losses import dkd_loss
from kdlib.models import CNN, MLP, FleetModel, stack

from .. import compiler
from ..models.test_stack import WORDS, Reader
from ..models.test_stack import ordinary as ordinary_module
from .ordinary import DTYPE, K, N, flat, make_logits, make_recipes, make_task, ordinary_run, plain_cnn, plain_mlp

stacking = import_module("kdlib.models.stack")  # where `stack` lies, and not the function


class Tower(FleetModel):
    """Somebody's own: `apply` and nothing else; tanh, and a skip connection."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__([(5, 6), (5, 5), (K, 5)], seeds)

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        (w1, b1), (w2, b2), (w3, b3) = self.layers(flat)
        h = torch.baddbmm(b1, w1, x.flatten(2).mT).tanh()
        return torch.baddbmm(b3, w3, torch.baddbmm(b2, w2, h).tanh() + h).mT


class PlainTower(nn.Module):
    def __init__(self, start: FleetModel) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linears(start))

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        h = first(x.flatten(1)).tanh()
        return last(second(h).tanh() + h)


class Squash(MLP):
    def activation(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


class Summing(MLP):
    """Its own `apply`, which sees examples in their shape (3, 2)."""

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        assert x.shape[2:] == (3, 2)
        return super().apply(flat, x + x.sum(-1, keepdim=True))


class Older(MLP):
    """Overrides `each`, as was done before there was `apply`."""

    def each(self, x: Tensor) -> Tensor:
        return 2 * super().each(x)


class Function(nn.Module):
    """A function beside ordinary layers, which come first in the order of parameters."""

    def __init__(self, layers: list[nn.Linear], function: Callable[[list[nn.Linear], Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(list(self.layers), x)  # type: ignore[arg-type]


def linears(start: FleetModel) -> list[nn.Linear]:
    made = []
    for w, b in zip(start.weights, start.biases, strict=True):
        linear = nn.Linear(w.shape[1], w.shape[2], dtype=DTYPE)
        linear.weight.data, linear.bias.data = w[0].T.clone(), b[0].clone()
        made.append(linear)
    return made


def two(
    between: Callable[[Tensor], Tensor], before: Callable[[Tensor], Tensor], times: float
) -> Callable[[FleetModel], nn.Module]:
    return lambda start: Function(linears(start), lambda a, x: times * a[1](between(a[0](before(x).flatten(1)))))


def same(x: Tensor) -> Tensor:
    return x


SIZES = (6, 5, K)
NETWORKS: dict[str, tuple[Callable[[Sequence[int]], FleetModel], Callable[[FleetModel], nn.Module]]] = {
    "apply alone": (Tower, PlainTower),
    "MLP with tanh": (partial(Squash, SIZES), two(torch.tanh, same, 1)),
    "MLP with apply": (partial(Summing, SIZES), two(torch.relu, lambda x: x + x.sum(-1, keepdim=True), 1)),
    "MLP with each": (partial(Older, SIZES), two(torch.relu, same, 2)),
}


class TestEqualsSeparateRuns:
    @pytest.mark.parametrize(("cache", "threads"), [(planning.CACHE_BYTES, 1), (1, 1), (1, 3)])
    @pytest.mark.parametrize(("hidden", "decay"), [((), 0.0), ((12,), 0.1), ((12, 9, 7), 0.01)])
    def test_mlps_over_100_steps(
        self, hidden: tuple[int, ...], decay: float, cache: int, threads: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = make_task(3, 2)  # inputs are flattened
        recipes, seeds = make_recipes(task), [0, 7, 3]
        monkeypatch.setattr(planning, "CACHE_BYTES", cache)
        sizes: set[int] = set()
        slices = planning.slices

        def watched(length: int, size: int) -> list[slice]:
            sizes.update(s.stop - s.start for s in slices(length, size))
            return slices(length, size)

        monkeypatch.setattr(planning, "slices", watched)
        # 50 examples in batches of 16: three full ones and one of 2; 25 epochs are 100 steps
        settings: dict[str, Any] = {"hidden": hidden, "epochs": 25, "batch_size": 16, "weight_decay": decay}
        trained = train(task, recipes, seeds=seeds, threads=threads, dtype=DTYPE, **settings)
        assert sizes == (
            {15} if cache > 1 else {3, 4} if threads == 1 else {3}
        )  # as many groups as keep all threads busy
        students = [(r, s) for r in recipes for s in seeds]
        for f, (recipe, seed) in enumerate(students):
            single = ordinary_run(plain_mlp((6, *hidden, K), seed), task, recipe, seed, 25, 16, weight_decay=decay)
            assert (trained.model.flat[f] - flat(single)).abs().max() < 1e-10, (recipe.name, seed)
            assert (trained.predict(task.x_test)[f] - single(task.x_test)).abs().max() < 1e-10

    @pytest.mark.parametrize(("cache", "size"), [(planning.CACHE_BYTES, (6, 6)), (1, (7, 5))])
    def test_cnns(self, cache: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        task = make_task(2, *size, n=20)
        recipes, seeds = make_recipes(task), [4, 1]
        monkeypatch.setattr(planning, "CACHE_BYTES", cache)
        trained = train(
            task,
            recipes,
            seeds=seeds,
            epochs=5,
            batch_size=8,
            weight_decay=0.05,
            dtype=DTYPE,
            model=lambda every: CNN((2, 3, 5), K, every, DTYPE),
        )
        for f, (recipe, seed) in enumerate((r, s) for r in recipes for s in seeds):
            single = ordinary_run(plain_cnn((2, 3, 5), seed), task, recipe, seed, 5, 8, weight_decay=0.05)
            assert (trained.model.flat[f] - flat(single)).abs().max() < 1e-10, (recipe.name, seed)

    @pytest.mark.parametrize("cache", [planning.CACHE_BYTES, 1])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_networks_of_ones_own(self, name: str, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planning, "CACHE_BYTES", cache)
        make, ordinary = NETWORKS[name]
        task = make_task(3, 2)
        v = make_logits(task)
        recipes = [make_recipes(task)[1], Recipe("DKD", teacher=v, loss=dkd_loss)]
        settings: dict[str, Any] = {"seeds": [4, 1], "epochs": 4, "batch_size": 16, "weight_decay": 0.1}
        trained = train(task, recipes, model=make, dtype=DTYPE, **settings)
        for f, (recipe, seed) in enumerate((r, s) for r in recipes for s in [4, 1]):
            network = ordinary_run(ordinary(make([seed]).to(DTYPE)), task, recipe, seed, 4, 16, weight_decay=0.1)
            assert (trained.model.flat[f] - flat(network)).abs().max() < 1e-10, (recipe.name, seed)
            assert (trained.predict(task.x_test)[f] - network(task.x_test)).abs().max() < 1e-10

    @pytest.mark.parametrize("work_alone", [0, 10**9], ids=["one by one", "together"])
    @pytest.mark.parametrize("cache", [planning.CACHE_BYTES, 1])
    def test_modules_of_anybody(self, work_alone: int, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Embeddings, attention, tied and frozen parameters, on token numbers."""
        monkeypatch.setattr(stacking, "WORK_ALONE", work_alone)
        monkeypatch.setattr(planning, "CACHE_BYTES", cache)
        made = make_task(5, n=20)
        words, more = (x.mul(3).abs().floor().clamp(max=WORDS - 1) for x in (made.x_train, made.x_test))
        task = Task(words, made.y_train, more, made.y_test, WORDS)
        settings: dict[str, Any] = {"epochs": 3, "batch_size": 8, "weight_decay": 0.1}
        recipe = Recipe.hard()
        trained = train(task, recipe, seeds=[4, 1], model=partial(stack, Reader), dtype=DTYPE, **settings)
        for f, seed in enumerate([4, 1]):
            network = ordinary_run(
                ordinary_module(Reader, seed, torch.float32).to(DTYPE), task, recipe, seed, 3, 8, weight_decay=0.1
            )
            assert (trained.model.flat[f] - flat(network)).abs().max() < 1e-10, seed
            assert (trained.predict(task.x_test)[f] - network(task.x_test)).abs().max() < 1e-10

    def test_a_batch_larger_than_the_data_is_the_data(self) -> None:
        task = make_task(3, n=10)
        recipe = make_recipes(task)[1]
        trained = train(task, recipe, seeds=[2], hidden=(5,), epochs=7, batch_size=64, lr=0.02, dtype=DTYPE)
        single = ordinary_run(plain_mlp((3, 5, K), 2), task, recipe, 2, 7, 64, lr=0.02)
        assert (trained.model.flat[0] - flat(single)).abs().max() < 1e-10

    def test_single_precision_loses_single_precision_only(self) -> None:
        """A product in bfloat16 anywhere in a step would show as errors of a per cent."""
        task = make_task(64, n=256)
        settings: dict[str, Any] = {"seeds": 4, "hidden": (64, 64), "epochs": 4, "batch_size": 64}
        exact, single = (train(task, make_recipes(task), dtype=d, **settings) for d in (DTYPE, torch.float32))
        logits = exact.predict(task.x_test)
        assert (single.predict(task.x_test) - logits).abs().median() < 1e-5 * logits.std()


class TestPairs:
    """Same seed, same initialisation and data order, whatever else is in the fleet."""

    settings: ClassVar[dict[str, Any]] = {"hidden": (6,), "epochs": 4, "batch_size": 16, "dtype": DTYPE}

    def test_same_seed_and_recipe_give_the_same_student_in_any_company(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = make_task(3)
        recipes = make_recipes(task)
        everybody = train(task, recipes, seeds=5, **self.settings)
        alone = train(task, recipes[1], seeds=[3], **self.settings)
        monkeypatch.setattr(planning, "CACHE_BYTES", 1)
        some = train(task, recipes[:2][::-1], seeds=[9, 3], **self.settings)
        row = everybody.students.query("recipe == 'KD' and seed == 3").index[0]
        assert some.students.iloc[1].tolist() == ["KD", 4.0, 0.9, 3]
        for other in (alone.model.flat[0], some.model.flat[1]):
            torch.testing.assert_close(everybody.model.flat[row], other, rtol=0, atol=1e-12)

    def test_same_seed_has_the_same_start_and_data_order_in_every_recipe(self) -> None:
        """A recipe that is hard labels by another name trains to the very same student."""
        task = make_task(3)
        one_hot = F.one_hot(task.y_train, K).double()
        recipes = [Recipe.hard(), Recipe("labels as a teacher", one_hot, temperature=1.0, alpha=0.7)]
        trained = train(task, recipes, seeds=3, **self.settings).model.flat.view(2, 3, -1)
        torch.testing.assert_close(trained[0], trained[1], rtol=0, atol=1e-12)
        assert not torch.allclose(trained[0, 0], trained[0, 1])

    def test_the_order_of_a_seed_is_new_every_epoch_and_differs_between_seeds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Tensor] = []
        monkeypatch.setattr(Group, "step", lambda self, index: seen.append(index))
        train(make_task(3), [Recipe.hard("a"), Recipe.hard("b")], seeds=[0, 1], **(self.settings | {"epochs": 2}))
        epochs = torch.cat(seen, dim=1).view(4, 2, N)  # (F, epoch, N)
        assert torch.equal(epochs.sort(-1).values, torch.arange(N).expand(4, 2, N))
        assert torch.equal(epochs[:2], epochs[2:])  # the two recipes
        assert not torch.equal(epochs[0], epochs[1])  # the two seeds
        assert not torch.equal(epochs[:, 0], epochs[:, 1])  # the two epochs

    def test_results_do_not_depend_on_the_global_generator(self) -> None:
        torch.manual_seed(1)
        first = train(make_task(3), Recipe.hard(), seeds=2, **self.settings).model.flat
        torch.manual_seed(2)
        assert torch.equal(first, train(make_task(3), Recipe.hard(), seeds=2, **self.settings).model.flat)


class TestTraining:
    settings: ClassVar[dict[str, Any]] = {"seeds": 2, "hidden": (6,), "epochs": 5, "batch_size": 16}

    def test_reports_progress_after_every_epoch(self) -> None:
        task = make_task(3, dtype=torch.float32)
        states = list(fleet.training(task, Recipe.hard(), **self.settings))
        assert [(s.step, s.steps, s.epoch, s.epochs) for s in states] == [(4 * e, 20, e, 5) for e in range(1, 6)]
        assert len({id(s.fleet) for s in states}) == 1

    def test_is_lazy_can_be_watched_and_stopped(self) -> None:
        task = make_task(3, dtype=torch.float32)
        run = fleet.training(task, Recipe.hard(), **self.settings)
        first = next(run)
        watched = first.fleet.evaluate(task)
        weights = first.fleet.model.flat.detach().clone()
        assert watched["nll"].notna().all()
        second = next(run)
        assert not torch.equal(second.fleet.model.flat, weights)  # the same fleet, farther on
        run.close()  # type: ignore[attr-defined]
        stopped = second.fleet.model.flat.detach().clone()
        with pytest.raises(StopIteration):
            next(run)
        assert torch.equal(second.fleet.model.flat, stopped)

    def test_learns(self) -> None:
        task = kdlib.data.world("F", n_test=500)
        before = Fleet(MLP((30, 32, 20), [0]), train(task, Recipe.hard(), seeds=1, epochs=1).students).evaluate(task)
        after = train(task, Recipe.hard(), seeds=1, **kdlib.data.STUDENT["F"]).evaluate(task)
        assert before["accuracy"][0] < 0.2
        assert after["accuracy"][0] > 0.65

    def test_callers_threads_are_its_own_between_epochs_and_afterwards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        inside: set[tuple[int, int]] = set()  # workers and the threads each has
        step = Group.step

        def watched(self: Any, index: Tensor) -> None:
            inside.add((threading.get_ident(), torch.get_num_threads()))
            step(self, index)

        monkeypatch.setattr(Group, "step", watched)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            run = fleet.training(make_task(3), Recipe.hard(), threads=2, **self.settings)
            next(run)
            assert torch.get_num_threads() == 3  # while we look at the state
            run.close()  # type: ignore[attr-defined]
            assert torch.get_num_threads() == 3
            assert sum(threads for _, threads in inside) <= 2
            inside.clear()
            train(make_task(3), Recipe.hard(), **self.settings)
            assert torch.get_num_threads() == 3
            assert [threads for _, threads in inside] == [1]  # a step this small is not worth a second thread

            def fails(self: Any, index: Tensor) -> None:
                raise KeyboardInterrupt

            monkeypatch.setattr(Group, "step", fails)
            with pytest.raises(KeyboardInterrupt):
                train(make_task(3), Recipe.hard(), threads=2, **self.settings)
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)

    def test_shows_progress_when_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        task = make_task(3)
        train(task, Recipe.hard(), **self.settings)
        assert capsys.readouterr().err == ""
        train(task, Recipe.hard(), progress=True, **self.settings)
        assert "/20" in capsys.readouterr().err

    def test_device_by_name_and_input_of_another_precision(self) -> None:
        task = make_task(3)  # float64 data, float32 fleet
        trained = train(task, Recipe.hard(), device="cpu", **self.settings)
        assert trained.model.flat.dtype == torch.float32
        assert trained.predict(task.x_test).dtype == torch.float64
        torch.testing.assert_close(trained.model.flat, train(task, Recipe.hard(), **self.settings).model.flat)

    def test_integer_like_seeds_and_a_single_recipe(self) -> None:
        one = train(make_task(3), Recipe.hard(), **(self.settings | {"seeds": np.array([0, 1])}))
        two = train(make_task(3), [Recipe.hard()], **(self.settings | {"seeds": range(2)}))
        assert torch.equal(one.model.flat, two.model.flat)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("kind", ["mlp", "cnn"])
    def test_gpu_gives_the_same_students(self, kind: str) -> None:
        task = make_task(1, 6, 6, n=20)
        recipes = make_recipes(task)
        model = (lambda s: CNN((1, 3, 5), K, s)) if kind == "cnn" else None
        settings: dict[str, Any] = {"seeds": 3, "hidden": (8, 6), "epochs": 5, "batch_size": 8, "dtype": DTYPE}
        here = train(task, recipes, model=model, **settings)
        there = train(task, recipes, model=model, device="cuda", **settings)
        assert there.model.flat.device.type == "cuda"
        torch.testing.assert_close(there.model.flat.cpu(), here.model.flat, rtol=0, atol=1e-8)
        assert there.predict(task.x_test).device.type == "cpu"
        on_gpu = task.to("cuda")
        torch.testing.assert_close(train(on_gpu, recipes, model=model, **settings).model.flat, there.model.flat)
        measured = there.evaluate(on_gpu).select_dtypes("number")
        np.testing.assert_allclose(measured, here.evaluate(task).select_dtypes("number"), atol=1e-7)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the compiler's own
    def test_compiled_step_gives_the_same_numbers(self) -> None:
        compiler.needed()
        task = make_task(3, n=16)
        settings: dict[str, Any] = {"seeds": 2, "hidden": (6,), "epochs": 2, "batch_size": 16, "dtype": DTYPE}
        plain = train(task, make_recipes(task)[1], **settings)
        compiled = train(task, make_recipes(task)[1], compile=True, **settings)
        torch.testing.assert_close(compiled.model.flat, plain.model.flat, rtol=0, atol=1e-10)

    @pytest.mark.filterwarnings("ignore")
    def test_traced_step_gives_the_same_numbers_in_groups_and_partial_batches(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of compile=True but the C++ compiler."""
        real = torch.compile
        monkeypatch.setattr(torch, "compile", lambda f: real(f, backend="aot_eager"))
        task = make_task(3, n=24)
        recipes = make_recipes(task)[:2]
        monkeypatch.setattr(planning, "CACHE_BYTES", 1)  # groups of students share what was compiled
        settings: dict[str, Any] = {"seeds": 4, "hidden": (6,), "epochs": 3, "batch_size": 16, "dtype": DTYPE}
        plain = train(task, recipes, **settings)
        compiled = train(task, recipes, compile=True, **settings)
        torch.testing.assert_close(compiled.model.flat, plain.model.flat, rtol=0, atol=1e-10)


class Poison:
    """A loss that has no value any more after some calls, for the examples of class 1."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        self.calls -= 1
        return (z - v).square().sum(-1) * torch.where((y == 1) & (self.calls < 0), torch.nan, 1.0)


class TestDivergence:
    settings: ClassVar[dict[str, Any]] = {"seeds": [5, 8], "hidden": (6,), "batch_size": 25, "threads": 1}

    def test_names_student_recipe_and_epoch(self) -> None:
        task = make_task(3, dtype=torch.float32)
        with pytest.raises(
            FloatingPointError, match=r"student .*'recipe': 'hard labels'.*'seed': 5.*in epoch [12];.*lr"
        ):
            train(task, Recipe.hard(), epochs=4, lr=1e30, **self.settings)

    def test_of_one_recipe_in_a_fleet_is_found_in_its_epoch(self) -> None:
        task = make_task(3, dtype=torch.float32)
        own = Recipe(
            "poisoned", teacher=make_logits(task).float(), loss=Poison(3 + 2 * 2)
        )  # 3 to try it, 2 steps an epoch
        seen = []
        with pytest.raises(FloatingPointError, match=r"'poisoned'.*'seed': 5.* in epoch 3;"):
            for state in fleet.training(task, [Recipe.hard(), own], epochs=5, **self.settings):
                seen.append(state.epoch)
        assert seen == [1, 2]

    def test_of_an_objective_of_ones_own_is_found_too(self) -> None:
        task = make_task(3, dtype=torch.float32)
        students = pd.DataFrame({"seed": [1, 2], "method": ["fine", "broken"]})

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            return model.each(x).square().mean((1, 2)) * torch.tensor([1.0, torch.nan])[model.rows]

        with pytest.raises(FloatingPointError, match=r"'method': 'broken'.* in epoch 1;"):
            fleet.fit(task, students, partial(MLP, (3, K)), objective, epochs=2)

    def test_in_values_that_are_not_finite_with_weights_that_are(self) -> None:
        """Weights of 1e30 are finite numbers, and the logits of two layers of them are not."""
        task = make_task(3, dtype=torch.float32)

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            return -model.flat.sum(1)

        with pytest.raises(FloatingPointError, match="logits that are not finite in epoch 1"):
            fleet.fit(task, 1, partial(MLP, (3, 4, K)), objective, epochs=1, lr=1e30, schedule="constant")

    def test_in_weights_that_a_dead_relu_hides(self) -> None:
        """Hidden biases of minus infinity: every hidden unit is 0, every logit finite."""
        task = make_task(3, dtype=torch.float32)

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            return 3e38 * model.layers()[0][1].sum((1, 2))

        settings: dict[str, Any] = {"optimiser": torch.optim.SGD, "schedule": "constant", "epochs": 1, "lr": 10.0}
        with pytest.raises(FloatingPointError, match="weights or logits that are not finite in epoch 1"):
            fleet.fit(task, 1, partial(MLP, (3, 4, K)), objective, **settings)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "stack"])
def test_the_callers_defaults_and_modes_have_no_influence(kind: str) -> None:
    """A default device, a default dtype, or gradients switched off around a training: the same students."""
    task = make_task(1, 4, 4, n=12, dtype=torch.float32)
    v = make_logits(task).float()
    recipes = [Recipe.distil("KD", v), Recipe("DKD", teacher=v, loss=dkd_loss)]
    makers: dict[str, Any] = {
        "mlp": None,
        "cnn": lambda s: CNN((1, 2, 3), K, s),
        "stack": partial(stack, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, K, dtype=torch.float32))),
    }
    settings: dict[str, Any] = {
        "seeds": 2,
        "hidden": (4,),
        "epochs": 2,
        "batch_size": 5,
        "model": makers[kind],
        "curve": 1,
    }
    expected = train(task, recipes, **settings)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            trained = train(task, recipes, **settings)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(trained.model.flat, expected.model.flat)
    pd.testing.assert_frame_equal(trained.curve, expected.curve)
