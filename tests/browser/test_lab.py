"""JupyterLab as an experimenter uses it: open a chapter, run all cells, move a live slider, see the picture change."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from book.tools.__main__ import lab_command
from tests import leftovers

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab, started as `make lab` does, on a copy of the book in its smoke profile."""
    for name in ("book", "_config.yml", "jupytext.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    chapter = tmp_path / "book/levels/universe.md"
    chapter.write_text(chapter.read_text("utf-8").replace('profile = "page"', 'profile = "smoke"'), "utf-8")
    start = lab_command(tmp_path)
    settings = tmp_path / "_build/lab-settings/overrides.json"
    # every cell in the page, also those out of sight: the test looks for them
    everything = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | everything))
    command = [*start, "--no-browser", "--port=0", "--IdentityProvider.token=", "--allow-root"]
    own = {name: str(tmp_path / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    log = tmp_path / "lab.log"
    with leftovers.none(), log.open("w") as out:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out, env=os.environ | own)
        try:
            said = re.compile(r"http://(?:localhost|127\.0\.0\.1):(\d+)/")
            home = f"http://127.0.0.1:{wait_for(lambda: said.search(log.read_text()), server, log)[1]}"
            wait_for(lambda: answers(f"{home}/api/status"), server, log)
            yield home
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(condition: Any, server: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := condition():
            return found
        time.sleep(0.3)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def answers(address: str) -> bool:
    try:
        return bool(json.load(urllib.request.urlopen(address, timeout=5)))
    except (urllib.error.URLError, OSError):
        return False


def test_run_all_and_move_a_live_slider(lab: str, visit: Any, tmp_path: Path) -> None:
    timeout = pytest.importorskip("playwright.sync_api").TimeoutError
    try:
        run_all_and_move_a_slider(lab, visit, tmp_path / "first.png")
    except timeout:  # a loaded machine can starve JupyterLab's start; what fails twice is a fault
        run_all_and_move_a_slider(lab, visit, tmp_path / "second.png")


def run_all_and_move_a_slider(lab: str, visit: Any, picture: Path) -> None:
    seen = visit(f"{lab}/lab/tree/book/levels/universe.md?reset", viewport={"width": 1400, "height": 1000})
    page = seen.page
    page.set_default_timeout(90_000)
    try:
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.get_by_text("| Idle").first.wait_for()  # a kernel that is still starting would drop what it is asked
        page.locator(".jp-Notebook").first.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".kdx img").last.wait_for(state="attached", timeout=180_000)
        slider = page.locator(".kdx .noUi-handle, .kdx input[type=range]").first
        slider.scroll_into_view_if_needed()
        slider.focus()
        moved = slider.locator("xpath=ancestor::*[contains(@class, 'kdx')][1]")
        before = moved.locator("img").get_attribute("src"), moved.locator("[role=status]").first.inner_text()
        page.keyboard.press("ArrowRight")
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
