"""Which students step together, in how many threads, and in what pieces data go through a fleet: from a model's own cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kdlib.models import CNN, MLP, FleetModel

# Students step in groups whose working set fits a core's share of the cache: measured best between 7 and 20 MB.
CACHE_BYTES = 10_000_000
# Below this many multiply-adds a step, a second thread costs more than it brings.
WORK_PER_THREAD = 40_000_000
# Activations of one piece of data when a fleet is only asked for logits.
PIECE_BYTES = 64_000_000


@dataclass(frozen=True)
class Plan:
    """`groups` of students that step together, `workers` groups at a time, `threads` for each; bytes of the largest group.

    `group_bytes` is what a group needs at its peak: copies of weights, gradients, the optimiser's two moments, activations.
    """

    groups: tuple[slice, ...]
    workers: int
    threads: int
    group_bytes: int


def plan(
    model: FleetModel,
    batch: Tensor,
    blocks: Sequence[slice],
    *,
    threads: int | None = None,
    together: int = 1,
    compiled: bool = False,
) -> Plan:
    """Divide students of `model` into groups for steps on batches like `batch (B, ...)`.

    A group stays inside one of the `blocks`, and `together` neighbours are never parted.
    """
    cost = model.cost(batch)
    bytes_each = state_bytes(model) + cost.activation_bytes - cost.passing_bytes
    on_cpu = model.flat.device.type == "cpu"
    available = thread_count(threads, 3 * cost.multiply_adds * len(model.seeds)) if on_cpu else 1
    units = sum(-(-(block.stop - block.start) // together) for block in blocks)
    workers = 1 if compiled else max(1, min(available, units))
    if on_cpu:
        limit = max(4 if isinstance(model, MLP) else 1, (CACHE_BYTES - cost.passing_bytes) // bytes_each)
    else:
        limit = max(1, _free(model.flat.device) // bytes_each)
    groups = []
    for block in blocks:
        size = -(-(block.stop - block.start) // together)
        # rounds of one group a thread, all about as large
        share = max(1, round(workers * size / units)) if len(blocks) > 1 else workers
        rounds = -(-size // (max(1, limit // together) * share))
        groups += [
            slice(block.start + part.start * together, min(block.stop, block.start + part.stop * together))
            for part in slices(size, -(-size // (rounds * share)))
        ]
    largest = max(group.stop - group.start for group in groups)
    return Plan(tuple(groups), workers, max(1, available // workers), largest * bytes_each + cost.passing_bytes)


def state_bytes(model: FleetModel) -> int:
    """Bytes a student's weights take while it trains, beside the model's own row: gradient, moments, a tape's copies."""
    copies = 5 if type(model) is MLP else 3
    return copies * model.flat[0].numel() * model.flat.element_size()


def pieces(model: FleetModel, x: Tensor) -> tuple[int, int]:
    """How many students and how many of the examples x (N, ...) go through the model at once."""
    cost = model.cost(x[:1])
    at_once = len(model.seeds) if isinstance(model, MLP | CNN) else min(len(model.seeds), 32)
    if cost.passing_bytes:  # one after another: what a student needs may stay in the cache
        return at_once, max(1, min(2048, CACHE_BYTES // cost.activation_bytes))
    return at_once, max(1, min(2048, PIECE_BYTES // max(1, cost.activation_bytes * at_once)))


def thread_count(threads: int | None, work: int) -> int:
    """Threads asked for, or by the multiply-adds of a step, at most what torch has."""
    return threads or max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))


def slices(length: int, size: int) -> list[slice]:
    """0..length in the fewest slices of at most `size`, as even as can be."""
    count = -(-length // size)
    edges = [i * length // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 1 << 33
