"""What a training run is told: settings, grids, curves, methods of one's own, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import r2_score
from torch import Tensor, nn

import kdlib.fleet.plan as planning
from kdlib import Fleet, Recipe, Task, fleet, train
from kdlib.models import CNN, MLP, FleetModel, stack

from .ordinary import DTYPE, K, N, flat, make_recipes, make_task, ordinary_run, plain_mlp

SETTINGS: dict[str, Any] = {"hidden": (6,), "batch_size": 16, "dtype": DTYPE}
SIZES = (3, 6, K)


class TestGrid:
    def test_every_value_is_a_column_and_equals_its_own_run(self) -> None:
        task = make_task(3)
        recipes = make_recipes(task)[:2]
        grid: dict[str, Any] = {"lr": [3e-3, 0.02], "weight_decay": (0.0, 0.3), "epochs": [2, 5]}
        trained = train(task, recipes, seeds=[7, 0], **grid, **SETTINGS)
        frame = trained.students
        assert len(frame) == 2 * 2 * 2 * 2 * 2
        assert list(frame.columns) == ["recipe", "temperature", "alpha", "seed", "lr", "weight_decay", "epochs"]
        assert list(trained.evaluate(task).columns[:7]) == list(frame.columns)
        assert frame.drop_duplicates().shape == frame.shape
        for f, row in enumerate(frame.itertuples()):
            recipe = next(r for r in recipes if r.name == row.recipe)
            network = plain_mlp(SIZES, row.seed)
            decay = {"lr": row.lr, "weight_decay": row.weight_decay}
            single = ordinary_run(network, task, recipe, row.seed, row.epochs, 16, **decay)
            assert (trained.model.flat[f] - flat(single)).abs().max() < 1e-10, row

    def test_seeds_stay_paired(self) -> None:
        """Each value's students are the recipes' and seeds' in the same order, with the same start and data order."""
        trained = train(make_task(3), make_recipes(make_task(3))[:2], seeds=3, lr=[1e-3, 1e-2], epochs=1, **SETTINGS)
        halves = [own.drop(columns="lr").reset_index(drop=True) for _, own in trained.students.groupby("lr")]
        pd.testing.assert_frame_equal(*halves)
        tiny = train(make_task(3), Recipe.hard(), seeds=3, lr=[1e-12, 2e-12], epochs=1, **SETTINGS).model.flat
        assert (tiny[:3] - tiny[3:]).abs().max() < 1e-9

    def test_a_sequence_of_one_is_a_column_and_a_number_is_none(self) -> None:
        alone = train(make_task(3), Recipe.hard(), seeds=1, lr=np.array([0.01]), epochs=1, **SETTINGS)
        assert alone.students["lr"].tolist() == [0.01]
        assert list(alone.students.columns) == ["recipe", "temperature", "alpha", "seed", "lr"]

    def test_works_for_methods_of_ones_own(self) -> None:
        task = make_task(3)
        trained = fleet.fit(task, [4, 1], partial(MLP, SIZES), squares, epochs=[1, 3], batch_size=16, dtype=DTYPE)
        assert trained.students.to_dict("list") == {"seed": [4, 1, 4, 1], "epochs": [1, 1, 3, 3]}
        for f, row in enumerate(trained.students.itertuples()):
            single = ordinary_run(plain_mlp(SIZES, row.seed), task, plain_squares, row.seed, row.epochs, 16)
            assert (trained.model.flat[f] - flat(single)).abs().max() < 1e-10


class TestCurve:
    task = make_task(3, n=60).split_validation(0.25, seed=1)

    def recorded(self, recipe: Recipe, seed: int, epochs: int) -> dict[tuple[str, int], tuple[float, float]]:
        """Accuracy and nll by split and epoch, of a plain run that is looked at on the way."""
        sets = {
            "test": (self.task.x_test, self.task.y_test),
            "validation": (self.task.extra["x_validation"], self.task.extra["y_validation"]),
        }
        seen: dict[tuple[str, int], tuple[float, float]] = {}

        def look(epoch: int, network: nn.Module) -> None:
            for split, (x, y) in sets.items():
                z = network(x).detach()
                seen[split, epoch] = (z.argmax(1) == y).double().mean().item(), F.cross_entropy(z, y).item()

        ordinary_run(plain_mlp(SIZES, seed), self.task, recipe, seed, epochs, 16, after=look)
        return seen

    @pytest.mark.parametrize(("curve", "at"), [(2, {2, 4, 6}), ([1, 4], {1, 4}), ([3], {3}), (np.int64(5), {5})])
    def test_is_what_a_plain_run_shows_at_these_epochs(self, curve: Any, at: set[int]) -> None:
        recipes = make_recipes(self.task)[:2]
        trained = train(self.task, recipes, seeds=[7, 0], epochs=[4, 7], curve=curve, **SETTINGS)
        frame = trained.curve
        assert frame is not None
        assert set(frame["split"]) == {"test", "validation"}
        expected = {4: {e for e in at if e < 4} | {4}, 7: at | {7}}
        for row, own in frame.groupby(["recipe", "seed", "epochs"]):
            name, seed, epochs = row
            seen = self.recorded(next(r for r in recipes if r.name == name), seed, epochs)
            assert sorted(zip(own["split"], own["epoch"], strict=True)) == sorted(
                (split, e) for split in ("test", "validation") for e in expected[epochs]
            )
            for point in own.itertuples():
                accuracy, nll = seen[point.split, point.epoch]
                assert point.accuracy == pytest.approx(accuracy, abs=1e-12)
                assert point.nll == pytest.approx(nll, rel=1e-10)
        last = frame.query("split == 'test' and epoch == epochs").drop(columns=["epoch", "split"])
        together = last.merge(trained.evaluate(self.task), on=["recipe", "seed", "epochs"], suffixes=("", "_at_last"))
        assert len(together) == 8
        assert (together["nll"] == together["nll_at_last"]).all()

    def test_changes_nothing_in_the_students(self) -> None:
        plain, watched = (train(self.task, Recipe.hard(), seeds=2, epochs=3, curve=c, **SETTINGS) for c in (None, 1))
        assert torch.equal(plain.model.flat, watched.model.flat)
        assert plain.curve is None

    def test_without_a_validation_part_is_of_the_test_set(self) -> None:
        trained = train(make_task(3), Recipe.hard(), seeds=2, epochs=3, curve=2, **SETTINGS)
        assert trained.curve is not None
        assert trained.curve[["seed", "epoch", "split"]].to_numpy().tolist() == [
            [s, e, "test"] for e in (2, 3) for s in (0, 1)
        ]

    def test_can_be_read_while_it_grows(self) -> None:
        states = fleet.training(make_task(3), Recipe.hard(), seeds=2, epochs=3, curve=1, **SETTINGS)
        assert [len(state.fleet.curve) for state in states if state.fleet.curve is not None] == [2, 4, 6]

    def test_of_a_regression_has_its_measures(self) -> None:
        task = regression().split_validation(0.2)
        trained = fleet.fit(task, 2, partial(MLP, (3, 4, 1)), mean_square(task), epochs=2, curve=[1], dtype=DTYPE)
        assert trained.curve is not None
        assert list(trained.curve.columns) == ["seed", "mse", "r2", "epoch", "split"]
        assert len(trained.curve) == 2 * 2 * 2


def squares(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
    return (model.each(x) - x[..., :1]).square().mean((1, 2))


def plain_squares(network: nn.Module, index: Tensor) -> Tensor:
    x = make_task(3).x_train[index]
    return (network(x) - x[:, :1]).square().mean()


def regression(outputs: int | None = None) -> Task:
    x, more = make_task(3).x_train, make_task(3).x_test
    shape = () if outputs is None else (outputs,)
    y, y_more = (v.sum(1).sin().view(-1, *(1 for _ in shape)).expand(-1, *shape) for v in (x, more))
    return Task(x, y, more, y_more, outputs or 1)


def mean_square(task: Task) -> Callable[[FleetModel, Tensor, Tensor], Tensor]:
    wanted = task.y_train.reshape(len(task.y_train), -1)

    def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        return (model.each(x) - wanted[index]).square().mean((1, 2))

    return objective


class TestFit:
    """Objectives of one's own against plain loops."""

    task = make_task(3)
    settings: ClassVar[dict[str, Any]] = {"epochs": 4, "batch_size": 16, "dtype": DTYPE}

    def check(
        self, trained: Fleet, loss: Callable[[nn.Sequential, Tensor], Tensor], task: Task | None = None, **settings: Any
    ) -> None:
        outputs = (task or self.task).num_classes
        for f, seed in enumerate(trained.students["seed"]):
            network = plain_mlp((3, 6, outputs), seed)
            single = ordinary_run(network, task or self.task, loss, seed, 4, 16, **settings)  # type: ignore[arg-type]
            assert (trained.model.flat[f] - flat(single)).abs().max() < 1e-10, f

    @pytest.mark.parametrize("cache", [planning.CACHE_BYTES, 1])
    def test_feature_matching(self, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planning, "CACHE_BYTES", cache)
        wanted = torch.randn(N, 6, dtype=DTYPE, generator=torch.Generator().manual_seed(3))
        y = self.task.y_train

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            (w, b), (w_out, b_out) = model.layers()
            h = torch.baddbmm(b, w, x.mT).relu()  # (F, H, B)
            z = torch.baddbmm(b_out, w_out, h).mT
            ce = F.cross_entropy(z.flatten(0, 1), y[index].flatten(), reduction="none").view(index.shape)
            return ce.mean(1) + (h.mT - wanted[index]).square().mean((1, 2))

        def loss(network: nn.Sequential, index: Tensor) -> Tensor:
            h = network[:3](self.task.x_train[index])
            return F.cross_entropy(network[3](h), y[index]) + F.mse_loss(h, wanted[index])

        trained = fleet.fit(
            self.task, [4, 1, 0, 2, 9], partial(MLP, SIZES), objective, weight_decay=0.1, **self.settings
        )
        self.check(trained, loss, weight_decay=0.1)

    def test_a_penalty_on_the_weights(self) -> None:
        y = self.task.y_train

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            ce = F.cross_entropy(model.each(x).flatten(0, 1), y[index].flatten(), reduction="none").view(index.shape)
            return ce.mean(1) + sum(torch.linalg.matrix_norm(w, 2) for w, _ in model.layers())

        def loss(network: nn.Sequential, index: Tensor) -> Tensor:
            norms = [torch.linalg.matrix_norm(m.weight, 2) for m in network if isinstance(m, nn.Linear)]
            return F.cross_entropy(network(self.task.x_train[index]), y[index]) + sum(norms)

        self.check(fleet.fit(self.task, [4, 1], partial(MLP, SIZES), objective, **self.settings), loss)

    @pytest.mark.parametrize("outputs", [None, 1, 2])
    def test_regression(self, outputs: int | None) -> None:
        task = regression(outputs)
        trained = fleet.fit(task, [4, 1], partial(MLP, (3, 6, outputs or 1)), mean_square(task), **self.settings)
        y = task.y_train.reshape(N, -1)
        self.check(trained, lambda network, i: F.mse_loss(network(task.x_train[i]), y[i]), task)
        frame = trained.evaluate(task)
        z, wanted = trained.predict(task.x_test), task.y_test.reshape(30, -1)
        for f in range(2):
            assert frame["mse"][f] == pytest.approx(F.mse_loss(z[f], wanted).item(), rel=1e-12)
            assert frame["r2"][f] == pytest.approx(r2_score(wanted, z[f], multioutput="variance_weighted"), rel=1e-10)

    def test_values_that_each_student_has_of_its_own(self) -> None:
        """By `model.rows`, in groups and beside a grid: rows count the whole fleet."""
        pull = torch.tensor([0.0, 0.5, 2.0], dtype=DTYPE)
        students = pd.DataFrame({"seed": [3, 3, 1], "pull": pull.numpy()}, index=[9, 9, 9])

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            return squares(model, x, index) + pull[model.rows % 3] * model.flat.square().sum(1)

        trained = fleet.fit(self.task, students, partial(MLP, SIZES), objective, lr=[1e-3, 1e-2], **self.settings)
        assert trained.students["pull"].tolist() == [0.0, 0.5, 2.0] * 2
        for f, row in enumerate(trained.students.itertuples()):

            def loss(network: nn.Module, index: Tensor, pull: float = row.pull) -> Tensor:
                return plain_squares(network, index) + pull * sum(p.square().sum() for p in network.parameters())

            single = ordinary_run(plain_mlp(SIZES, row.seed), self.task, loss, row.seed, 4, 16, lr=row.lr)
            assert (trained.model.flat[f] - flat(single)).abs().max() < 1e-10

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("size", [None, 16])
    def test_averages_that_are_trained_jointly(
        self, size: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three networks whose mean is taught, twice; the group's limit would part them. All see the first one's batch."""
        monkeypatch.setattr(planning, "CACHE_BYTES", 1)
        y, x_all = self.task.y_train, self.task.x_train

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            teams, batch = len(x) // 3, index.shape[1]
            first = x.unflatten(0, (teams, 3))[:, :1].expand(-1, 3, *x.shape[1:]).flatten(0, 1)
            mean = model.each(first).unflatten(0, (teams, 3)).mean(1)  # (teams, B, K)
            labels = y[index[::3]]
            ce = F.cross_entropy(mean.flatten(0, 1), labels.flatten(), reduction="none").view(teams, batch).mean(1)
            return (ce / 3).repeat_interleave(3)  # the sum over a team is its loss

        seeds = [4, 1, 0, 7, 2, 5]
        settings = self.settings | {"batch_size": size}
        trained = fleet.fit(self.task, seeds, partial(MLP, SIZES), objective, coupled=3, threads=threads, **settings)
        for team in range(2):
            own = seeds[3 * team : 3 * team + 3]
            networks = nn.ModuleList([plain_mlp(SIZES, seed) for seed in own])

            def loss(networks: nn.Module, index: Tensor) -> Tensor:
                rows = index if size else torch.arange(N)
                return F.cross_entropy(sum(n(x_all[rows]) for n in networks) / 3, y[rows])  # type: ignore[attr-defined]

            ordinary_run(networks, self.task, loss, own[0], 4, size or N)
            for f, network in enumerate(networks):
                assert (trained.model.flat[3 * team + f] - flat(network)).abs().max() < 1e-10

    def test_plain_gradient_descent_on_a_linear_model_is_its_closed_form(self) -> None:
        """W_t - W* = (I - lr A)^t (W_0 - W*) for a quadratic loss with Hessian A."""
        task = regression(2)
        x, y, lr, steps = task.x_train, task.y_train, 0.05, 30

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            return (model.each(x) - y[index]).square().sum(2).mean(1) / 2

        trained = fleet.fit(
            task, 3, partial(MLP, (3, 2)), objective, epochs=steps, batch_size=None, lr=lr, optimiser=torch.optim.SGD,
            schedule="constant", dtype=DTYPE,
        )  # fmt: skip
        with_one = torch.cat([x, torch.ones(N, 1, dtype=DTYPE)], 1)
        hessian = with_one.T @ with_one / N
        best = torch.linalg.lstsq(with_one, y).solution  # (4, 2)
        shrink = torch.linalg.matrix_power(torch.eye(4, dtype=DTYPE) - lr * hessian, steps)
        for f, seed in enumerate(range(3)):
            start = MLP((3, 2), [seed], DTYPE)
            w0 = torch.cat([start.weights[0][0], start.biases[0][0:1]])
            got = torch.cat([trained.weights[0][f], trained.biases[0][f : f + 1]])
            torch.testing.assert_close(got, best + shrink @ (w0 - best), rtol=0, atol=1e-10)

    def test_all_examples_at_once_come_in_their_order_and_for_one_student_too(self) -> None:
        seen: list[Tensor] = []

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            seen.append(index)
            assert torch.equal(x, self.task.x_train.expand(len(x), -1, -1))
            return squares(model, x, index)

        for seeds in (1, [3], [3, 5]):
            fleet.fit(self.task, seeds, partial(MLP, SIZES), objective, epochs=1, batch_size=None, dtype=DTYPE)
        assert all(torch.equal(index, torch.arange(N).expand(len(index), -1)) for index in seen)
        trained = train(
            self.task, make_recipes(self.task)[1], seeds=[4], epochs=3, batch_size=None, hidden=(6,), dtype=DTYPE
        )
        assert trained.model.flat.isfinite().all()


class TestTrainable:
    task = make_task(3)

    @pytest.mark.parametrize("way", ["recipe", "objective"])
    @pytest.mark.parametrize("trainable", [[-1], [0, 2], (np.int64(1),)])
    def test_layers_equal_a_plain_run_with_the_others_frozen(self, trainable: Any, way: str) -> None:
        """AdamW's decay of frozen weights would show."""
        y = self.task.y_train

        def loss(network: nn.Module, index: Tensor) -> Tensor:
            return F.cross_entropy(network(self.task.x_train[index]), y[index])

        def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
            z = model.each(x).flatten(0, 1)
            return F.cross_entropy(z, y[index].flatten(), reduction="none").view(index.shape).mean(1)

        sizes, settings = (3, 6, 5, K), {"epochs": 3, "batch_size": 16, "weight_decay": 0.5, "dtype": DTYPE}
        model = partial(MLP, sizes)
        if way == "recipe":
            model = partial(Frozen, sizes, [k % 3 for k in trainable])  # type: ignore[assignment]
            trained = train(self.task, Recipe.hard(), seeds=[4, 1], model=model, **settings)
        else:
            trained = fleet.fit(self.task, [4, 1], model, objective, trainable=trainable, **settings)
        for f, seed in enumerate([4, 1]):
            network = plain_mlp(sizes, seed)
            for k, layer in enumerate(m for m in network if isinstance(m, nn.Linear)):
                layer.requires_grad_(k in [t % 3 for t in trainable])
            single = ordinary_run(network, self.task, loss, seed, 3, 16, weight_decay=0.5)
            assert (trained.model.flat[f] - flat(single)).abs().max() < 1e-10

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_mask_holds_single_weights(self, whole: bool) -> None:
        start = MLP((3, 6, K), [4, 1], DTYPE).flat.data
        mask = torch.rand(start.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        mask = mask if whole else mask[0]
        trained = fleet.fit(
            self.task, [4, 1], partial(MLP, SIZES), squares, trainable=mask, weight_decay=0.5, epochs=2, dtype=DTYPE
        )
        moved = trained.model.flat.data != start
        assert not (moved & ~mask).any()
        assert moved[mask.expand_as(moved)].float().mean() > 0.8

    def test_of_a_cnn_and_of_a_model_with_an_opinion_of_its_own(self) -> None:
        task = make_task(1, 4, 4, n=12)
        start = CNN((1, 2, 3), K, [4], DTYPE)
        trained = fleet.fit(
            task, [4], partial(CNN, (1, 2, 3), K), pictures, trainable=[-1], weight_decay=0.5, epochs=2, dtype=DTYPE
        )
        assert [torch.equal(a, b) for a, b in zip(trained.weights, start.weights, strict=True)] == [True, True, False]
        both = fleet.fit(self.task, [4], partial(Frozen, SIZES, [0]), squares, trainable=[1], epochs=2, dtype=DTYPE)
        assert torch.equal(both.model.flat.data, MLP(SIZES, [4], DTYPE).flat.data)  # nothing is left to train


class Frozen(MLP):
    """An MLP of which only some layers learn."""

    def __init__(self, sizes: Any, learning: list[int], seeds: Any) -> None:
        super().__init__(sizes, seeds)
        self.learning = learning

    @property
    def trainable(self) -> Tensor | None:
        mask = torch.zeros_like(self.flat[:1], dtype=torch.bool)
        for k in self.learning:
            for part in self.layers(mask)[k]:
                part.fill_(True)
        return mask[0]


def pictures(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
    return model.each(x).square().mean((1, 2))


TASK = make_task(3)
TABLE = torch.full((N, K), 1 / K)


class Wrong(MLP):
    """Gives something else than logits."""

    def __init__(self, change: Callable[[Tensor], Any], seeds: Any) -> None:
        super().__init__((3, K), seeds)
        self.change = change

    def apply(self, flat: Tensor, x: Tensor) -> Any:
        return self.change(super().apply(flat, x))


def method(**changes: Any) -> Fleet:
    settings: dict[str, Any] = {"students": 2, "model": partial(MLP, (3, 4, K)), "objective": pictures, "epochs": 1}
    return fleet.fit(TASK, **(settings | changes))


def attempt(**changes: Any) -> Fleet:
    settings: dict[str, Any] = {"task": TASK, "recipes": Recipe.hard(), "seeds": 1, "hidden": (4,), "epochs": 1}
    return train(**(settings | changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attempt(task="digits"), "task must be a kdlib.Task, got str"),
        (lambda: attempt(recipes=[]), "recipes must not be empty, got none"),
        (lambda: attempt(recipes=["KD"]), "recipes must be kdlib.Recipe objects, got str"),
        (
            lambda: attempt(recipes=Recipe("A", TABLE[:9])),
            r"targets of recipe 'A' must have shape \(50, 4\), got \(9, 4\)",
        ),
        (lambda: attempt(recipes=Recipe("A", torch.full((N, 2), 0.5))), r"targets of recipe 'A' .* got \(50, 2\)"),
        (lambda: attempt(seeds=0), "seeds must be an integer of at least 1, got 0"),
        (lambda: attempt(seeds=-3), "seeds must be an integer of at least 1, got -3"),
        (lambda: attempt(seeds=2.5), "seeds must be an integer of at least 1, got 2.5"),
        (lambda: attempt(seeds=[]), r"seeds must be at least one and differ from each other, got \[\]"),
        (lambda: attempt(seeds=[1, 1]), r"seeds must be at least one and differ from each other, got \[1, 1\]"),
        (lambda: attempt(seeds=[0, -1]), "seed must be an integer of at least 0, got -1"),
        (lambda: attempt(seeds=[0.5]), "seed must be an integer of at least 0, got 0.5"),
        (lambda: attempt(hidden=(4, 0)), "hidden must be an integer of at least 1, got 0"),
        (lambda: attempt(epochs=0), "epochs must be an integer of at least 1, got 0"),
        (lambda: attempt(epochs=2.5), "epochs must be an integer of at least 1, got 2.5"),
        (lambda: attempt(batch_size=0), "batch_size must be an integer of at least 1, got 0"),
        (lambda: attempt(lr=0.0), "lr must be positive .*, got 0.0"),
        (lambda: attempt(lr=float("nan")), "lr must be positive .*, got nan"),
        (lambda: attempt(lr=float("inf")), "lr must be positive .*, got inf"),
        (lambda: attempt(weight_decay=-0.1), "weight_decay must be not negative .*, got -0.1"),
        (lambda: attempt(threads=0), "threads must be an integer of at least 1, got 0"),
        (lambda: attempt(hidden=8), "hidden must be a sequence of widths, got 8"),
        (lambda: attempt(lr=[1e-3, 1e-3]), r"lr must be a number or different numbers, got \[0.001, 0.001\]"),
        (lambda: attempt(lr=[]), r"lr must be a number or different numbers, got \[\]"),
        (lambda: attempt(lr=[1e-3, 0]), "lr must be positive and finite, got 0"),
        (lambda: attempt(lr="fast"), "lr must be positive and finite, got 'f'"),
        (lambda: attempt(lr=None), "lr must be positive and finite, got None"),
        (lambda: attempt(lr=True), "lr must be positive and finite, got True"),
        (lambda: attempt(epochs=[]), r"epochs must be a number or different numbers, got \[\]"),
        (lambda: attempt(epochs=[1, 2.5]), "epochs must be an integer of at least 1, got 2.5"),
        (lambda: attempt(epochs=[3, 3]), r"epochs must be a number or different numbers, got \[3, 3\]"),
        (lambda: attempt(batch_size=[16, 32]), r"batch_size must be an integer of at least 1, got \[16, 32\]"),
        (lambda: attempt(threads=[1, 2]), r"threads must be an integer of at least 1, got \[1, 2\]"),
        (lambda: attempt(hidden=[(8,), (16,)]), r"hidden must be an integer of at least 1, got \(8,\)"),
        (lambda: attempt(schedule=["cosine", "constant"]), r"schedule must be 'cosine' or 'constant', got \["),
        (lambda: attempt(optimiser=[torch.optim.SGD]), "optimiser must be called like torch.optim.SGD, got list"),
        (lambda: attempt(device=["cpu"]), r"device must be one that torch can use here, got \['cpu'\]"),
        (lambda: attempt(device="gpu"), "device must be one that torch can use here, got 'gpu'"),
        (lambda: attempt(dtype=[torch.float32]), r"dtype must be a floating-point dtype, got \[torch.float32\]"),
        (lambda: attempt(curve=0), "curve must be an integer of at least 1, got 0"),
        (lambda: attempt(curve=[1, 2]), r"curve must name epochs from 1 to 1, got \[1, 2\]"),
        (lambda: attempt(curve=[]), r"curve must name epochs from 1 to 1, got \[\]"),
        (
            lambda: attempt(task=regression(4)),
            "task must have labels for recipes, got targets of torch.float64: .* fleet.fit",
        ),
        (lambda: attempt(model=[MLP]), "model must be a function from seeds to a FleetModel, got list"),
        (
            lambda: attempt(model=lambda s: nn.Linear(3, 4)),
            "model must be a function from seeds to a FleetModel, got Linear",
        ),
        (
            lambda: attempt(model=lambda s: Wrong(lambda z: z.mT, s)),
            r"logits of shape \(1, 3, 4\), .*, got \(1, 4, 3\)",
        ),
        (lambda: attempt(model=lambda s: Wrong(lambda z: z[0], s)), r"logits of shape \(1, 3, 4\), .*, got \(3, 4\)"),
        (
            lambda: attempt(model=lambda s: Wrong(lambda z: z.transpose(0, 1), s), seeds=2),
            r"logits of shape \(2, 3, 4\), .*, got \(3, 2, 4\)",
        ),
        (lambda: attempt(model=lambda s: Wrong(lambda z: (z, z), s)), r"logits of shape \(1, 3, 4\), .*, got tuple"),
        (lambda: attempt(model=lambda s: Wrong(Tensor.detach, s)), "must give logits that depend on its parameters"),
        (lambda: method(objective=3), r"objective must be a function of \(model, x, index\), got int"),
        (lambda: method(objective=lambda m, x, i: m.each(x).mean()), r"one value per student, shape \(2,\), got \(\)"),
        (
            lambda: method(objective=lambda m, x, i: m.each(x).mean(2)),
            r"one value per student, shape \(2,\), got \(2, 50\)",
        ),
        (lambda: method(objective=lambda m, x, i: None), "one value per student, .*, got NoneType"),
        (lambda: method(objective=lambda m, x, i: x.mean((1, 2))), "objective must depend on the model's parameters"),
        (lambda: method(students=[]), r"seeds must be at least one and differ from each other, got \[\]"),
        (lambda: method(students=pd.DataFrame({"seeds": [1]})), r"students must have a column 'seed' .*\['seeds'\]"),
        (lambda: method(students=pd.DataFrame({"seed": []})), "students must have .* at least one row, got 0 rows"),
        (lambda: method(students=pd.DataFrame({"seed": [0.5]})), "seed must be an integer of at least 0, got 0.5"),
        (lambda: method(students=pd.DataFrame({"seed": [-1]})), "seed must be an integer of at least 0, got -1"),
        (lambda: method(coupled=2, students=3), "coupled must divide the number of students, 3, got 2"),
        (lambda: method(coupled=0), "coupled must be an integer of at least 1, got 0"),
        (lambda: method(coupled=[1]), r"coupled must be an integer of at least 1, got \[1\]"),
        (lambda: method(compile=True), "compile must be False for an objective of your own, got True"),
        (lambda: method(trainable=0), "trainable must be a sequence of layers or a bool mask, got 0"),
        (lambda: method(trainable=[2]), "trainable must name layers of the 2 that the model has, got 2"),
        (lambda: method(trainable=[True, False]), "trainable must be an integer of at least -2, got True"),
        (lambda: method(trainable=[0.5]), "trainable must be an integer of at least -2, got 0.5"),
        (lambda: method(trainable=torch.ones(5, dtype=torch.bool)), r"a bool mask \(2, 36\), got torch.bool \(5,\)"),
        (lambda: method(trainable=torch.ones(2, 36)), r"a bool mask \(2, 36\), got torch.float32 \(2, 36\)"),
        (
            lambda: method(model=partial(stack, lambda: nn.Linear(3, K)), trainable=[0]),
            r"layers must be those .*; of a stack: parameters_of\(flat\)",
        ),
        (lambda: attempt(dtype=torch.int64), "dtype must be a floating-point dtype, got torch.int64"),
        (
            lambda: attempt(model=lambda s: MLP((3, 5), s)),
            r"model must give logits of shape \(1, 3, 4\), .*, got \(1, 3, 5\)",
        ),
        (lambda: attempt(model=lambda s: MLP((3, 4), [0, 1])), "model must make one student for each of the 1 seeds"),
        (lambda: attempt(model=lambda s: MLP((9, 4), s)), r"x must have 9 features per example, got shape \(3,\)"),
        (lambda: attempt().predict(torch.zeros(2, 7)), r"x must have 3 features per example, got shape \(7,\)"),
        (lambda: attempt().predict(TASK.y_test), "x must be a floating-point torch.Tensor, got torch.int64"),
        (lambda: attempt().predict(TASK.x_test, batch_size=0), "batch_size must be an integer of at least 1, got 0"),
        (
            lambda: fleet.scores(torch.zeros(5, K), TASK.y_test),
            r"logits must have shape \(any, any, any\), got \(5, 4\)",
        ),
        (lambda: fleet.scores(torch.zeros(1, 5, K), TASK.y_test), r"labels must have shape \(1, 5\) .*, got \(30,\)"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="epoch"):
        attempt(epoch=3)
