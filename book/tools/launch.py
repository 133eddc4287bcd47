"""Sphinx extension: launch buttons lead to the notebooks of the release branch, and so does the download.

A chapter whose figures move has a button more: its figures alone, as an app on Binder.

The theme builds its links from the name of the source, which is Markdown here; Colab and Binder need the ipynb that ``make
release`` puts beside it on the release branch. It also offers the executed notebook for download; a reader is better served by
the released one, which is small, has no outputs and installs kdlib first.
"""

from pathlib import Path
from typing import Any

import nbformat

from . import contents, release

LABEL = "launch-buttons"  # of the theme


def to_notebooks(buttons: list[dict[str, Any]], page: str, alone: bool) -> list[dict[str, Any]]:
    """Buttons that open the notebook of a page instead of its Markdown.

    Without Colab where the notebook does not work alone: it opens a single file, without the book's folder around it.
    """
    kept = [button for button in buttons if alone or button["text"] != "Colab"]
    return [button | {"url": button["url"].replace(f"{page}.md", f"{page}.ipynb")} for button in kept]


def figures_alone(buttons: list[dict[str, Any]], address: str) -> list[dict[str, Any]]:
    """A button for the app of a page's figures, made from that for Binder."""
    here = [button for button in buttons if button["text"] == "Binder"]
    return [button | {"text": "Figures", "tooltip": "The figures alone, on Binder", "url": address} for button in here]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", _page, priority=502)  # after the theme, whose own handlers stand at 501
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _page(app: Any, page: str, _template: str, context: dict[str, Any], _document: Any) -> None:
    groups = [group for group in context.get("header_buttons", []) if group.get("label") == LABEL]
    if not groups:
        return
    root = Path(app.srcdir).parent
    chapter = contents.Chapter(page, Path(app.env.doc2path(page)))
    if not any(cell.cell_type == "code" for cell in chapter.read().cells):  # nothing to run, so nothing was released
        context["header_buttons"] = [each for each in context["header_buttons"] if each not in groups]
        return
    for group in groups:
        group["buttons"] = to_notebooks(group["buttons"], page, alone=not chapter.reads())
        if page in release.apps(root, [chapter]):
            group["buttons"] += figures_alone(group["buttons"], release.app(root, page))
    download = Path(app.outdir) / "_sources" / f"{page}.ipynb"
    if download.is_file():  # put there by the theme
        contents.write_atomically(download, nbformat.writes(release.notebook(root, chapter)) + "\n")
