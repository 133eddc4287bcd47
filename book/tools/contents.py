"""Which pages the book has, which of them are chapters, and where their files are."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from kdlib import _files

LISTS = ("parts", "chapters", "sections", "subtrees", "entries")  # the forms that Jupyter Book knows
UNMERGED = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)  # what git leaves around two versions
LEDGER = "claims.yml"
BOOK_FILES = ("_toc.yml", LEDGER)  # in book/; a chapter whose code names one is made from it and runs again with it


@dataclass(frozen=True)
class Chapter:
    """One page of the book that has code: its name in the table of contents and its source."""

    name: str
    source: Path

    def read(self) -> nbformat.NotebookNode:
        """The source as a notebook without outputs; ValueError where it is not one."""
        text = read_text(self.source)
        try:
            return jupytext.reads(text, fmt="md")
        except Exception as problem:  # a parser may fail in any way on a header that is none
            reason = (str(problem).splitlines() or [type(problem).__name__])[0]
            raise ValueError(
                f"{self.source} cannot be read as a notebook: {reason}; compare its header and cell options with those "
                "of a chapter that runs"
            ) from problem

    def reads(self) -> list[str]:
        """Which of the book's own files the code names."""
        code = [cell.source for cell in self.read().cells if cell.cell_type == "code"]
        return [name for name in BOOK_FILES if any(name in source for source in code)]

    def executed(self, root: Path, profile: str) -> Path:
        """Where the executed notebook of this profile is kept."""
        return root / "_build" / "chapters" / profile / f"{self.name}.ipynb"


def toc_entries(root: Path) -> list[str]:
    """Page names in reading order, as written in ``book/_toc.yml`` (no file suffix). ValueError for another form."""
    path = root / "book" / "_toc.yml"

    def walk(node: dict[str, Any]) -> Iterator[str]:
        for key, value in node.items():
            if key in ("root", "file"):
                if not isinstance(value, str):
                    raise ValueError(f"{path} must name a page after `{key}`, got {value!r:.200}")
                yield value
            elif key in LISTS:
                if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                    raise ValueError(f"{path} must have a list of entries below `{key}`, got {value!r:.200}")
                for item in value:
                    yield from walk(item)

    toc = read_yaml(path)
    if not isinstance(toc, dict) or not isinstance(toc.get("root"), str):
        raise ValueError(f"{path} must be a mapping with a page called `root`, got {toc!r:.200}")
    return list(walk(toc))


def page_source(root: Path, name: str) -> Path:
    """The Markdown file of a page; ValueError where the table of contents names a page that is not there."""
    source = root / "book" / f"{name.removesuffix('.md')}.md"
    if not source.is_file():
        raise ValueError(f"book/_toc.yml names {name!r}, but {source.relative_to(root)} does not exist")
    return source


def notebooks(root: Path) -> list[Chapter]:
    """Pages that Jupyter Book reads as notebooks (those with the jupytext header), in reading order."""
    pages = [Chapter(name.removesuffix(".md"), page_source(root, name)) for name in toc_entries(root)]
    return [page for page in pages if page.read().metadata["jupytext"]["text_representation"]["format_name"] == "myst"]


def chapters(root: Path, names: Iterable[str] = ()) -> list[Chapter]:
    """Notebook pages with at least one code cell; only the given ones if any are named."""
    found = [page for page in notebooks(root) if any(cell.cell_type == "code" for cell in page.read().cells)]
    wanted = list(names)
    if unknown := sorted(set(wanted) - {chapter.name for chapter in found}):
        known = ", ".join(chapter.name for chapter in found)
        raise ValueError(f"no chapter called {', '.join(unknown)}; the chapters are: {known}")
    return [chapter for chapter in found if not wanted or chapter.name in wanted]


def files_under(folder: Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones and Python's caches."""

    def counts(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts)

    return sorted(filter(counts, folder.rglob("*")))


def read_text(path: Path) -> str:
    """The text of a source, with or without a byte order mark. ValueError for another encoding or an unfinished merge."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(
            f"{path} is not UTF-8 text ({problem.reason} at byte {problem.start}); save it as UTF-8"
        ) from None
    if mark := UNMERGED.search(text):
        line = text.count("\n", 0, mark.start()) + 1
        raise ValueError(
            f"{path} has the marks of an unfinished merge in line {line}; choose one version and remove them"
        )
    return text


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. ValueError naming file, line and cause where it cannot be read."""
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        cause = getattr(problem, "problem", None) or getattr(problem, "reason", None) or type(problem).__name__
        raise ValueError(
            f"{path} is no valid YAML{place}: {cause}; mend it, or restore it with `git restore`"
        ) from None


def write_atomically(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half of one. OSError names it."""
    _files.write_text(path, text)
