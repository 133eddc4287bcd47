"""Sphinx extension: a page whose header says ``lang: ar`` is in that language, and its text runs in that language's direction.

The text of such a page is wrapped in an element with ``lang`` and ``dir``; the theme around it stays as it is. In a page that
runs from right to left, formulas, code and numbers keep their own direction: each stands in an element of its own with
``dir="ltr"``, which also keeps the text beside it from mixing with it. Without that, "+5.4" would be shown as "5.4+".
"""

import re
from typing import Any

from docutils import nodes

RIGHT_TO_LEFT = {"ar", "arc", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"}
TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
# A number with its sign, decimals and per cent; not one that ends a Latin name, as in CIFAR-100.
NUMBER = re.compile(r"(?<![A-Za-z0-9_-])[+−-]?\d+(?:[.,:]\d+)*%?(?![A-Za-z])")
ISOLATED = re.compile(r'<(span|div|code|pre)(?= class="(?:[^"]* )?(?:math|literal|highlight(?:-\w+)?)[ "])')


def language(metadata: dict[str, Any], page: str) -> str | None:
    """The language that a page's header names, or None. ValueError where it names none that a browser knows by its form."""
    lang = metadata.get("lang")
    if lang is not None and not TAG.fullmatch(str(lang)):
        raise ValueError(f"{page}: `lang` must be a language tag such as ar or pt-BR, got {lang!r}")
    return lang


def direction(lang: str) -> str:
    return "rtl" if lang.split("-")[0] in RIGHT_TO_LEFT else "ltr"


def isolate_numbers(document: nodes.Node) -> None:
    """Put each number of a document's running text into an element that reads from left to right."""
    for text in list(document.findall(nodes.Text)):
        if isinstance(text.parent, (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)):
            continue
        plain, pieces, end = text.astext(), [], 0
        for number in NUMBER.finditer(plain):
            pieces += [nodes.Text(plain[end : number.start()])] if number.start() > end else []
            pieces.append(nodes.raw("", f'<bdi dir="ltr">{number[0]}</bdi>', format="html"))
            end = number.end()
        if pieces:
            pieces += [nodes.Text(plain[end:])] if end < len(plain) else []
            text.parent.replace(text, pieces)


def wrapped(body: str, lang: str) -> str:
    """The HTML of a page's text as an element in its language and direction."""
    if direction(lang) == "rtl":
        body = ISOLATED.sub(r'<\1 dir="ltr"', body)
    return f'<div class="kd-language" lang="{lang}" dir="{direction(lang)}">\n{body}\n</div>'


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", _resolved)
    app.connect("html-page-context", _page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _resolved(app: Any, document: nodes.document, page: str) -> None:
    lang = language(app.env.metadata[page], page)
    if lang and direction(lang) == "rtl" and app.builder.format == "html":
        isolate_numbers(document)


def _page(app: Any, page: str, _template: str, context: dict[str, Any], _document: Any) -> None:
    lang = language(app.env.metadata.get(page, {}), page)
    if lang:
        context["body"] = wrapped(context["body"], lang)
