"""The public checks as a reader meets them: under python -O, on a loss that cannot be used, as tests of their own."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from kdlib import checks
from kdlib.levels import museum
from kdlib.losses import kd_loss

LOSS_BUGS = sorted(checks.LOSS_CHECKS)
ROOT = Path(__file__).parents[1]


def with_bug(number):
    return partial(museum.buggy_loss, bug=number)


def test_numbers_are_the_catalogues_and_the_museum_shows_the_same():
    assert LOSS_BUGS == [2, 3, 4, 6, 8, 10, 11, 12] and sorted(checks.LOOP_CHECKS) == [1, 5, 7, 9, 13]
    for exhibit in museum.EXHIBITS:
        table = checks.LOSS_CHECKS if exhibit.of == "loss" else checks.LOOP_CHECKS
        assert table[exhibit.number] == (exhibit.name, exhibit.check)


@pytest.mark.parametrize("number", LOSS_BUGS)
def test_check_loss_finds_each_bug(number):
    assert checks.check_loss(kd_loss)["passed"].all()
    frame = checks.check_loss(with_bug(number))
    assert list(frame.columns) == ["number", "bug", "check", "message", "passed"]
    assert frame["number"].tolist() == LOSS_BUGS
    row = frame.set_index("number").loc[number]
    assert not row["passed"] and row["message"] and row["bug"] == checks.LOSS_CHECKS[number][0]


def test_bugs_are_found_with_assertions_switched_off():
    program = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from functools import partial\nfrom kdlib import checks\nfrom kdlib.levels import museum\n"
        "loss = [n for n in checks.LOSS_CHECKS if checks.check_loss(partial(museum.buggy_loss, bug=n)).passed.all()]\n"
        "loop = [n for n, (_, check) in checks.LOOP_CHECKS.items() if not checks.verdict(check, partial(museum.buggy_run, bug=n))]\n"
        "print(sys.flags.optimize, loss + loop, checks.check_loss(museum.buggy_loss).passed.all())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-O", "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split("\n")[0] == "1 [] True"


def test_what_a_check_raises_is_an_assertion_error_of_its_own():
    assert issubclass(checks.CheckFailed, AssertionError)
    with pytest.raises(checks.CheckFailed, match="nothing is distilled"):
        checks.teaches(with_bug(2))


def test_a_loss_without_the_flag_or_in_single_precision_is_judged_by_what_it_does():
    def plain(z, v, y, T, a):
        return kd_loss(z.float(), v.float(), y, T, a)

    assert checks.check_loss(plain)["passed"].all()

    def flagged(z, v, y, T, a, **settings):
        return kd_loss(z, v, y, T, a, not settings.get("t_squared", True))

    assert not checks.check_loss(flagged).set_index("number").loc[6, "passed"]


def test_a_loss_that_breaks_in_one_check_fails_that_check():
    def doubles_only(z, v, y, T, a, t_squared=True):
        if z.dtype != torch.float64:
            raise TypeError("doubles, please")
        return kd_loss(z, v, y, T, a, t_squared)

    frame = checks.check_loss(doubles_only).set_index("number")
    assert frame.index[~frame["passed"]].tolist() == [10, 11]
    assert frame.loc[10, "message"] == "raised TypeError: doubles, please"


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda z, v: z, r"loss must be callable as loss\(student_logits, .*got TypeError"),
        (lambda *a: kd_loss(*a).mean(), r"one value per example, here \(16,\), got \(\)"),
        (lambda *a: kd_loss(*a).tolist(), "got list"),
        ("kd_loss", "got TypeError"),
    ],
)
def test_a_loss_that_cannot_be_judged_is_named(loss, words):
    with pytest.raises(ValueError, match=words):
        checks.check_loss(loss)


@checks.parametrize_with_checks([kd_loss, museum.buggy_loss])
def test_the_library_by_its_own_parametriser(loss, check):
    check(loss)


@checks.parametrize_with_checks([museum.buggy_run], checks.LOOP_CHECKS)
def test_the_correct_loop_by_the_parametriser(loss, check):
    check(loss)


def test_a_bug_fails_a_test_of_the_parametriser(pytester_like):
    outcome = pytester_like(
        "from functools import partial\nfrom kdlib.checks import parametrize_with_checks\n"
        "from kdlib.levels.museum import buggy_loss\n\n\ndef mine(*args, **flag):\n    return buggy_loss(*args, **flag, bug=3)\n\n\n"
        "@parametrize_with_checks([mine])\ndef test_mine(loss, check):\n    check(loss)\n"
    )
    assert "FAILED test_mine.py::test_mine[mine-keeps_its_size]" in outcome
    assert "CheckFailed: the gradient changed" in outcome and "mine-teaches" not in outcome


@pytest.fixture
def pytester_like(tmp_path):
    def run(text):
        (tmp_path / "test_mine.py").write_text(text)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rf",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            ".",
            "test_mine.py",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        return done.stdout

    return run
