"""Modern logit losses against independent formulations, in float64."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon

from kdlib.losses import (
    dist_loss,
    dkd_loss,
    jsd_loss,
    kd_loss,
    logit_standardised_kd_loss,
    soften,
    true_class_odds,
    without_true_class,
)

LOSSES = [dkd_loss, dist_loss, logit_standardised_kd_loss, jsd_loss]


def problem(n=40, k=7, seed=0, spread=2.0):
    g = torch.Generator().manual_seed(seed)
    z, v = spread * torch.randn(2, n, k, generator=g, dtype=torch.float64)
    return z, v, torch.randint(k, (n,), generator=g)


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=tolerance)


def gradient(loss, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z).sum(), z)[0]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_splits_the_divergence_exactly(temperature):
    """KL(p || q) = target part + (1 - p_t) other part: plain distillation is DKD with weights 1 and 1 - p_t."""
    z, v, y = problem()
    p_t = soften(v, temperature).gather(1, y.unsqueeze(1)).squeeze(1)

    def split(z):
        return dkd_loss(z, v, y, temperature, 0.7, target_weight=1.0, other_weight=1 - p_t)

    def whole(z):
        return kd_loss(z, v, y, temperature, 0.7)

    close(split(z), whole(z))
    close(gradient(split, z), gradient(whole, z))


def test_dkd_terms_equal_scipy():
    z, v, y = problem()
    p, q = soften(v, 4.0).numpy(), soften(z, 4.0).numpy()
    for i, t in enumerate(y.tolist()):
        target = scipy.stats.entropy([p[i, t], 1 - p[i, t]], [q[i, t], 1 - q[i, t]])
        others = scipy.stats.entropy(np.delete(p[i], t), np.delete(q[i], t))  # scipy renormalises
        close(dkd_loss(z, v, y, 4.0, 1.0, 1.0, 0.0)[i].item(), 16 * target)
        close(dkd_loss(z, v, y, 4.0, 1.0, 0.0, 1.0)[i].item(), 16 * others)


def test_dkd_target_term_sees_confidence_alone_and_the_other_term_all_but_it():
    z, v, y = problem()
    shifted = v + 3 * F.one_hot(y, v.shape[1])
    close(dkd_loss(z, v, y, 4.0, 1.0, 0.0, 1.0), dkd_loss(z, shifted, y, 4.0, 1.0, 0.0, 1.0))
    index = torch.arange(7).expand_as(v).clone()
    wrong = without_true_class(index, y)
    rolled = v.scatter(1, wrong, v.gather(1, wrong.roll(1, dims=1)))
    close(dkd_loss(z, v, y, 4.0, 1.0, 1.0, 0.0), dkd_loss(z, rolled, y, 4.0, 1.0, 1.0, 0.0))


def test_dist_equals_scipy_and_shares_the_batch_term():
    z, v, y = problem()
    p, q = soften(v, 2.0).numpy(), soften(z, 2.0).numpy()
    inter = np.array([1 - scipy.stats.pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - scipy.stats.pearsonr(a, b).statistic for a, b in zip(p.T, q.T, strict=True)])
    value = dist_loss(z, v, y, 2.0, 1.0, inter_weight=1.5, intra_weight=0.5)
    close(value, 4 * (1.5 * inter + 0.5 * intra))
    close(value.mean().item(), 4 * (1.5 * inter.mean() + 0.5 * intra))


def test_dist_inter_term_does_not_see_confidence_beside_even_wrong_classes():
    z, _, y = problem()
    sure, unsure = (torch.log(c * F.one_hot(y, 7) + (1 - c) / 6 * (1 - F.one_hot(y, 7))).double() for c in (0.9, 0.4))
    close(*(dist_loss(z, v, y, 1.0, 1.0, intra_weight=0.0) for v in (sure, unsure)), 1e-6)


def test_logit_standardisation_equals_kd_of_z_scores_and_ignores_scale():
    z, v, y = problem()
    scores = [torch.as_tensor(scipy.stats.zscore(x.numpy(), axis=1)) for x in (z, v)]
    expected = kd_loss(scores[0], scores[1], y, 2.0, 1.0)
    close(logit_standardised_kd_loss(z, v, y, 2.0, 1.0), expected)
    close(logit_standardised_kd_loss(5 * z + 1, 0.1 * v - 3, y, 2.0, 1.0), expected)
    hard = F.cross_entropy(z, y, reduction="none")
    close(logit_standardised_kd_loss(z, v, y, 2.0, 0.25), 0.75 * hard + 0.25 * expected)


def test_jsd_is_four_times_the_usual_one_in_the_middle():
    z, v, y = problem()
    usual = jensenshannon(soften(v, 3.0).numpy(), soften(z, 3.0).numpy(), axis=1) ** 2
    close(jsd_loss(z, v, y, 3.0, 1.0, beta=0.5), 9 * 4 * usual)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_jsd_times_beta_one_minus_beta_is_the_definition(beta):
    z, v, y = problem()
    p, q = soften(v).numpy(), soften(z).numpy()
    m = beta * p + (1 - beta) * q
    defined = beta * scipy.stats.entropy(p, m, axis=1) + (1 - beta) * scipy.stats.entropy(q, m, axis=1)
    close(beta * (1 - beta) * jsd_loss(z, v, y, 1.0, 1.0, beta), defined)


def test_jsd_runs_continuously_from_forward_to_reverse_kl():
    z, v, y = problem()
    forward, reverse = (scipy.stats.entropy(a, b, axis=1) for a, b in [(soften(v), soften(z)), (soften(z), soften(v))])
    for beta, end in ((0.0, forward), (1.0, reverse)):
        close(jsd_loss(z, v, y, 1.0, 1.0, beta), end)
        close(jsd_loss(z, v, y, 1.0, 1.0, abs(beta - 1e-7)), end, 1e-4)
    close(jsd_loss(z, v, y, 1.0, 1.0, 0.0), kd_loss(z, v, y, 1.0, 1.0))


def test_jsd_near_the_teacher_is_the_same_for_every_beta():
    z, v, y = problem()
    values = [jsd_loss(v + 1e-3 * z, v, y, 1.0, 1.0, beta) for beta in (0.0, 0.3, 0.5, 1.0)]
    for value in values[1:]:
        close(value / values[0], torch.ones(40).double(), 0.02)


@pytest.mark.parametrize("loss", LOSSES)
def test_high_temperature_has_a_limit(loss):
    z, v, y = problem()
    values = [loss(z, v, y, temperature=T, alpha=1.0) for T in (1e3, 2e3)]
    if loss in (dkd_loss, logit_standardised_kd_loss, jsd_loss):
        close(values[0] / values[1], torch.ones(40).double(), 0.02)
        centred = z - z.mean(1, keepdim=True) - (v - v.mean(1, keepdim=True))
        if loss is jsd_loss:
            close(values[1], centred.square().sum(1) / (2 * 7), 0.01)
    else:  # correlations do not fade, so with T^2 this one grows
        close(values[1] / values[0], torch.full((40,), 4.0).double(), 0.02)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_pass_gradcheck_and_vanish_at_the_teacher(loss):
    z, v, y = problem(n=5, k=4)
    assert torch.autograd.gradcheck(lambda z: loss(z, v, y, 2.0, 0.6), z.clone().requires_grad_())
    assert gradient(lambda z: loss(z, v, y, 2.0, 1.0), v).abs().max() < 1e-6
    assert gradient(lambda z: loss(z, v, y, 2.0, 1.0), z).abs().max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_alpha_0_is_cross_entropy_and_a_student_axis_broadcasts(loss):
    z, v, y = problem()
    close(loss(z, v, y, 3.0, 0.0), F.cross_entropy(z, y, reduction="none"))
    fleet = torch.stack([z, v, z + v])
    temperature = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    alpha = torch.tensor([[0.1], [0.5], [1.0]], dtype=torch.float64)
    together = loss(fleet, v, y, temperature, alpha)
    assert together.shape == (3, 40)
    for f in range(3):
        close(together[f], loss(fleet[f], v, y, temperature[f].item(), alpha[f].item()))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_extreme_and_flat_logits_stay_finite(loss, temperature):
    v = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0], [0.0, 0.0, 0.0]])
    y = torch.tensor([0, 0, 1])
    for z in (v.flip(0), v, torch.zeros(3, 3)):
        assert loss(z, v, y, temperature, 0.5).isfinite().all()
        assert gradient(lambda z: loss(z, v, y, temperature, 0.5), z).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_logits_are_widened_first(loss):
    z, v, y = problem()
    z, v = z.bfloat16(), (z + 0.1 * v).bfloat16()
    close(loss(z, v, y), loss(z.float(), v.float(), y), 0)
    half, single = (gradient(lambda z: loss(z, v, y), x) for x in (z, z.float()))
    close(half.float(), single.bfloat16().float(), 0)


def test_helpers():
    z, _, y = problem()
    kept = without_true_class(z, y)
    for i, t in enumerate(y.tolist()):
        assert kept[i].tolist() == np.delete(z[i].numpy(), t).tolist()
    q = soften(z).gather(1, y.unsqueeze(1)).squeeze(1)
    close(true_class_odds(z, y), torch.logit(q))
    assert true_class_odds(torch.tensor([[100.0, 0.0]]), torch.tensor([0])).item() == 100.0


Z, V, Y = problem(n=6, k=4)
BAD = {
    "teacher with other classes": ({"teacher_logits": V[:, :3]}, "teacher_logits"),
    "fewer teacher rows": ({"teacher_logits": V[:5]}, "teacher_logits"),
    "integer logits": ({"student_logits": Z.long()}, "student_logits"),
    "integer teacher": ({"teacher_logits": V.long()}, "teacher_logits"),
    "float labels": ({"labels": Y.double()}, "labels"),
    "too few labels": ({"labels": Y[:3]}, "labels"),
    "temperature 0": ({"temperature": 0.0}, "temperature"),
    "temperature NaN": ({"temperature": float("nan")}, "temperature"),
    "alpha 1.5": ({"alpha": 1.5}, "alpha"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(loss, case):
    change, name = BAD[case]
    with pytest.raises(ValueError, match=name):
        loss(**({"student_logits": Z, "teacher_logits": V, "labels": Y} | change))


def test_beta_outside_its_range():
    with pytest.raises(ValueError, match="beta"):
        jsd_loss(Z, V, Y, beta=1.1)
