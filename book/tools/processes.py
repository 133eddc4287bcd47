"""A command and everything it starts, as one group: what it costs while it lives, and one place that ends it.

Two things end a group, whatever it is doing: :meth:`Group.end`, and the death of the process that started it. For the
second every group holds the reading end of a pipe as its standard input; nobody but the starter holds the other end,
so it closes even when the starter is killed, and :func:`end_with_parent` then ends the group from inside.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

PATIENCE = 0.5  # seconds between asking a group to end and ending it
SAMPLE = 0.25  # seconds between two looks at a group


@dataclass(frozen=True)
class Usage:
    """What a group used: seconds by the clock (`wall`), of all CPUs together (`cpu`) and, of those, asked for (`wanted`).

    `wanted` counts the time in which a thread was kept waiting for a CPU too, up to all CPUs of the machine;
    `peak_mb` is the largest sum of memory seen that the processes had made themselves (`_memory`), MB of 1e6 bytes.
    """

    wall: float
    cpu: float
    wanted: float
    peak_mb: float

    @property
    def processes(self) -> float:
        """How many CPUs the group asked for on average, at least one."""
        return max(1.0, self.wanted / self.wall)

    @property
    def share(self) -> float:
        """How much of the CPU time it asked for it got: about 1, less where others were at work too."""
        return min(1.0, self.cpu / self.wanted) if self.wanted > 0 else 1.0

    @property
    def disturbed(self) -> bool:
        """Whether others took so much of what it asked for that its wall time says little about it."""
        return self.share < 0.8


def end_with_parent() -> None:
    """Called first by a command that runs in a group: ends the whole group once the starter is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        _signal_group(os.getpid(), signal.SIGTERM if os.name != "posix" else signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _signal_group(leader: int, number: int) -> bool:
    """Signal every process of the group; False where none is left."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(leader, number)
        else:  # no groups on Windows: the tree as it is now
            process = psutil.Process(leader)
            for part in (*process.children(recursive=True), process):
                part.kill()
    except (ProcessLookupError, PermissionError, psutil.Error):  # macOS refuses where only zombies are left
        return False
    return True


class Group:
    """A command in a process group of its own; use as a context manager, or call `start` and, always, `end`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: IO[Any] | int | None = None,
        stderr: IO[Any] | int | None = None,
    ) -> None:
        self.command, self.env, self.cwd, self.stdout, self.stderr = list(command), env, cwd, stdout, stderr
        self.process: subprocess.Popen[bytes] | None = None
        self.line: IO[bytes] | None = None  # the pipe to the command's standard input
        self.watch = Watch()

    def start(self) -> "Group":
        """OSError where the command cannot be started."""
        read, write = os.pipe()
        self.line = os.fdopen(write, "wb", buffering=0)
        try:
            self.watch = Watch()
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.cwd,
                stdin=read,
                stdout=self.stdout,
                stderr=self.stderr,
                start_new_session=True,  # the terminal's Ctrl-C reaches the starter alone, which ends the group
            )
        finally:
            os.close(read)
        return self

    def poll(self) -> int | None:
        """The command's exit status once it has ended (minus the signal that ended it), else None; takes samples."""
        assert self.process is not None, "not started"
        status = self.process.poll()
        if status is None and time.monotonic() - self.watch.last >= SAMPLE:
            self.watch.look(self.process.pid)
        return status

    def usage(self) -> Usage:
        """What the group has used up to the last sample; the wall time up to now."""
        return self.watch.usage()

    def end(self) -> None:
        """End every process of the group, within a second. The one place that does it; calling it twice does no harm."""
        if self.line is not None:
            self.line.close()  # heard also by a command that was being started when an interrupt came
        if self.process is None:
            return
        leader = self.process.pid
        # asked first, so that those who clean up behind others (joblib's resource tracker) can do it
        patience = time.monotonic() + PATIENCE
        if _signal_group(leader, signal.SIGTERM):
            while time.monotonic() < patience and _signal_group(leader, 0):
                self.process.poll()
                time.sleep(0.01)
            _signal_group(leader, getattr(signal, "SIGKILL", signal.SIGTERM))
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> "Group":
        try:
            return self.start()
        except BaseException:
            self.end()
            raise

    def __exit__(self, *_: object) -> None:
        self.end()


class Watch:
    """Adds up what a process and its descendants use, by looking at them now and then."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()
        self.cpu = self.wanted = self.peak = 0.0
        self.waited: dict[int, float] = {}  # thread -> seconds it has waited for a CPU so far
        self.known: set[int] = set()  # processes seen in the last look
        self.busy: dict[int, float] = {}  # process -> its own CPU seconds so far

    def look(self, leader: int) -> None:
        now, cpu, memory, kept_waiting = time.monotonic(), 0.0, 0, 0.0
        passed, known = now - self.last, self.known
        self.known = set()
        for process in _tree(leader):
            self.known.add(process.pid)
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    # one just started may still stand in its parent's memory, which would then count twice
                    memory += _memory(process) if process.pid in known or process.pid == leader else 0
            except psutil.Error:  # ended just now
                continue
            own = times.user + times.system
            # what its finished children used, as far as it has waited for them
            cpu += own + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            kept_waiting += self._kept_waiting(process.pid, own, passed)
        used = max(0.0, cpu - self.cpu)
        self.wanted += max(used, min(used + kept_waiting, cpus() * passed))
        self.cpu += used
        self.peak = max(self.peak, memory / 1e6)
        self.last = now

    def _kept_waiting(self, pid: int, own: float, passed: float) -> float:
        """Seconds that threads of this process could have run since the last look, but had no CPU."""
        threads = _waiting(pid)
        if threads is not None:
            waited = sum(max(0.0, seconds - self.waited.get(thread, 0.0)) for thread, seconds in threads.items())
            self.waited.update(threads)
            return waited
        # not told by this system: a process that ran at all is taken to have had one thing to do all the time
        ran = own - self.busy.get(pid, 0.0)
        self.busy[pid] = own
        return max(0.0, passed - ran) if ran > 0.1 * passed else 0.0

    def usage(self) -> Usage:
        return Usage(time.monotonic() - self.started, self.cpu, self.wanted, self.peak)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tree(leader: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(leader)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _waiting(pid: int) -> dict[int, float] | None:
    """Thread -> seconds spent in the queue for a CPU; None where the system does not say (Linux does)."""
    found = {}
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                found[int(thread)] = int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return found or None
    return found


# Variables that would let the reader's own settings into a chapter.
FOREIGN = ("PYTHON", "JUPYTER", "IPYTHON", "JPY_", "MPL", "MATPLOTLIB", "PAPERMILL", "COLUMNS", "LINES", "FORCE_COLOR")
FOLDERS = ("KDLIB_DATA", "KDLIB_CACHE")  # that are named by a variable


def surroundings(root: Path, scratch: Path) -> dict[str, str]:
    """The environment in which the tools run their processes: this one without what may change a chapter's result.

    `root` is the checkout whose packages they import. Settings of Jupyter, IPython and matplotlib come from empty
    folders, `scratch` or one below ``_build``, and paths in kdlib's variables mean what they mean here.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    for name in FOLDERS:
        if kept.get(name):
            kept[name] = os.path.abspath(os.path.expanduser(kept[name]))
    own = {name: str(scratch / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    own |= {
        "JUPYTER_RUNTIME_DIR": str(scratch),
        "JOBLIB_TEMP_FOLDER": str(scratch),
        "TMPDIR": str(scratch),  # so that nothing stays where a run was ended
        "MPLCONFIGDIR": str(root / "_build" / "matplotlib"),  # kept, because it holds matplotlib's list of fonts
        "PYTHONPATH": str(root),
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
    }
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        own["PYTHONDONTWRITEBYTECODE"] = "1"
    return kept | own


def _memory(process: psutil.Process) -> int:
    """Bytes of pages that a process made itself, in memory or swapped out; of those that several hold, its share.

    Pages of files, which are its libraries' code, are left out: the system drops and reads them as it likes, and how many it
    maps at a time depends on how the files came into its cache. Importing PyTorch's build for CUDA twice, with its files
    written anew in between, was 527 MB and then 727 MB of resident memory, and 289 MB of the process's own both times.
    """
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as file:
            fields = dict(line.split()[:2] for line in file)
        return 1024 * sum(int(fields[name]) for name in ("Pss_Anon:", "Pss_Shmem:", "SwapPss:"))
    except (OSError, KeyError, ValueError):  # another system, or ended just now
        pass
    try:
        return int(process.memory_full_info().uss)
    except (AttributeError, psutil.AccessDenied):
        return int(process.memory_info().rss)
