"""Every chapter of the book runs in the smoke profile and passes the gates; verdicts are shown, not enforced."""

from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest

from book.tools import contents, execute, gates

ROOT = Path(__file__).parents[2]
CHAPTERS = {chapter.name: chapter for chapter in contents.chapters(ROOT)}
AT_ONCE = 2


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Mapping[str, execute.Run]:
    """The chapters that were asked for, in one go; what ran before and has not changed since is not run again."""
    items = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["name"] for item in items if "runs" in item.fixturenames]
    return {run.name: run for run in execute.run_chapters(ROOT, "smoke", names, jobs=AT_ONCE)}


@pytest.mark.parametrize("name", CHAPTERS)
def test_words_and_code_of_a_chapter_fit_a_page(name):
    source = CHAPTERS[name].read()
    assert gates.shape_faults(name, source) + gates.exercise_faults(name, source) == []


@pytest.mark.chapter
@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_in_smoke_profile(name, runs):
    assert runs[name].state in ("run", "cached"), runs[name].error
    notebook = nbformat.read(CHAPTERS[name].executed(ROOT, "smoke"), as_version=4)
    assert gates.notebook_faults(name, notebook) + gates.shape_faults(name, notebook) == []
    assert gates.exercise_faults(name, notebook) == []
    for i, claim in gates.claims_in({name: notebook}).items():
        print(f"{i}: {claim['verdict']}")
