"""The apps: of a chapter's cells those that its figures need and no other, and nothing seen but the figures."""

import nbformat
import pytest

from book.tools import __main__ as tools
from book.tools import contents, figures, release

from .tinybook import ROOT, TinyBook, cell

EXPLORE = "explore(lambda n: draw(rows, n), n=[1, 2])"


@pytest.mark.parametrize(
    ("cells", "taken"),
    [
        (["rows = [1]", "other = 2", EXPLORE], [0, 2]),
        (
            ["rows = [1]", "def draw(rows, n):\n    return scale * n", "scale = 3", "print(scale)", EXPLORE],
            [0, 1, 2, 4],
        ),
        (["rows = []", "rows.append(1)", "rows[0] = 2", "rows.count(1)", EXPLORE], [0, 1, 2, 3, 4]),
        (["import pandas as pd", "rows = pd.Series()", "pd.concat([])", "print(rows)", EXPLORE], [0, 1, 4]),
        (["def f():\n    rows = 1", "for rows in []:\n    pass", "[rows for rows in []]", EXPLORE], [1, 3]),
        (["import torch", "torch.manual_seed(0)", "x = torch.ones(3)", EXPLORE], [0, 1, 3]),
        (["rows = 1", EXPLORE, "rows = 2", "rows = 3\n" + EXPLORE, "rows = 4"], [0, 1, 2, 3]),
        (["rows = %timeit -o 1", EXPLORE], [0, 1]),
        (["rows = 1", "print(rows)"], []),
    ],
)
def test_cells_that_a_figure_needs(cells, taken):
    found = figures.needed(cells)
    assert list(found) == taken
    assert [number for number, shows in found.items() if shows] == [
        n for n, text in enumerate(cells) if EXPLORE in text
    ]


CHAPTER = [
    "from kdlib.explore import explore\nimport matplotlib.pyplot as plt\n\nprint('seen by nobody')",
    "def draw(n):\n    plt.gca().plot([0, n * factor])\n    return f'Up to {n * factor}.'",
    "raise RuntimeError('no figure needs this')",
    "factor = 2",
]


@pytest.fixture
def tiny(tmp_path):
    made = TinyBook(tmp_path / "root")
    body = "".join(map(cell, CHAPTER)) + "\n## How far?\n\nText.\n" + cell("explore(draw, n=[1, 2])")
    made.chapter("b", body + cell("print('after the last figure')"))
    return made


def test_the_release_has_an_app_of_each_chapter_with_figures_that_move(tiny):
    assert tiny.call("release")[0] == 0
    tree = release.folder(tiny.root)
    (path,) = (tree / "figures").rglob("*.ipynb")
    assert path == tree / "figures" / "part" / "b.ipynb"
    made = nbformat.read(path, as_version=4)
    nbformat.validate(made)
    assert made.metadata["title"] == "Chapter b" and "language_info" not in made.metadata
    seen = [each.source for each in made.cells if not each.source.startswith("%%capture\n")]
    assert seen == ["# Chapter b", "## How far?", "explore(draw, n=[1, 2])"]
    assert "RuntimeError" not in path.read_text("utf8") and "after the last" not in path.read_text("utf8")
    page = (tree / "README.md").read_text("utf8")
    assert release.app(tiny.root, "part/b") in page and release.app(tiny.root, "part/a") not in page
    assert release.app(tiny.root, "part/b").endswith("/release?urlpath=voila/render/figures/part/b.ipynb")


def test_the_first_app_leads_to_the_others_and_they_back():
    def released(title):
        texts = [nbformat.v4.new_markdown_cell(f"# {title}"), nbformat.v4.new_code_cell("explore(f, n=[1])")]
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass"), *texts])

    made = figures.apps(
        {
            "index": released("Cover"),
            "levels/a": released("A"),
            "b": nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass")]),
        }
    )
    assert list(made) == ["index", "levels/a"]
    assert made["index"].cells[-1].source.endswith("\n- [A](levels/a.ipynb)")
    assert made["levels/a"].cells[-1].source == "[Cover](../index.ipynb)"


def test_every_moving_figure_of_the_book_is_in_an_app():
    made = release.apps(ROOT, contents.chapters(ROOT))
    assert "index" in made and len(made) > 10
    for chapter in contents.chapters(ROOT):
        calls = sum(figures.code(each.source).shows for each in chapter.read().cells if each.cell_type == "code")
        cells = made[chapter.name].cells if chapter.name in made else []
        shown = [each for each in cells if each.cell_type == "code" and not each.source.startswith("%%capture\n")]
        assert len(shown) == calls, chapter.name
        assert not any("$" in each.source for each in cells if each.cell_type == "markdown"), "voila sets no formulas"


def test_a_cell_that_is_no_python_is_named(tiny):
    tiny.chapter("a", cell("x = = 1"))
    status, said = tiny.call("release")
    assert status == 1 and "a cell cannot be read, invalid syntax: 'x = = 1'" in said


def test_the_command_says_how_to_install_voila_and_hands_options_on(tiny, monkeypatch):
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    status, said = tiny.call("figures")
    assert status == 1 and said == f"{figures.MISSING}\n"
    called = []
    monkeypatch.setattr(figures, "find_spec", lambda name: name)
    monkeypatch.setattr(
        tools.subprocess, "run", lambda command, cwd: called.append(command) or tools.subprocess.CompletedProcess([], 3)
    )
    assert tiny.call("figures", "--no-browser", "--port=1")[0] == 3
    folder = tiny.root / "_build" / "figures"
    assert called == [[*figures.voila_command(folder), "--no-browser", "--port=1"]]
    assert (folder / "part" / "b.ipynb").is_file()
