"""Measures what groups of students need at their peak, each beside what the plan states: run by test_plan, as a process.

Live memory is meant, so large blocks must go back to the system at once (MALLOC_MMAP_THRESHOLD_ in the environment).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import kdlib.fleet.engine as engine
import kdlib.fleet.plan as planning
from kdlib import Fleet, Recipe, Task, train
from kdlib.models import CNN, MLP, FleetModel, stack


class Tower(FleetModel):
    """Somebody's own."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__([(400, 100), (400, 400), (10, 400)], seeds)

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        (w1, b1), (w2, b2), (w3, b3) = self.layers(flat)
        h = torch.baddbmm(b1, w1, x.mT).tanh()
        h = h + nn.functional.gelu(torch.baddbmm(b2, w2, h))
        return torch.baddbmm(b3, w3, h).mT


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 64), nn.Linear(64, 10)
        self.block = nn.TransformerEncoderLayer(64, 2, 256, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.words(x.abs().mul(10).long())).mean(1))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(100, 900), nn.GELU(), nn.Linear(900, 900), nn.LayerNorm(900), nn.Linear(900, 10))


# how to make students, examples' shape, students, batch
CASES: dict[str, tuple[Callable[[Sequence[int]], FleetModel], tuple[int, ...], int, int]] = {
    "MLP, weights": (partial(MLP, (100, 1200, 1200, 10)), (100,), 4, 128),
    "MLP, activations": (partial(MLP, (100, 200, 10)), (100,), 8, 8192),
    "CNN": (partial(CNN, (1, 16, 32), 10), (1, 28, 28), 4, 512),
    "CNN, three layers": (partial(CNN, (3, 8, 16, 32), 10), (3, 33, 33), 2, 512),
    "stack, one by one": (partial(stack, Reader), (32,), 3, 256),
    "stack, together": (partial(stack, wide), (100,), 8, 5),
    "own": (Tower, (100,), 8, 1024),
}


def reset() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def random_task(n: int, *shape: int) -> Task:
    x, y = torch.randn(n, *shape).clamp(-4.9, 4.9), torch.arange(n) % 10
    return Task(x, y, x[:2], y[:2], 10)


def main() -> None:
    torch.set_num_threads(1)
    planning.CACHE_BYTES = 10**12  # one group
    stated: list[planning.Plan] = []
    before: list[int] = []
    plan = engine.plan

    def watched(*args: Any, **settings: Any) -> planning.Plan:
        reset()
        before.append(peak())
        stated.append(plan(*args, **settings))
        return stated[-1]

    engine.plan = watched  # type: ignore[assignment]
    rows = {}
    for name, (make, shape, students, batch) in CASES.items():
        train(random_task(2, *shape), Recipe.hard(), seeds=2, model=make, epochs=1, threads=1)  # libraries are loaded
        train(
            random_task(batch, *shape), Recipe.hard(), seeds=students, model=make, epochs=2, batch_size=batch, threads=1
        )
        rows[name] = [stated[-1].group_bytes, peak() - before[-1], len(stated[-1].groups)]
    task = Task(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.long), *random_test(), 10)
    for students in (4, 32):
        fleet = Fleet(CNN((1, 16, 32), 10, range(students)), pd.DataFrame({"seed": range(students)}))
        reset()
        start = peak()
        fleet.evaluate(task)
        rows[f"evaluate {students}"] = [0, peak() - start, 1]
    print(json.dumps(rows))


def random_test() -> tuple[Tensor, Tensor]:
    task = random_task(2000, 1, 28, 28)
    return task.x_train, task.y_train


if __name__ == "__main__":
    main()
