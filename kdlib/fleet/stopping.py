"""Early stopping with the best weights restored, each student for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kdlib import _check
from kdlib.fleet.engine import Progress
from kdlib.fleet.result import Fleet


def early_stopped(
    run: Iterable[Progress], loss: Callable[[Fleet], Tensor], *, every: int = 1
) -> tuple[Fleet, list[int]]:
    """The fleet with each student's weights as they were at its lowest loss, the first of equals, and the epochs of that.

    `run` is a `fleet.training` or `fleet.fitting` and goes to its end; `loss(fleet) -> (F,)`, for instance on validation data, is
    asked after every `every` epochs. Where it never is a number, the first weights asked about stay. Raises ValueError for an
    `every` below 1 or beyond the run, and for a loss of another shape.
    """
    _check.positive_int(every, "every")
    fleet: Fleet | None = None
    for state in run:
        if state.epoch % every:
            continue
        flat, now = state.fleet.model.flat.data, loss(state.fleet).detach()
        if fleet is None:
            fleet, kept = state.fleet, flat.clone()
            epochs = torch.full((len(flat),), state.epoch, dtype=torch.int64, device="cpu")
            low = torch.full((len(flat),), torch.inf, dtype=now.dtype, device=now.device)
        _check.shape("loss(fleet)", now, (len(flat),))
        better = now < low
        low[better], kept[better], epochs[better.cpu()] = now[better], flat[better], state.epoch
    if fleet is None:
        raise ValueError(f"every must be at most the number of epochs of the run, got {every}")
    fleet.model.flat.data.copy_(kept)
    return fleet, epochs.tolist()
