"""Choosing a teacher by what is known of causes: how likely are its predictions under a structural causal model?

Predictions stand in the target's place, and the score of a candidate is the Gaussian log-likelihood of a graph whose equations are
linear. Larger is better throughout, in nats. Source: Kyono & van der Schaar, "Improving Model Robustness Using Causal Knowledge"
(arXiv:1911.12441), by their released code; signs, the plug-in form and the classes' score are this book's explicit definitions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import networkx as nx
import pandas as pd
import torch
from torch import Tensor

from kdlib import _check, _seeds
from kdlib.data.causal import checked
from kdlib.data.task import Task
from kdlib.fleet.objective import Objective
from kdlib.models import FleetModel

FLOOR = 1e-6  # a residual variance below this counts as this
EXHIBITS = ("constant", "tenth", "line of a parent", "copy of a child")


class Regression(NamedTuple):
    """A node's equation: coefficients (1 + parents,), intercept first, and the variance of its residual, in squares of its unit."""

    parents: tuple[str, ...]
    coefficients: Tensor
    variance: float

    def __call__(self, frame: pd.DataFrame, **given: Tensor) -> Tensor:
        """Its mean for each row of `frame`, (n,), float64; with candidates (M, n) given for a parent, (M, n)."""
        columns = [given[p] if p in given else _column(frame, p) for p in self.parents]
        start = self.coefficients[0].expand(len(frame))
        return sum((c * x for c, x in zip(self.coefficients[1:], columns, strict=True)), start)


def fitted(graph: nx.DiGraph, frame: pd.DataFrame, nodes: list[str] | None = None) -> dict[str, Regression]:
    """Least squares of each node (default: all) on its parents: the parameters of the linear Gaussian model that is likeliest.

    Raises ValueError for a graph with a cycle, a node without a column, or parents whose columns do not determine coefficients.
    """
    checked(graph)
    found = {}
    for node in list(graph) if nodes is None else nodes:
        parents = tuple(graph.predecessors(node))
        design, y = _design(frame, parents, node), _column(frame, node)
        basis, upper = torch.linalg.qr(design)
        coefficients = torch.linalg.solve_triangular(upper, (basis.mT @ y).unsqueeze(1), upper=True).squeeze(1)
        found[node] = Regression(parents, coefficients, float((y - design @ coefficients).square().mean()))
    return found


def log_likelihood(
    graph: nx.DiGraph,
    frame: pd.DataFrame,
    target: str,
    predictions: Tensor,
    *,
    source: pd.DataFrame | None = None,
    terms: str = "joint",
    floor: float = FLOOR,
) -> Tensor:
    """Log-likelihood (M,) of `frame` with each of `predictions (M, n)` in the target's column; nats, larger is better, float64.

    Without `source` the parameters are refitted to each candidate: the maximum over coefficients and variances, eq. (1). With it, a
    labelled frame, they are fitted there once and plugged in; `frame` needs no column of the target then or before.

    terms: "joint" sums over all nodes; "target" has the target given its parents alone. Only that term and those of the target's
    children differ between candidates. floor: residual variances are at least this, in squares of the node's unit; at 0 a
    candidate that its parents explain exactly is an error.

    Raises ValueError for graphs with a cycle, nodes without a column, a target without parents, predictions of another shape or
    not finite, regressions that are singular, and a residual variance of 0.
    """
    checked(graph, target)
    f = _predictions(frame, predictions)
    if terms not in ("joint", "target"):
        raise ValueError(f"terms must be 'joint' or 'target', got {terms!r}")
    _check.not_negative(floor, "floor")
    nodes = [target] if terms == "target" else list(graph)
    plugged = None if source is None else fitted(graph, source, nodes)
    total = f.new_zeros(len(f))
    for node in nodes:
        if plugged is None:
            squares = variance = _refitted(graph, frame, target, f, node).clamp(min=floor)
        else:
            own = plugged[node]
            y = f if node == target else _column(frame, node)
            squares = (y - own(frame, **{target: f})).square().mean(-1).expand(len(f))
            variance = torch.full_like(squares, max(own.variance, floor))
        if bool((variance <= 0).any()):
            first = int((variance <= 0).nonzero()[0, 0])
            raise ValueError(f"floor must be positive: candidate {first} leaves {node!r} a residual variance of 0")
        total += -len(frame) / 2 * (torch.log(2 * math.pi * variance) + squares / variance)
    return total


def bic(graph: nx.DiGraph, frame: pd.DataFrame, target: str, predictions: Tensor, floor: float = FLOOR) -> Tensor:
    """2 log-likelihood - k log n, (M,), joint and refitted; larger is better. k: each node's coefficients, intercept and variance.

    The graph stays as it is given (a search that may add edges scores another graph), so it ranks as the likelihood does.
    Raises ValueError as `log_likelihood`.
    """
    score = log_likelihood(graph, frame, target, predictions, floor=floor)
    return 2 * score - (len(graph.edges) + 2 * len(graph)) * math.log(len(frame))


def plug_in_distance(graph: nx.DiGraph, frame: pd.DataFrame, target: str, f: Tensor, source: pd.DataFrame) -> Tensor:
    """Mean squared distance (M,) of predictions f (M, n) to the causal regression, that of the target on its parents in `source`.

    In squares of the target's unit, smaller is better. The plug-in likelihood's target term is a constant minus n / (2 variance)
    times it, eq. (4): so `frame` may be unlabelled, of any domain in which the target's own mechanism is whole. Raises
    ValueError as `log_likelihood`.
    """
    wanted = fitted(checked(graph, target), source, [target])[target](frame)
    return (_predictions(frame, f) - wanted).square().mean(-1)


def class_score(probs: Tensor, mechanism: Tensor) -> Tensor:
    """-KL(f || p), mean over examples, of candidates' probabilities f (M, n, K) to p (n, K) = p(class | parents); (M,), nats.

    Larger is better: the plug-in form for classes. Raises ValueError for rows that are no distributions or other shapes.
    Source: this book's.
    """
    _check.probabilities("probs", probs, (None, *_check.probabilities("mechanism", mechanism).shape))
    return (torch.xlogy(probs, mechanism) - torch.xlogy(probs, probs)).sum(-1).mean(-1)


def normalised(values: Tensor, name: str = "values") -> Tensor:
    """Values (M,) from 0, the smallest, to 1, the largest, float64. Raises ValueError where all are equal, or there is one alone."""
    x = _check.finite(name, _check.shape(name, torch.as_tensor(values, dtype=torch.float64), (None,)))
    if len(x) < 2 or x.min() == x.max():
        raise ValueError(f"{name} must be of at least 2 candidates and differ between them, got {x.tolist()!r:.80}")
    low, high = torch.aminmax(x)
    return (x - low) / (high - low)


def select(scores: Tensor, errors: Tensor, weight: float = 1.0, keep: float = 0.1) -> Tensor:
    """Numbers of the candidates with the smallest norm(errors) + weight norm(-scores), best first: the share `keep`, at least one.

    norm goes from 0 to 1 over the candidates (`normalised`). The sign: `scores` are likelihoods, larger is better, `errors` (say
    mean squared errors) smaller. weight=0 is selection by error alone, weight=inf by score alone. Raises ValueError for one candidate,
    candidates that are equal in a term that counts, or numbers that are not finite.

    Source: CAM of the released code, which adds norm(BIC) as its library returns it; here the sign is explicit.
    """
    if not isinstance(weight, int | float) or not weight >= 0:
        raise ValueError(f"weight must be a number of at least 0, got {weight!r}")
    if not 0 < _check.not_negative(keep, "keep") <= 1:
        raise ValueError(f"keep must lie above 0 and at most at 1, got {keep!r}")
    if len(scores) != len(errors):
        raise ValueError(f"errors must have one number for each of {len(scores)} scores, got {len(errors)}")
    by_score = normalised(-scores, "scores") if weight > 0 else torch.zeros_like(errors)
    by_error = normalised(errors, "errors") if weight < math.inf else torch.zeros_like(by_score)
    both = by_score if weight == math.inf else by_error + weight * by_score
    return both.argsort(stable=True)[: max(1, round(keep * len(both)))]


def degenerate(exhibit: str, graph: nx.DiGraph, frame: pd.DataFrame, target: str, honest: Tensor) -> Tensor:
    """Predictions (n,) that a likelihood loves and nobody wants, made of the honest ones (n,) and `frame`; float64.

    "constant": the mean of `honest`. "tenth": a tenth of it. "line of a parent": the first parent, stretched and moved to the mean
    and spread of `honest`. "copy of a child": the target's first child as it is. Raises ValueError for another exhibit, a target
    without parents, or without a child to copy.
    """
    checked(graph, target)
    f = _predictions(frame, honest.unsqueeze(0))[0]
    child = next(graph.successors(target), None)
    if exhibit not in EXHIBITS:
        raise ValueError(f"exhibit must be one of {', '.join(EXHIBITS)}, got {exhibit!r}")
    if exhibit == "copy of a child" and child is None:
        raise ValueError(f"target must have a child to copy, got {target!r} without any")
    if exhibit in ("constant", "tenth"):
        return f.mean().expand(len(f)).clone() if exhibit == "constant" else f / 10
    x = _column(frame, next(graph.predecessors(target)) if exhibit == "line of a parent" else str(child))
    return x if exhibit == "copy of a child" else f.mean() + f.std() * (x - x.mean()) / x.std()


def on_values(task: Task, targets: Tensor | None = None, noise: Tensor | None = None, seed: int = 0) -> Objective:
    """Mean squared error (F,) against `y_train`, or `targets (R, N)`: student f hears row f modulo R.

    noise: standard deviations (F, d) of what training adds to the inputs, one draw for all students: who sees a shortcut
    through much noise learns to do without it. Raises ValueError for targets or noise of another shape.
    """
    table = task.y_train.unsqueeze(0) if targets is None else targets
    _check.shape("targets", table, (None, len(task.y_train)))
    if noise is not None:
        _check.shape("noise", noise, (None, task.x_train.shape[-1]))
    stream = _seeds.stream(seed, "noise on inputs")
    drawn = torch.randn(task.x_train.shape, generator=stream, dtype=torch.float32, device="cpu")

    def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        rows = model.rows.to(index.device)
        if noise is not None:
            x = x + noise.to(x)[rows].unsqueeze(1) * drawn.to(x)[index]  # (F, B, d)
        return (model.each(x).squeeze(-1) - table[(rows % len(table)).unsqueeze(1), index]).square().mean(-1)

    return objective


def _column(frame: pd.DataFrame, node: str) -> Tensor:
    if node not in frame:
        raise ValueError(f"frame must have a column for every node of the graph, got none for {node!r}")
    values = torch.tensor(frame[node].to_numpy(dtype=float), dtype=torch.float64, device="cpu")
    return _check.finite(f"column {node!r}", values)


def _design(frame: pd.DataFrame, names: Sequence[str], node: str) -> Tensor:
    """Ones and the columns `names`, (n, 1 + p), which are to explain `node`; checked to be independent."""
    ones = torch.ones(len(frame), dtype=torch.float64, device="cpu")
    design = torch.stack([ones, *(_column(frame, p) for p in names)], 1)
    rank = int(torch.linalg.matrix_rank(design / design.norm(dim=0).clamp_min(1e-300), rtol=1e-9))
    if rank < design.shape[1]:
        raise ValueError(
            f"frame must determine the regression of {node!r} on {', '.join(names) or 'a constant'}: "
            f"its columns, and a constant, have rank {rank} of {design.shape[1]} in {len(frame)} rows"
        )
    return design


def _predictions(frame: pd.DataFrame, predictions: Tensor) -> Tensor:
    _check.shape("predictions", _check.floating("predictions", predictions), (None, len(frame)))
    return _check.finite("predictions", predictions).detach().cpu().double()


def _refitted(graph: nx.DiGraph, frame: pd.DataFrame, target: str, f: Tensor, node: str) -> Tensor:
    """Residual variance (M,) of `node` on its parents, with the predictions f (M, n) for the target's column."""
    known = [p for p in graph.predecessors(node) if p != target]
    basis = torch.linalg.qr(_design(frame, known, node))[0]  # (n, 1 + p)
    y = f if node == target else _column(frame, node).unsqueeze(0)
    rest = y - (y @ basis) @ basis.mT
    squares = rest.square().sum(1)
    if len(known) < graph.in_degree(node):
        # What is left of the predictions explains what is left of their child (Frisch & Waugh 1933); a constant explains nothing.
        own = f - (f @ basis) @ basis.mT
        length = own.square().sum(1)
        none = length <= 1e-20 * f.square().sum(1)
        squares = squares - torch.where(none, 0.0, (own @ rest[0]).square() / length)
    return squares.clamp(min=0).expand(len(f)) / len(frame)
