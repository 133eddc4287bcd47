"""From parts to one frame in the order of the grid; and what is raised when points are missing from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kdlib.study.grid import Point
from kdlib.study.work import Part, without


class Incomplete(RuntimeError):
    """Some points have no result. `finished` is the frame of the others, `failed` has one row per failure."""

    def __init__(self, message: str, finished: pd.DataFrame, failed: pd.DataFrame) -> None:
        super().__init__(message)
        self.finished, self.failed = finished, failed


class Stopped(KeyboardInterrupt):
    """The study was interrupted. `finished` is the frame of the points that were done."""

    def __init__(self, message: str, finished: pd.DataFrame) -> None:
        super().__init__(message)
        self.finished = finished


def assemble(parts: list[Part], places: Mapping[str, int]) -> tuple[pd.DataFrame, dict[int, str]]:
    """The frame of the points in `places` (name to place), in that order, each once; and those with other columns, by place.

    The first point decides which columns a frame has. Those with others are left out and reported.
    """
    taken: set[str] = set()
    kept: list[tuple[int, Part]] = []
    for part in parts:
        part = without(part, {name for name in part.names if name in taken or name not in places})
        if part.names:
            taken.update(part.names)
            kept.append((min(places[name] for name in part.names), part))
    if not kept:
        return pd.DataFrame(), {}
    kept.sort(key=lambda entry: entry[0])
    first = kept[0][1]
    frames: list[pd.DataFrame] = []
    order: list[np.ndarray] = []
    odd: dict[int, str] = {}
    for _, part in kept:
        if set(part.frame.columns) != set(first.frame.columns):
            other = f"the first point {_list(first.frame)}" + (f" (in {first.file})" if first.file else "")
            odd |= {places[name]: f"it returned the columns {_list(part.frame)}, {other}" for name in part.names}
            continue
        frames.append(part.frame)
        order.append(np.repeat([places[name] for name in part.names], part.rows))
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    frame = frame.iloc[np.concatenate(order).argsort(kind="stable")].reset_index(drop=True)
    return frame, odd


def failures(points: list[Point], failed: Mapping[int, tuple[str, str]]) -> pd.DataFrame:
    """One row per failed point: its values, the error in a line, the traceback."""
    rows = [
        {**points[place].labels(), "error": error, "traceback": trace}
        for place, (error, trace) in sorted(failed.items())
    ]
    return pd.DataFrame(rows, columns=None if rows else [*points[0].arguments, "error", "traceback"])


def _list(frame: pd.DataFrame) -> str:
    return ", ".join(sorted(frame.columns))
