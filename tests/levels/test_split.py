import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from kdlib.levels import split
from kdlib.levels.domain import class_mean_targets
from kdlib.levels.instance import confidence_targets
from kdlib.levels.universe import matched_smoothing
from kdlib.losses import soften, without_true_class

PARTS = split.PARTS


def table(n=90, k=6, seed=0, spread=2.0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=g)
    logits = spread * torch.randn(n, k, generator=g, dtype=torch.float64)
    logits += 2 * torch.nn.functional.one_hot(labels, k)
    return soften(logits), labels


def one_hot(probs, labels):
    return torch.nn.functional.one_hot(labels, probs.shape[1]).double()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.1, 2.0, 10.0])
def test_four_orthogonal_parts_that_sum_to_the_teacher(seed, spread):
    probs, labels = table(seed=seed, spread=spread)
    parts = split.split_teacher(probs, labels)
    total = one_hot(probs, labels) + sum(getattr(parts, name) for name in PARTS)
    torch.testing.assert_close(total, probs, atol=1e-10, rtol=0)
    for a, b in itertools.combinations(PARTS, 2):
        assert abs((getattr(parts, a) * getattr(parts, b)).sum(1).mean()) < 1e-10, (a, b)
    for name in PARTS:
        assert getattr(parts, name).sum(1).abs().max() < 1e-10
    whole = (probs - one_hot(probs, labels)).square().sum(1).mean()
    assert parts.energies.sum() == pytest.approx(float(whole), abs=1e-10)


def test_energies_are_added_up_in_float64():
    """Of a float32 table: the squares of its entries, and not their sum, are rounded."""
    probs, labels = table(n=2000)
    parts = split.split_teacher(probs.float(), labels)
    for name in PARTS:
        exact = float(np.square(getattr(parts, name).numpy().astype(np.float64)).sum(1).mean())
        assert parts.energies[name] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("off", "taken"), [(0.8e-4, True), (-0.8e-4, True), (1.3e-4, False), (-1.3e-4, False)])
def test_rows_may_miss_1_by_a_ten_thousandth(off, taken):
    probs, labels = table()
    probs[3, 0] += off
    if taken:
        split.split_teacher(probs, labels)
    else:
        with pytest.raises(ValueError, match=r"probs must have rows that sum to 1, got a row that is off by 0\.00013"):
            split.split_teacher(probs, labels)


def test_each_part_is_what_it_claims():
    probs, labels = table()
    k = probs.shape[1]
    parts, even, mean = (
        split.split_teacher(probs, labels),
        matched_smoothing(probs, labels),
        class_mean_targets(probs, labels),
    )
    torch.testing.assert_close(parts.universe + one_hot(probs, labels), even, atol=1e-12, rtol=0)
    torch.testing.assert_close(parts.domain, mean - even, atol=1e-12, rtol=0)
    p_t = probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    variance = pd.Series(p_t.numpy()).groupby(labels.numpy()).transform("var", ddof=0).mean()
    assert parts.energies["confidence"] == pytest.approx(k / (k - 1) * variance, abs=1e-10)
    assert parts.shape.gather(1, labels.unsqueeze(1)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("make", "silent"),
    [
        (lambda p, y: one_hot(p, y), PARTS),
        (matched_smoothing, ("domain", "confidence", "shape")),
        (class_mean_targets, ("confidence", "shape")),
    ],
)
def test_synthetic_teachers_lack_the_later_parts(make, silent):
    probs, labels = table()
    energies = split.split_teacher(make(probs, labels), labels).energies
    for name in PARTS:
        assert (energies[name] < 1e-20) == (name in silent)


def test_ladder_and_lattice_tables():
    probs, labels = table()
    tables = split.lattice(probs, labels)
    assert list(split.ladder(probs, labels)) == list(tables)[:6]
    for name, expected in {
        "universe": matched_smoothing(probs, labels),
        "domain": class_mean_targets(probs, labels),
        "confidence": confidence_targets(probs, labels),
        "teacher": probs,
    }.items():
        torch.testing.assert_close(tables[name], expected, atol=1e-12, rtol=0)
    own, mean, overall = (t.gather(1, labels.unsqueeze(1)) for t in (probs, tables["domain"], tables["universe"]))
    shape = {"own": without_true_class(probs, labels), "mean": without_true_class(tables["domain"], labels)}
    for name, confidence, source in [
        ("domain + confidence", own, "mean"),
        ("domain + shape", mean, "own"),
        ("shape", overall, "own"),
    ]:
        assert tables[name].min() >= 0
        torch.testing.assert_close(tables[name].sum(1), torch.ones(len(labels)).double())
        torch.testing.assert_close(tables[name].gather(1, labels.unsqueeze(1)), confidence)
        proportions = shape[source] / shape[source].sum(1, keepdim=True)
        torch.testing.assert_close(without_true_class(tables[name], labels), proportions * (1 - confidence))


def test_lattice_of_a_teacher_that_is_sure_to_the_last_digit():
    labels = torch.arange(6) % 3
    probs = torch.nn.functional.one_hot(labels, 3).float()
    probs[:2] = torch.tensor([0.5, 0.3, 0.2])
    for name, rows in split.lattice(probs, labels).items():
        assert rows.isfinite().all(), name
        torch.testing.assert_close(rows.sum(1), torch.ones(6))
    torch.testing.assert_close(
        split.lattice(probs, labels)["shape"][2], torch.tensor([1, 1, 8.6]) / 10.6, atol=0.1, rtol=0
    )


def lattice_frame(worth, seeds=2):
    rows = [{"recipe": name, "seed": s, "accuracy": value + s} for name, value in worth.items() for s in range(seeds)]
    return pd.DataFrame(rows)


WORTH = {
    "hard labels": 1.0, "universe": 3.0, "domain": 4.0, "confidence": 7.0, "shape": 3.5,
    "domain + confidence": 7.5, "domain + shape": 6.0, "teacher": 10.0,
}  # fmt: skip


def test_shapley_equals_the_mean_over_all_orders():
    frame = split.shapley(lattice_frame(WORTH))
    assert set(frame.columns) == {"seed", "level", "gain", "alone", "last"}
    players = ("domain", "confidence", "shape")

    def worth(members):
        if {"confidence", "shape"} <= members:
            return WORTH["teacher"]
        return WORTH[" + ".join(p for p in players if p in members) or "universe"]

    expected = dict.fromkeys(players, 0.0)
    for order in itertools.permutations(players):
        for i, player in enumerate(order):
            expected[player] += (worth({*order[: i + 1]}) - worth({*order[:i]})) / math.factorial(3)
    gains = frame[frame["seed"] == 1].set_index("level")["gain"]
    for player in players:
        assert gains[player] == pytest.approx(expected[player], abs=1e-12)
    assert gains["universe"] == pytest.approx(2.0)
    assert gains.sum() == pytest.approx(WORTH["teacher"] - WORTH["hard labels"], abs=1e-12)
    domain = frame[frame["level"] == "domain"].iloc[0]
    assert (domain["alone"], domain["last"]) == (1.0, 0.0)


def lengths_frame(seeds=(0, 1, 2), shift=0.0):
    """Accuracies in hundredths that are easy to add: hard 60, universe 62, teacher 70 for seed 0, one more for each seed."""
    worth = {"hard labels": 60.0, "universe": 62.0, "teacher": 70.0}
    return pd.DataFrame(
        [{"recipe": r, "seed": s, "accuracy": a + s + (shift if r == "hard labels" else shift / 4)}
         for r, a in worth.items() for s in seeds]
    )  # fmt: skip


def test_a_gain_is_resistance_smoothing_and_knowledge():
    """Hard labels lose 8 by training on and the teacher's student 2: 6 of its 16 points are resistance."""
    made = split.stopping(lengths_frame(), lengths_frame(shift=-8.0).sample(frac=1, random_state=0))
    assert made["seed"].tolist() == [0, 1, 2]
    for name, expected in {"resists": 6.0, "smooths": 2.0, "knows": 8.0, "gain": 16.0}.items():
        np.testing.assert_allclose(made[name], expected)
    generator = np.random.default_rng(0)
    noisy = [f.assign(accuracy=generator.normal(size=len(f))) for f in (lengths_frame(), lengths_frame())]
    made = split.stopping(*noisy)
    np.testing.assert_allclose(made[["resists", "smooths", "knows"]].sum(axis=1), made["gain"], atol=1e-12)
    at = noisy[1].set_index(["recipe", "seed"])["accuracy"]
    np.testing.assert_allclose(made["gain"], [at["teacher", s] - at["hard labels", s] for s in range(3)])


@pytest.mark.parametrize("seed", range(3))
def test_exchanged_shapes_come_from_another_example_of_the_class(seed):
    probs, labels = table(n=80, seed=seed)
    made = split.exchanged_targets(probs, labels, seed=seed)
    at_label = (t.gather(1, labels.unsqueeze(1)) for t in (made, probs))
    torch.testing.assert_close(*at_label)
    torch.testing.assert_close(made.sum(1), torch.ones(80, dtype=torch.float64))
    before, after = (
        without_true_class(t, labels) / without_true_class(t, labels).sum(1, keepdim=True) for t in (probs, made)
    )
    distance, donors = torch.cdist(after, before).min(1)
    assert distance.max() < 1e-6
    assert torch.equal(labels[donors], labels) and (donors != torch.arange(80)).all()
    assert donors.unique().numel() == 80  # each proportion of a class is still there, once
    assert not torch.equal(made, split.exchanged_targets(probs, labels, seed=seed + 1))
    alone = torch.arange(6)
    torch.testing.assert_close(split.exchanged_targets(probs[:6], alone), probs[:6])


def test_what_a_loss_hears_is_how_far_its_slope_moves():
    """The slope of plain distillation in z is T (q - p): a step moves it by T times the difference of the tables."""
    probs, labels = table(n=60)
    v, z, T = probs.log(), torch.randn(60, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 4.0
    losses = {
        "KD": lambda z, v, y: T**2 * torch.nn.functional.kl_div(
            (z / T).log_softmax(-1), (v / T).log_softmax(-1), log_target=True, reduction="none").sum(-1),
        "true class": lambda z, v, y: (z - v).gather(1, y.unsqueeze(1)).squeeze(1).square(),
    }  # fmt: skip
    made = split.heard(losses, z, v, labels, T).set_index(["loss", "part"])["share"]
    warm = soften(v, T)
    tables = [0.99 * one_hot(probs, labels) + 0.01 / 6, *(
        split.ladder(warm, labels)[name] for name in ("universe", "domain", "domain + confidence", "teacher"))]  # fmt: skip
    steps = np.array([float((b - a).square().sum(1).mean().sqrt()) for a, b in itertools.pairwise(tables)])
    np.testing.assert_allclose(made["KD"], 100 * steps / steps.sum(), rtol=1e-6)
    assert made["true class"].sum() == pytest.approx(100) and made["true class", "shape"] < 1e-10


def test_topk_keeps_the_largest_and_spreads_the_rest():
    probs, _ = table(k=6)
    top = split.topk_targets(probs, 2)
    values, index = probs.sort(1, descending=True)
    torch.testing.assert_close(top.gather(1, index[:, :2]), values[:, :2], atol=0, rtol=0)
    rest = values[:, 2:].mean(1, keepdim=True).expand(-1, 4)
    torch.testing.assert_close(top.gather(1, index[:, 2:]), rest)
    assert torch.equal(split.topk_targets(probs, 6), probs)
    tied = torch.tensor([[0.2, 0.4, 0.2, 0.2, 0.0]]).repeat(40, 1)
    expected = torch.tensor([[0.2, 0.4, 0.4 / 3, 0.4 / 3, 0.4 / 3]]).repeat(40, 1)
    torch.testing.assert_close(split.topk_targets(tied, 2), expected)


def test_permuted_keeps_confidence_and_values_and_breaks_relations():
    probs, labels = table(n=300)
    permuted = split.permuted_targets(probs, labels, seed=3)
    torch.testing.assert_close(permuted.sort(1).values, probs.sort(1).values, atol=0, rtol=0)
    at_label = (t.gather(1, labels.unsqueeze(1)) for t in (permuted, probs))
    assert torch.equal(*at_label)
    assert not torch.equal(permuted, probs)
    assert torch.equal(permuted, split.permuted_targets(probs, labels, seed=3))
    assert not torch.equal(permuted, split.permuted_targets(probs, labels, seed=4))
    # every row is shuffled anew: rows that were equal are not
    same = probs[:1].repeat(300, 1)
    orders = without_true_class(split.permuted_targets(same, labels * 0), labels * 0)
    counts = orders.unique(dim=0, return_counts=True)[1]
    assert len(counts) > 90 and counts.max() < 15  # of 120 orders
    # every wrong class is as likely to receive the largest wrong probability as any other
    where = without_true_class(permuted, labels).argmax(1)
    assert np.abs(np.bincount(where, minlength=5) - 60).max() < 35


PROBS, LABELS = table()
BAD = {
    "logits for a table": (lambda: split.split_teacher(PROBS.log(), LABELS), "probs"),
    "too few labels": (lambda: split.ladder(PROBS, LABELS[:4]), "labels"),
    "one class": (lambda: split.lattice(torch.ones(3, 1), LABELS[:3] * 0), "probs"),
    "k = 0": (lambda: split.topk_targets(PROBS, 0), "k"),
    "k > K": (lambda: split.topk_targets(PROBS, 7), "k"),
    "label out of range": (lambda: split.permuted_targets(PROBS, LABELS + 5), "labels"),
    "negative seed": (lambda: split.permuted_targets(PROBS, LABELS, seed=-1), "seed"),
    "no such column": (lambda: split.shapley(lattice_frame(WORTH), "nll"), "frame"),
    "a recipe missing": (lambda: split.shapley(lattice_frame({"teacher": 1.0})), "universe"),
    "seeds that differ": (lambda: split.stopping(lengths_frame(), lengths_frame((1, 2, 3))), "longer"),
    "no universe": (lambda: split.stopping(*[lengths_frame().query("recipe != 'universe'")] * 2), "universe"),
    "no distributions": (lambda: split.exchanged_targets(PROBS * 2, LABELS), "probs"),
    "label below range": (lambda: split.exchanged_targets(PROBS, LABELS - 9), "labels"),
    "a student of other classes": (lambda: split.heard({}, PROBS[:, :5], PROBS, LABELS, 4.0), "student_logits"),
    "two temperatures": (lambda: split.shapley(pd.concat([lattice_frame(WORTH)] * 2)), "frame"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, name = BAD[case]
    with pytest.raises(ValueError, match=name):
        call()
