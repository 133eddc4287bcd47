"""What a page asks, as a reader answers it: by keyboard, after a reload, without scripts, on paper."""

from __future__ import annotations

from typing import Any

import pytest

from book.tools import contents, pages

from .test_pages import ROOT, SITE

pytestmark = pytest.mark.browser
NAMES = [chapter.name for chapter in contents.chapters(ROOT) if chapter.name != "index"]
NAMES = [n for n in NAMES if (SITE / f"{n}.html").exists()]


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if not (pages.site(ROOT) / "index.html").exists():
        pytest.skip("the book is not built: run `make book`")


def shown(page: Any, quiz: Any) -> list[str]:
    """The reasons of a quiz that can be seen."""
    return [reason.inner_text() for reason in quiz.locator(".kdq-reason").all() if reason.is_visible()]


def test_a_quiz_is_answered_by_keyboard_and_leads_to_the_state_that_refutes(serve: Any, visit: Any) -> None:
    page = visit(f"{serve(SITE)}/levels/universe.html").page
    quiz = page.locator("fieldset.kdq#universe-quiz-3")
    assert shown(page, quiz) == []
    quiz.locator("input").first.focus()
    page.keyboard.press("Space")
    (first,) = shown(page, quiz)
    page.keyboard.press("ArrowDown")
    (second,) = shown(page, quiz)
    assert first.startswith("No.") and second.startswith("Right.") and page.get_by_role("group").count()
    assert quiz.locator("[aria-live=polite] .kdq-reason").count() == quiz.locator("input").count()
    page.keyboard.press("ArrowUp")
    figure = page.locator("figure.kdx").nth(2)
    before = figure.locator(".kdx-state").inner_text()
    figure.locator("select").nth(1).select_option(index=2)
    page.keyboard.press("Escape")
    quiz.locator("a.kdq-state >> visible=true").first.press("Enter")
    after = figure.locator(".kdx-state").inner_text()
    assert "S" in after and "chosen" in after and {before, after} != {""}
    box = figure.bounding_box()
    assert box["y"] < page.viewport_size["height"] and box["y"] + box["height"] > 0


def test_a_prediction_is_kept_and_stands_beside_the_result(serve: Any, visit: Any) -> None:
    seen = visit(f"{serve(SITE)}/levels/universe.html")
    page, text = seen.page, "three and <b>one</b>"
    assert page.locator(".kdq-echo >> visible=true").count() == 0
    page.get_by_role("textbox", name="Your prediction").fill(text)
    page.get_by_role("button", name="Commit").press("Enter")
    assert "Kept in this browser" in page.locator(".kdq-kept").inner_text()
    page.reload()
    assert page.get_by_role("textbox", name="Your prediction").input_value() == text
    assert page.locator(".kdq-echo").first.inner_text() == f"You predicted: {text}"
    other = page.context.new_page()
    other.goto(f"{serve(SITE)}/levels/domain.html")
    assert other.get_by_role("textbox", name="Your prediction").input_value() == ""
    assert seen.outside == [] and seen.errors == []


@pytest.mark.parametrize("name", ["levels/universe", "levels/domain"])
def test_without_scripts_and_on_paper(name: str, visit: Any) -> None:
    page = visit(f"{SITE.as_uri()}/{name}.html", java_script_enabled=False).page
    quiz = page.locator("fieldset.kdq").first
    quiz.locator("label").first.click()
    assert len(shown(page, quiz)) == 1
    assert not page.locator(".kdq-commit").is_visible() and page.locator(".kdq-prediction").is_visible()
    page.emulate_media(media="print")
    assert len(shown(page, quiz)) == quiz.locator("input").count()


def test_every_link_to_a_state_moves_its_figure_there(serve: Any, visit: Any) -> None:
    from playwright.sync_api import expect  # absent where the browser tests are skipped

    checked = 0
    for name in NAMES:
        page = visit(f"{serve(SITE)}/{name}.html").page
        for link in page.locator("a.kdq-state").all():
            place, state = link.get_attribute("href"), link.get_attribute("data-state")
            assert place.startswith("#kdx-"), (name, state)
            link.evaluate("a => a.click()")
            said = page.locator("#" + place[1:].split(".")[0] + " .kdx-state")
            for pair in state.split(";")[1:]:
                expect(said, f"{name}: {state}").to_contain_text(pair.partition("=")[2].strip())
            checked += 1
        page.close()
    assert checked >= 60
