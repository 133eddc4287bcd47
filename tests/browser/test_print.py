"""What the style sheet does on paper and for readers who want no motion, on a page of a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
SHEET = Path(__file__).parents[2] / "book" / "_static" / "book.css"
PAGE = (
    '<link rel="stylesheet" href="{sheet}"><article class="bd-article"><details><summary>Data</summary>'
    "<table><tr><td>9</td></tr></table></details></article>"
)


@pytest.fixture
def page(tmp_path: Path, visit: Any) -> Any:
    (tmp_path / "page.html").write_text(PAGE.format(sheet=SHEET.as_uri()), "utf8")
    return visit((tmp_path / "page.html").as_uri()).page


def test_print_unfolds_the_table(page: Any) -> None:
    seen = "() => document.querySelector('td').checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})"
    assert not page.evaluate(seen)
    page.emulate_media(media="print")
    page.wait_for_function(seen)


def test_less_motion_where_a_reader_asks_for_it(page: Any) -> None:
    slow = "() => getComputedStyle(document.body).transitionDuration"
    page.add_style_tag(content="body { transition: all 2s }")
    assert page.evaluate(slow) == "2s"
    page.emulate_media(reduced_motion="reduce")
    assert float(page.evaluate(slow).removesuffix("s")) < 0.001
