"""Run an experiment on every point of a grid: one progress bar, safe to stop, on one machine or a cluster."""

from __future__ import annotations

import math
import os
import random
import sys
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from typing import Any

import joblib
import pandas as pd
from tqdm.auto import tqdm

from kdlib.study._payload import payload
from kdlib.study.grid import Experiment, Grid, Point, points
from kdlib.study.identity import key
from kdlib.study.interrupts import Interrupts
from kdlib.study.pools import Cluster, Here, Processes, check_versions
from kdlib.study.result import Incomplete, Stopped, assemble, failures
from kdlib.study.store import Store
from kdlib.study.work import Outcome, Part, join, without

Pool = Here | Processes | Cluster
SHOWN = 10  # failures that a message lists


def run(
    experiment: Experiment,
    grid: Grid,
    *,
    store: str | os.PathLike[str] | None = None,
    client: Any = None,
    progress: bool = True,
    processes: int | None = None,
    seconds: float = 2.0,
    attempts: int = 3,
) -> pd.DataFrame:
    """The frames that `experiment(**point)` returns for all points of `grid`, one below the other, in the grid's order.

    `grid` is a DataFrame, one point per row, or a mapping of names to values, all combinations of which are run. The
    result has the grid's columns, where the experiment does not return columns of that name, and then the experiment's.
    It is the same to the last bit wherever the points ran, if the experiment is fixed by its arguments.

    Points run in chunks of about `seconds`, in as many processes as the machine gives this one (`processes`; 1 means
    in this process), each with one thread; or on a Dask cluster by `client`, a `distributed.Client` or the address of a
    scheduler. A point whose process dies is tried `attempts` times, on a cluster as often as Dask is set to allow.

    With `store`, a folder, each finished chunk is kept there (`kdlib.study.store`), under a key of the experiment's code,
    what it captures, and the versions (`kdlib.study.identity`); a second call does what is missing. With it the experiment may
    return `(frame, {"name": array})`; `study.arrays` reads them.

    Raises ValueError for bad arguments; `Incomplete` at the end, when some points failed or the store could not be
    written, and `Stopped` on an interrupt: both carry what is finished.

    >>> from kdlib import study
    >>> def experiment(seed, power):
    ...     return pd.DataFrame({"value": [seed**power]})
    >>> study.run(experiment, {"seed": [2, 3], "power": [1, 2]}, processes=1, progress=False)
       seed  power  value
    0     2      1      2
    1     2      2      4
    2     3      1      3
    3     3      2      9
    """
    _check_numbers(processes=processes, seconds=seconds, attempts=attempts)
    todo = points(experiment, grid)
    kept = None if store is None else Store(store, key(experiment))
    study = Study(todo, kept, seconds, attempts)
    if missing := study.missing():
        if kept is not None:
            try:
                kept.describe(experiment, todo)
            except OSError as error:
                raise ValueError(f"store must be a folder that can be written, got {str(store)!r}: {error}") from None
        pool = _pool(payload(experiment), client, min(processes or joblib.cpu_count(), len(missing)))
        hidden = not progress or _unwatched()
        with tqdm(total=len(todo), initial=len(todo) - len(missing), unit="point", disable=hidden) as bar:
            study.work_off(missing, pool, bar)
    return study.result()


class Study:
    """The points of one call and what became of each."""

    def __init__(self, todo: list[Point], store: Store | None, seconds: float, attempts: int) -> None:
        self.points, self.store, self.seconds, self.attempts = todo, store, seconds, attempts
        self.places = {point.name: point.place for point in todo}
        self.done: set[str] = set()
        self.loose: list[Part] = []  # results that are in no store
        self.failed: dict[int, tuple[str, str]] = {}
        self.tries: Counter[str] = Counter()
        self.cost: float | None = None  # seconds of a point, as measured
        self.trouble: Exception | None = None  # why nothing more can be run or kept
        self.queue: deque[Point] = deque()
        self.suspects: deque[list[Point]] = deque()  # chunks that were in flight when a process died
        self.flying: dict[Future[Outcome], list[Point]] = {}
        self.tested: Future[Outcome] | None = None  # the suspect in flight
        self.interrupts = Interrupts()

    def missing(self) -> list[Point]:
        """The points that neither this call nor the store has."""
        if self.store is not None:
            for part in self.store.refresh():
                self.done.update(name for name in part.names if name in self.places)
        return [point for point in self.points if point.name not in self.done]

    def work_off(self, missing: list[Point], pool: Pool, bar: Any) -> None:
        """Run the missing points; raises `Stopped` on an interrupt and `Incomplete` where it cannot go on."""
        if self.store is not None:  # clients that share a store take different points until few are left
            missing = random.Random(os.urandom(8)).sample(missing, len(missing))
        self.queue.extend(missing)
        try:
            with self.interrupts:
                while self.trouble is None and self._fill(pool):
                    self._step(pool)
                    bar.update(len(self.done) + len(self.failed) - bar.n)
        except KeyboardInterrupt:
            self._harvest({future for future in self.flying if future.done()}, pool)
            pool.stop()
            raise Stopped(self._summary("stopped"), self._frame()) from None
        except BaseException:
            pool.stop()
            raise
        if self.trouble is not None:
            pool.stop()
            what = f"cannot go on ({type(self.trouble).__name__}: {self.trouble})"
            raise Incomplete(self._summary(what), self._frame(), failures(self.points, self.failed)) from self.trouble
        pool.close()

    def result(self) -> pd.DataFrame:
        """The frame of all points. Raises `Incomplete` where some failed."""
        parts = self.loose if self.store is None else self.store.parts + self.loose
        frame, odd = assemble(parts, self.places)
        if failed := self.failed | {place: (f"ValueError: {text}", "") for place, text in odd.items()}:
            lines = [f"  {self.points[place]}: {error}" for place, (error, _) in sorted(failed.items())[:SHOWN]]
            if len(failed) > SHOWN:
                lines.append(f"  and {len(failed) - SHOWN} more")
            kept = (
                "the others are in .finished" if self.store is None else f"the others are kept in {self.store.folder}"
            )
            text = "\n".join([f"{len(failed)} of {len(self.points)} points failed, {kept}:", *lines])
            raise Incomplete(text, frame, failures(self.points, failed))
        return frame

    def _fill(self, pool: Pool) -> bool:
        """Send chunks until every process has enough; whether any are in flight."""
        if self.store is not None:
            self.missing()
        if self.suspects or self.tested in self.flying:  # one at a time, so that the next loss has one cause
            if not self.flying:
                self.tested = self._send(pool, self.suspects.popleft())
            return True
        with self.interrupts.taken():
            room = pool.size * pool.ahead
        while len(self.flying) < room and (chunk := self._take(room)):
            self._send(pool, chunk)
        return bool(self.flying)

    def _send(self, pool: Pool, chunk: list[Point]) -> Future[Outcome]:
        with self.interrupts.taken() if isinstance(pool, Here) else nullcontext():
            future = pool.submit(chunk, self.seconds)
            self.flying[future] = chunk
        return future

    def _take(self, room: int) -> list[Point]:
        """The next chunk: as many points as fit the time, fewer towards the end, so that all processes end together."""
        most = 1 if self.cost is None else min(self.seconds / max(self.cost, 1e-6), len(self.queue) // room)
        chunk: list[Point] = []
        while self.queue and len(chunk) < max(1, int(most)):
            point = self.queue.popleft()
            if point.name not in self.done:
                chunk.append(point)
        return chunk

    def _step(self, pool: Pool) -> None:
        """Wait a second at most, record what ended, and go on after a loss."""
        with self.interrupts.taken():
            done = wait(self.flying, timeout=1, return_when=FIRST_COMPLETED).done
            if any(pool.lost(future) == "all" for future in done):
                done = wait(self.flying, timeout=10).done
        suspect, broken = self.tested in done, any(pool.lost(future) for future in done)
        if lost := self._harvest(done, pool):
            self._blame(lost, suspect or (len(done) == 1 and not self.flying), pool)
        if broken and self.trouble is None:
            try:
                with self.interrupts.taken():
                    pool.restart()
            except ConnectionError as error:
                self.trouble = error

    def _harvest(self, done: set[Future[Outcome]], pool: Pool) -> list[list[Point]]:
        """Record what ended, queue what was not come to, and return the chunks whose process died."""
        outcomes, lost = [], []
        for future in done:
            chunk = self.flying[future]
            how = pool.lost(future)
            if how == "connection":
                self.queue.extendleft(reversed(chunk))
            elif how:
                lost.append(chunk)
            elif error := future.exception():
                self.trouble = error if isinstance(error, Exception) else RuntimeError(repr(error))
            else:
                outcomes.append(future.result())
                rest = outcomes[-1].rest
                if future is self.tested and rest:
                    self.suspects.appendleft(rest)
                else:
                    self.queue.extendleft(reversed(rest))
        self._record(outcomes)
        for future in done:
            del self.flying[future]
        if isinstance(pool, Here) and any(outcome.interrupted for outcome in outcomes):
            self.interrupts.came = True
        return lost

    def _blame(self, lost: list[list[Point]], alone: bool, pool: Pool) -> None:
        """Of chunks in flight with others each is run again alone; one that was lost alone is halved; a point is counted."""
        if not alone:
            self.suspects.extend(lost)
            return
        (chunk,) = lost
        if len(chunk) > 1:
            self.suspects.extend([chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]])
            return
        self.tries[chunk[0].name] += 1
        attempts = 1 if isinstance(pool, Cluster) else self.attempts  # Dask has tried as often as it is set to
        if self.tries[chunk[0].name] < attempts:
            self.suspects.append(chunk)
            return
        times = "as often as Dask allows" if isinstance(pool, Cluster) else f"{attempts} times"
        self.failed[chunk[0].place] = f"the process that ran it died {times}", ""

    def _record(self, outcomes: list[Outcome]) -> None:
        good = []
        for outcome in outcomes:
            try:
                check_versions(outcome)
            except ValueError as error:
                self.trouble = error
                continue
            good.append(outcome)
            self.failed |= outcome.failed
            if count := sum(len(part.names) for part in outcome.parts) + len(outcome.failed):
                cost = outcome.seconds / count
                self.cost = cost if self.cost is None else (self.cost + cost) / 2
        for part in join(part for outcome in good for part in outcome.parts):
            self._keep(part)

    def _keep(self, part: Part) -> None:
        """Put a part into the store, or aside where there is none or it cannot be written any more."""
        part = without(part, self.done)
        if not part.names:
            return
        try:
            if self.store is None and part.arrays:
                raise ValueError("the experiment returned arrays, which need a store")
            if self.store is None or isinstance(self.trouble, OSError):
                self.loose.append(part)
            else:
                self.store.write(part)
        except ValueError as error:
            if len(part.names) > 1:
                for name in part.names:
                    self._keep(without(part, set(part.names) - {name}))
                return
            self.failed[part.places[0]] = f"ValueError: {error}", ""
            return
        except OSError as error:
            self.trouble = error
            self.loose.append(part)
        self.done.update(part.names)

    def _frame(self) -> pd.DataFrame:
        return assemble(self.loose if self.store is None else self.store.parts + self.loose, self.places)[0]

    def _summary(self, what: str) -> str:
        text = f"{what} after {len(self.done)} of {len(self.points)} points"
        if self.store is None:
            return f"{text}; they are in .finished"
        loose = [self.points[self.places[name]] for part in self.loose for name in part.names]
        named = "; ".join(map(str, loose[:SHOWN])) + (f" and {len(loose) - SHOWN} more" if len(loose) > SHOWN else "")
        unkept = f", all but {len(loose)} ({named}), which are in .finished" if loose else ""
        return f"{text}; they are kept in {self.store.folder}{unkept}: the same call goes on from there"


def _pool(sent: bytes, client: Any, processes: int) -> Pool:
    if client is not None:
        return Cluster(sent, client)
    return Here(sent) if processes == 1 else Processes(sent, processes)


def _unwatched() -> bool:
    """Whether nobody sees a bar: output that goes to a file, or a notebook run as a page, where nobody can type either."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if (kernel := getattr(shell, "kernel", None)) is not None:
        return not getattr(kernel, "_allow_stdin", True)
    return not sys.stderr.isatty()


def _check_numbers(processes: int | None, seconds: float, attempts: int) -> None:
    for name, value in {"processes": processes, "attempts": attempts}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a positive finite number, got {seconds!r}")
