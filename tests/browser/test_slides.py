"""One deck in a real browser, from a file and without a network: all slides, a figure that moves, notes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import pytest

from book.tools import slides, teach

ROOT = Path(__file__).parents[2]
NAME = "start/how-to-read"


def test_a_deck_opens_from_a_file_and_its_figures_move(tmp_path: Path, visit: Callable[..., Any]) -> None:
    executed = ROOT / "_build" / "chapters" / "page" / f"{NAME}.ipynb"
    if not executed.is_file():
        pytest.skip("the chapter has not been run: `make book`")
    plan = teach.read(ROOT, ROOT / "book" / "teach" / "plans" / "how-to-read.yml")
    mathjax = metadata.distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax")
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "mathjax").symlink_to(Path(str(mathjax)))
    folder = tmp_path / "slides"
    slides.carry_reveal(folder / "reveal")
    (folder / "deck.html").write_text(slides.deck(plan, nbformat.read(executed, as_version=4)), "utf8")

    seen = visit((folder / "deck.html").as_uri(), viewport={"width": 1280, "height": 800})
    page = seen.page
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    total = page.evaluate("Reveal.getTotalSlides()")
    assert 8 <= total <= slides.SLIDES
    titles = []
    for _ in range(total):
        titles.append(page.evaluate("Reveal.getCurrentSlide().querySelector('h1, h2').textContent.trim()"))
        assert page.evaluate("Reveal.getCurrentSlide().getBoundingClientRect().height") <= 800, titles[-1]
        assert page.evaluate("!!Reveal.getSlideNotes()"), titles[-1]
        page.keyboard.press("PageDown")
    assert titles[0] == plan.source.title and len(set(titles)) == total

    # the same figure on two slides: each opens it in the state of the plan, and it moves on both
    def figure_on(title: str) -> Any:
        page.evaluate("number => Reveal.slide(number)", titles.index(title))
        return page.locator("section.present section.present figure.kdx, section.present > figure.kdx").first

    first = figure_on("How many seeds does one point need?")
    assert "True difference 1 points" in first.locator(".kdx-sentence").inner_text()
    picture = first.locator("img").get_attribute("src")
    first.locator("input").last.focus()
    page.keyboard.press("ArrowRight")
    assert "10 seeds" in first.locator(".kdx-sentence").inner_text()
    assert first.locator("img").get_attribute("src") != picture
    page.keyboard.press("PageDown")  # a clicker, while a slider has the focus
    second = figure_on("And an effect too small to matter?")
    assert "True difference 0.3 points" in second.locator(".kdx-sentence").inner_text()
    assert seen.outside == [] and seen.errors == []
