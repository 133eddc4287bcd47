"""Files that repeat each other agree, and the three mirrored trees match."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from book.tools import contents

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in found), "every line of constraints.txt is name==version"
    return {canonicalize_name(name): version for name, version in found}


def test_the_pins_satisfy_the_lower_bounds():
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(line) for line in (*PROJECT["dependencies"], *extras["book"], *extras["test"])]
    pinned = pins()
    missing = [r.name for r in wanted if canonicalize_name(r.name) not in pinned]
    assert missing == [], "not pinned in constraints.txt (make lock)"
    assert [str(r) for r in wanted if not r.specifier.contains(pinned[canonicalize_name(r.name)])] == []


def test_the_pins_name_no_machine():
    text = (ROOT / "constraints.txt").read_text("utf8")
    assert "://" not in text and " @ " not in text and "+" not in text


def test_environment_yml_repeats_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))
    python, pip, nested = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}" and pip == "pip"
    assert nested == {"pip": ["-c constraints.txt", "-e .[book,test]"]}
    assert {"book", "test"} <= PROJECT["optional-dependencies"].keys()


def test_every_entry_of_the_contents_exists_once():
    names = contents.toc_entries(ROOT)
    assert len(names) == len(set(names))
    assert all(contents.page_source(ROOT, name).is_file() for name in names)


@pytest.mark.parametrize("part", ["levels", "mechanisms"])
def test_a_page_has_its_module_and_the_module_its_test(part):
    stems = [path.stem for path in (ROOT / "book" / part).glob("*.md")]
    # two pages may share a module: a teacher taken apart, and the two sides of a failure
    shared = {"together": "split", "losses": "split", "teachers": "failures", "settings": "failures"}
    modules = [shared.get(stem, stem) for stem in stems]
    expected = [f"{tree.format(part, stem)}" for stem in modules for tree in ("kdlib/{}/{}.py", "tests/{}/test_{}.py")]
    assert [path for path in expected if not (ROOT / path).is_file()] == []


def test_no_scripts_in_the_static_folder():
    """Jupyter Book would load each of them on every page."""
    assert list((ROOT / "book" / "_static").rglob("*.js")) == []


def test_notebooks_are_build_products():
    assert list((ROOT / "book").rglob("*.ipynb")) == []
