"""The levels of a teacher's knowledge (Tang et al. 2020), one module each, as functions on tables of soft targets."""

from typing import TYPE_CHECKING

from kdlib import _lazy

if TYPE_CHECKING:
    from kdlib.levels import checks, domain, failures, instance, multiverse, museum, split, universe

__all__ = ["checks", "domain", "failures", "instance", "multiverse", "museum", "split", "universe"]

_TABLE = {
    "checks": "kdlib.levels.checks",
    "domain": "kdlib.levels.domain",
    "failures": "kdlib.levels.failures",
    "instance": "kdlib.levels.instance",
    "multiverse": "kdlib.levels.multiverse",
    "museum": "kdlib.levels.museum",
    "split": "kdlib.levels.split",
    "universe": "kdlib.levels.universe",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.attach(__name__, _TABLE)
