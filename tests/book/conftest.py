"""No test of the tools leaves a process behind."""

from collections.abc import Iterator

import pytest

from tests import leftovers


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    with leftovers.none():
        yield
