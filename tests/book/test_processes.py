"""Groups of processes: an interrupt ends everything within a second, nothing outlives a run, what a tree costs is seen."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from book.tools import __main__ as tools
from book.tools import calibration, execute
from book.tools.processes import Group, Usage, Watch
from tests.leftovers import alive, gone_within, none

from .tinybook import ROOT, STEADY, TinyBook, cell

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals to process groups"),
]
PATIENCE = 60  # seconds for a machine with other things to do to reach a moment
PLANT = "import pathlib, time; pathlib.Path({mark!r}).touch(); time.sleep(100)"
HEARS = "from book.tools.processes import end_with_parent; end_with_parent(); "
# a cell with a child, both deaf to every polite request
DEAF = """import signal
import subprocess
import sys
import time
from pathlib import Path

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"
child = subprocess.Popen([sys.executable, "-c", deaf])
Path({mark!r}).touch()
while True:
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        pass"""
MOMENTS = {"measuring": 12, "worker starting": 24, "kernel starting": 7, "cell running": 7}


@pytest.fixture
def tiny(tmp_path):
    return TinyBook(tmp_path)


def plant(moment: str, tiny: TinyBook, mark: Path, patch: Any) -> str:
    """Make the tools wait at this moment, with `mark` there once it has come; the profile to run."""
    waits = PLANT.format(mark=str(mark))
    if moment == "measuring":
        patch.setattr(calibration, "PROGRAM", (sys.executable, "-c", waits))
        patch.setattr(calibration, "_last", None)
        return "page"
    if moment == "worker starting":
        patch.setattr(execute, "WORKER", (sys.executable, "-c", HEARS + waits))
    elif moment == "kernel starting":
        program = (
            f"from book.tools import kernel, worker; import sys; kernel.KERNEL = (sys.executable, '-c', {waits!r}, "
        )
        program += "'{connection_file}'); sys.exit(worker.main(sys.argv[1]))"
        patch.setattr(execute, "WORKER", (sys.executable, "-c", program))
    else:
        tiny.chapter("a", cell(DEAF.format(mark=str(mark))))
    return "smoke"


def wait_for(mark: Path) -> list[psutil.Process]:
    """All descendants of this process once the mark is there."""
    end = time.monotonic() + PATIENCE
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return psutil.Process().children(recursive=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that was open just then
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_ends_everything_within_a_second(moment, tiny, tmp_path, monkeypatch, capsys):
    """Fifty times in all, at moments at which the tools are made to wait."""
    before = psutil.Process().children(recursive=True)
    for time_of in range(MOMENTS[moment]):
        mark, seen = tmp_path / f"mark-{time_of}", {}
        profile = plant(moment, tiny, mark, monkeypatch)

        def interrupt(mark: Path = mark, seen: dict[str, Any] = seen, pause: float = time_of * 0.003) -> None:
            seen["started"] = wait_for(mark)
            time.sleep(pause)
            seen["at"] = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        status = tools.main(["--root", str(tiny.root), "run", "--profile", profile, "part/a"])
        took = time.monotonic() - seen["at"]
        thread.join()
        assert mark.exists(), "the moment was not reached"
        assert status == 130 and "stopped" in capsys.readouterr().err
        assert took < 1, f"{took:.2f} s"
        started = [process for process in seen["started"] if process not in before]
        assert len(started) >= (3 if moment == "cell running" else 2 if moment != "worker starting" else 1)
        assert gone_within(started, 1 - took), alive(started)


STARTER = """import sys
from pathlib import Path
from book.tools import execute
if len(sys.argv) > 2:
    execute.WORKER = (sys.executable, "-c", sys.argv[2])
execute.run_chapters(Path(sys.argv[1]), "smoke", ["part/a"])"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["worker starting", "kernel starting", "cell running"])
def test_nothing_outlives_a_run_that_was_killed(moment, tiny, tmp_path):
    mark, chosen = tmp_path / "mark", {"WORKER": ()}

    class Patch:
        def setattr(self, module: Any, name: str, value: Any) -> None:
            chosen[name] = value

    before = psutil.Process().children(recursive=True)  # other tests' pools, for one
    plant(moment, tiny, mark, Patch())
    command = [sys.executable, "-c", STARTER, str(tiny.root), *chosen["WORKER"][2:]]
    starter = subprocess.Popen(command, cwd=ROOT)
    started = [process for process in wait_for(mark) if process.pid != starter.pid and process not in before]
    assert mark.exists() and alive(started)
    starter.kill()
    starter.wait()
    assert gone_within(started, 1.0), alive(started)


@pytest.mark.slow
def test_a_worker_or_kernel_killed_for_memory_ends_its_chapter_only(tiny):
    tiny.chapter("a", cell("import os\n\nos.kill(os.getppid(), 9)  # the worker"))
    tiny.chapter("b", cell("import os\n\nos.kill(os.getpid(), 9)  # the kernel"))
    status, said = tiny.call("run", "--profile", "smoke")
    assert status == 1 and tiny.states(said) == ["failed", "failed"]
    assert "its process was ended by SIGKILL from outside, which is what a system short of memory does" in said
    assert "DeadKernelError: Kernel died: it was ended from outside" in said
    assert said.count("its processes held up to ") == 2


WORK = """import subprocess, sys, time
work = '''import time
x = bytearray({mb} * 10**6)
x[::4096] = b"1" * len(x[::4096])
while time.process_time() < {seconds}:
    pass
time.sleep({rest})'''
run = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(2)]
for process in run:
    process.wait()
time.sleep(0.6)"""


def watched(program: str, **options: Any) -> Group:
    """A finished run of this program."""
    with Group([sys.executable, "-c", program], **options) as group:
        while group.poll() is None:
            time.sleep(0.02)
    return group


def test_a_tree_costs_the_sum_of_its_processes():
    usage = watched(WORK.format(mb=150, seconds=0.6, rest=0.6)).usage()
    assert 300 < usage.peak_mb < 450  # two of 150 MB, with Python
    assert 1.2 <= usage.cpu < 1.7  # both have ended, and count
    assert usage.wanted >= usage.cpu and usage.wall > 1.5


MAPPED = """import mmap, sys, time
with open(sys.argv[1], "rb") as file:
    code = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)  # as a library is
    sum(code[::4096])
    own = bytearray(100 * 10**6)
    own[::4096] = b"1" * len(own[::4096])
    print("ready", flush=True)
    time.sleep(60)"""


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell pages of files apart"
)
def test_pages_of_files_are_not_held_and_a_process_just_started_does_not_count_twice(tmp_path):
    library = tmp_path / "library.so"
    library.write_bytes(b"1" * 100 * 10**6)
    command = [sys.executable, "-c", MAPPED, str(library)]
    watch = Watch()
    with Group(command, stdout=subprocess.PIPE) as leader, subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            for process in (leader.process, child):
                assert process.stdout.readline() == b"ready\n"
            assert psutil.Process(leader.process.pid).memory_info().rss > 200e6
            watch.look(os.getpid())  # both are this process's children and in their first look
            own = watch.peak
            watch.look(os.getpid())
            assert 200 < watch.peak - own < 270  # two of 100 MB, with Python
        finally:
            child.kill()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs to choose a CPU")
def test_a_neighbour_on_the_same_cpu_is_seen():
    """Three processes of others on one CPU: the fourth gets a quarter of what it asks for, a young one more at first."""
    cpu = max(os.sched_getaffinity(0))
    here = f"import os, time; os.sched_setaffinity(0, {{{cpu}}})\n"
    others = [subprocess.Popen([sys.executable, "-c", f"{here}while True: pass"]) for _ in range(3)]
    try:
        usage = watched(f"{here}while time.process_time() < 1.0: pass").usage()
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert usage.share < 0.7 and usage.disturbed
    assert usage.processes == pytest.approx(1, abs=0.15)


@pytest.fixture
def idle_worker(monkeypatch):
    """A worker that does nothing but leave an executed notebook."""
    notebook = {"cells": [], "metadata": {"papermill": {"duration": 1.0}}, "nbformat": 4, "nbformat_minor": 5}
    program = "import json, pathlib, sys; folder = pathlib.Path(json.loads(sys.argv[1])['folder']); "
    program += f"(folder / 'executed.ipynb').write_text({json.dumps(notebook)!r}); "
    program += "import os, joblib; print(joblib.cpu_count(), os.environ.get('OMP_NUM_THREADS'))"  # to its log
    monkeypatch.setattr(execute, "WORKER", (sys.executable, "-c", program))


@pytest.mark.usefixtures("idle_worker")
def test_a_run_over_budget_is_measured_again_once_and_a_stored_one_too(tiny, monkeypatch):
    disturbed, fine, slow = Usage(130, 55, 110, 500), Usage(50, 50, 50, 500), Usage(70, 70, 70, 500)
    given: list[Usage] = []
    ages: list[float] = []
    monkeypatch.setattr(execute.Group, "usage", lambda self: given.pop(0))
    monkeypatch.setattr(calibration, "reference", lambda: STEADY)
    monkeypatch.setattr(calibration, "current", lambda max_age: ages.append(max_age) or STEADY)

    def run(*usages: Usage) -> tuple[str, str]:
        given[:] = usages
        status, said = tiny.call("run", "part/a")
        assert status == 0 and given == [], "one measurement was not asked for"
        return said.split()[-1], said

    state, said = run(disturbed, fine)
    assert state == "run" and "it got 50% of the CPU time it asked for; so it is measured again" in said
    assert ages == [calibration.FRESH, 0.0]
    assert run() == ("cached", said.splitlines()[-1].replace("  run", "  cached") + "\n")

    tiny.chapter("a", cell("2"))
    state, said = run(disturbed, disturbed)  # twice is enough, and its CPU time is within the budget
    assert state == "run" and said.count("measured again") == 1
    assert run()[0] == "cached"
    tiny.chapter("a", cell("3"))
    state, said = run(slow, fine)  # nobody disturbed it, and the second counts
    assert state == "run" and said.count("measured again") == 1
    assert run()[0] == "cached"
    tiny.chapter("a", cell("5"))
    assert run(slow, slow)[0] == "run"  # not a third time ...
    assert run(fine)[0] == "run"  # ... in this build, but in the next
    assert run()[0] == "cached"
    tiny.chapter("a", cell("4"))
    assert run(Usage(50, 50, 50, 1900))[0] == "run"  # so is one over its memory
    assert run(fine)[0] == "run"
    assert run()[0] == "cached"


@pytest.mark.usefixtures("idle_worker")
def test_quick_runs_go_side_by_side_and_measured_ones_do_not(tiny, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(execute, "cpus", lambda: 3)
    runs = execute.run_chapters(tiny.root, "smoke", jobs=2, say=lambda _: None)
    for name in "ab":  # each uses its share of the CPUs
        assert (tiny.root / f"_build/chapters/smoke/part/{name}.log").read_text() == "1 1\n"
    assert sorted(run.name for run in runs) == ["part/a", "part/b"]
    assert all(run.state == "run" and run.measured.cost is None for run in runs)
    for profile, jobs in (("page", 2), ("smoke", 0)):
        with pytest.raises(ValueError, match=f"jobs must be .*, got {jobs}"):
            execute.run_chapters(tiny.root, profile, jobs=jobs)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are not adopted here")
def test_what_a_test_leaves_behind_is_found_even_an_orphan():
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with pytest.raises(AssertionError, match=r"left behind: \['.* -c import time; time.sleep\(60\)'\]"), none(0.1):
        subprocess.run([sys.executable, "-c", program], check=True)
