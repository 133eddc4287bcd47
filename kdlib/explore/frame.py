"""What a figure shows at each state of its controls, drawn ahead, wherever it is shown."""

from __future__ import annotations

import io
import itertools
import re
import threading
import urllib.parse
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from kdlib import _ink, _rc

Value = float | int | str | bool
State = dict[str, Any]
Draw = Callable[..., str]
Table = pd.DataFrame | Callable[..., pd.DataFrame] | None
Retrain = Callable[..., Generator[Any, None, tuple[Draw, Table] | None]]

#: Inches. The page never shows a picture larger; scaled to a phone of 360 px, text of 11 points is still 9 px high.
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


class Sweep:
    """A figure at every combination of its controls' values: `frames` holds a Frame for each, last control fastest."""

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
        svg, sentence = _picture(draw, state, self.caption, words)
        if not isinstance(sentence, str) or not sentence.strip():
            raise ValueError(f"draw must return the sentence that describes its figure, got {sentence!r} at {words}")
        return Frame(words, sentence.strip(), svg, None if table is None else _rows(table, state, words))


def in_words(value: Any) -> str:
    """A value as a reader sees it: on or off, up to six digits of a float, everything else as it is."""
    if isinstance(value, bool | np.bool_):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _picture(draw: Draw, state: State, caption: str = "", words: str = "") -> tuple[str, Any]:
    """The SVG that draw makes at a state, small and the same bytes every time, and what draw returned."""
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "kdx",
        "savefig.bbox": None,
        # formulas in the letters of the text around them: a reader's machine lacks TeX's fonts
        "mathtext.fontset": "custom",
        "mathtext.cal": "sans:italic",
        "mathtext.fallback": "stixsans",
    }
    with _PYPLOT, _rc.settings(settings):
        plt.rcParams["font.size"] = max(11.0, plt.rcParams["font.size"])
        before, chance = set(plt.get_fignums()), np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002 (seaborn's jitter draws from NumPy's old generator)
        plt.figure(figsize=FIGSIZE, layout="constrained")
        try:
            sentence = draw(**state)
            figure, file = plt.gcf(), io.StringIO()
            if not figure.axes:
                raise ValueError(f"draw must draw on the current matplotlib figure, which stayed empty at {state}")
            figure.savefig(file, format="svg", transparent=True)
            _ink.complain(figure, caption, words, drawn=True)
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
            np.random.set_state(chance)  # noqa: NPY002
    return _ink.legible(_small(file.getvalue())), sentence


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
            # a column that went through float32 holds 0.1 only nearly; 1e-9 and 0 are not nearly the same
            own_rows = np.isclose(table[name], state[name], rtol=1e-6, atol=0) if near else table[name] == state[name]
            keep &= np.asarray(own_rows)
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
