"""Run each chapter when it must be run, and keep what it produced with what it cost."""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import nbformat

from . import calibration
from .budgets import Measured
from .calibration import Calibration
from .contents import Chapter, chapters, write_atomically
from .keys import chapter_key, environment_key, stored_key
from .processes import Group, Usage, cpus, surroundings

PROFILES = ("page", "smoke", "full")
CELL_TIMEOUT = {"page": 1800, "smoke": 1800, "full": None}  # seconds; a stop for runaway cells, not the budget
PARALLEL = ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS")  # what joblib and torch read
TOOLS = Path(__file__).parents[2]  # the checkout that these tools belong to
WORKER = (sys.executable, "-m", "book.tools.worker")


@dataclass(frozen=True)
class Run:
    """What became of one chapter: ``state`` is "run", "cached" or "failed"."""

    name: str
    state: str
    measured: Measured | None = None
    error: str = ""


class _Attempt:
    """One try at one chapter; `start` it, `poll` it until it gives a Run, and `end` it whatever happens."""

    def __init__(self, root: Path, chapter: Chapter, profile: str, target: Path, key: str, jobs: int) -> None:
        self.root, self.chapter, self.profile, self.target, self.key = root, chapter, profile, target, key
        self.jobs = jobs  # attempts at a time, this one included
        self.machine: Calibration | None = None
        self.group: Group | None = None
        self.repeated = False
        self.open = ExitStack()  # the scratch folder and the log

    def stored(self) -> Run | None:
        """The run that lies there, if it is up to date and, in the page profile, within its budget."""
        if stored_key(self.target) != self.key:
            return None
        measured = Measured.of(json.loads(self.target.read_text("utf8"))["metadata"])
        if measured is None or measured.over or (self.profile == "page" and (measured.cost is None or measured.heavy)):
            return None
        return Run(self.chapter.name, "cached", measured)

    def start(self, max_age: float = calibration.FRESH) -> None:
        """Measure the machine where the run is to be judged (again if that was longer ago), then start the worker."""
        if self.profile == "page":
            self.machine = calibration.current(max_age)
        self.scratch = Path(
            self.open.enter_context(tempfile.TemporaryDirectory(prefix="kdlib-book-", ignore_cleanup_errors=True))
        )
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.log = self.target.with_suffix(".log")  # what the worker and the kernel say by themselves goes here
        stream: IO[str] = self.open.enter_context(self.log.open("w"))
        request = {
            "name": self.chapter.name,
            "source": str(self.chapter.source),
            "root": str(self.root),
            "folder": str(self.scratch),
            "parameters": {} if self.profile == "page" else {"profile": self.profile},
            "timeout": CELL_TIMEOUT[self.profile],
        }
        self.group = Group(
            [*WORKER, json.dumps(request)],
            env=surroundings(TOOLS, self.scratch) | self._share(),
            cwd=TOOLS,
            stdout=stream,
            stderr=stream,
        )
        self.group.start()

    def _share(self) -> dict[str, str]:
        """Side by side with others, a chapter's studies and threads use its share of the CPUs: one makes no processes at all."""
        return dict.fromkeys(PARALLEL, str(max(1, cpus() // self.jobs))) if self.jobs > 1 else {}

    def poll(self) -> Run | None:
        """None while it runs; then what became of it, with the notebook in its place."""
        assert self.group is not None
        status = self.group.poll()
        if status is None:
            return None
        measured = Measured(self.group.usage(), self.machine)
        self.group.end()  # whatever the chapter left running must not cost the next one
        notebook, error = self._outcome(status, measured.usage)
        if notebook is not None:
            notebook.metadata["kdlib"] = {
                "key": None if error else self.key,
                "profile": self.profile,
                **measured.to_metadata(),
            }
            write_atomically(self.target, nbformat.writes(notebook) + "\n")
        self.end()
        return Run(self.chapter.name, "failed" if error else "run", measured, error)

    def _outcome(self, status: int, usage: Usage) -> tuple[nbformat.NotebookNode | None, str]:
        """The executed notebook, if there is one to show, and what went wrong."""
        said, executed = self.scratch / "error.txt", self.scratch / "executed.ipynb"
        if status == 0:
            notebook = nbformat.read(executed, as_version=4)
            return notebook, _first_error(notebook)
        held = f"its processes held up to {usage.peak_mb:.0f} MB"
        if status < 0:
            number = -status
            name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
            error = f"its process was ended by {name} from outside"
            if name == "SIGKILL":
                error += f", which is what a system short of memory does; {held}"
        elif said.is_file():
            error = said.read_text("utf8")
            if error.startswith("DeadKernelError"):
                error += f": it was ended from outside, for example for want of memory, or crashed; {held}"
        else:
            error = f"its process ended with status {status}"
        return None, f"{error}\n(what its process said: {self.log})"

    def end(self) -> None:
        """End all that is left of it and remove its scratch folder."""
        try:
            if self.group is not None:
                self.group.end()
        finally:
            self.open.close()


def _first_error(notebook: nbformat.NotebookNode) -> str:
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {number} raised {output.ename}: {output.evalue}\n\n{cell.source}"
    return ""


def _say(line: str) -> None:
    print(line, flush=True)  # at once, also where the output goes to a file


def run_chapters(
    root: Path,
    profile: str = "page",
    names: Iterable[str] = (),
    folder: Path | None = None,
    say: Callable[[str], None] = _say,
    jobs: int = 1,
) -> list[Run]:
    """Run the chapters whose stored result is out of date, `jobs` at a time, with a line for each.

    A failing chapter does not stop the others: each good result is stored as soon as it is there. In the page profile
    chapters run one at a time, since they are measured. A run over its budget is run once more, and the second
    counts; a stored one over its budget is out of date.
    ``folder`` stores somewhere else than ``_build/chapters``. ValueError for an unknown profile or name, a number of
    jobs that does not fit, or a root without kdlib.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    if jobs < 1 or (profile == "page" and jobs > 1):
        raise ValueError(f"jobs must be {'1 in profile page' if profile == 'page' else 'at least 1'}, got {jobs}")
    todo = chapters(root, names)
    if not (root / "kdlib" / "__init__.py").is_file():
        raise ValueError(f"{root} has no kdlib of its own; its chapters would run with another, of {sys.prefix}")
    environment = environment_key(root)
    waiting = []
    for chapter in todo:
        target = folder / f"{chapter.name}.ipynb" if folder else chapter.executed(root, profile)
        waiting.append(_Attempt(root, chapter, profile, target, chapter_key(root, chapter, environment), jobs))
    width = max((len(chapter.name) for chapter in todo), default=0)
    runs: list[Run] = []
    running: list[_Attempt] = []

    def report(run: Run) -> None:
        runs.append(run)
        say(f"[{len(runs)}/{len(todo)}] {run.name:{width}}  {run.measured}  {run.state}")
        if run.error:
            say(run.error)

    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                attempt = waiting.pop(0)
                if stored := attempt.stored():
                    report(stored)
                else:
                    running.append(attempt)
                    attempt.start()
            time.sleep(0.02)
            for attempt in list(running):
                if (run := attempt.poll()) is None:
                    continue
                if run.state == "run" and run.measured and run.measured.doubtful and not attempt.repeated:
                    say(f"{run.name}: {run.measured.account()}; so it is measured again")
                    attempt.repeated = True
                    attempt.start(max_age=0.0)
                else:
                    running.remove(attempt)
                    report(run)
    finally:
        for attempt in running:
            attempt.end()
    return runs


def load_executed(root: Path, profile: str, names: Iterable[str] = ()) -> dict[str, nbformat.NotebookNode]:
    """Chapter name -> executed notebook of this profile. ValueError where one is missing or out of date."""
    environment, loaded = environment_key(root), {}
    for chapter in chapters(root, names):
        path = chapter.executed(root, profile)
        if stored_key(path) != chapter_key(root, chapter, environment):
            raise ValueError(
                f"{chapter.name} has not been run in profile {profile!r} since it, kdlib, the pins or what it reads changed"
            )
        loaded[chapter.name] = nbformat.read(path, as_version=4)
    return loaded
