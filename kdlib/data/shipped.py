"""The small tables that ship with the library: what a long run left behind, so that a chapter need not repeat it.

They lie in `data/` of a checkout, in `kdlib/shipped/` of an installed wheel, each with its origin in that folder's
README and its sha256 in `checksums.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pooch

from kdlib import _files
from kdlib.data.task import Task

PACKAGE = Path(__file__).resolve().parents[1]
CHECKSUMS = "checksums.json"


def folder() -> Path:
    """The folder with the shipped tables: inside the installed package, else beside it in a checkout."""
    for place in (PACKAGE / "shipped", PACKAGE.parent / "data"):
        if (place / CHECKSUMS).is_file():
            return place
    raise ValueError(f"no {CHECKSUMS} under {PACKAGE / 'shipped'} or {PACKAGE.parent / 'data'}: install kdlib again")


def shipped(name: str) -> dict[str, np.ndarray]:
    """The arrays of the shipped table `name`, after its sha256 was found right. Shapes: see the README beside the table.

    A table made by `pack_logits` has `logits` float32 (N, K), `labels` int64 (N,), `accuracy` in 0..1,
    `class_names (K,)` and, where classes have superclasses, `groups` int64 (K,) and `group_names (G,)`.

    Raises ValueError for a name that does not ship, or naming the file that is missing or damaged.
    """
    place = folder()
    listed = json.loads((place / CHECKSUMS).read_text("utf-8"))
    if f"{name}.npz" not in listed:
        known = ", ".join(sorted(file.removesuffix(".npz") for file in listed))
        raise ValueError(f"name must be one of the shipped tables ({known}), got {name!r}")
    path = place / f"{name}.npz"
    if not path.is_file():
        raise ValueError(f"{path} is missing: install kdlib again")
    if (found := _sha256(path)) != listed[path.name]:
        raise ValueError(f"{path} is damaged: its sha256 is {found}, expected {listed[path.name]}; install kdlib again")
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    if "logits_step" in arrays:
        arrays["logits"] = arrays["logits"] * arrays.pop("logits_step") + arrays.pop("logits_low")
    return arrays


def pack_logits(path: str | os.PathLike[str], logits: Any, task: Task) -> str:
    """Write test-set logits (N, K) of a network on `task` as a table that `shipped` can read; return its sha256.

    Every row is stored in 256 steps between its smallest and its largest logit, so an entry is off by at most one step.
    The top level is kept for the largest entry alone: rounding never changes the predicted class, so the table's
    accuracy is the network's own. The same input gives the same bytes. The sum is entered into `checksums.json`
    beside it.

    Raises ValueError for logits that are not finite or not of shape (N, K), or a path that is no .npz in a folder.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.shape != (len(task.y_test), task.num_classes) or not np.isfinite(values).all():
        raise ValueError(
            f"logits must be finite and have shape {(len(task.y_test), task.num_classes)}, got shape {values.shape} "
            f"with {(~np.isfinite(values)).sum()} NaN or infinite values"
        )
    path = _checked(path)
    low = values.min(1, keepdims=True)
    step = np.maximum(values.max(1, keepdims=True) - low, np.finfo(np.float32).tiny) / 255
    levels = np.minimum(np.rint((values - low) / step), 254)
    np.put_along_axis(levels, values.argmax(1)[:, None], 255, axis=1)
    labels = task.y_test.cpu().numpy()
    arrays: dict[str, Any] = {
        "logits": levels.astype(np.uint8),
        "logits_step": step.astype(np.float32),
        "logits_low": low.astype(np.float32),
        "labels": labels.astype(np.int64),
        "accuracy": np.float64((values.argmax(1) == labels).mean()),
        "class_names": np.array(task.extra.get("class_names", [])),
    }
    if task.groups is not None:
        arrays |= {"groups": task.groups.cpu().numpy(), "group_names": np.array(task.extra.get("group_names", []))}
    return _pack(path, arrays)


def pack_table(path: str | os.PathLike[str], frame: pd.DataFrame) -> str:
    """Write a tidy frame as a table whose columns `shipped` returns as arrays of equal length; return its sha256.

    Text columns become fixed-width text, floats become float32. The sum is entered into `checksums.json` beside it.
    Raises ValueError for an empty frame, a column that is neither text nor numbers, or a path that is no .npz in a folder.
    """
    path, arrays = _checked(path), {}
    if frame.empty:
        raise ValueError("frame must have at least one row, got none")
    for name, column in frame.items():
        values = np.array(column.tolist())
        if values.dtype.kind not in "Uifb":
            raise ValueError(f"frame must have columns of text or numbers, got {name!r} of type {column.dtype}")
        arrays[str(name)] = values.astype(np.float32) if values.dtype.kind == "f" else values
    return _pack(path, arrays)


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".npz" or not path.parent.is_dir():
        raise ValueError(f"path must be an .npz file in an existing folder, got {str(path)!r}")
    return path


def _pack(path: Path, arrays: Mapping[str, Any]) -> str:
    with _files.replacing(path) as part:
        np.savez_compressed(part, **arrays)
    digest = _sha256(path)
    sums = path.with_name(CHECKSUMS)
    listed: Mapping[str, str] = json.loads(sums.read_text("utf-8")) if sums.exists() else {}
    text = json.dumps(dict(sorted({**listed, path.name: digest}.items())), indent=2) + "\n"
    _files.write_text(sums, text)
    return digest


def _sha256(path: Path) -> str:
    return str(pooch.file_hash(str(path), alg="sha256"))
