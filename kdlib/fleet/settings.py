"""The settings of a training run, checked before its first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

from kdlib import _check
from kdlib.models import FleetModel

Number = float | Sequence[float]
Maker = Callable[[Sequence[int]], FleetModel]


class Optimiser(Protocol):
    """What makes a torch optimiser: `torch.optim.SGD` itself, say, or `functools.partial(torch.optim.SGD, momentum=0.9)`."""

    def __call__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float) -> torch.optim.Optimizer: ...


def adamw(params: Iterable[Tensor], *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """torch's AdamW, one fused step for a whole group."""
    params = list(params)
    return torch.optim.AdamW(
        params, lr=lr, weight_decay=weight_decay, fused=all(p.device.type in ("cpu", "cuda") for p in params)
    )


class Setting(NamedTuple):
    """What one student's optimiser is told."""

    lr: float
    weight_decay: float
    epochs: int


class Settings(TypedDict, total=False):
    """Keyword arguments of `training`, which describes them; `train` and `fit` take them too."""

    epochs: int | Sequence[int]
    batch_size: int | None
    lr: Number
    weight_decay: Number
    optimiser: Optimiser
    schedule: str
    curve: int | Sequence[int] | None
    device: str | torch.device | None
    dtype: torch.dtype
    threads: int | None
    compile: bool


class TrainSettings(Settings, total=False):
    """Keyword arguments of `train`."""

    seeds: int | Iterable[int]
    hidden: Sequence[int]
    model: Maker | None


def grid(lr: Number, weight_decay: Number, epochs: int | Sequence[int]) -> tuple[list[Setting], list[str]]:
    """All combinations, and the names of those given as sequences.

    Raises ValueError for numbers out of range, or the same one twice.
    """
    lrs = _values(lr, "lr", lambda v: 0 < v < math.inf, "positive")
    decays = _values(weight_decay, "weight_decay", lambda v: 0 <= v < math.inf, "not negative")
    lengths = [_check.positive_int(e, "epochs") for e in _listed(epochs)]
    if not lengths or len(set(lengths)) < len(lengths):
        raise ValueError(f"epochs must be a number or different numbers, got {epochs!r}")
    swept = [n for n, v in zip(Setting._fields, (lr, weight_decay, epochs), strict=True) if not _single(v)]
    return [Setting(*values) for values in product(lrs, decays, lengths)], swept


def marks(curve: int | Sequence[int] | None, epochs: int) -> set[int]:
    """The epochs after which to evaluate."""
    if curve is None:
        return set()
    if _single(curve):
        every = _check.positive_int(curve, "curve")  # type: ignore[arg-type]
        return set(range(every, epochs + 1, every))
    marks = {_check.positive_int(epoch, "curve") for epoch in _listed(curve)}
    if not marks or max(marks) > epochs:
        raise ValueError(f"curve must name epochs from 1 to {epochs}, got {sorted(marks)}")
    return marks


def seed_list(seeds: int | Iterable[int]) -> list[int]:
    """Seeds 0..n-1 for a number n, or those named. Raises ValueError for none, or the same one twice."""
    given = list(seeds) if isinstance(seeds, Iterable) else list(range(_check.positive_int(seeds, "seeds")))
    if bad := [seed for seed in given if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0]:
        raise ValueError(f"seed must be an integer of at least 0, got {bad[0]!r}")
    chosen = [int(seed) for seed in given]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be at least one and differ from each other, got {chosen}")
    return chosen


def _single(value: Any) -> bool:
    return not isinstance(value, Iterable) or (isinstance(value, Tensor) and value.dim() == 0)


def _listed(value: Any) -> list[Any]:
    return [value] if _single(value) else list(value)


def _values(given: Number, name: str, fits: Callable[[float], bool], expected: str) -> list[float]:
    values = _listed(given)
    for value in values:
        if isinstance(value, bool | str) or not hasattr(value, "__float__") or not fits(float(value)):
            raise ValueError(f"{name} must be {expected} and finite, got {value!r}")
    made = [float(value) for value in values]
    if not made or len(set(made)) < len(made):
        raise ValueError(f"{name} must be a number or different numbers, got {given!r}")
    return made
