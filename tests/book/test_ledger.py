"""The ledger, ``book/appendix/claims.md``, knows every claim, and every claim has a page to link to."""

import os
from pathlib import Path
from typing import Any

import jupytext
import pytest
from bs4 import BeautifulSoup

from book.tools import contents, gates, pages

ROOT = Path(__file__).parents[2]
RECORDED = gates.recorded_claims(ROOT / "book" / contents.LEDGER)


ROWS = {row for claim in RECORDED.values() for row in claim["rows"]}


def names(*wanted: str) -> dict[str, Any]:
    """The page's code up to and with the cell that assigns the last of these, run on this record."""
    made: dict[str, Any] = {}
    here = Path.cwd()
    os.chdir(ROOT / "book" / "appendix")  # a chapter runs where its source is
    try:
        for cell in jupytext.read(ROOT / "book/appendix/claims.md").cells:
            if cell.cell_type == "code" and not set(wanted) <= made.keys():
                exec(cell.source, made)
    finally:
        os.chdir(here)
    return made


def test_every_row_that_a_claim_tests_is_on_the_page():
    papers = names("papers")["papers"]
    known = {f"{paper}.{number}" for paper, rows in papers.items() for number in range(1, len(rows) + 1)}
    assert sorted(ROWS - known) == []
    assert len(papers["tang"]) == 21 and all(text and mark for rows in papers.values() for text, mark in rows)


def test_a_row_shows_every_claim_that_names_it():
    """Nobody chooses: a claim enters a row by its own word, whatever its verdict."""
    page = names("answers")
    first, second, third, *rest = list(RECORDED)
    page["asked"].clear()
    page["asked"].update({first: ["tang.4"], second: ["tang.4", "tang.9"], third: ["tang.40"], rest[0]: []})
    shown = BeautifulSoup(page["answers"]("tang.4"), "html.parser")
    assert [code.get_text() for code in shown.find_all("code")] == [first, second]
    assert [note.get_text() for note in shown.find_all("small")] == [RECORDED[i]["sentence"] for i in (first, second)]
    assert [b.get_text()[2:] for b in shown.select(".kd-verdict")] == [RECORDED[i]["verdict"] for i in (first, second)]
    assert page["answers"]("tang.2") == "not tested"


@pytest.mark.skipif(not ROWS, reason="no claim on record names a row yet: run the chapters and record their claims")
def test_every_claim_of_the_paper_has_an_answer():
    assert sorted({f"tang.{number}" for number in range(1, 22)} - ROWS) == []


def test_the_first_word_of_a_claim_is_the_last_of_one_page():
    names = [page.name.split("/")[-1] for page in contents.notebooks(ROOT)]
    assert sorted(i for i in RECORDED if names.count(i.split(".")[0]) != 1) == []


def test_links_of_the_built_ledger_lead_to_rows_of_chapters():
    page = pages.site(ROOT) / "appendix" / "claims.html"
    if not page.is_file() or not pages.is_current(ROOT):
        pytest.skip("the ledger is not built, or not from these sources: run `make book` first")
    targets: dict[Path, BeautifulSoup] = {}
    linked = set()
    for link in BeautifulSoup(page.read_text("utf8"), "html.parser").select("table.kd-claims td a"):
        address, i = str(link["href"]).split("#claim-")
        target = (page.parent / address).resolve()
        if target not in targets:
            targets[target] = BeautifulSoup(target.read_text("utf8"), "html.parser")
        assert targets[target].find(id=f"claim-{i}") or "@" in i, link
        linked.add(i)
    assert linked == RECORDED.keys()
