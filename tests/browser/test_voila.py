"""The figures as apps: voila shows them without code, they move, and one that can train another setting does."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest

from book.tools import figures
from tests.browser import lab

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("voila") is None, reason=figures.MISSING),
]
# all that voila asks for outside; the figures use none of it
ICONS = ("https://cdn.jsdelivr.net/npm/@fortawesome/", "https://cdn.jsdelivr.net/npm/font-awesome@")
CODE = [
    "from kdlib.explore import Control, explore\nimport matplotlib.pyplot as plt\nprint('unseen')",
    "def draw(T, alpha):\n    plt.gca().plot([0, alpha * T])\n    return f'At T = {T:g} and alpha = {alpha:g}: {alpha * T:g}.'",
    "def retrain(T, alpha):\n    yield 0.5",
    "raise RuntimeError('no figure needs this')",
    'explore(draw, retrain=retrain, T=Control([1, 2, 4], "temperature T"), alpha=[0.5, 1])',
]


def released(title: str) -> nbformat.NotebookNode:
    """A chapter as the release has it: an installing cell, a title, cells of code."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("pass", *CODE)]
    cells.insert(1, nbformat.v4.new_markdown_cell(f"# {title}\n\nText that is not the figure's."))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_figures_alone_move_and_train_and_lead_to_each_other(tmp_path: Path, visit: Any) -> None:
    folder = tmp_path / "apps"
    for name, made in figures.apps({"index": released("All"), "part/a": released("One")}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(made, folder / f"{name}.ipynb")
    command = [*figures.voila_command(folder), "--no-browser", f"--port={free_port()}"]
    with lab.served(command, tmp_path) as home:
        seen = visit(f"{home}/")  # the list of the folder; an app takes as long as its cells
        page = seen.page
        page.set_default_timeout(120_000)
        page.goto(f"{home}/voila/render/index.ipynb")
        page.get_by_role("link", name="One").click()
        page.wait_for_url("**/voila/render/part/a.ipynb")
        figure = page.locator("figure.kdx.kdx-ready")
        figure.wait_for()
        assert page.title() == "One" and page.get_by_role("heading", name="One").is_visible()
        assert page.get_by_text("Text that is not").count() == page.get_by_text("unseen").count() == 0
        assert (
            page.locator("pre >> visible=true").count()
            == page.locator(".jp-CodeCell .jp-InputArea >> visible=true").count()
            == 0
        )
        sentence, picture = figure.locator(".kdx-sentence"), figure.locator("img")
        before = picture.get_attribute("src")
        page.get_by_role("slider", name="temperature T", exact=True).press("End")
        assert sentence.inner_text() == "At T = 4 and alpha = 0.5: 2." and picture.get_attribute("src") != before
        figure.locator("button[aria-disabled=false]").first.wait_for()  # its kernel has joined
        figure.locator("input[type=number]").first.fill("3")
        figure.get_by_role("button", name="Train this setting").click()
        figure.locator(".kdx-said").filter(has_text="Shown: temperature T = 3").wait_for()
        assert sentence.inner_text() == "At T = 3 and alpha = 0.5: 1.5."
        page.get_by_role("link", name="All").wait_for()
        assert [address for address in seen.outside if not address.startswith(ICONS)] == []
