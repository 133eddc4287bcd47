"""Likelihoods against SciPy's densities, rankings that theory says must not change, exhibits, and what is refused."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from kdlib import data
from kdlib.data.causal import Shift, draw, random_dag, spurious_child
from kdlib.fleet import fit
from kdlib.mechanisms import causal
from kdlib.mechanisms.causal import bic, log_likelihood, normalised, plug_in_distance, select
from kdlib.models import MLP

GRAPH = spurious_child()
FRAME, SOURCE = draw(GRAPH, 60, 1), draw(GRAPH, 400, 2)
F = torch.tensor(FRAME["Y"].to_numpy()) + torch.randn(
    6, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)


def by_scipy(graph: nx.DiGraph, frame: pd.DataFrame, f: Tensor, source: pd.DataFrame | None, nodes: list[str]) -> float:
    """One candidate: each node regressed by NumPy, its density by SciPy."""
    table = frame.assign(Y=f.numpy())
    fit_on = table if source is None else source
    total = 0.0
    for node in nodes:
        parents = list(graph.predecessors(node))
        known, here = (np.column_stack([np.ones(len(t)), t[parents]]) for t in (fit_on, table))
        coefficients = np.linalg.lstsq(known, fit_on[node], rcond=None)[0]
        sd = math.sqrt(np.mean((fit_on[node] - known @ coefficients) ** 2))
        total += stats.norm.logpdf(table[node], here @ coefficients, sd).sum()
    return total


@pytest.mark.parametrize("terms", ["joint", "target"])
@pytest.mark.parametrize("source", [None, SOURCE], ids=["refitted", "plug-in"])
@pytest.mark.parametrize(
    "graph", [GRAPH, nx.DiGraph([("S", "Y"), ("Y", "A"), ("A", "B"), ("Y", "B")])], ids=["true", "imposter"]
)
def test_log_likelihood_is_the_sum_of_scipys_densities(
    terms: str, source: pd.DataFrame | None, graph: nx.DiGraph
) -> None:
    made = log_likelihood(graph, FRAME, "Y", F, source=source, terms=terms)
    nodes = list(graph) if terms == "joint" else ["Y"]
    wanted = [by_scipy(graph, FRAME, f, source, nodes) for f in F]
    assert made.dtype == torch.float64 and made.tolist() == pytest.approx(wanted, rel=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 7), st.integers(0, 1000))
def test_likelihoods_of_random_graphs(nodes: int, seed: int) -> None:
    graph = random_dag(nodes, seed)
    target = str([node for node in graph if graph.in_degree(node)][seed % 2 - 1])
    graph = nx.relabel_nodes(graph, {target: "Y", "Y": target})
    frame = draw(graph, 40, seed)
    f = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    made = log_likelihood(graph, frame, "Y", f)
    assert made.tolist() == pytest.approx([by_scipy(graph, frame, g, None, list(graph)) for g in f], rel=1e-9)
    k = len(graph.edges) + 2 * len(graph)
    assert torch.allclose(bic(graph, frame, "Y", f), 2 * made - k * math.log(40))


def test_the_joint_density_is_the_multivariate_normal() -> None:
    """Plugged in, the sum over nodes is the log density of N(mu, Sigma) that the equations imply."""
    own = causal.fitted(GRAPH, SOURCE)
    names = list(GRAPH)
    w = pd.DataFrame(0.0, names, names)
    for node, regression in own.items():
        w.loc[list(regression.parents), node] = regression.coefficients[1:].numpy()
    inverse = np.linalg.inv(np.eye(5) - w.to_numpy())
    mean = inverse.T @ [float(own[n].coefficients[0]) for n in names]
    cov = inverse.T @ np.diag([own[n].variance for n in names]) @ inverse
    wanted = [stats.multivariate_normal(mean, cov).logpdf(FRAME.assign(Y=f.numpy())).sum() for f in F]
    assert log_likelihood(GRAPH, FRAME, "Y", F, source=SOURCE).tolist() == pytest.approx(wanted, rel=1e-10)


def test_the_plug_in_distance_is_the_plug_in_likelihood() -> None:
    """Eq. (4): a constant minus n / (2 variance) times the distance, and a sum of KL divergences of normal densities."""
    distance = plug_in_distance(GRAPH, FRAME.drop(columns="Y"), "Y", F, SOURCE)
    variance = causal.fitted(GRAPH, SOURCE, ["Y"])["Y"].variance
    ell = log_likelihood(GRAPH, FRAME.drop(columns="Y"), "Y", F, source=SOURCE, terms="target")
    constant = -30 * math.log(2 * math.pi * variance)
    assert torch.allclose(ell, constant - 60 / (2 * variance) * distance)
    mean = causal.fitted(GRAPH, SOURCE, ["Y"])["Y"](FRAME)
    normal = partial(torch.distributions.Normal, scale=math.sqrt(variance))
    kl = torch.distributions.kl_divergence(normal(F), normal(mean)).sum(1)
    assert torch.allclose(kl, 60 / (2 * variance) * distance)


def test_rankings_that_must_not_change() -> None:
    target = partial(log_likelihood, GRAPH, FRAME, "Y", terms="target")
    ell = target(F)
    assert torch.allclose(
        target(3 * F) - ell, torch.tensor(-60 * math.log(3), dtype=torch.float64)
    )  # scale: one constant
    line = torch.tensor((2 * FRAME["A"] - FRAME["B"] + 5).to_numpy())
    assert torch.allclose(target(F + line), ell)  # a line in the parents is free: coefficients are not looked at
    joint = log_likelihood(GRAPH, FRAME, "Y", F)
    assert torch.allclose(log_likelihood(GRAPH, FRAME, "Y", F + 7), joint)
    sink = GRAPH.subgraph("ABY")  # where the target has no child the joint ranks as the target's term
    assert torch.allclose(
        log_likelihood(sink, FRAME, "Y", F) - ell,
        torch.full_like(ell, float(log_likelihood(sink, FRAME, "Y", F)[0] - ell[0])),
    )
    other = FRAME.assign(D=FRAME["D"] * 3)  # a node that is no parent and no child
    moved = log_likelihood(GRAPH, other, "Y", F) - joint
    assert torch.allclose(moved, moved[:1].expand(6))
    order = torch.randperm(60)
    assert torch.allclose(log_likelihood(GRAPH, FRAME.iloc[order.tolist()], "Y", F[:, order]), joint)
    assert torch.equal(bic(GRAPH, FRAME, "Y", F).argsort(), joint.argsort())


def test_what_a_source_optimal_predictor_gets() -> None:
    """Of all linear predictors the best one, with the child, has the largest plug-in joint likelihood on the source."""
    many = draw(GRAPH, 20_000, 5)
    x = np.column_stack([np.ones(20_000), many[["A", "B", "S"]]])
    best, parents = (np.linalg.lstsq(x[:, :k], many["Y"], rcond=None)[0] for k in (4, 3))
    f = torch.tensor(np.stack([x @ best, x[:, :3] @ parents, x @ (best * 1.02)]))
    joint = log_likelihood(GRAPH, many, "Y", f, source=many)
    target = log_likelihood(GRAPH, many, "Y", f, source=many, terms="target")
    assert joint[0] > joint[2] > joint[1] and target[1] > target[0]


@pytest.mark.parametrize("exhibit", causal.EXHIBITS)
def test_exhibits_are_loved(exhibit: str) -> None:
    honest = F[0]
    f = torch.stack([honest, causal.degenerate(exhibit, GRAPH, FRAME, "Y", honest)])
    terms = "joint" if exhibit == "copy of a child" else "target"
    ell = log_likelihood(GRAPH, FRAME, "Y", f, terms=terms)
    assert ell[1] > ell[0] + 60
    at_floor = -30 * (math.log(2 * math.pi * causal.FLOOR) + 1)
    if exhibit in ("constant", "line of a parent"):
        assert ell[1] == pytest.approx(at_floor)
    if exhibit == "line of a parent":
        assert f[1].mean() == pytest.approx(float(honest.mean())) and f[1].std() == pytest.approx(float(honest.std()))
        first = FRAME[next(GRAPH.predecessors("Y"))].to_numpy()
        assert np.corrcoef(f[1], first)[0, 1] == pytest.approx(1)  # not turned round
    if exhibit == "copy of a child":
        assert f[1].tolist() == FRAME["S"].tolist()
    distance = plug_in_distance(GRAPH, FRAME, "Y", f, SOURCE)
    assert distance[1] > 1  # the plug-in form is not taken in


def test_the_floor_is_a_floor() -> None:
    flat = torch.zeros(1, 60, dtype=torch.float64)
    for floor in (1e-3, 1e-6):
        ell = log_likelihood(GRAPH, FRAME, "Y", flat, terms="target", floor=floor)
        assert ell.item() == pytest.approx(-30 * (math.log(2 * math.pi * floor) + 1))
    for several, first in ((flat, 0), (torch.cat([F[:1], flat]), 1)):
        message = f"floor must be positive: candidate {first} leaves 'Y' a residual variance of 0"
        with pytest.raises(ValueError, match=message):
            log_likelihood(GRAPH, FRAME, "Y", several, terms="target", floor=0.0)


def test_the_unit_of_a_column_does_not_matter() -> None:
    """To anything but the floor: grams or tonnes, a regression is as well determined."""
    scaled = FRAME.assign(A=1e-9 * FRAME["A"], B=1e9 * FRAME["B"])
    assert torch.allclose(
        log_likelihood(GRAPH, scaled, "Y", F, terms="target"), log_likelihood(GRAPH, FRAME, "Y", F, terms="target")
    )


def test_the_score_of_classes_is_a_divergence() -> None:
    g = torch.Generator().manual_seed(1)
    f, p = torch.randn(3, 8, 4, generator=g).double().softmax(-1), torch.randn(8, 4, generator=g).double().softmax(-1)
    wanted = -torch.distributions.kl_divergence(
        torch.distributions.Categorical(f), torch.distributions.Categorical(p)
    ).mean(1)
    assert torch.allclose(causal.class_score(f, p), wanted)
    sure = torch.eye(4, dtype=torch.float64)[torch.arange(8) % 4].unsqueeze(0)
    assert causal.class_score(sure, p).isfinite().all() and causal.class_score(p.unsqueeze(0), p).abs().max() < 1e-12


def test_selection_is_the_formula() -> None:
    scores, errors = torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([4.0, 1.0, 2.0, 3.0])
    assert normalised(errors).tolist() == pytest.approx([1, 0, 1 / 3, 2 / 3])
    total = normalised(errors) + 1.0 * normalised(-scores)  # 1, 2/3, 2/3, 5/3
    assert select(scores, errors, keep=1.0).tolist() == total.argsort(stable=True).tolist() == [1, 2, 0, 3]
    assert select(scores, errors, weight=0.0).tolist() == [1]
    assert select(scores, errors, weight=math.inf, keep=0.5).tolist() == [0, 2]
    assert select(scores, errors, weight=5.0).tolist() == [0]
    assert select(torch.zeros(4), errors, weight=0.0).tolist() == [1]  # a term that does not count may be equal
    assert select(scores, torch.zeros(4), weight=math.inf).tolist() == [0]
    assert normalised(torch.tensor([5.0, 3.0])).tolist() == [1, 0]  # two candidates are enough


def test_another_candidate_changes_the_winner() -> None:
    """Between the same two, by the same weight: a third that nobody takes turns the choice round."""
    scores, errors = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    for third, winner in (((-9.0, 0.5), 0), ((0.5, 9.0), 1)):
        chosen = select(torch.cat([scores, torch.tensor(third[:1])]), torch.cat([errors, torch.tensor(third[1:])]))
        assert chosen.tolist() == [winner]


def test_noise_on_a_shortcut_teaches_to_do_without_it() -> None:
    task = data.causal_world(GRAPH, 0, shift={"S": Shift(gain=-1)}, n_test=500)
    noise = torch.tensor([0.0, 0.0, 10.0, 10.0]).unsqueeze(1) * torch.tensor([0.0, 0, 0, 1])
    make = partial(MLP, (4, 1))
    fleet = fit(task, 4, make, causal.on_values(task, noise=noise), epochs=100, batch_size=64, lr=0.03)
    on_s = fleet.weights[0][:, 3, 0]
    assert (on_s[:2] > 0.8).all() and (on_s[2:].abs() < 0.2).all()
    assert torch.allclose(
        on_s[2],
        fit(task, [2], make, causal.on_values(task, noise=noise[2:3]), epochs=100, batch_size=64, lr=0.03).weights[0][
            0, 3, 0
        ],
        atol=1e-5,
    )
    index = torch.arange(9).expand(4, -1)
    squares = (fleet.predict(task.x_train[:9]).squeeze(-1) - task.y_train[:9]).square().mean(1)
    assert torch.allclose(causal.on_values(task)(fleet.model, task.x_train[index], index), squares)
    targets = torch.stack([task.x_train[:, 0], -task.x_train[:, 1]])
    taught = fit(task, 4, make, causal.on_values(task, targets), epochs=100, batch_size=64, lr=0.03)
    wanted = torch.tensor([[1.0, 0, 0, 0], [0, -1.0, 0, 0]]).repeat(2, 1)
    assert torch.allclose(taught.weights[0].squeeze(2), wanted, atol=0.05)


SAME = FRAME.assign(B=FRAME["A"] * 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_likelihood(nx.DiGraph([("A", "Y"), ("Y", "A")]), FRAME, "Y", F), "graph must have no cycle"),
        (
            lambda: log_likelihood(GRAPH, FRAME.drop(columns="B"), "Y", F),
            "frame must have a column for every node of the graph, got none for 'B'",
        ),
        (lambda: log_likelihood(GRAPH, FRAME, "A", F), "target must have parents in the graph, got 'A'"),
        (lambda: log_likelihood(GRAPH, FRAME, "Y", F[0]), r"predictions must have shape \(any, 60\), got \(60,\)"),
        (lambda: log_likelihood(GRAPH, FRAME, "Y", F[:, :59]), r"predictions must have shape \(any, 60\)"),
        (lambda: log_likelihood(GRAPH, FRAME, "Y", F / 0), "predictions must be finite"),
        (lambda: log_likelihood(GRAPH, FRAME, "Y", F, terms="child"), "terms must be 'joint' or 'target', got 'child'"),
        (lambda: log_likelihood(GRAPH, FRAME, "Y", F, floor=-1.0), "floor must be a finite number of at least 0"),
        (
            lambda: log_likelihood(GRAPH, SAME, "Y", F),
            "determine the regression of 'Y' on A, B: .* rank 2 of 3 in 60 rows",
        ),
        (lambda: log_likelihood(GRAPH, FRAME.iloc[:2], "Y", F[:, :2]), "rank 2 of 3 in 2 rows"),
        (lambda: log_likelihood(GRAPH, FRAME.assign(A=math.nan), "Y", F), "column 'A' must be finite, got 60 NaN"),
        (lambda: plug_in_distance(GRAPH, FRAME, "Y", F, SOURCE.drop(columns="Y")), "got none for 'Y'"),
        (
            lambda: causal.class_score(torch.ones(2, 3, 4), torch.full((3, 4), 0.25)),
            "probs must have rows that sum to 1",
        ),
        (lambda: causal.class_score(torch.full((2, 5, 4), 0.25), torch.full((3, 4), 0.25)), "probs must have shape"),
        (
            lambda: select(torch.ones(1), torch.ones(1)),
            r"scores must be of at least 2 candidates and differ between them, got \[-1.0\]",
        ),
        (lambda: select(torch.ones(3), torch.arange(3.0)), r"scores must be of at least 2 .* got \[-1.0, -1.0, -1.0\]"),
        (lambda: select(torch.arange(3.0), torch.ones(3)), "errors must be of at least 2 candidates and differ"),
        (lambda: select(torch.arange(3.0), torch.ones(2)), "errors must have one number for each of 3 scores, got 2"),
        (
            lambda: select(torch.arange(3.0), torch.arange(3.0), weight=-1.0),
            "weight must be a number of at least 0, got -1.0",
        ),
        (lambda: select(torch.arange(3.0), torch.arange(3.0), keep=0.0), "keep must lie above 0"),
        (lambda: causal.degenerate("oracle", GRAPH, FRAME, "Y", F[0]), "exhibit must be one of constant, tenth"),
        (
            lambda: causal.degenerate("copy of a child", GRAPH, FRAME, "S", F[0]),
            "target must have a child to copy, got 'S'",
        ),
        (lambda: causal.on_values(data.causal_world(GRAPH), noise=torch.zeros(2, 3)), "noise must have shape"),
        (lambda: causal.on_values(data.causal_world(GRAPH), torch.zeros(2, 3)), "targets must have shape"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
