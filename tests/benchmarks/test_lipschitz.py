"""The spectral norm of a wide network's Jacobian, by products with it against the Jacobian in full."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.func import jacrev, vmap

from kdlib.mechanisms.lipschitz import local_norm
from kdlib.models import MLP

from .conftest import Contest

FULL = "the full Jacobian, by jacrev and SVD"


@pytest.mark.parametrize("contender", [FULL, "local_norm, 20 rounds"])
def test_local_norm(measure: Callable[..., None], timing: bool, contender: str) -> None:
    """Three layers of width 512 and 512 outputs, 32 examples."""
    width, n = (512, 32) if timing else (8, 3)
    net, x = MLP([width] * 5, [0]), torch.randn(n, width)

    def run() -> torch.Tensor:
        if contender == FULL:
            return torch.linalg.matrix_norm(vmap(jacrev(lambda row: net(row[None])[0, 0]))(x), ord=2)
        return local_norm(lambda rows: net(rows)[0], x, 20)

    contest = Contest("norms of 32 Jacobians, width 512, 512 outputs", FULL, "ms")
    measure(contest, contender, run, 5 if timing else 1)
