"""The path from source to page on a two-chapter book: what runs, what does not run again, and what stops it."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from book.tools import __main__ as tools
from book.tools import calibration, contents, execute, kernel, keys, pages

from .tinybook import ROOT, STEADY, TinyBook, cell

RISES: dict[str, Any] = {"sentence": "It rises.", "source": "ours", "rows": ["tang.4"], "verdict": "confirmed"}
FALLS = {"sentence": "It falls.", "source": "derived", "verdict": "not reproduced"}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "measure", lambda: STEADY)
    return TinyBook(tmp_path)


@pytest.mark.slow
def test_a_chapter_runs_when_it_must_and_only_then(tiny):
    status, said = tiny.call("book")
    assert status == 0, said
    assert tiny.states(said) == ["run", "run"] and "built" in said
    assert (tiny.root / "_build/html/index.html").as_uri() in said
    assert "profile is page" in tiny.page("part/a")

    status, said = tiny.call("book")
    assert (status, tiny.states(said)) == (0, ["cached", "cached"]) and "pages unchanged" in said
    status, said = tiny.call("check")
    assert status == 0 and said.endswith("2 chapters, 0 claims, 0 fault(s)\n")
    assert re.search(r"^part/a +\d+\.\d of 60 reference seconds, +\d+ of 1850 MB \(CPU time", said, re.MULTILINE)

    tiny.chapter("b", cell('print("changed")'))
    status, said = tiny.call("check")
    assert status == 1 and "part/b has not been run in profile 'page'" in said
    status, said = tiny.call("run")
    assert (status, tiny.states(said)) == (0, ["cached", "run"]), said
    status, said = tiny.call("check")
    assert status == 1 and "the pages are not built from these sources" in said

    (tiny.root / "kdlib" / "x.py").write_text("x = 2\n")  # no chapter imports it
    assert tiny.states(tiny.call("run")[1]) == ["cached", "cached"]


@pytest.mark.slow
def test_strict_pages_and_half_built_pages(tiny, monkeypatch):
    for name in "ab":
        tiny.pretend(name)
    tiny.write("index.md", "# Cover\n\n{ref}`nowhere`\n")
    for _ in range(2):  # a second try must not pass because Sphinx has read the page before
        status, said = tiny.call("book")
        assert status == 1 and "WARNING" in said and "nowhere" in said
    tiny.write("index.md", "# Cover\n")
    with monkeypatch.context() as patch:
        patch.setattr(pages, "fill_cache", lambda root, _: shutil.rmtree(root / "_build/.jupyter_cache"))
        status, said = tiny.call("book")  # the pages come out right, but Jupyter Book had to run them
    assert status == 1 and "pages ran a second time" in said and "(part/a)" in said  # b has the same code

    (tiny.root / "_build/html").mkdir(exist_ok=True)  # as after an interruption
    (tiny.root / "_build/html/index.html").write_text("half a pa")
    status, said = tiny.call("book")
    assert (status, tiny.states(said)) == (0, ["cached", "cached"])
    assert "Cover" in tiny.page("index")


@pytest.mark.slow
def test_a_failing_chapter_stops_the_book_but_not_the_others(tiny):
    tiny.chapter("a", cell("1 / 0"))
    status, said = tiny.call("book")
    assert status == 1 and tiny.states(said) == ["failed", "run"]
    assert "raised ZeroDivisionError" in said and "1 / 0" in said and "part/a failed" in said
    assert not (tiny.root / "_build/html").exists()
    tiny.chapter("a", cell("1 / 1"))
    assert tiny.states(tiny.call("run")[1]) == ["run", "cached"]


@pytest.mark.slow
def test_an_error_in_a_live_control_is_found_although_every_cell_succeeded(tiny):
    callback = "import ipywidgets as w\n\n\ndef show(T):\n    raise RuntimeError(T)\n\n\n"
    widgets = 'w.interactive_output(show, {"T": w.IntSlider(3)});'
    tiny.chapter("b", cell(f"{callback}out = {widgets}"))
    status, said = tiny.call("run", "part/b")
    assert status == 0, said
    assert tiny.call("run", "part/a")[0] == 0
    status, said = tiny.call("check")
    assert status == 1 and "part/b: a live control raised RuntimeError: 3" in said


@pytest.mark.slow
def test_text_that_is_hard_to_read_in_a_figure_is_a_fault(tiny):
    shutil.rmtree(tiny.root / "kdlib")
    shutil.copytree(ROOT / "kdlib", tiny.root / "kdlib", ignore=shutil.ignore_patterns("__pycache__"))
    draw = """import matplotlib.pyplot as plt
from kdlib import plots
plots.use()
plt.gca().axvspan(0, 1, color="#ffee00")
plt.gca().text(0.5, 0.5, "{}", color="{}")
plots.show("A yellow field.")"""
    tiny.chapter("a", cell(draw.format("dark", "#222222")))
    tiny.chapter("b", cell(draw.format("white", "#ffffff")))
    assert tiny.call("run", "--profile", "smoke")[0] == 0
    status, said = tiny.call("check", "--profile", "smoke")
    fault = "text 'white' in #ffffff on #ffee00 has a contrast of 1.20:1 on the light page, it needs 4.5:1 (figure 'A y"
    assert status == 1 and f"part/b: cell 3 wrote to stderr: {fault}" in said and "part/a" not in said


@pytest.mark.slow
def test_profiles_reach_the_chapter_and_unknown_parameters_do_not_pass(tiny):
    status, said = tiny.call("run", "--profile", "smoke", "part/a")
    assert status == 0, said
    assert "profile is smoke" in (tiny.root / "_build/chapters/smoke/part/a.ipynb").read_text("utf8")

    source = tiny.root / "book" / "part" / "b.md"
    source.write_text(source.read_text("utf8").replace('profile = "page"', 'profil = "page"'), "utf8")
    status, said = tiny.call("run", "--profile", "smoke", "part/b")
    assert status == 1 and "part/b has no parameter profile; its `parameters` cell sets: profil" in said


def test_a_chapter_must_be_in_the_page_profile_by_default():
    with pytest.raises(ValueError, match="must set profile = \"page\", found 'smoke'"):
        kernel.check_parameters({"profile": {"default": '"smoke"'}}, {}, "part/a")


def test_unknown_names_are_refused(tiny):
    with pytest.raises(ValueError, match=r"no chapter called part/c; the chapters are: part/a, part/b"):
        contents.chapters(tiny.root, ["part/c"])
    with pytest.raises(ValueError, match="profile must be one of page, smoke, full, got 'quick'"):
        execute.run_chapters(tiny.root, "quick")
    tiny.write("part/b.md", "---\nfile_format: mystnb\nkernelspec: {name: python3}\n---\n" + cell("1"))
    with pytest.raises(ValueError, match=r"b\.md cannot be read as a notebook: 'display_name' is a required"):
        contents.chapters(tiny.root)
    tiny.write("_toc.yml", "format: jb-book\nroot: index\nchapters:\n- file: part/c\n")
    with pytest.raises(ValueError, match=r"names 'part/c', but book/part/c\.md does not exist"):
        contents.chapters(tiny.root)


@pytest.mark.parametrize(
    ("settings", "terminal", "opened"),
    [
        ({"DISPLAY": ":0"}, True, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True, True),
        ({"DISPLAY": ":0", "CI": "1"}, True, False),
        ({"DISPLAY": ":0"}, False, False),
        ({}, True, False),
    ],
)
def test_a_browser_opens_only_where_somebody_looks(settings, terminal, opened, monkeypatch):
    calls: list[str] = []
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pages.sys, "platform", "linux")
    monkeypatch.setattr(pages.sys, "stdout", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr(pages.webbrowser, "open", calls.append)
    pages.show(Path("/somewhere/index.html"))
    assert calls == (["file:///somewhere/index.html"] if opened else [])


@pytest.mark.slow
def test_claims_are_recorded_on_purpose_only(tiny):
    report = """from IPython.display import display

claim = [{"id": "one", "verdict": "confirmed", "sentence": "It rises.", "source": "ours", "rows": ["tang.4"]}]
display({"application/vnd.kdlib.claims+json": claim, "text/html": "<p>confirmed</p>"}, raw=True)"""
    tiny.chapter("a", cell(report))
    assert tiny.call("run")[0] == 0
    status, said = tiny.call("check")
    assert status == 1 and "claim one: 'confirmed', but not on record" in said and "claims --write" in said
    assert tiny.call("claims", "--write")[0] == 0
    assert tiny.recorded() == {"one": RISES}
    assert tiny.call("claims") == (0, "1 claim(s), all as recorded\n")


def test_the_record_holds_sentence_source_rows_and_verdict_and_a_change_of_any_is_a_fault(tiny):
    tiny.pretend("a", two={**RISES, "sentence": "Let T → ∞: it's “4 points”, no more."}, three=FALLS)
    tiny.pretend("b", one=RISES)
    assert tiny.call("claims", "--write")[0] == 0
    text = (tiny.root / "book" / "claims.yml").read_text("utf8")
    assert text.startswith(tools.CLAIMS_HEADER) and re.findall(r"^\w+(?=:)", text, re.MULTILINE) == [
        "one",
        "three",
        "two",
    ]
    assert tiny.recorded()["two"]["sentence"] == "Let T → ∞: it's “4 points”, no more."
    assert tiny.recorded()["three"] == FALLS
    assert tiny.call("claims") == (0, "3 claim(s), all as recorded\n")
    assert tiny.call("claims", "--write")[0] == 0
    assert (tiny.root / "book" / "claims.yml").read_text("utf8") == text

    for part, value in RISES.items():
        other: Any = ["tang.5"] if part == "rows" else "other"
        tiny.pretend("b", one={**RISES, part: other})
        expected = f"claim one: {part} recorded as {value!r}, now {other!r}"
        assert tiny.call("claims") == (1, f"{expected}\n")
        status, said = tiny.call("check")
        assert status == 1 and expected in said and "claims --write" in said


def test_a_page_that_is_too_long_fails_the_check(tiny):
    tiny.pretend("a", one=RISES)
    tiny.pretend("b")
    assert tiny.call("claims", "--write")[0] == 0
    assert "words" not in tiny.call("check")[1]
    tiny.chapter("b", cell("x = 1") + "\nword" * 3000 + cell("x = 1\n" * 20))
    tiny.pretend("b")
    status, said = tiny.call("check")
    assert status == 1 and "part/b: has 300" in said and "20 lines of code, at most 15 are read" in said


def test_claims_on_data_that_is_not_here_stay_on_record(tiny):
    tiny.pretend("a", **{"one@cifar": RISES}, two=FALLS)
    tiny.pretend("b")
    assert tiny.call("claims", "--write")[0] == 0
    tiny.pretend("a", three=FALLS)
    assert tiny.call("claims", "--write")[0] == 0
    assert tiny.recorded() == {"one@cifar": RISES, "three": FALLS}
    assert tiny.call("claims") == (0, "1 claim(s), all as recorded\n")


def test_claims_on_data_that_is_here_leave_the_record_with_their_chapter(tiny, monkeypatch):
    monkeypatch.setattr(tools.keys, "data_at_hand", lambda root: ["cifar100"])
    tiny.pretend("a", **{"one@cifar100": RISES, "one@fashion-mnist": RISES, "one@trees": RISES, "two@trees": FALLS})
    tiny.pretend("b")
    assert tiny.call("claims", "--write")[0] == 0
    tiny.pretend("a", **{"two@trees": FALLS})
    status, said = tiny.call("claims")
    assert status == 1 and said.splitlines() == [
        "claim one@cifar100: recorded as 'confirmed', now missing",
        "claim one@trees: recorded as 'confirmed', now missing",
    ]
    assert tiny.call("claims", "--write")[0] == 0
    assert tiny.recorded() == {"one@fashion-mnist": RISES, "two@trees": FALLS}
    assert tiny.call("claims") == (0, "1 claim(s), all as recorded\n")


def test_a_chapter_made_from_the_record_runs_again_with_it_and_has_no_say_in_it(tiny):
    tiny.chapter("a", "\nThe record is `claims.yml`.\n" + cell("1"))  # naming it in the text is not reading it
    tiny.chapter("b", cell('open("../claims.yml").read()'))
    tiny.pretend("a", one=RISES)

    def made() -> list[str]:
        return [keys.chapter_key(tiny.root, chapter, "") for chapter in contents.chapters(tiny.root)]

    before = made()
    assert tiny.call("claims", "--write")[0] == 0  # although b was never run, and may not run without a record
    after = made()
    assert after[0] == before[0] and after[1] != before[1]
    assert tiny.call("claims") == (0, "1 claim(s), all as recorded\n")


def test_lint_finds_what_a_notebook_would_change_and_what_ruff_finds(tiny, capfd):
    assert tiny.call("lint") == (0, "")
    tiny.chapter("a", cell("import os"))
    assert tiny.call("lint")[0] == 1
    assert "F401" in capfd.readouterr().out  # ruff writes by itself
    source = tiny.root / "book" / "part" / "a.md"
    source.write_text(source.read_text("utf8").replace("import os\n", "1\n\n"), "utf8")
    status, said = tiny.call("lint")
    assert status == 1 and "saving it from a notebook would change it" in said
    long = f"x = [{', '.join(['profile'] * 12)}]"
    source.write_text(source.read_text("utf8") + cell(long), "utf8")
    tiny.call("lint", "--fix")
    assert tiny.call("lint")[0] == 0
    assert long in source.read_text("utf8")  # how wide a cell is set is its author's choice
