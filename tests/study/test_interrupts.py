"""Ctrl-C wherever it strikes: in a finaliser, in the middle of bookkeeping, with a cluster that does not answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kdlib import study
from kdlib.study.interrupts import Interrupts
from kdlib.study.store import Store


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def experiment(seed: int) -> pd.DataFrame:
    return pd.DataFrame({"value": [seed]})


PROGRAM = """
import os, signal, pandas as pd
from kdlib import study
from kdlib.study.store import Store

class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

plain, writes = Store.write, []

def write(self, part):
    plain(self, part)
    writes.append(part)
    if len(writes) == 2:
        Interrupted()  # what Python raises in it is printed and forgotten

Store.write = write

def experiment(seed):
    import time
    time.sleep(0.01)
    return pd.DataFrame({"value": [seed]})

try:
    study.run(experiment, {"seed": range(2_000)}, store="store", processes=PROCESSES, seconds=0.05)
    print("never stopped")
except KeyboardInterrupt as stopped:
    print(type(stopped).__name__, len(stopped.finished), len(writes))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_in_a_finaliser_is_not_lost(processes: int, script: Any, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace("PROCESSES", str(processes)))
    code, said, error = script("program.py").end(timeout=120)
    assert code == 0, error
    name, count, writes = said.split()
    assert name == "Stopped"
    assert int(writes) <= 3  # it stopped at the next occasion, with what had come meanwhile
    assert len(study.collect(tmp_path / "store")) == int(count)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_a_part_is_written_leaves_all_of_it(
    moment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = Store.write

    def write(self: Store, part: Any) -> None:
        if 4 in part.places and moment == "before":
            press()
        plain(self, part)
        if 4 in part.places and moment == "after":
            press()

    monkeypatch.setattr(Store, "write", write)
    with pytest.raises(study.Stopped, match="stopped after 5 of 9 points") as caught:
        monkeypatch.setattr("random.Random.sample", lambda self, values, _: list(values))  # in the grid's order
        study.run(experiment, {"seed": range(9)}, store=tmp_path, processes=1, seconds=1e-9)
    assert caught.value.finished["value"].tolist() == [0, 1, 2, 3, 4]
    assert sorted(study.collect(tmp_path)["value"]) == [0, 1, 2, 3, 4]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupts_come_where_they_can_be_taken_and_a_second_one_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        press()
        passed = True  # kept
        interrupts.check()
    assert passed
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.taken():
        press()
        pytest.fail("not taken")
    with pytest.raises(KeyboardInterrupt), Interrupts():
        press()
        press()
        pytest.fail("the second one was kept too")
    with pytest.raises(KeyboardInterrupt), Interrupts():
        press()  # kept to the end
    with Interrupts() as interrupts, interrupts.taken():
        pass


def test_somebody_elses_handler_stays() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with Interrupts() as interrupts, interrupts.taken():
            press()
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    in_thread: list[Any] = []

    def use() -> None:
        with Interrupts() as interrupts:
            in_thread.append((interrupts.ours, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert in_thread == [(False, before)]


@pytest.fixture
def cluster() -> Any:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as one:
        yield one


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_not_waited_for(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, until: Any
) -> None:
    import distributed

    answered, took = threading.Event(), {}

    class Slow(distributed.Client):
        def cancel(self, *given: Any, **named: Any) -> None:
            answered.wait(60)

        close = cancel

    def strike() -> None:
        until(lambda: len(list(tmp_path.glob("*/part-*.parquet"))) >= 2)
        took["start"] = time.monotonic()
        press()

    def pauses(seed: int) -> pd.DataFrame:
        time.sleep(0.01)
        return pd.DataFrame({"value": [seed]})

    monkeypatch.setattr(distributed, "Client", Slow)
    thread = threading.Thread(target=strike)
    thread.start()
    try:
        with pytest.raises(study.Stopped) as caught:
            study.run(pauses, {"seed": range(5_000)}, client=cluster.scheduler_address, store=tmp_path, seconds=0.05)
        assert time.monotonic() - took["start"] < 30  # not the minute
    finally:
        answered.set()
        thread.join()
        monkeypatch.undo()
    assert len(caught.value.finished) == len(study.collect(tmp_path)) >= 2


@pytest.mark.filterwarnings("ignore")
def test_a_client_that_cannot_be_closed_in_time_costs_no_result(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    class Late(distributed.Client):
        def close(self, *_: Any, **__: Any) -> None:
            if self.status == "running":
                super().close()
                raise TimeoutError("timed out after 2 s.")

    monkeypatch.setattr(distributed, "Client", Late)
    frame = study.run(experiment, {"seed": range(3)}, client=cluster.scheduler_address)
    assert frame["value"].tolist() == [0, 1, 2]
