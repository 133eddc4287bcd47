"""Where chunks run: in this process, in processes of this machine (loky, by joblib), or on a Dask cluster.

Each is a `concurrent.futures` executor in a thin coat that says how many chunks it can run at once, what a lost process
looks like, and how to go on after one.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
import warnings
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdlib.study.grid import Point
from kdlib.study.identity import own, versions
from kdlib.study.work import Outcome, work

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

LARGE = 100_000  # bytes of an experiment that are not sent with each chunk
PATIENCE = 0.5  # seconds that a cluster is waited for at the end: an interrupt stops within one


class Here:
    """Points run in this process, so that a debugger finds them; a chunk is done when `submit` returns."""

    ahead = 1
    size = 1

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def submit(self, chunk: list[Point], seconds: float) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(work(self.payload, chunk, seconds))
        return future

    def lost(self, future: Future[Outcome]) -> str:
        """How a finished future lost its process: not at all, or with all others, by itself, or with the connection."""
        return ""

    def restart(self) -> None:
        """Go on after a loss."""

    def close(self) -> None:
        """At the end of a study."""

    stop = close  # in the middle of one


class Processes:
    """loky's pool, kept from call to call as long as the user's own modules and kdlib are the same; one thread each."""

    ahead = 2  # chunks sent per process, so that none waits for the next one

    def __init__(self, payload: bytes, size: int) -> None:
        self.payload, self.size = payload, size
        self.environment = dict.fromkeys(THREADS, "1") | {"KDLIB_STUDY_CODE": _code()}
        self.restart()

    def submit(self, chunk: list[Point], seconds: float) -> Future[Outcome]:
        try:
            return self.pool.submit(work, self.payload, chunk, seconds)
        except BrokenProcessPool:  # an idle process died
            self.restart()
            return self.pool.submit(work, self.payload, chunk, seconds)

    def lost(self, future: Future[Outcome]) -> str:
        return "all" if isinstance(future.exception(), BrokenProcessPool) else ""

    def restart(self) -> None:
        from joblib.executor import get_memmapping_executor  # joblib's own, so that `Parallel` can follow a study

        self.pool = get_memmapping_executor(
            self.size, timeout=60, env=self.environment, initializer=_end_with, initargs=(os.getpid(),), max_nbytes=None
        )

    def close(self) -> None:
        """Nothing: processes that idle for a minute end by themselves."""

    def stop(self) -> None:
        self.pool.shutdown(wait=True, kill_workers=True)


class Cluster:
    """A Dask client, or one made for a scheduler's address. What dies is started anew by Dask, as often as Dask allows."""

    ahead = 2

    def __init__(self, payload: bytes, client: Any) -> None:
        try:
            import distributed
        except ImportError as error:
            raise ImportError("client= needs Dask: pip install dask distributed") from error
        if not isinstance(client, str | distributed.Client):
            raise ValueError(f"client must be a Dask client or a scheduler's address, got {type(client).__name__}")
        self.payload, self.own = payload, isinstance(client, str)
        try:
            self.client = distributed.Client(client, set_as_default=False) if isinstance(client, str) else client
        except (OSError, ValueError) as error:
            raise ValueError(f"client must be the address of a running scheduler, got {client!r}: {error}") from None
        self.address = str(self.client.scheduler.address) if self.client.scheduler else "its address"
        self.died = distributed.scheduler.KilledWorker
        self._connect()

    @property
    def size(self) -> int:
        try:
            return max(1, sum(self.client.nthreads().values()))
        except (OSError, RuntimeError):  # between two schedulers
            return 1

    def submit(self, chunk: list[Point], seconds: float) -> Future[Outcome]:
        return self.pool.submit(work, self.sent, chunk, seconds)

    def lost(self, future: Future[Outcome]) -> str:
        if future.cancelled() or isinstance(future.exception(), CancelledError):
            return "connection"
        return "one" if isinstance(future.exception(), self.died) else ""

    def restart(self) -> None:
        """Wait until Dask's client found a scheduler at the old address. Raises ConnectionError when it gives up."""
        while self.client.status == "connecting":
            time.sleep(0.1)
        if self.client.status != "running":
            raise ConnectionError(f"no scheduler at {self.address} any more")
        self._connect()

    def stop(self) -> None:
        self._leave(self.client.status == "running")

    def close(self) -> None:
        self._leave(cancel=False)

    def _leave(self, cancel: bool) -> None:
        """Have Dask drop what was sent and end a client of our own. A slow scheduler is not waited for, nor are its errors
        ours: it drops both by itself once this process is gone."""

        def leave() -> None:
            with suppress(Exception):
                if cancel:
                    self.pool.shutdown(wait=False)
            with suppress(Exception):
                if self.own:
                    self.client.close()

        if cancel or self.own:
            leaving = threading.Thread(target=leave, daemon=True)
            leaving.start()
            leaving.join(timeout=PATIENCE)

    def _connect(self) -> None:
        self.pool = self.client.get_executor(pure=False)
        self.sent: Any = self.payload
        if len(self.payload) > LARGE:  # once, as a task, so that Dask can make it again
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph")
                self.sent = self.client.submit(_same, self.payload, pure=False)


def check_versions(outcome: Outcome) -> None:
    """Raises ValueError where a chunk was computed by other versions than this process has."""
    here = versions()
    if other := {name: value for name, value in outcome.versions.items() if here.get(name) != value}:
        name, value = next(iter(other.items()))
        raise ValueError(
            f"workers must have the versions of this process, got {name} {value} there, {here.get(name)} here"
        )


def _end_with(parent: int) -> None:
    """End this process when its parent has died, so that a killed client leaves nothing running."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.name == "posix":
        threading.Thread(target=look, daemon=True).start()


def _same(payload: bytes) -> bytes:
    return payload


def _code() -> str:
    """A digest of the files of the user's own modules and of kdlib: processes that loaded others are not used again."""
    sha = hashlib.blake2b(versions()["kdlib"].encode(), digest_size=8)
    for name, module in sorted(sys.modules.copy().items()):
        path = getattr(module, "__file__", None)
        if name != "__main__" and path and own(name) and Path(path).is_file():
            sha.update(name.encode() + b"\0" + Path(path).read_bytes())
    return sha.hexdigest()
