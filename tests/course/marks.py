"""Marking in this process by the autograder's own test files: as otter does it, without a kernel for each submission."""

import base64
import functools
import pickle
import runpy
from pathlib import Path
from typing import Any

import nbformat
import scipy.stats  # noqa: F401  what notebooks import, before any clock runs
from otter.test_files.exception_test import ExceptionTestFile

from book.tools import assignments, marking
from book.tools.assignments import BEGIN, Assignment

ROOT = Path(__file__).parents[2]
PATIENCE = 5.0  # seconds of computing for a test, as in the marker's own
HURRY = 0.3  # where loops without end are to be met: each test that meets one costs as much


@functools.cache
def assignment(name: str) -> Assignment:
    return assignments.read(ROOT, name)


@functools.cache
def tests(name: str, task: str, hidden: bool, seconds: float = PATIENCE) -> ExceptionTestFile:
    source = assignments.test_file(assignment(name).tasks[task], hidden)
    assert source.count("SECONDS = 5.0") == 1
    return ExceptionTestFile.from_string(source.replace("SECONDS = 5.0", f"SECONDS = {seconds}"), f"{task}.py")


def check(
    name: str, task: str, namespace: dict[str, Any], hidden: bool = True, seconds: float = PATIENCE
) -> tuple[float, str]:
    """Points of one task in a namespace, and what its tests said."""
    file = tests(name, task, hidden, seconds)
    file.run(namespace)
    return file.score, " ".join(str(result.message) for result in file.test_case_results if not result.passed)


def mark(
    name: str, notebook: nbformat.NotebookNode, only: str | None = None, seconds: float = PATIENCE
) -> dict[str, float]:
    """Points by task of a submission: its cells in order, each task's tests right after its cell, the others at the end.
    With `only`, the tests of that task alone. Each cell and each test may compute for so many seconds."""
    wanted = [only] if only else list(assignment(name).tasks)
    namespace: dict[str, Any] = {}
    points: dict[str, float] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code" or cell.source.startswith(("import otter", "grader.check")):
            continue
        try:
            with marking.limit(seconds):
                exec(compile(cell.source, "submission", "exec"), namespace)
        except Exception:  # otter goes on too
            pass
        for task in cell.metadata.get("otter", {}).get("tests", []):
            if task in wanted:
                points[task] = check(name, task, namespace, seconds=seconds)[0]
    return {
        task: points[task] if task in points else check(name, task, namespace, seconds=seconds)[0] for task in wanted
    }


def slips(name: str) -> list[tuple[str, str, int, str, str]]:
    """The table of wrong answers beside the assignment's source."""
    return runpy.run_path(str(assignments.folder(ROOT) / "mutants" / f"{name}.py"))["MUTANTS"]


def visible_case(name: str, task: str) -> str:
    """An answer that has the visible case by heart: the reference's results on its calls, in order, whatever it is asked."""
    namespace: dict[str, Any] = {}
    given = [cell.source for cell in assignment(name).notebook.cells if cell.cell_type == "code" and not cell.metadata]
    exec("\n".join([*given, assignment(name).tasks[task].cell]), namespace)
    results, reference = [], namespace[task]

    def recorded(*arguments: Any, **named: Any) -> Any:
        results.append(reference(*arguments, **named))
        return results[-1]

    check(name, task, namespace | {task: recorded}, hidden=False)
    kept = base64.b64encode(pickle.dumps(results)).decode()
    return (
        f"import base64, pickle\nkept_{task} = pickle.loads(base64.b64decode('{kept}')) * 1000\n\n"
        f"def {task}(*arguments, **named):\n    kept_{task}.append(kept_{task}.pop(0))\n    return kept_{task}[-1]\n"
    )


def wrong_answers(name: str) -> dict[str, tuple[dict[str, str | None], str, int]]:
    """Every mutant of an assignment: what it is -> its cells, the task it spoils, the points it must lose."""
    tasks = assignment(name).tasks
    found: dict[str, tuple[dict[str, str | None], str, int]] = {}
    for what, task, lost, old, new in slips(name):
        cell = tasks[task].cell
        head, tail = cell.split(BEGIN)
        assert old in tail, f"{name}: the reference of {task} does not hold {old!r} any more"
        found[f"{task}: {what}"] = {task: head + BEGIN + tail.replace(old, new)}, task, lost
    first, last = next(iter(tasks)), list(tasks)[-1]
    loop = tasks[first].cell.replace(BEGIN, f"{BEGIN}\n    while True:\n        pass")
    found[f"{first}: a loop without end"] = {first: loop}, first, tasks[first].points
    top = tasks[last].cell + "\nwhile True:\n    pass"
    found[f"{last}: a loop without end after the function"] = {last: top}, last, 0
    found[f"{last}: the cell deleted"] = {last: None}, last, tasks[last].points
    for task in tasks:
        found[f"{task}: the visible case by heart"] = {task: visible_case(name, task)}, task, tasks[task].points
    return found
