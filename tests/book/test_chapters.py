"""Every chapter of the book runs in the smoke profile and passes the gates; verdicts are shown, not enforced."""

from pathlib import Path

import nbformat
import pytest

from book.tools import contents, execute, gates

ROOT = Path(__file__).parents[2]


@pytest.mark.chapter
@pytest.mark.slow
@pytest.mark.parametrize("name", [chapter.name for chapter in contents.chapters(ROOT)])
def test_chapter_in_smoke_profile(name, tmp_path):
    (run,) = execute.run_chapters(ROOT, "smoke", [name], folder=tmp_path)
    assert run.state == "run", run.error
    notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    assert gates.notebook_faults(name, notebook) == []
    for i, claim in gates.claims_in({name: notebook}).items():
        print(f"{i}: {claim['verdict']}")
