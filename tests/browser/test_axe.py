"""axe-core on every page of the built book, in light and dark, wide and on a phone, with everything open that folds."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from book.tools import contents, pages

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
SITE = pages.site(ROOT)
# every page of the contents, and those that Sphinx adds
PAGES = [*contents.toc_entries(ROOT), "genindex", "prf-prf", "py-modindex", "search"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
SETTLED = 400  # ms after which the theme has looked for boxes that scroll
WIDE, PHONE = {"width": 1300, "height": 900}, {"width": 390, "height": 844}


class Known(NamedTuple):
    """A fault that is not the book's: elements that match the selector break a rule, by whose work, seen when, and why it stays."""

    rule: str
    selector: str
    whose: str
    seen: str
    why: str


KNOWN = [
    Known(
        "definition-list",
        "dt.sig > dl",
        "Sphinx 7.4",
        "2026-11-27",
        "a signature of several lines is a list of descriptions without a term",
    ),
    Known(
        "summary-name",
        ".bd-sidebar-primary .bd-links summary",
        "pydata-sphinx-theme 0.17",
        "2026-11-27",
        "what unfolds a part of the contents is an arrow without a name",
    ),
    Known(
        "region",
        ".navbar-brand.logo > *",
        "sphinx-book-theme 1.3",
        "2026-11-27",
        "the link to the first page, at the head of the contents, stands in no landmark",
    ),
]

# what a reader who opens everything has in front of them; a prediction brings its echo with it. Of what repeats itself a little is
# enough, for axe takes long over each element: rows of a table, and formulas, whose inside is MathJax's work
OPEN = """() => {
  document.querySelectorAll("mjx-container").forEach(each => each.replaceChildren("x"));
  document.querySelectorAll("tbody tr:nth-child(n + 5)").forEach(each => each.remove());
  document.querySelectorAll("details").forEach(each => each.open = true);
  document.querySelectorAll(".toggle-hidden").forEach(each => each.classList.remove("toggle-hidden"));
  document.querySelectorAll(".kdq-reason").forEach(each => each.style.display = "block");
  for (const form of document.querySelectorAll(".kdq-commit")) {
    form.querySelector("textarea").value = "Three of six.";
    form.requestSubmit();
  }
}"""
# faults as [rule, selector, HTML, what axe says, number of the first entry that knows it or -1]
RUN = """async ([tags, without, known]) => {
  const found = await axe.run(document, {
    runOnly: {type: "tag", values: tags}, rules: Object.fromEntries(without.map(rule => [rule, {enabled: false}])),
    resultTypes: ["violations"], elementRef: true,
  });
  return found.violations.flatMap(fault => fault.nodes.map(node => [
    fault.id, node.target.join(" "), node.html.slice(0, 160), node.failureSummary.replace(/\\s+/g, " ").slice(0, 300),
    known.findIndex(([rule, selector]) => rule === fault.id && node.element.matches(selector)),
  ]));
}"""

met: set[int] = set()  # entries of KNOWN that occurred
visited: set[str] = set()


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's script."""
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf8")


@pytest.fixture(scope="module")
def context(chromium: Any) -> Iterator[Any]:
    """A browser context for all pages, which reaches files and no network."""
    context = chromium.new_context(reduced_motion="reduce", offline=True)
    context.set_default_timeout(30_000)
    yield context
    context.close()


def faults(page: Any, *without: str) -> list[str]:
    """What axe finds on a page and no entry of KNOWN explains, one example a rule; some rules can be left out."""
    found = page.evaluate(RUN, [RULES, without, [entry[:2] for entry in KNOWN]])
    met.update(fault[-1] for fault in found if fault[-1] >= 0)
    own = [fault for fault in found if fault[-1] < 0]
    counts = collections.Counter(rule for rule, *_ in own)
    return [
        f"{rule} ({counts[rule]}): {' | '.join(rest)}" for rule, *rest, _ in {fault[0]: fault for fault in own}.values()
    ]


@pytest.mark.parametrize("name", PAGES)
def test_no_fault_is_the_books_own(name: str, context: Any, axe: str) -> None:
    if not (SITE / "index.html").exists():
        pytest.skip("the book is not built: run `make book`")
    page = context.new_page()
    try:
        page.set_viewport_size(PHONE)
        page.goto((SITE / f"{name}.html").as_uri() + "?q=temperature" * (name == "search"))
        page.evaluate("() => window.MathJax?.startup?.promise")
        if name == "search":
            page.wait_for_function("document.querySelector('#search-results').innerText.includes('Search finished')")
        page.evaluate(OPEN)
        page.wait_for_timeout(SETTLED)
        page.evaluate(axe)
        found = [f"phone: {fault}" for fault in faults(page, "color-contrast")]  # that takes most of the time
        page.set_viewport_size(WIDE)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            found += [f"{scheme}: {fault}" for fault in faults(page)]
    finally:
        page.close()
    visited.add(name)
    assert not found, "\n".join(found)


def test_every_page_is_among_those_checked() -> None:
    if not (SITE / "index.html").exists():
        pytest.skip("the book is not built: run `make book`")
    built = {path.relative_to(SITE).as_posix().removesuffix(".html") for path in SITE.rglob("*.html")}
    assert {name for name in built if name.split("/")[0] not in ("_static", "slides")} == set(PAGES)


def test_every_known_fault_still_occurs() -> None:
    if len(visited) < len(PAGES):
        pytest.skip("needs every page")
    assert [entry for number, entry in enumerate(KNOWN) if number not in met] == []


def test_a_fault_is_found(context: Any, axe: str) -> None:
    page = context.new_page()
    page.set_content('<html lang="en"><title>A page</title><main><h1>A page</h1><input><p style="color: #999">pale</p>')
    page.evaluate(axe)
    assert {fault.split()[0] for fault in faults(page)} == {"label", "color-contrast"}
    assert {fault.split()[0] for fault in faults(page, "color-contrast")} == {"label"}
    page.close()
