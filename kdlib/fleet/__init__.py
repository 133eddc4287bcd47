"""Train a fleet: F students at once, one row of (recipe, seed) each."""

from kdlib.fleet.engine import Progress
from kdlib.fleet.objective import Objective
from kdlib.fleet.recipe import Recipe
from kdlib.fleet.result import Fleet, scores
from kdlib.fleet.run import fit, fitting, train, training
from kdlib.fleet.settings import adamw

__all__ = ["Fleet", "Objective", "Progress", "Recipe", "adamw", "fit", "fitting", "scores", "train", "training"]
