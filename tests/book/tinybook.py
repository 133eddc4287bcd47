"""A book of a cover and two chapters for tests of the tools: quick to run, quick to change."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import nbformat
import yaml

from book.tools import __main__ as tools
from book.tools import calibration, contents, gates, keys
from book.tools.budgets import Measured
from book.tools.processes import Usage

ROOT = Path(__file__).parents[2]
STEADY = calibration.Calibration((0.25, 0.25), (0.25, 0.25))  # any machine, once measured

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3 (ipykernel)
  language: python
  name: python3
---

# Chapter {name}

```{{code-cell}} ipython3
:tags: [parameters, remove-cell]

profile = "page"
```
"""


def cell(code: str) -> str:
    return f"\n```{{code-cell}} ipython3\n{code}\n```\n"


class TinyBook:
    """A book of a cover and two chapters with this repository's configuration, and its command line."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        for name in ("_config.yml", "constraints.txt", "pyproject.toml", "jupytext.toml"):
            shutil.copy(ROOT / name, root / name)
        shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
        shutil.copy(ROOT / "book" / "references.bib", root / "book" / "references.bib")
        contents = {"format": "jb-book", "root": "index", "chapters": [{"file": "part/a"}, {"file": "part/b"}]}
        self.write("_toc.yml", yaml.safe_dump(contents))
        self.write("index.md", "# Cover\n\n[a](part/a.md)\n")
        for name in "ab":
            self.chapter(name, cell('print("profile is", profile)'))
        (root / "kdlib").mkdir()
        (root / "kdlib" / "__init__.py").write_text("")
        (root / "kdlib" / "x.py").write_text("x = 1\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / "book" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf8")

    def chapter(self, name: str, body: str) -> None:
        self.write(f"part/{name}.md", HEADER.format(name=name) + body)

    def pretend(self, name: str, **claims: dict[str, str]) -> None:
        """Store a run of a chapter that reported these claims, without the run."""
        (chapter,) = contents.chapters(self.root, [f"part/{name}"])
        notebook = chapter.read()
        listed = [{"id": i, **claim, "effect": 0.5} for i, claim in claims.items()]
        data = {gates.CLAIMS_MIME: listed, "text/html": "<p></p>"}
        notebook.cells[1].outputs = [nbformat.v4.new_output("display_data", data=data)]
        key = keys.chapter_key(self.root, chapter, keys.environment_key(self.root))
        measured = Measured(Usage(wall=5.0, cpu=5.0, wanted=5.0, peak_mb=300.0), STEADY).to_metadata()
        notebook.metadata.update({"kdlib": {"key": key, **measured}, "papermill": {"duration": 1.0}})
        contents.write_atomically(chapter.executed(self.root, "page"), nbformat.writes(notebook))

    def recorded(self) -> dict[str, dict[str, str]]:
        return yaml.safe_load((self.root / "book" / "claims.yml").read_text("utf8"))

    def call(self, *arguments: str) -> tuple[int, str]:
        """Status and output of one command."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = tools.main(["--root", str(self.root), *arguments])
        return status, said.getvalue()

    def states(self, said: str) -> list[str]:
        return re.findall(r"^\[\d/2\] part/. .*?(\w+)$", said, re.MULTILINE)

    def page(self, name: str) -> str:
        return (self.root / "_build" / "html" / f"{name}.html").read_text("utf8")
