"""Train a fleet: F students at once, one row of (recipe, seed) each."""

from kdlib.fleet.engine import Progress
from kdlib.fleet.objective import Objective
from kdlib.fleet.recipe import Recipe
from kdlib.fleet.result import Fleet, chosen, scores
from kdlib.fleet.run import fit, fitting, train, training
from kdlib.fleet.settings import adamw
from kdlib.fleet.stopping import early_stopped

__all__ = [
    "Fleet",
    "Objective",
    "Progress",
    "Recipe",
    "adamw",
    "chosen",
    "early_stopped",
    "fit",
    "fitting",
    "scores",
    "train",
    "training",
]
