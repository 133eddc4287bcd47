"""What a loss over very many classes costs: memory of both passes over K, and seconds of an output layer with and without sampling.

    kdlib study data/sampling_costs.py --processes 1 --store _build/studies/sampling_costs --table data/sampling_costs.npz

One thread. Memory is the peak of a process of its own above its inputs, read from /proc, so that part needs Linux.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from kdlib.losses import chunked_kd_loss, kd_loss
from kdlib.mechanisms import sampling

SIZES = {"memory": [10**3, 10**4, 10**5, 10**6], "seconds": [1000, 10_000, 50_000]}
ROUNDS = {"memory": 3, "seconds": 7}
grid = pd.DataFrame(
    [(what, k, r) for what, sizes in SIZES.items() for k in sizes for r in range(ROUNDS[what])],
    columns=["what", "k", "round"],
)
N, D = 128, 64  # examples of a batch, features
DRAWN, STEPS, LOOK = 200, 25, 250  # classes a step, steps between two looks at all classes, examples looked at

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden (N, d), weight (K, d), teacher's logits (N, K) -> (N,)
LOSSES: dict[str, Loss] = {
    "direct": lambda h, w, v: kd_loss(h @ w.T, v, None, 1.0, 1.0),
    "chunked": lambda h, w, v: chunked_kd_loss(h, w, teacher_logits=v, temperature=1.0, alpha=1.0),
}


def experiment(what: str, k: int, round: int) -> pd.DataFrame:
    """One row per way: `value` in MB above the inputs, or in ms a step."""
    del round
    if what == "memory":
        return pd.DataFrame([{"way": way, "value": peak(way, k) / 1e6} for way in LOSSES]).round(3)
    return pd.DataFrame([{"way": way, "value": 1e3 * seconds} for way, seconds in steps(k)]).round(3)


def steps(k: int) -> Iterator[tuple[str, float]]:
    """Seconds of a step of plain gradient descent on an output layer, with what ranking adds to each step."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    h, v = torch.randn(LOOK, D, generator=generator), 3 * torch.randn(LOOK, k, generator=generator)
    p, weight = v.softmax(1), torch.zeros(k, D, requires_grad=True)
    rows = torch.randint(LOOK, (N,), generator=generator)
    everybody = torch.arange(LOOK)
    for way, loss in LOSSES.items():
        yield f"all classes, {way}", timed(weight, lambda loss=loss: loss(h[rows], weight, v[rows]))

    def gap() -> Tensor:
        with torch.no_grad():
            return p - (h @ weight.T).softmax(1)

    shared, own = sampling.Ranking.start(p.mean(0, keepdim=True)), sampling.Ranking.start(p)
    first = torch.zeros(1, dtype=torch.int64)

    def sampled(ranking: sampling.Ranking, who: Tensor) -> Tensor:
        classes, log_Q = ranking.draw(who, DRAWN, generator)
        if len(who) == 1:
            classes, log_Q = classes[0], log_Q[0]
        drawn = v[rows][:, classes] if len(who) == 1 else v[rows[:, None], classes]
        return sampling.sampled_kd_loss(h[rows], weight, drawn, classes, log_Q)

    for name, ranking, who, look in (
        ("one draw for all", shared, first, lambda: shared.refreshed(first, gap().mean(0, keepdim=True))),
        ("a draw for each", own, rows, lambda: own.refreshed(everybody, gap())),
    ):
        plain = timed(weight, lambda ranking=ranking, who=who: sampled(ranking, who))
        look()
        start = time.perf_counter()
        look()
        yield name, plain
        yield f"{name}, ranked", plain + (time.perf_counter() - start) / STEPS


def timed(weight: Tensor, loss: Callable[[], Tensor]) -> float:
    """Seconds of a step, the first not counted."""
    for step in range(STEPS + 1):
        if step == 1:
            start = time.perf_counter()
        loss().mean().backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad  # type: ignore[operator]
        weight.grad = None
    return (time.perf_counter() - start) / STEPS


def peak(way: str, k: int) -> int:
    """Bytes above the inputs that both passes take at most, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), way, str(k)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(way: str, k: int) -> None:
    """For `peak`: the same on a few classes first, which loads what is loaded at the first call."""
    torch.set_num_threads(1)
    for classes in (5, k):
        h, w = torch.randn(N, D, requires_grad=True), torch.randn(classes, D, requires_grad=True)
        v = torch.randn(N, classes)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = high_water()
        LOSSES[way](h, w, v).mean().backward()
    print(high_water() - before)


def high_water() -> int:
    """Bytes of memory this process has had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print_peak(sys.argv[1], int(sys.argv[2]))
