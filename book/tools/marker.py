"""Mark a submission with otter, without a container, within a time and a memory limit.

``python -m book.tools.marker REQUEST`` is the process that the limits hold for: it and the kernel that it starts are ended
together when they take more. A cell that never ends is interrupted on its own, so that the other tasks still have their points.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat

from .processes import Group, Usage, end_with_parent

LIMIT_SECONDS, LIMIT_MB = 120, 2000
CELL_SECONDS = 20  # of computing in one cell; three times as many by the clock
GUARD = f"""
import signal

def ring(*_):
    raise KeyboardInterrupt("this cell does not end")

def wind(seconds):
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 3 * seconds)

if hasattr(signal, "setitimer"):
    signal.signal(signal.SIGPROF, ring)
    signal.signal(signal.SIGALRM, ring)
    get_ipython().events.register("pre_run_cell", lambda *_: wind({CELL_SECONDS}))
    get_ipython().events.register("post_run_cell", lambda *_: wind(0))
"""


@dataclass(frozen=True)
class Marked:
    """Points by task, what the marking used, and why there are no points, if so."""

    points: Mapping[str, float]
    usage: Usage
    problem: str = ""


def mark(autograder: Path, submission: Path, seconds: float = LIMIT_SECONDS, megabytes: float = LIMIT_MB) -> Marked:
    """Mark one notebook. A submission that cannot be marked within the limits has no points, and `problem` says why.

    ValueError where one of the files is not there.
    """
    for name, path in {"autograder": autograder, "submission": submission}.items():
        if not path.is_file():
            raise ValueError(f"{name} must be a file, got {str(path)!r}")
    with tempfile.TemporaryDirectory(prefix="kdlib-mark-", ignore_cleanup_errors=True) as scratch:
        request = {"autograder": str(autograder.resolve()), "submission": str(submission.resolve()), "folder": scratch}
        log, problem = Path(scratch) / "log.txt", ""
        root = Path(__file__).parents[2]
        with (
            log.open("w") as stream,
            Group(
                [sys.executable, "-m", "book.tools.marker", json.dumps(request)], cwd=root, stdout=stream, stderr=stream
            ) as group,
        ):
            while (status := group.poll()) is None and not problem:
                usage = group.usage()
                if usage.wall > seconds:
                    problem = f"not marked within {seconds:g} seconds"
                elif usage.peak_mb > megabytes:
                    problem = f"it took more than {megabytes:g} MB of memory"
                time.sleep(0.05)
            usage = group.usage()
        result = Path(scratch) / "points.json"
        if not problem and (status != 0 or not result.is_file()):
            said = log.read_text("utf8", errors="replace").strip().splitlines()
            problem = said[-1] if said else f"marking ended with status {status}"
        if problem:
            return Marked({}, usage, problem)
        return Marked(json.loads(result.read_text("utf8")), usage)


def main(request: str) -> int:
    """Mark what the request names and leave `points.json` in its folder."""
    end_with_parent()
    from otter.run import main as run

    asked = json.loads(request)
    folder, submission = Path(asked["folder"]), Path(asked["submission"])
    notebook = nbformat.read(submission, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(GUARD))
    guarded = folder / submission.name
    nbformat.write(notebook, guarded)
    results = run(str(guarded), autograder=asked["autograder"], output_dir=None, no_logo=True)
    points = {name: float(each.score) for name, each in results.results.items()}
    if results.catastrophic_error or not points:
        print(f"otter could not mark it: {results.catastrophic_error}")
        return 1
    (folder / "points.json").write_text(json.dumps(points), "utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
