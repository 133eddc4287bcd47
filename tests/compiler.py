"""What torch.compile needs of a machine to make code for its CPU."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch


def needed() -> None:
    """Skip the test, and say why, where there is no C++ compiler or it would not find what torch.compile names to it."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler")
    named = [Path(path) for path in os.environ.get("CPLUS_INCLUDE_PATH", "").split(os.pathsep) if path]
    if not any((folder / "Python.h").is_file() for folder in (Path(sysconfig.get_path("include")), *named)):
        pytest.skip("torch.compile needs Python's C headers; on Debian and Ubuntu, python3-dev has them")
    if any(map(str.isspace, torch.__file__)):
        pytest.skip("torch.compile hands the linker its own folder unquoted, and here a space is in its name")
