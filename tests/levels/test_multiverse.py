import importlib.util
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdlib.data.shipped import shipped
from kdlib.levels import multiverse

ROOT = Path(__file__).parents[2]
TABLE = pd.DataFrame(shipped("multiverse"))


def a_frame(**changes):
    """Two worlds, two variations and six seeds of all recipes, with accuracies that chance has drawn."""
    draw = np.random.default_rng(3)
    recipes = sorted({name for pair in multiverse.CONTRASTS.values() for name in pair})
    rows = list(product("AB", ["one", "two"], recipes, range(6)))
    frame = pd.DataFrame(rows, columns=["world", "variation", "recipe", "seed"])
    return frame.assign(accuracy=draw.uniform(0.4, 0.6, len(frame)), **changes)


def values(frame, world, variation, recipe):
    here = frame[(frame.world == world) & (frame.variation == variation) & (frame.recipe == recipe)]
    return 100 * here.sort_values("seed").accuracy.to_numpy()


def test_every_step_has_the_interval_of_a_paired_test():
    frame = a_frame().sample(frac=1, random_state=0)
    tidy = multiverse.contrasts(frame, level=0.9)
    assert len(tidy) == 2 * 2 * 6 and (tidy.seeds == 6).all()
    for row in tidy.itertuples():
        better, worse = (values(frame, row.world, row.variation, name) for name in multiverse.CONTRASTS[row.contrast])
        test = stats.ttest_rel(better, worse).confidence_interval(0.9)
        assert (row.effect, row.low, row.high) == pytest.approx(((better - worse).mean(), test.low, test.high))


def test_outcomes_follow_the_interval_and_are_counted():
    frame = a_frame()
    shift = {("A", "one"): 0.5, ("A", "two"): -0.5, ("B", "one"): 0.5, ("B", "two"): 0.5}
    teachers = frame.recipe == "teacher"
    moves = [shift[pair] for pair in zip(frame.world, frame.variation, strict=True)]
    frame.loc[teachers, "accuracy"] += np.array(moves)[teachers]
    frame.loc[frame.recipe == "domain", "accuracy"] = frame.loc[frame.recipe == "universe", "accuracy"].to_numpy()
    tidy = multiverse.contrasts(frame)
    outcomes = tidy.set_index(["world", "variation", "contrast"]).outcome
    assert outcomes["A", "one", "teacher"] == outcomes["B", "two", "teacher"] == multiverse.HOLDS
    assert outcomes["A", "two", "teacher"] == multiverse.REVERSED
    assert outcomes["A", "one", "domain"] == multiverse.OPEN  # no difference at all
    assert multiverse.holds(tidy, "teacher", "A") == "in only 1 of 2 variations"
    assert multiverse.holds(tidy, "teacher", "B") == "in 2 of 2 variations"


def test_three_quarters_are_enough():
    rows = [
        {"world": "A", "contrast": "teacher", "outcome": multiverse.HOLDS if i else multiverse.OPEN} for i in range(4)
    ]
    assert multiverse.holds(pd.DataFrame(rows), "teacher", "A") == "in 3 of 4 variations"
    assert multiverse.holds(pd.DataFrame(rows[:3]), "teacher", "A") == "in only 2 of 3 variations"


def test_a_seed_without_its_partner_is_left_out():
    frame = a_frame()
    gone = (frame.seed == 2) & (frame.recipe == "hard labels") & (frame.world == "A") & (frame.variation == "one")
    tidy = multiverse.contrasts(frame[~gone]).set_index(["world", "variation", "contrast"])
    assert tidy.seeds["A", "one", "teacher"] == 5 and tidy.seeds["A", "one", "domain"] == 6
    assert (
        2
        not in multiverse.differences(frame[~gone])
        .query("world == 'A' & variation == 'one' & contrast == 'teacher'")
        .seed.tolist()
    )


def test_what_was_varied_is_what_the_table_holds():
    assert len(multiverse.VARIATIONS) == 55 and len(multiverse.ONE_AT_A_TIME) == 30
    assert set(TABLE.variation) == set(multiverse.VARIATIONS)
    pairs = [pair for changed in multiverse.VARIATIONS.values() for pair in changed.items()]
    assert all(value in multiverse.CHOICES[name] for name, value in pairs)
    assert {name for name, _ in pairs} == set(multiverse.CHOICES)
    assert all(len(changed) > 1 for changed in multiverse.at_random().values())
    assert multiverse.at_random(3) == {
        f"combination {i}": multiverse.at_random()[f"combination {i}"] for i in (1, 2, 3)
    }


def test_a_combination_is_still_what_the_table_calls_by_its_name():
    """Another machine rounds sums in another order, so an answer or two of a thousand may differ."""
    spec = importlib.util.spec_from_file_location("multiverse_program", ROOT / "data" / "multiverse.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    frame = program.experiment("F", "combination 9", 1).set_index("recipe")
    stored = TABLE[(TABLE.world == "F") & (TABLE.variation == "combination 9") & (TABLE.seed == 1)].set_index("recipe")
    assert set(frame.index) == set(stored.index)
    assert (frame.accuracy - stored.accuracy).abs().max() < 0.004
    assert (frame.teacher - stored.teacher).abs().max() < 0.004


ONE = a_frame()
BAD = {
    "no seeds": (lambda: multiverse.contrasts(ONE.drop(columns="seed")), "misses .'seed'"),
    "a student twice": (lambda: multiverse.contrasts(pd.concat([ONE, ONE.head(3)])), "each student once, got 3 again"),
    "one seed": (lambda: multiverse.contrasts(ONE[ONE.seed == 0]), "seeds must be at least 2 .* got 1"),
    "no pair": (lambda: multiverse.contrasts(ONE[ONE.recipe == "teacher"]), "both recipes .* got teacher"),
    "level 1": (lambda: multiverse.contrasts(ONE, level=1.0), "level must lie between 0 and 1, got 1.0"),
    "a world elsewhere": (lambda: multiverse.holds(multiverse.contrasts(ONE), "teacher", "C"), "got 'teacher' and 'C'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        call()
