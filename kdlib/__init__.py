"""kdlib: knowledge distillation by experiment. A teacher is a table of soft targets; a fleet is trained, never a student."""

from kdlib import claims, data, explore, fleet, levels, losses, models, plots
from kdlib.data import Task
from kdlib.fleet import Fleet, Recipe, train

__version__ = "0.1.0"
__all__ = [
    "Fleet",
    "Recipe",
    "Task",
    "claims",
    "data",
    "explore",
    "fleet",
    "levels",
    "losses",
    "models",
    "plots",
    "train",
]
