"""The ledger, ``book/appendix/claims.md``, knows every claim, and every claim has a page to link to."""

from pathlib import Path
from typing import Any

import jupytext
import pytest
from bs4 import BeautifulSoup

from book.tools import contents, gates, pages

ROOT = Path(__file__).parents[2]
RECORDED = gates.recorded_claims(ROOT / "book" / contents.LEDGER)


def rows() -> list[tuple[str, str, list[str]]]:
    """The page's own table of the paper's claims: text, mark and the ids that answer it."""
    (cell,) = [c for c in jupytext.read(ROOT / "book/appendix/claims.md").cells if "\ntang = [" in c.source]
    names: dict[str, Any] = {}
    exec(cell.source, names)
    return names["tang"]


def test_the_claims_of_the_paper_have_their_answers_on_record():
    missing = {text: [i for i in answers if i not in RECORDED] for text, _, answers in rows()}
    assert {text: ids for text, ids in missing.items() if ids} == {}


def test_every_claim_of_the_paper_has_a_row_with_answers_and_no_answer_stands_twice():
    asked = [i for *_, answers in rows() for i in answers]
    assert len(rows()) == 21 and all(text and mark and answers for text, mark, answers in rows())
    assert len(asked) == len(set(asked))


def test_the_first_word_of_a_claim_is_the_last_of_one_page():
    names = [name.split("/")[-1] for name in contents.toc_entries(ROOT)]
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
