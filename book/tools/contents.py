"""Which pages the book has, which of them are chapters, and where their files are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from kdlib import _files

LEDGER = "claims.yml"
BOOK_FILES = ("_toc.yml", LEDGER)  # in book/; a chapter whose code names one is made from it and runs again with it


@dataclass(frozen=True)
class Chapter:
    """One page of the book that has code: its name in the table of contents and its source."""

    name: str
    source: Path

    def read(self) -> nbformat.NotebookNode:
        """The source as a notebook without outputs; ValueError where its header is not one."""
        try:
            return jupytext.read(self.source)
        except (nbformat.ValidationError, yaml.YAMLError) as problem:
            reason = str(problem).splitlines()[0]
            raise ValueError(f"{self.source} cannot be read as a notebook: {reason}") from problem

    def reads(self) -> list[str]:
        """Which of the book's own files the code names."""
        code = [cell.source for cell in self.read().cells if cell.cell_type == "code"]
        return [name for name in BOOK_FILES if any(name in source for source in code)]

    def executed(self, root: Path, profile: str) -> Path:
        """Where the executed notebook of this profile is kept."""
        return root / "_build" / "chapters" / profile / f"{self.name}.ipynb"


def toc_entries(root: Path) -> list[str]:
    """Page names in reading order, as written in ``book/_toc.yml`` (no file suffix)."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    yield str(value)
                else:
                    yield from walk(value)
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    return list(walk(yaml.safe_load((root / "book" / "_toc.yml").read_text("utf8"))))


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


def write_atomically(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half of one."""
    _files.write_text(path, text)
