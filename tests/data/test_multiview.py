"""Multi-view data: orthonormal features, strengths in their ranges, noise outside the features, on random settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from kdlib import Task, data
from kdlib.data import multiview

SETS = (("x_train", "y_train", ""), ("x_test", "y_test", "_test"))


@st.composite
def setups(draw: st.DrawFn) -> dict[str, Any]:
    classes, views = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    foreign = (classes - 1) * views
    patches = draw(st.integers(views, views + foreign + 2))
    return {
        "classes": classes,
        "views": views,
        "patches": patches,
        "others": draw(st.one_of(st.none(), st.integers(0, min(foreign, patches - views)))),
        "others_train": draw(st.one_of(st.none(), st.integers(0, min(foreign, patches - views)))),
        "dimension": classes * views + draw(st.integers(0, 20)),
        "single_train": draw(st.floats(0, 1)),
        "single_test": draw(st.floats(0, 1)),
        "rotated": draw(st.booleans()),
        "noise": draw(st.floats(0, 2)),
        "n_train": draw(st.integers(1, 40)),
        "n_test": draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 1000)),
    }


def seen(task: Task, x: Tensor) -> Tensor:
    """Each patch along each feature, (N, patches, K, views)."""
    return torch.einsum("npd,kvd->npkv", x, task.extra["features"])


@settings(max_examples=60, deadline=None)
@given(setups())
def test_an_image_is_what_its_description_says(setup: dict[str, Any]) -> None:
    task = multiview(**setup)
    k, views, d = setup["classes"], setup["views"], setup["dimension"]
    features = task.extra["features"].flatten(0, 1)
    assert torch.allclose(features @ features.T, torch.eye(k * views), atol=1e-5)
    others = setup["others"]
    others = min(setup["patches"] - views, (k - 1) * views) if others is None else others
    for x_name, y_name, ending in SETS:
        x, y = getattr(task, x_name), getattr(task, y_name)
        n = len(y)
        shown = others if ending or setup["others_train"] is None else setup["others_train"]
        single, view, strengths = (task.extra[name + ending] for name in ("single", "view", "strengths"))
        assert x.shape == (n, setup["patches"], d) and strengths.shape == (n, k, views)
        assert int(single.sum()) == round(setup["single_test" if ending else "single_train"] * n)
        assert torch.equal(view >= 0, single) and int(view.max()) < views
        along = seen(task, x)
        assert torch.allclose(along.sum(1), strengths, atol=1e-5)  # noise adds nothing along a feature
        assert int((along > 1e-3).flatten(2).sum(2).max()) <= 1  # a patch shows one feature at most
        assert ((along > 1e-3).sum(1) <= 1).all()  # and a feature has one patch
        rows = torch.arange(n)
        own = strengths[rows, y]  # (n, views)
        visible = ~single[:, None] | (torch.arange(views) == view[:, None])
        for mask, low, high in ((visible, 1.0, 1.5), (~visible, 0.13, 0.17)):
            assert ((own[mask] >= low) & (own[mask] <= high)).all()
        rest = strengths.clone()
        rest[rows, y] = 0
        assert ((rest > 0).flatten(1).sum(1) == shown).all()
        for mask, low, high in ((~single, 0.3, 0.5), (single, 0.2, 0.3)):
            there = rest[mask][rest[mask] > 0]
            assert ((there >= low) & (there <= high)).all()


@pytest.mark.parametrize("rotated", [False, True])
def test_noise_has_the_length_asked_for_and_is_orthogonal_to_the_features(rotated: bool) -> None:
    task = multiview(0, noise=0.6, dimension=200, n_test=300, rotated=rotated)
    features = task.extra["features"].flatten(0, 1)
    along = task.x_test @ features.T
    noise = task.x_test - along @ features
    assert noise.square().sum(-1).mean().sqrt() == pytest.approx(0.6, abs=0.01)
    assert (noise @ features.T).abs().max() < 1e-5
    length = noise.square().sum(-1).flatten() / (0.36 / 190)  # a sum of 190 squares of a normal number
    assert stats.kstest(length.numpy(), "chi2", (190,)).pvalue > 1e-3


def test_noise_inside_the_features_is_asked_for_by_its_own_name() -> None:
    quiet, loud = (multiview(3, noise_inside=s, n_train=500, n_test=1) for s in (0.0, 0.2))
    added = seen(loud, loud.x_train) - seen(quiet, quiet.x_train)
    assert torch.equal(quiet.y_train, loud.y_train)
    assert stats.kstest(added.flatten().numpy()[::7] / 0.2, "norm").pvalue > 1e-3
    outside = loud.x_train - quiet.x_train
    assert outside[..., 10:].abs().max() == 0


def test_a_seed_fixes_everything_and_draws_labels_views_and_others_evenly() -> None:
    first, again, other = (multiview(s, n_test=6000) for s in (5, 5, 6))
    assert torch.equal(first.x_train, again.x_train) and torch.equal(first.x_test, again.x_test)
    assert not torch.equal(first.x_train, other.x_train)
    assert stats.chisquare(first.y_test.bincount(minlength=5)).pvalue > 1e-4
    view = first.extra["view_test"]
    assert stats.chisquare(view[view >= 0].bincount(minlength=2)).pvalue > 1e-4
    strengths = first.extra["strengths_test"]
    shown = (strengths[first.y_test == 0] > 0).float().mean(0)  # classes 1 to 4: four of their eight features
    assert shown[1:].flatten() == pytest.approx([0.5] * 8, abs=0.06)


def test_another_test_set_leaves_the_training_set_alone() -> None:
    few, many = multiview(1, n_test=5), multiview(1, n_test=50, single_test=1.0)
    assert torch.equal(few.x_train, many.x_train) and torch.equal(few.y_train, many.y_train)


def test_extras_follow_the_examples() -> None:
    task = multiview(0, single_train=0.25)
    some = task.subset(task.extra["single"])
    assert len(some.y_train) == 30 and (some.extra["view"] >= 0).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dimension": 9}, "dimension must be at least classes x views = 10, got 9"),
        ({"patches": 1}, "patches must be at least views = 2"),
        ({"others": 5}, "others must be at most 4"),
        ({"patches": 20, "others": 9}, "others must be at most 8"),
        ({"others_train": 5}, "others_train must be at most 4"),
        ({"others": -1}, "others must be an integer of at least 0"),
        ({"classes": 1}, "classes must be at least 2, got 1"),
        ({"views": 0}, "views must be an integer of at least 1"),
        ({"own": (1.5, 1.0)}, "own must be two finite numbers from low to high"),
        ({"hidden": (-0.1, 0.1)}, "hidden must be two finite numbers"),
        ({"other": (0.1, float("nan"))}, "other must be two finite numbers"),
        ({"single_train": 1.5}, "single_train must be a number in"),
        ({"noise": -1.0}, "noise must be a finite number of at least 0"),
        ({"noise_inside": float("inf")}, "noise_inside must be a finite number"),
        ({"n_train": 0}, "n_train must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ],
)
def test_impossible_settings_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiview(**setting)


def test_the_name_is_the_function_also_after_the_module_was_imported() -> None:
    import kdlib.data.multiview

    assert callable(data.multiview) and kdlib.data.multiview is multiview
