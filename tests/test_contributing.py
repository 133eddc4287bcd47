"""The examples in CONTRIBUTING run as they stand, and what they train learns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_two() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("code", EXAMPLES, ids=["network", "method"])
def test_example(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "example"})
    assert 0.4 < float(capsys.readouterr().out) < 1  # chance is 0.05
    assert torch.get_num_threads() == threads
