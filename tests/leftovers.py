"""Which processes a test left behind: they cost the next one time, and may hold what it needs."""

import contextlib
import ctypes
import sys
import time
from collections.abc import Iterator

import psutil

ADOPT_ORPHANS = 36  # Linux's prctl(PR_SET_CHILD_SUBREAPER): a child whose parent has ended becomes ours


def alive(processes: list[psutil.Process]) -> list[str]:
    """Commands of those still at work; one that has ended but that nobody has asked about yet is not.

    Between the two, for an instant, a process has given up its memory, its command line with it, and is no zombie yet.
    """
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if command and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(command)[:200])
    return found


def gone_within(processes: list[psutil.Process], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(processes) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(processes)


def _from(process: psutil.Process, known: list[psutil.Process]) -> bool:
    """Whether a process is one of the known, or descends from one."""
    try:
        return any(one in known for one in [process, *process.parents()])
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def none(patience: float = 5.0) -> Iterator[None]:
    """AssertionError where descendants started inside, orphans too, outlive the block; they are ended.

    What a process that was there before starts (a browser its helpers) is that one's affair.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1, 0, 0, 0)
    before = psutil.Process().children(recursive=True)
    yield
    left = [process for process in psutil.Process().children(recursive=True) if not _from(process, before)]
    if not gone_within(left, patience):
        names = alive(left)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        raise AssertionError(f"left behind: {names}")
