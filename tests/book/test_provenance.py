"""What a page says of its own making, and what a link to it shows."""

import json
from pathlib import Path

from bs4 import BeautifulSoup

from book.tools import budgets, provenance
from book.tools.processes import Usage
from tests.book.tinybook import STEADY


def test_a_page_without_code_names_the_version_alone(tmp_path: Path) -> None:
    assert provenance.line(tmp_path / "none.ipynb", "1.2.3") == "kdlib 1.2.3"


def test_a_page_that_was_run_names_day_profile_and_cost(tmp_path: Path) -> None:
    measured = budgets.Measured(Usage(wall=5.0, cpu=5.0, wanted=5.0, peak_mb=300.0), STEADY)
    assert measured.cost is not None
    facts = {"kdlib": {"profile": "page", **measured.to_metadata()}, "papermill": {"end_time": "2026-11-07T05:12:00.1"}}
    (notebook := tmp_path / "a.ipynb").write_text(json.dumps({"metadata": facts}), "utf8")
    cost = f"cost {measured.cost.seconds:.0f} of 60 reference seconds"
    assert provenance.line(notebook, "1.2.3") == f"kdlib 1.2.3 · run on 7 November 2026 · profile page · {cost}"


def test_a_description_is_the_first_paragraph_cut_after_a_word() -> None:
    html = "<h1>No</h1><p> <b></b> </p><p>A &amp; B <em>teach</em>\n" + "words " * 60 + "</p>"
    text = provenance.description(html)
    assert text.startswith("A & B teach words") and text.endswith("words …")
    assert len(text) <= provenance.DESCRIPTION + 2
    assert provenance.description("<h1>nothing</h1>") == ""


class App:
    """As much of Sphinx's application as the extension asks."""

    class config:
        html_baseurl, html_title, project, root_doc = "", "The book", "book", "index"

    def __init__(self, folder: Path) -> None:
        self.srcdir = folder / "book"


def test_a_link_to_a_page_has_title_sentence_and_picture(tmp_path: Path) -> None:
    app = App(tmp_path)
    context = {
        "body": "<p>Two &lt; three.</p>",
        "title": "A <em>b</em>",
        "pathto": lambda name, _resource: f"../{name}",
    }
    provenance._add(app, "part/a", "page.html", context, object())
    tags = {
        tag["property"]: tag["content"]
        for tag in BeautifulSoup(context["metatags"], "html.parser")("meta", property=True)
    }
    assert tags["og:title"] == "A b" and tags["og:description"] == "Two < three."
    assert tags["og:image"] == "../_static/card.png" and tags["og:type"] == "article"
    assert BeautifulSoup(context["body"], "html.parser").select_one(".kd-provenance").get_text().startswith("kdlib ")
    app.config.html_baseurl = "https://example.org/book/"
    provenance._add(app, "index", "page.html", context | {"metatags": ""}, object())
    untouched = {"body": "x"}
    provenance._add(app, "search", "search.html", untouched, None)
    assert untouched == {"body": "x"}
