"""The store: what is finished stays, is not run again, not counted twice, and never taken for something else."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kdlib import study


def parts(store: Path) -> list[Path]:
    return sorted(store.glob("*/part-*.parquet"))


def run(experiment: Any, seeds: Any, store: Path, **more: Any) -> pd.DataFrame:
    return study.run(experiment, {"seed": seeds}, store=store, processes=1, **more)


def test_a_second_call_does_what_is_missing(traced: Any, tmp_path: Path) -> None:
    run(traced(), range(6), tmp_path)
    frame = run(traced(), range(9), tmp_path)
    assert traced.calls().to_dict() == dict.fromkeys(range(9), 1)
    pd.testing.assert_frame_equal(frame, study.run(traced(), {"seed": range(9)}, processes=1), check_exact=True)
    fewer = run(traced(), [7, 2], tmp_path)
    assert fewer.seed.tolist() == [7, 7, 2, 2]  # the order of the grid asked for
    assert traced.calls()[2] == 2  # by the call without a store


def test_a_changed_experiment_does_not_take_old_results(traced: Any, tmp_path: Path) -> None:
    old = run(traced(), range(3), tmp_path)
    new = run(traced(factor=2.0), range(3), tmp_path)
    assert new["value"][4] == 2 * old["value"][4]
    with pytest.raises(
        ValueError, match=r"store must hold one experiment's results, or name them by experiment=, got .*, .*"
    ):
        study.collect(tmp_path)
    pd.testing.assert_frame_equal(study.collect(tmp_path, traced()), old)
    pd.testing.assert_frame_equal(study.collect(tmp_path, study.key(traced(factor=2.0))), new)


def test_points_that_failed_are_tried_again_and_no_others(traced: Any, tmp_path: Path) -> None:
    flag, inner = tmp_path / "repaired", traced()

    def experiment(seed: int) -> pd.DataFrame:
        if seed == 2 and not flag.exists():
            raise OSError("no such teacher")
        return inner(seed)

    with pytest.raises(
        study.Incomplete, match=r"1 of 4 points failed, the others are kept in .*\n  seed=2: OSError: no such"
    ):
        run(experiment, range(4), tmp_path / "store")
    flag.touch()
    assert run(experiment, range(4), tmp_path / "store").seed.nunique() == 4
    assert traced.calls().to_dict() == dict.fromkeys(range(4), 1)


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign text", "one byte", "foreign table"])
def test_damaged_files_are_named_and_their_points_run_again(damage: str, traced: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    store = tmp_path / "store"
    once = run(traced(pause=0.02), range(8), store, seconds=0.05)
    victim, *others = parts(store)
    assert others
    content = bytearray(victim.read_bytes())
    if damage == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "foreign text":
        victim.write_text("seed,value\n1,2\n")
    elif damage == "one byte":
        content[len(content) // 3] ^= 1
        victim.write_bytes(content)
    else:
        pq.write_table(pq.read_table(others[0]), victim)
    with pytest.warns(UserWarning, match=victim.name):
        again = run(traced(pause=0.02), range(8), store, seconds=0.05)
    pd.testing.assert_frame_equal(again, once)
    assert set(traced.calls()) == {1, 2}  # the damaged part's points twice, the others once


def test_other_files_in_the_folder_do_no_harm(traced: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    once = run(traced(), range(3), store)
    folder = parts(store)[0].parent
    for name in ("notes.txt", ".part-1.parquet.tmp", "part-1.npz", "_study.json"):
        (folder / name).write_text("{")
    (store / "README").write_text("mine")
    (store / "0123456789abcdef").write_text("a file, not a folder")
    pd.testing.assert_frame_equal(run(traced(), range(3), store), once)
    pd.testing.assert_frame_equal(study.collect(store), once)


def test_points_that_two_clients_both_finished_count_once(traced: Any, tmp_path: Path) -> None:
    once = run(traced(), range(5), tmp_path / "a")
    run(traced(), range(5), tmp_path / "b", seconds=1e-6)
    (folder,) = {path.parent for path in parts(tmp_path / "a")}
    for path in parts(tmp_path / "b"):
        path.rename(folder / path.name)
    assert len(parts(tmp_path / "a")) > 1
    pd.testing.assert_frame_equal(run(traced(), range(5), tmp_path / "a"), once)
    pd.testing.assert_frame_equal(study.collect(tmp_path / "a"), once)


def test_dtypes_come_back_or_are_refused_by_point_and_column(tmp_path: Path) -> None:
    def experiment(seed: int) -> pd.DataFrame:
        odd = {2: [1, "a"], 3: [{"a": 1}, {"b": 2}], 4: [object(), object()], 5: [1, 2]}.get(seed)
        return pd.DataFrame({"value": pd.Series(odd, dtype=object) if odd else ["x", "y"]})

    with pytest.raises(study.Incomplete, match=r"4 of 6 points failed") as caught:
        run(experiment, range(6), tmp_path)
    for seed in (2, 3, 4, 5):
        assert f"seed={seed}: ValueError: a store's columns must hold numbers, texts or dates of one kind" in str(
            caught.value
        )
    assert caught.value.finished.seed.unique().tolist() == [0, 1]


def test_arrays_are_kept_beside_the_frame(tmp_path: Path) -> None:
    def experiment(seed: int) -> Any:
        frame = pd.DataFrame({"value": [seed]})
        return (frame, {"logits": np.full((2, 3), seed / 3), "names": np.array(["a", "ß"])}) if seed else frame

    frame = run(experiment, range(3), tmp_path)
    assert frame["value"].tolist() == [0, 1, 2]
    found = study.arrays(tmp_path, {"seed": np.int64(2)})
    assert np.array_equal(found["logits"], np.full((2, 3), 2 / 3))
    assert found["names"].tolist() == ["a", "ß"]
    for seed in (0, 7):
        with pytest.raises(ValueError, match=f"point must be one whose arrays are in .*, got seed={seed}"):
            study.arrays(tmp_path, {"seed": seed})
    for path in tmp_path.glob("*/*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"npz \(100 bytes\) is damaged"):
        run(experiment, range(3), tmp_path)
    with warnings.catch_warnings(action="ignore"):  # the damaged file may still lie there
        assert np.array_equal(study.arrays(tmp_path, {"seed": 2})["logits"], np.full((2, 3), 2 / 3))


def test_a_store_that_is_no_folder_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"store must be a folder of a study, got .*, which is none"):
        study.collect(tmp_path / "none")
    with pytest.raises(ValueError, match=r"store must hold one experiment's results.* with nothing"):
        study.collect(tmp_path)


def test_a_relative_path_and_the_home_folder(traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run(traced(), range(2), Path("~/store"))
    run(traced(), range(2), Path("store"))
    assert parts(tmp_path / "home" / "store")
    assert parts(tmp_path / "store")


PROGRAM = """
import pathlib, sys, time, uuid
import pandas as pd
from kdlib import study

def experiment(seed):
    pathlib.Path("calls", f"{seed}.{uuid.uuid4().hex}").touch()
    time.sleep(0.05)
    return pd.DataFrame({"value": [seed / 3]})

if __name__ == "__main__":
    frame = study.run(experiment, {"seed": range(60)}, store="store", processes=int(sys.argv[1]), seconds=0.2)
    assert frame["value"].tolist() == [seed / 3 for seed in range(60)]
"""


def calls(folder: Path) -> pd.Series:
    return pd.Series([int(path.name.partition(".")[0]) for path in (folder / "calls").iterdir()]).value_counts()


@pytest.fixture
def program(tmp_path: Path) -> str:
    (tmp_path / "calls").mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    return "program.py"


def test_a_killed_client_loses_only_the_chunks_in_flight(program: str, script: Any, until: Any, tmp_path: Path) -> None:
    running = script(program, "2")
    until(lambda: len(parts(tmp_path / "store")) >= 4)
    running.kill()  # the client alone; this returns when its workers have ended too
    kept = study.collect(tmp_path / "store")
    assert len(kept) == kept.seed.nunique() >= 4
    assert script(program, "1").end()[0] == 0
    assert len(study.collect(tmp_path / "store")) == 60
    repeated = calls(tmp_path)[lambda count: count > 1]
    assert set(repeated.index).isdisjoint(kept.seed)
    assert len(repeated) <= 4 * 5  # four chunks of 0.2 s
    leftovers = list(tmp_path.glob("store/*/.*"))
    assert len(leftovers) <= 1


def test_two_clients_share_a_store(program: str, script: Any, tmp_path: Path) -> None:
    first, second = script(program, "1"), script(program, "1")
    assert first.end()[0] == 0
    assert second.end()[0] == 0
    count = calls(tmp_path)
    assert len(count) == 60
    assert count.sum() < 90  # shared: not everything was run twice
    assert len(study.collect(tmp_path / "store")) == 60


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of 100 kB, mounted with these options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "kdlib", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
        return folder

    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs Linux and root")
    yield mount
    subprocess.run(["umount", folder], capture_output=True)


def test_a_full_disk_stops_the_study_and_loses_nothing(small_disk: Any, tmp_path: Path, traced: Any) -> None:
    disk = small_disk("size=100k")
    inner = traced()

    def experiment(seed: int) -> pd.DataFrame:
        return inner(seed).assign(noise=[np.random.default_rng(seed).bytes(3000).hex()] * 2)

    with pytest.raises(
        study.Incomplete, match=r"cannot go on \(OSError: .*No space left on device.*they are kept in"
    ) as caught:
        run(experiment, range(300), disk, seconds=1e-6)
    done = traced.calls()
    assert (done == 1).all()
    assert sorted(set(caught.value.finished.seed)) == sorted(done.index)  # nothing finished is lost
    assert 5 < len(done) < 40  # it stopped at once
    assert f"(seed={(set(done.index) - set(study.collect(disk).seed)).pop()})" in str(caught.value)  # the one not kept
    assert not list(disk.glob("*/.*"))  # no half-written file takes the room
    subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
    assert run(experiment, range(40), disk).seed.nunique() == 40
    assert traced.calls().sum() <= 41 + len(done)  # kept points were not run again


def test_a_read_only_disk_is_named_before_anything_is_run(small_disk: Any, traced: Any) -> None:
    disk = small_disk("size=1m")
    once = run(traced(), range(3), disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    pd.testing.assert_frame_equal(run(traced(), range(3), disk), once)  # to read it is enough
    with pytest.raises(ValueError, match=r"store must be a folder that can be written, got .*Read-only file system"):
        run(traced(), range(4), disk)
    assert len(traced.calls()) == 3
