"""Multi-view networks against autograd, loops and the formulas written out."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdlib import Task, data
from kdlib.fleet import fit
from kdlib.losses import kd_loss
from kdlib.mechanisms import ensembles
from kdlib.mechanisms.ensembles import CappedDescent, Linearised, MultiViewNet, descent, on_labels, on_teacher

NET = partial(MultiViewNet, 5, 12, 60)


@pytest.fixture(scope="module")
def task() -> Task:
    return data.multiview(0, n_test=200)


def written_out(z: np.ndarray, q: int, knee: float) -> np.ndarray:
    return np.where(z <= 0, 0, np.where(z <= knee, z**q / (q * knee ** (q - 1)), z - (1 - 1 / q) * knee))


@pytest.mark.parametrize("q", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("knee", [0.2, 0.5, 2.0])
def test_the_activation_is_its_formula_and_its_slope_is_that_of_the_formula(q: int, knee: float) -> None:
    z = torch.linspace(-1, 4, 997, dtype=torch.float64, requires_grad=True)
    h = ensembles.smoothed_relu(z, q, knee)
    assert h.detach().numpy() == pytest.approx(written_out(z.detach().numpy(), q, knee), abs=1e-12)
    (slope,) = torch.autograd.grad(h.sum(), z)
    step = 1e-6
    ahead, behind = (written_out(z.detach().numpy() + s, q, knee) for s in (step, -step))
    smooth = ((z.abs() > 1e-3) & ((z - knee).abs() > 1e-3)).numpy()
    assert slope.numpy()[smooth] == pytest.approx(((ahead - behind) / (2 * step))[smooth], abs=1e-6)


def test_settings_that_are_not_given_are_the_networks_and_the_rules_own(task: Task) -> None:
    z = torch.linspace(-1, 4, 97, dtype=torch.float64)
    assert torch.equal(ensembles.smoothed_relu(z), ensembles.smoothed_relu(z, 4, 0.5))
    rule = CappedDescent([torch.zeros(1, 5, requires_grad=True)], inputs=4)
    assert (rule.param_groups[0]["lr"], rule.longest, rule.together) == (600.0, 0.1, 1)


def test_a_step_is_capped_by_the_neuron_that_would_move_most_wherever_it_stands() -> None:
    for last in (False, True):
        w = torch.zeros(2, 3 * (4 + 1), requires_grad=True)
        w.grad = torch.zeros(2, 15)
        w.grad[0, 8 if last else 0] = 50.0  # of the last neuron, or the first
        w.grad[1, 9] = 1e-6  # moves freely
        w.grad[:, 14] = 7.0  # a bias counts for nothing
        CappedDescent([w], inputs=4).step()
        assert w[0, 8 if last else 0].item() == pytest.approx(-0.1)
        assert w[0, 14].item() == pytest.approx(-7 * 0.1 / 50) and w[1, 9].item() == pytest.approx(-6e-4)


def test_a_network_at_rest_has_no_loss(task: Task) -> None:
    x, index = task.x_train.expand(1, -1, -1, -1), torch.arange(120).expand(1, -1)
    assert on_labels(task)(NET([0]), x, index).item() == pytest.approx(np.log(5), abs=0.1)
    assert on_labels(task, stop=2.0)(NET([0]), x, index).item() == 0


def test_logits_are_sums_over_neurons_and_patches(task: Task) -> None:
    model = NET([3, 8], dtype=torch.float64)
    x = task.x_test[:4].double()
    z = model(x)
    w = model.weights[0].mT.numpy()  # (F, 60 neurons, 60 inputs)
    for f in range(2):
        for n in range(4):
            for k in range(5):
                own = w[f, 12 * k : 12 * (k + 1)]
                expected = written_out(own @ x[n].numpy().T, 4, 0.5).sum()
                assert z[f, n, k].item() == pytest.approx(expected, abs=1e-12)
    apart = model.each(torch.stack([x, x]))  # one batch each takes another way through `apply`
    assert torch.allclose(apart, z, atol=1e-12)


def test_the_slope_of_the_loss_is_the_one_written_out(task: Task) -> None:
    """dL/dw_kr = mean over images of sum over patches of (softmax_k - 1[y = k]) act'(<w, x_p>) x_p."""
    model = NET([1], dtype=torch.float64, scale=0.3)
    x, y = task.x_train.double(), task.y_train
    on_labels(task)(model, x[None], torch.arange(120)[None]).sum().backward()
    w = model.weights[0][0].mT.numpy()
    along = np.einsum("ri,npi->rnp", w, x.numpy())
    gap = (torch.softmax(model(x)[0], 1) - torch.nn.functional.one_hot(y, 5)).detach().numpy()
    slope = np.minimum(np.maximum(along, 0) / 0.5, 1) ** 3 * gap.T.repeat(12, 0)[:, :, None]
    expected = np.einsum("rnp,npi->ri", slope, x.numpy()) / 120
    got = model.flat.grad[0, : 60 * 60].view(60, 60).numpy()
    assert got == pytest.approx(expected, abs=1e-12)
    assert not model.flat.grad[0, 60 * 60 :].any()  # biases are not read


def by_hand(task: Task, seed: int, steps: int) -> Tensor:
    """The rule for the step in plain torch, one network: weights (60, 60)."""
    w = NET([seed], dtype=torch.float64).weights[0][0].mT.clone().requires_grad_()
    x, y = task.x_train.double(), task.y_train
    for _ in range(steps):
        a = x.flatten(0, 1) @ w.T
        u = (a / 0.5).clamp(0, 1)
        h = torch.where(a < 0.5, u**4 * 0.5 / 4, a - 0.375)
        z = h.view(120, 6, 5, 12).sum((1, 3))
        loss = torch.nn.functional.cross_entropy(z, y)
        if loss < 0.03:
            break
        (g,) = torch.autograd.grad(loss, w)
        with torch.no_grad():
            w -= min(600.0, 0.1 / g.norm(dim=1).max().item()) * g
    return w.detach()


def test_a_fleet_is_its_networks_trained_one_by_one(task: Task) -> None:
    fleet = fit(task, [4, 9], NET, on_labels(task, 0.03), epochs=200, dtype=torch.float64, **descent(task))
    for f, seed in enumerate((4, 9)):
        w = by_hand(task, seed, 200)
        assert torch.allclose(fleet.weights[0][f].mT, w, atol=1e-9)
    loss = on_labels(task)(fleet.model, task.x_train.double().expand(2, -1, -1, -1), torch.arange(120).expand(2, -1))
    assert ((loss < 0.03) & (loss > 0.025)).all()  # both stood still as soon as they were there


def test_members_trained_as_one_follow_the_slope_of_their_mean(task: Task) -> None:
    how = {"epochs": 3, "dtype": torch.float64}
    got = fit(task, range(6), NET, on_labels(task, members=3), coupled=3, **how, **descent(task, together=3))
    flat = NET(range(6), dtype=torch.float64).flat.detach().clone().requires_grad_()
    model = NET(range(6), dtype=torch.float64)
    x = task.x_train.double().expand(6, -1, -1, -1)
    for _ in range(3):
        z = model.apply(flat, x)
        first, second = (torch.nn.functional.cross_entropy(part.mean(0), task.y_train) for part in (z[:3], z[3:]))
        (g,) = torch.autograd.grad(first + second, flat)
        for part in (slice(0, 3), slice(3, 6)):
            longest = g[part, :3600].view(3, 60, 60).norm(dim=2).max().item()
            flat.data[part] -= min(600.0, 0.1 / (3 * longest)) * 3 * g[part]  # each member's value is the whole loss
    assert torch.allclose(got.model.flat, flat, atol=1e-10)


def test_a_linearised_network_is_the_first_order_of_the_network(task: Task) -> None:
    x = task.x_train[:6].double()
    for rows in (slice(0, 3), slice(1, 3)):  # a part keeps the start of its own networks
        linear = Linearised(5, 12, 60, [0, 1, 2], dtype=torch.float64, scale=0.3)
        plain = MultiViewNet(5, 12, 60, [0, 1, 2], dtype=torch.float64, scale=0.3)
        move = 0.5 * torch.randn(linear.flat.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        linear.flat.data += move
        many = x.expand(3, -1, -1, -1)
        z0, slope = plain.apply(plain.flat, many), torch.zeros(3, 6, 5, dtype=torch.float64)
        for n in range(6):
            for k in range(5):
                (g,) = torch.autograd.grad(plain.apply(plain.flat, many)[:, n, k].sum(), plain.flat)
                slope[:, n, k] = (g * move).sum(1)
        assert torch.allclose(linear.part(rows)(x), (z0 + slope)[rows], atol=1e-10)


@pytest.mark.parametrize("own", [False, True])
def test_distillation_reads_the_teacher_of_its_student(task: Task, own: bool) -> None:
    model = NET([0, 1, 2])
    teacher = torch.randn(3, 120, 5) if own else torch.randn(120, 5)
    x, index = task.x_train.expand(3, -1, -1, -1), torch.arange(120).expand(3, -1)
    part = model.part(slice(1, 3))
    z = part(task.x_train)
    v = teacher[1:] if own else teacher.expand(2, -1, -1)
    expected = kd_loss(z, v, task.y_train.expand(2, -1), 3.0, 0.5).mean(-1)
    assert torch.allclose(on_teacher(task, teacher, 3.0)(part, x[:2], index[:2]), expected)
    squared = (z - v).square().sum(-1).mean(-1) / 2
    assert torch.allclose(on_teacher(task, teacher)(part, x[:2], index[:2]), squared)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_an_ensemble_is_the_mean_of_its_members(many: int, size: int) -> None:
    z = torch.randn(many, 3, 4, dtype=torch.float64)
    if size > many:
        with pytest.raises(ValueError, match="size must be at most"):
            ensembles.ensembles(z, size)
        return
    made = ensembles.ensembles(z, size)
    assert len(made) == many // size
    for e, own in enumerate(made):
        assert torch.allclose(own, sum(z[e * size : (e + 1) * size]) / size)


def test_what_a_network_knows_is_read_off_its_weights(task: Task) -> None:
    model = NET([0, 1], scale=0.0)
    w = model.flat.data[:, :3600].view(2, 5, 12, 60)
    features = task.extra["features"]
    w[0, :, 3] = features[:, 0] + 0.29 * features[:, 1]  # one neuron
    w[1, :, 5], w[1, :, 7] = 2 * features[:, 1], 0.61 * features[:, 0]  # two of them
    w[1, 4, 5] = -w[1, 4, 5]  # a negative one counts for nothing
    lam = model.correlations(features)
    assert torch.allclose(lam[0], torch.tensor([1.0, 0.29]).expand(5, 2))
    assert torch.allclose(lam[1, :4], torch.tensor([0.61, 2.0]).expand(4, 2))
    known = ensembles.views_known(model, task)
    assert known[0].tolist() == [[True, False]] * 5
    assert known[1].tolist() == [[True, True]] * 4 + [[True, False]]
    assert not ensembles.views_known(NET([0], scale=0.0), task).any()  # who has no weight knows nothing


def test_errors_are_counted_apart(task: Task) -> None:
    single = task.extra["single_test"]
    z = torch.nn.functional.one_hot(task.y_test, 5).float().expand(2, -1, -1).clone()
    wrong = single.nonzero()[:10, 0]
    z[1, wrong] = z[1, wrong].roll(1, 1)
    frame = ensembles.errors(z, task)
    assert frame.loc[0].tolist() == [0, 0, 0]
    assert frame.loc[1].tolist() == pytest.approx([10 / int(single.sum()), 0, 10 / 200])


def test_mean_weights(task: Task) -> None:
    fleet = fit(task, 4, NET, on_labels(task), epochs=1, **descent(task))
    assert torch.equal(ensembles.averaged(fleet, 2)[1], fleet.model.flat.data[2:].mean(0))


def test_a_network_learns_one_view_and_an_ensemble_has_both(task: Task) -> None:
    fleet = fit(task, 10, NET, on_labels(task, 0.03), epochs=250, **descent(task))
    z = fleet.predict(task.x_test)
    alone, joined = ensembles.errors(z, task), ensembles.errors(ensembles.ensembles(z, 10), task)
    assert 0.3 < alone["single"].mean() < 0.5 and alone["multi"].max() == 0
    assert joined["single"].item() < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: NET([0], exponent=0), "exponent must be an integer of at least 1, got 0"),
        (lambda t: NET([0], knee=0.0), "knee must be a positive finite number"),
        (lambda t: MultiViewNet(5, 0, 60, [0]), "width must be an integer of at least 1"),
        (lambda t: NET([0])(t.x_train[..., :59]), r"x must be \(F, B, patches, 60\)"),
        (lambda t: NET([0])(t.x_train.flatten(1)), r"x must be \(F, B, patches, 60\)"),
        (lambda t: NET([0]).correlations(t.extra["features"][:4]), "features must have shape"),
        (lambda t: CappedDescent([], inputs=60, weight_decay=0.1), "weight_decay must be 0"),
        (lambda t: on_teacher(t, torch.zeros(119, 5)), "teacher must have shape"),
        (lambda t: on_labels(t, targets=torch.zeros(7, 5)), "targets must have shape"),
        (lambda t: on_labels(t, members=0), "members must be an integer of at least 1"),
        (lambda t: ensembles.views_known(NET([0]), t, share=2.0), "share must be a number in"),
        (lambda t: ensembles.views_known(NET([0]), data.world("F", n_test=5)), "task must be one that data.multiview"),
        (lambda t: ensembles.errors(torch.zeros(2, 3, 5), t), "logits must have shape"),
        (
            lambda t: fit(t, 3, NET, on_labels(t, members=2), epochs=1, coupled=2, **descent(t, 2)),
            "coupled must divide",
        ),
    ],
)
def test_bad_input_is_named(task: Task, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(task)
