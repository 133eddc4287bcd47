"""Random streams: fixed by seed and purpose, unrelated otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from kdlib._seeds import stream


def numbers(seed: int, purpose: str, n: int = 1000) -> torch.Tensor:
    return torch.randn(n, generator=stream(seed, purpose))


def test_same_seed_and_purpose_give_the_same_numbers() -> None:
    assert torch.equal(numbers(3, "a"), numbers(3, "a"))
    assert torch.equal(numbers(3, "a"), numbers(np.int64(3), "a"))  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [(3, "b"), (4, "a"), (3 + 2**32, "a"), (0, "a"), (3, "ab")])
def test_other_seeds_and_purposes_give_unrelated_numbers(other: tuple[int, str]) -> None:
    assert stats.pearsonr(numbers(3, "a"), numbers(*other)).pvalue > 1e-4


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, True])
def test_bad_seed_is_named(seed: object) -> None:
    with pytest.raises(ValueError, match=rf"seed must be an integer of at least 0, got {seed!r}"):
        stream(seed, "a")  # type: ignore[arg-type]
