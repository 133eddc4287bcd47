"""The README's ten lines run as they stand and print what the README says."""

import ast
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_ten_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    exec(compile(code, "README.md", "exec"), {})
    accuracies, printed, *rest = capsys.readouterr().out.splitlines()
    assert set(ast.literal_eval(accuracies)) == {"hard labels", "flat", "KD"} and not rest
    found = re.fullmatch(r"what the teacher knows: \+([\d.]+) points \(95 % interval \+.* to \+.*, 20 seeds\)", printed)
    assert found, printed
    assert 0.5 < float(found[1]) < 6


def test_named_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text("utf-8")):
        assert (README.parent / target).exists(), target
