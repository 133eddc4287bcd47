"""Pages in another language as a browser shows them: the way that text, formulas, code and numbers run, and a phone's width."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from book.tools import contents, languages, pages

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
SITE = pages.site(ROOT)
LANG = re.compile(r"\A---\n(?:.*\n)*?lang: (\S+)\n(?:.*\n)*?---\n")
FOUND = {name: LANG.match(contents.page_source(ROOT, name).read_text("utf8")) for name in contents.toc_entries(ROOT)}
TRANSLATED = {name: found[1] for name, found in FOUND.items() if found}

# of each element that a selector finds in the text: the way it runs, and that of a formula's own box inside it
RUNS = """selector => [...document.querySelectorAll(`.kd-language :is(${selector})`)].map(e =>
  [e, ...e.querySelectorAll('mjx-container')].map(each => getComputedStyle(each).direction))"""
# where the sign of a signed number stands: left of its last digit?
SIGNS = """() => [...document.querySelectorAll('.kd-language bdi')].filter(e => /^[+−-]/.test(e.textContent)).map(e => {
  const at = (start, end) => { const range = document.createRange(); range.setStart(e.firstChild, start);
    range.setEnd(e.firstChild, end); return range.getBoundingClientRect().left; };
  return at(0, 1) < at(e.textContent.length - 1, e.textContent.length); })"""


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if not all((SITE / f"{name}.html").exists() for name in TRANSLATED):
        pytest.skip("the book is not built: run `make book`")


@pytest.mark.parametrize("name", TRANSLATED)
def test_text_runs_in_its_direction_and_formulas_code_and_numbers_in_theirs(name: str, visit: Any) -> None:
    page = visit(f"{SITE.as_uri()}/{name}.html", viewport={"width": 360, "height": 740}, has_touch=True).page
    page.evaluate("() => window.MathJax?.startup?.promise")
    way = languages.direction(TRANSLATED[name])
    text = page.locator(".kd-language").first
    assert text.get_attribute("lang") == TRANSLATED[name]
    assert {style for styles in page.evaluate(RUNS, "p, h1, h2, li, dd") for style in styles[:1]} == {way}
    own = page.evaluate(RUNS, "span.math, div.math, pre, bdi")
    assert own and {style for styles in own for style in styles} == {"ltr"}
    assert page.locator(".kd-language mjx-container").count() and not page.locator("mjx-merror").count()
    signs = page.evaluate(SIGNS)
    assert all(signs) and (signs or name != "ar/index")  # the first page has a signed number on purpose
    # the text starts at its own side: a heading's first line touches the right edge of its column
    if way == "rtl":
        edges = page.locator(".kd-language h1").evaluate(
            "h => { const r = document.createRange(); r.selectNodeContents(h.firstChild);"
            " return [r.getBoundingClientRect().right, h.getBoundingClientRect().right]; }"
        )
        assert abs(edges[0] - edges[1]) < 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
