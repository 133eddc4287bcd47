"""Sphinx extension: what only a whole page can do for readers who listen to it or move through it by keyboard.

The tables behind figures are regions to jump to, which need names that differ, and a figure does not know its number. pandas makes
the empty corner of a table a header of nothing. The theme lets boxes that scroll be reached by keyboard, but looks for
them when the page loads, so not in what is folded then; it looks again when the window changes its size.
"""

import itertools
import re
from typing import Any

CORNER = re.compile(r"<th([^>]*)>\s*</th>")
REGION = re.compile(r'(?<=<div class="kdx-scroll" role="region" aria-label="Data behind )the figure(?=")')
UNFOLDED = """<script>
document.addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);
</script>
"""


def mended(body: str) -> str:
    """The HTML of a page's text: regions by number, plain cells for empty headers, a word to the theme when something unfolds."""
    numbers = itertools.count(1)
    body = REGION.sub(lambda _: f"moving figure {next(numbers)}", body)
    return CORNER.sub(r"<td\1></td>", body) + UNFOLDED * ("<details" in body)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", _page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _page(app: Any, name: str, template: str, context: dict[str, Any], document: Any) -> None:
    if context.get("body"):
        context["body"] = mended(context["body"])
