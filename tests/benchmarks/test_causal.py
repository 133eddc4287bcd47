"""Scores of a hundred candidates at once, against a regression for each."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from kdlib.data.causal import draw, spurious_child
from kdlib.mechanisms.causal import log_likelihood

from .conftest import Contest

LOOP = "NumPy, one candidate after the other"


def one_by_one(graph: nx.DiGraph, frame: pd.DataFrame, predictions: np.ndarray) -> list[float]:
    """Least squares of every node for every candidate."""
    scores = []
    for f in predictions:
        table, total = frame.assign(Y=f), 0.0
        for node in graph:
            x = np.column_stack([np.ones(len(table)), table[list(graph.predecessors(node))]])
            rest = table[node].to_numpy() - x @ np.linalg.lstsq(x, table[node].to_numpy(), rcond=None)[0]
            total -= len(table) / 2 * (np.log(2 * np.pi * np.mean(rest**2)) + 1)
        scores.append(total)
    return scores


@pytest.mark.parametrize("contender", [LOOP, "kdlib"])
def test_causal_scores(contender: str, timing: bool, measure: Callable[..., None]) -> None:
    """The joint likelihood of 100 candidates on 10,000 rows of five nodes."""
    many, rows = (100, 10_000) if timing else (3, 50)
    graph = spurious_child()
    frame = draw(graph, rows, 0)
    noise = torch.randn(many, rows, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = torch.tensor(frame["Y"].to_numpy()) + noise
    found = log_likelihood(graph, frame, "Y", f[:3])
    assert found.tolist() == pytest.approx(one_by_one(graph, frame, f[:3].numpy()), rel=1e-9)

    def run() -> object:
        return one_by_one(graph, frame, f.numpy()) if contender == LOOP else log_likelihood(graph, frame, "Y", f)

    contest = Contest("scores of 100 candidates on 10,000 rows", LOOP, "ms")
    measure(contest, contender, run, 5, 1 if timing else 0)
