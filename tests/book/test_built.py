"""The gates on the book that lies built in ``_build``, as `make check` runs them."""

from pathlib import Path

import pytest

from book.tools import __main__ as tools
from book.tools import execute, pages

ROOT = Path(__file__).parents[2]


def test_the_built_book_passes_every_gate(capsys):
    try:
        execute.load_executed(ROOT, "page")
        current = pages.is_current(ROOT)
    except ValueError:
        current = False
    if not current:
        pytest.skip("the book is not built, or not from these sources: run `make book` first")
    status = tools.main(["check"])
    assert status == 0, capsys.readouterr().out
