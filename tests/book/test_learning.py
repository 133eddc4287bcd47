"""Predictions, quizzes and links to the states of figures: what the directives accept, and every one in the book."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sphinx.application import Sphinx

from book.tools import contents, learning

from .tinybook import ROOT

FIGURE = (
    '<figure class="kdx" id="kdx-1234">\n<script type="application/json" class="kdx-frames">'
    '{"controls": [{"name": "T", "texts": ["1", "4"]}, {"name": "of", "texts": ["a, b", "c"]}]}</script></figure>'
)
KNOWN = learning.figures(FIGURE)
CHAPTERS = [chapter for chapter in contents.chapters(ROOT) if chapter.name not in ("index", "appendix/claims")]


def test_a_state_becomes_the_address_that_the_figure_reads() -> None:
    assert learning.address("1; T=4; of=a, b", KNOWN) == "#kdx-1234.T=4&kdx-1234.of=a%2C%20b"
    assert learning.address("1", KNOWN) == "#kdx-1234"


@pytest.mark.parametrize("state", ["2; T=4", "0", "1; T=3", "1; of=a", "1; t=4"])
def test_a_state_that_no_figure_has_is_named(state: str) -> None:
    with pytest.raises(ValueError, match=r"figure must be among the 1|state of figure 1 must be of .*'texts|of \{"):
        learning.address(state, KNOWN)


def quiz(text: str, label: str = "a-1") -> str:
    return f"\n:::{{quiz}} What?\n:label: {label}\n{text}\n:::\n"


RIGHT = "- yes, $x$ <!-- right: because *so* -->\n"
WRONG = "- no <!-- wrong: see\n  [there](https://example.org) -->\n"


@pytest.fixture
def build(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """A page of Markdown -> its HTML and what the build complained of."""

    def page(text: str) -> tuple[str, str]:
        (tmp_path / "index.md").write_text("# A\n\n" + text, "utf-8")
        settings = {
            "extensions": ["myst_parser", "book.tools.learning"],
            "myst_enable_extensions": ["colon_fence", "dollarmath"],
            "html_theme": "basic",
        }
        said = io.StringIO()
        out = str(tmp_path / "out")
        Sphinx(str(tmp_path), None, out, out, "html", settings, status=None, warning=said, freshenv=True).build()
        warnings = [
            line for line in said.getvalue().splitlines() if "already registered" not in line
        ]  # by another test
        return (tmp_path / "out" / "index.html").read_text("utf-8"), "\n".join(warnings)

    return page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (quiz(RIGHT), "several answers and exactly one that is right"),
        (quiz(RIGHT + RIGHT + WRONG), "several answers and exactly one that is right"),
        (quiz(WRONG + WRONG), "several answers and exactly one that is right"),
        (quiz(RIGHT + "- no\n"), "each answer must be"),
        (quiz(RIGHT + WRONG, label="A b"), "label of a quiz must be"),
        ("\n:::{quiz} What?\n" + RIGHT + WRONG + ":::\n", "label of a quiz must be"),
        ("\n{state}`here`\n", "state must be 'text <number; control=text>'"),
        (quiz(RIGHT + "- no <!-- wrong: {state}`look <1; T=1>` -->\n"), "figure must be among the 0 that move"),
    ],
)
def test_a_question_that_cannot_be_answered_is_a_warning(
    text: str, said: str, build: Callable[[str], tuple[str, str]]
) -> None:
    assert said in build(text)[1]


def test_a_quiz_and_a_prediction_on_a_page(build: Callable[[str], tuple[str, str]]) -> None:
    figure = f"\n```{{raw}} html\n{FIGURE}\n```\n"
    see = "- maybe <!-- wrong: {state}`look <1; T=4; of=c>` -->\n"
    text = "```{prediction}\nHow many?\n```\n\n```{predicted}\n```\n" + quiz(RIGHT + WRONG + see) + figure
    page, warnings = build(text)
    assert warnings == ""
    assert len(re.findall(r'<input type="radio" name="a-1"', page)) == 3
    assert "<strong>Right.</strong> <span>because <em>so</em></span>" in page
    assert 'href="#kdx-1234.T=4&amp;kdx-1234.of=c">look</a>' in page
    assert '<form class="kdq-commit" hidden>' in page and '<div class="kdq-echo" role="note"' in page


@pytest.mark.parametrize("chapter", CHAPTERS, ids=[chapter.name for chapter in CHAPTERS])
def test_every_chapter_asks(chapter: contents.Chapter) -> None:
    text = contents.read_text(chapter.source)
    quizzes = re.findall(r"^:::\{quiz\} .+?^:::$", text, re.MULTILINE | re.DOTALL)
    assert 3 <= len(quizzes) <= 5 and sum(len(each.split()) for each in quizzes) <= 700
    labels = [re.search(r":label: (\S+)", each)[1] for each in quizzes]  # type: ignore[index]
    assert labels == [f"{chapter.name.split('/')[-1]}-quiz-{n}" for n in range(1, len(labels) + 1)]
    for each in quizzes:
        for _, kind, reason in learning.OPTION.findall(each):
            assert 2 <= len(reason.split()) <= 60
            assert kind == "right" or re.search(r"\{state\}`|\]\(", reason), f"{reason!r} refers to nothing"
    assert text.count("```{prediction}") == 1 and 1 <= text.count("```{predicted}") <= 3
    assert text.index("```{prediction}") < text.index("```{predicted}")
