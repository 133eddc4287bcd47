"""Benchmarks come in contests: several ways to do one thing, timed in one run. The end of the run shows the ratios."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest
import torch

REPORT = Path("_build") / "benchmarks.md"


@dataclass
class Contest:
    """Seconds of each contender, `unit` and `per` for the table, the baseline's name, a floor in seconds where known."""

    title: str
    baseline: str
    unit: str = "s"
    per: int = 1
    floor: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def rows(self) -> Iterator[str]:
        scale = 1e3 if self.unit == "ms" else 1.0
        base = median(self.seconds[self.baseline]) if self.baseline in self.seconds else None
        for name, seconds in sorted(self.seconds.items(), key=lambda item: median(item[1])):
            middle = median(seconds)
            low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (middle, 0, middle)
            time = f"{scale * middle / self.per:.3g}"
            ratio = "" if base is None else ("1 (baseline)" if name == self.baseline else f"{base / middle:.3g}")
            roofline = "" if self.floor is None else f"{100 * self.floor / (middle / self.per):.0f} %"
            spread = f"{100 * (high - low) / middle:.0f} %, {len(seconds)}"
            yield f"| {self.title} | {name} | {time} {self.unit} | {ratio} | {roofline} | {spread} |"


CONTESTS: dict[str, Contest] = {}
NOTES: dict[str, str] = {}


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., None]:
    """measure(contest, contender, run, rounds): time `run` and enter it in the contest (which is looked up by title)."""

    def take(contest: Contest, contender: str, run: Callable[[], object], rounds: int, warmup: int = 1) -> None:
        benchmark.group, benchmark.name = contest.title, contender
        benchmark.pedantic(run, rounds=rounds, warmup_rounds=warmup)
        if benchmark.enabled:
            known = CONTESTS.setdefault(contest.title, contest)
            known.seconds[contender] = list(benchmark.stats.stats.data)

    return take


@pytest.fixture
def timing(request: pytest.FixtureRequest) -> bool:
    """Whether times are taken; else every body runs once, on little work, to see that it works."""
    return bool(request.config.getoption("benchmark_enable") or request.config.getoption("benchmark_only"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def machine() -> str:
    """CPU, cores, versions and date, in one line."""
    cpu = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):
        cpu = torch.cpu.get_capabilities().get("cpu_name", cpu)
    kind = torch.backends.cpu.get_cpu_capability()
    return (
        f"{cpu} ({os.cpu_count()} cores, {kind}), Python {platform.python_version()}, torch {torch.__version__}, "
        f"{datetime.date.today()}. One thread unless said otherwise; median of the rounds."
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not CONTESTS:
        return
    lines = [
        machine(),
        "",
        "| what | how | time | times faster | of the roofline | spread (IQR), rounds |",
        "|---|---|---|---|---|---|",
        *[row for contest in CONTESTS.values() for row in contest.rows()],
        "",
        *[f"- {name}: {note}" for name, note in NOTES.items()],
    ]
    path = config.rootpath / REPORT
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(new, path)
    terminalreporter.section(f"fleet against baselines (also in {REPORT})")
    for line in lines:
        terminalreporter.write_line(line)
