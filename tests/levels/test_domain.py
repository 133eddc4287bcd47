import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from kdlib.levels import domain
from kdlib.losses import kd_loss, soften, without_true_class

K = 20
GROUPS = torch.arange(K) // 5
SAME = (GROUPS.unsqueeze(0) == GROUPS.unsqueeze(1)).double()
EYE = torch.eye(K, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(n=60, k=5, seed=0):
    return soften(2 * normal(n, k, seed=seed)), torch.arange(n) % k


def test_class_mean_is_a_pandas_group_mean():
    probs, labels = table()
    expected = pd.DataFrame(probs.numpy()).groupby(labels.numpy()).transform("mean")
    np.testing.assert_allclose(domain.class_mean_targets(probs, labels), expected, atol=1e-15)


def test_class_mean_of_a_class_mean_is_itself_and_absent_classes_do_no_harm():
    probs, labels = table()
    labels = labels.clamp(max=2)
    once = domain.class_mean_targets(probs, labels)
    torch.testing.assert_close(domain.class_mean_targets(once, labels), once, atol=1e-14, rtol=0)


def test_similarity_targets_are_a_softmax_of_cosines():
    weights, labels = normal(4, 7), torch.tensor([2, 0, 2])
    targets = domain.similarity_targets(weights, labels, temperature=0.25)
    for row, y in zip(targets, labels, strict=True):
        cosines = torch.stack([torch.cosine_similarity(weights[y], weights[k], dim=0) for k in range(4)])
        torch.testing.assert_close(row, torch.softmax(cosines / 0.25, 0), atol=1e-12, rtol=0)
    torch.testing.assert_close(targets, domain.similarity_targets(weights * 3, labels, 0.25))
    assert (targets.argmax(1) == labels).all()


def test_class_correlation_equals_numpy():
    probs, _ = table()
    np.testing.assert_allclose(domain.class_correlation(probs), np.corrcoef(probs.numpy().T), atol=1e-12)


def test_correlation_tends_to_that_of_centred_logits_at_high_temperature():
    logits = normal(400, K) + normal(400, 4, seed=1)[:, GROUPS]
    logits += 3 * EYE[torch.arange(400) % K]
    centred = torch.corrcoef((logits - logits.mean(1, keepdim=True)).T)
    torch.testing.assert_close(domain.class_correlation(soften(logits, 1e6)), centred, atol=1e-4, rtol=0)
    blocks = [domain.contrast(domain.class_correlation(soften(logits, T)), GROUPS)["contrast"][0] for T in (0.2, 2, 20)]
    assert blocks[0] < blocks[1] < blocks[2]


def test_contrast_and_geometry_on_a_known_layout():
    cosines = EYE + 0.5 * (SAME - EYE) - 0.1 * (1 - SAME)
    row = domain.contrast(cosines, GROUPS).iloc[0]
    np.testing.assert_allclose(row[["within", "between", "contrast"]], [0.5, -0.1, 0.6])

    frame = domain.logit_geometry(torch.stack([EYE, 7 * EYE]), GROUPS)  # centred unit vectors are equiangular
    np.testing.assert_allclose(frame[["within", "between"]], -1 / (K - 1))
    np.testing.assert_allclose(frame["norm_spread"], 0, atol=1e-15)
    lengths = torch.arange(1.0, K + 1, dtype=torch.float64)
    spread = domain.logit_geometry(EYE * lengths, GROUPS)["norm_spread"][0]
    assert spread == pytest.approx(lengths.numpy().std() / lengths.numpy().mean())


def free_targets():
    smooth = 0.6 * EYE + 0.4 / (K - 1) * (1 - EYE)
    block = 0.6 * EYE + 0.4 * 0.9 / 4 * (SAME - EYE) + 0.4 * 0.1 / 15 * (1 - SAME)
    return torch.stack([EYE, smooth, block]).float()


def test_family_targets_spread_the_rest_as_told():
    uneven = torch.tensor([0, 1, 0, 1, 1])
    table = domain.family_targets(uneven, 0.7, 0.8)
    for c in range(5):
        family = [k for k in range(5) if k != c and uneven[k] == uneven[c]]
        strangers = [k for k in range(5) if uneven[k] != uneven[c]]
        expected = np.zeros(5)
        expected[c], expected[family], expected[strangers] = 0.7, 0.24 / len(family), 0.06 / len(strangers)
        np.testing.assert_allclose(table[c], expected, atol=1e-7)
    _, smooth, block = free_targets()
    torch.testing.assert_close(domain.family_targets(GROUPS, 0.6), smooth)
    torch.testing.assert_close(domain.family_targets(GROUPS, 0.6, 0.9), block)


def test_shuffled_family_targets_keep_their_numbers_and_lose_their_family():
    table, shuffled = domain.family_targets(GROUPS, 0.6, 0.9), domain.family_targets(GROUPS, 0.6, 0.9, seed=3)
    torch.testing.assert_close(shuffled.sort(1).values, table.sort(1).values)
    torch.testing.assert_close(shuffled.diagonal(), table.diagonal())
    assert torch.equal(shuffled, domain.family_targets(GROUPS, 0.6, 0.9, seed=3))
    assert not torch.equal(shuffled, domain.family_targets(GROUPS, 0.6, 0.9, seed=4))
    inside = [(domain.family_targets(GROUPS, 0.6, 0.9, seed=s) * (SAME - EYE)).sum() / K for s in range(100)]
    assert np.mean(inside) == pytest.approx(0.4 * 4 / 19, abs=0.01)  # no more in the family than its size says


def test_only_class_structured_targets_bend_the_equiangular_frame():
    frame = domain.logit_geometry(domain.free_feature_model(free_targets()), GROUPS)
    np.testing.assert_allclose(frame["within"], [-1 / 19, -1 / 19, 0.542], atol=2e-3)
    np.testing.assert_allclose(frame["between"], [-1 / 19, -1 / 19, -0.211], atol=2e-3)


def test_free_feature_tables_do_not_influence_each_other():
    together = domain.free_feature_model(free_targets().double(), width=8, steps=30)
    alone = domain.free_feature_model(free_targets().double()[2], width=8, steps=30)
    torch.testing.assert_close(together[2:], alone, atol=1e-10, rtol=0)
    assert not torch.equal(alone, domain.free_feature_model(free_targets().double()[2], width=8, steps=30, seed=1))


def test_free_features_from_starts_of_their_own():
    tables = free_targets().double()[2].expand(2, K, K)
    both = domain.free_feature_model(tables, width=8, steps=30, seed=[3, 7])
    for seed, layer in zip((3, 7), both, strict=True):
        alone = domain.free_feature_model(tables[0], width=8, steps=30, seed=seed)[0]
        torch.testing.assert_close(layer, alone, atol=1e-10, rtol=0)


def test_order_agreement_is_spearmans_over_the_wrong_classes():
    v, z, y = normal(12, 7), normal(2, 12, 7, seed=1), torch.arange(12) % 7
    found = domain.order_agreement(z, v, y)
    for f in range(2):
        for n in range(12):
            wrong = [k for k in range(7) if k != y[n]]
            expected = scipy.stats.spearmanr(z[f, n, wrong], v[n, wrong]).statistic
            assert float(found[f, n]) == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(domain.order_agreement(3 * v, v, y), torch.ones(12, dtype=torch.float64))


def test_equal_scores_share_their_rank():
    """Rounded scores have ties everywhere, on both sides; one without any order agrees with nothing."""
    v, z, y = normal(200, 7).round(), normal(2, 200, 7, seed=1).round(), torch.arange(200) % 7
    v[0], z[1, 1], z[0, 2] = 3.0, -torch.inf, torch.tensor([0, -torch.inf, -torch.inf, 1, 2, 2, 2])
    found = domain.order_agreement(z, v, y)
    constant = 0
    for f in range(2):
        for n in range(200):
            wrong = [k for k in range(7) if k != y[n]]
            one, other = (scipy.stats.rankdata(x) for x in (z[f, n, wrong], v[n, wrong]))
            still = np.ptp(one) == 0 or np.ptp(other) == 0
            expected = 0 if still else np.corrcoef(one, other)[0, 1]
            constant += still
            assert float(found[f, n]) == pytest.approx(expected, abs=1e-12)
    assert constant >= 3
    assert domain.order_agreement(v[1:], v[1:], y[1:]).max() <= 1 + 1e-12


SETTINGS = [(T, a, f) for T in (1.0, 2.0, 4.0, 16.0) for a, f in ((0.3, True), (0.5, False), (0.9, True), (1.0, True))]


def test_order_at_500_stationary_points():
    """Wrong classes stand in the teacher's order, at every T and alpha, and by distance too when rows are equally long."""
    weights = torch.nn.functional.normalize(normal(10, 16), dim=1)
    count = 0
    for seed, (T, alpha, t_squared) in enumerate(SETTINGS):
        v, y = 3 * normal(32, 10, seed=seed), torch.arange(32) % 10
        z = domain.stationary_logits(v, y, T, alpha, t_squared)
        left = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(kd_loss(left, v, y, T, alpha, t_squared).sum(), left)
        assert gradient.abs().max() < 1e-13
        order = without_true_class(v, y).argsort(1)
        assert torch.equal(without_true_class(z, y).argsort(1), order)
        distances = domain.template_distances(z, weights)
        assert torch.equal((-without_true_class(distances, y)).argsort(1), order)
        count += len(y)
    assert count >= 500


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_a_last_layer_at_rest_balances_a_sum_over_examples(T):
    """Its gradient is the sum over examples of [(1 - alpha)(q - y) + alpha T (q~ - p~)] h^T, and not of q - s beyond T = 1."""
    h, v, y, alpha = normal(30, 6), 2 * normal(30, 8, seed=1), torch.arange(30) % 8, 0.7
    w = normal(8, 6, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(kd_loss(h @ w.T, v, y, T, alpha).sum(), w)
    z, one_hot = (h @ w.T).detach(), torch.nn.functional.one_hot(y, 8)
    pull = (1 - alpha) * (soften(z) - one_hot) + alpha * T * (soften(z, T) - soften(v, T))
    torch.testing.assert_close(pull.T @ h, gradient, atol=1e-12, rtol=0)
    mixed = soften(z) - (1 - alpha) * one_hot - alpha * soften(v)
    assert torch.allclose(mixed.T @ h, gradient) == (T == 1)


def test_a_stationary_point_that_is_not_reached_is_no_answer():
    """Logits of several hundred, label and teacher almost irreconcilable: Newton's steps do not get there."""
    v, y = 300 * normal(8, 5), torch.arange(8) % 5
    with pytest.raises(RuntimeError, match=r"not reached: a gradient of .* is left"):
        domain.stationary_logits(v, y, temperature=20.0, alpha=0.999)


@pytest.mark.parametrize("alpha", [0.2, 0.9, 1.0])
def test_distance_gap_is_twice_the_log_ratio(alpha):
    weights = 2.5 * torch.nn.functional.normalize(normal(8, 12), dim=1)
    v, y = 2 * normal(40, 8, seed=3), torch.arange(40) % 8
    distances = domain.template_distances(domain.stationary_logits(v, y, 1.0, alpha), weights)
    d, log_p = without_true_class(distances, y), without_true_class(torch.log_softmax(v, 1), y)
    gap = (d.unsqueeze(2) - d.unsqueeze(1)) + 2 * (log_p.unsqueeze(2) - log_p.unsqueeze(1))
    assert gap.abs().max() < 1e-10


def test_at_alpha_1_logit_gaps_are_the_teachers_at_any_temperature():
    v, y = normal(10, 6), torch.arange(10) % 6
    z = domain.stationary_logits(v, y, temperature=7.0, alpha=1.0)
    torch.testing.assert_close(z, v - v.mean(1, keepdim=True), atol=1e-12, rtol=0)


def test_unequal_lengths_break_the_order_of_distances():
    v, y = 2 * normal(50, 8), torch.arange(50) % 8
    weights = normal(8, 12) * torch.linspace(0.5, 3, 8, dtype=torch.float64).unsqueeze(1)
    distances = domain.template_distances(domain.stationary_logits(v, y), weights)
    order = without_true_class(v, y).argsort(1)
    assert ((-without_true_class(distances, y)).argsort(1) != order).any()


def test_template_distances_belong_to_a_feature_with_these_logits():
    weights, logits = normal(5, 9), normal(3, 5, seed=1)
    h = torch.linalg.pinv(weights) @ logits.T
    torch.testing.assert_close((weights @ h).T, logits)
    expected = torch.stack([((h.T - w) ** 2).sum(1) for w in weights], dim=1)
    torch.testing.assert_close(domain.template_distances(logits, weights), expected)


PROBS, LABELS = table()
BAD = {
    "rows that do not sum to 1": (lambda: domain.class_mean_targets(PROBS * 2, LABELS), "probs"),
    "too few labels": (lambda: domain.class_mean_targets(PROBS, LABELS[:3]), "labels"),
    "label out of range": (lambda: domain.similarity_targets(EYE, torch.tensor([K])), "labels"),
    "a class in the middle of the others": (
        lambda: domain.class_cosines(torch.stack([EYE[:3], torch.stack([EYE[0], -EYE[0], 0 * EYE[0]])])),
        "class_weights",
    ),
    "a row of zeros": (lambda: domain.similarity_targets(EYE * 0, torch.tensor([0])), "class_weights"),
    "temperature 0": (lambda: domain.similarity_targets(EYE, torch.tensor([0]), 0.0), "temperature"),
    "a constant class": (lambda: domain.class_correlation(torch.full((4, 2), 0.5)), "probs"),
    "one superclass": (lambda: domain.contrast(EYE, GROUPS * 0), "groups"),
    "groups of another length": (lambda: domain.contrast(EYE, GROUPS[:4]), "groups"),
    "a matrix that is not square": (lambda: domain.contrast(EYE[:3], GROUPS), "matrix"),
    "a mass above 1": (lambda: domain.family_targets(GROUPS, 1.1), "mass"),
    "a negative share": (lambda: domain.family_targets(GROUPS, 0.6, -0.1), "share"),
    "a class without a family": (lambda: domain.family_targets(torch.tensor([0, 0, 1]), 0.6, 0.5), "groups"),
    "no strangers": (lambda: domain.family_targets(GROUPS * 0, 0.6, 0.5), "groups"),
    "targets that are not square": (lambda: domain.free_feature_model(PROBS), "targets"),
    "no steps": (lambda: domain.free_feature_model(EYE, steps=0), "steps"),
    "seeds for other tables": (lambda: domain.free_feature_model(EYE, seed=[0, 1]), "seed"),
    "scores of other classes": (lambda: domain.order_agreement(PROBS[:, :4], PROBS, LABELS), "scores"),
    "scores of NaN": (lambda: domain.order_agreement(PROBS * torch.nan, PROBS, LABELS), "scores"),
    "a teacher of NaN": (lambda: domain.order_agreement(PROBS, PROBS * torch.nan, LABELS), "teacher_logits"),
    "a temperature for each class": (lambda: domain.similarity_targets(EYE, LABELS, torch.ones(K)), "temperature"),
    "a temperature for each row": (
        lambda: domain.stationary_logits(PROBS, LABELS, torch.ones(60, 1)),
        "temperature must be one number",
    ),
    "an alpha for each row": (
        lambda: domain.stationary_logits(PROBS, LABELS, alpha=torch.ones(60, 1)),
        "alpha must be one number",
    ),
    "one wrong class": (lambda: domain.order_agreement(PROBS[:, :2], PROBS[:, :2], LABELS % 2), "teacher_logits"),
    "lr 0": (lambda: domain.free_feature_model(EYE, lr=0.0), "lr"),
    "alpha 0": (lambda: domain.stationary_logits(PROBS, LABELS, alpha=0.0), "alpha"),
    "NaN logits": (lambda: domain.stationary_logits(PROBS * torch.nan, LABELS), "teacher_logits"),
    "dependent rows": (lambda: domain.template_distances(PROBS, normal(5, 3)), "class_weights"),
    "logits of other classes": (lambda: domain.template_distances(PROBS[:, :4], normal(5, 9)), "logits"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, name = BAD[case]
    with pytest.raises(ValueError, match=name):
        call()
