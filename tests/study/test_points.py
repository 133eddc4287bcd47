"""Points of a grid, and the digests that decide whether a stored result belongs to one."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kdlib.data import world
from kdlib.study.grid import points
from kdlib.study.identity import digest, key, versions


def experiment(seed: int, power: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"value": [seed**power]})


def test_a_mapping_is_a_product_with_the_last_column_fastest() -> None:
    made = [point.arguments for point in points(experiment, {"seed": range(2), "power": np.array([1, 3])})]
    assert made == [{"seed": s, "power": p} for s in (0, 1) for p in (1, 3)]
    assert all(type(value) is int for values in made for value in values.values())


def test_a_table_is_its_rows_in_order() -> None:
    grid = pd.DataFrame({"power": [2, 1, 1], "seed": [3, 5, 4]}, index=[7, 7, 0])
    assert [point.arguments for point in points(experiment, grid)] == grid.to_dict("records")
    assert [point.place for point in points(experiment, grid)] == [0, 1, 2]


def test_a_single_value_and_a_text_stand_for_themselves() -> None:
    def named(seed: int, name: str) -> None: ...

    assert [p.arguments for p in points(named, {"seed": [1, 2], "name": "KD"})] == [
        {"seed": 1, "name": "KD"},
        {"seed": 2, "name": "KD"},
    ]


def test_points_are_named_by_value_whatever_the_grid_is_made_of() -> None:
    names = {
        points(experiment, grid)[0].name
        for grid in ({"seed": [3]}, {"seed": np.int64([3])}, {"seed": 3}, pd.DataFrame({"seed": [3]}))
    }
    assert len(names) == 1
    assert points(experiment, {"seed": [3.0]})[0].name not in names


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"seed": []}, "grid must hold at least one point"),
        (pd.DataFrame({"seed": []}), "grid must hold at least one point"),
        ({"seed": [1, 2, 1]}, "each point once, got seed=1 at 0 and 2"),
        ({"seed": [1], "temperature": [4.0]}, "arguments of experiment, got seed, temperature"),
        ({"power": [1]}, "missing a required argument: 'seed'"),
        (pd.DataFrame([[1]]), "columns named by arguments of the experiment, got 0"),
        ([1, 2], "a DataFrame or a mapping of names to values, got list"),
    ],
)
def test_unusable_grids_are_named(grid: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        points(experiment, grid)


def test_an_experiment_that_cannot_be_called_is_named() -> None:
    with pytest.raises(ValueError, match="experiment must be a function that returns a DataFrame, got str"):
        points("experiment", {"seed": [1]})  # type: ignore[arg-type]


def made(text: str, name: str = "f") -> Any:
    """What `name` is after running a text, as a cell of a notebook would."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(text, names)
    return names[name]


ALIKE = [
    ("def f(x): return x + 1", "def f(x):\n    # a comment\n    return (x +\n            1)"),
    ("y = 3\ndef f(x): return x + y", "z = 8\n\n\ny = 3\ndef f(x): return x + y"),
    ("def f(x): return f(x - 1) if x else 0", "\ndef f(x): return f(x - 1) if x else 0"),
    ("def f(x): return x in {'a', 'b', 'c'}", "def f(x): return x in {'c', 'b', 'a'}"),
    ("results = 1\ndef f(x): return x.results", "results = 2\ndef f(x): return x.results"),
]
DIFFERENT = [
    ("def f(x): return x + 1", "def f(x): return x + 2"),
    ("def f(x): return x + 1", "def f(x): return x - 1"),
    ("def f(x, y=1): return x + y", "def f(x, y=2): return x + y"),
    ("def f(x, *, y=1): return x + y", "def f(x, *, y=2): return x + y"),
    ("y = 1\ndef f(x): return x + y", "y = 2\ndef f(x): return x + y"),
    ("y = 1\ndef f(x): return [x + y for _ in 'ab']", "y = 2\ndef f(x): return [x + y for _ in 'ab']"),
    ("def g(): return 1\ndef f(x): return g()", "def g(): return 2\ndef f(x): return g()"),
    (
        "def h(): return 1\ndef g(): return h()\ndef f(x): return g()",
        "def h(): return 2\ndef g(): return h()\ndef f(x): return g()",
    ),
    (
        "def m(y):\n def f(x): return x + y\n return f\nf = m(1)",
        "def m(y):\n def f(x): return x + y\n return f\nf = m(2)",
    ),
    ("f = lambda x: 'a'", "f = lambda x: 'b'"),
    ("import functools\nf = functools.partial(pow, 2)", "import functools\nf = functools.partial(pow, 3)"),
    (
        "class M:\n def go(s): return 1\ndef f(x): return M().go()",
        "class M:\n def go(s): return 2\ndef f(x): return M().go()",
    ),
    (
        "class B:\n a = 1\nclass M(B): pass\ndef f(x): return M().a",
        "class B:\n a = 2\nclass M(B): pass\ndef f(x): return M().a",
    ),
    ("class M:\n def __init__(s, a): s.a = a\nf = M(1)", "class M:\n def __init__(s, a): s.a = a\nf = M(2)"),
    ("import torch\nt = torch.zeros(3)\ndef f(x): return t", "import torch\nt = torch.ones(3)\ndef f(x): return t"),
    (
        "import functools\n@functools.cache\ndef g(): return 1\ndef f(x): return g()",
        "import functools\n@functools.cache\ndef g(): return 2\ndef f(x): return g()",
    ),
    (
        "def f(x):\n try: return 1\n except ValueError: return 2",
        "def f(x):\n try: return 1\n except KeyError: return 2",
    ),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_comments_layout_and_what_is_not_read_do_not_matter(one: str, other: str) -> None:
    assert key(made(one)) == key(made(other))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_any_change_of_code_or_of_what_it_reads_matters(one: str, other: str) -> None:
    assert key(made(one)) != key(made(other))
    assert key(made(one)) == key(made(one))


VALUES: list[Callable[[], Any]] = [
    lambda: 1, lambda: 1.0, lambda: True, lambda: "1", lambda: b"1", lambda: None, lambda: [1], lambda: (1,),
    lambda: {1}, lambda: {"a": 1}, lambda: {"a": [1]}, lambda: ["a", 1], lambda: [["a"], 1], lambda: [[], []],
    lambda: [[[]]], lambda: np.zeros(2), lambda: np.zeros((2, 1)), lambda: np.zeros(2, dtype="float32"),
    lambda: np.zeros(2, dtype="int64"), lambda: torch.zeros(2), lambda: torch.zeros(2, dtype=torch.bfloat16),
    lambda: torch.zeros(2, 1), lambda: pd.Series([0.0, 0.0]), lambda: pd.DataFrame({"a": [0.0, 0.0]}),
    lambda: pd.DataFrame({"b": [0.0, 0.0]}), lambda: Path("1"), lambda: functools.partial(experiment, 1), lambda: np.nan,
    lambda: world("H", 0, 40, 20), lambda: world("H", 1, 40, 20),
]  # fmt: skip


def test_equal_values_have_equal_digests_and_different_ones_different() -> None:
    once, again = ([digest(make()) for make in VALUES] for _ in range(2))
    assert once == again
    assert len(set(once)) == len(VALUES)


def test_the_order_of_a_mapping_or_a_set_does_not_matter() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({*"abc"}) == digest({*"cba"})


def test_a_view_is_its_content() -> None:
    table = torch.arange(12.0).reshape(3, 4)
    assert digest(table[:, 1]) == digest(table[:, 1].clone()) != digest(table[:, 2])


def test_digests_do_not_depend_on_the_process() -> None:
    """Text is hashed with another salt in each, and a compiled file may share constants that fresh code does not."""
    text = (
        ALIKE[3][0]
        + "\n"
        + "class M:\n    def go(self): return {'x', 'y'}, self.go\ng = M()\ndef h(): return g, f('a'), h"
    )
    script = f"from kdlib.study.identity import key\nnames = {{'__name__': '__main__'}}\nexec({text!r}, names)\nprint(key(names['h']))"
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": salt, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }  # fmt: skip
    assert found == {key(made(text, "h"))}


def test_what_has_no_content_is_refused() -> None:
    with pytest.raises(ValueError, match="a stored study must tell its content, got generator"):
        digest(i for i in range(3))


def test_versions_and_the_default_dtype_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(experiment)
    assert set(versions()) == {"python", "kdlib", "torch", "numpy", "pandas"}
    with monkeypatch.context() as patch:
        patch.setattr("kdlib.study.identity.versions", lambda: {**versions(), "torch": "0.0"})
        assert key(experiment) != before
    torch.set_default_dtype(torch.float64)
    try:
        assert key(experiment) != before
    finally:
        torch.set_default_dtype(torch.float32)
    assert key(experiment) == before
