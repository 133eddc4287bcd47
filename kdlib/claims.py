"""Claims: every sentence that states a result carries its effect, interval, number of seeds and verdict.

The rule is fixed before the run. An *identity* is confirmed if its largest error stays below a stated tolerance. A
*direction* is confirmed if the whole interval of the paired differences lies above a stated smallest effect of interest,
not reproduced if it lies wholly below, else inconclusive; without spread, or on fewer than 5 replicates, no verdict is
given. Claims reported together are corrected for their number (Holm 1979): 5 % is the risk that any verdict among them is
wrong, and each interval is shown, and named, at the level at which its verdict fell, so the eye and the verdict agree. Such an
interval covers its effect in at least 95 % of runs, each by itself; that all of a report do at once is not promised.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

MIME = "application/vnd.kdlib.claims+json"
CONFIRMED, NOT_REPRODUCED, INCONCLUSIVE = "confirmed", "not reproduced", "inconclusive"
_SIGNS = {CONFIRMED: "✓", NOT_REPRODUCED: "✗", INCONCLUSIVE: "?"}
FEWEST = 5  # replicates below which no verdict is given


@dataclass(frozen=True)
class Claim:
    """One sentence and what was measured, in `unit`, with the names of the dossier `rows` that it tests.

    `low` and `high` bound the effect at `level`, as one of `together` claims (for an identity: 0 and the tolerance); both
    are NaN where the replicates do not differ.
    """

    id: str
    sentence: str
    source: str
    kind: str
    effect: float
    low: float
    high: float
    seeds: int
    unit: str
    threshold: float
    verdict: str
    differences: tuple[float, ...] = field(default=(), repr=False)
    replicates: str = "seeds"
    level: float = 0.95
    together: int = 1
    rows: tuple[str, ...] = ()


def identity(
    id: str, sentence: str, source: str, error: float, tolerance: float, unit: str = "", rows: Sequence[str] = ()
) -> Claim:
    """A claim that two things are equal: confirmed if `error`, the largest deviation found, is below `tolerance`.

    `source` tags where the claim comes from, such as "Hinton 2015" or "derived"; `rows` names the rows of the dossier that it
    tests, such as ("tang.10",). Raises ValueError for a tolerance that is not positive, a negative error (a signed
    difference, not its size) or rows that are no names.
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive finite number, got {tolerance}")
    if error < 0:
        raise ValueError(f"error must be the size of the largest deviation, got {error}")
    verdict = CONFIRMED if error < tolerance else NOT_REPRODUCED  # NaN is no confirmation
    bound = float(tolerance)
    return Claim(
        id,
        sentence,
        source,
        "identity",
        float(error),
        0.0,
        bound,
        0,
        unit,
        bound,
        verdict,
        level=math.nan,
        rows=_names(rows),
    )


def direction(
    id: str,
    sentence: str,
    source: str,
    differences: ArrayLike,
    smallest_effect: float = 0.0,
    unit: str = "points",
    replicates: str = "seeds",
    rows: Sequence[str] = (),
) -> Claim:
    """A claim that a paired difference is larger than `smallest_effect`, on one value per seed; paired t interval.

    `differences` (n seeds,) are signed so that the claimed side is positive; they and `smallest_effect` are in `unit`, that
    of the sentence. Where one network is judged on disjoint samples of data, or draws of a problem, `replicates` says so
    in place of "seeds". Fewer than 5 replicates, or replicates that agree to rounding, leave it inconclusive: there is nothing
    to infer from. `rows` as for `identity`. Raises ValueError for fewer than two values, numbers that are not finite or
    rows that are no names.
    """
    values = _numbers("differences", differences)
    if not isinstance(smallest_effect, Real) or not math.isfinite(smallest_effect):
        raise ValueError(f"smallest_effect must be a finite number, got {smallest_effect!r}")
    claim = Claim(
        id, sentence, source, "direction", float(values.mean()), math.nan, math.nan, len(values), unit,
        float(smallest_effect), INCONCLUSIVE, tuple(values.tolist()), replicates, rows=_names(rows),
    )  # fmt: skip
    return _judged(claim, 0.05, 1)


def paired(frame: pd.DataFrame, column: str, better: str, worse: str, by: str = "recipe") -> np.ndarray:
    """Paired differences of `column` between two recipes, one per seed, sorted by seed; from a tidy frame.

    Raises ValueError if a column or recipe is missing or the two do not have the same seeds once each.
    """
    if missing := {column, by, "seed"} - set(frame.columns):
        raise ValueError(f"frame must have columns {column!r}, {by!r} and 'seed', misses {sorted(missing)}")
    sides = [frame[frame[by] == name].set_index("seed")[column].sort_index() for name in (better, worse)]
    if len(sides[0]) == 0 or not sides[0].index.equals(sides[1].index) or sides[0].index.has_duplicates:
        known = ", ".join(map(repr, frame[by].unique()))
        raise ValueError(
            f"{better!r} and {worse!r} must both be in column {by!r} with the same seeds, once each; has {known}"
        )
    return (sides[0] - sides[1]).to_numpy(dtype=float)


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and t interval (mean, low, high) of one value per seed, for one quantity by itself.

    Raises ValueError for fewer than two values or numbers that are not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    x = _numbers("values", values)
    reach = float(stats.sem(x) * stats.t.ppf((1 + level) / 2, len(x) - 1))
    return float(x.mean()), float(x.mean()) - reach, float(x.mean()) + reach


def say(differences: ArrayLike, unit: str = "points", digits: int = 1) -> str:
    """A paired difference in words: "+5.4 points (95 % interval +5.0 to +5.8, 20 seeds)". Raises ValueError as `interval`."""
    (mean, low, high), n = (_signed(v, digits) for v in interval(differences)), len(np.asarray(differences))
    if _constant(differences):
        return f"{mean} {unit} in each of {n} seeds, so no interval"
    return f"{mean} {unit} (95 % interval {low} to {high}, {n} seeds)"


def report(*claims: Claim) -> Report:
    """Judge claims from one experiment together, corrected for their number (Holm), and show them as a table.

    Raises ValueError for no claims or two with the same id.
    """
    ids = [c.id for c in claims]
    if not claims or len(set(ids)) < len(ids):
        raise ValueError(f"claims must be at least one, with ids that differ, got {ids}")
    return Report(holm(claims))


def holm(claims: Sequence[Claim]) -> list[Claim]:
    """The same claims with intervals and verdicts at Holm's step-down levels, keeping 5 % for all directions together.

    Claims that get no verdict still count, as they were meant to be tested.
    """
    judged = {c.id: c for c in claims}
    waiting = sorted((c for c in claims if c.kind == "direction"), key=_p_value)
    level, failed = 0.05, False
    for rank, claim in enumerate(waiting):
        level = level if failed else 0.05 / (len(waiting) - rank)
        judged[claim.id] = _judged(claim, level, len(waiting))
        failed = failed or judged[claim.id].verdict == INCONCLUSIVE
    return [judged[c.id] for c in claims]


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    try:
        x = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        x = np.array(math.nan)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"{name} must be at least 2 finite numbers, one per seed, got {values!r:.200}")
    return x


def _p_value(claim: Claim) -> float:
    if claim.seeds < FEWEST or _constant(claim.differences):
        return 1.0
    gap = abs(claim.effect - claim.threshold)
    return float(2 * stats.t.sf(gap / float(stats.sem(claim.differences)), claim.seeds - 1))


def _judged(claim: Claim, risk: float, together: int) -> Claim:
    claim = replace(claim, level=1 - risk, together=together)
    if _constant(claim.differences):
        return replace(claim, low=math.nan, high=math.nan, verdict=INCONCLUSIVE)
    _, low, high = interval(claim.differences, 1 - risk)
    above, below = low > claim.threshold, high < claim.threshold
    verdict = CONFIRMED if above else NOT_REPRODUCED if below else INCONCLUSIVE
    return replace(claim, low=low, high=high, verdict=verdict if claim.seeds >= FEWEST else INCONCLUSIVE)


def _constant(values: ArrayLike) -> bool:
    """Whether values agree to rounding: that of differences in single precision, or that of double precision at 1."""
    x = np.asarray(values, dtype=float)
    return bool(np.ptp(x) <= max(1e-12, 1e-5 * np.abs(x).max()))


def _names(rows: Sequence[str]) -> tuple[str, ...]:
    if isinstance(rows, str) or not all(isinstance(row, str) and row for row in rows):
        raise ValueError(f'rows must be a sequence of names such as ("tang.10",), got {rows!r}')
    return tuple(rows)


class Report:
    """Judged claims; shows as a table in a notebook and a page, and hands them to the gates that check the book."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.claims = list(claims)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per claim."""
        return pd.DataFrame([asdict(c) for c in self.claims]).drop(columns="differences")

    def __getitem__(self, id: str) -> Claim:
        return {c.id: c for c in self.claims}[id]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        # JSON knows neither NaN nor infinity, and a notebook is JSON
        records = [{key: _plain(value) for key, value in row.items()} for row in self.frame.to_dict("records")]
        plain = "\n".join(f"{c.verdict}: {c.sentence} {_effect(c)}" for c in self.claims)
        return {MIME: records, "text/html": self._html(), "text/plain": plain}

    def _html(self) -> str:
        rows = "".join(
            f'<tr id="claim-{html.escape(c.id)}"><td>{html.escape(c.sentence)}'
            f"<br><small>{html.escape(_origin(c))} · <code>{html.escape(c.id)}</code></small></td>"
            f"<td>{html.escape(_effect(c))}</td>"
            f'<td><span class="kd-verdict kd-{c.verdict.replace(" ", "-")}">{_SIGNS[c.verdict]} {c.verdict}</span></td></tr>'
            for c in self.claims
        )
        head = "<tr><th scope=col>Claim</th><th scope=col>Measured</th><th scope=col>Verdict</th></tr>"
        return (
            f'<div class="kd-scroll"><table class="kd-claims"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
        )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _origin(claim: Claim) -> str:
    return f"{claim.source}, tests {', '.join(claim.rows)}" if claim.rows else claim.source


def _effect(claim: Claim) -> str:
    unit = f" {claim.unit}" if claim.unit else ""
    if claim.kind == "identity":
        error = "is not a number" if math.isnan(claim.effect) else f"{claim.effect:.1e}{unit}"
        return f"largest error {error}, tolerance {claim.threshold:g}{unit}"
    wanted = "" if claim.threshold == 0 else f"; must exceed {f'{claim.threshold:+g}'.replace('-', '−')}{unit}"
    sample = f"{claim.seeds} {claim.replicates}"
    if math.isnan(claim.low):
        return f"{_signed(claim.effect, 2)}{unit} in each of {sample}, so no interval and no verdict{wanted}"
    # Two significant digits of the interval's half width, so that small effects in nats do not read as 0.00.
    digits = min(9, max(1, 1 - math.floor(math.log10((claim.high - claim.low) / 2))))
    effect, low, high = (_signed(v, digits) for v in (claim.effect, claim.low, claim.high))
    name = f"{100 * claim.level:.4g} % interval"
    name += f", corrected for {claim.together} claims," if claim.together > 1 else ""
    few = f", too few for a verdict, which takes {FEWEST}" if claim.seeds < FEWEST else ""
    return f"{effect}{unit} ({name} {low} to {high}, {sample}{few}{wanted})"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
