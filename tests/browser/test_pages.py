"""The built book as a reader opens it, from a server and from a file, with the network blocked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from book.tools import contents, gates, offline, pages

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
SITE = pages.site(ROOT)
NAMES = [chapter.name for chapter in contents.notebooks(ROOT)]
PAGES = [*contents.toc_entries(ROOT), "genindex"]


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if not (SITE / "index.html").exists():
        pytest.skip("the book is not built: run `make book`")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The offline edition as a reader has it on a disk."""
    folder = tmp_path_factory.mktemp("offline")
    with zipfile.ZipFile(offline.write(SITE, folder / "book.zip")) as packed:
        packed.extractall(folder)
    return folder / offline.FOLDER


@pytest.fixture(params=["http", "file"])
def home(request: pytest.FixtureRequest, serve: Any, unpacked: Path) -> str:
    return unpacked.as_uri() if request.param == "file" else serve(SITE)


def seen_in(figure: Any) -> tuple[str, str, str, str]:
    """Picture, its alternative text, sentence and table of a figure that moves."""
    return tuple(
        figure.evaluate(
            """f => [f.querySelector('img').src, f.querySelector('img').alt,
                     f.querySelector('.kdx-sentence').textContent,
                     (f.querySelector('table') || f).textContent]"""
        )
    )


def typeset(page: Any) -> None:
    """Wait until the formulas are set."""
    page.evaluate("() => window.MathJax?.startup?.promise")


@pytest.mark.parametrize("name", NAMES)
def test_page_stands_alone_and_its_controls_move(name: str, home: str, visit: Any) -> None:
    seen = visit(f"{home}/{name}.html")
    page = seen.page
    page.wait_for_load_state("networkidle")
    typeset(page)
    if page.locator("span.math, div.math").count():
        assert page.locator("mjx-container").count() and not page.locator("mjx-merror").count()
    bad = "[...document.querySelectorAll('main img')].filter(i => !i.alt || !i.naturalWidth).length"
    assert page.evaluate(bad) == 0
    every_control_moves_picture_sentence_and_table(page)
    if name != "appendix/claims":
        assert page.locator("figure.kdx").count() >= 1
    assert seen.outside == []
    assert seen.errors == []


def every_control_moves_picture_sentence_and_table(page: Any) -> None:
    figures = page.locator("figure.kdx")
    for i in range(figures.count()):
        figure = figures.nth(i)
        for j in range(figure.locator("input[type=range], select").count()):
            before = seen_in(figure)
            control = figure.locator("input[type=range], select").nth(j)
            control.focus()
            # a control that starts at its end has only the other way to go
            at_end = control.evaluate("c => c.options ? c.selectedIndex === c.options.length - 1 : c.value === c.max")
            back, on = ("ArrowLeft", "ArrowRight") if control.get_attribute("type") else ("ArrowUp", "ArrowDown")
            page.keyboard.press(back if at_end else on)
            after = seen_in(figure)
            changed = [a != b for a, b in zip(before, after, strict=True)]
            assert changed[:3] == [True, True, True], (i, j, after[2])
            assert changed[3] or not figure.locator("table").count(), f"table of figure {i} stayed at {after[2]}"
            assert after[1] == after[2]
            assert page.evaluate("location.hash").startswith("#")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone(name: str, theme: str, visit: Any) -> None:
    page = visit(
        f"{SITE.as_uri()}/{name}.html", viewport={"width": 360, "height": 740}, color_scheme=theme, has_touch=True
    ).page
    typeset(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_first_state_without_scripts(visit: Any) -> None:
    page = visit(f"{SITE.as_uri()}/levels/universe.html", java_script_enabled=False).page
    figure = page.locator("figure.kdx").first
    assert figure.locator("img").is_visible()
    assert figure.locator(".kdx-sentence").inner_text().startswith("World H")
    assert not figure.locator(".kdx-controls").is_visible()


def searched() -> list[tuple[str, str]]:
    """What a reader might look for, and a page that must be among the results: names of formulas, a claim by id and by words."""
    claims = gates.recorded_claims(ROOT / "book" / contents.LEDGER)
    chapters = {name.rpartition("/")[2]: name for name in NAMES}
    i = next(i for i in claims if i.split(".")[0] in chapters and "@" not in i)
    page = chapters[i.split(".")[0]]
    terms = ["four-part split", "confidence-matched smoothing", "T squared"]
    return [(term, "appendix/glossary") for term in terms] + [(i, page), (claims[i]["sentence"], page)]


def test_the_search_finds_names_of_formulas_and_claims(visit: Any, serve: Any) -> None:
    for words, page in searched():
        seen = visit(f"{serve(SITE)}/search.html?q={quote(words)}")
        seen.page.wait_for_function("document.querySelector('#search-results').innerText.includes('Search finished')")
        found = seen.page.eval_on_selector_all("#search-results ul.search li a", "links => links.map(a => a.pathname)")
        assert any(path.endswith(f"/{page}.html") for path in found), (words, found)
