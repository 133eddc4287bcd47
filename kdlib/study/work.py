"""What one process does: a chunk of points, one after the other, for a few seconds."""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
import time
import traceback
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from kdlib.study.grid import Experiment, Point
from kdlib.study.identity import versions

Arrays = dict[str, np.ndarray]


@dataclass
class Part:
    """Results with one set of columns: `rows[i]` rows of `frame` belong to the point `names[i]` at `places[i]`."""

    names: list[str]
    places: list[int]
    rows: list[int]
    frame: pd.DataFrame
    arrays: dict[str, Arrays] = field(default_factory=dict)
    file: str = ""
    arrays_file: str = ""


@dataclass
class Result:
    """What the experiment returned for a point."""

    point: Point
    frame: pd.DataFrame
    arrays: Arrays


@dataclass
class Outcome:
    """What became of a chunk: results, failures by place, points not come to, seconds spent, versions of the process."""

    parts: list[Part]
    failed: dict[int, tuple[str, str]]
    rest: list[Point]
    seconds: float
    versions: dict[str, str]
    interrupted: bool = False


def work(payload: bytes, chunk: list[Point], seconds: float) -> Outcome:
    """Run the experiment on the points of a chunk until `seconds` have passed, in one thread, and say what came of it.

    `payload` is the experiment and torch's default dtype, pickled by the process that asks.
    """
    experiment, dtype = _unpacked(payload)
    done: list[Result] = []
    failed: dict[int, tuple[str, str]] = {}
    start, interrupted, count = time.perf_counter(), False, 0
    with threadpool_limits(1), _Torch(dtype):
        for point in chunk:
            if count and time.perf_counter() - start > seconds:
                break
            try:
                done.append(_result(experiment, point))
            except KeyboardInterrupt:
                interrupted = True
                break
            except Exception as error:
                failed[point.place] = f"{type(error).__name__}: {error}", traceback.format_exc()
            count += 1
    spent = time.perf_counter() - start
    return Outcome(_gather(done), failed, chunk[count:], spent, versions(), interrupted)


def join(parts: Iterable[Part]) -> list[Part]:
    """The same results in as few parts as there are sets of columns and dtypes, so that joining changes no value."""
    alike: dict[Any, list[Part]] = {}
    for part in parts:
        alike.setdefault((tuple(part.frame.columns), _dtypes(part.frame)), []).append(part)
    return [_joined(group) if len(group) > 1 else group[0] for group in alike.values()]


def _gather(results: list[Result]) -> list[Part]:
    """Parts of the results, with the grid's columns where the experiment returned none of that name."""
    alike: dict[Any, list[Result]] = {}
    for result in results:
        columns = tuple(result.frame.columns)
        labels = {name: value for name, value in result.point.labels().items() if name not in columns}
        kinds = tuple((name, type(value)) for name, value in labels.items())
        alike.setdefault((kinds, columns, _dtypes(result.frame)), []).append(result)
    return [_part(group) for group in alike.values()]


def _part(results: list[Result]) -> Part:
    rows = [len(result.frame) for result in results]
    frame = pd.concat([result.frame for result in results], ignore_index=True) if len(results) > 1 else results[0].frame
    labels = pd.DataFrame([result.point.labels() for result in results])
    labels = labels[[name for name in labels if name not in frame]].iloc[np.repeat(np.arange(len(rows)), rows)]
    return Part(
        [result.point.name for result in results],
        [result.point.place for result in results],
        rows,
        pd.concat([labels.reset_index(drop=True), frame], axis=1),
        {result.point.name: result.arrays for result in results if result.arrays},
    )


def _dtypes(frame: pd.DataFrame) -> tuple[Any, ...]:
    return tuple(frame.dtypes.array)


def without(part: Part, known: Collection[str]) -> Part:
    """A part less the points that are known."""
    keep = [name not in known for name in part.names]
    if all(keep):
        return part
    kept = list(itertools.compress(zip(part.names, part.places, part.rows, strict=True), keep))
    names, places, rows = ([entry[0] for entry in kept], [entry[1] for entry in kept], [entry[2] for entry in kept])
    arrays = {name: given for name, given in part.arrays.items() if name not in known}
    frame = part.frame[np.repeat(keep, part.rows)].reset_index(drop=True)
    return replace(part, names=names, places=places, rows=rows, frame=frame, arrays=arrays)


def _joined(parts: list[Part]) -> Part:
    return Part(
        [name for part in parts for name in part.names],
        [place for part in parts for place in part.places],
        [rows for part in parts for rows in part.rows],
        pd.concat([part.frame for part in parts], ignore_index=True),
        {name: arrays for part in parts for name, arrays in part.arrays.items()},
    )


def _result(experiment: Experiment, point: Point) -> Result:
    made = experiment(**point.arguments)
    frame, arrays = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"the experiment must return a DataFrame, got {type(frame).__name__}")
    if frame.index.name is not None or not frame.index.equals(
        pd.RangeIndex(len(frame))
    ):  # also 1, 2, 3 of a filtered frame
        frame = frame.reset_index(drop=all(name is None for name in frame.index.names))
    columns = list(frame.columns)
    if len(set(columns)) < len(columns) or not all(isinstance(name, str) for name in columns):
        raise ValueError(f"the experiment's frame must have columns with different texts as names, got {columns}")
    if frame.attrs:
        frame = frame.copy()
        frame.attrs = {}
    return Result(point, frame, _arrays(arrays))


def _arrays(given: Any) -> Arrays:
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"the experiment's arrays must be a dict of names to arrays, got {type(given).__name__}")
    arrays = {name: np.asarray(value) for name, value in given.items()}
    if odd := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise ValueError(f"the experiment's arrays must hold numbers or texts, got objects in {odd[0]!r}")
    return arrays


class _Torch:
    """Inside, torch (where it is loaded) has one thread and the caller's default dtype."""

    def __init__(self, dtype: str | None) -> None:
        plain = dtype in (None, "float32")
        self.torch: Any = sys.modules.get("torch") if plain else importlib.import_module("torch")
        self.dtype = dtype or "float32"

    def __enter__(self) -> None:
        if torch := self.torch:
            self.before = torch.get_num_threads(), torch.get_default_dtype()
            torch.set_num_threads(1)
            torch.set_default_dtype(getattr(torch, self.dtype))

    def __exit__(self, *_: object) -> None:
        if torch := self.torch:
            torch.set_num_threads(self.before[0])
            torch.set_default_dtype(self.before[1])


@functools.lru_cache(maxsize=2)
def _unpacked(payload: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(payload)
