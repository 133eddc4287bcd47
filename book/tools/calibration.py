"""The unit in which a chapter's budget stands: how long this machine takes, now, for a fixed piece of work.

Seconds mean something else on every machine, and on a machine with neighbours at every hour. So a chapter's cost is its
time divided by the time of a fixed load measured just before, in units of the machine whose times are on record in
``reference.json``: *reference seconds*. The load uses torch and Python as chapters do, and nothing of kdlib, so a faster
library makes a chapter cheaper.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .processes import Group, Usage, cpus, surroundings

REFERENCE = Path(__file__).with_name("reference.json")
PROGRAM = (sys.executable, "-m", "book.tools.calibration")
ROUNDS = 3
CORES = 2  # of the reference machine
# Seconds for which a calibration holds. Chapters aim at half of it, so most are measured right before; a run that something
# disturbed later shows it by itself (`Usage.share`), and is measured again with a new one.
FRESH = 60.0


@dataclass(frozen=True)
class Calibration:
    """CPU and wall seconds of one round of the load: of one process alone, and of each of two at once."""

    cpu: tuple[float, float]
    wall: tuple[float, float]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Calibration":
        return cls((stored["cpu"][0], stored["cpu"][1]), (stored["wall"][0], stored["wall"][1]))

    def slowness(self, reference: "Calibration", processes: float) -> tuple[float, float]:
        """CPU and wall time of the load in units of the reference's, for work that keeps so many processes busy."""
        second = min(1.0, max(0.0, processes - 1))  # 0: one process, 1: two

        def ratio(now: tuple[float, float], then: tuple[float, float]) -> float:
            return (1 - second) * now[0] / then[0] + second * now[1] / then[1]

        return ratio(self.cpu, reference.cpu), ratio(self.wall, reference.wall)


@dataclass(frozen=True)
class Cost:
    """What a run would take on the reference machine, in seconds: by the CPU time that it used and by the clock."""

    cpu: float
    wall: float

    @property
    def seconds(self) -> float:
        """The smaller one: whatever slows a run down from outside lengthens one of the two more than the other."""
        return min(self.cpu, self.wall)


def cost(usage: Usage, now: Calibration, reference: Calibration) -> Cost:
    """A run's cost from what its processes used and the machine's state just before.

    By CPU time: all of it, spread over the processes at work, at most the reference's two. By the clock: the time it
    took, longer by what more than two CPUs saved it.
    """
    slow_cpu, slow_wall = now.slowness(reference, usage.processes)
    at_once = min(usage.processes, CORES)
    return Cost(usage.cpu / at_once / slow_cpu, usage.wall * usage.processes / at_once / slow_wall)


_last: tuple[float, Calibration] | None = None


def current(max_age: float = FRESH) -> Calibration:
    """The machine's calibration: the last one if it is at most `max_age` seconds old, else a new one (some seconds)."""
    global _last
    if _last is None or time.monotonic() - _last[0] > max_age:
        _last = time.monotonic(), measure()
    return _last[1]


def measure() -> Calibration:
    """Run the load three times alone and three times in two processes at once; the best of each."""
    with tempfile.TemporaryDirectory(prefix="kdlib-book-") as scratch:
        settings: dict[str, Any] = {
            "env": surroundings(Path(__file__).parents[2], Path(scratch)),
            "stdout": subprocess.PIPE,
        }
        with Group(PROGRAM, **settings) as one, Group(PROGRAM, **settings) as two:
            _round(one, two)  # starts torch
            alone, together = [_round(one) for _ in range(ROUNDS)], [_round(one, two) for _ in range(ROUNDS)]
    (cpu1, wall1), (cpu2, wall2) = ([min(times) for times in zip(*rounds, strict=True)] for rounds in (alone, together))
    return Calibration((cpu1, cpu2), (wall1, wall2))


def _round(*groups: Group) -> tuple[float, float]:
    """One round of the load in each group at the same time: CPU and wall seconds, the mean over the groups."""
    for group in groups:
        assert group.line is not None
        group.line.write(b"again\n")
    answers = []
    for group in groups:
        assert group.process is not None and group.process.stdout is not None
        if not (line := group.process.stdout.readline()):
            raise RuntimeError(f"the calibration ended by itself with status {group.process.wait()}")
        answers.append([float(number) for number in line.split()])
    cpu, wall = zip(*answers, strict=True)
    return sum(cpu) / len(cpu), sum(wall) / len(wall)


def reference() -> Calibration:
    """The reference machine's calibration, on record beside this module."""
    return Calibration.of(json.loads(REFERENCE.read_text("utf8")))


def record(now: Calibration) -> None:
    """Make this machine the reference."""
    import torch

    from .contents import write_atomically

    facts = {
        "machine": f"{_processor()}, {cpus()} CPUs, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
    }
    write_atomically(REFERENCE, json.dumps(facts | asdict(now), indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(now: Calibration, reference: Calibration) -> str:
    """This machine in units of the reference machine, in words."""
    (cpu1, wall1), (cpu2, wall2) = now.slowness(reference, 1), now.slowness(reference, 2)
    one, two = f"{cpu1:.2f} ({wall1:.2f} by the clock)", f"{cpu2:.2f} ({wall2:.2f})"
    return f"{one} times the reference's CPU time, {two} with two processes"


# ---------------------------------------------------------------- the load, in a process of its own


class Load:
    """Twelve small networks trained as one by hand, as fleets are, and plain Python as around them; about 0.3 s a round."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(12, 64, 32, generator=draw)
        self.y = torch.nn.functional.one_hot(torch.randint(10, (12, 64), generator=draw), 10).float()
        self.weights = [torch.randn(12, *shape, generator=draw) / 8 for shape in ((32, 128), (128, 128), (128, 10))]
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]
        self.images, self.filters = (
            torch.randn(64, 16, 14, 14, generator=draw),
            torch.randn(32, 16, 3, 3, generator=draw),
        )

    def steps(self, count: int) -> None:
        """Gradient steps on the cross-entropy of two hidden layers, by batched products."""
        for _ in range(count):
            hidden = [self.x]
            for weight in self.weights[:-1]:
                hidden.append((hidden[-1] @ weight).relu_())
            wrong = ((hidden[-1] @ self.weights[-1]).softmax(-1) - self.y) / 64
            for i in (2, 1, 0):
                gradient = hidden[i].mT @ wrong
                if i:
                    wrong = (wrong @ self.weights[i].mT) * (hidden[i] > 0)
                self.momenta[i].mul_(0.9).add_(gradient)
                self.weights[i].sub_(self.momenta[i], alpha=0.01)

    def filter(self, count: int) -> None:
        """Convolutions, which torch does with all that the CPU has (its products leave AVX-512 out on some CPUs)."""
        import torch

        for _ in range(count):
            torch.nn.functional.conv2d(self.images, self.filters)

    def python(self, count: int) -> int:
        """Calls, dictionaries, strings and arithmetic, as in any program."""
        seen: dict[str, int] = {}
        for i in range(count):
            name = f"{i % 97}:{i % 31}"
            seen[name] = seen.get(name, 0) + sum(range(i % 7))
        return sum(sorted(seen.values()))


def main() -> None:
    load = Load()
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        load.steps(80)
        load.filter(120)
        load.python(250_000)
        print(time.process_time() - cpu, time.perf_counter() - wall, flush=True)


if __name__ == "__main__":
    main()
