"""Sphinx extension: docstrings are plain text, so that whatever stands in one means itself on the page.

Kept are paragraphs, `code`, lists with - or *, examples with >>>, and entries with a hanging indent; a block that is indented as
a whole is shown as it is.
"""

import inspect
import re
from typing import Any

MARKER = re.compile(r"[-*] ")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText that shows them."""
    out: list[str] = []
    for block in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n")):
        rows = block.splitlines()
        if not rows or rows[0].startswith(">>> "):
            out += [*rows, ""]
        elif all(row.startswith(" ") for row in rows):
            out += ["::", "", *(f"   {row}" for row in rows), ""]
        elif any(row.startswith(" ") or MARKER.match(row) for row in rows):
            for entry in re.split(r"\n(?=\S)", block):
                first, *more = _escaped(MARKER.sub("", entry, count=1)).splitlines()
                out += [f"* {first}", *(f"  {row.strip()}" for row in more)]
            out.append("")
        else:
            out += [*_escaped(block).splitlines(), ""]
    return out


def _escaped(text: str) -> str:
    """Text in which only `code` is markup. Escaped blanks vanish; they keep marks apart from what stands beside them."""
    pieces = re.split(r"(`+)(.+?)\1", text, flags=re.DOTALL)
    plain = [re.sub(r"([\\*|_`:])", r"\\\1", piece) for piece in pieces[::3]]
    code = [f"\\ ``{piece}``\\ " for piece in pieces[2::3]]
    return "\\ " + "".join(part for pair in zip(plain, [*code, ""], strict=True) for part in pair)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(_app: Any, what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    of_its_type = what == "data" and "\n".join(lines).strip() == inspect.getdoc(type(obj))  # what a dict is, and so on
    lines[:] = [] if of_its_type else to_rst(lines)
