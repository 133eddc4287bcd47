"""JupyterLab as an experimenter uses it: open a chapter, run all cells, move a live slider, see the picture change."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import lab as jupyterlab

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab on a copy of the book in its smoke profile."""
    for name in ("book", "_config.yml", "jupytext.toml"):
        source = jupyterlab.ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    chapter = tmp_path / "book/levels/losses.md"
    chapter.write_text(chapter.read_text("utf-8").replace('profile = "page"', 'profile = "smoke"'), "utf-8")
    with jupyterlab.started(tmp_path) as home:
        yield home


def test_run_all_and_move_a_live_slider(lab: str, visit: Any, tmp_path: Path) -> None:
    timeout = pytest.importorskip("playwright.sync_api").TimeoutError
    try:
        run_all_and_move_a_slider(lab, visit, tmp_path / "first.png")
    except timeout:  # a loaded machine can starve JupyterLab's start; what fails twice is a fault
        run_all_and_move_a_slider(lab, visit, tmp_path / "second.png")


def run_all_and_move_a_slider(lab: str, visit: Any, picture: Path) -> None:
    seen = visit(f"{lab}/lab/tree/book/levels/losses.md?reset", viewport={"width": 1400, "height": 1000})
    page = seen.page
    try:
        jupyterlab.run_all(page)
        page.locator(".kdx img").last.wait_for(state="attached", timeout=180_000)
        slider = page.locator(".kdx .noUi-handle, .kdx input[type=range]").first
        slider.scroll_into_view_if_needed()
        slider.focus()
        moved = slider.locator("xpath=ancestor::*[contains(@class, 'kdx')][1]")
        before = moved.locator("img").get_attribute("src"), moved.locator("[role=status]").first.inner_text()
        page.keyboard.press("ArrowLeft")  # it starts at its right end
        page.wait_for_function(
            "([old, figure]) => figure.querySelector('img').src !== old", arg=[before[0], moved.element_handle()]
        )
        after = moved.locator("img").get_attribute("src"), moved.locator("[role=status]").first.inner_text()
        assert after[0] != before[0] and after[1] != before[1]
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert seen.outside == []
    except Exception:
        page.screenshot(path=str(picture))
        print(f"picture of the failure: {picture}", file=sys.stderr)
        raise
