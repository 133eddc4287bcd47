"""What a fleet predicts and measures, and what is left of it in a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss

from kdlib import Recipe, fleet, train

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
