"""JupyterLab as an experimenter uses it: a chapter's figure that moves, a kernel at work elsewhere, and no kernel at all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser import lab as jupyterlab

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FIGURE = """
import time
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
from kdlib.explore import Control, explore

def draw(T, alpha, image):
    plt.gca().plot([0, alpha * T])
    return f"{image}: at T = {T:g} and alpha = {alpha:g} the gain is {alpha * T:g} points."

def table(T, alpha, image):
    return pd.DataFrame({"T": [T], "gain": [alpha * T]})

def retrain(T, alpha, image):
    if T < 0:
        raise ValueError("T must be positive")
    for step in range(1, 5):
        while T > 8 and step == 2 and not Path("stopped").exists():
            time.sleep(0.05)
        yield step / 4

explore(
    draw, table=table, retrain=retrain, start={"T": 2, "alpha": 1},
    T=Control([1, 2, 4], "temperature T"), alpha=[0.5, 1], image=["a shoe", "a boot"],
)
"""
BUSY = 'print("held")\nwhile not Path("free").exists():\n    time.sleep(0.1)'  # a later cell, which keeps the kernel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the book in its smoke profile, and a notebook whose second cell keeps the kernel."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("book", "_config.yml", "jupytext.toml"):
        source = jupyterlab.ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    chapter = folder / "book/levels/losses.md"
    chapter.write_text(chapter.read_text("utf-8").replace('profile = "page"', 'profile = "smoke"'), "utf-8")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (FIGURE, BUSY)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "figure.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab on that folder."""
    with jupyterlab.started(folder) as home:
        yield home


def twice(part: Callable[..., None], tmp_path: Path, *arguments: Any) -> None:
    """A loaded machine can starve JupyterLab's start; what fails twice is a fault."""
    timeout = pytest.importorskip("playwright.sync_api").TimeoutError
    try:
        part(*arguments, tmp_path / "first.png")
    except timeout:
        part(*arguments, tmp_path / "second.png")


def test_run_all_move_a_slider_and_open_the_chapter_again(lab: str, visit: Any, tmp_path: Path) -> None:
    twice(run_all_and_move_a_slider, tmp_path, lab, visit)


def run_all_and_move_a_slider(lab: str, visit: Any, picture: Path) -> None:
    seen = visit(f"{lab}/lab/tree/book/levels/losses.md?reset", viewport={"width": 1400, "height": 1000})
    page = seen.page
    try:
        jupyterlab.run_all(page)
        page.locator("figure.kdx.kdx-ready").last.wait_for(state="attached", timeout=180_000)
        move_first_slider(page)
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
        save_and_shut_down(page, lab)
        page.goto(f"{lab}/lab/tree/book/levels/losses.md?reset")  # outputs come from the paired notebook
        page.locator("figure.kdx.kdx-ready").first.wait_for(state="attached")
        move_first_slider(page)
        assert seen.outside == []
    except Exception:
        page.screenshot(path=str(picture))
        print(f"picture of the failure: {picture}", file=sys.stderr)
        raise


def move_first_slider(page: Any) -> None:
    figure = page.locator("figure.kdx").first
    slider = figure.locator("input[type=range]").first
    slider.scroll_into_view_if_needed()
    before = figure.locator("img").get_attribute("src"), figure.locator(".kdx-sentence").inner_text()
    slider.press("ArrowLeft")  # it starts at its right end
    after = figure.locator("img").get_attribute("src"), figure.locator(".kdx-sentence").inner_text()
    assert after[0] != before[0] and after[1] != before[1]


def save_and_shut_down(page: Any, lab: str) -> None:
    page.keyboard.press("Control+s")
    page.locator(".jp-Document:not(.lm-mod-hidden)").first.wait_for()
    page.wait_for_function("() => !document.querySelector('.lm-TabBar-tab.jp-mod-dirty')")
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    page.get_by_text("No Kernel").first.wait_for()
    assert page.url.split("?")[0].rpartition("/")[2] not in page.request.get(f"{lab}/api/sessions").text()


def test_a_figure_answers_whatever_the_kernel_does(lab: str, folder: Path, visit: Any, tmp_path: Path) -> None:
    twice(with_a_busy_kernel_and_with_none, tmp_path, lab, folder, visit)


def with_a_busy_kernel_and_with_none(lab: str, folder: Path, visit: Any, picture: Path) -> None:
    for mark in ("free", "stopped"):
        (folder / mark).unlink(missing_ok=True)
    seen = visit(f"{lab}/lab/tree/figure.ipynb?reset", viewport={"width": 1400, "height": 1400})
    page, figure = seen.page, seen.page.locator("figure.kdx.kdx-ready")
    go = figure.get_by_role("button").first
    said, sentence = figure.locator(".kdx-said"), figure.locator(".kdx-sentence")

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    def says(text: str) -> None:
        said.filter(has_text=text).wait_for()

    try:
        jupyterlab.run_all(page)
        figure.wait_for()
        figure.locator("button[aria-disabled=false]").wait_for()  # the kernel's side has joined it
        page.locator(".jp-OutputArea-output").filter(has_text="held").wait_for()
        # every control by keyboard, named, in the order that a reader sees
        figure.get_by_role("slider", name="temperature T", exact=True).focus()
        press("ArrowRight", "Tab", "Home", "Tab", "ArrowDown")
        assert sentence.inner_text() == "a boot: at T = 4 and alpha = 0.5 the gain is 2 points."
        assert figure.locator("img").get_attribute("alt") == sentence.inner_text()
        press("Tab", "Enter")
        assert figure.locator("td").all_inner_texts() == ["4", "2"]
        press("Tab", "Tab")  # the table's box, then the first field
        assert page.evaluate("document.activeElement.labels[0].textContent") == "temperature T"
        press("Control+a", "3", "Tab", "Tab")
        assert figure.get_by_role("group", name="Train another setting").locator("button:focus").count() == 1
        press("Enter")
        assert go.inner_text() == "Waiting for the kernel …" and "at work on other cells" in said.inner_text()
        assert go.get_attribute("aria-disabled") == "true"
        assert go.evaluate("button => button === document.activeElement")
        press("Enter")  # heard once
        figure.get_by_role("slider", name="temperature T", exact=True).press("Home")
        assert sentence.inner_text() == "a boot: at T = 1 and alpha = 0.5 the gain is 0.5 points."
        (folder / "free").touch()
        says("Shown: temperature T = 3, alpha = 1, image = a boot")
        assert sentence.inner_text() == "a boot: at T = 3 and alpha = 1 the gain is 3 points."
        assert figure.locator("td").all_inner_texts() == ["3", "3"]
        figure.get_by_role("slider", name="alpha", exact=True).press("End")
        assert sentence.inner_text() == "a boot: at T = 1 and alpha = 1 the gain is 1 points."
        assert said.inner_text() == ""
        # an error, a stop
        figure.locator("input[type=number]").first.fill("-1")
        press("Enter")
        says("ValueError: T must be positive")
        assert said.get_attribute("role") == "alert"
        figure.locator("input[type=number]").first.fill("9")
        press("Enter")
        page.wait_for_function("bar => bar.value === 0.25", arg=figure.locator("progress").element_handle())
        figure.get_by_role("button", name="Stop").press("Enter")
        says("Stopping after this step.")
        (folder / "stopped").touch()
        says("Stopped before temperature T = 9")
        shown = figure.get_by_role("combobox", name="shown", exact=True)
        shown.select_option(index=1)
        assert sentence.inner_text() == "a boot: at T = 3 and alpha = 1 the gain is 3 points."
        shown.select_option(index=0)
        assert sentence.inner_text() == "a boot: at T = 1 and alpha = 1 the gain is 1 points."
        # no kernel: told where one is asked for, and the controls go on
        save_and_shut_down(page, lab)
        go.click()
        says("No kernel is connected to this figure")
        assert go.get_attribute("aria-disabled") == "true"
        page.goto(f"{lab}/lab/tree/figure.ipynb?reset")
        figure.wait_for()
        says("No kernel is connected to this figure")
        figure.get_by_role("slider", name="temperature T", exact=True).press("ArrowRight")
        assert sentence.inner_text() == "a shoe: at T = 4 and alpha = 1 the gain is 4 points."
        assert figure.locator("img").evaluate("i => i.naturalWidth > 300")
        assert seen.outside == []
    except Exception:
        page.screenshot(path=str(picture))
        print(f"picture of the failure: {picture}", file=sys.stderr)
        raise
