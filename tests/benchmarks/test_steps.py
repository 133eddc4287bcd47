"""A training step of 64 students against the same step done in other ways, and against what the machine could do."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch

from kdlib import _cpu

from . import baselines
from .baselines import Contender, Problem, random_problem
from .conftest import NOTES, Contest

SHAPES = [((2, 32, 32, 10), 64), ((32, 128, 128, 10), 32), ((32, 128, 128, 10), 128)]
CONTENDERS: dict[str, Contender] = {
    "one student after the other": baselines.loop,
    "torch.func.vmap": baselines.vmap,
    "plain batched torch": baselines.plain_batch,
    "JAX jit + vmap": baselines.jax_vmap,
    "kdlib": baselines.fleet,
    "kdlib, compile=True": partial(baselines.fleet, compile=True),
}


@pytest.fixture(scope="module")
def roofline() -> Callable[[Problem], float]:
    """Seconds that a step's products take at the highest rate seen, plus the optimiser's bytes at the rate of a copy."""
    rates, copy = [], torch.randn(8_000_000)
    with _cpu.settings(1):
        for batch, n in ((16, 128), (16, 256), (4, 512)):
            a, b, product = torch.randn(3, batch, n, n)
            rates.append(2 * batch * n**3 / _best(partial(torch.bmm, a, b, out=product)))
        out = torch.empty_like(copy)
        bandwidth = 2 * copy.nbytes / _best(lambda: out.copy_(copy))
    NOTES["roofline"] = (
        f"{max(rates) / 1e9:.0f} GFLOP/s in large batched products, {bandwidth / 1e9:.0f} GB/s in a copy from memory; "
        "AdamW reads weight, gradient and two moments and writes three of them"
    )

    def floor(problem: Problem) -> float:
        layers = list(zip(problem.sizes, problem.sizes[1:], strict=False))
        students = len(problem.students)
        # forward, weight gradient, and the input's gradient for all layers but the first
        products = 3 * sum(i * o for i, o in layers) - math.prod(layers[0])
        parameters = sum((i + 1) * o for i, o in layers)
        flops = 2 * problem.batch_size * students * products
        return flops / max(rates) + 7 * 4 * students * parameters / bandwidth

    return floor


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize(("sizes", "batch"), SHAPES, ids=lambda value: str(value).replace(", ", "-"))
@pytest.mark.parametrize("contender", CONTENDERS)
def test_step(
    sizes: tuple[int, ...],
    batch: int,
    contender: str,
    timing: bool,
    measure: Callable[..., None],
    roofline: Callable[[Problem], float],
) -> None:
    _needs(contender, timing)
    steps, rounds, warmup = (20, 12, 2) if timing else (1, 1, 0)
    problem = random_problem(sizes, batch, steps, rounds + warmup, 8 if timing else 1)
    run = CONTENDERS[contender](problem)
    start = time.perf_counter()
    if timing:
        next(run)  # everything that is done once: stacking, compiling
    if contender == "kdlib, compile=True":
        NOTES[f"start-up of compile=True, {_name(sizes, batch)}"] = f"{time.perf_counter() - start:.1f} s"
    title = f"step of 64 students, {_name(sizes, batch)}"
    contest = Contest(title, "one student after the other", "ms", steps, roofline(problem))
    measure(contest, contender, lambda: next(run), rounds, warmup - 1 if timing else 0)


@pytest.mark.parametrize("contender", [name for name in CONTENDERS if "compile" not in name])
def test_contenders_agree(contender: str) -> None:
    """All train the same students: what is compared above is time alone."""
    _needs(contender, timing=True)
    problem = random_problem((5, 7, 6, 4), 8, 3, 3, 3, torch.float64)
    x = problem.task.x_test
    (*_, expected), (*_, found) = (
        [predict(x) for predict in run(problem)] for run in (baselines.fleet, CONTENDERS[contender])
    )
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def _needs(contender: str, timing: bool) -> None:
    if "compile" in contender and not timing:
        pytest.skip("compiling takes longer than a quick check may")
    if "JAX" in contender:
        before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        if before:
            os.sched_setaffinity(0, {min(before)})  # JAX makes its threads when first used, one for each core it sees
        try:
            pytest.importorskip("jax", reason="JAX is not installed: pip install jax").devices("cpu")
        finally:
            if before:
                os.sched_setaffinity(0, before)


def _name(sizes: tuple[int, ...], batch: int) -> str:
    return f"{'-'.join(map(str, sizes))}, batch {batch}"


def _best(run: Callable[[], object], repeats: int = 12) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
