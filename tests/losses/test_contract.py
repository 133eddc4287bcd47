"""What all losses promise: axes, labels, weights, impossible classes, degenerate logits, every dtype, refusals."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit, logsumexp, rel_entr, softmax

from kdlib import losses
from kdlib.losses import cross_entropy, kd_loss, soft_cross_entropy, soften

INF, NAN = float("inf"), float("nan")
FORWARD = {
    "kd": kd_loss,
    "kd without factor": partial(kd_loss, t_squared=False),
    "dkd": losses.dkd_loss,
    "standardised": losses.logit_standardised_kd_loss,
    "jsd 0": partial(losses.jsd_loss, beta=0),
    "jsd": losses.jsd_loss,
    "jsd 0.9": partial(losses.jsd_loss, beta=0.9),
}
BOUNDED = FORWARD | {
    "dist": losses.dist_loss,
    "multilabel": losses.multilabel_kd_loss,
}  # finite if the teacher rules out
ALL = BOUNDED | {"jsd 1": partial(losses.jsd_loss, beta=1)}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_loss = pytest.mark.parametrize("name", ALL)


def problem(*lead, k=5, seed=0, spread=2.0):
    g = torch.Generator().manual_seed(seed)
    z, v = spread * torch.randn(2, *lead, k, generator=g, dtype=torch.float64)
    return z, v, torch.randint(k, lead, generator=g)


def tags(labels, k=5):
    return torch.nn.functional.one_hot(labels, k).double()


def labels_for(name, labels, k=5):
    return tags(labels, k) if name == "multilabel" else labels


def call(name, z, v, y, *args, **settings):
    return ALL[name](z, v, labels_for(name, y, z.shape[-1]), *args, **settings)


def gradients(f, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*inputs).sum(), inputs, allow_unused=True, materialize_grads=True)


def close(a, b, **tolerance):
    torch.testing.assert_close(a, b, **({"rtol": 1e-10, "atol": 1e-12} | tolerance))


# Axes


@every_loss
def test_students_and_sequences_are_the_loss_of_each(name):
    """(F, N, K) with labels (F, N), (N,) or (1, N); (P, F, N, K); each block as if it were alone."""
    z, v, y = problem(3, 4)
    each = torch.stack([call(name, z[f], v[f], y[f], 2.0, 0.6) for f in range(3)])
    close(call(name, z, v, y, 2.0, 0.6), each)
    shared = torch.stack([call(name, z[f], v[f], y[0], 2.0, 0.6) for f in range(3)])
    close(call(name, z, v, y[0], 2.0, 0.6), shared)
    close(call(name, z, v, y[:1], 2.0, 0.6), shared)
    close(call(name, z.expand(2, 3, 4, 5), v, y, 2.0, 0.6), each.expand(2, 3, 4))
    close(call(name, z[0], v, y, 2.0, 0.6), call(name, z[0].expand(3, 4, 5), v, y, 2.0, 0.6))


@every_loss
def test_temperature_and_alpha_belong_to_students_or_to_examples(name):
    """As many students as examples: (F, 1) is one per student, (N,) one per example, never the other way round."""
    z, v, y = problem(4, 4)
    T = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    alpha = torch.tensor([0.0, 0.3, 0.9, 1.0], dtype=torch.float64)
    for f in range(4):
        alone = call(name, z[f], v[f], y[f], float(T[f]), float(alpha[f]))
        close(call(name, z, v, y, T[:, None], alpha[:, None])[f], alone)
    if name != "dist":  # which compares examples
        by_example = call(name, z, v, y, T, alpha)
        for n in range(4):
            alone = call(name, z[:, n, None], v[:, n, None], y[:, n, None], float(T[n]), float(alpha[n]))
            close(by_example[:, n], alone[:, 0])
        each = call(name, z, v, y, T[:, None] + T, alpha[:, None] * alpha)  # of every example of every student
        for f, n in ((2, 3), (3, 2), (1, 1)):
            alone = call(name, z[f, [n]], v[f, [n]], y[f, [n]], float(T[f] + T[n]), float(alpha[f] * alpha[n]))
            close(each[f, n], alone[0])


# Labels


@pytest.mark.parametrize("name", [name for name in ALL if name != "multilabel"])
def test_one_hot_tables_are_labels_and_mixup_is_a_mixture(name):
    z, v, y = problem(3, 4)
    close(ALL[name](z, v, tags(y), 2.0, 0.4), ALL[name](z, v, y, 2.0, 0.4))
    close(ALL[name](z, v, tags(y[0]), 2.0, 0.4), ALL[name](z, v, y[0], 2.0, 0.4))
    other = (y + 1) % 5
    mixed = 0.7 * tags(y) + 0.3 * tags(other)
    hard = 0.7 * cross_entropy(z, y) + 0.3 * cross_entropy(z, other)
    close(ALL[name](z, v, mixed, 2.0, 0.4), 0.6 * hard + 0.4 * ALL[name](z, v, y, 2.0, 1.0))
    close(cross_entropy(z, mixed), hard)
    close(cross_entropy(z, mixed), soft_cross_entropy(z, mixed))


@every_loss
def test_unlabelled_examples_need_alpha_1(name):
    z, v, y = problem(6)
    if name != "dkd":
        close(ALL[name](z, v, None, alpha=1.0), call(name, z, v, y, alpha=1.0))
        close(ALL[name](z, v, alpha=1), call(name, z, v, y, alpha=1))
    for alpha in (0.9, torch.ones(())) if name != "dkd" else (0.9, 1.0):
        with pytest.raises(ValueError, match="labels m"):
            ALL[name](z, v, None, alpha=alpha)


@pytest.mark.parametrize("label", [-100, -1, 5])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_label_that_names_no_class_is_named(label, alpha):
    z, v, _ = problem(2, 3)
    y = torch.tensor([0, 1, label])
    calls = [lambda loss=loss: loss(z, v, y, alpha=alpha) for name, loss in ALL.items() if name != "multilabel"]
    calls += [lambda f=f: f(z, y) for f in (cross_entropy, losses.without_true_class, losses.true_class_odds)]
    for f in calls:
        with pytest.raises(ValueError, match=rf"labels must lie in 0..4 .*weights.*got {label}$"):
            f()
    mask = (y != label).double()
    assert kd_loss(z, v, y, alpha=alpha, weights=mask).isfinite().all()


# Weights


@every_loss
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_weights_multiply_and_what_has_weight_0_is_not_there(name, alpha):
    z, v, y = problem(2, 6)
    w = torch.tensor([1.0, 0.0, 2.5, 1.0, 0.0, 0.5], dtype=torch.float64)
    kept = w != 0
    expected = torch.zeros(2, 6, dtype=torch.float64)
    expected[:, kept] = w[kept] * call(name, z[:, kept], v[:, kept], y[:, kept], 2.0, alpha)
    wanted = [torch.zeros_like(z), torch.zeros_like(v)]
    inside = gradients(lambda z, v: w[kept] * call(name, z, v, y[:, kept], 2.0, alpha), z[:, kept], v[:, kept])
    for whole, part in zip(wanted, inside, strict=True):
        whole[:, kept] = part
    for poison, label in ((NAN, -100), (INF, 7), (-INF, 0), (1e30, 1)):
        z1, v1 = (torch.where(kept[:, None], x, poison) for x in (z, v))
        y1 = labels_for(name, y)
        y1 = torch.where(kept[:, None], y1, NAN) if name == "multilabel" else torch.where(kept, y1, label)
        close(ALL[name](z1, v1, y1, 2.0, alpha, weights=w), expected)
        found = gradients(lambda z, v, y1=y1: ALL[name](z, v, y1, 2.0, alpha, weights=w), z1, v1)
        for a, b in zip(found, wanted, strict=True):
            close(a, b)


def test_weights_of_every_kind_and_of_the_cross_entropies():
    z, v, y = problem(2, 4)
    mask = torch.tensor([[True, False, True, True], [True, True, True, False]])
    for weights in (mask, mask.long(), mask.float(), mask.bfloat16()):
        found = kd_loss(z, v, y, weights=weights)
        close(found, kd_loss(z, v, y) * mask)
        assert found.dtype == torch.float64
    ruined = torch.where(mask.unsqueeze(-1), z, NAN)
    close(cross_entropy(ruined, y, weights=mask), cross_entropy(z, y) * mask)
    close(cross_entropy(z, torch.where(mask, y, -100), weights=mask), cross_entropy(z, y) * mask)
    close(soft_cross_entropy(ruined, soften(v), weights=3 * mask), 3 * soft_cross_entropy(z, soften(v)) * mask)
    close(kd_loss(z[0], v[0], y[0], weights=mask[0]), kd_loss(z[0], v[0], y[0]) * mask[0])
    assert (kd_loss(z, v, y, weights=mask) == 0).sum() == 2
    w = torch.ones(2, 4, dtype=torch.float64)  # importance weights may be learned
    close(gradients(lambda w: kd_loss(z, v, y, weights=w), w)[0], kd_loss(z, v, y))


# Impossible classes

sizes = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(3, 8))


def ruled_out(seed, n, k):
    """A problem, and which classes the teacher alone, or both, rule out; the label's class and one more always stay."""
    rng = np.random.default_rng(seed)
    z, v = 2 * rng.normal(size=(2, n, k))
    y = rng.integers(k, size=n)
    free = np.eye(k)[y] + np.eye(k)[(y + 1) % k] == 0
    both = free & (rng.random((n, k)) < 0.3)
    teacher = both | (free & (rng.random((n, k)) < 0.3))
    return np.where(both, -INF, z), np.where(teacher, -INF, v), y, both


def reference(name, z, v, y, T, alpha):
    """The soft part by its formula, with SciPy's relative entropy, in probabilities of float64."""
    scale = 1 if name == "kd without factor" else T**2
    hard = logsumexp(z, axis=-1) - np.take_along_axis(z, y[:, None], -1)[:, 0]
    if name == "standardised":
        possible = [np.where(np.isfinite(x), x, NAN) for x in (z, v)]
        moments = [(np.nanmean(x, -1, keepdims=True), np.nanstd(x, -1, keepdims=True)) for x in possible]
        z, v = ((x - mean) / np.maximum(spread, 0.01) for x, (mean, spread) in zip((z, v), moments, strict=True))
    p, q = softmax(v / T, axis=-1), softmax(z / T, axis=-1)
    if name.startswith("jsd") and name != "jsd 0":
        b = {"jsd": 0.5, "jsd 0.9": 0.9}[name]
        m = b * p + (1 - b) * q
        soft = (rel_entr(p, m).sum(-1) * b + rel_entr(q, m).sum(-1) * (1 - b)) / (b * (1 - b))
    elif name == "dkd":
        true = np.eye(p.shape[1])[y] == 1
        mass = [np.stack([np.where(true, x, 0).sum(-1), np.where(true, 0, x).sum(-1)], -1) for x in (p, q)]
        wrong = [np.where(true, 0, x) / m[:, 1:] for x, m in zip((p, q), mass, strict=True)]
        soft = rel_entr(*mass).sum(-1) + 8 * rel_entr(*wrong).sum(-1)
    else:
        soft = rel_entr(p, q).sum(-1)
    return (1 - alpha) * hard + alpha * scale * soft


@pytest.mark.parametrize("name", FORWARD)
@given(size=sizes, T=st.floats(0.5, 10), alpha=st.floats(0, 1))
def test_impossible_classes_have_the_value_of_the_formula_and_the_gradient_of_the_rest(name, size, T, alpha):
    z, v, y, both = ruled_out(*size)
    student, teacher, labels = (torch.from_numpy(x) for x in (z, v, y))
    close(
        FORWARD[name](student, teacher, labels, T, alpha),
        torch.from_numpy(reference(name, z, v, y, T, alpha)),
        rtol=1e-8,
        atol=1e-10,
    )
    inputs = student, teacher, torch.tensor(T, dtype=torch.float64), torch.tensor(alpha, dtype=torch.float64)
    found = gradients(lambda z, v, T, a: FORWARD[name](z, v, labels, T, a), *inputs)
    assert all(g.isfinite().all() for g in found)
    for n in range(len(y)):  # the same problem without the classes that both rule out
        left = torch.from_numpy(~both[n])
        place = int(left[: y[n]].sum())
        alone = gradients(
            lambda z, v, place=place: FORWARD[name](z, v, torch.tensor([place]), T, alpha),
            student[n : n + 1, left],
            teacher[n : n + 1, left],
        )
        for whole, part in zip(found, alone, strict=False):
            close(whole[n, left], part[0], rtol=1e-8, atol=1e-9)
            assert (whole[n, ~left] == 0).all()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_where_mathematics_is_infinite_the_value_is_and_the_gradient_is_of_the_other_classes(beta):
    """At beta = 1 the teacher rules out what the student does not, at beta = 0 the other way round."""
    z, v, y = problem(3, k=4)
    shut = (v if beta else z).clone()
    shut[1, (y[1] + 1) % 4] = -INF
    student, teacher = (z, shut) if beta else (shut, v)
    value = losses.jsd_loss(student, teacher, y, alpha=0.5, beta=beta)
    assert value.isinf().tolist() == [False, beta in (0, 1), False] and not value.isnan().any()
    found = gradients(lambda z, v: losses.jsd_loss(z, v, y, alpha=0.5, beta=beta), student, teacher)
    others = torch.tensor([True, False, True])
    wanted = gradients(
        lambda z, v: losses.jsd_loss(z, v, y[others], alpha=0.5, beta=beta), student[others], teacher[others]
    )
    for g, expected in zip(found, wanted, strict=True):
        assert g.isfinite().all() and g.abs().max() < 100
        close(g[others], expected)
    if beta == 0:
        close(kd_loss(student, teacher, y, 1.0, 0.5), value)


def test_a_label_that_the_student_rules_out_costs_infinity_and_only_if_labels_count():
    z, v, y = problem(2, k=4)
    z[0, y[0]] = v[0, y[0]] = -INF
    for name in set(ALL) - {"dkd", "multilabel"}:
        assert call(name, z, v, y, alpha=0.5)[0] == INF
        assert call(name, z, v, y, alpha=1.0).isfinite().all()
        alpha = torch.tensor(1.0, dtype=torch.float64)
        close(call(name, z, v, y, alpha=alpha), call(name, z, v, y, alpha=1.0))
        assert not gradients(lambda z, name=name: call(name, z, v, y, alpha=0.5), z)[0].isnan().any()
    z[0] = torch.tensor([-INF, 0.0, 1.0, 2.0])
    y[0], v[0, 0] = 1, 0.0
    assert kd_loss(z, v, y)[0] == INF
    close(kd_loss(z, v, y, alpha=0.0), cross_entropy(z, y))
    close(kd_loss(z, v, y, alpha=torch.zeros(2, dtype=torch.float64)), cross_entropy(z, y))
    alpha = torch.zeros((), dtype=torch.float64)
    assert gradients(lambda z: kd_loss(z, v, y, alpha=alpha), z)[0].isfinite().all()


def test_alpha_0_and_1_as_tensors_keep_their_gradient():
    """d loss / d alpha = soft - hard also at the ends, where one of the two is switched off."""
    z, v, y = problem(3)
    for end in (0.0, 1.0):
        slope = gradients(lambda a: kd_loss(z, v, y, 2.0, a), torch.full((3,), end, dtype=torch.float64))[0]
        close(slope, kd_loss(z, v, y, 2.0, 1.0) - cross_entropy(z, y))


def test_switched_off_parts_of_dkd_and_dist():
    z, v, y = problem(4)
    shut = z.clone()
    shut[0, (y[0] + 1) % 5] = -INF  # the second term is infinite, the first is not
    dkd = partial(losses.dkd_loss, shut, v, y, 2.0, 0.5, 1.0)
    assert dkd(8.0)[0] == INF and dkd(0.0).isfinite().all()
    close(dkd(torch.zeros((), dtype=torch.float64)), dkd(0.0))
    assert losses.dist_loss(z, v, y, inter_weight=0.0).isfinite().all()


def test_a_teacher_without_wrong_classes():
    """One-hot logits: the divergence is that of the label, and the wrong classes have nothing to say."""
    z, _, y = problem(4)
    v = tags(y).log()
    hard = cross_entropy(z / 2, y)
    close(kd_loss(z, v, y, 2.0, 1.0), 4 * hard)
    close(losses.dkd_loss(z, v, y, 2.0, 1.0), 4 * hard)
    for name in BOUNDED:
        z1, v1 = gradients(lambda z, v, name=name: call(name, z, v, y, 2.0, 0.5), z, v)
        assert z1.isfinite().all() and v1.isfinite().all()
    close(gradients(lambda z: losses.dkd_loss(z, v, y, 1.0, 1.0), z)[0], z.softmax(-1) - tags(y))


# Degenerate logits in every dtype

i = -INF
DEGENERATE = {  # student, teacher; the label is class 0
    "zeros": ([0, 0, 0, 0], [0, 0, 0, 0]),
    "a zero head": ([0, 0, 0, 0], [4, 1, -2, 0]),
    "equal logits": ([7, 7, 7, 7], [4, 1, -2, 0]),
    "a teacher without opinion": ([4, 1, -2, 0], [3, 3, 3, 3]),
    "hardly unequal": ([1e-3, 0, 0, 0], [4, 1, -2, 0]),
    "large": ([200, -200, 0, 100], [-200, 200, 0, 100]),
    "the same and large": ([200, -200, 0, 100], [200, -200, 0, 100]),
    "ruled out by the teacher": ([1, 0, 2, 0], [1, 0, 2, i]),
    "ruled out by both": ([1, 0, 2, i], [1, 0, 1, i]),
    "a sure teacher": ([1, 0, 2, 0], [0, i, i, i]),
    "both sure": ([0, i, i, i], [0, i, i, i]),
    "the label ruled out by the teacher": ([1, 0, 2, 0], [i, 0, 1, 1]),
    "zeros beside a ruled-out class": ([0, 0, 0, i], [0, 1, 0, i]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", BOUNDED)
def test_value_and_every_gradient_are_finite_and_of_ordinary_size(name, case, dtype):
    student, teacher = (torch.tensor([row, [1.0, 2.0, 0.0, -1.0]], dtype=dtype) for row in DEGENERATE[case])
    y = torch.tensor([0, 1])
    for T in (1.0, 4.0):
        for alpha in (0.0, 0.5, 1.0):
            value = call(name, student, teacher, y, T, alpha)
            assert value.isfinite().all()
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) or name == "multilabel"
            settings = torch.tensor(T), torch.tensor(alpha)
            found = gradients(lambda z, v, T, a: call(name, z, v, y, T, a), student, teacher, *settings)
            assert all(g.isfinite().all() for g in found)
            assert max(g.abs().max() for g in found[:2]) < 1500, found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_a_head_that_starts_at_zero_learns(name, dtype):
    """Its gradient is neither nothing nor an explosion, and a step against it lowers the loss."""
    g = torch.Generator().manual_seed(0)
    h, v = torch.randn(32, 20, generator=g).to(dtype), 3 * torch.randn(32, 10, generator=g).to(dtype)
    y = v.argmax(-1)

    def loss(head):
        return call(name, h @ head, v, y, alpha=1.0).mean()

    head = torch.zeros(20, 10, dtype=dtype)
    (slope,) = gradients(loss, head)
    assert 0.03 < float(slope.norm()) < 300
    assert loss(head - 1e-4 * slope) < loss(head)


def test_z_scores_divide_by_the_deviation_or_by_a_hundredth():
    z, v, y = problem(6, spread=1.0)
    z = z - z.mean(-1, keepdim=True)
    z = z / z.std(-1, correction=0, keepdim=True)
    loss = partial(losses.logit_standardised_kd_loss, teacher_logits=v, labels=y, temperature=2.0, alpha=1.0)
    plain = partial(
        kd_loss, teacher_logits=(v - v.mean(-1, keepdim=True)) / v.std(-1, correction=0, keepdim=True), labels=y
    )
    for deviation in (0.011, 1.0, 50.0):
        close(loss(deviation * z), plain(z, temperature=2.0, alpha=1.0))
    for deviation in (0.0, 1e-6, 0.009):
        close(loss(deviation * z), plain(deviation * z / 0.01, temperature=2.0, alpha=1.0))


@given(st.integers(0, 10**6), st.floats(0.5, 30))
def test_correlations_are_scipys_unless_probabilities_hardly_vary(seed, T):
    z, v, y = problem(12, k=6, seed=seed, spread=0.5)
    p, q = (soften(x, T).numpy() for x in (v, z))
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    close(losses.dist_loss(z, v, y, T, 1.0), torch.from_numpy(T**2 * (2 - r - intra)), rtol=1e-8, atol=1e-8 * T**2)
    flat = losses.dist_loss(1e-6 * z, v, y, T, 1.0)  # fades to no correlation
    close(flat, torch.full_like(flat, 2.0 * T**2), rtol=1e-3, atol=0)


def test_tiny_probabilities_have_a_correlation_too():
    """Of classes at 1e-25, whose squares are 0 in float32."""
    z, v, y = problem(8, k=6)
    z, v = (torch.cat([x[:, :3], x[:, 3:] - 57], -1) for x in (z, v))
    close(losses.dist_loss(z.float(), v.float(), y % 3).double(), losses.dist_loss(z, v, y % 3), rtol=1e-4, atol=1e-5)


# Several labels at once


@given(st.integers(0, 10**6), st.floats(0.5, 10), st.floats(0, 1))
def test_multilabel_is_a_sum_of_questions(seed, T, alpha):
    z, v, _ = problem(2, 3, seed=seed)
    y = (torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(seed)) < 0.4).double()
    pairs = [torch.stack([x, torch.zeros_like(x)], -1) for x in (z, v)]  # sigmoid(z) is the softmax of (z, 0)
    each = kd_loss(*(x.flatten(1, 2) for x in pairs), 1 - y.flatten(1).long(), T, alpha).view(2, 3, 5)
    found = losses.multilabel_kd_loss(z, v, y, T, alpha)
    close(found, each.sum(-1))
    a, b = (x.numpy() for x in (v / T, z / T))
    soft = sum(np.exp(log_expit(s * a)) * (log_expit(s * a) - log_expit(s * b)) for s in (1, -1))
    hard = -(y.numpy() * log_expit(z.numpy()) + (1 - y.numpy()) * log_expit(-z.numpy()))
    expected = ((1 - alpha) * hard + alpha * T**2 * soft).sum(-1)
    close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-10)


def test_multilabel_takes_soft_labels_and_certain_answers_and_refuses_classes():
    z, v, y = problem(3)
    soft = 0.8 * tags(y)
    assert torch.autograd.gradcheck(
        lambda z, v: losses.multilabel_kd_loss(z, v, soft, 2.0, 0.6), (z.requires_grad_(), v.requires_grad_())
    )
    certain = torch.tensor([[INF, -INF, 0.0]])
    value = losses.multilabel_kd_loss(certain, certain, torch.tensor([[1.0, 0.0, 1.0]]))
    close(value.double(), torch.tensor([0.1 * np.log(2)]), rtol=1e-6)
    for wrong in (y, tags(y).long(), [[1.0]]):
        with pytest.raises(ValueError, match=r"labels must be a floating-point torch.Tensor of zeros and ones"):
            losses.multilabel_kd_loss(z, v, wrong)
    with pytest.raises(ValueError, match="labels must"):
        losses.multilabel_kd_loss(z, v, tags(y)[:, :4])


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_loss
def test_half_precision_is_widened_once_in_every_argument(name, dtype):
    z, v, y = problem(8)
    z, v, T, alpha, w = (x.to(dtype) for x in (z, v, torch.tensor(3.3), torch.tensor(0.7), torch.rand(8)))

    def loss(z, v, T, alpha):
        return call(name, z, v, y, T, alpha, weights=w)

    wide = [x.float() for x in (z, v, T, alpha)]
    close(loss(z, v, T, alpha), loss(*wide), rtol=0, atol=0)
    for narrow, exact in zip(gradients(loss, z, v, T, alpha), gradients(loss, *wide), strict=True):
        assert torch.equal(narrow, exact.to(dtype))


def test_float64_stays_whatever_the_default_is():
    z, v, y = problem(4)
    for name in ALL:
        y_wide = labels_for(name, y)
        y_single = y_wide.float() if name == "multilabel" else y
        values = []
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            try:
                values += [ALL[name](z, v, y_wide), ALL[name](z.float(), v.float(), y_single)]
            finally:
                torch.set_default_dtype(torch.float32)
        assert [x.dtype for x in values] == 2 * [torch.float64, torch.float32], name
        assert torch.equal(values[0], values[2]) and torch.equal(values[1], values[3])
        close(values[1].double(), values[0], rtol=1e-4, atol=1e-4)


# Transformations


@every_loss
def test_works_under_vmap_and_torch_func(name):
    z, v, y = problem(3, 4)
    y = labels_for(name, y)
    mapped = torch.vmap(ALL[name])(z, v, y)
    close(mapped, ALL[name](z, v, y))
    slope = torch.func.grad(lambda z: ALL[name](z, v, y).sum())(z)
    close(slope, gradients(lambda z: ALL[name](z, v, y), z)[0])
    assert torch.autograd.gradgradcheck(
        lambda z, v: ALL[name](z, v, y[0], 2.0, 0.6), (z[0].requires_grad_(), v[0].requires_grad_())
    )


def test_compiles_without_a_break():
    z, v, y = problem(4)
    compiled = torch.compile(kd_loss, backend="eager", fullgraph=True)
    close(compiled(z, v, y, weights=torch.ones(4)), kd_loss(z, v, y))


# Refusals

Z, V, Y = problem(3, k=4)
F = torch.zeros(5, 3, 4, dtype=torch.float64)
SHAPES = {
    "a column of temperatures for a vector of examples": ({"temperature": torch.ones(3, 1)}, "temperature", "(3,)", "(3, 1)"),
    "a column of alphas": ({"alpha": torch.ones(3, 1)}, "alpha", "(3,)", "(3, 1)"),
    "a column of weights": ({"weights": torch.ones(3, 1)}, "weights", "(3,)", "(3, 1)"),
    "a weight for every class": ({"weights": torch.ones(3, 4)}, "weights", "(3,)", "(3, 4)"),
    "a weight for every class of a fleet": (
        {"student_logits": F, "weights": torch.ones(4)}, "weights", "(5, 3)", "(4,)",
    ),
    "weights in a list": ({"weights": [1.0, 0.0, 1.0]}, "weights", "(3,)", "list"),
    "temperatures of students that are not there": ({"temperature": torch.ones(5, 1)}, "temperature", "(3,)", "(5, 1)"),
    "as many temperatures as students, without an axis": (
        {"student_logits": F, "temperature": torch.ones(5)}, "temperature", "(5, 3)", "(5,)",
    ),
    "labels of students that are not there": ({"labels": Y.expand(5, 3)}, "labels", "(3,)", "(5, 3)"),
    "one label for all": ({"labels": Y[:1]}, "labels", "(3,)", "(1,)"),
    "a one-hot table of integers": ({"labels": torch.nn.functional.one_hot(Y, 4)}, "labels", "(3,)", "(3, 4)"),
    "soft labels of other classes": ({"labels": torch.ones(3, 3)}, "labels", "(3, 4)", "(3, 3)"),
    "soft labels of other examples": ({"labels": torch.ones(1, 4)}, "labels", "(3, 4)", "(1, 4)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", SHAPES)
def test_shapes_that_only_seem_to_fit_are_named(name, case):
    change, *words = SHAPES[case]
    if name == "multilabel":
        if "labels" in change:
            return
        change = {"labels": tags(Y, 4)} | change
    with pytest.raises(ValueError) as error:
        ALL[name](**({"student_logits": Z, "teacher_logits": V, "labels": Y} | change))
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


@pytest.mark.parametrize("argument", ["target_weight", "other_weight"])
def test_weights_of_dkd_belong_to_examples(argument):
    with pytest.raises(ValueError, match=rf"{argument} must have a shape .*\(3,\), got \(3, 1\)"):
        losses.dkd_loss(Z, V, Y, **{argument: torch.ones(3, 1)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "1", None, True])
@pytest.mark.parametrize(
    ("loss", "argument"),
    [
        (losses.dkd_loss, "target_weight"),
        (losses.dkd_loss, "other_weight"),
        (losses.dist_loss, "inter_weight"),
        (losses.dist_loss, "intra_weight"),
    ],
)
def test_the_weight_of_a_term_is_a_number(loss, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a finite number of at least 0, got {value!r}"):
        loss(Z, V, Y, **{argument: value})


def test_the_helpers_refuse_the_same():
    for f in (lambda T: soften(Z, T), lambda T: soft_cross_entropy(Z, soften(V), T)):
        with pytest.raises(ValueError, match=r"temperature .*\(3,\), got \(3, 1\)"):
            f(torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"labels must have dtype torch\.int64, got torch\.float64"):
        losses.without_true_class(Z, tags(Y, 4))
    for name in ("inter_weight", "intra_weight"):
        with pytest.raises(ValueError, match=rf"{name} must be one number, got a tensor of shape \(3, 1\)"):
            losses.dist_loss(Z, V, Y, **{name: torch.ones(3, 1)})
    with pytest.raises(ValueError, match=r"beta must be one number, got a tensor of shape \(3,\)"):
        losses.jsd_loss(Z, V, Y, beta=torch.full((3,), 0.5))
