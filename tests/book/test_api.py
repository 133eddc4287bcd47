"""The page of all names: complete, in the docstrings' own words, and without a warning of Sphinx."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bs4 import BeautifulSoup, Tag
from sphinx.util.inventory import InventoryFile

import kdlib
from book.tools import docstrings, pages

ROOT = Path(__file__).parents[2]
FIRST_NAMES = {"kdlib.resnet", "kdlib.levels.checks"}  # modules that only keep an older name alive
CONF = """\
extensions = ["myst_parser", "sphinx.ext.autodoc", "book.tools.docstrings"]
myst_enable_extensions = ["dollarmath"]
globals().update({settings})
"""


def public() -> Iterator[tuple[str, Any]]:
    """Every public function, class and listed name of every public module: ("module.name", object)."""
    names = [m.name for m in pkgutil.walk_packages(kdlib.__path__, "kdlib.")]
    for name in ["kdlib", *(n for n in names if "._" not in n and n not in FIRST_NAMES)]:
        module = importlib.import_module(name)
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == name]
        kinds = [key for key in own if inspect.isfunction(vars(module)[key]) or inspect.isclass(vars(module)[key])]
        for key in sorted({*getattr(module, "__all__", []), *(key for key in kinds if not key.startswith("_"))}):
            if not inspect.ismodule(value := getattr(module, key)):  # what is in it has its own turn
                yield f"{name}.{key}", value


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two pages for looking up, built by Sphinx alone with the book's settings, warnings as errors."""
    source = tmp_path_factory.mktemp("api")
    given = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]["config"]
    settings = {key: value for key, value in given.items() if key.startswith(("autodoc", "nitpick", "maximum"))}
    (source / "conf.py").write_text(CONF.format(settings=settings), "utf-8")
    (source / "index.md").write_text("# Index\n\n```{toctree}\napi\nnotation\n```\n", "utf-8")
    for name in ("api.md", "notation.md"):
        shutil.copy(ROOT / "book" / "appendix" / name, source)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "-n",
        "--keep-going",
        "-b",
        "html",
        str(source),
        str(source / "html"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return source / "html"


def entries(site: Path) -> dict[str, str]:
    """Full name -> kind of everything that the page documents."""
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, place: place)
    return {name: kind for kind, found in inventory.items() if kind.startswith("py:") for name in found}


def resolve(name: str) -> Any:
    """The object of this name. A package may have a function and a module of one name: the last part is an attribute."""
    parent, _, last = name.rpartition(".")
    if not parent:
        return importlib.import_module(name)
    try:
        home = importlib.import_module(parent)
    except ModuleNotFoundError:  # an attribute of a class
        home = resolve(parent)
    if not hasattr(home, last):  # a module that its package imports when it is wanted
        return importlib.import_module(name)
    return getattr(home, last)


def test_every_public_name_is_on_the_page(site: Path) -> None:
    listed = entries(site)
    there = {id(resolve(name)) for name, kind in listed.items() if kind != "py:method" and kind != "py:property"}
    missing = [name for name, value in public() if name not in listed and id(value) not in there]
    assert not missing, "\n".join(missing)
    assert len(listed) > 100 and {"kdlib.losses.kd_loss", "kdlib.fleet.Fleet.predict", "kdlib.plots.COLOURS"} <= set(
        listed
    )


def test_everything_on_the_page_says_what_it_is(site: Path) -> None:
    page = BeautifulSoup((site / "api.html").read_text("utf-8"), "html.parser")
    silent = []
    for entry in page.select("dl.py > dd"):
        head = entry.find_previous_sibling("dt")
        assert isinstance(head, Tag)
        if not entry.get_text(strip=True):
            silent.append(head.get("id"))
    assert [name for name in silent if name and entries(site)[str(name)] != "py:data"] == []
    assert page.select(".problematic, .system-message") == []


def test_the_contents_name_both_pages() -> None:
    text = (ROOT / "book" / "_toc.yml").read_text("utf-8")
    assert "file: appendix/api\n" in text and "file: appendix/notation\n" in text


def test_a_changed_docstring_makes_the_pages_stale(tmp_path: Path) -> None:
    for name, text in {
        "book/_toc.yml": "root: index\n",
        "book/index.md": "# Index\n",
        "kdlib/a.py": '"""One."""\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    before = pages.site_key(tmp_path)
    assert pages.site_key(tmp_path) == before
    (tmp_path / "kdlib" / "a.py").write_text('"""Two."""\n', "utf-8")
    assert pages.site_key(tmp_path) != before


@pytest.mark.parametrize(
    ("docstring", "shown"),
    [
        (
            "`Task`s of **kinds, *args, a|b and x_ are :what: they are::",
            "Tasks of **kinds, *args, a|b and x_ are :what: they are::",
        ),
        ("draw(**state) draws\n    what is seen\ntable: the data", "draw(**state) draws what is seen table: the data"),
        ("The sum:\n\n    p = a*b + `c`\n\nand on.", "The sum: p = a*b + `c` and on."),
        ("- one `x`\n- two\n  of them", "one x two of them"),
        ("1. is a number, and\n==== no line", "1. is a number, and ==== no line"),
        (".. note:: a directive", ".. note:: a directive"),
        (">>> 1 + 1\n2", ">>> 1 + 1 2"),
        ("`a\nb` c", "a b c"),
    ],
)
def test_a_docstring_means_itself(docstring: str, shown: str) -> None:
    from docutils.core import publish_doctree

    rst = "\n".join(docstrings.to_rst(docstring.splitlines()))
    tree = publish_doctree(rst, settings_overrides={"report_level": 1, "halt_level": 2, "smart_quotes": False})
    assert " ".join(tree.astext().split()) == shown
