"""Sphinx extension: every page says where it comes from, and a link to it has a title, a sentence and a picture.

The line stands under the text: version, and for a page that was run the date, the profile and what it cost, read from the
metadata of its executed notebook.
"""

import json
import re
from datetime import date
from html import escape, unescape
from pathlib import Path
from typing import Any

import kdlib

from . import budgets

CARD = "_static/card.png"
DESCRIPTION = 160  # characters of a page's first paragraph that stand under a link to it


def line(notebook: Path, version: str = kdlib.__version__) -> str:
    """The provenance of a page as plain text; `notebook` is its executed notebook, which a page without code has not."""
    said = [f"kdlib {version}"]
    if not notebook.is_file():
        return said[0]
    metadata = json.loads(notebook.read_text("utf8"))["metadata"]
    if ended := str(metadata.get("papermill", {}).get("end_time") or ""):
        day = date.fromisoformat(ended[:10])
        said.append(f"run on {day.day} {day:%B %Y}")
    if profile := metadata.get("kdlib", {}).get("profile"):
        said.append(f"profile {profile}")
    measured = budgets.Measured.of(metadata)
    if measured is not None and measured.cost is not None:
        said.append(f"cost {measured.cost.seconds:.0f} of {budgets.CHAPTER_SECONDS:.0f} reference seconds")
    return " · ".join(said)


def description(body: str) -> str:
    """The first paragraph of a page's HTML as plain text, cut after a word."""
    for paragraph in re.findall(r"<p>(.*?)</p>", body, re.DOTALL):
        text = " ".join(unescape(re.sub(r"<[^>]+>", "", paragraph)).split())
        if len(text) > DESCRIPTION:
            text = text[:DESCRIPTION].rsplit(" ", 1)[0] + " …"
        if text:
            return text
    return ""


def _add(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if doctree is None:  # search and index are no pages of ours
        return
    notebook = Path(app.srcdir).parent / "_build" / "chapters" / "page" / f"{name}.ipynb"
    body = context["body"]
    context["body"] = f'{body}\n<p class="kd-provenance">{escape(line(notebook))}</p>\n'
    base = (app.config.html_baseurl or "").rstrip("/")
    card = f"{base}/{CARD}" if base else context["pathto"](CARD, True)
    facts = {
        "og:type": "book" if name == app.config.root_doc else "article",
        "og:site_name": app.config.html_title or app.config.project,
        "og:title": unescape(re.sub(r"<[^>]+>", "", context.get("title", ""))),
        "og:description": description(body),
        "og:image": card,
        "og:image:alt": "A ladder of five columns: what each part of a teacher's answer brings its student",
    }
    tags = [f'<meta property="{key}" content="{escape(value)}">' for key, value in facts.items() if value]
    tags += ['<meta name="twitter:card" content="summary_large_image">']
    if facts["og:description"]:
        tags.append(f'<meta name="description" content="{escape(facts["og:description"])}">')
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
