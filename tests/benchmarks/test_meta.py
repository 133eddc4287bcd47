"""A meta step against a step of distillation, and a fleet of 16 pairs against one pair after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kdlib.mechanisms import meta
from kdlib.models import MLP

from .conftest import Contest

STEP = "static distillation, fleet of 16"
CONTENDERS = {STEP: (0.0, True), "meta step, fleet of 16": (3e-4, True), "meta step, 16 in a loop": (3e-4, False)}


@pytest.mark.parametrize("contender", CONTENDERS)
def test_meta_step(measure: Callable[..., None], timing: bool, contender: str) -> None:
    g, steps = torch.Generator().manual_seed(0), 20 if timing else 1
    x, quiz = (torch.randn(16, n, 20, generator=g) for n in (640, 64))
    y, quiz_y = (torch.randint(10, (16, n), generator=g) for n in (640, 64))
    rate, together = CONTENDERS[contender]

    def run() -> None:
        for rows in [slice(0, 16)] if together else [slice(f, f + 1) for f in range(16)]:
            seeds = range(rows.start, rows.stop)
            student, teacher = MLP((20, 8, 10), seeds), MLP((20, 128, 10), seeds)
            own = (t[rows] for t in (x, y, quiz, quiz_y))
            for _ in meta.train(student, teacher, *own, steps=steps, teacher_lr=rate):
                pass

    measure(Contest("a meta step (quiz as large as the batch)", STEP, "ms", steps), contender, run, 5 if timing else 1)
