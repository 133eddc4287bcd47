"""Train a fleet: F students at once, one row of (recipe, seed) each."""

from kdlib.fleet.engine import Fleet, Progress, Recipe, scores, train, training

__all__ = ["Fleet", "Progress", "Recipe", "scores", "train", "training"]
