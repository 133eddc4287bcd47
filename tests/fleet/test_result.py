"""What a fleet predicts and measures, and what is left of it in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

import kdlib.fleet.plan as planning
from kdlib import Fleet, Recipe, fleet, train
from kdlib.models import CNN, MLP, FleetModel, stack

from .ordinary import DTYPE, K, make_recipes, make_task


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

    def test_of_a_student_that_is_not_finite_names_it(self) -> None:
        task = make_task(3)
        trained = train(task, make_recipes(task)[:2], seeds=2, hidden=(5,), epochs=1, dtype=DTYPE)
        trained.model.flat.data[3, 0] = torch.inf
        with pytest.raises(FloatingPointError, match=r"student .*'recipe': 'KD'.*'seed': 1"):
            trained.evaluate(task)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_of_a_stack_needs_no_gradients(self, mode: Callable[[], Any]) -> None:
        task = make_task(3)
        trained = train(task, Recipe.hard(), seeds=2, model=partial(stack, module), epochs=1, dtype=DTYPE)
        expected = trained.predict(task.x_test)
        fresh = Fleet(stack(module, [0, 1], DTYPE), trained.students)
        fresh.model.flat.data.copy_(trained.model.flat.data)
        with mode():
            assert torch.equal(fresh.predict(task.x_test), expected)
            assert fresh.evaluate(task)["nll"].notna().all()

    @pytest.mark.parametrize("piece", [planning.PIECE_BYTES, 1])
    @pytest.mark.parametrize("kind", ["mlp", "cnn", "stack"])
    def test_prediction_in_pieces_of_any_size_is_the_models(
        self, kind: str, piece: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(planning, "PIECE_BYTES", piece)
        makers: dict[str, Callable[[], FleetModel]] = {
            "mlp": lambda: MLP((16, 5, K), range(40), DTYPE),
            "cnn": lambda: CNN((1, 2, 3), K, range(40), DTYPE),
            "stack": lambda: stack(lambda: nn.Sequential(nn.Flatten(), module(16)), range(40), DTYPE),
        }
        model, x = makers[kind](), make_task(1, 4, 4).x_test
        own = Fleet(model, pd.DataFrame({"seed": range(40)}))
        torch.testing.assert_close(own.predict(x), model(x).detach(), rtol=0, atol=1e-12)
        assert own.predict(x[:0]).shape == (40, 0, K)


class TestEnsemble:
    def test_is_the_mean_of_the_students_probabilities(self) -> None:
        task = make_task(3)
        trained = train(task, make_recipes(task), seeds=8, hidden=(5,), epochs=2, dtype=DTYPE)  # 40: beyond one slice
        for temperature in (1.0, 3.0):
            expected = torch.softmax(trained.predict(task.x_test) / temperature, -1).mean(0)
            got = trained.mean_probs(task.x_test, temperature)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
        with pytest.raises(ValueError, match="temperature must be a positive finite number, got 0"):
            trained.mean_probs(task.x_test, 0)


def module(inputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, K))


class Named(FleetModel):
    """Somebody's own, by the name of one of ours."""

    def __init__(self, seeds: Any) -> None:
        super().__init__([(K, 3)], seeds)

    def apply(self, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ((w, b),) = self.layers(flat)
        return torch.baddbmm(b, w, x.flatten(2).mT).mT


Named.__name__ = "MLP"


class TestFile:
    makers: dict[str, Any] = {  # noqa: RUF012
        "mlp": lambda s: MLP((3, 5, K), s),
        "cnn": lambda s: CNN((1, 2, 3), K, s),
        "stack": partial(stack, module),
        "own": Named,
    }

    @pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
    @pytest.mark.parametrize("kind", makers)
    def test_brings_everything_back(self, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
        task = make_task(*(1, 4, 4) if kind == "cnn" else (3,)).split_validation(0.2)
        names = ["1", "2020-01-01", "null", "3.0"]  # which readers of tables like to turn into something else
        recipes = [Recipe.distil(name, make_logits_of(task), 1 / 3, 0.1 + 0.2) for name in names]
        recipes.append(Recipe("own", teacher=make_logits_of(task), loss=lambda z, v, y: (z - v).square().sum(-1)))
        settings: dict[str, Any] = {"seeds": [3, 2**40], "lr": [1e-17, 0.1 + 0.2], "epochs": 2, "curve": 1}
        trained = train(task, recipes, model=self.makers[kind], dtype=dtype, **settings)
        path = tmp_path / "new" / "fleet.safetensors"
        trained.save(path)
        loaded = Fleet.load(path, self.makers[kind] if kind in ("stack", "own") else None)
        assert type(loaded.model) is type(trained.model)
        assert torch.equal(loaded.model.flat, trained.model.flat)
        assert loaded.model.flat.dtype == dtype
        assert loaded.model.seeds == trained.model.seeds
        pd.testing.assert_frame_equal(loaded.students, trained.students, check_exact=True)
        assert trained.curve is not None
        pd.testing.assert_frame_equal(loaded.curve, trained.curve, check_exact=True)
        assert torch.equal(loaded.predict(task.x_test), trained.predict(task.x_test))
        assert os.listdir(path.parent) == ["fleet.safetensors"]

    def test_needs_the_model_where_it_is_not_known(self, tmp_path: Path) -> None:
        for make, kind in ((partial(stack, module), "Stack"), (Named, "MLP")):
            trained = train(make_task(3), Recipe.hard(), seeds=1, model=make, epochs=1)
            trained.save(tmp_path / "a")
            with pytest.raises(ValueError, match=rf"model must be given to load .*: a function from seeds to a {kind}"):
                Fleet.load(tmp_path / "a")
            with pytest.raises(ValueError, match=r"model must have parameters \(1, \d+\) as in .*, got \(1, 2\)"):
                Fleet.load(tmp_path / "a", partial(MLP, (1, 1)))

    def test_finds_the_home_directory_both_ways(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        trained = train(make_task(3), Recipe.hard(), seeds=1, epochs=1)
        trained.save("~/fleet")
        assert (tmp_path / "fleet").exists()
        assert torch.equal(Fleet.load("~/fleet").model.flat, trained.model.flat)

    @pytest.mark.parametrize(
        "damage", ["cut", "short", "empty", "text", "pickle", "foreign", "other frame", "fewer rows"]
    )
    def test_that_is_damaged_or_foreign_is_refused(self, damage: str, tmp_path: Path) -> None:
        path = tmp_path / "fleet"
        trained = train(make_task(3), Recipe.hard(), seeds=2, hidden=(5,), epochs=1)
        trained.save(path)
        whole = path.read_bytes()
        with safetensors.safe_open(path, "pt") as file:
            about, rows = file.metadata(), {"flat": file.get_tensor("flat")}
        if damage in ("cut", "short"):
            path.write_bytes(whole[: -9 if damage == "cut" else 50])
        elif damage == "pickle":
            torch.save(trained.model.flat.data, path)
        elif damage == "foreign":
            safetensors.torch.save_file(rows, path)
        elif damage == "other frame":
            safetensors.torch.save_file(rows, path, about | {"students": json.dumps([["seed", "int64", ["x", 1]]])})
        elif damage == "fewer rows":
            safetensors.torch.save_file({"flat": rows["flat"][:1]}, path, about)
        else:
            path.write_text("" if damage == "empty" else "x,y\n" * 100)
        with pytest.raises(ValueError, match=f"{path}"):
            Fleet.load(path)

    def test_with_a_single_wrong_bit_is_refused(self, tmp_path: Path) -> None:
        """The format has no checksum: other weights would be loaded without a word."""
        path = tmp_path / "fleet"
        train(make_task(3), Recipe.hard(), seeds=2, hidden=(5,), epochs=1).save(path)
        whole = path.read_bytes()
        for at in range(20, len(whole), len(whole) // 60):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(ValueError, match=f"{path}"):
                Fleet.load(path)

    def test_that_is_not_there_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Fleet.load(tmp_path / "none")

    def test_is_whole_or_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A write that fails halfway leaves the old file, and nothing else."""
        path = tmp_path / "fleet"
        old, new = (train(make_task(3), Recipe.hard(), seeds=n, epochs=1) for n in (1, 2))
        old.save(path)

        def full(self: Path, content: bytes) -> int:
            with open(self, "wb") as file:
                file.write(content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"cannot write .*fleet: No space left"):
            new.save(path)
        assert os.listdir(tmp_path) == ["fleet"]
        assert len(Fleet.load(path)) == 1

    def test_takes_no_frame_that_it_could_not_bring_back(self, tmp_path: Path) -> None:
        students = pd.DataFrame({"seed": [0], "since": [pd.Timestamp("2020-01-01")]})
        with pytest.raises(
            ValueError, match=r"students must hold numbers, strings and booleans to be saved: .*Timestamp"
        ):
            Fleet(MLP((3, K), [0]), students).save(tmp_path / "a")
        assert not os.listdir(tmp_path)


def make_logits_of(task: Any) -> torch.Tensor:
    return torch.randn(len(task.y_train), K, generator=torch.Generator().manual_seed(7), dtype=DTYPE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Fleet(MLP((3, K), [0, 1]), pd.DataFrame({"seed": [0]})),
            "students must have one row for each of the 2",
        ),
        (
            lambda: fleet.scores(torch.zeros(1, 5, 2), torch.zeros(5, 3)),
            r"logits must have shape \(any, 5, 3\), got \(1, 5, 2\)",
        ),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
