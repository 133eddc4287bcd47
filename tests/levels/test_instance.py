import pytest
import torch

from kdlib.levels import instance
from kdlib.losses import cross_entropy, kd_loss, soft_cross_entropy, soften


def problem(n=200, k=12, spread=3.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    z, v = spread * torch.randn(2, n, k, generator=g, dtype=torch.float64)
    return z, v, torch.randint(k, (n,), generator=g)


def gradient(loss, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z).sum(), z)[0]


def split_gradient(g, y):
    """True-class entry and sum over the wrong classes, each (N,)."""
    true = g.gather(1, y.unsqueeze(1)).squeeze(1)
    return true, torch.where(torch.nn.functional.one_hot(y, g.shape[1]).bool(), 0, g).sum(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("t_squared", [True, False])
def test_w_is_the_ratio_of_gradients_at_target_and_non_targets(temperature, alpha, t_squared):
    z, v, y = problem(spread=1.5)
    w = instance.gradient_rescaling(z, v, y, temperature, alpha, t_squared)
    soft = split_gradient(gradient(lambda z: kd_loss(z, v, y, temperature, alpha, t_squared), z), y)
    hard = split_gradient(gradient(lambda z: cross_entropy(z, y), z), y)
    for a, b in zip(soft, hard, strict=True):
        torch.testing.assert_close(a / b, w, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_pt_has_the_same_w_and_another_gradient(temperature):
    z, v, y = problem()
    p = soften(v, temperature)
    tables = (p, instance.confidence_targets(p, y))
    full, even = (gradient(lambda z, t=t: soft_cross_entropy(z, t, temperature), z) for t in tables)
    for a, b in zip(split_gradient(full, y), split_gradient(even, y), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    assert (full - even).abs().max() > 0.01


def test_at_temperature_1_w_compares_error_masses():
    z, v, y = problem(spread=1.0)
    p, q = (torch.softmax(x, 1).gather(1, y.unsqueeze(1)).squeeze(1) for x in (v, z))
    w = instance.gradient_rescaling(z, v, y, temperature=1.0, alpha=0.8)
    torch.testing.assert_close(w, 1 - 0.8 * (1 - p) / (1 - q), atol=1e-10, rtol=1e-10)
    assert torch.equal(w < 0, q > 1 - 0.8 * (1 - p))
    assert (w < 0).any() and (w > 0).any()


def test_high_temperature_limit():
    z, v, y = problem(spread=1.0)
    k = z.shape[1]
    centred_gap = ((v - v.mean(1, keepdim=True)) - (z - z.mean(1, keepdim=True))).gather(1, y.unsqueeze(1)).squeeze(1)
    q = torch.softmax(z, 1).gather(1, y.unsqueeze(1)).squeeze(1)
    limit = 0.1 + 0.9 / k * centred_gap / (1 - q)
    torch.testing.assert_close(instance.gradient_rescaling(z, v, y, 1e6, 0.9), limit, atol=1e-4, rtol=1e-4)


def test_no_digits_are_lost_when_both_are_sure():
    """True logits 60 above the rest: 1 - q_t is 1e-25, which 1 - softmax cannot see."""
    z, v = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    z[0, 0], v[0, 0] = 60.0, 61.0
    y = torch.tensor([0])
    expected = 1 - torch.exp(torch.tensor([-1.0], dtype=torch.float64))  # error masses: e^-61 against e^-60
    torch.testing.assert_close(instance.gradient_rescaling(z, v, y, 1.0, 1.0), expected, atol=1e-10, rtol=0)
    sure_student = instance.gradient_rescaling(z + z, v, y, 1.0, 1.0)
    torch.testing.assert_close(sure_student, 1 - torch.exp(torch.tensor([59.0], dtype=torch.float64)))
    single = instance.gradient_rescaling(z.float(), v.float(), y, 1.0, 1.0)
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=0)


def test_equal_logits_leave_only_the_hard_part_and_students_broadcast():
    z, v, y = problem(n=7)
    torch.testing.assert_close(instance.gradient_rescaling(v, v, y, 4.0, 0.9), torch.full((7,), 0.1).double())
    both = instance.gradient_rescaling(torch.stack([z, v]), v, y)
    assert both.shape == (2, 7)
    torch.testing.assert_close(both[0], instance.gradient_rescaling(z, v, y))


@pytest.mark.parametrize("n", [3, 5])
def test_a_temperature_for_each_student_also_where_students_are_as_many_as_examples(n):
    z, v, y = problem(n=n)
    fleet = torch.stack([z, v + z, 2 * z])
    T = torch.tensor([[1.0], [3.0], [8.0]], dtype=torch.float64)
    alpha = torch.tensor([[0.2], [0.7], [1.0]], dtype=torch.float64)
    found = instance.gradient_rescaling(fleet, v, y, T, alpha)
    for f in range(3):
        expected = instance.gradient_rescaling(fleet[f], v, y, T[f].item(), alpha[f].item())
        torch.testing.assert_close(found[f], expected, rtol=1e-10, atol=1e-12)
    by_example = instance.gradient_rescaling(z, v, y, torch.arange(1.0, n + 1).double())
    for i in range(n):
        alone = instance.gradient_rescaling(z[[i]], v[[i]], y[[i]], i + 1.0)
        torch.testing.assert_close(by_example[i], alone[0], rtol=1e-10, atol=1e-12)
    many = instance.gradient_rescaling(fleet, v, torch.stack([y, y.roll(1), y.roll(2)]))
    torch.testing.assert_close(many[1], instance.gradient_rescaling(fleet[1], v, y.roll(1)))


def test_w_beside_classes_that_are_ruled_out():
    """Both rule the label out: its probabilities agree, and only the hard part is left. The teacher alone: p_t = 0."""
    shut = torch.tensor([[-torch.inf, 0.0, 1.0]], dtype=torch.float64)
    z, y = torch.tensor([[0.5, 0.0, 1.0]], dtype=torch.float64), torch.tensor([0])
    assert instance.gradient_rescaling(shut, shut, y, 2.0, 0.9).item() == pytest.approx(0.1)
    q, q_soft = (torch.softmax(z / T, 1)[0, 0].item() for T in (1, 2))
    w = instance.gradient_rescaling(z, shut, y, 2.0, 0.9).item()
    assert w == pytest.approx(0.1 - 0.9 * 2 * q_soft / (1 - q))


def test_half_precision_is_widened():
    z, v, y = problem(n=20, spread=1.0)
    z, v = z.bfloat16(), v.bfloat16()
    w = instance.gradient_rescaling(z, v, y, 3.0)
    torch.testing.assert_close(w, instance.gradient_rescaling(z.float(), v.float(), y, 3.0), rtol=0, atol=0)


def test_confidence_targets():
    _, v, y = problem(n=30, k=5)
    p = soften(v)
    targets = instance.confidence_targets(p, y)
    true = torch.nn.functional.one_hot(y, 5).bool()
    assert torch.equal(targets[true], p[true])
    torch.testing.assert_close(targets.sum(1), torch.ones(30).double())
    assert (targets[~true].view(30, 4).std(1) == 0).all()


def test_another_confidence_leaves_the_proportions_of_the_wrong_classes():
    _, v, y = problem(n=30, k=5)
    p, true = soften(v), torch.nn.functional.one_hot(y, 5).bool()
    wanted = torch.linspace(0, 1, 30).double()
    table = instance.with_confidence(p, y, wanted)
    torch.testing.assert_close(table[true], wanted)
    torch.testing.assert_close(table.sum(1), torch.ones(30).double())
    shares = [torch.softmax(x[~true].view(30, 4), 1) for x in (v, table.log())]
    torch.testing.assert_close(shares[1][:-1], shares[0][:-1])
    torch.testing.assert_close(instance.with_confidence(p, y, p[true]), p)
    torch.testing.assert_close(instance.with_confidence(p, y, 0.3)[true], torch.full((30,), 0.3).double())


def test_a_row_that_is_sure_has_no_opinion_to_keep():
    sure = torch.tensor([[0.0, 1.0, 0.0]])
    table = instance.with_confidence(sure, torch.tensor([1]), 0.4)
    torch.testing.assert_close(table, torch.tensor([[0.3, 0.4, 0.3]]))


def test_dealt_confidences_are_the_teachers_in_another_order():
    _, v, y = problem(n=400, k=5)
    p = soften(v)
    own, dealt = (t.gather(1, y.unsqueeze(1)).squeeze(1) for t in (p, instance.dealt_confidences(p, y, seed=3)))
    torch.testing.assert_close(own.sort().values, dealt.sort().values)
    assert abs(torch.corrcoef(torch.stack([own, dealt]))[0, 1]) < 0.2  # 4 standard errors
    wrong = instance.dealt_confidences(p, y)[~torch.nn.functional.one_hot(y, 5).bool()].view(400, 4)
    torch.testing.assert_close(wrong, wrong.mean(1, keepdim=True).expand(400, 4))
    assert torch.equal(instance.dealt_confidences(p, y, seed=3), instance.dealt_confidences(p, y, seed=3))
    assert not torch.equal(instance.dealt_confidences(p, y, seed=3), instance.dealt_confidences(p, y, seed=4))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_page_of_the_diary_against_autograd(temperature):
    z, v, y = problem()
    page = instance.diary_page(z, v, y, temperature, 0.7)
    soft = gradient(lambda z: kd_loss(z, v, y, temperature, 0.7), z)
    hard = gradient(lambda z: cross_entropy(z, y), z)
    norms = soft.abs().sum(1) / hard.abs().sum(1)
    torch.testing.assert_close(torch.tensor(page["norms"].to_numpy()), norms)
    torch.testing.assert_close(
        torch.tensor(page["w"].to_numpy()), split_gradient(soft, y)[0] / split_gradient(hard, y)[0]
    )
    for name, x in (("p", v), ("q", z)):
        expected = torch.stack([torch.softmax(row, 0)[label] for row, label in zip(x, y, strict=True)])
        torch.testing.assert_close(torch.tensor(page[name].to_numpy()), expected)
    assert (page["norms"] >= page["w"].abs() - 1e-12).all() and (page["norms"] > 1.1 * page["w"].abs()).any()


Z, V, Y = problem(n=6, k=4)
BAD = {
    "other classes": (lambda: instance.gradient_rescaling(Z, V[:, :3], Y), "teacher_logits"),
    "integers": (lambda: instance.gradient_rescaling(Z.long(), V, Y), "student_logits"),
    "too few labels": (lambda: instance.gradient_rescaling(Z, V, Y[:2]), "labels"),
    "temperature 0": (lambda: instance.gradient_rescaling(Z, V, Y, 0.0), "temperature"),
    "a temperature for no student": (lambda: instance.gradient_rescaling(Z, V, Y, torch.ones(6, 1)), "temperature"),
    "no labels": (lambda: instance.gradient_rescaling(Z, V, None), "labels"),
    "soft labels": (lambda: instance.gradient_rescaling(Z, V, soften(V)), "labels"),
    "a label of -100": (lambda: instance.gradient_rescaling(Z, V, Y - 100), "labels"),
    "alpha 2": (lambda: instance.gradient_rescaling(Z, V, Y, alpha=2.0), "alpha"),
    "logits for a table": (lambda: instance.confidence_targets(V, Y), "probs"),
    "one class": (lambda: instance.confidence_targets(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64)), "probs"),
    "two confidences for six": (lambda: instance.with_confidence(soften(V), Y, torch.ones(2).double()), "confidence"),
    "a confidence of 2": (lambda: instance.with_confidence(soften(V), Y, 2.0), "confidence"),
    "a confidence that is no number": (lambda: instance.with_confidence(soften(V), Y, float("nan")), "confidence"),
    "logits with a confidence": (lambda: instance.with_confidence(V, Y, 0.5), "probs"),
    "one class with a confidence": (
        lambda: instance.with_confidence(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64), 0.5),
        "probs",
    ),
    "logits to deal from": (lambda: instance.dealt_confidences(V, Y), "probs"),
    "a diary of two students": (lambda: instance.diary_page(torch.stack([Z, Z]), V, Y), "student_logits"),
    "label out of range": (lambda: instance.confidence_targets(soften(V), Y + 4), "labels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, name = BAD[case]
    with pytest.raises(ValueError, match=name):
        call()
