"""From an assignment's source to what students get and what marks them.

`book/teach/assignments/NAME.md` is a Markdown notebook. Three kinds of code cells carry metadata:

    task: NAME                    the reference; what stands between `# BEGIN SOLUTION` and `# END SOLUTION` becomes `...`
    visible: NAME                 a test that students have too; it scores nothing
    hidden: NAME, points: 2       a test that only the autograder has; it gives these points or none

A test cell holds one function `test_...`, whose arguments are the student's functions. `marking.py` stands at the head of every
test file. Beside the source lies `mutants/NAME.py`, with wrong answers and the points that each must lose.
"""

import copy
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from . import contents

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
KINDS = ("task", "visible", "hidden")
REQUIREMENTS = ("torch", "numpy", "scipy")  # all that an assignment may import
HAND_IN = "Save the notebook and hand in this one file."
MAGIC = re.compile(r"^def (test_\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Test:
    """One test function of a task: its source and, where it is hidden, its points."""

    source: str
    points: int = 0

    @property
    def name(self) -> str:
        found = MAGIC.findall(self.source)
        return str(found[0])


@dataclass
class Task:
    """One function that students write: the name, the cell of the reference, and the tests."""

    name: str
    cell: str
    visible: list[Test] = field(default_factory=list)
    hidden: list[Test] = field(default_factory=list)

    @property
    def points(self) -> int:
        return sum(test.points for test in self.hidden)


@dataclass(frozen=True)
class Assignment:
    """The source of an assignment, read: its notebook and its tasks by name."""

    name: str
    notebook: nbformat.NotebookNode
    tasks: dict[str, Task]

    @property
    def points(self) -> int:
        return sum(task.points for task in self.tasks.values())


def folder(root: Path) -> Path:
    return root / "book" / "teach" / "assignments"


def names(root: Path) -> list[str]:
    """The assignments that there are, one for each chapter that has one."""
    return sorted(path.stem for path in folder(root).glob("*.md"))


def lessons(root: Path) -> list[str]:
    """The chapters that teach: those that run, without the cover and the appendix."""
    return [page.name for page in contents.chapters(root) if "/" in page.name and not page.name.startswith("appendix/")]


def chapter_of(root: Path, name: str) -> str:
    """The chapter that an assignment belongs to. ValueError where none is called so."""
    found = [page for page in lessons(root) if page.rsplit("/", 1)[-1] == name]
    if not found:
        raise ValueError(f"an assignment is called like its chapter; book/_toc.yml has no chapter {name!r}")
    return found[0]


def read(root: Path, name: str) -> Assignment:
    """Read and check one assignment. ValueError, naming file and cell, for a source that does not hold together."""
    path = folder(root) / f"{name}.md"
    if not path.is_file():
        raise ValueError(f"assignment must be one of {', '.join(names(root))}, got {name!r}")
    notebook = jupytext.reads(contents.read_text(path), fmt="md:myst")
    tasks: dict[str, Task] = {}

    def wrong(number: int, what: str) -> ValueError:
        return ValueError(f"{path.relative_to(root)}, cell {number}: {what}")

    for number, cell in enumerate(notebook.cells):
        kind = next((kind for kind in KINDS if kind in cell.metadata), None)
        if kind is None:
            continue
        task = str(cell.metadata[kind])
        if kind == "task":
            if not re.fullmatch(r"[a-z][a-z0-9_]*", task) or task in tasks:
                raise wrong(number, f"task must be a new name of small letters, digits and _, got {task!r}")
            if not re.search(rf"^def {task}\(", cell.source, re.MULTILINE):
                raise wrong(number, f"the cell of task {task!r} must define a function of this name")
            if cell.source.count(BEGIN) != 1 or cell.source.count(END) != 1:
                raise wrong(number, f"task {task!r} must have one '{BEGIN}' and one '{END}'")
            tasks[task] = Task(task, cell.source)
            continue
        if task not in tasks:
            raise wrong(number, f"{kind} must name a task above it, got {task!r}")
        test = Test(cell.source, int(cell.metadata.get("points", 0)))
        if len(MAGIC.findall(cell.source)) != 1:
            raise wrong(number, "a test cell must define one function test_...")
        if (test.points > 0) != (kind == "hidden"):
            raise wrong(number, f"hidden tests have points and visible ones none, got {test.points} for a {kind} one")
        (tasks[task].hidden if kind == "hidden" else tasks[task].visible).append(test)
    lacking = [task.name for task in tasks.values() if not task.visible or not task.hidden]
    if lacking or not tasks:
        raise ValueError(f"{path.relative_to(root)}: every task needs a visible and a hidden test; lacking: {lacking}")
    return Assignment(name, notebook, tasks)


# ---------------------------------------------------------------- what students get


def untouched(source: str) -> str:
    """A task's cell as students get it: `...` in the place of the solution, as deep as it was indented."""
    lines, kept, inside = source.split("\n"), [], False
    for line in lines:
        if line.strip() == BEGIN:
            kept.append(line[: len(line) - len(line.lstrip())] + "...")
            inside = True
        elif line.strip() == END:
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def with_answers(assignment: Assignment, answers: dict[str, str | None]) -> nbformat.NotebookNode:
    """The notebook that a student would hand in, with these cells in the place of the tasks' (None: deleted); the rest
    untouched."""
    cells, done = [], []
    start = f'import otter\n\ngrader = otter.Notebook("{assignment.name}.ipynb")'
    for cell in assignment.notebook.cells:
        if "visible" in cell.metadata or "hidden" in cell.metadata:
            task = str(cell.metadata.get("visible", cell.metadata.get("hidden")))
            if task not in done:
                done.append(task)
                cells.append(nbformat.v4.new_code_cell(f'grader.check("{task}")'))
            continue
        cell = copy.deepcopy(cell)
        if task := cell.metadata.pop("task", None):
            answer = answers.get(task, untouched(cell.source))
            if answer is None:
                continue
            cell.source = answer
            cell.metadata["otter"] = {"tests": [task]}  # marked as soon as it has run
        cells.append(cell)
    cells.insert(1, nbformat.v4.new_code_cell(start))
    cells.append(nbformat.v4.new_markdown_cell(HAND_IN))
    notebook = nbformat.v4.new_notebook(cells=cells)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same at every build
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["otter"] = {"assignment_name": assignment.name}
    return notebook


def reference(assignment: Assignment) -> nbformat.NotebookNode:
    """The notebook with every solution in it."""
    return with_answers(assignment, {task.name: task.cell for task in assignment.tasks.values()})


def test_file(task: Task, hidden: bool) -> str:
    """The file of a task's tests in otter's format, with the hidden ones or without."""
    head = (Path(__file__).parent / "marking.py").read_text("utf8")
    parts = [head, f'OK_FORMAT = False\nname = "{task.name}"\npoints = None\n']
    for test in [*task.visible, *(task.hidden if hidden else [])]:
        mark = f'@case(name="{test.name}", points={test.points}, hidden={test in task.hidden})'
        parts.append(MAGIC.sub(lambda found, mark=mark: f"{mark}\n{found[0]}", test.source) + "\n")  # type: ignore[misc]
    return "\n".join(parts)


def write(root: Path, name: str, target: Path) -> Assignment:
    """Write `student/` and `autograder.zip` of one assignment below `target`, which it replaces."""
    from otter.generate import main as generate  # seconds to import, and only a teacher needs it

    assignment = read(root, name)
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    contents.write_atomically(new / "student" / f"{name}.ipynb", nbformat.writes(with_answers(assignment, {})) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        tests = Path(scratch) / "tests"
        for task in assignment.tasks.values():
            contents.write_atomically(new / "student" / "tests" / f"{task.name}.py", test_file(task, hidden=False))
            contents.write_atomically(tests / f"{task.name}.py", test_file(task, hidden=True))
        config, required = Path(scratch) / "otter_config.json", Path(scratch) / "requirements.txt"
        config.write_text(json.dumps({"assignment_name": name, "show_stdout": False}), "utf8")
        required.write_text("\n".join(REQUIREMENTS) + "\n", "utf8")
        generate(
            tests_dir=str(tests),
            output_path=str(new / "autograder.zip"),
            config=str(config),
            requirements=str(required),
            no_environment=True,
        )
    if faults := leaks(assignment, new / "student"):
        raise ValueError("\n".join(faults))
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    return assignment


def _telling(lines: Iterable[str]) -> set[str]:
    """Lines that say something by themselves: no brackets, no `return x`."""
    found = {" ".join(line.split()) for line in lines}
    return {line for line in found if len(line) >= 16 and not line.startswith(("#", "def ", "import ", "from "))}


def leaks(assignment: Assignment, student: Path) -> list[str]:
    """Where students' files hold a line of a solution or of a hidden test that they are not meant to have."""
    given = [cell.source for cell in assignment.notebook.cells if not any(kind in cell.metadata for kind in KINDS)]
    given += [test.source for task in assignment.tasks.values() for test in task.visible]
    given += [untouched(task.cell) for task in assignment.tasks.values()]
    secret: set[str] = set()
    for task in assignment.tasks.values():
        inside = task.cell.split(BEGIN)[1].split(END)[0]
        secret |= _telling(inside.split("\n"))
        secret |= {line for test in task.hidden for line in _telling(test.source.split("\n"))}
    secret -= {line for text in given for line in _telling(text.split("\n"))}
    secret -= _telling((Path(__file__).parent / "marking.py").read_text("utf8").split("\n"))
    found = []
    for path in contents.files_under(student):
        text = path.read_text("utf8")
        if path.suffix == ".ipynb":
            text = "\n".join(str(cell.source) for cell in json_cells(text))
        text = " ".join(text.split())
        found += [f"{path.name} of {assignment.name} holds {line!r}" for line in sorted(secret) if line in text]
    return found


def json_cells(text: str) -> list[Any]:
    """The cells of a notebook given as text."""
    return list(nbformat.reads(text, as_version=4).cells)
