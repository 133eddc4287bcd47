"""Claims against SciPy's intervals and tests, a hand-worked Holm example and simulated null results."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdlib import claims
from kdlib.claims import CONFIRMED, INCONCLUSIVE, MIME, NOT_REPRODUCED, Claim

samples = st.builds(
    lambda seed, n, mean: np.random.default_rng(seed).normal(mean, 1.0, n),
    st.integers(0, 2**32 - 1),
    st.integers(5, 30),
    st.floats(-2, 2),
)


def direction(
    id: str, values: Sequence[float] | np.ndarray, smallest_effect: float = 0.0, unit: str = "points"
) -> Claim:
    return claims.direction(id, f"sentence {id}", "derived", values, smallest_effect, unit)


def with_p_value(id: str, p: float, n: int = 10, sign: int = 1) -> Claim:
    """A claim whose paired t test has exactly this two-sided p-value."""
    noise = np.arange(n) - (n - 1) / 2
    return direction(id, noise + sign * stats.t.isf(p / 2, n - 1) * stats.sem(noise))


@given(samples)
def test_interval_is_scipys(values: np.ndarray) -> None:
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    claim = direction("a", values)
    assert (claim.low, claim.high) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)
    assert (claim.effect, claim.seeds) == (pytest.approx(values.mean()), len(values))
    mean, low, high = claims.interval(values, 0.8)
    expected = stats.t.interval(0.8, len(values) - 1, values.mean(), stats.sem(values))
    assert (mean, low, high) == pytest.approx((values.mean(), *expected), rel=1e-8, abs=1e-12)  # SciPy 1.12's own error


@given(samples, st.floats(-1, 1))
def test_verdict_is_the_two_sided_test_against_the_smallest_effect(values: np.ndarray, threshold: float) -> None:
    claim = direction("a", values, threshold)
    p = stats.ttest_1samp(values, threshold).pvalue
    if abs(p - 0.05) > 1e-9:
        expected = INCONCLUSIVE if p > 0.05 else CONFIRMED if values.mean() > threshold else NOT_REPRODUCED
        assert claim.verdict == expected


def test_verdicts_in_words() -> None:
    five = np.array([5.0, 5.1, 4.9, 5.0, 5.2])
    assert direction("a", five).verdict == "confirmed"
    assert direction("a", five, smallest_effect=6.0).verdict == "not reproduced"
    assert direction("a", -five).verdict == "not reproduced"
    assert direction("a", [5.0, -5.1, 1.0, 0.3, 2.0]).verdict == "inconclusive"


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_a_verdict_takes_five_replicates(n: int) -> None:
    """Two seeds that agree by chance would confirm anything: their interval may be as narrow as one likes."""
    values = np.array([5.0, 5.001, 4.999, 5.002, 5.0])[:n]
    assert direction("a", values).verdict == (CONFIRMED if n == 5 else INCONCLUSIVE)
    assert direction("a", -values).verdict == (NOT_REPRODUCED if n == 5 else INCONCLUSIVE)
    judged = claims.report(direction("a", values), direction("b", values))
    assert judged["a"].verdict == (CONFIRMED if n == 5 else INCONCLUSIVE)
    assert math.isfinite(judged["a"].low)  # what was measured is shown all the same
    text = judged._repr_mimebundle_()["text/plain"]
    assert (f"{n} seeds, too few for a verdict, which takes 5" in text) == (n < 5)


@pytest.mark.parametrize(
    "values",
    [
        [0.4] * 2,
        [0.4] * 20,
        [0.0] * 6,
        [1e-17, 2e-17, 1e-17, 1.5e-17, 1e-17, 3e-17],  # rounding around nothing
        [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3],  # of double precision
        (np.float32(86.4) - np.array([81.2, 81.2, 81.2, 81.20001, 81.2], dtype=np.float32)),  # of single precision
        [1e9, 1e9 + 1, 1e9, 1e9, 1e9],
    ],
)
@pytest.mark.parametrize("threshold", [0.0, -1.0, 1e12])
def test_no_verdict_without_spread(values: Sequence[float], threshold: float) -> None:
    """Replicates that agree say nothing of the next one: usually one run was counted several times."""
    lonely = direction("a", values, threshold)
    others = [direction(str(i), np.arange(9.0) + i) for i in range(3)]
    for claim in (lonely, claims.report(lonely, *others)["a"], claims.report(*others, lonely)["a"]):
        assert claim.verdict == INCONCLUSIVE
        assert math.isnan(claim.low) and math.isnan(claim.high)  # an interval of width 0 would contradict the verdict
    text = claims.report(lonely)._repr_mimebundle_()["text/plain"]
    assert f"in each of {len(values)} seeds, so no interval and no verdict" in text and "nan" not in text
    assert "so no interval" in claims.say(values)


def test_a_small_spread_is_a_spread() -> None:
    assert direction("a", [1e-9, 2e-9, 1.5e-9, 1e-9, 3e-9]).verdict == CONFIRMED  # nats, say
    assert direction("a", [5.0, 5.0, 5.0, 5.0, 5.1]).verdict == CONFIRMED  # ties are no constant


def test_identities() -> None:
    def verdict(error: float, tolerance: float = 1e-10) -> str:
        return claims.identity("a", "s", "derived", error, tolerance).verdict

    assert verdict(1e-12) == verdict(0.0) == "confirmed"
    assert verdict(1e-9) == verdict(1e-10) == "not reproduced"  # "below" the tolerance, not at it
    assert verdict(math.nan) == verdict(math.inf) == "not reproduced"


class TestHolm:
    def test_hand_worked_example(self) -> None:
        """p = 0.005 <= 0.05/4, 0.01 <= 0.05/3, 0.03 > 0.05/2: stop; 0.04 stays undecided although it is below 0.05."""
        made = [with_p_value(i, p) for i, p in {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}.items()]
        assert all(c.verdict == CONFIRMED for c in made)  # each on its own
        judged = claims.holm(made)
        assert [c.id for c in judged] == ["a", "b", "c", "d"]
        assert [c.verdict for c in judged] == [CONFIRMED, INCONCLUSIVE, INCONCLUSIVE, CONFIRMED]

    def test_steps_down_where_one_level_for_all_would_stop(self) -> None:
        """0.005 <= 0.05/4, 0.015 <= 0.05/3, 0.02 <= 0.05/2, 0.04 <= 0.05: all; three of them are above 0.05/4."""
        judged = claims.holm([with_p_value(str(p), p) for p in (0.04, 0.015, 0.005, 0.02)])
        assert [c.verdict for c in judged] == 4 * [CONFIRMED]

    @given(st.lists(st.floats(1e-4, 0.06), min_size=1, max_size=8), st.data())
    def test_is_the_step_down_procedure(self, p_values: list[float], data: st.DataObject) -> None:
        signs = [data.draw(st.sampled_from([-1, 1])) for _ in p_values]
        judged = claims.holm(
            [with_p_value(str(i), p, sign=s) for i, (p, s) in enumerate(zip(p_values, signs, strict=True))]
        )
        adjusted: dict[int, float] = {}  # Holm's adjusted p-values: a running maximum of (m - rank) p
        largest = 0.0
        for rank, i in enumerate(np.argsort(p_values)):
            largest = max(largest, (len(p_values) - rank) * p_values[i])
            adjusted[int(i)] = largest
        for i, claim in enumerate(judged):
            if abs(adjusted[i] - 0.05) > 1e-6:
                side = CONFIRMED if signs[i] > 0 else NOT_REPRODUCED
                assert claim.verdict == (side if adjusted[i] < 0.05 else INCONCLUSIVE)

    @given(st.lists(st.floats(1e-4, 0.3), min_size=1, max_size=8))
    def test_intervals_shown_agree_with_the_verdicts(self, p_values: list[float]) -> None:
        for claim in claims.holm([with_p_value(str(i), p) for i, p in enumerate(p_values)]):
            assert (claim.low > 0) == (claim.verdict == CONFIRMED)
            assert claim.low <= direction("x", claim.differences).low + 1e-12  # never narrower than uncorrected

    def test_identities_neither_count_nor_change(self) -> None:
        exact = claims.identity("x", "s", "derived", 1e-12, 1e-10)
        judged = claims.holm([exact, with_p_value("a", 0.04), exact])
        assert judged[0] == exact
        assert judged[1].verdict == CONFIRMED

    def test_one_claim_needs_no_correction(self) -> None:
        claim = with_p_value("a", 0.049)
        assert claims.holm([claim])[0] == claim

    def test_error_rate_of_a_family_stays_at_five_percent(self) -> None:
        """Four true nulls, 1000 times: any verdict at all is an error. Uncorrected it would be 19 %."""
        rng = np.random.default_rng(0)
        wrong = sum(
            any(c.verdict != INCONCLUSIVE for c in claims.holm([direction(str(i), x) for i, x in enumerate(family)]))
            for family in rng.normal(size=(1000, 4, 6))
        )
        assert stats.binomtest(wrong, 1000, 0.05).pvalue > 1e-3

    @staticmethod
    def reports(truth: Sequence[float], shared: float, n: int = 8, times: int = 400) -> list[list[Claim]]:
        """Reports on claims with these true effects, whose replicates share a part of their noise, as seeds do."""
        rng = np.random.default_rng(1)
        noise = rng.normal(size=(times, len(truth), n)) + shared * rng.normal(size=(times, 1, n))
        noise /= math.sqrt(1 + shared**2)
        return [
            claims.holm([direction(str(i), t + x) for i, (t, x) in enumerate(zip(truth, family, strict=True))])
            for family in noise
        ]

    @pytest.mark.parametrize("shared", [0.0, 2.0])
    @pytest.mark.parametrize("truth", [[0.0] * 5, [3.0, 2.0, 1.0, 0.5, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.01, -0.01]])
    def test_five_percent_is_the_risk_of_any_wrong_verdict(self, truth: list[float], shared: float) -> None:
        """Some effects real, some not, some on the other side; a verdict on the wrong side of the truth is wrong too."""

        def wrong(claim: Claim, true: float) -> bool:
            return (claim.verdict == CONFIRMED and true <= 0) or (claim.verdict == NOT_REPRODUCED and true >= 0)

        made = self.reports(truth, shared)
        missed = sum(any(wrong(c, t) for c, t in zip(report, truth, strict=True)) for report in made)
        assert stats.binomtest(missed, len(made), 0.05, alternative="greater").pvalue > 1e-3

    @pytest.mark.parametrize("shared", [0.0, 2.0])
    def test_an_interval_by_itself_covers_at_least_what_is_promised(self, shared: float) -> None:
        """At least 95 % for each claim, whatever step it was judged at; for all of them together it is less."""
        truth = [128.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0]
        made = self.reports(truth, shared)
        covered = np.array([[c.low <= t <= c.high for c, t in zip(r, truth, strict=True)] for r in made])
        for times in covered.sum(0):
            assert stats.binomtest(int(times), len(made), 0.95, alternative="less").pvalue > 1e-3
        if not shared:  # why they are not called simultaneous
            assert stats.binomtest(int(covered.all(1).sum()), len(made), 0.95, alternative="less").pvalue < 1e-3

    def test_the_level_shown_is_that_of_the_interval(self) -> None:
        made = [with_p_value(str(p), p) for p in (0.04, 0.001, 0.3, 0.02)]
        judged = claims.holm(made)
        assert [c.level for c in judged] == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 4, 1 - 0.05 / 3, 1 - 0.05 / 3])
        for claim in judged:
            assert (claim.low, claim.high) == pytest.approx(claims.interval(claim.differences, claim.level)[1:])
            assert claim.together == 4
        text = claims.report(*made)._repr_mimebundle_()["text/plain"].splitlines()
        assert "(98.75 % interval, corrected for 4 claims, +" in text[1] and "(98.33 % interval, corrected" in text[0]
        assert not any("95 % interval" in line for line in text)

    def test_claims_without_a_verdict_count_but_take_no_level_from_others(self) -> None:
        lonely, real = direction("a", [0.4] * 9), with_p_value("b", 0.02)
        assert claims.report(lonely, real)["b"].verdict == CONFIRMED  # 0.02 < 0.05 / 2
        assert claims.report(lonely, direction("c", [1.0, 2.0]), real)["b"].verdict == INCONCLUSIVE  # 0.02 > 0.05 / 3
        few = direction("d", [5.0, 5.001])  # its p-value would be the smallest, and it would stop the steps
        assert claims.report(few, with_p_value("e", 0.001), real)["b"].verdict == CONFIRMED  # 0.02 < 0.05 / 2


@pytest.mark.parametrize("n", [5, 20])
def test_a_single_interval_covers_in_nineteen_of_twenty_runs(n: int) -> None:
    rng = np.random.default_rng(2)
    made = [direction("a", values) for values in rng.normal(0.7, 2.0, size=(2000, n))]
    covered = sum(c.low <= 0.7 <= c.high for c in made)
    assert stats.binomtest(covered, 2000, 0.95).pvalue > 1e-3
    assert {(c.level, c.together) for c in made} == {(0.95, 1)}


class TestPaired:
    frame = pd.DataFrame(
        {"recipe": ["KD", "CE", "KD", "CE"], "seed": [1, 0, 0, 1], "accuracy": [0.9, 0.5, 0.8, 0.6], "T": [4, 1, 4, 1]}
    )

    def test_subtracts_seed_by_seed_whatever_the_order_of_rows(self) -> None:
        expected = [0.8 - 0.5, 0.9 - 0.6]
        assert claims.paired(self.frame, "accuracy", "KD", "CE") == pytest.approx(expected)
        assert claims.paired(self.frame[::-1], "accuracy", "CE", "KD") == pytest.approx([-e for e in expected])
        by_temperature: Any = claims.paired(self.frame, "accuracy", 4, 1, by="T")  # type: ignore[arg-type]
        assert by_temperature == pytest.approx(expected)

    def test_pairing_removes_what_the_seeds_share(self) -> None:
        rng = np.random.default_rng(1)
        shared = rng.normal(0, 10, 20)
        sides = {"KD": shared + 0.5 + rng.normal(0, 0.1, 20), "CE": shared}
        frame = pd.concat(pd.DataFrame({"recipe": k, "seed": range(20), "accuracy": v}) for k, v in sides.items())
        assert direction("a", claims.paired(frame, "accuracy", "KD", "CE")).verdict == CONFIRMED

    @pytest.mark.parametrize(
        ("change", "arguments", "message"),
        [
            (lambda f: f, ("accuracy", "KD", "LS"), "'KD' and 'LS' must both be in column 'recipe' .* has 'KD', 'CE'"),
            (lambda f: f[:3], ("accuracy", "KD", "CE"), "with the same seeds, once each"),
            (lambda f: pd.concat([f, f]), ("accuracy", "KD", "CE"), "with the same seeds, once each"),
            (lambda f: f.replace({"seed": {0: 7}})[:3], ("accuracy", "KD", "CE"), "with the same seeds"),
            (lambda f: f[:0], ("accuracy", "KD", "CE"), "must both be in column 'recipe'"),
            (lambda f: f, ("nll", "KD", "CE"), r"frame must have columns 'nll', .* misses \['nll'\]"),
            (lambda f: f.drop(columns="seed"), ("accuracy", "KD", "CE"), r"misses \['seed'\]"),
        ],
    )
    def test_bad_frames_are_refused(
        self, change: Callable[[pd.DataFrame], pd.DataFrame], arguments: tuple[str, str, str], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            claims.paired(change(self.frame), *arguments)


class TestReport:
    made = (
        direction("gain", [5.2, 5.6, 5.4, 5.3, 5.5], unit="points"),
        direction("small", [0.0041, 0.0043, 0.0045, 0.0042, 0.0044], smallest_effect=-0.25, unit="log-odds"),
        claims.identity("exact", "a < b & c", "Hinton 2015", 3e-13, 2.5e-10, unit="nats", rows=("hinton.3", "tang.7")),
        claims.identity("broken", "NaN", "derived", math.nan, 1e-10),
        claims.identity("infinite", "inf", "derived", math.inf, np.float64(1e-10)),
    )

    def test_mime_bundle_is_strict_json_with_one_record_per_claim(self) -> None:
        bundle = claims.report(*self.made)._repr_mimebundle_()
        records = json.loads(json.dumps(bundle, allow_nan=False))[MIME]
        assert [r["id"] for r in records] == ["gain", "small", "exact", "broken", "infinite"]
        keys = {
            "id",
            "sentence",
            "source",
            "kind",
            "effect",
            "low",
            "high",
            "seeds",
            "unit",
            "threshold",
            "verdict",
            "replicates",
            "level",
            "together",
            "rows",
        }
        assert all(set(r) == keys for r in records)
        assert [r["kind"] for r in records] == ["direction"] * 2 + ["identity"] * 3
        assert [r["verdict"] for r in records] == [CONFIRMED] * 3 + [NOT_REPRODUCED] * 2
        assert [r["effect"] for r in records[3:]] == [None, None]
        assert records[0]["effect"] == pytest.approx(5.4)
        assert type(records[0]["seeds"]) is int
        assert [r["rows"] for r in records] == [[], [], ["hinton.3", "tang.7"], [], []]
        assert [r["level"] for r in records] == [0.95, 0.975, None, None, None]
        assert [r["together"] for r in records] == [2, 2, 1, 1, 1]
        assert set(bundle) == {MIME, "text/html", "text/plain"}

    def test_corrects_for_the_number_of_claims(self) -> None:
        alone, other = with_p_value("a", 0.04), with_p_value("b", 0.2)
        assert claims.report(alone)["a"].verdict == CONFIRMED
        assert claims.report(alone, other)["a"].verdict == INCONCLUSIVE

    def test_table_escapes_text_and_says_verdicts_in_words(self) -> None:
        page = claims.report(*self.made)._repr_mimebundle_()["text/html"]
        assert "a &lt; b &amp; c" in page
        assert page.count("✓ confirmed") == 3
        assert page.count("✗ not reproduced") == 2
        assert page.count("<tr") == 6
        assert "<th scope=col>Verdict</th>" in page
        hostile = claims.identity('"><script>', "<script>", "<b>", 0.0, 1.0)
        assert "<script>" not in claims.report(hostile)._repr_mimebundle_()["text/html"]

    def test_numbers_are_readable_at_any_size(self) -> None:
        page = html.unescape(claims.report(*self.made)._repr_mimebundle_()["text/html"])
        gain, small = claims.holm(self.made)[:2]
        name = "interval, corrected for 2 claims,"
        levels = {c.id: f"{100 * c.level:g} %" for c in (gain, small)}
        assert sorted(levels.values()) == ["95 %", "97.5 %"]
        assert f"+5.40 points ({levels['gain']} {name} +{gain.low:.2f} to +{gain.high:.2f}, 5 seeds)" in page
        measured = f"{name} +{small.low:.5f} to +{small.high:.5f}, 5 seeds; must exceed −0.25 log-odds)"
        assert f"+{small.effect:.5f} log-odds ({levels['small']} {measured}" in page
        assert "largest error 3.0e-13 nats, tolerance 2.5e-10 nats" in page

    def test_what_is_no_number_is_said_in_words(self) -> None:
        text = claims.report(*self.made)._repr_mimebundle_()
        for shown in (text["text/plain"], text["text/html"]):
            assert "largest error is not a number, tolerance 1e-10" in shown and "largest error inf" in shown

    def test_the_rows_that_a_claim_tests_are_shown(self) -> None:
        page = claims.report(*self.made)._repr_mimebundle_()["text/html"]
        assert "Hinton 2015, tests hinton.3, tang.7 ·" in page and page.count(", tests ") == 1
        named = claims.direction("a", "s", "Tang 2020", [1.0, 2.0], rows=["tang.10"])
        assert named.rows == claims.report(named)["a"].rows == ("tang.10",)

    def test_negative_effects_carry_a_real_minus_sign(self) -> None:
        plain = claims.report(direction("loss", [-5.0, -5.5, -6.0], unit="top-5 points"))._repr_mimebundle_()[
            "text/plain"
        ]
        assert "−5.5" in plain
        assert "top-5 points" in plain

    def test_frame_and_lookup(self) -> None:
        report = claims.report(*self.made)
        assert report.frame["id"].tolist() == [c.id for c in self.made]
        assert "differences" not in report.frame
        assert report["exact"] == self.made[2]


def test_a_difference_in_words() -> None:
    assert claims.say([5.2, 5.6, 5.4]) == "+5.4 points (95 % interval +4.9 to +5.9, 3 seeds)"
    assert claims.say([-0.1, -0.3], "nats", digits=2) == "−0.20 nats (95 % interval −1.47 to +1.07, 2 seeds)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: claims.identity("a", "s", "d", 0.0, 0.0), "tolerance must be a positive finite number, got 0.0"),
        (lambda: claims.identity("a", "s", "d", 0.0, math.nan), "tolerance .* got nan"),
        (lambda: claims.identity("a", "s", "d", 0.0, math.inf), "tolerance .* got inf"),
        (
            lambda: claims.identity("a", "s", "d", -1.0, 1e-9),
            "error must be the size of the largest deviation, got -1.0",
        ),
        (lambda: direction("a", [1.0]), r"differences must be at least 2 finite numbers, one per seed, got .*1\."),
        (lambda: direction("a", [1.0, math.nan]), "differences must be at least 2 finite numbers"),
        (lambda: direction("a", np.ones((2, 2))), "differences must be at least 2 finite numbers"),
        (lambda: direction("a", []), "differences must be at least 2 finite numbers"),
        (lambda: direction("a", "many"), "differences must be at least 2 finite numbers, one per seed, got 'many'"),
        (lambda: direction("a", [1.0, None, "x"]), "differences must be at least 2 finite numbers"),
        (lambda: claims.say(["a", "b"]), "values must be at least 2 finite numbers"),
        (lambda: direction("a", [1.0, 2.0], "1"), "smallest_effect must be a finite number, got '1'"),
        (lambda: direction("a", [1.0, 2.0], None), "smallest_effect must be a finite number, got None"),
        (lambda: direction("a", [1.0, 2.0], math.nan), "smallest_effect must be a finite number, got nan"),
        (lambda: claims.interval([1.0]), "values must be at least 2 finite numbers"),
        (lambda: claims.interval([1.0, math.nan]), "values must be at least 2 finite numbers"),
        (lambda: claims.say([1.0, math.inf, 2.0]), "values must be at least 2 finite numbers"),
        (lambda: claims.direction("a", "s", "d", [1.0, 2.0], rows="tang.10"), "rows must be .* got 'tang.10'"),  # type: ignore[arg-type]
        (lambda: claims.identity("a", "s", "d", 0.0, 1.0, rows=("",)), r"rows must be .* got \('',\)"),
        (lambda: claims.interval([1.0, 2.0], level=1.0), "level must lie between 0 and 1, got 1.0"),
        (lambda: claims.interval([1.0, 2.0], level=95), "level must lie between 0 and 1, got 95"),
        (lambda: claims.say([]), "values must be at least 2 finite numbers"),
        (lambda: claims.report(), r"claims must be at least one, with ids that differ, got \[\]"),
        (lambda: claims.report(*2 * [direction("a", [1.0, 2.0])]), r"ids that differ, got \['a', 'a'\]"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_replicates_other_than_seeds_are_named():
    claim = claims.direction(
        "a.b", "One network, ten samples.", "ours", [1.0, 2.0, 3.0], replicates="tenths of the images"
    )
    text = claims.report(claim)._repr_mimebundle_()["text/plain"]
    assert "3 tenths of the images" in text and "seeds" not in text
