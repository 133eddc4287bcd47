"""What a chapter and the book may cost, whatever the machine."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nbformat import NotebookNode

from . import calibration
from .calibration import Calibration, Cost
from .processes import Usage

# In the page profile: reference seconds (see `calibration`) and memory that all processes made themselves. Aim at half: more
# chapters come. With 150 MB of libraries' code (PyTorch's build for CPUs) the whole tree stays within 2 GB.
CHAPTER_SECONDS, CHAPTER_MB, BOOK_SECONDS = 60.0, 1850.0, 600.0


@dataclass(frozen=True)
class Measured:
    """What a run used, and the machine just before it (None in profiles without a budget)."""

    usage: Usage
    machine: Calibration | None

    @property
    def cost(self) -> Cost | None:
        """In reference seconds; None where the machine was not measured."""
        return calibration.cost(self.usage, self.machine, calibration.reference()) if self.machine else None

    @property
    def over(self) -> bool:
        """Is it over a chapter's time, by CPU time and by the clock? Neither alone says so."""
        return self.cost is not None and self.cost.seconds > CHAPTER_SECONDS

    @property
    def heavy(self) -> bool:
        """Is it over a chapter's memory?"""
        return self.usage.peak_mb > CHAPTER_MB

    @property
    def doubtful(self) -> bool:
        """Is it past the budget, or was it lengthened so by something from outside? Clocks of shared machines differ by a tenth
        from run to run, so one measurement is no verdict."""
        disturbed = self.cost is not None and self.usage.disturbed and self.cost.wall > CHAPTER_SECONDS
        return self.over or disturbed

    def __str__(self) -> str:
        cost = f"cost {self.cost.seconds:5.1f}" if self.cost else " " * 10
        return f"{self.usage.wall:6.1f} s  {cost} {self.usage.peak_mb:6.0f} MB"

    def account(self) -> str:
        """How the cost comes about, in words."""
        assert self.cost is not None and self.machine is not None
        return (
            f"CPU time {self.cost.cpu:.1f}, clock {self.cost.wall:.1f}; here {self.usage.wall:.1f} s on a machine at "
            + calibration.describe(self.machine, calibration.reference())
            + (f"; {self.disturbance()}" if self.usage.disturbed else "")
        )

    def disturbance(self) -> str:
        """How much it was kept from what it asked for, in words."""
        return f"disturbed from outside: it got {self.usage.share:.0%} of the CPU time it asked for"

    def to_metadata(self) -> dict[str, Any]:
        return {"usage": asdict(self.usage), "calibration": asdict(self.machine) if self.machine else None}

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Measured | None":
        """From a stored notebook's metadata; None where nothing was measured."""
        facts = metadata.get("kdlib", {})
        if not facts.get("usage"):
            return None
        machine = facts.get("calibration")
        return cls(Usage(**facts["usage"]), Calibration.of(machine) if machine else None)


def costs(executed: Mapping[str, NotebookNode]) -> list[str]:
    """A line for each chapter that was measured: cost, budget and machine; and one for the book."""
    lines, total = [], 0.0
    width = max((len(name) for name in executed), default=0)
    for name, notebook in executed.items():
        measured = Measured.of(notebook.metadata)
        if measured is None or measured.cost is None:
            continue
        total += measured.cost.seconds
        lines.append(
            f"{name:{width}} {measured.cost.seconds:5.1f} of {CHAPTER_SECONDS:.0f} reference seconds, "
            f"{measured.usage.peak_mb:5.0f} of {CHAPTER_MB:.0f} MB ({measured.account()})"
        )
    return [*lines, f"all chapters: {total:.0f} of {BOOK_SECONDS:.0f} reference seconds"] if lines else []


def over_budget(executed: Mapping[str, NotebookNode]) -> list[str]:
    """Chapters over 60 reference seconds or, all their processes together, 1,850 MB; the book over 10 reference minutes."""
    faults, total = [], 0.0
    for name, notebook in executed.items():
        measured = Measured.of(notebook.metadata)
        if measured is None or measured.cost is None:
            faults.append(f"{name}: its cost was not measured; run it again")
            continue
        total += measured.cost.seconds
        if measured.over:
            took = f"{name}: cost {measured.cost.seconds:.1f} reference seconds, the budget is {CHAPTER_SECONDS:.0f}"
            faults.append(f"{took} ({measured.account()})")
        if measured.heavy:
            peak = measured.usage.peak_mb
            faults.append(f"{name}: its processes held {peak:.0f} MB together, the budget is {CHAPTER_MB:.0f} MB")
    if total > BOOK_SECONDS:
        faults.append(f"all chapters together cost {total:.0f} reference seconds, the budget is {BOOK_SECONDS:.0f}")
    return faults
