"""A fleet of F against F ordinary training runs, and what a fleet reports about itself."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

import kdlib
import kdlib.fleet.plan as planning
from kdlib import Fleet, Recipe, Task, fleet, train
from kdlib._seeds import stream
from kdlib.fleet.engine import Group
from kdlib.fleet.objective import Distillation
from kdlib.losses import kd_loss, soften
from kdlib.models import CNN, MLP

DTYPE = torch.float64
N, K = 50, 4


def make_task(*shape: int, n: int = N, seed: int = 0, dtype: torch.dtype = DTYPE) -> Task:
    generator = torch.Generator().manual_seed(seed)
    x_train, x_test = (torch.randn(m, *shape, generator=generator, dtype=dtype) for m in (n, 30))
    y_train, y_test = (torch.randint(K, (m,), generator=generator) for m in (n, 30))
    return Task(x_train, y_train, x_test, y_test, K)


def make_recipes(task: Task) -> list[Recipe]:
    """Different targets, temperatures and weights, with and without the factor T^2, one table with zeros."""
    generator = torch.Generator().manual_seed(1)
    v = 3 * torch.randn(len(task.y_train), K, generator=generator, dtype=DTYPE)
    return [
        Recipe.hard(),
        Recipe("KD", soften(v, 4.0), temperature=4.0, alpha=0.9),
        Recipe("KD cold", soften(v), temperature=1.0, alpha=0.5),
        Recipe("KD alone, no factor", soften(-v, 2.5), temperature=2.5, alpha=1.0, t_squared=False),
        Recipe("one-hot teacher", F.one_hot((v[:, 0] > 0).long(), K).double(), temperature=0.7, alpha=0.3),
    ]


def ordinary_loss(z: Tensor, y: Tensor, targets: Tensor | None, recipe: Recipe) -> Tensor:
    """What a Recipe promises, with torch's own losses and autograd."""
    hard = F.cross_entropy(z, y)
    if targets is None:
        return hard
    T = recipe.temperature
    soft = F.kl_div(F.log_softmax(z / T, dim=1), targets, reduction="batchmean")
    return (1 - recipe.alpha) * hard + recipe.alpha * (T**2 if recipe.t_squared else 1) * soft


def ordinary_run(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    seed: int,
    epochs: int,
    batch_size: int,
    lr: float = 3e-3,
    weight_decay: float = 0.0,
) -> nn.Module:
    """One student by the book: AdamW, cosine decay, shuffled batches of which the last may be smaller."""
    n = len(task.x_train)
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-n // batch_size))
    generator = stream(seed, "data order")
    for _ in range(epochs):
        for index in torch.randperm(n, generator=generator).split(batch_size):
            targets = None if recipe.targets is None else recipe.targets[index]
            optimiser.zero_grad()
            ordinary_loss(network(task.x_train[index]), task.y_train[index], targets, recipe).backward()
            optimiser.step()
            schedule.step()
    return network


def plain_mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    start = MLP(sizes, [seed], DTYPE)
    layers: list[nn.Module] = [nn.Flatten()]
    for w, b in zip(start.weights, start.biases, strict=True):
        linear = nn.Linear(w.shape[1], w.shape[2], dtype=DTYPE)
        linear.weight.data, linear.bias.data = w[0].T.clone(), b[0].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plain_cnn(channels: Sequence[int], seed: int) -> nn.Sequential:
    start = CNN(channels, K, [seed], DTYPE)
    *convolutions, (w_out, b_out) = zip(start.weights, start.biases, strict=True)
    layers: list[nn.Module] = []
    for w, b in convolutions:
        conv = nn.Conv2d(w.shape[2], w.shape[1], 3, padding=1, dtype=DTYPE)
        conv.weight.data, conv.bias.data = w[0].clone(), b[0].clone()  # type: ignore[union-attr]
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
    linear = nn.Linear(w_out.shape[1], w_out.shape[2], dtype=DTYPE)
    linear.weight.data, linear.bias.data = w_out[0].T.clone(), b_out[0].clone()
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def flat(network: nn.Module) -> Tensor:
    """All parameters in the fleet's order: weight, bias, weight, bias."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])


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

    @pytest.mark.parametrize("cache", [planning.CACHE_BYTES, 1])
    def test_cnns(self, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
        task = make_task(2, 6, 6, n=20)
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

    def test_gradient_is_that_of_the_public_loss(self) -> None:
        """The table-driven gradient of the fast path, against kd_loss by autograd."""
        task = make_task(3)
        v = torch.randn(N, K, dtype=DTYPE, generator=torch.Generator().manual_seed(2))
        temperatures, alphas = [1.0, 0.5, 8.0], [0.2, 0.9, 1.0]
        recipes = [Recipe("KD", soften(v, T), T, a) for T, a in zip(temperatures, alphas, strict=True)]
        objective = Distillation(task, recipes, 1, torch.zeros(0, dtype=DTYPE))
        z = torch.randn(3, N, K, dtype=DTYPE, generator=torch.Generator().manual_seed(3), requires_grad=True)
        T, alpha = (torch.tensor(a, dtype=DTYPE).unsqueeze(1) for a in (temperatures, alphas))
        (expected,) = torch.autograd.grad(kd_loss(z, v, task.y_train, T, alpha).mean(1).sum(), z)
        index = torch.arange(N).expand(3, N)
        for rows in (slice(0, 3), slice(0, 1)):  # with and without a temperature other than 1
            got = objective.part(rows).gradient(z.detach()[rows].mT.contiguous(), index[rows]).mT
            torch.testing.assert_close(got, expected[rows], rtol=0, atol=1e-14)


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

    def test_threads_grow_with_the_work_up_to_what_torch_has(self) -> None:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(4)
            for work, expected in ((0, 1), (2 * planning.WORK_PER_THREAD, 2), (99 * planning.WORK_PER_THREAD, 4)):
                assert planning.thread_count(None, work) == expected
            assert planning.thread_count(3, 0) == 3
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
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            pytest.skip("torch.compile needs a C++ compiler")
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
        compiler = torch.compile
        monkeypatch.setattr(torch, "compile", lambda f: compiler(f, backend="aot_eager"))
        task = make_task(3, n=24)
        recipes = make_recipes(task)[:2]
        monkeypatch.setattr(planning, "CACHE_BYTES", 1)  # groups of students share what was compiled
        settings: dict[str, Any] = {"seeds": 4, "hidden": (6,), "epochs": 3, "batch_size": 16, "dtype": DTYPE}
        plain = train(task, recipes, **settings)
        compiled = train(task, recipes, compile=True, **settings)
        torch.testing.assert_close(compiled.model.flat, plain.model.flat, rtol=0, atol=1e-10)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al. 2017 with 15 bins, one bin after the other."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | (b == 14))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


class TestEvaluation:
    def test_measures_are_those_of_scikit_learn_and_the_definitions(self) -> None:
        generator = torch.Generator().manual_seed(5)
        z = 3 * torch.randn(3, 400, K, dtype=DTYPE, generator=generator)
        y = torch.randint(K, (400,), generator=generator)
        z[0, :5] = 100 * F.one_hot(y[:5], K)  # certain: the last bin is closed
        got = fleet.scores(z, y)
        for f in range(3):
            p = z[f].softmax(-1).numpy()
            logits = z[f].numpy()
            assert got["accuracy"][f].item() == pytest.approx(accuracy_score(y, p.argmax(1)), abs=1e-12)
            assert got["nll"][f].item() == pytest.approx(log_loss(y, p), rel=1e-9)
            assert got["ece"][f].item() == pytest.approx(expected_calibration_error(p, y.numpy()), abs=1e-12)
            assert got["confidence"][f].item() == pytest.approx(p.max(1).mean(), rel=1e-12)
            norm = np.linalg.norm(logits - logits.mean(1, keepdims=True), axis=1).mean()
            assert got["logit_norm"][f].item() == pytest.approx(norm, rel=1e-12)

    def test_a_perfectly_calibrated_and_a_perfectly_wrong_student(self) -> None:
        y = torch.tensor([0, 0, 0, 1])
        sure = torch.tensor([1e3, 0.0]).expand(4, 2)
        calibrated = torch.tensor([0.75, 0.25]).log().expand(4, 2)
        got = fleet.scores(torch.stack([sure, calibrated]), y)
        assert got["ece"].tolist() == pytest.approx([0.25, 0.0], abs=1e-6)
        assert got["accuracy"].tolist() == [0.75, 0.75]
        assert got["nll"][0].item() == pytest.approx(250)

    def test_frame_has_one_row_per_student_also_beyond_one_slice(self) -> None:
        task = make_task(3)
        trained = train(task, make_recipes(task), seeds=8, hidden=(5,), epochs=1, dtype=DTYPE)  # 40 students
        frame = trained.evaluate(task)
        assert list(frame.columns) == [
            *("recipe", "temperature", "alpha", "seed"),
            *("accuracy", "nll", "ece", "confidence", "logit_norm"),
        ]
        assert frame[["recipe", "temperature", "alpha", "seed"]].equals(trained.students)
        assert trained.students["recipe"].tolist() == [r.name for r in make_recipes(task) for _ in range(8)]
        assert trained.students["seed"].tolist() == 5 * list(range(8))
        assert trained.students.query("recipe == 'hard labels'")["alpha"].eq(0).all()
        logits = trained.predict(task.x_test)
        for name, values in fleet.scores(logits, task.y_test).items():
            np.testing.assert_allclose(frame[name], values, atol=1e-12)
        # the reported nll is the training loss of hard labels, on the same examples
        losses = [F.cross_entropy(z, task.y_test).item() for z in logits]
        np.testing.assert_allclose(frame["nll"], losses, rtol=1e-10)

    def test_prediction_is_cut_into_batches_without_a_trace(self) -> None:
        task = make_task(3)
        trained = train(task, Recipe.hard(), seeds=2, hidden=(5,), epochs=1, dtype=DTYPE)
        whole = trained.predict(task.x_test)
        assert whole.shape == (2, 30, K)
        assert not whole.requires_grad
        torch.testing.assert_close(trained.predict(task.x_test, batch_size=7), whole, rtol=0, atol=1e-12)

    def test_weights_and_biases_make_the_prediction(self) -> None:
        task = make_task(3)
        trained = train(task, Recipe.hard(), seeds=2, hidden=(5,), epochs=1, dtype=DTYPE)
        (w1, w2), (b1, b2) = trained.weights, trained.biases
        hidden = torch.einsum("nd,fdh->fnh", task.x_test, w1).add(b1.unsqueeze(1)).relu()
        logits = torch.einsum("fnh,fhk->fnk", hidden, w2) + b2.unsqueeze(1)
        torch.testing.assert_close(trained.predict(task.x_test), logits, rtol=0, atol=1e-12)
        assert len(trained) == 2
        assert repr(trained) == "Fleet(2 students: 1 recipes, 2 seeds)"


def test_hard_recipe_ignores_alpha() -> None:
    assert Recipe("labels", alpha=0.9).alpha == 0.0
    hard = Recipe.hard("CE")
    assert (hard.name, hard.targets, hard.alpha, hard.pull) == ("CE", None, 0.0, 0.0)


TASK = make_task(3)
TABLE = torch.full((N, K), 1 / K)


def attempt(**changes: Any) -> Fleet:
    settings: dict[str, Any] = {"task": TASK, "recipes": Recipe.hard(), "seeds": 1, "hidden": (4,), "epochs": 1}
    return train(**(settings | changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recipe("KD", TABLE, temperature=0), "temperature must be a positive finite number, got 0"),
        (lambda: Recipe("KD", TABLE, temperature=float("nan")), "temperature .* got nan"),
        (lambda: Recipe("KD", TABLE, alpha=1.5), r"alpha must be a number in \[0, 1\], got 1.5"),
        (lambda: Recipe("KD", alpha=-1), r"alpha must be a number in \[0, 1\], got -1"),
        (lambda: Recipe("KD", 2 * TABLE), "targets must have rows that sum to 1, got a row that is off by 1"),
        (lambda: Recipe("KD", TABLE * float("nan")), "targets must be finite, got 200 NaN"),
        (lambda: Recipe("KD", TABLE - 1), "targets must not be negative"),
        (lambda: Recipe("KD", TABLE[0]), r"targets must have shape \(any, any\), got \(4,\)"),
        (lambda: Recipe("KD", TASK.y_train), "targets must be a floating-point torch.Tensor, got torch.int64"),
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
        (lambda: attempt(dtype=torch.int64), "dtype must be a floating-point dtype, got torch.int64"),
        (
            lambda: attempt(model=lambda s: MLP((3, 5), s)),
            r"model must give logits of shape \(1, 1, 4\) .*, got \(1, 1, 5\)",
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
        (lambda: fleet.scores(torch.zeros(1, 5, K), TASK.y_test), r"labels must have shape \(5,\), got \(30,\)"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="epoch"):
        attempt(epoch=3)
