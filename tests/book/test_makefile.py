"""The Makefile: its help on every system, and an environment that is made anew when it must be and only then."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"; printf '#!/bin/sh\\n[ "$2" = pip ] && exit ${{BROKEN:-0}}; echo "ran $*"\\n' > "$3/bin/python"
  chmod +x "$3/bin/python"
else exec "{python}" "$@"; fi
"""


@pytest.fixture
def make(tmp_path):
    """make(goal) in a copy of what the Makefile reads, with a Python whose environments are empty: its output."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (python := tmp_path / "python").write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)

    def call(goal: str, status: int = 0, **variables: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | variables
        command = ["make", "--no-print-directory", goal, f"PYTHON={python}"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode != 0) == bool(status), done.stderr
        return done.stdout

    def edit(name: str, old: str, new: str) -> None:
        text = (path := tmp_path / name).read_text("utf8")
        assert old in text
        path.write_text(text.replace(old, new), "utf8")
        later = (tmp_path / ".venv/.ready").stat().st_mtime + 2
        os.utime(path, (later, later))

    call.edit = edit
    return call


def test_help_lists_every_command(make):
    listed = re.findall(r"^  make ([a-z]+) +\S", make("help"), re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE)
    assert phony is not None and listed == phony[1].split()


def test_the_environment_is_made_anew_only_when_what_it_is_made_from_changed(make):
    made = "making the environment"
    assert made in make("book")
    assert make("book") == "ran -m book.tools book\n"
    make.edit("pyproject.toml", "line-length = 120", "line-length = 100")
    assert make("book") == "ran -m book.tools book\n"
    make.edit("pyproject.toml", '"papermill>=2.6"', '"papermill>=2.7"')
    assert made in make("book")
    make.edit("constraints.txt", "psutil==", "psutil==1.")
    assert made in make("book")


def test_an_environment_that_was_not_finished_is_made_anew(make):
    assert "making the environment" in make("book", status=2, BROKEN="1")
    assert "making the environment" in make("book")
    assert make("book") == "ran -m book.tools book\n"
