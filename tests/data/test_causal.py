"""Worlds with a causal graph: equations, shifts, what stays the same, and the file of the proteins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from kdlib.data import causal, causal_world
from kdlib.data.causal import Shift, draw, random_dag, spurious_child

EACH = {node: Shift(1, 2) for node in spurious_child()}


@pytest.mark.parametrize("shift", [{}, {"S": Shift(gain=-1)}, {"S": Shift(0.5, 10)}, EACH])
@pytest.mark.parametrize("mechanism", causal.MECHANISMS)
def test_every_node_is_its_equation(shift: dict[str, Shift], mechanism: str) -> None:
    """The noise that is left, after every equation was solved for it, is the same for all shifts."""
    graph = spurious_child()
    g = (lambda u: u) if mechanism == "linear" else (lambda u: 2 * np.tanh(u))
    frame = draw(graph, 50, 3, shift, mechanism)
    a, b, d, s, y = (frame[node] for node in "ABDSY")
    said = {"A": 0, "B": 0.8 * g(a), "D": 0, "S": g(y), "Y": g(a) + g(b)}
    left = {}
    for node, own in zip("ABDSY", (a, b, d, s, y), strict=True):
        how = shift.get(node, Shift())
        left[node] = (own - how.gain * said[node] - how.mean) / (how.scale * (0.3 if node == "S" else 1))
    plain = draw(graph, 50, 3)
    assert np.allclose(left["A"], plain["A"]) and np.allclose(left["D"], plain["D"])
    assert np.allclose(left["B"], plain["B"] - 0.8 * plain["A"])
    assert np.allclose(left["Y"], plain["Y"] - plain["A"] - plain["B"])
    assert np.allclose(left["S"], (plain["S"] - plain["Y"]) / 0.3)


def test_covariances_are_those_of_the_linear_model() -> None:
    """Cov = (I - W)^-1 diag(noise^2) (I - W)^-T, on many rows of random graphs."""
    for seed in range(3):
        graph = random_dag(5, seed)
        frame = draw(graph, 200_000, seed, {"V2": Shift(1, 2)})
        inverse = np.linalg.inv(np.eye(5) - nx.to_numpy_array(graph))
        wanted = inverse.T @ np.diag([1, 4, 1, 1, 1]) @ inverse
        assert np.allclose(
            frame.cov() / np.sqrt(np.outer(np.diag(wanted), np.diag(wanted))),
            wanted / np.sqrt(np.outer(np.diag(wanted), np.diag(wanted))),
            atol=0.015,
        )
        assert np.allclose(frame.mean(), inverse.T @ [0, 1, 0, 0, 0], atol=0.05)


def test_a_shift_changes_the_test_set_alone() -> None:
    graph = spurious_child()
    plain, flipped = (causal_world(graph, 4, shift=shift) for shift in (None, {"S": Shift(gain=-1)}))
    assert torch.equal(plain.x_train, flipped.x_train) and torch.equal(plain.y_test, flipped.y_test)
    assert plain.extra["names"] == ("A", "B", "D", "S")
    assert torch.equal(plain.x_test[:, :3], flipped.x_test[:, :3])
    assert torch.equal(plain.x_test, flipped.extra["x_source_test"])
    for name in ("x_validation", "y_validation", "x_source_test", "y_source_test"):
        assert torch.equal(plain.extra[name], flipped.extra[name])
    assert plain.extra["selection"].equals(flipped.extra["selection"])
    shifted = flipped.extra["shifted"]
    assert np.allclose(shifted[["A", "B", "D", "S"]], flipped.x_test) and np.allclose(shifted["Y"], flipped.y_test)
    sizes = [len(plain.x_train), len(plain.extra["x_validation"]), len(plain.extra["selection"]), len(plain.x_test)]
    assert sizes == [600, 200, 500, 3000]
    more = causal_world(graph, 4, n_validation=7, n_selection=9, n_test=11)
    assert torch.equal(plain.x_train, more.x_train)


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_are_cut_from_the_value(classes: int) -> None:
    value, task = causal_world(spurious_child(), 1), causal_world(spurious_child(), 1, classes=classes)
    assert not task.is_regression and task.num_classes == classes
    assert task.y_train.bincount().tolist() == [600 // classes] * classes
    assert torch.equal(task.x_train, value.x_train)
    order = value.y_train.argsort()
    assert (task.y_train[order].diff() >= 0).all()
    tops = [value.y_train[task.y_train == k].max() for k in range(classes)]
    assert ((value.y_test > tops[0]) == (task.y_test > 0)).float().mean() > 0.99


def test_random_graphs() -> None:
    graphs = [random_dag(6, seed) for seed in range(40)]
    assert all(nx.is_directed_acyclic_graph(g) and g.in_degree("Y") and not g.out_degree("Y") for g in graphs)
    assert len({tuple(g.edges) for g in graphs}) > 30
    assert sum(len(g.edges) for g in graphs) / (40 * 15) == pytest.approx(0.6, abs=0.06)
    assert list(random_dag(3, 0, 0.0).edges) == [("V1", "Y")]
    assert len(random_dag(4, 0, 1.0).edges) == 6


def test_proteins_if_they_are_here() -> None:
    try:
        graph, frame = causal.sachs()
    except ValueError as problem:
        assert "is missing: fetch it from" in str(problem)
        pytest.skip("the proteins are not on this machine")
    assert frame.shape == (7466, 12) and frame["regime"].value_counts().tolist()[0] == 913
    assert sorted(frame["regime"].unique()) == list(range(9))
    assert len(graph.edges) == 20 and nx.is_directed_acyclic_graph(graph) and set(graph) < set(frame)


def test_a_damaged_file_of_proteins_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"causal.* is missing: fetch it from https"):
        causal.sachs(tmp_path)
    (tmp_path / "causal").mkdir()
    (tmp_path / "causal" / causal.SACHS).write_text("raf\n1\n")
    with pytest.raises(ValueError, match="is damaged: its md5 is"):
        causal.sachs(tmp_path)


CYCLE = nx.DiGraph([("A", "Y"), ("Y", "S"), ("S", "A")])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: causal_world(CYCLE), "graph must have no cycle, got A -> Y -> S ->"),
        (lambda g: causal_world(g, target="D"), "target must have parents in the graph, got 'D'"),
        (lambda g: causal_world(g, target="Q"), r"target must be a node of the graph \(A, B, D, S, Y\), got 'Q'"),
        (lambda g: causal_world(nx.Graph(g)), "graph must be a networkx.DiGraph, got Graph"),
        (lambda g: causal_world(g, shift={"Q": Shift(1)}), "shift must name nodes of the graph"),
        (lambda g: causal_world(g, mechanism="cubic"), "mechanism must be one of linear, nonlinear, got 'cubic'"),
        (lambda g: causal_world(g, classes=1), "classes must be at least 2, got 1"),
        (lambda g: causal_world(g, n_test=0), "n must be an integer of at least 1, got 0"),
        (lambda g: Shift(scale=-1.0), "scale must be a finite number of at least 0, got -1.0"),
        (lambda g: Shift(gain=math.nan), "gain must be a finite number, got nan"),
        (lambda g: random_dag(1), "nodes must be at least 2, got 1"),
        (lambda g: random_dag(3, share=1.5), "share must be a number in"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(spurious_child())
