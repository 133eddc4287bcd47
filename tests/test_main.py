"""The `kdlib` command: what it prints, what it returns, and what it says of unusable input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kdlib
from kdlib import __main__ as command
from kdlib.levels import museum

LOSS_BUGS = [exhibit.number for exhibit in museum.EXHIBITS if exhibit.of == "loss"]
HEAD = "from functools import partial\nfrom kdlib.levels.museum import buggy_loss\n"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run the command line in an empty folder that holds mine.py with this text: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def runs(*arguments: str, source: str = "") -> tuple[int, str, str]:
        (tmp_path / "mine.py").write_text(source, "utf-8")
        sys.modules.pop("mine", None)
        try:
            status = command.main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    yield runs
    sys.modules.pop("mine", None)


def rows(text: str) -> dict[int, dict[str, str]]:
    return {row["number"]: row for row in json.loads(text)["checks"]}


@pytest.mark.parametrize("number", LOSS_BUGS)
def test_a_planted_bug_is_found_in_the_readers_loss(run: Run, number: int) -> None:
    status, out, _ = run("check-loss", "mine:loss", "--json", source=f"{HEAD}loss = partial(buggy_loss, bug={number})")
    assert status == 1
    assert number in json.loads(out)["bugs"]
    found = rows(out)
    assert list(found) == list(range(1, 14))
    assert found[number]["result"] == "bug" and len(found[number]["message"]) > 10
    assert {n for n, row in found.items() if row["result"] == "not checked"} == set(range(1, 14)) - set(LOSS_BUGS)


def test_a_right_loss_has_none(run: Run) -> None:
    status, out, _ = run("check-loss", "kdlib.losses:kd_loss")
    *lines, last = out.splitlines()
    assert status == 0
    assert last == "kdlib.losses:kd_loss has none of them: 8 of 13 bugs were checked"
    assert [int(line.split()[0]) for line in lines] == list(range(1, 14))
    assert sum(line.endswith(" ok") for line in lines) == 8


PLAIN = """
import torch.nn.functional as F
print("imported")

class Distiller:
    @staticmethod
    def loss(z, v, y, T, alpha):
        assert z.shape == v.shape
        soft = F.kl_div((z / T).log_softmax(-1), (v / T).softmax(-1), reduction="none").sum(-1)
        return (1 - alpha) * F.cross_entropy(z, y, reduction="none") + alpha * soft
"""


def test_a_loss_in_a_class_without_the_flag_whose_own_assertions_are_no_finding(run: Run) -> None:
    """T^2 is missing, so its value is another too; a missing flag is no bug; its refusal of fewer classes is right."""
    status, out, err = run("check-loss", "mine:Distiller.loss", source=PLAIN)
    lines = {int(line.split()[0]): line for line in out.splitlines()[:-1]}
    assert status == 1
    assert re.fullmatch(r"mine:Distiller\.loss has bug 3, 8: [78] of 13 bugs were checked", out.splitlines()[-1])
    assert lines[6].endswith(" ok") or ("not checked  TypeError: " in lines[6] and "t_squared" in lines[6])
    assert lines[12].endswith(" ok")
    assert err == "imported\n"  # what the reader's code prints is no part of the answer


@pytest.mark.parametrize(
    ("where", "source", "said"),
    [
        ("mine", "", "must be given as module:function, like mine:loss for mine.py, got 'mine'"),
        ("mine.py:loss", "", "must be given as module:function, like mine:loss for mine.py, got 'mine.py:loss'"),
        (":loss", "", "must be given as module:function, like mine:loss for mine.py, got ':loss'"),
        ("yours:loss", "", "yours:loss cannot be imported from {here}: ModuleNotFoundError: No module named 'yours'"),
        ("mine:loss", "other = 1", "AttributeError: module 'mine' has no attribute 'loss'"),
        ("mine:loss", "loss = (", "mine:loss cannot be imported from {here}: SyntaxError: "),
        ("mine:loss", "raise SystemExit(0)", "mine:loss cannot be imported from {here}: SystemExit: 0"),
        ("mine:loss", "loss = 3", "mine:loss must be a function, got int"),
        ("mine:loss", "def loss(z, v): return z", "mine:loss raised TypeError: loss() takes 2 positional arguments"),
        (
            "mine:loss",
            "def loss(z, v, *a): return (z - v).mean()",
            "must return one value per example, shape (2,), got shape ()",
        ),
        ("mine:loss", "def loss(*a): return 0.5", "must return one value per example, shape (2,), got float"),
    ],
)
def test_unusable_input_is_named(run: Run, tmp_path: Path, where: str, source: str, said: str) -> None:
    status, out, err = run("check-loss", where, source=source)
    assert (status, out) == (2, "")
    assert err.startswith("kdlib check-loss: ") and said.format(here=tmp_path) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("check-los",), ("check-loss",), ("--versions",)])
def test_an_unknown_command_line_shows_the_usage(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and "usage: kdlib" in err


def test_the_examples_of_the_help_run(run: Run) -> None:
    status, out, _ = run("--help")
    examples = [line.split("  ")[1].split() for line in out.splitlines() if line.startswith("  kdlib ")]
    assert status == 0 and len(examples) == 4
    for program, *arguments in examples:
        assert program == "kdlib"
        assert run(*arguments, source="from kdlib.losses import kd_loss as loss")[0] == 0


def test_a_later_command_is_one_row_of_the_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
def command(subparsers):
    parser = subparsers.add_parser("count", help="count to a number")
    parser.add_argument("number", type=int)
    parser.set_defaults(function=run)

def run(args):
    if args.number < 1:
        raise ValueError(f"number must be at least 1, got {args.number}")
    print(*range(1, args.number + 1))
    return 0
"""
    monkeypatch.setitem(command.COMMANDS, "count", "mine:command")
    sys.path.insert(0, ".")
    assert run("count", "3", source=source) == (0, "1 2 3\n", "")
    assert run("count", "0", source=source) == (2, "", "kdlib count: number must be at least 1, got 0\n")
    status, out, _ = run("--help", source=source)
    assert status == 0 and "count to a number" in out and "check-loss" in out


def test_the_module_starts_quickly_and_says_its_version() -> None:
    code = (
        "import sys\nfrom kdlib.__main__ import main\ntry: main(['--version'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"kdlib {kdlib.__version__}\nFalse\n"
    done = subprocess.run([sys.executable, "-m", "kdlib", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kdlib {kdlib.__version__}\n"


def test_a_terminal_without_the_signs_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", "check-loss", "kdlib.losses:kd_loss"],
        capture_output=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"T? missing" in done.stdout
