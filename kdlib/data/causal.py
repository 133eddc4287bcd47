"""Worlds with a causal graph, in which a shift is a change of a mechanism, and one real data set with an accepted graph.

A structural causal model: v = gain * sum over parents of weight * g(parent) + mean + noise * scale * e, with e standard normal and
independent. `Shift` changes mean, scale and gain of a node; all else stays. Source: the synthetic setting of Kyono & van der
Schaar's released code (unit weights, noise of mean 1 and deviation 2 as the shift); the world with a spurious child is this book's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kdlib import _check, _seeds
from kdlib.data import places
from kdlib.data.task import Task

EXTRAS = ("x_validation", "y_validation", "x_source_test", "y_source_test")
MECHANISMS = ("linear", "nonlinear")
SACHS = "sachs.2005.continuous.discrete.experimental.mixed.maximum.2.txt"
SACHS_MD5 = "39d1cce6729a73abf5f3df71d8e6cad4"
SACHS_ADDRESS = "https://github.com/cmu-phil/example-causal-datasets, real/sachs/data, commit a23adc349a23fc34d258193b45c60522ca6355b4"
PROTEINS = ("raf", "mek", "plc", "pip2", "pip3", "erk", "akt", "pka", "pkc", "p38", "jnk")
SIGNALS = (
    "erk akt, mek erk, pip2 pkc, pip3 akt, pip3 pip2, pip3 plc, pka akt, pka erk, pka jnk, pka mek, "
    "pka p38, pka raf, pkc jnk, pkc mek, pkc p38, pkc pka, pkc raf, plc pip2, plc pkc, raf mek"
)


@dataclass(frozen=True)
class Shift:
    """How a node's own mechanism changes: `mean` is added to its noise, `scale` and `gain` multiply noise and parents' effect."""

    mean: float = 0.0
    scale: float = 1.0
    gain: float = 1.0

    def __post_init__(self) -> None:
        _check.not_negative(self.scale, "scale")
        for name in ("mean", "gain"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)!r}")


def spurious_child() -> nx.DiGraph:
    """A -> B, {A, B} -> Y -> S, and D alone: S is nearly a copy of the target, and its effect.

    B = 0.8 A + e, Y = A + B + e, S = Y + 0.3 e; all e standard normal.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(["A", "B", "D", "S", "Y"], noise=1.0)
    graph.nodes["S"]["noise"] = 0.3
    graph.add_weighted_edges_from([("A", "B", 0.8), ("A", "Y", 1.0), ("B", "Y", 1.0), ("Y", "S", 1.0)])
    return graph


def random_dag(nodes: int, seed: int = 0, share: float = 0.6) -> nx.DiGraph:
    """A graph on V1, V2, ... and the target Y, which is last: each node is a cause of each later one with probability `share`.

    Weights and noise are 1. Y has at least one parent: without any, V1 is made one. Raises ValueError for fewer than 2 nodes.
    """
    if _check.integer(nodes, "nodes") < 2:
        raise ValueError(f"nodes must be at least 2, got {nodes}")
    _check.fraction(share, "share")
    names = [f"V{i}" for i in range(1, nodes)] + ["Y"]
    drawn = torch.rand(nodes, nodes, generator=_seeds.stream(seed, "graph"), dtype=torch.float64, device="cpu") < share
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from((names[i], names[j]) for j in range(nodes) for i in range(j) if drawn[i, j])
    if graph.in_degree("Y") == 0:
        graph.add_edge("V1", "Y")
    return graph


def checked(graph: nx.DiGraph, target: str | None = None) -> nx.DiGraph:
    """The graph itself. Raises ValueError for one with a cycle, or a target that it lacks or that has no parents in it."""
    if not isinstance(graph, nx.DiGraph):
        raise ValueError(f"graph must be a networkx.DiGraph, got {type(graph).__name__}")
    if not nx.is_directed_acyclic_graph(graph):
        cycle = " -> ".join(str(a) for a, _ in nx.find_cycle(graph))
        raise ValueError(f"graph must have no cycle, got {cycle} -> and round again")
    if target is not None and target not in graph:
        raise ValueError(f"target must be a node of the graph ({', '.join(map(str, graph))}), got {target!r}")
    if target is not None and graph.in_degree(target) == 0:
        raise ValueError(f"target must have parents in the graph, got {target!r} without any")
    return graph


def draw(
    graph: nx.DiGraph,
    n: int,
    seed: int = 0,
    shift: Mapping[str, Shift] | None = None,
    mechanism: str = "linear",
    purpose: str = "causal world",
) -> pd.DataFrame:
    """`n` rows of every node, float64, in the graph's order of nodes; the same e for every shift.

    Edges have a `weight` (1 without), nodes a `noise` (standard deviation, 1 without). mechanism: "linear" has g(u) = u,
    "nonlinear" g(u) = 2 tanh u. `purpose` names the stream of random numbers. Raises ValueError for a graph with a cycle, shifts
    of nodes that it lacks, or another mechanism.
    """
    checked(graph)
    shifts = {} if shift is None else dict(shift)
    if strangers := [node for node in shifts if node not in graph]:
        raise ValueError(f"shift must name nodes of the graph ({', '.join(map(str, graph))}), got {strangers}")
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism must be one of {', '.join(MECHANISMS)}, got {mechanism!r}")
    generator = _seeds.stream(seed, purpose)
    e = torch.randn(_check.positive_int(n, "n"), len(graph), generator=generator, dtype=torch.float64, device="cpu")
    noise = dict(zip(graph, e.numpy().T, strict=True))
    values: dict[str, np.ndarray] = {}
    for node in nx.topological_sort(graph):
        own = shifts.get(node, Shift())
        said = np.zeros(n)
        for parent, _, edge in graph.in_edges(node, data=True):
            u = values[parent]
            said += edge.get("weight", 1.0) * (u if mechanism == "linear" else 2 * np.tanh(u))
        values[node] = own.gain * said + own.mean + own.scale * graph.nodes[node].get("noise", 1.0) * noise[node]
    return pd.DataFrame({node: values[node] for node in graph})


def causal_world(
    graph: nx.DiGraph,
    seed: int = 0,
    *,
    target: str = "Y",
    shift: Mapping[str, Shift] | None = None,
    mechanism: str = "linear",
    classes: int | None = None,
    n_train: int = 600,
    n_validation: int = 200,
    n_selection: int = 500,
    n_test: int = 3000,
) -> Task:
    """A `Task` to predict `target` from all other nodes: trained on the source, tested under `shift`.

    Inputs x (N, nodes - 1), float32, in the graph's order. A regression, y (N,) float32; with `classes`, the target's value is
    cut at the training set's quantiles into that many classes of equal size, whose order is that of the value (its effects go on
    hearing the value). The same seed gives the same training set, and the same noise in the test set, whatever the shift.

    `extra` has `names` of the inputs, `x_validation`, `y_validation`, `x_source_test` and `y_source_test` (the test set
    without a shift), and as data frames of all nodes, targets before any cut, `selection` (labelled rows of the source, kept
    from training) and `shifted` (the test set). Raises ValueError as `draw`, for a target without parents or fewer than 2 classes.
    """
    checked(graph, target)
    sizes = {"train": n_train, "validation": n_validation, "selection": n_selection}
    frames = {name: draw(graph, n, seed, None, mechanism, f"causal {name}") for name, n in sizes.items()}
    frames["source_test"] = draw(graph, n_test, seed, None, mechanism, "causal test")
    frames["test"] = draw(graph, n_test, seed, shift, mechanism, "causal test")
    names = [node for node in graph if node != target]
    if classes is not None and _check.positive_int(classes, "classes") < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    shares = np.arange(1, classes or 1) / (classes or 1)  # none for a regression
    cuts = frames["train"][target].quantile(shares).to_numpy()
    made: dict[str, Tensor] = {}
    for name, frame in frames.items():
        made[f"x_{name}"] = torch.tensor(frame[names].to_numpy(), dtype=torch.float32, device="cpu")
        y = frame[target].to_numpy()
        if classes is None:
            made[f"y_{name}"] = torch.tensor(y, dtype=torch.float32, device="cpu")
        else:
            made[f"y_{name}"] = torch.tensor(np.searchsorted(cuts, y), dtype=torch.int64, device="cpu")
    extra: dict[str, Any] = {name: made[name] for name in EXTRAS}
    extra |= {"names": tuple(names), "selection": frames["selection"], "shifted": frames["test"]}
    return Task(
        made["x_train"], made["y_train"], made["x_test"], made["y_test"], classes or 1,
        name=f"causal world of {target}", extra=extra,
    )  # fmt: skip


def sachs(root: places.Root = None) -> tuple[nx.DiGraph, pd.DataFrame]:
    """Protein signalling in single cells: the accepted graph (11 nodes, 20 edges), and 7,466 rows of logarithms of abundances.

    The frame has the proteins' columns and `regime`, 0 to 8, which chemicals were given. The graph has no cycle in this reading;
    it is what the biologists agreed on, not a fact of the data. The file lies in the folder `causal` under `root`, else under
    the environment variable KDLIB_DATA; nothing is downloaded. Raises ValueError where it is missing, saying how to get it, or damaged.

    Source: K. Sachs et al., Science 308 (2005); the copy in cmu-phil/example-causal-datasets, CC0.
    """
    path = places.data_root(root) / "causal" / SACHS
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: fetch it from {SACHS_ADDRESS}, and name the folder above `causal` by KDLIB_DATA"
        )
    blob = path.read_bytes()
    if (found := hashlib.md5(blob, usedforsecurity=False).hexdigest()) != SACHS_MD5:
        raise ValueError(f"{path} is damaged: its md5 is {found}, expected {SACHS_MD5}; fetch it again")
    table = pd.read_csv(path, sep="\t")
    given = table.drop(columns=list(PROTEINS))
    frame = table[list(PROTEINS)].astype(float).assign(regime=given.groupby(list(given), sort=True).ngroup())
    graph = nx.DiGraph()
    graph.add_nodes_from(PROTEINS)
    graph.add_edges_from(pair.split() for pair in SIGNALS.split(", "))
    return graph, frame
