"""A JupyterLab for tests: started as `make lab` does, opened in the browser, all cells run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from book.tools.__main__ import lab_command
from tests import leftovers

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Of a process that imports this checkout."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    }


@contextlib.contextmanager
def started(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab on a folder; its kernels import this checkout."""
    start = lab_command(folder)
    settings = folder / "_build/lab-settings/overrides.json"
    # every cell in the page, also those out of sight: the tests look for them
    everything = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | everything))
    command = [*start, "--no-browser", "--port=0", "--IdentityProvider.token=", "--allow-root"]
    with served(command, folder) as home:
        yield home


@contextlib.contextmanager
def served(command: list[str], folder: Path) -> Iterator[str]:
    """The address of a server of Jupyter's that runs in a folder; nothing of it is left afterwards."""
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    log = folder / "server.log"
    with leftovers.none(), log.open("w") as out:
        server = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=environment() | own)
        try:
            said = re.compile(r"http://(?:localhost|127\.0\.0\.1):(\d+)/")
            home = f"http://127.0.0.1:{_wait_for(lambda: said.search(log.read_text()), server, log)[1]}"
            _wait_for(lambda: _answers(home), server, log)
            yield home
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def run_all(page: Any) -> None:
    """Run all cells of the notebook that is opening in the page."""
    page.set_default_timeout(90_000)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.get_by_text("| Idle").first.wait_for()  # a kernel that is still starting would drop what it is asked
    page.locator(".jp-Notebook").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def _wait_for(condition: Any, server: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := condition():
            return found
        time.sleep(0.3)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


def _answers(home: str) -> bool:
    try:
        with urllib.request.urlopen(f"{home}/", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
