"""A chapter runs again when something that it depends on changed, and only then."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book.tools import contents, imports, keys

ROOT = Path(__file__).parents[2]
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
MODULES = {
    "__init__": """
from typing import TYPE_CHECKING

from kdlib import lazy

if TYPE_CHECKING:
    from kdlib.only_types import Thing

_TABLE = {"train": "kdlib.fleet", "fleet": "kdlib.fleet", "levels": "kdlib.levels"}
__version__ = "1"
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy.attach(__name__, _TABLE)
""",
    "lazy": "from importlib import import_module\n\n\ndef attach(package, table):\n    return lambda n: import_module(table[n])",
    "only_types": "",
    "fleet/__init__": "from .engine import train",
    "fleet/engine": "def train():\n    from .. import losses\n\n    return losses",
    "losses": "import fakepkg\n",
    "levels/__init__": "",
    "levels/domain": "",
    "levels/museum": "",
    "alone": "",
    "web/__init__": "",
    "web/page": "",
    "commands": 'import importlib\n\nTABLE = ["kdlib.alone"]\n\n\ndef go(n):\n    importlib.import_module(TABLE[n])',
}


class Book:
    """A root with a kdlib of its own, one chapter and data folders; its key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in MODULES.items():
            self.write(f"kdlib/{name}.py", text + "\n")
        self.write("kdlib/web/static/page.js", "1")
        self.write("data/table.npz", "numbers")
        self.write("data/other.npz", "numbers")
        self.write("data/checksums.json", json.dumps({"table.npz": "a", "other.npz": "b"}))
        (root / "kdlib" / "data").mkdir()
        shutil.copy(ROOT / "kdlib" / "data" / "places.py", root / "kdlib" / "data" / "places.py")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf8")

    def key(self, *cells: str) -> str:
        body = "".join(f"\n```{{code-cell}} python\n{cell}\n```\n" for cell in cells)
        self.write("book/part/a.md", f"{HEADER}\nText on cifar100, kdlib.alone and table.\n{body}")
        chapter = contents.Chapter("part/a", self.root / "book" / "part" / "a.md")
        return keys.chapter_key(self.root, chapter, keys.environment_key(self.root))


@pytest.fixture
def book(tmp_path, monkeypatch):
    for name in ("data", "cache"):
        (tmp_path / "outside" / name).mkdir(parents=True)
        monkeypatch.setenv(f"KDLIB_{name.upper()}", str(tmp_path / "outside" / name))
    return Book(tmp_path / "root")


# Modules


@pytest.mark.parametrize(
    ("cells", "module"),
    [
        (["import kdlib.alone"], "alone"),
        (["import kdlib.alone"], "__init__"),
        (["from kdlib.alone import x"], "alone"),
        (["from kdlib import alone as a"], "alone"),
        (["def f():\n    import kdlib.alone"], "alone"),
        (["from kdlib.fleet import train"], "fleet/engine"),
        (["from kdlib.fleet import train"], "losses"),
        (["from kdlib import train"], "fleet/engine"),
        (["import kdlib", "kdlib.train()"], "fleet/engine"),
        (["import kdlib as k", "k.fleet.train()"], "fleet/engine"),
        (["import kdlib", "x = k = kdlib"], "alone"),
        (["import kdlib", "getattr(kdlib, name)"], "fleet/engine"),
        (["import kdlib", "kdlib.a_name_that_no_table_has"], "alone"),
        (["from kdlib import *"], "fleet/engine"),
        (["from kdlib import levels", "levels.domain.f()"], "levels/domain"),
        (['import importlib\n\nimportlib.import_module("kdlib.alone")'], "alone"),
        (['import importlib\n\nimportlib.import_module(f"kdlib.levels.{name}")'], "levels/museum"),
        (["from kdlib.commands import go"], "alone"),
        (["%matplotlib inline\nimport kdlib.alone"], "alone"),
        (["await kdlib.x", "import kdlib.alone"], "alone"),
        (["this is no Python"], "levels/museum"),
    ],
)
def test_a_module_that_a_chapter_can_reach_is_in_its_key(book, cells, module):
    before = book.key(*cells)
    book.write(f"kdlib/{module}.py", MODULES[module] + "\nchanged = 1\n")
    assert book.key(*cells) != before


@pytest.mark.parametrize(
    ("cells", "module"),
    [
        (["x = 1"], "__init__"),
        (["import kdlib"], "fleet/engine"),
        (["import kdlib", "kdlib.__version__"], "fleet/engine"),
        (["from kdlib import train"], "only_types"),
        (["from kdlib import train"], "alone"),
        (["from kdlib import train"], "levels/__init__"),
        (["from kdlib.levels import domain"], "levels/museum"),
        (["from kdlib import levels", "levels.domain.f()"], "levels/museum"),
        (["from kdlib.levels.domain import f"], "fleet/__init__"),
        (['print("kdlib.alone")', "import kdlib"], "alone"),
    ],
)
def test_an_edit_elsewhere_runs_nothing_again(book, cells, module):
    before = book.key(*cells)
    book.write(f"kdlib/{module}.py", MODULES[module] + "\nchanged = 1\n")
    assert book.key(*cells) == before


def test_the_chapter_itself_is_in_its_key(book):
    before = book.key("x = 1")
    assert book.key("x = 2") != before and book.key("x = 1") == before
    path = book.root / "book" / "part" / "a.md"
    path.write_text(path.read_text("utf8") + "\nMore text.\n", "utf8")
    assert keys.chapter_key(book.root, contents.Chapter("part/a", path), keys.environment_key(book.root)) != before


def test_settings_pins_tests_and_other_pages_are_not_in_the_key(book):
    before = book.key("from kdlib import train")
    for name in ("pyproject.toml", "constraints.txt", "tests/test_fleet.py", "book/part/b.md", "data/README.md"):
        book.write(name, "new")
        assert book.key("from kdlib import train") == before, name


def test_the_same_chapter_in_another_place_has_the_same_key(book, tmp_path):
    cells = ["from kdlib.web import page", 'shipped("table")']
    shutil.copytree(book.root, tmp_path / "a second place" / "root")
    assert Book(tmp_path / "another place").key(*cells) == book.key(*cells)


def test_scripts_and_styles_belong_to_the_package_beside_them(book):
    with_page, without = ["from kdlib.web.page import x"], ["from kdlib import train"]
    before = book.key(*with_page), book.key(*without)
    book.write("kdlib/web/static/page.js", "2")
    assert book.key(*with_page) != before[0] and book.key(*without) == before[1]


def test_what_lies_beside_the_chapter_and_is_named_is_in_the_key(book):
    book.write("book/part/helper.py", "import kdlib.alone")
    book.write("book/part/numbers.csv", "1")
    book.write("book/part/script.py", "import kdlib.levels.museum")
    cells = ["import helper", 'open("numbers.csv")', "%run script.py"]
    beside = ("book/part/helper.py", "book/part/numbers.csv", "book/part/script.py")
    for name in (*beside, "kdlib/alone.py", "kdlib/levels/museum.py"):
        before = book.key(*cells)
        book.write(name, (book.root / name).read_text("utf8") + "\n")
        assert book.key(*cells) != before, name
    before = book.key(*cells)
    book.write("book/part/other.csv", "3")
    assert book.key(*cells) == before


ORACLE = """
import ast, importlib, json, os, sys
import IPython, ipywidgets, joblib, matplotlib.pyplot, pandas, scipy.stats, seaborn, sklearn.datasets, torch
for name, source in json.load(sys.stdin).items():
    if os.fork():
        os.wait()
        continue
    names = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(ast.unparse(node), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id)
            if getattr(module, "__name__", "").startswith("kdlib") and hasattr(module, "__path__"):
                getattr(module, node.attr)
    print(json.dumps([name, sorted(m for m in sys.modules if m.split(".")[0] == "kdlib")]), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
def test_what_the_chapters_of_the_book_import_was_foreseen():
    """Python itself is asked what it loads for each chapter; the key must hold all of it."""
    told, sources = {}, {}
    for chapter in contents.chapters(ROOT):
        cells = [cell.source for cell in chapter.read().cells if cell.cell_type == "code"]
        told[chapter.name], _ = imports.reached(imports.read_cells(cells), (ROOT, chapter.source.parent))
        sources[chapter.name] = "\n".join(cells)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ORACLE],
        input=json.dumps(sources),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = dict(json.loads(line) for line in done.stdout.splitlines())
    assert loaded.keys() == sources.keys() and any(loaded.values())
    assert {name: sorted({*modules} - {*told[name]}) for name, modules in loaded.items()} == {
        name: [] for name in loaded
    }
    assert not any("kdlib.trainer" in modules for modules in told.values()), "no chapter trains a big network"


# Installed packages


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Pretend that a version of a package is installed."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(name: str, version: str, *required: str) -> None:
        for old in (tmp_path / "site").glob(f"{name}-*"):
            shutil.rmtree(old)
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in required)]
        (folder / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        (folder / "top_level.txt").write_text(name)
        keys._distributions.cache_clear()
        keys._installed.cache_clear()

    yield install
    keys._distributions.cache_clear()
    keys._installed.cache_clear()


def test_versions_of_what_is_imported_and_of_what_that_requires_are_in_the_key(book, install):
    cells, alone = ["from kdlib.losses import kd"], ["from kdlib import alone"]
    install("fakepkg", "1.0", "below>=1", 'elsewhere; sys_platform == "nowhere"', 'extra; extra == "more"')
    for name in ("below", "elsewhere", "extra", "unrelated"):
        install(name, "1.0")
    before, other = book.key(*cells), book.key(*alone)
    for name in ("elsewhere", "extra", "unrelated"):
        install(name, "2.0")
        assert book.key(*cells) == before, name
    install("below", "2.0")
    after = book.key(*cells)
    assert after != before
    install("fakepkg", "1.1", "below>=1")
    assert book.key(*cells) not in (before, after)
    assert book.key(*alone) == other


def test_python_and_what_runs_chapters_are_in_every_key(book, install, monkeypatch):
    before = book.key("x = 1")
    install("ipykernel", "0.0.1")
    after = book.key("x = 1")
    monkeypatch.setattr(keys.platform, "python_version", lambda: "3.99.0")
    assert len({before, after, book.key("x = 1")}) == 3


# Files


def test_a_shipped_table_counts_where_it_is_named(book):
    named, computed, neither = ['shipped("table")'], ["shipped(name)"], ['"a tablet"']
    before = [book.key(*cells) for cells in (named, computed, neither)]
    book.write("data/other.npz", "NUMBERS")
    assert book.key(*named) == before[0] and book.key(*computed) != before[1]
    book.write("data/table.npz", "NUMBERS")
    after = book.key(*named)
    assert after != before[0]
    book.write("data/checksums.json", json.dumps({"table.npz": "c", "other.npz": "b"}))
    assert book.key(*named) != after and book.key(*neither) == before[2]


def data_file(variable: str, name: str) -> Path:
    path = Path(os.environ[variable]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_data_sets_count_by_content_where_they_are_named(book):
    cells, others = ['if data.available("cifar100"):\n    data.cifar100()'], ["data.cifar10()", "train = test = 1"]
    absent, other = book.key(*cells), book.key(*others)
    file = data_file("KDLIB_DATA", "cifar-100-python/train")
    file.write_bytes(b"abc")
    present = book.key(*cells)
    file.write_bytes(b"abd")
    changed = book.key(*cells)
    assert len({absent, present, changed}) == 3
    data_file("KDLIB_DATA", "cifar-100-python/readme").write_bytes(b"never read")
    data_file("KDLIB_DATA", "cifar100/train_00.webp").write_bytes(b"never read")
    assert book.key(*cells) == changed and book.key(*others) == other
    file.write_bytes(b"abc")
    assert book.key(*cells) == present


def test_who_only_speaks_of_a_data_set_does_not_read_it(book):
    book.write("kdlib/data/__init__.py", "")
    book.write("kdlib/data/images.py", 'NAMES = ["cifar100"]')
    book.write("kdlib/alone.py", '"""Made for cifar100."""')
    cells = ["import kdlib.data.images, kdlib.alone"]
    before = book.key(*cells)
    data_file("KDLIB_DATA", "cifar-100-python/train").write_bytes(b"abc")
    assert book.key(*cells) == before
    book.write("kdlib/alone.py", 'SET = "cifar100"')
    before = book.key(*cells)
    data_file("KDLIB_DATA", "cifar-100-python/train").write_bytes(b"abd")
    assert book.key(*cells) != before


def test_the_same_data_elsewhere_is_the_same_data(book, tmp_path, monkeypatch):
    data_file("KDLIB_DATA", "cifar-100-python/train").write_bytes(b"abc")
    before = book.key("data.cifar100()")
    moved = tmp_path / "outside" / "moved"
    Path(os.environ["KDLIB_DATA"]).rename(moved)
    monkeypatch.setenv("KDLIB_DATA", str(moved))
    assert book.key("data.cifar100()") == before
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="KDLIB_DATA must be an existing folder"):
        book.key("data.cifar100()")


def test_a_download_in_the_cache_folder_counts_if_it_is_whole(book):
    cells = ["data.cifar10()"]
    absent = book.key(*cells)
    archive = data_file("KDLIB_CACHE", "downloads/cifar-10-python.tar.gz")
    archive.write_bytes(b"half of it")
    assert book.key(*cells) == absent
    places = book.root / "kdlib" / "data" / "places.py"
    md5 = keys.hashlib.md5(b"half of it").hexdigest()
    places.write_text(places.read_text("utf8").replace("c58f30108f718f92721af3b95e74349a", md5), "utf8")
    assert book.key(*cells) != absent


@pytest.mark.parametrize("variable", ["KDLIB_DATA", "KDLIB_CACHE"])
@pytest.mark.parametrize("cell", ['os.environ["{}"]', "places.{}()"])
def test_a_data_folder_that_is_itself_named_counts_as_a_whole(book, variable, cell):
    named = cell.format(variable if "environ" in cell else keys.FOLDERS[variable])
    before, other = book.key(named), book.key("x = 1")
    file = data_file(variable, "deep/er/numbers.csv")
    file.write_text("1")
    first = book.key(named)
    file.write_text("2")
    assert len({before, first, book.key(named)}) == 3 and book.key("x = 1") == other


def test_a_setting_of_kdlib_counts_where_its_name_is(book, monkeypatch):
    before, other = book.key('os.environ.get("KDLIB_PACE")'), book.key("x = 1")
    monkeypatch.setenv("KDLIB_PACE", "2")
    assert book.key('os.environ.get("KDLIB_PACE")') != before and book.key("x = 1") == other


def test_a_large_file_is_read_once_as_long_as_its_size_and_time_are_the_same(book, monkeypatch):
    file = data_file("KDLIB_DATA", "cifar-100-python/train")
    file.write_bytes(b"abc")
    os.utime(file, (1e9, 1e9))
    before = book.key("data.cifar100()")
    with monkeypatch.context() as patch:
        patch.setattr(keys.hashlib, "file_digest", lambda *_: pytest.fail("read a second time"))
        assert book.key("data.cifar100()") == before
    file.write_bytes(b"abd")
    os.utime(file, (1e9, 1e9 + 1))
    assert book.key("data.cifar100()") != before


@pytest.mark.parametrize("memory", ["", "[1]", '{"x": 3}', "{", "\ufeff", None])
def test_a_damaged_memory_of_checksums_costs_time_only(book, memory):
    file = data_file("KDLIB_DATA", "cifar-100-python/train")
    file.write_bytes(b"abc")
    os.utime(file, (1e9, 1e9))
    before = book.key("data.cifar100()")
    if memory is None:
        shutil.rmtree(book.root / "_build")
        book.write("_build", "in the way")
    else:
        kept = json.dumps({str(file): 7}) if memory == '{"x": 3}' else memory
        book.write("_build/checksums.json", kept)
    assert book.key("data.cifar100()") == before


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"metadata": []}', '{"metadata": {"kdlib": 3}}', "\0\1"])
def test_a_damaged_result_counts_as_none(tmp_path, stored):
    (tmp_path / "a.ipynb").write_text(stored)
    assert keys.stored_key(tmp_path / "a.ipynb") is None
    assert keys.stored_key(tmp_path / "none.ipynb") is None
    (tmp_path / "a.ipynb").write_bytes(b"\xff\xfe{")
    assert keys.stored_key(tmp_path / "a.ipynb") is None
