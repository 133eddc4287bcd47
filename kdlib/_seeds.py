"""Random streams: one per purpose, so that data, initialisation and data order of the same seed are independent draws."""

from __future__ import annotations

import numpy as np
import torch

from kdlib import _check


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator fixed by `seed` (0 or more) and `purpose`.

    Seeding every generator with the bare seed would make them one stream: a student's first weights would be the very
    numbers that placed the classes. (Adding an offset does not help in general: torch's CPU generator keeps only the low
    32 bits of a seed.) Raises ValueError for a seed that is not an integer of at least 0.
    """
    mixed = np.random.SeedSequence([_check.integer(seed, "seed"), *purpose.encode()]).generate_state(1)[0]
    return torch.Generator("cpu").manual_seed(int(mixed))
