"""On a Dask cluster: workers and schedulers that are killed, more workers, a scheduler that is not there."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kdlib import study

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own, about ports and about workers that it starts anew


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def address(script: Any, until: Any) -> Callable[..., Any]:
    """Start a scheduler or a worker as a process of its own at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(what: str) -> Any:
        if what == "scheduler":
            one = script(
                "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"
            )
            until(lambda: one.process.poll() is not None or listens(port), timeout=120)
        else:
            one = script(
                "-m", "distributed.cli.dask_worker", start.url, "--nthreads", "1", "--no-dashboard", "--no-nanny"
            )  # type: ignore[attr-defined]
        return one

    start.url = f"tcp://127.0.0.1:{port}"  # type: ignore[attr-defined]
    return start


def test_a_killed_scheduler_that_comes_back_costs_only_chunks_in_flight(
    address: Any, traced: Any, until: Any, tmp_path: Path
) -> None:
    import threading

    experiment, store = traced(pause=0.1), tmp_path / "store"
    first = [address("scheduler"), address("worker")]
    again: list[Any] = []

    def replace() -> None:
        until(lambda: len(list(store.glob("*/part-*.parquet"))) >= 3)
        for one in first:
            one.kill()
        again.extend([address("scheduler"), address("worker")])

    thread = threading.Thread(target=replace)
    with distributed.Client(address.url, timeout=40, set_as_default=False) as client:
        thread.start()
        frame = study.run(experiment, {"seed": range(40)}, client=client, store=store, seconds=0.3)
    thread.join()
    assert again
    assert frame.seed.tolist() == [s for s in range(40) for _ in range(2)]
    assert traced.calls().sum() <= 40 + 2 * 5  # what was finished before was not run again


def test_a_scheduler_that_stays_away_ends_the_study_and_keeps_what_is_finished(
    address: Any, traced: Any, until: Any, tmp_path: Path
) -> None:
    import threading

    store = tmp_path / "store"
    both = [address("scheduler"), address("worker")]

    def kill() -> None:
        until(lambda: len(list(store.glob("*/part-*.parquet"))) >= 3)
        for one in both:
            one.kill()

    thread = threading.Thread(target=kill)
    with distributed.Client(address.url, timeout=20, set_as_default=False) as client:
        client._timeout = 2  # how long Dask tries to find the scheduler again
        thread.start()
        with pytest.raises(
            study.Incomplete, match=rf"cannot go on \(ConnectionError: no scheduler at {address.url}"
        ) as caught:
            study.run(traced(pause=0.1), {"seed": range(400)}, client=client, store=store, seconds=0.3)
    thread.join()
    assert len(study.collect(store)) == len(caught.value.finished) >= 6


def test_a_killed_worker_is_replaced_by_dask_and_a_point_that_kills_is_named(
    traced: Any, until: Any, tmp_path: Path
) -> None:
    inner, flag = traced(pause=0.1), tmp_path / "killed"

    def experiment(seed: int) -> pd.DataFrame:
        if seed == 3 or (seed == 9 and not flag.exists()):
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(seed)

    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        pytest.raises(
            study.Incomplete, match=r"1 of 12 points failed[\s\S]*seed=3: the process that ran it died"
        ) as caught,
    ):
        study.run(experiment, {"seed": range(12)}, client=client, seconds=1e-6)
    assert sorted(set(caught.value.finished.seed)) == [0, 1, 2, *range(4, 12)]


@pytest.mark.slow
def test_two_workers_take_half_the_time_of_one() -> None:
    def experiment(seed: int) -> pd.DataFrame:
        time.sleep(1)
        return pd.DataFrame({"value": [seed]})

    took = {}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        for workers in (2, 1):
            if workers == 1:
                cluster.scale(1)
                while len(client.scheduler_info()["workers"]) > 1:
                    time.sleep(0.05)
            start = time.perf_counter()
            study.run(experiment, {"seed": range(10)}, client=client)
            took[workers] = time.perf_counter() - start
    assert took[1] / took[2] >= 1.8


def test_an_address_without_a_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ValueError, match=r"client must be the address of a running scheduler, got 'tcp://127.0.0.1:9'"),
    ):
        study.run(lambda seed: pd.DataFrame(), {"seed": [1]}, client="tcp://127.0.0.1:9")


def test_an_experiment_that_holds_much_data_runs_too() -> None:
    table = np.random.default_rng(0).normal(size=200_000)  # 1.6 MB

    def experiment(seed: int) -> pd.DataFrame:
        return pd.DataFrame({"value": [table[seed]]})

    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        frame = study.run(experiment, {"seed": range(20)}, client=client, seconds=1e-6)
    assert frame["value"].tolist() == table[:20].tolist()


CLUSTER_PROGRAM = """
import time
import pandas as pd
from kdlib import study

def experiment(seed):
    time.sleep(0.1)
    return pd.DataFrame({"value": [seed]})

if __name__ == "__main__":
    try:
        study.run(experiment, {"seed": range(10_000)}, store="store", client="ADDRESS", seconds=0.5)
    except KeyboardInterrupt as stopped:
        print(type(stopped).__name__, len(stopped.finished), stopped, flush=True)
"""


def test_an_interrupt_stops_within_a_second_and_leaves_the_cluster_free(
    address: Any, script: Any, until: Any, stopwatch: Any, tmp_path: Path
) -> None:
    """The client gets Ctrl-C; scheduler and worker live on, drop what was queued, and serve the next study."""
    import threading

    _ = [address("scheduler"), address("worker")]
    (tmp_path / "program.py").write_text(CLUSTER_PROGRAM.replace("ADDRESS", address.url))
    running = script("program.py")
    until(
        lambda: len(list(tmp_path.glob("store/*/part-*.parquet"))) >= 2 or running.process.poll() is not None,
        timeout=240,
    )
    stopwatch()
    os.kill(running.process.pid, signal.SIGINT)
    patience = threading.Timer(60, running.process.kill)
    patience.start()
    said = running.process.stdout.readline()
    took = stopwatch()
    patience.cancel()
    if not said:
        pytest.fail(f"not stopped after {took:.0f} s: {running.end()}")
    name, count, *_ = said.split()
    assert name == "Stopped" and "they are kept in store" in said
    assert took < 1
    running.end()
    kept = study.collect(tmp_path / "store")
    assert len(kept) == int(count) == kept.seed.nunique() >= 2
    with distributed.Client(address.url, timeout=20, set_as_default=False) as client:
        until(lambda: not any(client.processing().values()), timeout=10)  # no chunk of the 10,000 points is left
        frame = study.run(lambda seed: pd.DataFrame({"value": [seed]}), {"seed": range(3)}, client=client)
    assert frame["value"].tolist() == [0, 1, 2]
