"""`study.watch` as an experimenter sees it: a figure in JupyterLab that changes while another process fills the store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser import lab as jupyterlab

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STUDY = """
import time
import pandas as pd

def experiment(temperature, seed):
    time.sleep(0.3)
    return pd.DataFrame({"accuracy": [0.5 + 0.01 * seed + 0.02 * temperature]})

grid = {"seed": range(SEEDS), "temperature": [1.0, 2.0, 4.0]}
"""
CELLS = [
    "from kdlib import study\nwatch = study.watch('store', seconds=0.2)\nwatch",
    "import time\nwhile len(watch.frame) < 15:\n    time.sleep(0.1)\nprint('all', len(watch.frame), 'rows')",
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab on a folder with a study and a notebook that watches its store."""
    (tmp_path / "book").mkdir()
    (tmp_path / "book/_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tmp_path / "book/index.md").write_text("# A page without code\n")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "watch.ipynb")
    with jupyterlab.started(tmp_path) as home:
        yield home


def test_the_figure_changes_while_another_process_writes(lab: str, visit: Any, tmp_path: Path) -> None:
    """Also while a cell runs: the second cell ends only when the watch has drawn the last result."""
    seen = visit(f"{lab}/lab/tree/watch.ipynb?reset", viewport={"width": 1400, "height": 1000})
    page = seen.page
    try:
        jupyterlab.run_all(page)
        page.get_by_text("store must be a folder of a study").wait_for()
        write(tmp_path, seeds=1)
        figure = page.locator(".jp-OutputArea img")
        page.locator("img[alt*='accuracy over temperature: 3 points so far']").wait_for()
        first = figure.get_attribute("src")
        assert figure.bounding_box()["width"] > 300  # it is drawn, not merely there
        write(tmp_path, seeds=5)
        page.locator("img[alt*='accuracy over temperature: 15 points so far']").wait_for()
        assert figure.count() == 1 and figure.get_attribute("src") != first
        page.get_by_text("all 15 rows").wait_for()
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert seen.outside == []
    except Exception:
        page.screenshot(path=str(tmp_path / "failure.png"))
        print(f"picture of the failure: {tmp_path / 'failure.png'}", file=sys.stderr)
        raise


def write(folder: Path, seeds: int) -> None:
    """Another process does what is missing of the study."""
    (folder / "steps.py").write_text(STUDY.replace("SEEDS", str(seeds)))
    command = [sys.executable, "-m", "kdlib", "study", "steps.py", "--store", "store", "--processes", "1", "--resume"]
    subprocess.run(command, cwd=folder, env=jupyterlab.environment(), check=True, timeout=90, capture_output=True)
