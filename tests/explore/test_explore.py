"""`explore`: the page holds what `draw` and `table` give at every state; training adds settings; bad input is named."""

from __future__ import annotations

import ast
import asyncio
import base64
import graphlib
import html.parser
import inspect
import json
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns

from kdlib.explore import Control, Explorer, explore
from kdlib.explore.page import asset

TEMPERATURES, ALPHAS, IMAGES = [1, 2, 4], [0.0, 0.5, 0.9], ["a shoe", "a boot"]
RESULTS = pd.DataFrame(
    [
        {"T": T, "alpha": alpha, "image": image, "recipe": recipe, "accuracy": 70 + T * alpha + i + len(image)}
        for T in TEMPERATURES
        for alpha in ALPHAS
        for image in IMAGES
        for i, recipe in enumerate(["hard labels", "teacher"])
    ]
)


def draw(T: int, alpha: float, image: str) -> str:
    rows = RESULTS[(RESULTS["T"] == T) & (RESULTS["alpha"] == alpha) & (RESULTS["image"] == image)]
    sns.stripplot(rows, x="recipe", y="accuracy", ax=plt.gca())
    return f"At T = {T} and alpha = {alpha:g}, {image} gives {rows['accuracy'].max():.1f} %."


def figure(**changes: Any) -> Explorer:
    kept: dict[str, Any] = {
        "table": RESULTS,
        "caption": "Two recipes.",
        "start": {"T": 2, "alpha": 0.9},
        "T": Control(TEMPERATURES, "temperature T"),
        "alpha": ALPHAS,
        "image": IMAGES,
    }
    return explore(draw, **(kept | changes))


def line(T: float) -> str:
    plt.gca().plot([0, T])
    return f"A line to {T:g}."


class Elements(html.parser.HTMLParser):
    """The start tags of a piece of HTML, and the text inside each script of JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.json: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][1].get("type") == "application/json":
            self.json.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_data(explorer: Explorer) -> dict[str, Any]:
    return json.loads("".join(Elements(explorer.html()).json))


def picture(source: str | None) -> str:
    assert source is not None
    kind, text = source.split(",", 1)
    return base64.b64decode(text).decode() if kind.endswith("base64") else urllib.parse.unquote(text)


def cells(markup: str) -> list[list[str]]:
    return [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", markup)]


# ---- one figure for notebooks and pages


def test_every_state_of_the_page_is_what_draw_and_table_give_now() -> None:
    explorer = figure()
    held = page_data(explorer)
    assert [control["texts"] for control in held["controls"]] == [["1", "2", "4"], ["0", "0.5", "0.9"], IMAGES]
    states = [{"T": T, "alpha": alpha, "image": image} for T in TEMPERATURES for alpha in ALPHAS for image in IMAGES]
    assert explorer.states() == states and len(held["frames"]) == 18
    for state, frame in zip(states, held["frames"], strict=True):
        fresh = explorer.render(state)
        assert (fresh.svg, fresh.sentence, fresh.state) == (frame["svg"], frame["sentence"], frame["state"])
        T, alpha, image = state.values()
        assert frame["sentence"].startswith(f"At T = {T} and alpha = {alpha:g}, {image}")
        rows = held["tables"][frame["table"]]
        assert rows == fresh.table and rows["rows"][1] == ["teacher", f"{71 + T * alpha + len(image):.4g}"]
    assert len({frame["svg"] for frame in held["frames"]}) > 5


def test_a_notebook_gets_the_pages_figure_and_a_terminal_the_sentence() -> None:
    explorer = figure()
    sentence = "At T = 2 and alpha = 0.9, a shoe gives 78.8 %."
    assert explorer._repr_mimebundle_() == {"text/html": explorer.html(), "text/plain": sentence}


def test_a_figure_that_trains_differs_in_the_panel_for_it_alone() -> None:
    explorer = figure(retrain=lambda **state: iter(()))
    shown = explorer._repr_mimebundle_()["text/html"]
    page = Elements(shown)
    assert page.all("figure")[0]["data-kernel"] == explorer.live.token
    (panel,) = [attrs for attrs in page.all("div") if attrs.get("class") == "kdx-train"]
    assert "hidden" in panel  # until the script sees that it is in a notebook
    fields = [field for field in page.all("input") if field["type"] == "number"]
    assert [(field["name"], field["value"]) for field in fields] == [("T", "2"), ("alpha", "0.9")]
    assert [button["aria-disabled"] for button in page.all("button")] == ["true", "true"]
    bare = re.sub(r' data-kernel="\w+"|<div class="kdx-train".*</div></div>\n', "", shown)
    assert bare.replace(asset("train.css"), "") == explorer.html()
    assert explorer.live.token != figure(retrain=lambda **state: iter(())).live.token


def test_the_first_state_is_in_the_page_without_scripts() -> None:
    explorer = figure()
    page = Elements(explorer.html())
    first = explorer.frame({"T": 2, "alpha": 0.9, "image": "a shoe"})
    (shown,) = page.all("img")
    assert picture(shown["src"]) == first.svg
    assert shown["alt"] == first.sentence
    assert (shown["width"], shown["height"]) == ("499", "326")
    assert [group["class"] for _, group in page.tags if "hidden" in group] == ["kdx-controls"]
    assert cells(explorer.html().split("<script")[0])[1:] == [["hard labels", "77.8"], ["teacher", "78.8"]]
    ranges = page.all("input")
    assert [(r["type"], r["value"], r["aria-valuetext"]) for r in ranges] == [
        ("range", "1", "2"),
        ("range", "2", "0.9"),
    ]
    lists = {d["id"] for d in page.all("datalist")}
    assert {r["list"] for r in ranges} == lists and len(lists) == 2


def test_nothing_is_fetched_from_outside() -> None:
    page = figure().html()
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # of XML languages, never fetched
    assert set(re.findall(r"https?://[^\s\"'\\)]+", urllib.parse.unquote(page))) <= names
    assert not re.search(r"@import|\bfetch\(|XMLHttpRequest|<link|innerHTML|insertAdjacentHTML", page)


def test_a_rebuild_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib, matplotlib.pyplot as plt\nfrom kdlib.explore import explore\n"
        "def draw(T, kind):\n plt.gca().scatter(range(T), range(T), label=kind); plt.gca().legend(); return f'{T} {kind}'\n"
        "print(hashlib.sha256(explore(draw, T=[1, 2], kind=['a', 'b']).html().encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": "", "PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path), "MPLBACKEND": "agg"},
        ).stdout
        for seed in (1, 2)
    ]
    assert runs[0] == runs[1] != ""


def test_ids_come_from_the_subject_and_not_from_the_numbers() -> None:
    def other(T: int, alpha: float, image: str) -> str:
        return draw(T, alpha, image)

    def figure_id(explorer: Explorer) -> str | None:
        return Elements(explorer.html()).all("figure")[0]["id"]

    name = figure_id(figure())
    assert name is not None and re.fullmatch("kdx-[0-9a-f]{8}", name)
    assert name == figure_id(figure(table=None)) != figure_id(figure(caption="Others."))
    other.__qualname__ = draw.__qualname__
    controls = {"T": Control(TEMPERATURES, "temperature T"), "alpha": ALPHAS, "image": IMAGES}
    assert name == figure_id(explore(other, caption="Two recipes.", **controls))


# ---- pictures


def test_small_pictures_keep_text_and_every_reference() -> None:
    def marks(n: int) -> str:
        ax = plt.gca()
        ax.scatter([0, 1], [0, 1], label="seed = 0.123456789")
        ax.fill_between([0, 1], [0, 0], [1, 1], hatch="/")
        ax.imshow(np.eye(3))
        ax.legend()
        ax.set(xlabel="p < 0.000123 & q", title="at $T^2$")
        return "Marks."

    (frame,) = explore(marks, n=[1]).frames
    assert "seed = 0.123456789" in frame.svg
    assert ">p &lt; 0.000123 &amp; q</text>" in frame.svg
    fonts = re.findall(r"font(?:-family)?:([^;\"]*)", frame.svg)
    assert len(fonts) > 5 and all(font.endswith("sans-serif") for font in fonts)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', frame.svg))
    assert len(used) >= 4
    assert used == set(re.findall(r' id="([^"]+)"', frame.svg))
    assert not re.search(r'<path d="[^"]*\.\d{3}', frame.svg)
    assert "metadata" not in frame.svg and "\n" not in frame.svg


def test_drawing_leaves_matplotlib_and_chance_as_they_were() -> None:
    def wasteful(n: int) -> str:
        np.random.normal(size=n)  # noqa: NPY002
        plt.figure()
        return line(n)

    mine = plt.figure()
    before, settings, chance = plt.get_fignums(), dict(plt.rcParams), np.random.get_state()[2]  # noqa: NPY002
    explore(wasteful, n=[1, 2])
    assert plt.get_fignums() == before and plt.gcf() is mine
    assert dict(plt.rcParams) == settings
    assert np.random.get_state()[2] == chance  # noqa: NPY002
    plt.close(mine)


RC_FILE = """
text.usetex: True
font.size: 12
font.family: serif
lines.linewidth: 9
axes.grid: True
axes.facecolor: red
legend.frameon: False
path.sketch: 1, 100, 2
savefig.bbox: tight
savefig.pad_inches: 3
svg.id: mine
svg.image_inline: False
"""
PAGES = """
import hashlib, sys
import matplotlib.pyplot as plt
from kdlib import plots
from kdlib.explore import explore

def draw(T):
    plt.gca().plot([0, T], [0, 1], label="a line")
    plt.gca().imshow([[0, 1]])
    plt.gca().legend()
    return f"A line to {T}."

def tell(*texts):
    print(*(hashlib.sha256(text.encode()).hexdigest() for text in texts))

tell(explore(draw, T=[1, 2]).html())
plt.rcParams["lines.linewidth"] = 1.5  # the default, said again
plt.rcParams["lines.dashed_pattern"] = [2, 2]
tell(explore(draw, T=[1, 2]).html())
plots.use()
draw(1)
tell(explore(draw, T=[1, 2]).html(), plots.show("A line.").svg)
"""


def test_a_readers_matplotlibrc_changes_no_figure(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text(RC_FILE)
    env = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "MPLBACKEND": "agg", "HOME": str(tmp_path)}
    plain, with_file = (
        subprocess.run([sys.executable, "-c", PAGES], check=True, capture_output=True, text=True, env=env | more).stdout
        for more in ({}, {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")})
    )
    assert len(plain.split()) == 4
    assert with_file == plain


def test_what_the_session_has_set_is_kept() -> None:
    def stroke(**settings: Any) -> str:
        with plt.rc_context(settings):
            (frame,) = explore(line, T=[1]).frames
        return frame.svg

    assert "stroke-width: 9" not in stroke() and "stroke-width:9" in stroke(**{"lines.linewidth": 9}).replace(": ", ":")


def test_jitter_is_the_same_every_time() -> None:
    def jittered(T: int) -> str:
        sns.stripplot(RESULTS[RESULTS["T"] == T], x="recipe", y="accuracy", jitter=True, ax=plt.gca())
        return f"Jitter at {T}."

    assert explore(jittered, T=[1, 2]).html() == explore(jittered, T=[1, 2]).html()


# ---- tables


def test_a_table_may_be_nearly_equal_missing_or_a_function() -> None:
    def point(T: float) -> str:
        return line(T)

    narrow = pd.DataFrame({"T": np.array([0.1, 0.2], dtype=np.float32), "n": [12345.678, 4.0]})
    held = page_data(explore(point, table=narrow, T=[0.1, 0.2]))
    assert [held["tables"][frame["table"]]["rows"] for frame in held["frames"]] == [[["12346"]], [["4"]]]
    by_call = page_data(explore(point, table=lambda T: pd.DataFrame({"a": ["x"], "ok": [True], "b": [T]}), T=[1]))
    assert by_call["tables"] == [
        {"columns": ["a", "ok", "b"], "numeric": [False, True, True], "rows": [["x", "on", "1"]]}
    ]
    same = page_data(explore(point, table=pd.DataFrame({"a": [1]}), T=[1, 2, 3]))
    assert len(same["tables"]) == 1
    none = explore(point, T=[1])
    assert page_data(none)["frames"][0]["table"] is None and "<table" not in none.html()


def test_rows_of_a_state_are_its_own_and_no_neighbours() -> None:
    """A column may have gone through float32; a value that differs in the sixth digit, or 0 beside 1e-9, is another."""

    def point(T: float) -> str:
        return line(T)

    near = [0.1, 0.1 * (1 + 4e-6), 0.1 * (1 - 4e-6), 1e-9, 2e-9, 0.0]
    table = pd.DataFrame({"T": near, "n": range(6)})
    for column in (table["T"], table["T"].astype(np.float32), table["T"] * (1 + 4e-7)):
        held = page_data(explore(point, table=table.assign(T=column), T=[0.1, 1e-9, 2e-9, 0.0]))
        assert [held["tables"][frame["table"]]["rows"] for frame in held["frames"]] == [
            [["0"]],
            [["3"]],
            [["4"]],
            [["5"]],
        ]


# ---- text from data is text


def test_markup_in_labels_sentences_and_tables_stays_text() -> None:
    evil = "</script><img src=x onerror=alert(1)><!-- \" ' &"

    def sentence(kind: str) -> str:
        line(1)
        return f"Kind {kind}."

    table = pd.DataFrame({"kind": [evil, "b"], evil: [evil, "<b>"]})
    explorer = explore(sentence, table=table, caption=evil, kind=Control([evil, "b"], evil))
    page = Elements(explorer.html())
    assert len(page.all("img")) == 1 and len(page.all("script")) == 2
    assert page.all("img")[0]["alt"] == f"Kind {evil}."
    assert page_data(explorer)["frames"][0]["sentence"] == f"Kind {evil}."
    assert page_data(explorer)["tables"][0]["rows"] == [[evil]]
    panel = Elements(explore(line, retrain=boom, T=Control([1, 2], evil))._repr_mimebundle_()["text/html"])
    assert len(panel.all("img")) == 1 and all("onerror" not in attrs for _, attrs in panel.tags)


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"T": []}, "control 'T' must have at least one value"),
        ({"T": [1, 1]}, "control 'T' must hold values that differ"),
        ({"T": [1, 1.0000001]}, "control 'T' must hold values that differ"),
        ({"T": [1.0000049, 1.0000051]}, "control 'T' must hold values that differ"),  # 1 and 1.00001 in six digits
        ({"T": [1, True]}, "control 'T' must hold values that differ"),
        ({"T": [1, float("nan")]}, "finite numbers, strings or bools, got nan"),
        ({"T": [1, None]}, "finite numbers, strings or bools, got None"),
        ({"T": "124"}, "control 'T' must be a list of values, got '124'"),
        ({"T": 4}, "control 'T' must be a list of values, got 4"),
        ({"b": [1], "c": [1]}, r"one to three lists, got 4 \(T, U, b, c\)"),
        ({"start": {"T": 3}}, r"start has T=3, expected one of \[1, 2\]"),
        ({"start": {"tau": 1}}, r"start has tau=1, expected only \['T', 'U'\]"),
        ({"T": range(13), "U": range(5)}, "13 T x 5 U = 65 states, more than 64: shorten 'T'"),
        ({"max_bytes": 5000}, r"bytes of page, more than 5,000: 4 states of [\d,]+ bytes a picture and"),
        ({"table": pd.DataFrame({"T": [1], "a": [0]})}, "got no rows at T = 2, U = 1"),
        ({"table": lambda T, U: None}, "got NoneType at T = 1, U = 1"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    def both(T: float, U: float, **rest: float) -> str:
        return line(T)

    kept: dict[str, Any] = {"T": [1, 2], "U": [1, 2]}
    with pytest.raises(ValueError, match=message):
        explore(both, **(kept | changes))


def test_no_controls_are_named() -> None:
    with pytest.raises(ValueError, match=r"one to three lists, got 0 \(none\)"):
        explore(line)


@pytest.mark.parametrize("sentence", [None, "", "  ", 4])
def test_a_draw_without_a_sentence_is_named(sentence: Any) -> None:
    def silent(T: int) -> Any:
        line(T)
        return sentence

    with pytest.raises(ValueError, match=r"draw must return the sentence .* got .* at T = 1"):
        explore(silent, T=[1])


def test_a_draw_that_draws_nothing_or_by_chance_is_named() -> None:
    with pytest.raises(ValueError, match=r"stayed empty at \{'T': 1}"):
        explore(lambda T: "Nothing.", T=[1])
    chance = np.random.default_rng()
    with pytest.raises(ValueError, match="the same figure every time, got two"):
        explore(lambda T: line(chance.normal()), T=[1])


def test_a_draw_that_fails_raises_and_leaves_no_figure_behind() -> None:
    def fails(T: int) -> str:
        line(T)
        raise KeyError(T)

    before = plt.get_fignums()
    with pytest.raises(KeyError):
        explore(fails, T=[1])
    assert plt.get_fignums() == before


def test_numpy_values_and_starts_become_the_controls_own() -> None:
    explorer = explore(line, start={"T": 2.0}, T=np.array([1, 2]))
    assert explorer.start == {"T": 2} and type(explorer.start["T"]) is int


def test_bools_and_strings_are_lists_to_choose_from() -> None:
    def switch(on: bool, kind: str) -> str:
        line(on)
        return f"{kind}, {on}."

    explorer = explore(switch, on=[False, True], kind=["a", "b"])
    page = Elements(explorer.html())
    assert len(page.all("select")) == 2 and not page.all("input")
    assert [option["value"] for option in page.all("option") if "selected" in option] == ["0", "0"]
    assert page_data(explorer)["controls"][0] == {"name": "on", "texts": ["off", "on"]}
    assert page_data(explorer)["frames"][2]["sentence"] == "a, True."


# ---- training outside the grid


@dataclass
class Progress:
    step: int
    steps: int


def trained(T: float) -> str:
    plt.gca().plot([T, 0])
    return f"Trained at {T:g}."


def ask(explorer: Explorer, *at: int, **numbers: float) -> None:
    """What the button does: where the controls stand and the numbers in the fields go to the kernel."""
    explorer.live._handle_custom_msg({"train": {"at": list(at), "numbers": numbers}}, [])


def test_training_shows_a_setting_outside_the_grid() -> None:
    seen = []

    def retrain(T: float) -> Generator[Any, None, Any]:
        for step in range(1, 5):
            yield Progress(step, 4) if step < 3 else step / 4
            seen.append((T, live.progress, live.busy, live.answered))
        return trained, pd.DataFrame({"T": [T], "gain": [0.5]})

    explorer = explore(line, retrain=retrain, T=[1, 2])
    live = explorer.live
    ask(explorer, 0, T=3)
    assert seen == [(3, 0.25, True, 1), (3, 0.5, True, 1), (3, 0.75, True, 1), (3, 1.0, True, 1)]
    assert type(seen[0][0]) is int
    (frame,) = live.trained
    assert frame == vars(live.frames["T = 3"]) and frame["sentence"] == "Trained at 3."
    assert frame["table"] == {"columns": ["gain"], "numeric": [True], "rows": [["0.5"]]}
    assert "Shown: T = 3, trained just now" in live.said and (live.busy, live.failed) == (False, False)
    asyncio.run(live.train(T=2.5))
    asyncio.run(live.train(T=3))  # trained again, it is last and there once
    assert [frame["state"] for frame in live.trained] == ["T = 2.5", "T = 3"] == list(live.frames)
    assert "Other settings can be trained in JupyterLab." in explorer.html()
    assert "JupyterLab" not in explore(line, T=[1, 2])._repr_mimebundle_()["text/html"]


def test_training_starts_from_where_the_controls_stand() -> None:
    seen = []

    def retrain(**state: Any) -> Generator[float, None, None]:
        seen.append(state)
        yield 1.0

    explorer = figure(retrain=retrain)
    ask(explorer, 2, 1, 1, T=3, alpha=0.25)
    asyncio.run(explorer.live.train(alpha=0.5))  # what is not said stands as at the start
    assert seen == [{"T": 3, "alpha": 0.25, "image": "a boot"}, {"T": 2, "alpha": 0.5, "image": "a shoe"}]


def test_training_may_leave_drawing_to_the_draw_it_has() -> None:
    def retrain(T: float) -> Generator[float, None, None]:
        yield 1.0

    live = explore(line, retrain=retrain, T=[1.0, 2.0]).live
    asyncio.run(live.train(T=2.5))
    assert live.trained[0]["sentence"] == "A line to 2.5."


def test_the_stop_button_ends_training_while_it_runs() -> None:
    ended = []

    def retrain(T: float) -> Generator[float, None, None]:
        try:
            while True:
                time.sleep(0.01)
                yield 0.5
        finally:
            ended.append(T)

    explorer = explore(line, retrain=retrain, T=[1, 2])
    live = explorer.live

    async def press() -> None:
        ask(explorer, 0, T=7)
        while live.progress == 0:
            await asyncio.sleep(0.005)  # the loop is free while a step runs in its thread
        assert live.busy and not ended
        ask(explorer, 0, T=8)  # from another window: heard, and not taken up
        assert live.answered == 2 and "Training T = 7" in live.said
        live._handle_custom_msg({"stop": True}, [])
        assert live.said == "Stopping after this step." and live._task is not None
        await live._task
        ask(explorer, 0, T=9)
        live._handle_custom_msg({"stop": True}, [])  # both waited for a kernel that was at work elsewhere
        await live._task

    asyncio.run(press())
    assert ended == [7] and live.trained == []  # the other one never began
    assert "Stopped before T = 9 was ready" in live.said and not live.busy


def boom(T: float) -> Generator[float, None, None]:
    yield 0.5
    raise ArithmeticError("the loss is <nan>")


def bad_draw(T: float) -> Generator[float, None, Any]:
    yield 0.5
    return (lambda T: None), None


@pytest.mark.parametrize(
    ("retrain", "error", "shown"),
    [
        (boom, ArithmeticError, "ArithmeticError: the loss is <nan>"),
        (bad_draw, ValueError, "stayed empty"),
        (lambda T: [0.5], ValueError, "retrain must be a generator function, got one that returns list"),
    ],
)
def test_an_error_in_training_is_seen_and_raised(retrain: Any, error: type[Exception], shown: str) -> None:
    live = explore(line, retrain=retrain, T=[1, 2]).live
    with pytest.raises(error):
        asyncio.run(live.train(T=3))
    assert shown in live.said and (live.failed, live.busy) == (True, False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"U": 1}, r"train must be given controls of the figure \(T, image\), got 'U'"),
        ({"T": float("nan")}, "T must be a finite number, got nan"),
        ({"T": "3"}, "T must be a finite number, got '3'"),
        ({"image": "a bag"}, r"image must be one of \['a shoe', 'a boot'\], got 'a bag'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(state: dict[str, Any], message: str) -> None:
    live = explore(lambda T, image: line(T), retrain=lambda **at: iter(()), T=[1, 2], image=IMAGES).live
    with pytest.raises(ValueError, match=message):
        asyncio.run(live.train(**state))
    assert not live.busy
    with pytest.raises(ValueError, match="made with retrain"):
        asyncio.run(explore(line, T=[1]).live.train(T=2))


# ---- the rooms


def test_the_modules_import_each_other_in_one_direction() -> None:
    folder = Path(str(inspect.getsourcefile(Explorer))).parent
    graph: dict[str, set[str]] = {}
    for path in folder.glob("[!_]*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        assert not any(node.module == "kdlib.explore" for node in nodes)  # the package imports its rooms, not they it
        graph[path.stem] = {str(node.module).rpartition(".")[2] for node in nodes if "explore." in str(node.module)}
    assert next(iter(graphlib.TopologicalSorter(graph).static_order())) == "frame"  # raises for a circle
    assert graph["figure"] == {"frame", "live", "page"}
