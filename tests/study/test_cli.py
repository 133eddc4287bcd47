"""`kdlib study`: runs, goes on, tells how far it is, and says by its exit status what came of it."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kdlib import study
from kdlib.__main__ import main

FILE = """
from __future__ import annotations
import dataclasses, pathlib, time
import pandas as pd
import neighbour

@dataclasses.dataclass
class Settings:
    factor: float = 0.5

def experiment(seed: int, kind: str):
    time.sleep(0.01)
    if seed == neighbour.BAD:
        raise ArithmeticError(f"no root of {-seed}")
    return pd.DataFrame({"value": [seed * Settings().factor]})

grid = {"seed": range(6), "kind": ["a", "b"]}
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`kdlib study steps.py --store store ...` in the test's folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, "neighbour", raising=False)
    Path("steps.py").write_text(FILE)
    Path("neighbour.py").write_text("BAD = -1\n")
    return lambda *more: main(["study", "steps.py", "--store", "store", "--processes", "1", *more])


def test_a_study_is_run_resumed_and_written_to_a_table(command: Any, capsys: Any) -> None:
    assert command("--table", "steps.csv") == 0
    assert "12 points (0 were there before), 12 rows in store" in capsys.readouterr().out
    table = pd.read_csv("steps.csv")
    assert list(table) == ["seed", "kind", "value"]
    assert table["value"].tolist() == [seed / 2 for seed in range(6) for _ in "ab"]
    assert command() == 2
    assert re.search("with 12 of 12 points: add --resume to do what is missing", capsys.readouterr().err)
    Path("steps.py").write_text(FILE.replace("range(6)", "range(7)"))
    assert command("--resume", "--table", "steps.parquet") == 0
    assert "14 points (12 were there before)" in capsys.readouterr().out
    assert len(pd.read_parquet("steps.parquet")) == 14


def test_an_edit_of_equal_length_within_a_second_is_seen(
    command: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would read the first one's bytecode again: it looks at a file's size and at whole seconds."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    path = Path("steps.py")
    os.utime(path, (1e9, 1e9))
    assert command() == 0
    path.write_text(FILE.replace("range(6)", "range(7)"))
    os.utime(path, (1e9, 1e9))
    assert command("--resume") == 0
    assert "14 points (12 were there before)" in capsys.readouterr().out


@pytest.mark.parametrize("cache", ["functools.cache", "functools.lru_cache(2)"])
@pytest.mark.parametrize("where", ["steps.py", "neighbour.py"])
def test_a_function_with_a_cache_reaches_the_processes(command: Any, where: str, cache: str) -> None:
    """In the file itself or in a module beside it, read by a function that it reads in turn."""
    cached = f"import functools\n@{cache}\ndef double(x): return x if x < 1 else 2 + double(x - 1)\n"
    text = FILE.replace("seed * Settings().factor", "double(seed)").replace(
        "import neighbour\n", "import neighbour\n" + cached
    )
    if where == "neighbour.py":
        Path(where).write_text("BAD = -1\n" + cached)
        text = FILE.replace("seed * Settings().factor", "neighbour.double(seed)")
    Path("steps.py").write_text(text)
    assert command("--processes", "2", "--table", "steps.csv") == 0
    assert pd.read_csv("steps.csv")["value"].tolist() == [2 * seed for seed in range(6) for _ in "ab"]


def test_a_table_like_those_that_ship_has_the_same_bytes_whether_or_not_the_study_was_stopped(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("--table", "steps.npz") == 0
    once = Path("steps.npz").read_bytes()
    Path("steps.py").write_text(FILE.replace("range(6)", "[2, 5]"))
    assert command("--store", "other") == 0
    Path("steps.py").write_text(FILE)
    assert command("--store", "other", "--resume", "--table", "again.npz") == 0
    assert Path("again.npz").read_bytes() == once
    module = importlib.import_module("kdlib.data.shipped")
    Path("data").mkdir()
    for name in ("steps.npz", "checksums.json"):
        Path(name).rename(Path("data", name))
    monkeypatch.setattr(module, "PACKAGE", Path("kdlib").resolve())
    table = pd.DataFrame(module.shipped("steps"))
    assert table.to_dict("list") == {
        "seed": [seed for seed in range(6) for _ in "ab"],
        "kind": ["a", "b"] * 6,
        "value": [seed / 2 for seed in range(6) for _ in "ab"],
    }


def test_a_table_of_what_succeeded_is_written_when_all_was_tried(
    command: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("neighbour.py").write_text("BAD = 3\n")
    assert command("--table", "steps.csv") == 1
    assert pd.read_csv("steps.csv")["seed"].tolist() == [s for s in (0, 1, 2, 4, 5) for _ in "ab"]
    Path("steps.csv").unlink()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kdlib.study.store.Store.write", full)
        assert command("--store", "other", "--table", "steps.csv") == 1
    assert "cannot go on (OSError: no space left on device)" in capsys.readouterr().err
    assert not Path("steps.csv").exists()  # points are left that nothing is known of


def test_failed_points_are_listed_and_the_others_kept(command: Any, capsys: Any) -> None:
    Path("neighbour.py").write_text("BAD = 3\n")
    assert command() == 1
    said = capsys.readouterr().err
    assert "2 of 12 points failed, the others are kept in store" in said
    assert "seed=3, kind='b': ArithmeticError: no root of -3" in said
    assert sorted(study.collect("store").seed.unique()) == [0, 1, 2, 4, 5]


def test_a_dry_run_keeps_nothing_and_estimates(command: Any, capsys: Any) -> None:
    assert command("--dry-run") == 0
    said = capsys.readouterr().out
    assert "12 points, 0 of them in the store" in said
    assert re.search(r"measured: 12 points in 0\.\d s, 0 of them failed", said)
    assert "12 points to run: about 1 chunks, 0." in said
    assert not Path("store").exists()


def test_the_status_is_read_while_others_write(command: Any, capsys: Any, script: Any, until: Any) -> None:
    assert command("--status") == 0
    assert "0 of 12 points done" in capsys.readouterr().out
    Path("steps.py").write_text(FILE.replace("0.01", "0.5"))
    running = script("-m", "kdlib", "study", "steps.py", "--store", "store", "--processes", "1")
    until(lambda: list(Path("store").glob("*/part-*.parquet")))
    assert command("--status") == 0
    said = re.search(
        r"(\d+) of 12 points done in store/\w{16}\n\d parts, the last one written \d\.\d s ago", capsys.readouterr().out
    )
    assert said is not None
    assert 0 < int(said[1]) < 12
    assert running.end()[0] == 0
    assert command("--status") == 0
    assert "12 of 12 points done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "FILE must be a Python file, got 'steps.py'"),
        ("experiment = 1 +", "FILE must run, got 'steps.py' with SyntaxError"),
        ("import nothing_of_this_name", "with ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("grid = {'seed': [1]}", "FILE must define `experiment`, got 'steps.py' without it"),
        ("def experiment(seed): ...", "FILE must define `grid`, got 'steps.py' without it"),
        ("def experiment(seed): ...\ngrid = {'lr': [1]}", "grid must name the arguments of experiment, got lr"),
    ],
)
def test_unusable_files_are_named(text: str | None, message: str, command: Any, capsys: Any) -> None:
    Path("steps.py").unlink()
    if text is not None:
        Path("steps.py").write_text(text)
    assert command() == 2
    assert message in capsys.readouterr().err


def test_unusable_options_are_named(command: Any, capsys: Any) -> None:
    assert command("--table", "steps.xlsx") == 2
    assert "--table must name a .csv, .parquet or .npz file, got 'steps.xlsx'" in capsys.readouterr().err
    assert command("--store", "steps.py") == 2
    assert "store must be a folder, got the file 'steps.py'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command("--dry-run", "--status")
    assert not Path("store").exists()


def test_the_help_has_examples_and_exit_statuses(capsys: Any) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["study", "--help"])
    said = capsys.readouterr().out
    assert "kdlib study temperatures.py --store results --resume" in said
    assert "exit status: 0 all points are done; 1 some failed" in said
