"""Teaching plans: minutes add up, everything named exists, pages and courses are made of the same objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from book.tools import contents, slides, teach

ROOT = Path(__file__).parents[2]
PLANS = teach.plans(ROOT)
FIGURE = (
    '<figure class="kdx" id="kdx-1"><script type="application/json" class="kdx-frames">'
    '{"controls": [{"name": "T", "texts": ["1", "4"]}, {"name": "length", "texts": ["10 epochs"]}]}</script></figure>'
)
CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# A chapter: of few words

## What is `x` for?

```{exercise} Predict
:label: x-predict
## not a heading of the page, but of the exercise
```

```python
# no heading at all
```

```{code-cell} python
explore(draw, T=[1, 4])
explore(lambda **at: picture(results, **at), T=[1])
```
"""
PLAN = """
chapter: part/x
lead: A lead.
before: Nothing.
outcomes: [{can: Do it., section: what-is-x-for, figure: {draw: {T: 4}}, exercise: x-predict}]
plan:
  - {minutes: [45, 80], section: what-is-x-for, do: Talk., figure: {picture: {}}}
  - {minutes: [0, 10], section: what-is-x-for, do: Listen.}
board: [{title: A line, alt: a line, text: "-----"}]
questions: [{ask: "Why?", usual: Because., reply: So.}]
misconceptions: [{belief: It is., refuted: It is not., figure: {draw: {T: 1}}}]
trouble: [{sign: Noise., cure: Wait.}]
homework: [x-predict]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in (
        ("_toc.yml", "{format: jb-book, root: index, chapters: [{file: part/x}]}"),
        ("index.md", "# Cover"),
        ("part/x.md", CHAPTER),
        ("teach/plans/x.yml", PLAN),
    ):
        (tmp_path / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "book" / name).write_text(text, "utf8")
    return tmp_path


def read(root: Path, **changes: Any) -> teach.Plan:
    path = root / "book" / "teach" / "plans" / "x.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(PLAN) | changes), "utf8")
    return teach.read(root, path)


def test_a_chapter_is_known_by_what_can_be_named_in_it(root: Path) -> None:
    source = read(root).source
    assert source.title == "A chapter: of few words"
    assert next(iter(source.sections)) == "what-is-x-for" and "no-heading-at-all" not in source.sections
    assert source.labelled("exercise") == {"x-predict": "Predict"}
    assert source.figures == ["draw", "picture"]


def test_the_state_of_a_figure_becomes_an_address(root: Path) -> None:
    (built,) = teach.controls(FIGURE)
    assert built.fragment({"T": 4, "length": "10 epochs"}) == "kdx-1.T=4&kdx-1.length=10+epochs"
    assert built.fragment({}) == "kdx-1"
    with pytest.raises(ValueError, match=r"figure state must be of .*got 'T' = '2'"):
        built.fragment({"T": 2})
    source = read(root).source
    assert source.at("picture", [built, built]) is built
    for name, figures, said in (("other", [built, built], "must be one of draw, picture"), ("draw", [built], "has 2")):
        with pytest.raises(ValueError, match=said):
            source.at(name, figures)


FAULTS = {
    "minutes that do not add up": ({"plan": [{"minutes": [45, 80], "do": "Talk."}]}, "90 minutes in all, got 80"),
    "half a minute": ({"plan": [{"minutes": [45, 0.5], "do": "Talk."}]}, "two whole numbers"),
    "an unknown section": (
        {"outcomes": [{"can": "Do.", "section": "what-is-y-for"}]},
        "section in outcomes must be one of what-is-x-for",
    ),
    "an unknown exercise": ({"homework": ["y"]}, "homework must be of x-predict"),
    "an unknown quiz": ({"outcomes": [{"can": "Do.", "section": "what-is-x-for", "quiz": "q"}]}, "quiz in outcomes"),
    "an unknown figure": (
        {"misconceptions": [{"belief": "a", "refuted": "b", "figure": "paint"}]},
        "figure must be one of draw, picture, got 'paint'",
    ),
    "a figure in no form": (
        {"misconceptions": [{"belief": "a", "refuted": "b", "figure": ["draw"]}]},
        "figure must be a name",
    ),
    "a missing key": ({"questions": [{"ask": "Why?"}]}, "entries with ask, usual, reply"),
    "an empty part": ({"trouble": []}, "trouble must be a list that is not empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plan_that_does_not_fit_says_where(root: Path, fault: str) -> None:
    changes, said = FAULTS[fault]
    with pytest.raises(ValueError, match=re.escape(said)):
        read(root, **changes)


def test_a_page_leaves_out_of_the_short_lesson_what_the_plan_leaves_out(root: Path) -> None:
    text = teach.page(read(root), root)
    rows = re.findall(r"\* - (.*)\n  - (.*)\n  - (.*)", text)
    assert rows[1:] == [
        ("0\u2060–\u206045", "0\u2060–\u206080", 'Talk. ({into}`figure <part/x {"picture": {}}>`)'),
        ("–", "80\u2060–\u206090", "Listen."),
    ]
    assert '{into}`figure at T = 4 <part/x {"draw": {"T": "4"}}>`' in text


def test_a_course_adds_up_and_names_only_lessons_that_have_a_plan(root: Path) -> None:
    course = {"title": "Day", "lead": "A day.", "starts": "9:50", "blocks": [{"sessions": []}]}
    course["blocks"][0]["sessions"] = [{"chapter": "part/x", "minutes": 45}, {"what": "pause", "minutes": 15}]
    path = root / "book" / "teach" / "syllabi.yml"
    path.write_text(yaml.safe_dump([course]), "utf8")
    text = teach.syllabi(root)
    assert "* - 9:50–10:35\n  - [A chapter: of few words](x.md)" in text and "In all 1 hours in the room." in text
    course["blocks"][0]["sessions"][0]["minutes"] = 60
    path.write_text(yaml.safe_dump([course]), "utf8")
    with pytest.raises(ValueError, match="minutes of a lesson must be 45 or 90, got 60"):
        teach.syllabi(root)


# ---------------------------------------------------------------- the plans of this book


def test_every_plan_has_its_page_and_every_page_its_plan() -> None:
    pages = {name for name in contents.toc_entries(ROOT) if name.startswith("teach/")}
    assert pages == {"teach/index", "teach/syllabi"} | {f"teach/{plan.name}" for plan in PLANS.values()}
    listed = (ROOT / "book" / "teach" / "index.md").read_text("utf8")
    for plan in PLANS.values():
        text = (ROOT / "book" / "teach" / f"{plan.name}.md").read_text("utf8")
        assert f"```{{instructor}} {plan.source.name}\n```" in text
        assert f"- [](./{plan.name}.md)\n" in listed


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_whole(name: str) -> None:
    plan = PLANS[name]
    assert all(plan.times(length)[-1][1] == length for length in teach.LENGTHS)
    sections = {outcome["section"] for outcome in plan.what["outcomes"]}
    assert len(sections) >= 3, "outcomes from at least three sections"
    for drawing in plan.what["board"]:
        assert ("svg" in drawing) != ("text" in drawing)
        if "svg" in drawing:
            picture = (ROOT / "book" / "teach" / "board" / drawing["svg"]).read_text("utf8")
            assert picture.startswith("<svg viewBox=") and "currentColor" in picture
            assert not re.search(r"#[0-9a-f]{3,6}\b", picture), "a board has the colour of the text"
    words = len(teach.page(plan, ROOT / "book" / "teach" / "board").split())
    assert 500 < words < 2000


@pytest.mark.parametrize("name", PLANS)
def test_a_deck_takes_everything_from_the_executed_chapter(name: str) -> None:
    """Every state that a plan opens exists, and so does all that its slides show."""
    plan = PLANS[name]
    executed = ROOT / "_build" / "chapters" / "page" / f"{name}.ipynb"
    if not executed.is_file():
        pytest.skip("the chapter has not been run: `make book`")
    notebook = nbformat.read(executed, as_version=4)
    chapter = slides.Chapter(plan, notebook)
    for figure, state in plan.states():
        controls, body = chapter.figure(figure)
        controls.fragment(state)
        assert body.startswith("<figure") and body.count("</figure>") == 1
    cells = slides.notebook(plan, notebook).cells
    kinds = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in cells]
    assert 8 <= kinds.count("slide") <= slides.SLIDES
    assert all(
        re.search(r"\w{3,} \w{3,}", chapter.prediction())
        for step in plan.what["plan"]
        for slide in step.get("slides", [])
        if "prediction" in slide
    )
    assert kinds.count("notes") == kinds.count("slide")
    shown = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert not re.search(r"\{[a-z:]+\}`|:::|^:label:", shown, re.MULTILINE), "markup that slides cannot read"
