"""Run each chapter when it must be run, and keep what it produced."""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from .contents import Chapter, chapters, write_atomically
from .keys import chapter_key, environment_key, stored_key

PROFILES = ("page", "smoke", "full")
CELL_TIMEOUT = {"page": 300, "smoke": 300, "full": None}  # seconds; a stop for runaway cells, not the budget


@dataclass(frozen=True)
class Run:
    """What became of one chapter: ``state`` is "run", "cached" or "failed"."""

    name: str
    state: str
    seconds: float
    peak_mb: float | None = None  # largest resident size of the kernel, MB of 1e6 bytes; None where unknown
    error: str = ""


def check_parameters(inferred: dict[str, Any], given: dict[str, str], name: str) -> None:
    """papermill only warns about a parameter the notebook does not have; here it is an error."""
    if unknown := sorted(set(given) - set(inferred)):
        known = ", ".join(sorted(inferred)) or "none"
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}; its `parameters` cell sets: {known}")
    default = str(inferred.get("profile", {}).get("default", "")).strip("'\"")
    if default != "page":
        raise ValueError(f'{name}: the `parameters` cell must set profile = "page", found {default!r}')


def execute(chapter: Chapter, parameters: dict[str, str], timeout: int | None) -> nbformat.NotebookNode:
    """Run one Markdown chapter in its own folder; the executed notebook, also when a cell raised.

    Without parameters the cells that run are exactly the source's cells, which is what jupyter-cache needs.
    """
    import papermill

    with tempfile.TemporaryDirectory(prefix="kdlib-book-") as scratch:
        plain, done = f"{scratch}/source.ipynb", f"{scratch}/executed.ipynb"
        nbformat.write(chapter.read(), plain)
        # profile stands for the rest: a page run injects nothing, so its default must be the page profile
        check_parameters(papermill.inspect_notebook(plain), parameters, chapter.name)
        try:
            papermill.execute_notebook(
                plain,
                done,
                parameters,
                kernel_name="python3",
                cwd=str(chapter.source.parent),
                progress_bar=False,
                execution_timeout=timeout,
            )
        except papermill.PapermillExecutionError:
            notebook = nbformat.read(done, as_version=4)
            # papermill adds a cell on top that points to the failure; the error itself stays in its own cell
            notebook.cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
            return notebook
        return nbformat.read(done, as_version=4)


def _peak_mb() -> float | None:
    """Largest resident size among the finished children of this process."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6


def _first_error(notebook: nbformat.NotebookNode) -> str:
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {number} raised {output.ename}: {output.evalue}\n\n{cell.source}"
    return ""


def _run_in_worker(chapter: Chapter, target: Path, profile: str, parameters: dict[str, str], key: str) -> Run:
    """Body of the worker process: one chapter, then the process ends, so its peak memory is the kernel's."""
    started = time.perf_counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    log = target.with_suffix(".log")  # what the kernel process itself says (notices, crashes) goes here
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        notebook = execute(chapter, parameters, CELL_TIMEOUT[profile])
        error = _first_error(notebook)
    except Exception as problem:  # a dead kernel or a bad parameter must not stop the other chapters
        notebook, error = None, f"{type(problem).__name__}: {problem}\n(what its process said: {log})"
    seconds, peak = time.perf_counter() - started, _peak_mb()
    if notebook is not None:
        notebook.metadata["kdlib"] = {"key": None if error else key, "profile": profile, "peak_mb": peak}
        seconds = float(notebook.metadata.get("papermill", {}).get("duration") or seconds)
        write_atomically(target, nbformat.writes(notebook) + "\n")
    return Run(chapter.name, "failed" if error else "run", seconds, peak, error)


def run_chapters(
    root: Path,
    profile: str = "page",
    names: Iterable[str] = (),
    folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Run]:
    """Run the chapters whose stored result is out of date, one after another, with a line for each.

    A failing chapter does not stop the others: each good result is stored as soon as it is there.
    ``folder`` stores somewhere else than ``_build/chapters``. ValueError for an unknown profile or name.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    parameters = {} if profile == "page" else {"profile": profile}
    environment, runs = environment_key(root), []
    todo = chapters(root, names)
    width = max((len(chapter.name) for chapter in todo), default=0)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for number, chapter in enumerate(todo, 1):
            target = folder / f"{chapter.name}.ipynb" if folder else chapter.executed(root, profile)
            key = chapter_key(root, chapter, environment)
            label = f"[{number}/{len(todo)}] {chapter.name:{width}}"
            if stored_key(target) == key:
                run = Run(chapter.name, "cached", *_cost(target))
            else:
                try:
                    run = pool.submit(_run_in_worker, chapter, target, profile, parameters, key).result()
                except KeyboardInterrupt:
                    pool.shutdown(wait=False, cancel_futures=True)
                    _stop_workers()
                    raise
            memory = f"{run.peak_mb:6.0f} MB" if run.peak_mb else " " * 9
            say(f"{label}  {run.seconds:6.1f} s {memory}  {run.state}")
            if run.error:
                say(run.error)
            runs.append(run)
    return runs


def _stop_workers() -> None:
    """End the workers after an interrupt, which a worker that was only being started has not heard."""
    for worker in multiprocessing.active_children():
        worker.join(3)  # who heard it shuts its kernel down first
        if worker.is_alive() and worker.pid and os.name == "posix":
            os.kill(worker.pid, signal.SIGINT)
            worker.join(10)
        worker.terminate()


def _cost(executed: Path) -> tuple[float, float | None]:
    metadata = json.loads(executed.read_text("utf8"))["metadata"]
    return float(metadata["papermill"]["duration"]), metadata["kdlib"]["peak_mb"]


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
