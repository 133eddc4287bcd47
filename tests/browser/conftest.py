"""A real browser for tests: Chromium by Playwright, with everything outside this machine's own pages refused."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import leftovers


@dataclass
class Visit:
    """One page in a browser context of its own: what it asked for outside, and what its console complained about."""

    page: Any
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


# One for this folder, not for the session: while Playwright is open its event loop counts as running, and asyncio.run
# would fail in other tests. (A folder counts for pytest as a package when it has an __init__.py.)
@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """A headless Chromium; skips where Playwright or the browser is absent. KDLIB_CHROMIUM names another program."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("KDLIB_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(program).exists():
        pytest.skip(f"no Chromium at {program}")
    with leftovers.none(), sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """visit(address, **options of a browser context) opens a page that can reach its own host or files, nothing else."""
    contexts = []

    def open_page(address: str, **options: Any) -> Visit:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        home = "file://" if address.startswith("file:") else "/".join(address.split("/")[:3]) + "/"
        seen = Visit(context.new_page())

        def guard(route: Any) -> None:
            if route.request.url.startswith((home, "data:", "blob:")):
                route.continue_()
            else:
                seen.outside.append(route.request.url)
                route.abort()

        context.route("**/*", guard)
        seen.page.on("console", lambda m: seen.errors.append(m.text) if m.type in ("error", "warning") else None)
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.goto(address)
        return seen

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="package")
def serve() -> Iterator[Callable[[Path], str]]:
    """serve(folder) is the address of a small web server for that folder, the same one each time."""
    servers: dict[Path, http.server.ThreadingHTTPServer] = {}

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    def address(folder: Path) -> str:
        if folder not in servers:
            handler = functools.partial(Quiet, directory=str(folder))
            servers[folder] = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=servers[folder].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[folder].server_port}"

    yield address
    for server in servers.values():
        server.shutdown()
        server.server_close()
