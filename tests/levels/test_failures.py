import math

import pandas as pd
import pytest
import torch

import kdlib
from kdlib.levels import failures
from kdlib.levels.domain import stationary_logits
from kdlib.levels.instance import gradient_rescaling
from kdlib.levels.universe import smooth_labels
from kdlib.losses import soften


def task(n=120, k=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (2 * n,), generator=g)
    x = 2 * torch.nn.functional.one_hot(y, k).float() + torch.randn(2 * n, k, generator=g)
    return kdlib.Task(x[:n], y[:n], x[n:], y[n:], k, groups=torch.tensor([0, 0, 1, 1]))


def test_smoothed_teachers_train_side_by_side_and_are_less_sure():
    t = task()
    recipes = [failures.smoothed_teacher(t, e) for e in (0.0, 0.3)]
    assert [r.name for r in recipes] == ["smoothing 0", "smoothing 0.3"]
    torch.testing.assert_close(recipes[1].targets, smooth_labels(t.y_train, 4, 0.3))
    plain, smooth, hard = (
        kdlib.train(t, r, seeds=1, hidden=(8,), epochs=20).predict(t.x_train)[0]
        for r in (*recipes, kdlib.Recipe.hard())
    )
    torch.testing.assert_close(plain, hard, atol=1e-5, rtol=1e-4)
    assert soften(smooth).amax(1).mean() < soften(plain).amax(1).mean()


def test_symptoms_of_a_planted_teacher():
    """Right examples get 0.9, wrong ones 0.5; the rest goes to the sibling class."""
    labels = torch.arange(40) % 4
    clean = torch.arange(40) % 8 < 4
    probs = torch.full((40, 4), 1e-3)
    p_t = torch.where(clean, 0.9, 0.5)
    probs[torch.arange(40), labels] = p_t
    probs[torch.arange(40), labels ^ 1] = 1 - p_t - 2e-3
    found = failures.symptoms(probs.log(), labels, 1.0, torch.tensor([0, 0, 1, 1]), clean)
    assert found["confidence"] == pytest.approx(0.7, abs=1e-6)
    assert found["spread"] == pytest.approx(0.2, abs=1e-6)
    assert found["clean"] == pytest.approx(1.0)
    assert found["contrast"] > 0.5
    assert found["energy of confidence"] == pytest.approx(4 / 3 * 0.2**2, rel=1e-5)
    assert found["energy of shape"] == pytest.approx(2 / 3 * 0.2**2, rel=1e-5)  # siblings against an even rest
    hot = failures.symptoms(probs.log(), labels, 10.0, torch.tensor([0, 0, 1, 1]), clean)
    assert hot["confidence"] < found["confidence"] and hot["spread"] < found["spread"]
    uniform = failures.symptoms(torch.zeros(40, 4), labels, 1.0, torch.tensor([0, 0, 1, 1]))
    assert math.isnan(uniform["contrast"]) and uniform["spread"] == pytest.approx(0, abs=1e-12)


def test_equally_sure_undoes_a_scale():
    """Logits twice as long are as sure at twice the temperature; the found one gives the confidence asked for."""
    g = torch.Generator().manual_seed(0)
    v, y = 3 * torch.randn(200, 5, generator=g), torch.randint(5, (200,), generator=g)
    v[torch.arange(200), y] += 4
    wanted = float(soften(v, 4).gather(1, y[:, None]).mean())
    assert failures.equally_sure(v, y, wanted) == pytest.approx(4, rel=1e-5)
    assert failures.equally_sure(2 * v, y, wanted) == pytest.approx(8, rel=1e-5)
    T = failures.equally_sure(v, y, 0.5)
    assert float(soften(v, T).gather(1, y[:, None]).mean()) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("scale", [0.0021, 0.02, 5.0, 19.0])
def test_equally_sure_looks_from_a_hundredth_to_a_hundred(scale):
    """Logits times s are as sure at s times the temperature; beyond either end there is an error and no answer."""
    g = torch.Generator().manual_seed(1)
    v, y = torch.randn(50, 4, generator=g), torch.randint(4, (50,), generator=g)
    v[torch.arange(50), y] += 2
    wanted = float(soften(v.double(), 5.0).gather(1, y[:, None]).mean())
    assert failures.equally_sure(scale * v, y, wanted) == pytest.approx(5 * scale, rel=1e-5)
    for end in (0.0099 / 5, 100.1 / 5):
        with pytest.raises(ValueError, match="confidence must lie between"):
            failures.equally_sure(end * v, y, wanted)


def test_softmax_of_probabilities_forgets_the_teacher():
    """The numbers of a known code's virtual teacher at T = 20, K = 100, and what tempering would have given."""
    table = failures.virtual_teacher(torch.tensor([7]), 100, confidence=0.99)
    wrong, right = failures.softmax_of_probabilities(table, 20.0)[0], soften(table.log(), 20.0)[0]
    torch.testing.assert_close(wrong[6:8], torch.tensor([0.00999, 0.01050]), atol=1e-5, rtol=0)
    torch.testing.assert_close(right[6:8], torch.tensor([0.00994, 0.0157]), atol=1e-4, rtol=0)


def test_virtual_teacher_is_label_smoothing():
    labels = torch.tensor([0, 2, 1])
    torch.testing.assert_close(failures.virtual_teacher(labels, 5, 0.9), smooth_labels(labels, 5, 0.1 * 5 / 4))


def small(n=120, k=4):
    t = task(n, k)
    return t.split_validation(0.5, 0)


def table_of(t, temperature=4.0):
    g = torch.Generator().manual_seed(5)
    v = 3 * torch.nn.functional.one_hot(t.y_train, 4).float() + torch.randn(len(t.y_train), 4, generator=g)
    return kdlib.Recipe.distil("KD", v, temperature, alpha=0.6)


@pytest.mark.parametrize("t_squared", [True, False])
def test_a_chart_reads_w_from_the_gradient(t_squared):
    """w is the ratio of two gradients at the true logit, by autograd in float64; the energies add up to the distance."""
    t = small()
    base = table_of(t)
    recipe = kdlib.Recipe("KD", base.targets, 4.0, 0.6, t_squared)
    z = torch.randn(len(t.y_train), 4, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    hard = torch.nn.functional.cross_entropy(z, t.y_train, reduction="sum")
    soft = torch.nn.functional.kl_div(torch.log_softmax(z / 4, 1), recipe.targets.double(), reduction="sum")
    (pull,) = torch.autograd.grad(0.4 * hard + 0.6 * (16 if t_squared else 1) * soft, z, retain_graph=True)
    (plain,) = torch.autograd.grad(hard, z)
    at = torch.arange(len(z)), t.y_train
    w = (pull[at] / plain[at]).quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    found = failures.chart(recipe, t.y_train, z.detach().float())
    assert found[["w low", "w", "w high"]].to_numpy() == pytest.approx(w.numpy(), rel=1e-3, abs=1e-4)
    distance = (recipe.targets - torch.nn.functional.one_hot(t.y_train, 4)).square().sum(1).mean()
    assert found[["universe", "domain", "confidence", "shape"]].sum() == pytest.approx(float(distance), rel=1e-5)


def test_an_examination_is_a_training_with_charts_beside_it():
    t = small()
    recipe = table_of(t)
    settings = {"hidden": (8,), "batch_size": 30}
    frame = failures.examine(t, [recipe], 3, (0.5, 1, 2), epochs=4, **settings)
    assert frame["length"].tolist() == [0.5, 0.5, 1, 1, 2, 2] and set(frame["recipe"]) == {"hard labels", "KD"}
    alone = kdlib.train(t, [kdlib.Recipe.hard(), recipe], seeds=[3], epochs=8, **settings)
    longest = frame[frame["length"] == 2]
    assert longest["accuracy"].to_numpy() == pytest.approx(alone.evaluate(t)["accuracy"].to_numpy())
    beginner = kdlib.train(t, kdlib.Recipe.hard(), seeds=[3], epochs=12, **settings).predict(t.x_train)[
        0
    ]  # 24 steps of 2
    torch.testing.assert_close(failures.novice(t, 3, epochs=4, **settings), beginner)
    charted = failures.chart(recipe, t.y_train, beginner)
    for name, value in charted.items():
        assert frame.loc[frame["recipe"] == "KD", name].to_numpy() == pytest.approx(value)
        assert frame.loc[frame["recipe"] == "hard labels", name].isna().all()
    end = failures.chart(recipe, t.y_train, alone.predict(t.x_train)[1])["w"]
    assert longest.loc[longest["recipe"] == "KD", "w end"].item() == pytest.approx(end, rel=1e-2)


def test_lengths_and_contrasts_of_a_planted_frame():
    """Validation chooses length 0.5 for hard labels and 2 for the other, and never sees the test column."""
    rows = [
        (recipe, seed, length, accuracy + 0.01 * seed, val)
        for recipe, found in {
            "hard labels": ((0.5, 0.80, 0.7), (1, 0.90, 0.6), (2, 0.70, 0.5)),
            "KD": ((0.5, 0.99, 0.1), (1, 0.85, 0.6), (2, 0.90, 0.8)),
        }.items()
        for length, accuracy, val in found
        for seed in range(3)
    ]
    frame = pd.DataFrame(rows, columns=["recipe", "seed", "length", "accuracy", "val_accuracy"])
    frame = failures.at_lengths(frame.assign(epochs=10 * frame["length"]))
    wanted = {"chosen": 10, "shortest": 19, "usual": -5, "longest": 20}
    for at, points in wanted.items():
        assert failures.gain(frame, "KD", at=at) == pytest.approx([points] * 3)
    table = failures.contrasts(frame, {"both": ("KD", "hard labels"), "back": ("hard labels", "KD")})
    assert table.loc["both", ["chosen", "usual", "longest"]].to_numpy() == pytest.approx([10, -5, 20])
    assert table.loc["back", "chosen"] == pytest.approx(-10) and list(table.columns)[1:3] == ["from (95 %)", "to"]


def test_where_each_example_rests_w_is_nothing():
    """The free minimum of an example's own loss; at the teacher's own row w is 1 - alpha, and on either side of it above and below."""
    g = torch.Generator().manual_seed(2)
    v, y = 3 * torch.randn(50, 5, generator=g).double(), torch.randint(5, (50,), generator=g)
    rest = stationary_logits(v, y, 16.0, 0.5)
    doubt = 1 - soften(rest).gather(1, y[:, None]).squeeze()
    assert (gradient_rescaling(rest, v, y, 16.0, 0.5) * doubt).abs().max() < 1e-10
    assert gradient_rescaling(v, v, y, 16.0, 0.5).numpy() == pytest.approx(0.5)
    true = torch.nn.functional.one_hot(y, 5)
    assert (gradient_rescaling(v - true, v, y, 16.0, 0.5) > 0.5).all()
    assert (gradient_rescaling(v + true, v, y, 16.0, 0.5) < 0.5).all()


T = task()
BAD = {
    "epsilon 2": (lambda: failures.smoothed_teacher(T, 2.0), "epsilon"),
    "temperature 0": (lambda: failures.symptoms(torch.zeros(3, 4), T.y_train[:3], 0.0), "temperature"),
    "too few labels": (lambda: failures.symptoms(torch.zeros(3, 4), T.y_train[:2]), "labels"),
    "clean of another length": (lambda: failures.symptoms(T.x_train, T.y_train, clean=T.y_train[:2] > 0), "clean"),
    "nobody is that sure": (lambda: failures.equally_sure(T.x_train, T.y_train, 1.0), "confidence"),
    "labels of others": (lambda: failures.equally_sure(T.x_train, T.y_train[:2], 0.5), "labels"),
    "a confidence for each": (lambda: failures.virtual_teacher(T.y_train, 4, torch.ones(4)), "confidence"),
    "confidence 1.2": (lambda: failures.virtual_teacher(T.y_train, 4, 1.2), "confidence"),
    "one class": (lambda: failures.virtual_teacher(T.y_train * 0, 1), "num_classes"),
    "no table": (lambda: failures.chart(kdlib.Recipe.hard(), T.y_train, T.x_train), "recipe"),
    "no validation": (lambda: failures.examine(T, [], 0, (1,), epochs=2), "task"),
    "logits for a table": (lambda: failures.softmax_of_probabilities(T.x_train, 2.0), "probs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, name = BAD[case]
    with pytest.raises(ValueError, match=name):
        call()
