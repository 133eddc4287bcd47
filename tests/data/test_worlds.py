"""The synthetic worlds do what their descriptions say."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from kdlib._seeds import stream
from kdlib.data import STUDENT, TEACHER, Task, world
from kdlib.fleet import training
from kdlib.models import MLP

WORLDS = ("H", "S", "F")
GROUPS = torch.arange(20) // 5


def tensors(task: Task) -> Mapping[str, Tensor]:
    parts = {name: getattr(task, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    return parts | dict(task.extra)


def class_means(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x[y == k].mean(0) for k in range(20)])


@pytest.mark.parametrize(
    ("name", "train", "test", "d"), [("H", 1000, 5000, 30), ("S", 2000, 10_000, 50), ("F", 200, 5000, 30)]
)
def test_sizes(name: str, train: int, test: int, d: int) -> None:
    task = world(name)
    assert task.x_train.shape == (train, d)
    assert task.x_test.shape == (test, d)
    assert (task.x_train.dtype, task.num_classes, task.name) == (torch.float32, 20, f"world {name}")
    assert task.groups is not None
    assert torch.equal(task.groups, GROUPS)
    assert len(task.for_teacher.x_train) == (2000 if name == "S" else 8000)
    small = world(name, n_train=40, n_test=30)
    assert (len(small.y_train), len(small.y_test)) == (40, 30)


@pytest.mark.parametrize("name", WORLDS)
def test_a_seed_fixes_everything(name: str) -> None:
    first, again, other = tensors(world(name, 3)), tensors(world(name, 3)), tensors(world(name, 4))
    for key, value in first.items():
        assert torch.equal(value, again[key]), key
        assert not torch.equal(value, other[key]), key


@pytest.mark.parametrize("name", WORLDS)
def test_the_size_of_the_test_set_leaves_the_training_set_alone(name: str) -> None:
    first, second = tensors(world(name, n_test=10)), tensors(world(name, n_test=200))
    for key in set(first) - {"x_test", "y_test"}:
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("name", WORLDS)
def test_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    world(name, n_train=20, n_test=20)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["H", "F"])
def test_students_do_not_start_from_the_numbers_that_placed_the_classes(name: str) -> None:
    """World and student of the same seed are independent: no hidden unit points at a superclass."""
    task = world(name, 0)
    superclasses = class_means(task.x_test, task.y_test).view(4, 5, 30).mean(1)
    units = MLP((30, 128, 20), [0]).weights[0][0].T
    cosines = torch.nn.functional.normalize(units, dim=1) @ torch.nn.functional.normalize(superclasses, dim=1).T
    # independent directions in 30 dimensions: all 512 cosines stay below 0.75 in 999 of 1000 draws
    t = 0.75 * math.sqrt(28 / (1 - 0.75**2))
    assert 512 * 2 * stats.t.sf(t, 28) < 1e-3
    assert cosines.abs().max() < 0.75


@pytest.mark.parametrize(("name", "spread"), [("H", 1.6), ("F", 1.0)])
def test_examples_lie_around_centres_that_lie_around_superclasses(name: str, spread: float) -> None:
    """Within a class sd 0.35 in every direction; centres at distance spread within, farther between superclasses."""
    task = world(name, seed=1, n_test=20_000)
    means = class_means(task.x_test, task.y_test)
    rest = task.x_test - means[task.y_test]
    assert rest.std().item() == pytest.approx(0.35, rel=0.01)
    inside = means.view(4, 5, 30)
    within = (inside - inside.mean(1, keepdim=True)).square().sum() / (20 - 4)  # E = spread^2
    assert within.item() == pytest.approx(spread**2, rel=4 * math.sqrt(2 / (30 * 16)))
    distance, same = torch.cdist(means, means), GROUPS.unsqueeze(1) == GROUPS
    assert distance[~same].mean() > 1.3 * distance[same & ~torch.eye(20, dtype=torch.bool)].mean()


class TestNoise:
    """World H: who is mislabelled, how often, and as what. True classes are found again from the test set's means."""

    task = world("H", seed=2, n_train=40_000, n_test=100_000)
    centres = class_means(task.x_test, task.y_test)
    truth = torch.cdist(task.x_train, centres).argmin(1)
    clean = task.extra["clean"]
    wrong = task.y_train[~clean], truth[~clean]

    def test_one_side_of_a_class_is_noisy_and_the_other_is_not(self) -> None:
        offset = self.task.x_train[:, 0] - self.centres[self.truth, 0]
        noisy, quiet = ~self.clean[offset > 0.02], ~self.clean[offset < -0.02]
        assert noisy.double().mean().item() == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / len(noisy)) + 3e-3)
        assert quiet.double().mean().item() < 3e-3  # no noise; a few neighbours are mistaken for each other

    def test_clean_says_which_labels_are_right(self) -> None:
        assert (self.task.y_train[self.clean] == self.truth[self.clean]).double().mean() > 0.995
        assert (self.wrong[0] == self.wrong[1]).double().mean() < 5e-3

    def test_four_fifths_of_the_noise_stay_inside_the_superclass(self) -> None:
        label, truth = self.wrong
        inside = GROUPS[label] == GROUPS[truth]
        assert inside.double().mean().item() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / len(label)) + 2e-3)

    def test_noise_is_uniform_inside_and_outside(self) -> None:
        label, truth = self.wrong
        inside = (GROUPS[label] == GROUPS[truth]) & (label != truth)
        steps = torch.bincount((label - truth)[inside] % 5, minlength=5)[1:]
        assert stats.chisquare(steps).pvalue > 1e-4
        steps = torch.bincount(
            ((label // 5 - truth // 5) % 4 * 5 + label % 5)[GROUPS[label] != GROUPS[truth]], minlength=20
        )
        assert steps[:5].sum() == 0
        assert stats.chisquare(steps[5:]).pvalue > 1e-4

    def test_the_posterior_is_the_share_of_each_label(self) -> None:
        """Labels with a probability near p are right as often as p says, on the label, its siblings and strangers."""
        p = self.task.extra["posterior"]
        assert p.shape == (40_000, 20)
        torch.testing.assert_close(p.sum(1), torch.ones(40_000))
        drawn = torch.eye(20)[self.task.y_train]
        for low, high in ((0, 0.005), (0.005, 0.01), (0.01, 0.06), (0.06, 0.2), (0.2, 0.5), (0.5, 0.9), (0.9, 1.01)):
            at = (p >= low) & (p < high)
            error = 4 * (p[at] * (1 - p[at])).sum().sqrt() / at.sum()
            assert (drawn[at].mean() - p[at].mean()).abs() < error + 1e-5, (low, high)

    def test_the_posterior_follows_its_examples(self) -> None:
        rows = torch.tensor([5, 3])
        few = self.task.subset(rows)
        assert torch.equal(few.extra["posterior"], self.task.extra["posterior"][rows])

    def test_test_labels_are_clean_and_the_teachers_are_not(self) -> None:
        found = torch.cdist(self.task.x_test, self.centres).argmin(1)
        assert (found == self.task.y_test).double().mean() > 0.995
        found = torch.cdist(self.task.extra["x_teacher"], self.centres).argmin(1)
        assert (found != self.task.extra["y_teacher"]).double().mean().item() == pytest.approx(0.3, abs=0.025)


def test_sine_labels_are_an_independent_computation_in_float64() -> None:
    task = world("S", seed=5)
    generator = stream(5, "world")
    q = np.linalg.qr(torch.randn(50, 4, generator=generator).double().numpy()).Q
    noise = torch.randn(20, 50, generator=generator).double().numpy()
    u = np.repeat(q.T, 5, axis=0) + 0.35 * 3 / math.sqrt(50) * noise
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    a = 1 + 2 * torch.rand(4, generator=generator).double().numpy()
    b = 2 * np.pi * torch.rand(4, generator=generator).double().numpy()
    for x, y in ((task.x_train, task.y_train), (task.x_test, task.y_test)):
        s = x.double().numpy() @ u.T
        score = s + sum(np.sin(a[j] * s + b[j]) for j in range(4)) / 4
        top = np.sort(score, axis=1)
        tied = top[:, -1] - top[:, -2] < 1e-4  # float32 may decide those the other way
        assert tied.mean() < 1e-2
        np.testing.assert_array_equal(score.argmax(1)[~tied], y.numpy()[~tied])
    assert 1 <= a.min() <= a.max() <= 3


def test_sine_world_has_no_data_for_the_teacher_alone() -> None:
    assert (task := world("S")).for_teacher is task


def test_few_examples_are_clean_and_ten_a_class_on_average() -> None:
    task = world("F")
    assert len(task.y_train) == 200 and (torch.bincount(task.y_train, minlength=20) > 0).all()
    found = torch.cdist(task.x_train, class_means(task.x_test, task.y_test)).argmin(1)
    assert (found == task.y_train).double().mean() > 0.9  # no noise


def test_settings_of_the_worlds_are_settings_of_training() -> None:
    known = set(inspect.signature(training).parameters)
    for name in WORLDS:
        assert {*STUDENT[name], *TEACHER[name]} <= known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("G",), "name must be one of H, S, F, got 'G'"),
        (("h",), "name must be one of H, S, F, got 'h'"),
        (("H", -1), "seed must be an integer of at least 0, got -1"),
        (("S", 0.5), "seed must be an integer of at least 0, got 0.5"),
        (("F", 0, 0), "n_train must be an integer of at least 1, got 0"),
        (("F", 0, 10, -5), "n_test must be an integer of at least 1, got -5"),
        (("F", 0, 2.5), "n_train must be an integer of at least 1, got 2.5"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world(*arguments)  # type: ignore[arg-type]
