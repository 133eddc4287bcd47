"""A class on one folder: every student runs one seed, all at the same moment, and anybody draws the aggregate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from kdlib import study

STUDENTS, SEEDS = 30, 28  # the last two took a seed that somebody else has, too
PROGRAM = """
import pathlib, sys, time, uuid
import pandas as pd
from kdlib import study

me = int(sys.argv[1])
mine = me % {seeds}

def experiment(seed):
    pathlib.Path("calls", f"{{seed}}.{{uuid.uuid4().hex}}").touch()
    return pd.DataFrame({{"recipe": ["hard labels", "distilled"], "accuracy": [seed / 7, seed / 3]}})

pathlib.Path("ready", str(me)).touch()
while len(list(pathlib.Path("ready").iterdir())) < {students}:
    time.sleep(0.01)
study.run(experiment, {{"seed": [mine]}}, store="store")
everyone = study.collect("store", experiment)
assert everyone[everyone.seed == mine].accuracy.tolist() == [mine / 7, mine / 3], everyone
assert not everyone.duplicated(["seed", "recipe"]).any(), everyone
"""


def test_thirty_students_share_a_folder_and_nothing_is_lost_or_counted_twice(script: Any, tmp_path: Path) -> None:
    for folder in ("calls", "ready"):
        (tmp_path / folder).mkdir()
    (tmp_path / "program.py").write_text(PROGRAM.format(seeds=SEEDS, students=STUDENTS))
    running = [script("-W", "error::UserWarning", "program.py", str(student)) for student in range(STUDENTS)]
    ended = [one.end(timeout=240) for one in running]
    assert [(code, err) for code, _, err in ended if code] == []

    everyone = study.collect(tmp_path / "store").sort_values(["seed", "accuracy"], ignore_index=True)
    assert everyone.seed.tolist() == [seed for seed in range(SEEDS) for _ in range(2)]
    accuracy = everyone.set_index(["recipe", "seed"])["accuracy"]
    assert accuracy["hard labels"].tolist() == [seed / 7 for seed in range(SEEDS)]
    assert accuracy["distilled"].tolist() == [seed / 3 for seed in range(SEEDS)]

    count = pd.Series([int(path.name.partition(".")[0]) for path in (tmp_path / "calls").iterdir()]).value_counts()
    alone = range(STUDENTS - SEEDS, SEEDS)
    assert count[list(alone)].tolist() == [1] * len(alone)
    assert count.sum() <= STUDENTS
    assert list(tmp_path.glob("store/*/.*")) == []  # no half-written file is left
