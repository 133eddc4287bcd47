"""Helpers of the study's tests: experiments that leave traces, processes that are really killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session", autouse=True)
def _pool_ends_with_the_tests() -> Iterator[None]:
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., Any]:
    """An experiment on `seed` that sleeps `pause` seconds and leaves a file per call; `calls(f)` counts them by seed."""
    folder = tmp_path / "calls"
    folder.mkdir()

    def make(pause: float = 0.0, factor: float = 1.0) -> Callable[[int], pd.DataFrame]:
        where = str(folder)

        def experiment(seed: int) -> pd.DataFrame:
            import uuid

            Path(where, f"{seed}.{uuid.uuid4().hex}").touch()
            time.sleep(pause)
            return pd.DataFrame({"step": [0, 1], "value": [seed * factor / 3, seed / 7]})

        return experiment

    make.calls = lambda: pd.Series([int(p.name.partition(".")[0]) for p in folder.iterdir()]).value_counts()  # type: ignore[attr-defined]
    return make


class Script:
    """A Python program in a process group of its own."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """Start Python with these arguments in the test's folder; what is left is killed at the end."""
    started: list[Script] = []

    def start(*arguments: str) -> Script:
        started.append(Script(*arguments, cwd=tmp_path))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.communicate()


@pytest.fixture
def stopwatch() -> Iterator[Callable[[], float]]:
    """Seconds since the last call, less those for which the machine, busy with others, let a thread of ours wait."""
    ended, held, began = threading.Event(), [0.0], [time.monotonic()]

    def sleep() -> None:
        while not ended.is_set():
            before = time.monotonic()
            time.sleep(0.01)
            held[0] += max(0.0, time.monotonic() - before - 0.011)

    def read() -> float:
        took = time.monotonic() - began[0] - held[0]
        began[0], held[0] = time.monotonic(), 0.0
        return took

    watching = threading.Thread(target=sleep)
    watching.start()
    yield read
    ended.set()
    watching.join()


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait until a condition holds; the test fails if it does not in time."""

    def wait(condition: Callable[[], Any], timeout: float = 60) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    return wait
