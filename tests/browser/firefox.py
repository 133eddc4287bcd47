"""A small client for Firefox as it is installed: WebDriver BiDi, which Firefox itself speaks on a websocket."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

LIMIT = 60.0  # seconds that a test may take, the browser's answers included
KEYS = {"ArrowRight": "\ue014", "ArrowLeft": "\ue012"}
# the profile of a browser that asks the network for nothing: whatever is not this machine goes to a port where nobody listens
SETTINGS = {
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "remote.active-protocols": 1,
}


def program() -> str | None:
    """The installed Firefox; KDLIB_FIREFOX names another program."""
    return os.environ.get("KDLIB_FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")


class Firefox:
    """One tab of a running Firefox. `errors` holds what its console complained about."""

    def __init__(self, address: str) -> None:
        self.until = time.monotonic() + LIMIT
        self.errors: list[str] = []
        self.numbers = itertools.count(1)
        # a websocket with an origin is a page's, and Firefox refuses it
        self.socket = websocket.create_connection(f"{address}/session", timeout=LIMIT, suppress_origin=True)
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=["log.entryAdded"])
        self.tab = self.ask("browsingContext.getTree", maxDepth=0)["contexts"][0]["context"]

    def fresh(self) -> None:
        """A new test: the whole time, and no errors yet."""
        self.until, self.errors = time.monotonic() + LIMIT, []

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; AssertionError for a refusal, TimeoutError past the test's time."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            if (left := self.until - time.monotonic()) <= 0:
                raise TimeoutError(f"{method} within {LIMIT:g} s")
            self.socket.settimeout(left)
            try:
                said = json.loads(self.socket.recv())
            except websocket.WebSocketTimeoutException:
                continue
            if said.get("method") == "log.entryAdded" and said["params"]["level"] in ("error", "warn"):
                self.errors.append(str(said["params"]["text"]))
            elif said.get("id") == number:
                assert said["type"] == "success", f"{method}: {said['error']}: {said['message']}"
                return dict(said["result"])

    def open(self, address: str) -> None:
        self.ask("browsingContext.navigate", context=self.tab, url=address, wait="complete")

    def reload(self) -> None:
        self.ask("browsingContext.reload", context=self.tab, wait="complete")

    def resize(self, width: int, height: int) -> None:
        self.ask("browsingContext.setViewport", context=self.tab, viewport={"width": width, "height": height})

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        wrapped = f"(async () => JSON.stringify(await ({script}) ?? null))()"
        said = self.ask("script.evaluate", expression=wrapped, target={"context": self.tab}, awaitPromise=True)
        assert said["type"] == "success", said["exceptionDetails"]["text"]
        return json.loads(said["result"]["value"])

    def wait(self, script: str) -> None:
        """Until an expression in the page is true; TimeoutError past the test's time."""
        while not self.run(script):
            time.sleep(0.05)

    def press(self, key: str) -> None:
        actions = [{"type": kind, "value": KEYS[key]} for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self.ask("input.performActions", context=self.tab, actions=[keyboard])


@contextlib.contextmanager
def started(command: str, profile: Path) -> Iterator[Firefox]:
    """A headless Firefox with a profile of its own; it and its helpers are gone afterwards."""
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in SETTINGS.items()]
    profile.mkdir()
    (profile / "user.js").write_text("".join(lines), "utf8")
    log = profile / "said.log"
    options = ["--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen([command, *options, "about:blank"], stdout=out, stderr=out, start_new_session=True)
        try:
            browser = Firefox(_address(process, log))
            try:
                yield browser
                browser.fresh()
                browser.ask("browser.close")
            finally:
                browser.socket.close()
            process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):  # its own group: the helpers go with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, as it says on its first lines."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text("utf8", errors="replace").splitlines():
            if "BiDi listening on " in line:
                return line.rpartition(" ")[2]
        time.sleep(0.1)
    raise AssertionError(f"Firefox did not start:\n{log.read_text('utf8', errors='replace')[-2000:]}")
