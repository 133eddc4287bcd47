"""Running a grid: the same result everywhere, failures named, processes that die, interrupts, speed."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kdlib import study
from kdlib.study.grid import points
from kdlib.study.work import work

ROOT = Path(__file__).parents[2]
GRID = {"seed": range(12), "kind": ["a", "b"]}


def make() -> Callable[..., pd.DataFrame]:
    """An experiment whose sums depend on the number of threads and whose columns have every kind of dtype."""

    def experiment(seed: int, kind: str) -> pd.DataFrame:
        generator = torch.Generator().manual_seed(seed)
        product = torch.randn(300, 300, generator=generator) @ torch.randn(300, 300, generator=generator)
        rows = seed % 3  # none for some
        return pd.DataFrame(
            {
                "mean": product.mean(1)[:rows].numpy(),
                "total": [product.double().sum().item()] * rows,
                "n": range(rows),
                "missing": [np.nan, 1.0][:rows],
                "flag": [True, False][:rows],
                "word": pd.Series(["ä", kind][:rows], dtype="str"),
                "class": pd.Categorical(["x", "y"][:rows], ["x", "y"]),
                "when": pd.to_datetime(["2020-01-01", "2021-01-01"][:rows]),
                "threads": [torch.get_num_threads()] * rows,
            }
        )

    return experiment


def expected() -> pd.DataFrame:
    """The points one by one in a plain loop."""
    frames = []
    for seed in GRID["seed"]:
        for kind in GRID["kind"]:
            frame = make()(seed, kind)
            frame.insert(0, "seed", seed)
            frame.insert(1, "kind", pd.Series([kind] * len(frame), dtype="str"))
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def local_client() -> Any:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore")
def test_the_result_is_the_same_to_the_last_bit_wherever_it_is_computed(local_client: Any, tmp_path: Path) -> None:
    once = expected()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # the caller's, which must not show in the result
    try:
        ways = {
            "here": study.run(make(), GRID, processes=1, seconds=0.01),
            "here, stored": study.run(make(), GRID, processes=1, seconds=0.01, store=tmp_path),
            "from the store": study.run(make(), GRID, processes=1, store=tmp_path),
            "processes": study.run(make(), GRID, processes=2, seconds=0.05),
            "cluster": study.run(make(), GRID, client=local_client, seconds=0.05),
            "address": study.run(make(), GRID, client=local_client.scheduler.address, seconds=0.05),
        }
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for name, frame in ways.items():
        pd.testing.assert_frame_equal(frame, once, check_exact=True, obj=name)


@pytest.mark.parametrize("rows", [slice(1, None), slice(None, None, 2), slice(3, 1, -1)])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_an_experiment_picked_stay_whole(rows: slice, count: int) -> None:
    """pandas numbers picked neighbours by a range that does not begin at 0: rows must not meet another's labels for it."""

    def experiment(seed: int) -> pd.DataFrame:
        return pd.DataFrame({"value": [10.0 * seed + i for i in range(4)]}).iloc[rows]

    frame = study.run(experiment, {"seed": range(count)}, processes=1, progress=False)
    wanted = [(seed, 10.0 * seed + i) for seed in range(count) for i in range(4)[rows]]
    assert list(frame.itertuples(index=False, name=None)) == wanted


def test_columns_of_the_grid_stand_first_and_the_experiments_own_are_kept() -> None:
    def experiment(seed: int, temperatures: tuple[int, ...], loss: Callable[..., Any]) -> pd.DataFrame:
        table = pd.DataFrame({"temperature": temperatures, "seed": -seed, "value": seed})
        return table.set_index("temperature")  # a named index is data

    frame = study.run(
        experiment,
        {"seed": [1, 2], "temperatures": [(1, 2)], "loss": torch.nn.functional.cross_entropy},
        processes=1,
        progress=False,
    )
    assert list(frame) == ["temperatures", "loss", "temperature", "seed", "value"]
    assert frame.temperatures.unique() == ["(1, 2)"]
    assert frame.loss.unique() == ["cross_entropy"]
    assert frame.seed.tolist() == [-1, -1, -2, -2]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stored", [False, True])
def test_points_that_raise_are_listed_and_the_others_kept(processes: int, stored: bool, tmp_path: Path) -> None:
    def experiment(seed: int) -> pd.DataFrame:
        if seed in (1, 4):
            raise ArithmeticError(f"no root of {-seed}")
        return pd.DataFrame({"value": [seed]})

    with pytest.raises(study.Incomplete) as caught:
        study.run(experiment, {"seed": range(6)}, processes=processes, store=tmp_path if stored else None)
    assert "2 of 6 points failed" in str(caught.value)
    assert "seed=4: ArithmeticError: no root of -4" in str(caught.value)
    assert caught.value.finished.seed.tolist() == [0, 2, 3, 5]
    assert caught.value.failed.seed.tolist() == [1, 4]
    assert "in experiment" in caught.value.failed.traceback[0]
    assert "ArithmeticError: no root of -1" in caught.value.failed.traceback[0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"value": 1}, "must return a DataFrame, got dict"),
        (pd.DataFrame([[1]]), "columns with different texts as names, got .0."),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "columns with different texts as names"),
        ((pd.DataFrame({"value": [1]}), [1]), "arrays must be a dict of names to arrays, got list"),
        ((pd.DataFrame({"value": [1]}), {"a": np.array([[]], dtype=object)}), "got objects in 'a'"),
        ((pd.DataFrame({"value": [1]}), {"a": np.zeros(2)}), "returned arrays, which need a store"),
        (pd.DataFrame({"other": [1]}), "returned the columns other, seed, the first point seed, value"),
    ],
)
def test_what_is_no_tidy_frame_fails_by_name_and_the_others_are_kept(returned: Any, message: str) -> None:
    def experiment(seed: int) -> Any:
        return returned if seed == 2 else pd.DataFrame({"value": [seed]})

    with pytest.raises(
        study.Incomplete, match=rf"1 of 4 points failed[\s\S]*seed=2: ValueError: .*{message}"
    ) as caught:
        study.run(experiment, {"seed": range(4)}, processes=1)
    assert caught.value.finished["value"].tolist() == [0, 1, 3]


def test_a_study_and_joblib_follow_each_other_in_one_process(tmp_path: Path) -> None:
    """Both keep loky's pool from call to call; each must find it usable after the other."""
    program = """
import pandas as pd
from joblib import Parallel, delayed
from kdlib import study

def experiment(seed):
    return pd.DataFrame({"value": [seed]})

for turn in range(2):
    print(study.run(experiment, {"seed": range(4)}, processes=2, progress=False)["value"].sum())
    print(pd.concat(Parallel(n_jobs=2)(delayed(experiment)(seed) for seed in range(4)))["value"].sum())
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["6"] * 4, done.stderr


def test_a_process_killed_in_mid_chunk_costs_nothing(traced: Any, until: Any) -> None:
    experiment = traced(pause=0.1)

    def kill_one() -> None:
        until(lambda: len(traced.calls()) >= 4)
        worker = next(p for p in multiprocessing.active_children() if "Loky" in type(p).__name__)
        os.kill(worker.pid, signal.SIGKILL)  # type: ignore[arg-type]
        killed.append(worker.pid)

    killed: list[Any] = []
    thread = threading.Thread(target=kill_one)
    thread.start()
    frame = study.run(experiment, {"seed": range(30)}, processes=2, seconds=0.4)
    thread.join()
    assert killed
    assert frame.seed.tolist() == [s for s in range(30) for _ in range(2)]
    assert 30 < traced.calls().sum() < 60  # the chunks in flight were run again, the rest was not


def test_a_point_that_kills_its_process_is_named_and_the_others_are_kept() -> None:
    def experiment(seed: int) -> pd.DataFrame:
        if seed == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return pd.DataFrame({"value": [seed]})

    with pytest.raises(
        study.Incomplete, match=r"1 of 9 points failed[\s\S]*seed=5: the process that ran it died 2 times"
    ) as caught:
        study.run(experiment, {"seed": range(9)}, processes=2, attempts=2)
    assert caught.value.finished.seed.tolist() == [0, 1, 2, 3, 4, 6, 7, 8]


PROGRAM = """
import time
import pandas as pd
from kdlib import study

def experiment(seed):
    time.sleep(0.1)
    return pd.DataFrame({"value": [seed]})

if __name__ == "__main__":
    try:
        study.run(experiment, {"seed": range(10_000)}, store="store", processes=PROCESSES, seconds=SECONDS)
    except KeyboardInterrupt as stopped:
        print(type(stopped).__name__, len(stopped.finished), stopped, flush=True)
"""


@pytest.mark.parametrize(("processes", "seconds"), [(1, 0.5), (2, 0.5)])
def test_an_interrupt_stops_within_a_second_and_keeps_what_is_finished(
    processes: int, seconds: float, script: Any, until: Any, stopwatch: Any, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace("PROCESSES", str(processes)).replace("SECONDS", str(seconds)))
    running = script("program.py")
    until(lambda: len(list(tmp_path.glob("store/*/part-*.parquet"))) >= 2)
    stopwatch()
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    said = running.process.stdout.readline()
    took = stopwatch()
    name, count, *_ = said.split()
    assert name == "Stopped"
    assert "they are kept in store" in said
    assert took < 1
    running.end()
    kept = study.collect(tmp_path / "store")
    assert len(kept) == int(count) == kept.seed.nunique() >= 2


def test_an_interrupt_without_a_store_hands_over_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    def experiment(seed: int) -> pd.DataFrame:
        if seed == 3:
            raise KeyboardInterrupt
        return pd.DataFrame({"value": [seed]})

    with pytest.raises(study.Stopped, match=r"stopped after 3 of 8 points; they are in \.finished") as caught:
        study.run(experiment, {"seed": range(8)}, processes=1)
    assert caught.value.finished["value"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_changes_nothing(
    jump: float, traced: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A laptop that slept: the time of day jumps, and on some systems the steady clock goes on meanwhile."""
    experiment, clock, steady = traced(), time.time, time.perf_counter
    ahead = {"clock": 0.0, "steady": 0.0}
    monkeypatch.setattr(time, "time", lambda: clock() + ahead["clock"])
    monkeypatch.setattr(time, "perf_counter", lambda: steady() + ahead["steady"])

    def sleeps(seed: int) -> pd.DataFrame:
        if seed == 4:
            ahead.update(clock=jump, steady=max(0.0, jump))
        return experiment(seed)

    frame = study.run(sleeps, {"seed": range(10)}, processes=1)
    assert frame.seed.tolist() == [s for s in range(10) for _ in range(2)]
    assert traced.calls().to_dict() == dict.fromkeys(range(10), 1)


def test_a_chunk_ends_when_its_time_is_up_and_names_the_rest(traced: Any) -> None:
    from kdlib.study.engine import payload

    todo = points(traced(pause=0.05), {"seed": range(100)})
    outcome = work(payload(traced(pause=0.05)), todo, 0.3)
    done = [place for part in outcome.parts for place in part.places]
    assert 2 <= len(done) <= 7
    assert [*done, *(point.place for point in outcome.rest)] == list(range(100))
    assert outcome.seconds == pytest.approx(0.05 * len(done), rel=0.5)


def test_results_of_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdlib.study import pools

    monkeypatch.setattr(pools, "versions", lambda: {"torch": "0.0"})
    with pytest.raises(
        study.Incomplete, match=r"must have the versions of this process, got python 3[.0-9]+ there, None here"
    ):
        study.run(lambda seed: pd.DataFrame({"value": [seed]}), {"seed": [1]}, processes=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes": 0}, "processes must be an integer of at least 1, got 0"),
        ({"attempts": 0.5}, "attempts must be an integer of at least 1, got 0.5"),
        ({"seconds": 0}, "seconds must be a positive finite number, got 0"),
        ({"seconds": float("nan")}, "seconds must be a positive finite number, got nan"),
        ({"client": 3}, "client must be a Dask client or a scheduler's address, got int"),
        ({"store": __file__}, "store must be a folder, got the file"),
    ],
)
def test_bad_arguments_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.run(lambda seed: pd.DataFrame(), {"seed": [1]}, **given)


def test_an_experiment_that_cannot_be_sent_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(ValueError, match=r"experiment must hold only what can be sent to another process, got .*lock"):
        study.run(lambda seed: lock, {"seed": [1]})


@pytest.mark.slow
def test_ten_thousand_points_of_a_millisecond_cost_less_than_a_millisecond_each_beside() -> None:
    def experiment(seed: int) -> pd.DataFrame:
        time.sleep(0.001)
        return pd.DataFrame({"value": [seed]})

    study.run(experiment, {"seed": range(4)}, processes=2)  # the processes are started
    start = time.perf_counter()
    for seed in range(500):
        experiment(seed)
    bare = (time.perf_counter() - start) / 500
    start = time.perf_counter()
    frame = study.run(experiment, {"seed": range(10_000)}, processes=2)
    beside = (time.perf_counter() - start) / 10_000 - bare / 2
    assert frame["value"].tolist() == list(range(10_000))
    assert beside < 0.001


def test_a_bar_with_time_left_is_shown_in_a_terminal_and_not_in_a_file(tmp_path: Path) -> None:
    program = "import time, pandas as pd\nfrom kdlib import study\nstudy.run(lambda seed: time.sleep(.2) or pd.DataFrame({'v': [1]}), {'seed': range(8)}, processes=1, seconds=.3)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run([sys.executable, "-c", program], env=environment, stderr=theirs, check=True, timeout=60)
    shown = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert "8/8" in shown
    assert "point/s" in shown or "s/point" in shown
    assert re.search(r"[1-7]/8 \[00:0\d<00:0\d", shown)  # time left
    silent = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=60
    )
    assert silent.stderr == b""
