"""Sampled distillation against the full gradient, SciPy and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax
from torch import Tensor

from kdlib.levels.split import topk_targets
from kdlib.losses import kd_loss, soft_cross_entropy
from kdlib.mechanisms import sampling

NAN = float("nan")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(k: int = 60, d: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher logits, student logits (K,) and each logit's gradient (K, d)."""
    u, e = torch.randn(2, k, dtype=torch.float64, generator=generator(seed))
    return 2 * u, 1.5 * u + 0.8 * e, torch.randn(k, d, dtype=torch.float64, generator=generator(seed + 1))


def estimates(
    kind: str, t: Tensor, z: Tensor, Q: Tensor, g: Tensor, count: int, repeats: int, T: float = 1.0
) -> Tensor:
    """Estimated gradients, (repeats, d)."""
    classes = sampling.draw(Q.expand(repeats, -1), count, generator(count))
    c = sampling.coefficients(kind, t, z, Q, classes, T)
    return torch.einsum("rs,rsd->rd", c, g[classes])


def gradient(t: Tensor, z: Tensor, g: Tensor, T: float = 1.0) -> Tensor:
    """Of T^2 KL, by autograd through kd_loss."""
    z = z.clone().requires_grad_()
    loss = kd_loss(z[None], t[None], torch.zeros(1, dtype=torch.int64), T, alpha=1.0).sum()
    return torch.autograd.grad(loss, z)[0] @ g


def assert_mean(found: Tensor, expected: Tensor, sigmas: float = 4.5) -> None:
    """The mean over repeats is the expected one, within Monte-Carlo error in every coordinate."""
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - expected).abs() < sigmas * error).all()


class TestEstimators:
    @pytest.mark.parametrize("T", [1.0, 3.0])
    @pytest.mark.parametrize("proposal", ["uniform", "teacher", "half and half", "ranked"])
    def test_the_unbiased_one_is_the_gradient_on_average_with_the_variance_of_the_formula(
        self, proposal: str, T: float
    ) -> None:
        t, z, g = problem()
        p, q = (t / T).softmax(0), (z / T).softmax(0)
        Q = sampling.PROPOSALS[proposal](p, q)
        found = estimates("unbiased", t, z, Q, g, 20, 20_000, T)
        assert_mean(found, gradient(t, z, g, T))
        formula = sampling.variance(p, q, Q, g, 20, T)
        assert float(found.var(0).sum()) == pytest.approx(float(formula), rel=0.06)

    def test_the_self_normalised_ones_bias_is_the_formula_and_falls_as_one_over_s(self) -> None:
        t, z, g = problem()
        p, q = t.softmax(0), z.softmax(0)
        Q = sampling.with_floor(p, 0.3)
        exact = gradient(t, z, g)
        sizes = []
        for count, repeats in ((25, 200_000), (100, 200_000)):
            found = estimates("self-normalised", t, z, Q, g, count, repeats)
            error = found.std(0) / repeats**0.5
            formula = sampling.bias(p, q, Q, g, count)
            gap = found.mean(0) - exact
            assert ((gap - formula).abs() < 4.5 * error + 5 * formula.abs() / count).all()  # and the next order
            assert (gap.abs() / error).max() > 8  # seen, not just allowed
            sizes.append(float(gap.norm()))
        assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.25)

    def test_the_hybrid_ones_teacher_part_has_no_bias(self) -> None:
        t, z, g = problem()
        p, Q = t.softmax(0), sampling.with_floor(t.softmax(0), 0.5)
        classes = sampling.draw(Q.expand(50_000, -1), 10, generator(0))
        c = sampling.coefficients("hybrid", t, z, Q, classes)
        student = (z[classes] - Q.log()[classes]).softmax(-1)
        teacher = student - c
        assert_mean(torch.einsum("rs,rsd->rd", teacher, g[classes]), p @ g)
        assert_mean(teacher.sum(1, keepdim=True), torch.ones(1, dtype=torch.float64))

    def test_the_uncorrected_one_stays_wrong_unless_the_proposal_is_uniform(self) -> None:
        t, z, g = problem()
        exact = gradient(t, z, g)
        uniform, teacher = torch.full_like(t, 1 / 60), t.softmax(0)
        gaps = {}
        for name, Q in (("uniform", uniform), ("teacher", teacher)):
            gaps[name] = float((estimates("uncorrected", t, z, Q, g, 4000, 300).mean(0) - exact).norm() / exact.norm())
        assert gaps["uniform"] < 0.05
        assert gaps["teacher"] > 0.3

    def test_draws_of_its_own_for_each_example_and_shared_ones(self) -> None:
        t, z = torch.randn(2, 3, 9, dtype=torch.float64, generator=generator(2))
        Q = torch.full((9,), 1 / 9, dtype=torch.float64)
        shared = sampling.draw(Q, 5, generator(0))
        for kind in sampling.ESTIMATORS:
            one = sampling.coefficients(kind, t, z, Q, shared, 2.0)
            each = sampling.coefficients(kind, t, z, Q.expand(3, -1), shared.expand(3, -1), 2.0)
            torch.testing.assert_close(one, each)
            alone = torch.stack([sampling.coefficients(kind, t[i], z[i], Q, shared, 2.0) for i in range(3)])
            torch.testing.assert_close(one, alone)

    def test_draws_follow_the_proposal(self) -> None:
        Q = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.7]])
        shares = torch.nn.functional.one_hot(sampling.draw(Q, 40_000, generator(0)), 4).double().mean(1)
        torch.testing.assert_close(shares, Q.double(), rtol=0, atol=4 * 0.5 / 200)


class TestLoss:
    t, z, _ = problem(k=30)
    h, w, b = torch.randn(6, 5), torch.randn(30, 5), torch.randn(30)

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("T", [1.0, 3.0])
    def test_its_gradient_is_the_self_normalised_estimate(self, shared: bool, T: float) -> None:
        h, w, b = (x.double() for x in (self.h, self.w, self.b))
        t = torch.randn(6, 30, dtype=torch.float64, generator=generator(3))
        Q = torch.rand(30, dtype=torch.float64, generator=generator(4))
        Q /= Q.sum()
        classes = sampling.draw(Q if shared else Q.expand(6, -1), 8, generator(5))
        drawn = t[:, classes] if shared else t.gather(1, classes)
        inputs = tuple(x.clone().requires_grad_() for x in (h, w, b))
        loss = sampling.sampled_kd_loss(inputs[0], inputs[1], drawn, classes, Q.log()[classes], inputs[2], T)
        found = torch.autograd.grad(loss.sum(), inputs)
        c = sampling.coefficients("self-normalised", t, h @ w.T + b, Q, classes, T)
        dense = torch.zeros(6, 30, dtype=torch.float64).scatter_add_(1, classes.expand(6, -1), c)
        for ours, expected in zip(found, (dense @ w, dense.T @ h, dense.sum(0)), strict=True):
            torch.testing.assert_close(ours, expected)

    def test_every_class_drawn_once_is_the_full_loss(self) -> None:
        classes = torch.arange(30)
        v = torch.randn(6, 30, generator=generator(6))
        v[:, 3] = -torch.inf
        found = sampling.sampled_kd_loss(self.h, self.w, v, classes, torch.zeros(30), self.b, 2.0)
        expected = kd_loss(self.h @ self.w.T + self.b, v, torch.zeros(6, dtype=torch.int64), 2.0, 1.0)
        torch.testing.assert_close(found, expected)


class TestProposals:
    @given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0.1, 8))
    def test_each_is_a_distribution_and_half_and_half_bounds_every_weight_by_2(
        self, seed: int, k: int, scale: float
    ) -> None:
        p, q = (scale * torch.randn(2, 3, k, dtype=torch.float64, generator=generator(seed))).softmax(-1)
        for name, make in sampling.PROPOSALS.items():
            Q = make(p, q)
            assert Q.shape == p.shape, name
            assert Q.min() >= 0
            torch.testing.assert_close(Q.sum(-1), torch.ones(3, dtype=torch.float64))
        half = sampling.PROPOSALS["half and half"](p, q)
        assert ((q - p).abs() / half).max() <= 2
        floored = sampling.with_floor(p, 0.2)
        assert ((q - p).abs() / floored <= (q - p).abs() * k / 0.2 + 1e-12).all()

    def test_no_proposal_beats_the_difference(self) -> None:
        """SciPy looks for a better one and finds the same."""
        t, z, g = problem(k=6)
        g = torch.nn.functional.normalize(g)
        p, q = t.softmax(0), z.softmax(0)
        least = float(sampling.least_variance(p, q, g, 5))
        longer = g * torch.arange(1, 7, dtype=torch.float64).unsqueeze(1)  # the best proposal minds the lengths
        own = (q - p).abs() * longer.norm(dim=1)
        found = float(sampling.variance(p, q, own / own.sum(), longer, 5))
        assert float(sampling.least_variance(p, q, longer, 5)) == pytest.approx(found, rel=1e-10)
        Q = sampling.difference(p, q)
        assert float(sampling.variance(p, q, Q, g, 5)) == pytest.approx(least, rel=1e-10)

        def by_logits(x: Any) -> float:
            return 1e4 * float(sampling.variance(p, q, torch.from_numpy(softmax(x)), g, 5))

        best = minimize(by_logits, np.zeros(6), method="BFGS")
        assert best.fun == pytest.approx(1e4 * least, rel=1e-5)
        np.testing.assert_allclose(softmax(best.x), Q, atol=2e-3)

    def test_equal_distributions_leave_nothing_to_prefer(self) -> None:
        p = torch.tensor([0.5, 0.25, 0.25])
        torch.testing.assert_close(sampling.difference(p, p), torch.full((3,), 1 / 3))
        assert sampling.variance(p, p, torch.tensor([1.0, 0, 0]), torch.eye(3), 3) == 0

    def test_tails_are_found_again_from_their_own_profile(self) -> None:
        r = torch.arange(500, dtype=torch.float64)
        for b1, b2 in ((5.0, 40.0), (20.0, 60.0)):
            gap = (-r / b1).softmax(0) - (-r / b2).softmax(0).flip(0)
            assert sampling.fit_tails(gap[torch.randperm(500)]) == pytest.approx((b1, b2), rel=0.12)
        Q = sampling.tails(500, 5.0, 40.0, epsilon=0.0)
        assert float(Q[:250].sum()) == pytest.approx(0.5, abs=2e-3)
        assert float(Q[1] / Q[0]) == pytest.approx(np.exp(-1 / 5), rel=1e-3)
        assert float(sampling.tails(500, 5.0, 40.0, epsilon=0.1).min()) >= 0.1 / 500

    def test_tails_in_an_order_of_ones_own_are_the_mean_ranks_there(self) -> None:
        gap = torch.randn(3, 50, dtype=torch.float64, generator=generator(3))
        assert sampling.fit_tails(gap, gap.argsort(-1, descending=True)) == pytest.approx(sampling.fit_tails(gap))
        order = torch.stack([torch.randperm(50, generator=generator(i)) for i in range(3)])
        up, down = (np.clip(s * np.take_along_axis(gap.numpy(), order.numpy(), 1), 0, None).mean(0) for s in (1, -1))
        expected = np.average(np.arange(50), weights=up), np.average(np.arange(50)[::-1], weights=down)
        assert sampling.fit_tails(gap, order) == pytest.approx(expected)

    def test_ranked_puts_most_where_p_and_q_differ_most(self) -> None:
        t, z, _ = problem(k=200)
        p, q = t.softmax(0), z.softmax(0)
        Q, order = sampling.ranked(p, q, epsilon=0.0), (p - q).argsort(descending=True)
        assert Q[order[0]] > Q[order[1]] > Q[order[100]]
        assert Q[order[-1]] > Q[order[-2]] > Q[order[100]]


class TestRanking:
    def test_starts_with_the_teacher_and_refreshes_only_what_was_looked_at(self) -> None:
        p, q = torch.randn(2, 5, 40, generator=generator(0)).softmax(-1)
        start = sampling.Ranking.start(p)
        assert torch.equal(start.order, p.argsort(-1, descending=True))
        assert (start.b1, start.b2) == (2.0, 16.0)
        rows = torch.tensor([3, 1])
        new = start.refreshed(rows, (p - q)[rows])
        assert torch.equal(new.order[rows], (p - q)[rows].argsort(-1, descending=True))
        assert torch.equal(new.order[[0, 2, 4]], start.order[[0, 2, 4]])
        assert (new.b1, new.b2) == sampling.fit_tails((p - q)[rows])

    def test_a_stale_order_is_still_unbiased_and_costs_variance(self) -> None:
        t, z, g = problem(k=80)
        p, q = t.softmax(0), z.softmax(0)
        stale = sampling.Ranking.start(p[None], epsilon=0.1)
        fresh = stale.refreshed(torch.tensor([0]), (p - q)[None])
        spread = {}
        for name, ranking in (("stale", stale), ("fresh", fresh)):
            classes, log_Q = ranking.draw(torch.zeros(20_000, dtype=torch.int64), 10, generator(1))
            found = torch.einsum("rs,rsd->rd", (q - p)[classes] / log_Q.exp() / 10, g[classes])
            assert_mean(found, gradient(t, z, g))
            spread[name] = float(found.var(0).sum())
        assert spread["fresh"] < 0.7 * spread["stale"]


class TestLaboratory:
    """Five stages of training; S = 50 of 1000 classes."""

    g = torch.randn(1000, 32, dtype=torch.float64, generator=generator(7)) / 32**0.5
    stages = sampling.regimes()

    def relative(self, stage: str, proposal: str) -> float:
        t, z, T = self.stages[stage]
        p, q = (t / T).softmax(0), (z / T).softmax(0)
        Q = sampling.PROPOSALS[proposal](p, q)
        return float(sampling.variance(p, q, Q, self.g, 50) / ((q - p) @ self.g).square().sum())

    @pytest.mark.parametrize("stage", stages)
    def test_the_difference_is_the_best_of_all(self, stage: str) -> None:
        values = {proposal: self.relative(stage, proposal) for proposal in sampling.PROPOSALS}
        assert min(values, key=lambda name: values[name]) == "|p - q|"
        assert values["half and half"] <= 2.5 * min(values["teacher"], values["student"])
        assert stage == "T = 4" or values["uniform"] > 8 * values["|p - q|"]

    def test_early_on_neither_side_alone_will_do(self) -> None:
        assert self.relative("early", "teacher") > 50 * self.relative("early", "half and half")
        assert self.relative("early", "student") > 8 * self.relative("early", "half and half")

    def test_a_teacher_that_excludes_what_the_student_believes_fails_without_a_sign(self) -> None:
        t, z, _ = self.stages["spurious mode"]
        p, q = t.softmax(0), z.softmax(0)
        exact = (q - p) @ self.g
        found = estimates("unbiased", t, z, p, self.g, 50, 3000)
        assert self.relative("spurious mode", "teacher") > 1e4
        assert float(found.var(0).sum() / exact.square().sum()) < 1  # looks calm
        assert float(torch.cosine_similarity(found.mean(0), exact, dim=0)) < 0.9  # and points elsewhere
        half = estimates("unbiased", t, z, (p + q) / 2, self.g, 50, 3000)
        assert float(torch.cosine_similarity(half.mean(0), exact, dim=0)) > 0.999


def test_log_normalisers_bias_is_jensens() -> None:
    t, z, _ = problem(k=100)
    Q = sampling.with_floor(t.softmax(0), 0.2)
    classes = sampling.draw(Q.expand(100_000, -1), 50, generator(0))
    found = (z[classes].exp() / Q[classes]).mean(1).log() - z.logsumexp(0)
    expected = sampling.log_normaliser_bias(z.softmax(0), Q, 50)
    error = float(found.std()) / 100_000**0.5
    assert float(found.mean()) < -8 * error
    assert float(found.mean()) == pytest.approx(float(expected), rel=0.1, abs=4.5 * error)


def test_effective_sample_size() -> None:
    assert sampling.effective_sample_size(torch.full((2, 7), 0.3)).tolist() == pytest.approx([7, 7])
    assert float(sampling.effective_sample_size(torch.tensor([1e-6, 5.0, 0.0]))) == pytest.approx(1, rel=1e-5)
    w = torch.rand(1000, dtype=torch.float64, generator=generator(0))
    assert float(sampling.effective_sample_size(w)) == pytest.approx(
        float(1000 / (1 + w.var(correction=0) / w.mean() ** 2))
    )


class TestTargets:
    logits = 2 * torch.randn(4, 20, generator=generator(8))

    def test_counts_are_the_teacher_on_average(self) -> None:
        p, draws = (self.logits[:1] / 2).softmax(1), 12
        targets = sampling.RandomSampledTargets.draw(self.logits[:1].expand(30_000, -1), draws, temperature=2.0)
        tables = targets.table().double()
        assert_mean(tables, p[0].double(), sigmas=5)
        torch.testing.assert_close(tables.var(0), (p * (1 - p) / draws)[0].double(), rtol=0.1, atol=0)

    def test_cross_entropy_is_that_of_the_table_and_its_gradient_unbiased(self) -> None:
        z = torch.randn(4, 20, generator=generator(9), requires_grad=True)
        targets = sampling.RandomSampledTargets.draw(self.logits, 6)
        found, expected = targets.cross_entropy(z, 2.0), soft_cross_entropy(z, targets.table(), 2.0)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found.sum(), z)[0], torch.autograd.grad(expected.sum(), z)[0])
        again = sampling.RandomSampledTargets.draw(self.logits, 6)
        assert torch.equal(again.classes, targets.classes)
        assert not torch.equal(sampling.RandomSampledTargets.draw(self.logits, 6, seed=1).classes, targets.classes)

    def test_a_student_of_the_top_alone_is_over_confident_by_the_mass_left_out(self) -> None:
        p = self.logits[0].softmax(0).double().numpy()
        top = np.argsort(-p)[:5]

        def loss(z: Any) -> float:
            return float(-(p[top] * np.log(softmax(z))[top]).sum())

        learned = softmax(minimize(loss, np.zeros(20), method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15}).x)
        closed = sampling.top_only(torch.from_numpy(p)[None], 5)[0].numpy()
        np.testing.assert_allclose(closed, learned, atol=2e-3)
        assert closed[top[0]] / p[top[0]] == pytest.approx(1 / p[top].sum())
        kept = topk_targets(torch.from_numpy(p)[None], 5)[0].numpy()
        np.testing.assert_allclose(kept[top], p[top])


HALF = torch.full((3, 4), 0.25)
H, W, C, V = torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sampling.draw(HALF, 0, generator(0)), ["count", "at least 1", "0"]),
        (lambda: sampling.draw(C, 1, generator(0)), ["Q", "floating-point", "int64"]),
        (lambda: sampling.coefficients("best", HALF, HALF, HALF, C), ["kind", "'unbiased'", "'best'"]),
        (lambda: sampling.coefficients("hybrid", HALF, HALF, HALF, C, 0.0), ["temperature", "positive", "0.0"]),
        (lambda: sampling.sampled_kd_loss(H, W[:, :1], V, C, V), ["weight", "(any, 2)", "(4, 1)"]),
        (lambda: sampling.sampled_kd_loss(H, W, V, C[:2], V), ["classes", "(3, S)", "(2, 5)"]),
        (lambda: sampling.sampled_kd_loss(H, W, V[:, :4], C, V), ["teacher_logits", "(3, 5)", "(3, 4)"]),
        (lambda: sampling.sampled_kd_loss(H, W, V, C, V[:2]), ["log_Q", "(3, 5)", "(2, 5)"]),
        (lambda: sampling.sampled_kd_loss(H, W, V, C, V, temperature=-1.0), ["temperature", "-1.0"]),
        (lambda: sampling.with_floor(HALF, 1.5), ["epsilon", "[0, 1]", "1.5"]),
        (lambda: sampling.tails(5, 0.0, 1.0), ["b1", "positive", "0.0"]),
        (lambda: sampling.tails(5, 1.0, NAN), ["b2", "positive", "nan"]),
        (lambda: sampling.tails(5, 1.0, 1.0, share=2.0), ["share", "[0, 1]", "2.0"]),
        (lambda: sampling.Ranking.start(HALF[0]), ["p", "(any, any)", "(4,)"]),
        (lambda: sampling.Ranking.start(HALF).refreshed(C[0, :2], HALF), ["gap", "(2, 4)", "(3, 4)"]),
        (lambda: sampling.RandomSampledTargets.draw(HALF[0], 3), ["teacher_logits", "(4,)"]),
        (lambda: sampling.RandomSampledTargets.draw(HALF, 0), ["count", "0"]),
        (lambda: sampling.RandomSampledTargets.draw(HALF, 3).cross_entropy(V), ["logits", "(3, 4)", "(3, 5)"]),
        (lambda: sampling.top_only(HALF, 5), ["k", "4", "5"]),
        (lambda: sampling.top_only(V, 2), ["probs", "sum to 1"]),
    ],
)
def test_bad_arguments_are_named(call: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)
