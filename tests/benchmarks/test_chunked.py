"""Distillation from hidden states over 131,072 classes, and stored rows: seconds and memory against the plain ways."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import Tensor

from kdlib.data import stored_logits
from kdlib.losses import chunked_jsd_loss, chunked_kd_loss, jsd_loss, kd_loss
from kdlib.mechanisms import sampling

from .conftest import CONTESTS, NOTES, Contest

Loss = Callable[..., Tensor]  # (h, w, th, tw, v, y) -> (N,) or their mean
SHAPES = {"N = 256, d = 256": (256, 131_072, 256), "N = 2,048, d = 512": (2048, 131_072, 512)}
ROUNDS = int(os.environ.get("ROUNDS", 7))


def direct_kd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return kd_loss(h @ w.T, v, y)


def chunked_kd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return chunked_kd_loss(h, w, y, teacher_logits=v)


def direct_forward(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return kd_loss(h @ w.T, th @ tw.T, y, temperature=1.0, alpha=1.0)


def chunked_forward(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return chunked_kd_loss(h, w, teacher_hidden=th, teacher_weight=tw, temperature=1.0, alpha=1.0)


def liger_forward(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss: Loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=64
    )
    return loss(h, w, th, tw, y)


def trl_forward(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    return ChunkedDivergenceFunction.apply(h, w, None, th, tw, None, 0.0, 1.0, 1.0, None, 1.0, None)[0]  # type: ignore[no-any-return]


def direct_jsd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return jsd_loss(h @ w.T, v, y)


def chunked_jsd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return chunked_jsd_loss(h, w, y, teacher_logits=v)


LOSSES: dict[str, dict[str, Loss]] = {
    "kd_loss, teacher's logits given": {"direct": direct_kd, "chunked": chunked_kd},
    "forward KL at T = 1, both layers": {
        "direct": direct_forward,
        "chunked": chunked_forward,
        "Liger-Kernel's chunked base": liger_forward,
        "TRL's chunk loop": trl_forward,
    },
    "jsd_loss, teacher's logits given": {"direct": direct_jsd, "chunked": chunked_jsd},
}


def problem(n: int, k: int, d: int) -> tuple[Tensor, ...]:
    """h, w, th, tw, v, y."""
    torch.manual_seed(0)
    h, w = torch.randn(n, d).requires_grad_(), torch.randn(k, d).mul_(d**-0.5).requires_grad_()
    return h, w, torch.randn(n, d), torch.randn(k, d).mul_(d**-0.5), torch.randn(n, k), torch.randint(k, (n,))


def both_passes(loss: Loss, inputs: tuple[Tensor, ...]) -> float:
    for t in inputs:
        t.grad = None
    start = time.perf_counter()
    loss(*inputs).mean().backward()
    return time.perf_counter() - start


def take_turns(contest: Contest, runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds. The contenders take turns, so that a machine that slows down slows all of them."""
    entry = CONTESTS.setdefault(contest.title, contest)
    for turn in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if turn:  # the first is a warm-up
                entry.seconds.setdefault(name, []).append(seconds)
    return {name: median(seconds) for name, seconds in entry.seconds.items()}


def timed(body: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        body()
        return time.perf_counter() - start

    return run


def installed(losses: dict[str, Loss]) -> dict[str, Loss]:
    inputs, found = problem(2, 3, 4), {}
    for name, loss in losses.items():
        with suppress(ImportError):
            both_passes(loss, inputs)
            found[name] = loss
    return found


@pytest.mark.filterwarnings("ignore")  # other people's
@pytest.mark.parametrize("what", LOSSES)
def test_contenders_agree(what: str) -> None:
    """What is compared below is time and memory alone."""
    inputs, found = problem(7, 5000, 16), {}
    for name, loss in installed(LOSSES[what]).items():
        both_passes(loss, inputs)
        found[name] = (loss(*inputs).mean().detach(), inputs[0].grad, inputs[1].grad)
    for values in found.values():
        for ours, theirs in zip(values, found["direct"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_passes(shape: str, what: str, timing: bool) -> None:
    n, k, d = SHAPES[shape] if timing else (4, 100, 3)
    inputs = problem(n, k, d)
    runs = {name: partial(both_passes, loss, inputs) for name, loss in installed(LOSSES[what]).items()}
    if not timing:
        assert all(run() > 0 for run in runs.values())
        return
    seconds = take_turns(Contest(f"{what}, {shape}", "direct"), runs, ROUNDS if n < 1000 else 2)
    del inputs, runs
    peaks = {name: peak(what, name, n, k, d) for name in seconds}
    NOTES[f"peak memory above the inputs, {what}, {shape}"] = ", ".join(
        f"{name} {size / 1e6:.0f} MB" for name, size in peaks.items()
    )
    assert seconds["direct"] / seconds["chunked"] >= 1.3
    assert peaks["chunked"] <= peaks["direct"] / 3


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_over_the_number_of_classes(timing: bool) -> None:
    what, sizes = "kd_loss, teacher's logits given", [10**3, 10**4, 10**5, 10**6] if timing else [1000]
    for k in sizes:
        direct, chunked = (peak(what, name, 128, k, 64) for name in ("direct", "chunked"))
        assert direct > chunked or k < 10**4
        if timing:
            NOTES[f"peak memory, N = 128, d = 64, K = {k:,}"] = (
                f"direct {direct / 1e6:.1f} MB, chunked {chunked / 1e6:.1f} MB, of which the weight's gradient {256e-6 * k:.1f} MB"
            )


@pytest.mark.parametrize("k", [1_000, 10_000, 50_000])
def test_sampled_output_layer(k: int, timing: bool) -> None:
    """25 steps of plain gradient descent on an output layer: all classes, or 200 drawn by rank and one look at all of them."""
    n, batch, d, count, steps = (2000, 128, 64, 200, 25) if timing else (20, 8, 4, 5, 2)
    k = k if timing else 50
    torch.manual_seed(0)
    h, v = torch.randn(n, d), 3 * torch.randn(n, k)
    generator = torch.Generator().manual_seed(0)
    p = v.softmax(1)

    def step(weight: Tensor, loss: Tensor) -> None:
        loss.mean().backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad  # type: ignore[operator]
        weight.grad = None

    def full(chunked: bool) -> None:
        weight = torch.zeros(k, d, requires_grad=True)
        for rows in torch.randint(n, (steps, batch), generator=generator):
            if chunked:
                step(weight, chunked_kd_loss(h[rows], weight, teacher_logits=v[rows], temperature=1.0, alpha=1.0))
            else:
                step(weight, kd_loss(h[rows] @ weight.T, v[rows], rows * 0, 1.0, 1.0))

    def sampled() -> None:
        weight, one = torch.zeros(k, d, requires_grad=True), torch.zeros(1, dtype=torch.int64)
        ranking = sampling.Ranking.start(p[:1])
        look = torch.randint(n, (n // 8,), generator=generator)
        with torch.no_grad():
            ranking = ranking.refreshed(one, (p[look] - (h[look] @ weight.T).softmax(1)).mean(0, keepdim=True))
        for rows in torch.randint(n, (steps, batch), generator=generator):
            classes, log_Q = (x[0] for x in ranking.draw(one, count, generator))
            step(weight, sampling.sampled_kd_loss(h[rows], weight, v[rows[:, None], classes], classes, log_Q))

    runs = {"all classes": partial(full, False), "all classes, chunked": partial(full, True), "200 drawn": sampled}
    if timing:
        contest = Contest(f"25 steps of an output layer, K = {k:,}", "all classes", "ms")
        take_turns(contest, {name: timed(run) for name, run in runs.items()}, 3)
    else:
        for run in runs.values():
            run()


def test_stored_rows(timing: bool, tmp_path: Path) -> None:
    n, k, batch = (100_000, 5000, 500) if timing else (40, 30, 10)
    path = tmp_path / "teacher"
    stored_logits(path, ((torch.arange(i, i + batch), torch.randn(batch, k)) for i in range(0, n, batch)), length=n)
    buffer = bytearray(batch * k * 2)

    def plain() -> None:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def rows(order: Tensor) -> None:
        store = stored_logits(path, verify=False)
        for ids in order.split(batch):
            store.logits(ids)

    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    runs: dict[str, Callable[[], object]] = {
        "plain read": plain,
        "opened and verified": lambda: stored_logits(path),
        "rows in order, widened": lambda: rows(torch.arange(n)),
        "rows shuffled, widened": lambda: rows(shuffled),
    }
    if timing:
        size = path.stat().st_size / 1e9
        take_turns(
            Contest(f"{size:.1f} GB of stored logits", "plain read"), {n: timed(run) for n, run in runs.items()}, 3
        )
    else:
        for run in runs.values():
            run()


def peak(what: str, name: str, *size: int) -> int:
    """Bytes above the inputs that both passes take at most, in a process of its own."""
    code = f"from tests.benchmarks.test_chunked import print_peak; print_peak({what!r}, {name!r}, {size!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def print_peak(what: str, name: str, size: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    loss = LOSSES[what][name]
    both_passes(loss, problem(3, 5, 2))  # loads what is loaded at the first call
    inputs = problem(*size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _high_water()
    both_passes(loss, inputs)
    print(_high_water() - before)


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
