"""The glossary's links there and back, and what the search is given of an output."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from docutils import nodes

from book.tools import glossary, pages
from tests.book.tinybook import ROOT

TERMS = ["fleet", "matched smoothing", "smoothing", "T²"]


def page(*parts: nodes.Node) -> nodes.section:
    return nodes.section("", nodes.title("", "A fleet"), nodes.paragraph("", "", *parts))


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ("fleet", "Fleets are trained", "Fleets"),
        ("matched smoothing", "by matched\nsmoothing alone", "matched\nsmoothing"),
        ("T²", "the factor T² is", "T²"),
        ("fleet", "a fleeting moment", None),
        ("smoothing", "by un-smoothing it", None),
    ],
)
def test_a_term_is_found_as_a_word(term: str, text: str, expected: str | None) -> None:
    found = glossary.pattern(term).search(text)
    assert (found and found[0]) == expected


def test_the_first_use_outside_headings_code_and_links_counts_and_the_longer_term_wins() -> None:
    tree = page(
        nodes.literal("", "fleet"),
        nodes.reference("", "fleet", refuri="x"),
        nodes.Text(" then matched"),
        nodes.Text("\n"),
        nodes.Text("smoothing of a fleet, and smoothing, and a fleet."),
    )
    found = {term: match[0] for term, (_, match) in glossary.first_uses(tree, TERMS).items()}
    assert found == {"fleet": "fleet", "matched smoothing": "matched\nsmoothing", "smoothing": "smoothing"}
    spans = sorted(match.span() for _, match in glossary.first_uses(tree, TERMS).values())
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_a_use_becomes_a_link_and_the_text_stays() -> None:
    tree = page(nodes.Text("Of matched smoothing and a fleet."))
    text = tree.astext()
    objects = {("term", term): ("appendix/glossary", f"term-{i}") for i, term in enumerate(TERMS)}
    env = SimpleNamespace(get_domain=lambda _: SimpleNamespace(objects=objects))
    app = SimpleNamespace(env=env, builder=SimpleNamespace(get_relative_uri=lambda _, page: f"../{page}.html"))
    glossary._link(app, tree, "levels/a")
    links = {link.astext(): link["refuri"] for link in tree.findall(nodes.reference)}
    assert links == {
        "matched smoothing": "../appendix/glossary.html#term-1",
        "fleet": "../appendix/glossary.html#term-0",
    }
    assert tree.astext() == text


def test_the_search_gets_words_that_stand_apart_and_no_data_of_figures() -> None:
    html = "<table><tr><td>confirmed</td><td>next</td></tr></table><details><td>0.01</td></details><script>x</script>"
    assert glossary.plain(html).split() == ["confirmed", "next"]


def test_every_entry_of_the_built_glossary_leads_back() -> None:
    from bs4 import BeautifulSoup

    built = pages.site(ROOT) / "appendix" / "glossary.html"
    if not built.is_file() or not pages.is_current(ROOT):
        pytest.skip("the book is not built, or not from these sources: run `make book` first")
    entries = BeautifulSoup(built.read_text("utf8"), "html.parser").select("dl.glossary dd")
    alone = [entry.find_previous_sibling("dt").get("id") for entry in entries if not entry.select(".kd-uses a")]
    assert entries and alone == ["term-reference-second"]  # of every page's last line, which is no part of its text
