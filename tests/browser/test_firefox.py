"""The book in the other browser: Firefox, where it is installed, opens pages, moves figures, keeps predictions, answers quizzes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from book.tools import pages
from kdlib.explore import explore
from tests import leftovers

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
SITE = pages.site(ROOT)
NAMES = ["index", "foundations/distillation", "levels/universe", "mechanisms/ensembles"]
TYPESET = "window.MathJax.startup.promise.then(() => document.querySelectorAll('mjx-container').length)"
SEEN = """(() => { const f = document.querySelector('figure.kdx');
  return [f.querySelector('img').src, f.querySelector('.kdx-sentence').textContent, f.querySelector('img').alt]; })()"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Firefox for this module; skips where it or the websocket's package is absent."""
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    from tests.browser import firefox

    command = firefox.program()
    if command is None:
        pytest.skip("no Firefox on this machine")
    with (
        leftovers.none(),
        firefox.started(command, tmp_path_factory.mktemp("firefox") / "profile") as browser,
    ):
        yield browser


@pytest.fixture
def browser(running: Any) -> Any:
    """Firefox with the whole time of a test ahead of it, in a wide window."""
    running.fresh()
    running.resize(1280, 900)
    return running


@pytest.fixture
def home(serve: Any) -> str:
    if not (SITE / "index.html").exists():
        pytest.skip("the book is not built: run `make book`")
    return serve(SITE)


def figure_moves_by_keyboard(browser: Any) -> None:
    before = browser.run(SEEN)
    at_end = "(s => { s.focus(); return s.value === s.max; })(document.querySelector('figure.kdx input[type=range]'))"
    browser.press("ArrowLeft" if browser.run(at_end) else "ArrowRight")
    after = browser.run(SEEN)
    assert all(one != other for one, other in zip(before, after, strict=True)), (before[1:], after[1:])
    assert after[1] == after[2] and browser.run("document.querySelector('figure.kdx img').decode().then(() => true)")


def test_a_figure_moves_and_a_fault_in_the_console_is_heard(browser: Any, tmp_path: Path) -> None:
    def draw(n: int) -> str:
        plt.gca().plot([0, n])
        return f"A line up to {n}."

    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>One</title>{explore(draw, n=[1, 2]).html()}", "utf8")
    browser.open(page.as_uri())
    figure_moves_by_keyboard(browser)
    assert browser.errors == []
    browser.run("void console.error('heard')")
    browser.run("void setTimeout(() => { throw new Error('thrown') })")
    browser.wait("new Promise(later => setTimeout(later, 50, true))")
    assert browser.errors[0] == "heard" and "thrown" in browser.errors[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_and_fits_a_phone(name: str, home: str, browser: Any) -> None:
    browser.open(f"{home}/{name}.html")
    if browser.run("document.querySelectorAll('span.math, div.math').length"):
        assert browser.run(TYPESET) > 0 and browser.run("document.querySelectorAll('mjx-merror').length") == 0
    assert browser.run("[...document.querySelectorAll('main img')].filter(i => !i.alt || !i.naturalWidth).length") == 0
    assert browser.run("document.querySelectorAll('figure.kdx.kdx-ready').length") >= 1
    browser.resize(360, 740)
    browser.wait("innerWidth === 360")
    assert browser.run("document.documentElement.scrollWidth") <= 360
    assert browser.errors == []


def test_a_slider_moves_picture_and_sentence(home: str, browser: Any) -> None:
    browser.open(f"{home}/foundations/distillation.html")
    figure_moves_by_keyboard(browser)
    assert browser.run("location.hash").startswith("#kdx-")
    assert browser.errors == []


def test_a_prediction_is_kept_over_a_reload(home: str, browser: Any) -> None:
    browser.open(f"{home}/levels/universe.html")
    browser.run(
        "(f => { f.querySelector('textarea').value = 'three'; f.requestSubmit(); })(document.querySelector('.kdq-commit'))"
    )
    browser.reload()
    assert browser.run("document.querySelector('.kdq-commit textarea').value") == "three"
    assert browser.run("document.querySelector('.kdq-echo:not([hidden])').textContent") == "You predicted: three"
    assert browser.errors == []


def test_a_quiz_answers_by_keyboard(home: str, browser: Any) -> None:
    browser.open(f"{home}/levels/universe.html")
    shown = "[...document.querySelectorAll('fieldset.kdq .kdq-reason')].filter(r => r.checkVisibility()).length"
    assert browser.run(shown) == 0
    browser.run("document.querySelector('fieldset.kdq input').focus()")
    browser.press("ArrowRight")  # to the next answer, and choose it; a space reaches no radio of a window without focus
    browser.wait(f"{shown} === 1")
    assert browser.errors == []
