"""What a teacher hands out: the students' edition of the book, and an assignment for each chapter with its autograder."""

from collections.abc import Iterable
from pathlib import Path

from . import assignments, edition


def folder(root: Path) -> Path:
    return root / "_build" / "course"


def write(root: Path, names: Iterable[str] = ()) -> list[str]:
    """Write `_build/course/`: students' edition and assignments, or the named assignments alone; a line for each.

    ValueError for an unknown name, chapters that are to be run first, or anything that would give an answer away.
    """
    wanted, known = list(names), assignments.names(root)
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(f"assignment must be one of {', '.join(known)}, got {', '.join(unknown)}")
    said = []
    for name in wanted or known:
        made = assignments.write(root, name, folder(root) / "assignments" / name)
        said.append(f"{name}: {len(made.tasks)} tasks, {made.points} points")
    if not wanted:
        pages = edition.write(root, folder(root) / "student")
        said.append(
            f"students' edition: {len(pages)} pages, {(folder(root) / 'student' / 'html' / 'index.html').as_uri()}"
        )
        lacking = [name for name in assignments.lessons(root) if name.split("/")[-1] not in known]
        said += [f"{name} has no assignment" for name in lacking]
    return said
