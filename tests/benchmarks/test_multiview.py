"""Multi-view networks as a fleet, against training one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import Task, data
from kdlib.fleet import fitting
from kdlib.mechanisms.ensembles import MultiViewNet, descent, on_labels

from .conftest import Contest

LOOP = "one network after the other"
NETWORKS = 64


def plain(task: Task, seed: int) -> Callable[[], None]:
    """A step of one network, in plain torch."""
    torch.manual_seed(seed)
    x, w = task.x_train.flatten(0, 1), (0.01 * torch.randn(60, 60)).requires_grad_()

    def logits() -> Tensor:
        z = x @ w.T  # (N P, K m)
        bent = (z / 0.5).clamp(0, 1)
        h = bent.square().square() * 0.125 + torch.relu(z - 0.5)
        return h.view(-1, 6, 5, 12).sum((1, 3))

    def step() -> None:
        (g,) = torch.autograd.grad(F.cross_entropy(logits(), task.y_train), w)
        with torch.no_grad():
            w.sub_(g * (0.1 / g.norm(dim=1).max()).clamp(max=600))

    return step


def loop(task: Task, networks: int, steps: int) -> Iterator[None]:
    made = [plain(task, seed) for seed in range(networks)]
    while True:
        for step in made:
            for _ in range(steps):
                step()
        yield


def fleet(task: Task, networks: int, steps: int, rounds: int) -> Iterator[None]:
    net = partial(MultiViewNet, 5, 12, 60)
    run = fitting(task, networks, net, on_labels(task), epochs=steps * rounds, threads=1, **descent(task))
    while True:
        for _ in range(steps):
            next(run)
        yield


@pytest.mark.parametrize("contender", [LOOP, "kdlib"])
def test_multiview(contender: str, timing: bool, measure: Callable[..., None]) -> None:
    """64 networks of 60 neurons on 120 images of 6 patches, all images a step: ten steps."""
    task = data.multiview(0, n_test=1)
    networks, steps, rounds = (NETWORKS, 10, 5) if timing else (2, 1, 1)
    run = loop(task, networks, steps) if contender == LOOP else fleet(task, networks, steps, rounds + 2)
    contest = Contest("ten steps of 64 multi-view networks, 120 images of 6 patches", LOOP, "ms")
    measure(contest, contender, lambda: next(run), rounds, 1 if timing else 0)
