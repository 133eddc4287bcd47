"""`kdlib study`: the study that a Python file defines, from a terminal or a batch job."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

from kdlib._files import replacing
from kdlib.study._payload import payload
from kdlib.study.engine import run
from kdlib.study.grid import Experiment, Grid, points
from kdlib.study.identity import key
from kdlib.study.result import Incomplete, Stopped
from kdlib.study.store import Store
from kdlib.study.work import work

EXAMPLES = """\
FILE is a Python file that defines

  def experiment(seed, temperature): ...     returns a pandas DataFrame
  grid = {"seed": range(20), "temperature": [1, 2, 4]}

examples:
  kdlib study temperatures.py --store results --dry-run     how many points, how long?
  kdlib study temperatures.py --store results               run it; Ctrl-C stops it, what is finished stays
  kdlib study temperatures.py --store results --resume      do what is missing
  kdlib study temperatures.py --store results --status      how far is it? also while it runs
  kdlib study temperatures.py --store results --table temperatures.csv --resume
  kdlib study data/lengths.py --store lengths --table data/lengths.npz      as the tables that ship were made
  kdlib study temperatures.py --store results --scheduler tcp://10.0.0.1:8786

exit status: 0 all points are done; 1 some failed, which are listed, and the others kept (and in the table, if every
point was tried); 2 unusable input
"""
TABLES = (".csv", ".parquet", ".npz")


def command(subparsers: Any) -> argparse.ArgumentParser:
    """Add `study` to the `kdlib` command; `function` of the parsed arguments runs it and returns the exit status."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "study",
        help="run an experiment on a grid of points, with a store, on this machine or a cluster",
        description="Run the study that a Python file defines; each finished chunk is kept in a folder.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="Python file that defines `experiment` and `grid`")
    parser.add_argument("--store", metavar="DIR", required=True, help="folder that keeps finished points")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask scheduler; default: the processes of this machine"
    )
    parser.add_argument("--processes", metavar="N", type=int, help="on this machine; default: as many as it gives")
    parser.add_argument("--table", metavar="PATH", help="also write all results to a .csv, .parquet or .npz file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="run one chunk, keep nothing, print points and time")
    what.add_argument("--resume", action="store_true", help="go on with a study that the store has points of")
    what.add_argument("--status", action="store_true", help="print how far the study is; others may be writing")
    parser.set_defaults(function=study)
    return parser


def study(arguments: argparse.Namespace) -> int:
    """Do what the command line says. Raises ValueError for unusable input."""
    experiment, grid = load(arguments.file)
    if arguments.table is not None and Path(arguments.table).suffix not in TABLES:
        raise ValueError(f"--table must name a .csv, .parquet or .npz file, got {arguments.table!r}")
    todo, store = points(experiment, grid), Store(arguments.store, key(experiment))
    store.refresh()
    have = sum(point.name in store.names for point in todo)
    if arguments.status:
        print(_status(store, have, len(todo)))
        return 0
    if arguments.dry_run:
        processes = arguments.processes or joblib.cpu_count()
        print(_estimate(experiment, [p for p in todo if p.name not in store.names], have, processes))
        return 0
    if have and not arguments.resume:
        raise ValueError(
            f"--store must not hold this study yet, got {store.folder} with {have} of {len(todo)} points: "
            "add --resume to do what is missing"
        )
    try:
        frame = run(experiment, grid, store=arguments.store, client=arguments.scheduler, processes=arguments.processes)
    except Incomplete as problem:
        print(f"kdlib study: {problem}", file=sys.stderr)
        store.refresh()
        tried = sum(point.name in store.names for point in todo) + len(problem.failed) >= len(todo)
        if arguments.table is not None and tried and len(problem.finished):
            _write(problem.finished, Path(arguments.table).expanduser())
        return 1
    except Stopped as problem:
        print(f"\nkdlib study: {problem}", file=sys.stderr)
        return 130
    print(f"{len(todo)} points ({have} were there before), {len(frame)} rows in {store.folder}")
    if arguments.table is not None:
        _write(frame, Path(arguments.table).expanduser())
    return 0


def load(file: str) -> tuple[Experiment, Grid]:
    """`experiment` and `grid` of a Python file. Raises ValueError where it cannot be read or lacks one of them."""
    import cloudpickle

    path = Path(file).expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"FILE must be a Python file, got {file!r}")
    name = f"study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # its neighbours can be imported, as in `python FILE`
    try:
        # The text as it is: a second edit of equal length within a second would pass for the first one's bytecode.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        raise ValueError(f"FILE must run, got {file!r} with {type(error).__name__}: {error}") from error
    cloudpickle.register_pickle_by_value(module)
    for needed in ("experiment", "grid"):
        if not hasattr(module, needed):
            raise ValueError(f"FILE must define `{needed}`, got {file!r} without it")
    return module.experiment, module.grid


def _status(store: Store, have: int, total: int) -> str:
    lines = [f"{have} of {total} points done in {store.folder}"]
    files = list(store.folder.glob("part-*.parquet"))
    if files:
        age = max(0.0, time.time() - max(path.stat().st_mtime for path in files))
        lines.append(f"{len(files)} parts, the last one written {_duration(age)} ago")
    others = [path.name for path in store.root.glob("*/_study.json") if path.parent != store.folder]
    if others:
        lines.append(f"{len(others)} more studies, or other versions of this one, in {store.root}")
    return "\n".join(lines)


def _estimate(experiment: Experiment, missing: list[Any], have: int, processes: int, seconds: float = 2.0) -> str:
    lines = [f"{have + len(missing)} points, {have} of them in the store"]
    if not missing:
        return "\n".join([*lines, "nothing is missing"])
    outcome = work(payload(experiment), missing, seconds)
    count = len(missing) - len(outcome.rest)
    cost = outcome.seconds / count
    chunks = max(1, math.ceil(len(missing) * cost / seconds))
    lines.append(f"measured: {count} points in {_duration(outcome.seconds)}, {len(outcome.failed)} of them failed")
    lines += [f"  {error}" for error, _ in list(outcome.failed.values())[:1]]
    wall = _duration(len(missing) * cost / processes)
    lines.append(f"{len(missing)} points to run: about {chunks} chunks, {wall} in {processes} processes")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _write(frame: pd.DataFrame, path: Path) -> None:
    try:
        if path.suffix == ".npz":
            from kdlib.data.shipped import pack_table  # here, so that a study needs no torch

            pack_table(path, frame)
            return
        with replacing(path) as part:
            if path.suffix == ".csv":
                frame.to_csv(part, index=False)
            else:
                frame.to_parquet(part, index=False)
    except OSError as error:
        raise ValueError(f"--table must be a file that can be written, got {str(path)!r}: {error}") from None
