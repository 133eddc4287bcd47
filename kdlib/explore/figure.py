"""One figure, two lives: widgets in a notebook; in a rendered page, a control over frames drawn ahead by the same function."""

from __future__ import annotations

import io
import itertools
import math
import re
import threading
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from kdlib.explore import live as explore_live
from kdlib.explore import page as explore_page

Value = float | int | str | bool
State = dict[str, Any]
Draw = Callable[..., str]
Table = pd.DataFrame | Callable[..., pd.DataFrame] | None
Retrain = Callable[..., Generator[Any, None, tuple[Draw, Table] | None]]

# Inches. The page never shows a picture larger; scaled to a phone of 360 px, text of 11 points is still 9 px high.
FIGSIZE = (5.2, 3.4)
_PYPLOT = threading.RLock()  # pyplot has one current figure a process, and JupyterLab may run callbacks in threads


@dataclass(frozen=True)
class Control:
    """The discrete values of one control and the name a reader sees: `T=Control([1, 2, 4], "temperature T")`."""

    options: Sequence[Value]
    label: str = ""

    @property
    def numeric(self) -> bool:
        """Whether all options are numbers: a slider then, else a list to choose from."""
        return all(isinstance(option, int | float) and not isinstance(option, bool) for option in self.options)

    @property
    def texts(self) -> list[str]:
        """The options as a reader sees them."""
        return [in_words(option) for option in self.options]


@dataclass(frozen=True)
class Frame:
    """What is shown at one state: the state in words ("T = 4, alpha = 0.9"), the sentence, the picture, the data behind it.

    `svg` is a whole SVG file as text; `table` has `columns`, `numeric` (one flag a column) and `rows`, all cells as text.
    """

    state: str
    sentence: str
    svg: str
    table: dict[str, Any] | None

    @property
    def source(self) -> str:
        """The picture as an address for an img element."""
        return "data:image/svg+xml," + urllib.parse.quote(self.svg, safe="!()*~ =:/,;")


def explore(
    draw: Draw,
    *,
    table: Table = None,
    caption: str = "",
    start: State | None = None,
    retrain: Retrain | None = None,
    max_states: int = 64,
    max_bytes: int = 600_000,
    **controls: Iterable[Any] | Control,
) -> Explorer:
    """Make one figure that a reader moves, live in a notebook and alike in a rendered page.

    draw(**state) draws on the current matplotlib figure, from numbers computed before, and returns the sentence that says
        what is to be seen: the text under the figure, and the text for those who cannot see it. Every state is drawn here
        and now, so a state that cannot be drawn raises in the cell. The figure is FIGSIZE inches unless draw resizes it. It
        must be the same every time (seaborn's bootstrap needs a seed; jitter is taken care of).
    table: the data behind the figure, a tidy DataFrame (the rows of a state are picked by the columns named like controls,
        and those columns left out) or a function of the state that returns one.
    caption: one plain sentence on what was run, the same at every state. start: the state shown first (else first values).
    retrain(**state) is a generator for settings outside the grid, live only. It yields numbers from 0 to 1, or objects with
        `step` and `steps`, and returns a pair (draw, table) that shows the new setting, or nothing if the ones given here do.
        Its steps run in a worker thread, so the kernel hears the stop button; figures are never drawn in that thread.
    controls: one to three, each name=list of numbers, strings or bools, or name=Control. All combinations are drawn.

    Raises ValueError for empty, repeated or unusable values, for a draw without a sentence or with chance in it, for a table without rows at some
    state, and for more than `max_states` states or `max_bytes` bytes of page, naming what to reduce.
    """
    if not 1 <= len(controls) <= 3:
        raise ValueError(f"controls must be one to three lists, got {len(controls)} ({', '.join(controls) or 'none'})")
    known = {name: _checked(name, given) for name, given in controls.items()}
    sizes = {name: len(control.options) for name, control in known.items()}
    if (states := math.prod(sizes.values())) > max_states:
        product = " x ".join(f"{size} {name}" for name, size in sizes.items())
        longest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(f"controls make {product} = {states} states, more than {max_states}: shorten {longest!r}")
    first = {name: control.options[0] for name, control in known.items()}
    for name, value in (start or {}).items():
        if name not in known or value not in known[name].options:
            expected = f"one of {list(known[name].options)}" if name in known else f"only {list(known)}"
            raise ValueError(f"start has {name}={value!r}, expected {expected}")
        first[name] = known[name].options[list(known[name].options).index(value)]
    explorer = Explorer(draw, table, caption, first, retrain, known)
    size, pictures = len(explorer.html().encode()), sum(len(frame.svg.encode()) for frame in explorer.frames)
    if size > max_bytes:
        raise ValueError(
            f"the figure takes {size:,} bytes of page, more than {max_bytes:,}: {states} states of {pictures // states:,} "
            f"bytes a picture and {(size - pictures) // states:,} for the rest. Shorten a control, draw fewer marks, "
            "or aggregate the table"
        )
    return explorer


class Explorer:
    """A figure with controls, made by `explore`: display it. `html()` is its life in a page, `live` the one in a notebook.

    `frames` holds a Frame for every combination of the controls' values, last control fastest.
    """

    def __init__(
        self,
        draw: Draw,
        table: Table,
        caption: str,
        start: State,
        retrain: Retrain | None,
        controls: dict[str, Control],
    ) -> None:
        self.draw, self.table, self.caption, self.retrain = draw, table, caption, retrain
        self.start, self.controls = start, controls
        self.frames = [self.render(state) for state in self.states()]
        if self.render(start) != self.frame(start):
            raise ValueError("draw must draw the same figure every time, got two: give seaborn's bootstrap a seed")

    def states(self) -> list[State]:
        """Every combination of the controls' values, last control fastest."""
        grid = itertools.product(*(control.options for control in self.controls.values()))
        return [dict(zip(self.controls, values, strict=True)) for values in grid]

    def frame(self, state: State) -> Frame:
        """The frame drawn ahead for a state of the grid."""
        return self.frames[self.states().index(state)]

    def words(self, state: State) -> str:
        """A state as a reader sees it: "temperature T = 4, alpha = 0.9"."""
        return ", ".join(f"{self.controls[name].label or name} = {in_words(value)}" for name, value in state.items())

    def render(self, state: State, shows: tuple[Draw, Table] | None = None) -> Frame:
        """Draw one state anew, on or off the grid, with this explorer's draw and table or with the pair `shows`."""
        draw, table = shows or (self.draw, self.table)
        words = self.words(state)
        svg, sentence = _picture(draw, state)
        if not isinstance(sentence, str) or not sentence.strip():
            raise ValueError(f"draw must return the sentence that describes its figure, got {sentence!r} at {words}")
        return Frame(words, sentence.strip(), svg, None if table is None else _rows(table, state, words))

    @cached_property
    def live(self) -> explore_live.Live:
        """The widgets of this figure, made when first asked for."""
        return explore_live.Live(self)

    def html(self) -> str:
        """The figure for a rendered page: one string, nothing to fetch, the first state visible without scripts."""
        return explore_page.html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Both lives at once: JupyterLab takes the widgets, a page builder the HTML, a terminal the sentence."""
        view = "application/vnd.jupyter.widget-view+json"
        live = self.live.box._repr_mimebundle_()
        return {view: live[view], "text/html": self.html(), "text/plain": self.frame(self.start).sentence}


def in_words(value: Any) -> str:
    """A value as a reader sees it: on or off, up to six digits of a float, everything else as it is."""
    if isinstance(value, bool | np.bool_):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _checked(name: str, given: Iterable[Any] | Control) -> Control:
    """A Control with plain Python values, or a ValueError that names it."""
    options, label = (given.options, given.label) if isinstance(given, Control) else (given, "")
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise ValueError(f"control {name!r} must be a list of values, got {options!r}")
    values = [option.item() if isinstance(option, np.generic) else option for option in options]
    if not values:
        raise ValueError(f"control {name!r} must have at least one value, got an empty list")
    for value in values:
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"control {name!r} must hold finite numbers, strings or bools, got {value!r}")
    control = Control(values, label)
    if len(set(values)) < len(values) or len(set(control.texts)) < len(values):
        raise ValueError(f"control {name!r} must hold values that differ (in six digits), got {values}")
    return control


def _picture(draw: Draw, state: State) -> tuple[str, Any]:
    """The SVG that draw makes at a state, small and the same bytes every time, and what draw returned."""
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "kdx",
        "savefig.bbox": None,
        # formulas in the letters of the text around them: a reader's machine lacks TeX's fonts
        "mathtext.fontset": "custom",
        "mathtext.cal": "sans:italic",
        "mathtext.fallback": "stixsans",
        "font.size": max(11.0, float(plt.rcParams["font.size"])),
    }
    with _PYPLOT, plt.rc_context(settings):
        before, chance = set(plt.get_fignums()), np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002 (seaborn's jitter draws from NumPy's old generator)
        plt.figure(figsize=FIGSIZE, layout="constrained")
        try:
            sentence = draw(**state)
            figure, file = plt.gcf(), io.StringIO()
            if not figure.axes:
                raise ValueError(f"draw must draw on the current matplotlib figure, which stayed empty at {state}")
            figure.savefig(file, format="svg", transparent=True)
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
            np.random.set_state(chance)  # noqa: NPY002
    return _small(file.getvalue()), sentence


def _small(svg: str) -> str:
    """Leave out of matplotlib's SVG what nobody sees, about half of it. Text between tags stays as it is."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r">\s*\n\s*<", "><", svg).strip()
    used = set(re.findall(r"#([\w.-]+)", svg))

    def shorten(match: re.Match[str]) -> str:
        tag = re.sub(r'\s*\n\s*|(?<=[:;]) | transform="rotate\(-0 [^"]*"', "", match[0])
        tag = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", tag)
        # Verdana has the widths of matplotlib's own letters, which most readers' machines lack
        tag = re.sub(r"'DejaVu Sans'[^;\"]*", "'DejaVu Sans',Verdana,sans-serif", tag)
        return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)

    return re.sub(r"<[^>]*>", shorten, svg)


def _rows(table: pd.DataFrame | Callable[..., pd.DataFrame], state: State, words: str) -> dict[str, Any]:
    """The rows behind the figure at a state, all cells as text."""
    if isinstance(table, pd.DataFrame):
        own = [name for name in state if name in table.columns]
        keep = np.ones(len(table), dtype=bool)
        for name in own:
            near = isinstance(state[name], float) and pd.api.types.is_numeric_dtype(table[name])
            # a column that went through float32 holds 0.1 only nearly
            keep &= np.isclose(table[name], state[name], rtol=1e-6) if near else (table[name] == state[name]).to_numpy()
        table = table.loc[keep].drop(columns=own)
    else:
        table = table(**state)
    if not isinstance(table, pd.DataFrame) or table.empty:
        got = "no rows" if isinstance(table, pd.DataFrame) else type(table).__name__
        raise ValueError(f"table must give a DataFrame with rows at every state, got {got} at {words}")
    return {
        "columns": [str(column) for column in table.columns],
        "numeric": [bool(pd.api.types.is_numeric_dtype(kind)) for kind in table.dtypes],
        "rows": [[_cell(value) for value in row] for row in table.itertuples(index=False)],
    }


def _cell(value: Any) -> str:
    """A table's cell: four digits of a float, everything else as in words."""
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.4g}" if abs(number) < 1e4 else f"{number:.0f}"
    return in_words(value)
