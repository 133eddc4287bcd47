"""Every example in kdlib's docstrings runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import kdlib

MODULES = [
    "kdlib",
    *(m.name for m in pkgutil.walk_packages(kdlib.__path__, "kdlib.") if not m.name.endswith("__main__")),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples() -> None:
    """Guards against a run that finds nothing."""
    assert doctest.testmod(kdlib.losses.kd).attempted >= 4
