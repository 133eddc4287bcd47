"""Looking at a store while it fills: the frame so far, and the figure that follows it."""

from __future__ import annotations

import base64
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdlib import study
from kdlib.study.live import interval


def experiment(seed: int, temperature: float) -> pd.DataFrame:
    return pd.DataFrame({"accuracy": [0.5 + 0.01 * seed * temperature]})


def run(seeds: Any, store: Path) -> pd.DataFrame:
    return study.run(experiment, {"seed": seeds, "temperature": [1.0, 4.0]}, store=store, processes=1)


def test_follow_gives_the_frame_whenever_it_has_grown(tmp_path: Path) -> None:
    once = run(range(2), tmp_path)
    frames = study.follow(tmp_path, seconds=0.01)
    pd.testing.assert_frame_equal(next(frames), once)
    later = threading.Timer(0.1, run, (range(4), tmp_path))
    later.start()
    assert len(next(frames)) > 4
    later.join()


def test_an_interval_is_the_t_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=7)
    test = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval([*values, np.nan]) == pytest.approx((test.low, test.high), abs=1e-12)
    assert interval([2.0]) == (2.0, 2.0)
    assert np.isnan(interval([])).all()


def test_a_watch_on_an_empty_folder_draws_when_results_come(tmp_path: Path, until: Any) -> None:
    watch = study.watch(tmp_path / "store", seconds=0.05)
    try:
        assert "store must be a folder of a study" in watch.widget.value
        run(range(3), tmp_path / "store")
        until(lambda: "6 points so far; mean and 95 % t interval" in watch.widget.value)
        first = watch.widget.value
        assert 'alt="accuracy over temperature: 6 points so far' in first
        source = re.search('base64,([^"]+)', first)
        assert source is not None
        assert b"<svg" in base64.b64decode(source[1])
        run(range(5), tmp_path / "store")
        until(lambda: "10 points so far" in watch.widget.value)
        assert watch.frame.seed.nunique() == 5
    finally:
        watch.stop()
    last = watch.widget.value
    run(range(6), tmp_path / "store")
    time.sleep(0.2)
    assert watch.widget.value == last


@pytest.mark.parametrize(
    ("roles", "drawn"),
    [
        ({}, "accuracy over temperature"),
        ({"x": "seed"}, "accuracy over seed"),
        ({"y": "seed", "x": "temperature"}, "seed over temperature"),
    ],
)
def test_what_is_drawn_can_be_chosen(roles: dict[str, str], drawn: str, tmp_path: Path) -> None:
    run(range(3), tmp_path)
    watch = study.watch(tmp_path, **roles)  # type: ignore[arg-type]
    watch.stop()
    assert drawn in watch.widget.value


def test_a_column_that_is_not_there_is_named_where_the_figure_would_be(tmp_path: Path) -> None:
    run(range(3), tmp_path)
    watch = study.watch(tmp_path, y="loss")
    watch.stop()
    assert "y must be one of seed, temperature, accuracy, got &#x27;loss&#x27;" in watch.widget.value


def test_a_page_run_shows_no_bar_and_a_reader_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook that is run as a page takes no input; JupyterLab's kernels do."""
    nbclient = pytest.importorskip("nbclient", reason="of the book's packages")
    nbformat = pytest.importorskip("nbformat", reason="of the book's packages")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # no startup files, and a home need not be writable
    cells = [
        "import pandas as pd\nfrom kdlib import study\ndef experiment(seed):\n    return pd.DataFrame({'value': [seed * scale]})\nscale = 2\nframe = study.run(experiment, {'seed': range(5)}, processes=2)",
        "print(frame['value'].sum())",
    ]
    bars = {}
    for reader in (False, True):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        client = nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
        with client.setup_kernel():
            client.kc.allow_stdin = reader
            for index, cell in enumerate(book.cells):
                client.execute_cell(cell, index)
        bars[reader] = book.cells[0].outputs
        assert book.cells[1].outputs[0].text == "20\n"  # the experiment of a notebook's cell, in other processes
    assert bars[False] == []
    assert "application/vnd.jupyter.widget-view+json" in bars[True][0].data
