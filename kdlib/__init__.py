"""kdlib: knowledge distillation by experiment. A teacher is a table of soft targets; a fleet is trained, never a student."""

from typing import TYPE_CHECKING

from kdlib import _lazy

if TYPE_CHECKING:
    from kdlib import (
        checks,
        claims,
        data,
        explore,
        fleet,
        levels,
        losses,
        mechanisms,
        models,
        plots,
        study,
        trainer,
    )
    from kdlib.data import Task
    from kdlib.fleet import Fleet, Recipe, train

__version__ = "0.1.0"
__all__ = [
    "Fleet",
    "Recipe",
    "Task",
    "checks",
    "claims",
    "data",
    "explore",
    "fleet",
    "levels",
    "losses",
    "mechanisms",
    "models",
    "plots",
    "study",
    "train",
    "trainer",
]

_TABLE = {
    "Fleet": "kdlib.fleet",
    "Recipe": "kdlib.fleet",
    "Task": "kdlib.data",
    "checks": "kdlib.checks",
    "claims": "kdlib.claims",
    "data": "kdlib.data",
    "explore": "kdlib.explore",
    "fleet": "kdlib.fleet",
    "levels": "kdlib.levels",
    "losses": "kdlib.losses",
    "mechanisms": "kdlib.mechanisms",
    "models": "kdlib.models",
    "plots": "kdlib.plots",
    "study": "kdlib.study",
    "train": "kdlib.fleet",
    "trainer": "kdlib.trainer",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.attach(__name__, _TABLE)
