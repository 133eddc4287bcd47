"""The ladder under other choices: what was varied, each step's effect under every variation, and in how many it holds.

A finding is made with one length, one width, one rate of learning; a multiverse asks what it is with the others (Steegen et
al. 2016; sorted and drawn, it is a specification curve, Simonsohn et al. 2020).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

#: What the shipped table `multiverse` changed: factors of the chapters' numbers, or values in their place.
CHOICES: dict[str, tuple[Any, ...]] = {
    "length x": (0.25, 0.5, 2, 4),
    "width x": (0.5, 2, 4),
    "hidden layers": (2, 3),
    "batch x": (0.25, 0.5, 2),
    "learning rate x": (0.5, 2),
    "optimiser": ("SGD",),
    "weight decay": (0.1, 1.0),
    "examples x": (0.5, 2, 4),
    "teacher's width x": (0.25, 2),
    "teacher's data x": (0.25, 0.5),
    "T": (1, 2, 8),
    "alpha": (0.5, 1.0),
    "classes": (10,),
}
ONE_AT_A_TIME: dict[str, dict[str, Any]] = {
    f"{name} {value:g}" if not isinstance(value, str) else f"{name} {value}": {name: value}
    for name, values in CHOICES.items()
    for value in values
}
BASE = "as in the chapters"
#: The steps of the ladder, and what false relations cost: name -> the recipe that should be better, and the other one.
CONTRASTS = {
    "universe": ("universe", "hard labels"),
    "domain": ("domain", "universe"),
    "confidence": ("confidence", "universe"),
    "shape, entering last": ("teacher", "domain + confidence"),
    "teacher": ("teacher", "hard labels"),
    "false relations": ("confidence", "permuted"),
}
HOLDS, REVERSED, OPEN = "holds", "reversed", "open"


def at_random(count: int = 24) -> dict[str, dict[str, Any]]:
    """Combinations in which each choice is changed with probability 1/3, to one of its values; always the same ones."""
    draw = np.random.default_rng(0)
    made: dict[str, dict[str, Any]] = {}
    while len(made) < count:
        changed = {
            name: values[draw.integers(len(values))] for name, values in CHOICES.items() if draw.random() < 1 / 3
        }
        if len(changed) > 1:
            made[f"combination {len(made) + 1}"] = changed
    return made


#: Variation -> what it changes: nothing, one choice, or several.
VARIATIONS: dict[str, dict[str, Any]] = {BASE: {}, **ONE_AT_A_TIME, **at_random()}


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of accuracy in points: one row per world, variation, contrast and seed, with column `points`.

    `frame` has columns world, variation, recipe, seed and accuracy in 0..1, each student once. A seed that lacks one of a
    contrast's recipes is left out of it. Raises ValueError for a missing column, a student given twice, or no contrast at all.
    """
    by = ["world", "variation", "seed"]
    if missing := {*by, "recipe", "accuracy"} - set(frame.columns):
        raise ValueError(f"frame must have columns {', '.join(by)}, recipe and accuracy, misses {sorted(missing)}")
    if (twice := frame.duplicated([*by, "recipe"])).any():
        raise ValueError(f"frame must have each student once, got {int(twice.sum())} again")
    wide = 100 * frame.astype({"accuracy": float}).pivot_table(
        index=by, columns="recipe", values="accuracy", sort=False
    )
    found = {n: wide[a] - wide[b] for n, (a, b) in CONTRASTS.items() if {a, b} <= set(wide.columns)}
    if not found:
        known = ", ".join(map(str, wide.columns))
        raise ValueError(f"frame must have both recipes of a contrast, such as teacher and hard labels, got {known}")
    long = pd.DataFrame(found).reset_index().melt(by, var_name="contrast", value_name="points").dropna()
    return long[["world", "variation", "contrast", "seed", "points"]].reset_index(drop=True)


def contrasts(frame: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Every contrast under every variation: world, variation, contrast, effect, low, high (points), seeds, outcome.

    Paired t interval over seeds, each by itself at `level`; the outcome is "holds" where it lies above zero, "reversed" where
    below, else "open". `frame` as for `differences`. Raises ValueError as that does, for fewer than two seeds, or a level
    outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    grouped = differences(frame).groupby(["world", "variation", "contrast"], sort=False)["points"]
    tidy = grouped.agg(effect="mean", error="sem", seeds="size").reset_index()
    if (tidy["seeds"] < 2).any():
        raise ValueError(f"seeds must be at least 2 for every variation, got {int(tidy['seeds'].min())}")
    reach = tidy.pop("error") * stats.t.ppf((1 + level) / 2, tidy["seeds"] - 1)
    low, high = tidy["effect"] - reach, tidy["effect"] + reach
    return tidy.assign(
        low=low, high=high, outcome=np.select([low > 0, high < 0], [HOLDS, REVERSED], OPEN)
    )  # fmt: skip


def holds(tidy: pd.DataFrame, contrast: str, world: str) -> str:
    """ "in 21 of 24 variations", with "only" in front of a number below three quarters; from what `contrasts` returns.

    Raises ValueError for a contrast or a world that is not there.
    """
    here = tidy[(tidy["contrast"] == contrast) & (tidy["world"] == world)]
    if here.empty:
        known = ", ".join(sorted({f"{row.contrast} on {row.world}" for row in tidy.itertuples()}))
        raise ValueError(f"contrast and world must be among {known}, got {contrast!r} and {world!r}")
    count, total = int((here["outcome"] == HOLDS).sum()), len(here)
    return f"in {'only ' if 4 * count < 3 * total else ''}{count} of {total} variations"
