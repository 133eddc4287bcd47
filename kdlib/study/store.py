"""A folder that keeps finished points: Parquet parts, each written in one go, readable while others write.

    store/KEY/_study.json      what the results belong to, for people and for `kdlib study --status`
    store/KEY/part-ID.parquet  finished points; the schema's metadata say which, and how many rows each has
    store/KEY/part-ID.npz      their arrays, where there are any; written before the part that names it

ID is a digest of the file's bytes. Parts are only ever added, so any number of processes on any number of machines may
share a folder. A file that does not fit its name counts as absent: its points are run again, and a warning names it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib._files import replacing
from kdlib.study.grid import Experiment, Point, points
from kdlib.study.identity import key, versions
from kdlib.study.work import Arrays, Part, without

FORMAT = 1


class Store:
    """The results of one experiment in a folder. `parts` are those read so far, `names` their points."""

    def __init__(self, root: str | os.PathLike[str], name: str) -> None:
        _parquet()
        self.root, self.folder = Path(root).expanduser(), Path(root).expanduser() / name
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"store must be a folder, got the file {str(root)!r}")
        self.parts: list[Part] = []
        self.names: set[str] = set()
        self._seen: set[str] = set()

    def refresh(self) -> list[Part]:
        """Read the parts that came since the last call, without points that are known already."""
        found = sorted(path.name for path in self.folder.glob("part-*.parquet") if path.name not in self._seen)
        fresh = []
        for name in found:
            self._seen.add(name)
            if (part := _read(self.folder / name)) is not None and (part := without(part, self.names)).names:
                self.names.update(part.names)
                fresh.append(part)
        self.parts += fresh
        return fresh

    def describe(self, experiment: Experiment, grid: list[Point]) -> None:
        """Write what the folder holds. Raises OSError where it cannot be written."""
        inner = experiment
        while isinstance(inner, functools.partial):
            inner = inner.func
        try:
            source = inspect.getsource(inner)
        except (OSError, TypeError):
            source = ""
        about = {
            "format": FORMAT,
            "experiment": getattr(inner, "__qualname__", type(inner).__name__),
            "points": len(grid),
            "grid": list(grid[0].arguments),
            "versions": versions(),
            "source": source,
        }
        _keep(self.folder / "_study.json", json.dumps(about, indent=1).encode())

    def about(self) -> dict[str, Any]:
        """What `describe` wrote, or nothing where that cannot be read."""
        try:
            about = json.loads((self.folder / "_study.json").read_text())
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    def write(self, part: Part) -> None:
        """Keep a part. Raises ValueError for values that would not come back as they are, OSError where it cannot write."""
        about: dict[str, Any] = {"names": part.names, "places": part.places, "rows": part.rows}
        if part.arrays:
            flat = {f"{name}/{title}": a for name, arrays in part.arrays.items() for title, a in arrays.items()}
            np.savez(buffer := io.BytesIO(), **flat)  # type: ignore[arg-type]
            about["arrays"] = _named(buffer.getvalue(), "npz")
        content = _encoded(part.frame, about)
        back, _ = _decoded(content)
        for column, dtype in part.frame.dtypes.items():
            if back[column].dtype != dtype or not back[column].equals(part.frame[column]):
                came = f"got {column!r} of dtype {dtype}, which would come back otherwise ({back[column].dtype})"
                raise ValueError(f"a store's columns must hold numbers, texts or dates of one kind, {came}")
        if part.arrays:
            _keep(self.folder / about["arrays"], buffer.getvalue())
            part.arrays_file = str(self.folder / about["arrays"])
        path = self.folder / _named(content, "parquet")
        _keep(path, content)
        part.frame, part.file = back, str(path)
        self.parts.append(part)
        self.names.update(part.names)
        self._seen.add(path.name)


def studies(store: str | os.PathLike[str]) -> list[Store]:
    """Everything that a folder keeps, by key. Raises ValueError where `store` is no folder."""
    root = Path(store).expanduser()
    if not root.is_dir():
        raise ValueError(f"store must be a folder of a study, got {str(store)!r}, which is none")
    names = sorted(p.name for p in root.iterdir() if re.fullmatch("[0-9a-f]{16}", p.name) and p.is_dir())
    return [Store(root, name) for name in names]


def choose(store: str | os.PathLike[str], experiment: Experiment | str | None) -> Store:
    """The results of `experiment` (a function or a key) in a folder; without one, the only ones that are there."""
    found = studies(store)
    if experiment is not None:
        name = experiment if isinstance(experiment, str) else key(experiment)
        if matching := [one for one in found if one.folder.name == name]:
            return matching[0]
    elif len(found) == 1:
        return found[0]
    listed = ", ".join(f"{one.folder.name} ({one.about().get('experiment', 'unknown')})" for one in found) or "nothing"
    wanted = "one experiment's results, or name them by experiment=" if experiment is None else f"results of {name}"
    raise ValueError(f"store must hold {wanted}, got {str(store)!r} with {listed}")


def arrays(
    store: str | os.PathLike[str], point: Mapping[str, Any], experiment: Experiment | str | None = None
) -> Arrays:
    """The arrays that the experiment returned for one point. Raises ValueError where the store has none for it."""
    chosen, wanted = choose(store, experiment), points(lambda **_: None, {k: [v] for k, v in point.items()})[0]
    for part in chosen.refresh():
        if wanted.name in part.names and part.arrays_file:
            with np.load(io.BytesIO(_content(Path(part.arrays_file))), allow_pickle=False) as kept:
                start = f"{wanted.name}/"
                if found := {title.removeprefix(start): kept[title] for title in kept if title.startswith(start)}:
                    return found
    raise ValueError(f"point must be one whose arrays are in {chosen.folder}, got {wanted}")


def _encoded(frame: pd.DataFrame, about: dict[str, Any]) -> bytes:
    """A Parquet file. What its columns cannot say stands in the metadata: categories that do not occur, units of time."""
    pa, pq = _parquet()
    kinds = {name: dtype for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)}
    about = about | {
        "categories": {name: [list(kind.categories), kind.ordered] for name, kind in kinds.items()},
        "times": {name: str(dtype) for name, dtype in frame.dtypes.items() if dtype.kind in "mM"},
    }
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        text = json.dumps(about).encode()
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"a store's columns must hold numbers, texts or dates of one kind, got {error}") from None
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), b"kdlib": text}), buffer)
    return buffer.getvalue().to_pybytes()


def _decoded(content: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The frame and what `write` says about it."""
    pa, pq = _parquet()
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        about = json.loads((file.schema_arrow.metadata or {})[b"kdlib"])
        frame = file.read().to_pandas()
    for name, (values, ordered) in about["categories"].items():
        frame[name] = pd.Categorical(frame[name], values, ordered)
    return frame.astype(about["times"]), about


def _read(path: Path) -> Part | None:
    try:
        frame, about = _decoded(_content(path))
        arrays = path.with_name(about["arrays"]) if "arrays" in about else None
        if arrays is not None:
            _content(arrays)
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} counts as absent, and its points as missing: {error}", stacklevel=4)
        return None
    names, places, rows = (list(about[name]) for name in ("names", "places", "rows"))
    return Part(names, places, rows, frame, file=str(path), arrays_file=str(arrays or ""))


def _named(content: bytes, kind: str) -> str:
    return f"part-{hashlib.blake2b(content, digest_size=16).hexdigest()}.{kind}"


def _content(path: Path) -> bytes:
    """The bytes of a file. Raises ValueError where they are not those that were written under its name."""
    content = path.read_bytes()
    if path.name != _named(content, path.suffix[1:]):
        raise ValueError(f"{path.name} ({len(content)} bytes) is damaged, or was not written by a study")
    return content


def _keep(path: Path, content: bytes) -> None:
    with replacing(path, durable=True) as part:
        part.write_bytes(content)


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("a store needs pyarrow: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet
