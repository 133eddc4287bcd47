"""The package as others meet it: public names that come when asked for, types, the installed wheel."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import kdlib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FIRST_NAMES = {"resnet"}  # modules that only keep an older name alive
LAZY = ["kdlib", "kdlib.data", "kdlib.levels"]


def python(code: str, *options: str, cwd: Path = ROOT) -> str:
    """What a fresh Python prints that starts in `cwd`; it must end well."""
    done = subprocess.run([sys.executable, *options, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def foreign(statement: str) -> set[str]:
    """Packages of others that a statement loads once torch is there."""
    code = f"import json, sys, torch\nold = set(sys.modules)\n{statement}\nprint(json.dumps([*set(sys.modules) - old]))"
    packages = {name.partition(".")[0] for name in json.loads(python(code))}
    return packages - set(sys.stdlib_module_names) - {"kdlib"}


# ---- public names


def test_losses_and_models_load_nothing_but_torch() -> None:
    own = foreign("from kdlib.losses import kd_loss\nfrom kdlib import losses, models")
    assert {name for name in own if not name.startswith("_")} == set()  # numpy comes with torch


@pytest.mark.parametrize(
    "statement",
    [
        "from kdlib.data import Task, world",
        "import kdlib; kdlib.train, kdlib.Recipe, kdlib.trainer",
        "from kdlib import levels; levels.universe, levels.split, levels.museum",
        "import kdlib.checks",
    ],
)
def test_training_loads_neither_widgets_nor_plots_nor_scikit_learn(statement: str) -> None:
    loaded = foreign(statement)
    assert loaded & {"ipywidgets", "IPython", "matplotlib", "seaborn", "sklearn", "PIL"} == set()
    assert "pandas" in loaded  # guards against a run that loads nothing


@pytest.mark.parametrize("package", LAZY)
def test_lists_of_lazy_names_agree(package: str) -> None:
    """The table, `__all__`, what type checkers read, and what is there."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    told = {
        alias.name: f"{node.module}.{alias.name}" if node.module == package else node.module
        for node in imports
        for alias in node.names
    }
    table = module._TABLE
    assert table.keys() == told.keys() and len(table) > 4
    assert set(table) <= set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        value = getattr(module, name)
        if name in table:
            home = importlib.import_module(table[name])
            assert value is home if table[name] == f"{package}.{name}" else value is getattr(home, name)
            assert told[name] == table[name]
        assert vars(module)[name] is value  # found once, then an ordinary name


def test_every_module_is_public() -> None:
    modules = {m.name for m in pkgutil.iter_modules(kdlib.__path__) if not m.name.startswith("_")}
    assert modules - FIRST_NAMES <= set(kdlib.__all__)


@pytest.mark.parametrize("package", LAZY)
def test_a_name_that_is_not_there_is_an_ordinary_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'distil'"):
        _ = module.distil
    with pytest.raises(ImportError, match="cannot import name 'distil'"):
        exec(f"from {package} import distil")


def test_names_in_any_order_of_import() -> None:
    code = (
        "from kdlib.data.shipped import pack_logits\nimport kdlib.data.images\nimport kdlib.explore.page\nimport kdlib\n"
        "print(callable(kdlib.data.shipped), kdlib.data.digits.__module__, kdlib.explore.explore.__name__)\n"
        "from kdlib import *\nprint(losses.kd_loss.__name__, Recipe is kdlib.fleet.Recipe, train is kdlib.fleet.train)"
    )
    assert python(code).split() == ["True", "kdlib.data.images", "explore", "kd_loss", "True", "True"]


def test_the_version_is_stated_once_for_both() -> None:
    assert kdlib.__version__ == PROJECT["version"]
