"""Look at a store while others write to it: the frame so far, each time it grew, and a figure that follows it."""

from __future__ import annotations

import base64
import html
import io
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kdlib.study.grid import Experiment
from kdlib.study.result import assemble
from kdlib.study.store import Store, choose

Source = str | os.PathLike[str]


def collect(store: Source, experiment: Experiment | str | None = None) -> pd.DataFrame:
    """All results of `experiment` that a store has now, by their place in the grid; without one, of the only experiment.

    `experiment` is the function or the key of its folder. Raises ValueError where the store has none or several to
    choose from, or results with different columns.
    """
    return _frame(choose(store, experiment))


def follow(store: Source, experiment: Experiment | str | None = None, seconds: float = 1.0) -> Iterator[pd.DataFrame]:
    """The frame so far, and anew whenever it has grown, looked at every `seconds`; without end."""
    chosen = choose(store, experiment)
    yield _frame(chosen)
    while True:
        time.sleep(seconds)
        if chosen.refresh():
            yield _frame(chosen)


def interval(values: Any) -> tuple[float, float]:
    """The 95 % t interval of a mean, as seaborn's `errorbar` takes it; without width for fewer than two values."""
    from scipy import stats

    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else float("nan")
        return mean, mean
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def watch(
    store: Source,
    y: str | None = None,
    x: str | None = None,
    hue: str | None = None,
    *,
    experiment: Experiment | str | None = None,
    seconds: float = 1.0,
) -> Watch:
    """A figure of the results so far, means with 95 % t intervals, that is drawn anew as chunks arrive; for a notebook.

    `y` over `x`, one line per `hue`; by default accuracy (or the first column of floats) over the first columns of the
    grid that vary and are not the seed. It looks every `seconds`, in a thread of its own, so also while a cell runs;
    `stop()` ends that. The store may still be empty. Without a notebook see `collect` and `follow`.
    """
    return Watch(store, y, x, hue, experiment, seconds)


class Watch:
    """What `watch` returns: `widget` to display, `frame` as drawn last, `stop()`."""

    def __init__(
        self,
        store: Source,
        y: str | None,
        x: str | None,
        hue: str | None,
        experiment: Experiment | str | None,
        seconds: float,
    ) -> None:
        import ipywidgets

        self.store, self.experiment, self.seconds = store, experiment, seconds
        self.columns = y, x, hue
        self.frame = pd.DataFrame()
        self.widget = ipywidgets.HTML()
        self._chosen: Store | None = None
        self._ended = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Draw no more; the last figure stays."""
        self._ended.set()
        self._thread.join()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)

    def _follow(self) -> None:
        while not self._ended.wait(self.seconds):
            self._look()

    def _look(self) -> None:
        """Draw if the store has grown; what is wrong stands in the figure's place."""
        try:
            if self._chosen is None:
                self._chosen = choose(self.store, self.experiment)
            if self._chosen.refresh():
                self.frame = _frame(self._chosen)
                self.widget.value = self._draw(self.frame, self._chosen)
        except Exception as error:
            self.widget.value = f"<p>{html.escape(str(error))}</p>"

    def _draw(self, frame: pd.DataFrame, chosen: Store) -> str:
        import seaborn as sns
        from matplotlib.figure import Figure

        y, x, hue = _roles(frame, chosen.about().get("grid", []), *self.columns)
        figure = Figure(figsize=(6.2, 3.6))  # none of pyplot's: those belong to the thread of the cells
        axes = figure.subplots()
        if x is not None and pd.api.types.is_numeric_dtype(frame[x]):
            sns.lineplot(frame, x=x, y=y, hue=hue, errorbar=interval, err_style="bars", marker="o", ax=axes)
        else:
            sns.pointplot(frame, x=x, y=y, hue=hue, errorbar=interval, linestyle="none", ax=axes)
        image = io.BytesIO()
        figure.savefig(image, format="svg", bbox_inches="tight")
        count = f"{len(chosen.names)} points so far; mean and 95 % t interval"
        source = base64.b64encode(image.getvalue()).decode()
        alt = html.escape(f"{y} over {x or 'all points'}: {count}", quote=True)
        return f'<img alt="{alt}" src="data:image/svg+xml;base64,{source}"><p>{count}</p>'


def _roles(
    frame: pd.DataFrame, grid: list[str], y: str | None, x: str | None, hue: str | None
) -> tuple[str, str | None, str | None]:
    """The columns to draw: as asked, else as `watch` says. Raises ValueError for one that is not there."""
    for name, column in {"y": y, "x": x, "hue": hue}.items():
        if column is not None and column not in frame:
            raise ValueError(f"{name} must be one of {', '.join(frame.columns)}, got {column!r}")
    free = [str(name) for name in frame if name not in grid and pd.api.types.is_float_dtype(frame[name])]
    if y is None and not free:
        raise ValueError(f"y must be a column of floats, got none beside the grid's in {', '.join(frame.columns)}")
    varied = [n for n in grid if n in frame and n not in ("seed", x, hue) and len(frame[n].unique()) > 1]
    x = x if x is not None else (varied.pop(0) if varied else None)
    hue = hue if hue is not None else (varied.pop(0) if varied else None)
    return y or ("accuracy" if "accuracy" in free else free[0]), x, hue


def _frame(chosen: Store) -> pd.DataFrame:
    chosen.refresh()
    order = sorted(
        {(place, name) for part in chosen.parts for name, place in zip(part.names, part.places, strict=True)}
    )
    frame, odd = assemble(chosen.parts, {name: place for place, (_, name) in enumerate(order)})
    if odd:
        raise ValueError(
            f"store must hold results with the same columns, got in {chosen.folder}: {next(iter(odd.values()))}"
        )
    return frame
