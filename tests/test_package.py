"""The package as others meet it: public names that come when asked for, types, the installed wheel."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

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
        "print(kdlib.resnet.Block.__name__)\n"  # a module that no list names
        "from kdlib import *\nprint(losses.kd_loss.__name__, Recipe is kdlib.fleet.Recipe, train is kdlib.fleet.train)"
    )
    assert python(code).split() == ["True", "kdlib.data.images", "explore", "Block", "kd_loss", "True", "True"]


def test_type_checkers_know_the_lazy_names(tmp_path: Path) -> None:
    """The right names have their types, and a name that is not there is an error."""
    source = (
        "import kdlib\nfrom kdlib import Recipe, data, distil, losses\n"
        "reveal_type(Recipe.hard())\nreveal_type(data.digits)\nreveal_type(losses.kd_loss)\nkdlib.Recipes\n"
    )
    (tmp_path / "reader.py").write_text(source, "utf-8")
    options = ["--no-error-summary", "--hide-error-context", str(tmp_path / "reader.py")]
    done = subprocess.run([sys.executable, "-m", "mypy", *options], cwd=ROOT, capture_output=True, text=True)
    said = [line.partition("reader.py:")[2] for line in done.stdout.splitlines() if "reader.py:" in line]
    assert said[0] == '2: error: Module "kdlib" has no attribute "distil"  [attr-defined]'
    assert re.fullmatch(r'3: note: Revealed type is "kdlib\.fleet\.\w+\.Recipe"', said[1])
    assert "Any" not in said[2].partition("->")[2] and said[2].endswith('-> kdlib.data.task.Task"')
    assert said[3].endswith('-> torch._tensor.Tensor"')
    assert len(said) == 5 and said[4].startswith('6: error: Module has no attribute "Recipes"')


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout with the build backend that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run([sys.executable, "-m", "build", *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which kdlib is that wheel, and what it requires is what is installed here."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = home.rglob("site-packages")
    (site / "others.pth").write_text(
        sysconfig.get_path("purelib"), "utf-8"
    )  # its own .pth files are not read: no checkout
    return programs


def outside(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run([program, *arguments], cwd=cwd, env=kept, capture_output=True, text=True)


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    code = {name for name in names if not name.startswith(f"kdlib-{kdlib.__version__}.dist-info/")}
    tree = [path for path in (ROOT / "kdlib").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    tables = [path for path in (ROOT / "data").iterdir() if path.is_file()]
    assert code == {path.relative_to(ROOT).as_posix() for path in tree} | {f"kdlib/shipped/{p.name}" for p in tables}
    assert {"kdlib/py.typed", "kdlib/explore/static/explore.js", "kdlib/shipped/checksums.json"} <= code
    assert "Classifier: Typing :: Typed" in metadata and "License-Expression: MIT" in metadata
    assert not re.search(r"(?i)\bUNKNOWN\b|example\.", metadata.partition("\n\n")[0])


def test_the_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import json, kdlib, matplotlib.pyplot as plt\nfrom kdlib.data.shipped import folder, shipped as s\n"
        "place = folder()\n"
        "sizes = {name: len(s(name)) for name in (p.stem for p in place.glob('*.npz'))}\n"
        "figure = kdlib.explore.explore(lambda T: (plt.plot([0, T]), f'To {T}.')[1], T=[1, 2])\n"
        "print(json.dumps([kdlib.__file__, str(place), sizes, 'kdx-frames' in figure.html()]))"
    )
    done = outside(installed / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file, place, sizes, drawn = json.loads(done.stdout)
    home = installed.parent.resolve()
    assert Path(file).resolve().is_relative_to(home) and Path(place).resolve().is_relative_to(home)
    assert sizes.keys() == {path.stem for path in (ROOT / "data").glob("*.npz")} and all(sizes.values()) and drawn


def test_the_installed_command_runs(installed: Path, tmp_path: Path) -> None:
    done = outside(installed / "kdlib", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"kdlib {PROJECT['version']}\n")
    (tmp_path / "mine.py").write_text("from kdlib.losses import kd_loss as loss\n", "utf-8")
    done = outside(installed / "kdlib", "check-loss", "mine:loss", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("mine:loss has none of them")


# ---- what pyproject.toml says


def test_the_version_is_stated_once_for_both() -> None:
    assert kdlib.__version__ == PROJECT["version"]


def test_every_dependency_has_a_lower_bound_that_can_be_tried() -> None:
    """`make lowest` turns each >= into ==."""
    for line in PROJECT["dependencies"]:
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line), line


def test_the_jobs_of_ci_are_commands_of_the_makefile() -> None:
    read = [(ROOT / f".github/workflows/{name}.yml").read_text("utf-8") for name in ("tests", "weekly")]
    jobs = {name: job for text in read for name, job in yaml.safe_load(text)["jobs"].items()}
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    commands = {name: job["steps"][-1]["run"] for name, job in jobs.items()}
    assert commands == {"test": ".ci/run", "lowest": "make lowest", "newest": "make newest", "links": "make links"}
    assert {"test", "lowest", "newest", "links"} <= set(targets)
    oldest = jobs["lowest"]["steps"][1]["with"]["python-version"]
    assert PROJECT["requires-python"] == f">={oldest}"
