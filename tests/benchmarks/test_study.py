"""What a study costs beside the experiment: many short points on this machine, and more workers on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd
import pytest
from joblib import Parallel, delayed

from kdlib import study

from .conftest import NOTES, Contest


def pause(seed: int, seconds: float) -> pd.DataFrame:
    time.sleep(seconds)
    return pd.DataFrame({"value": [seed]})


@pytest.mark.parametrize("contender", ["study.run", "study.run with a store", "joblib.Parallel", "a loop, halved"])
def test_short_points(contender: str, timing: bool, measure: Callable[..., None], tmp_path_factory: object) -> None:
    """10,000 points of a millisecond in two processes; the loop's time divided by two is what no overhead would give."""
    count, short = (10_000 if timing else 20), 0.001
    grid = {"seed": range(count), "seconds": [short]}

    def folder() -> str:
        return str(tmp_path_factory.mktemp("store"))  # type: ignore[attr-defined]

    def joined() -> pd.DataFrame:
        return pd.concat(Parallel(n_jobs=2)(delayed(pause)(seed, short) for seed in range(count)))

    def loop() -> pd.DataFrame:
        return pd.concat([pause(seed, short) for seed in range(count // 2)])

    ways: dict[str, Callable[[], pd.DataFrame]] = {
        "study.run": lambda: study.run(pause, grid, processes=2, progress=False),
        "study.run with a store": lambda: study.run(pause, grid, processes=2, progress=False, store=folder()),
        "joblib.Parallel": joined,
        "a loop, halved": loop,
    }
    study.run(pause, {"seed": range(4), "seconds": [short]}, processes=2, progress=False)  # the processes are started
    contest = Contest(f"a point of 1 ms, {count:,} of them, 2 processes", "a loop, halved", "ms", count)
    measure(contest, contender, ways[contender], 3 if timing else 1, 0)
    NOTES["overhead of a study"] = "the difference to the halved loop is what a point costs beside its own millisecond"


@pytest.mark.filterwarnings("ignore")  # Dask's own, about ports
@pytest.mark.parametrize("workers", [1, 2])
def test_workers(workers: int, timing: bool, measure: Callable[..., None]) -> None:
    """Points of a second on a Dask cluster of one worker, and of two."""
    distributed = pytest.importorskip("distributed")
    grid = {"seed": range(20 if timing else 4), "seconds": [1.0 if timing else 0.001]}
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        contest = Contest("20 points of 1 s, Dask", "1 worker")
        name = f"{workers} worker{'s' * (workers > 1)}"
        measure(contest, name, lambda: study.run(pause, grid, client=client, progress=False), 1, 0)
