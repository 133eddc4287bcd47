"""The points of a study: a table, or every combination of named values."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdlib.study.identity import digest

Experiment = Callable[..., Any]
Grid = pd.DataFrame | Mapping[str, Any]

SCALARS = (str, bool, int, float, complex, pd.Timestamp, pd.Timedelta, type(None))


@dataclass(frozen=True)
class Point:
    """One call of the experiment: its place in the grid, its name in a store, its arguments."""

    place: int
    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{key}={label(value)!r}" for key, value in self.arguments.items())

    def labels(self) -> dict[str, Any]:
        """What the result says about the point: numbers and texts as they are, other things by their name."""
        return {key: label(value) for key, value in self.arguments.items()}


def points(experiment: Experiment, grid: Grid) -> list[Point]:
    """The points of `grid` in order: the rows of a DataFrame, or the product of a mapping's columns, the last one fastest.

    A mapping's column is a sequence of values or one value. Raises ValueError for an empty grid, a column that the
    experiment does not take, an argument that it misses, or a point given twice.
    """
    if not callable(experiment):
        raise ValueError(f"experiment must be a function that returns a DataFrame, got {type(experiment).__name__}")
    if isinstance(grid, pd.DataFrame):
        names = list(grid.columns)
        rows: Iterable[tuple[Any, ...]] = grid.itertuples(index=False, name=None)
    elif isinstance(grid, Mapping):
        names, rows = list(grid), itertools.product(*map(_column, grid.values()))
    else:
        raise ValueError(f"grid must be a DataFrame or a mapping of names to values, got {type(grid).__name__}")
    if odd := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"grid must have columns named by arguments of the experiment, got {odd[0]!r}")
    found: dict[str, Point] = {}
    contents: dict[int, tuple[str, Any]] = {}  # of values that are no scalars, each read once

    def content(value: Any) -> Any:
        if isinstance(value, SCALARS):
            return value
        if id(value) not in contents:
            contents[id(value)] = digest(value), value
        return contents[id(value)][0]

    for place, row in enumerate(rows):
        values = {name: _plain(value) for name, value in zip(names, row, strict=True)}
        point = Point(place, digest({name: content(value) for name, value in values.items()}), values)
        if point.name in found:
            raise ValueError(f"grid must hold each point once, got {point} at {found[point.name].place} and {place}")
        found[point.name] = point
    if not found:
        raise ValueError(f"grid must hold at least one point, got {len(names)} columns without one")
    _check_arguments(experiment, names)
    return list(found.values())


def label(value: Any) -> Any:
    """A number or a text as it is; a short list as text; of anything else the name, or the start of its digest."""
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, list | tuple) and len(repr(value)) <= 60:
        return repr(value)
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    return name if isinstance(name, str) else digest(value)[:8]


def _column(values: Any) -> list[Any]:
    many = isinstance(values, list | tuple | range | np.ndarray | pd.Series | pd.Index)
    return list(values) if many else [values]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value


def _check_arguments(experiment: Experiment, names: list[str]) -> None:
    try:
        inspect.signature(experiment).bind(**dict.fromkeys(names))
    except TypeError as error:
        title = getattr(experiment, "__name__", type(experiment).__name__)
        raise ValueError(f"grid must name the arguments of {title}, got {', '.join(names)}: {error}") from None
    except ValueError:  # a function that tells no signature
        return
