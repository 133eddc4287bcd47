"""Sphinx extension: predictions that a reader commits to, quizzes, and links to the state of a figure.

    ```{prediction}                        a box with a field; what is typed stays in the reader's browser
    How many of the six points ...?
    ```
    ```{predicted}                         beside the result: shows it again
    ```
    :::{quiz} What does a raised T do to ...?
    :label: universe-quiz-1
    - It smooths more. <!-- wrong: No: {state}`at T = 16 <1; T=16>` the rows ... -->
    - It smooths less. <!-- right: ... -->
    :::

A quiz answers without a script: its reasons follow the checked answer by style alone. As comments they are unseen where a
notebook shows the source. `{state}` names the figures of a page by their number, and controls with their texts, separated by
semicolons; a state that the built figure does not have is a warning, and so fails the build.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

log = logging.getLogger(__name__)
OPTION = re.compile(r"^[-*] (.*?)<!--\s*(right|wrong):\s*(.*?)\s*-->\s*$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(
    r'<figure class="kdx" id="([^"]+)".*?<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL
)
LINK = re.compile(r'data-state="([^"]*)" href="#"')


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


class Quiz(SphinxDirective):
    """A question with a few answers, one of them right, and a reason for each."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {"label": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        label = self.options.get("label")
        if not label or not re.fullmatch(r"[a-z0-9-]+", label):
            raise self.error(f"label of a quiz must be small letters, digits and hyphens, got {label!r}")
        text = "\n".join(self.content)
        options = OPTION.findall(text)
        if OPTION.sub("", text).strip():
            raise self.error(f"quiz {label}: each answer must be '- text <!-- right|wrong: reason -->', got {text!r}")
        if len(options) < 2 or [kind for _, kind, _ in options].count("right") != 1:
            raise self.error(f"quiz {label} must have several answers and exactly one that is right")
        out: list[nodes.Node] = [raw(f'<fieldset class="kdq" id="{label}"><legend>')]
        out += [*self.parsed(self.arguments[0]), raw("</legend>")]
        for number, (answer, kind, reason) in enumerate(options, 1):
            field = f'<input type="radio" name="{label}" id="{label}-{number}" autocomplete="off">'
            out.append(raw(f'<div class="kdq-option">{field}<label for="{label}-{number}">'))
            out += [*self.parsed(answer), raw('</label><div aria-live="polite">')]
            word = "Right." if kind == "right" else "No."
            out.append(raw(f'<div class="kdq-reason kdq-{kind}"><strong>{word}</strong> '))
            out += [*self.parsed(reason), raw("</div></div></div>")]
        return [*out, raw("</fieldset>")]

    def parsed(self, text: str) -> list[nodes.Node]:
        """The inline nodes of one paragraph of Markdown."""
        box = nodes.Element()
        self.state.nested_parse(StringList([" ".join(text.split())]), self.content_offset, box)
        return [nodes.inline("", "", *(box.children[0].children if box.children else ()))]


class Prediction(SphinxDirective):
    """An admonition that asks for a prediction, with a field to commit it."""

    has_content = True
    title = "Commit to a prediction"

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        box = nodes.admonition("", classes=["tip", "kdq-prediction"])
        box += nodes.title(self.title, self.title)
        self.state.nested_parse(self.content, self.content_offset, box)
        box += raw(
            '<form class="kdq-commit" hidden><label>Your prediction '
            '<textarea rows="2" maxlength="500"></textarea></label> <button type="submit">Commit</button>'
            '<p class="kdq-kept" role="status"></p></form>'
        )
        return [box]


class Predicted(SphinxDirective):
    """Shows the page's prediction again; nothing where none was committed to."""

    def run(self) -> list[nodes.Node]:
        return [raw('<div class="kdq-echo" role="note" aria-label="Your prediction" hidden></div>')]


class State(SphinxRole):
    """A link to a figure of the page, in a state: text <number; control=text; ...>."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        found = re.fullmatch(r"(.+?)\s*<(\d+(?:;[^<>;=]+=[^<>;]+)*)>", self.text, re.DOTALL)
        if found is None:
            message = self.inliner.reporter.error(f"state must be 'text <number; control=text>', got {self.text!r}")
            return [], [message]
        text, state = found.groups()
        return [raw(f'<a class="kdq-state" data-state="{html.escape(state)}" href="#">{html.escape(text)}</a>')], []


def figures(body: str) -> list[tuple[str, dict[str, list[str]]]]:
    """The figures that move in a page, in order: id, and the texts of each control by its name."""
    found = []
    for name, data in FIGURE.findall(body):
        controls = json.loads(data)["controls"]
        found.append((name, {control["name"]: control["texts"] for control in controls}))
    return found


def address(state: str, known: list[tuple[str, dict[str, list[str]]]]) -> str:
    """The fragment of a page's address that puts a figure into a state. ValueError where there is no such state."""
    number, *pairs = (part.strip() for part in html.unescape(state).split(";"))
    if not 1 <= int(number) <= len(known):
        raise ValueError(f"figure must be among the {len(known)} that move on this page, got {number}")
    name, controls = known[int(number) - 1]
    at = {}
    for pair in pairs:
        control, _, text = (part.strip() for part in pair.partition("="))
        if text not in controls.get(control, ()):
            raise ValueError(f"state of figure {number} must be of {controls}, got {control!r} = {text!r}")
        at[control] = text
    return (
        "#" + "&".join(f"{name}.{quote(control)}={quote(text)}" for control, text in at.items()) if at else f"#{name}"
    )


def resolve(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give every `{state}` of a page its address, once the figures are there, and a page that asks its script."""
    body = context.get("body")
    if not body or "kdq-" not in body:
        return
    known = figures(body)

    def link(found: re.Match[str]) -> str:
        try:
            return f'data-state="{found[1]}" href="{html.escape(address(found[1], known))}"'
        except ValueError as problem:
            log.warning("%s: %s", page, problem, type="learning")
            return 'href="#"'

    script = Path(__file__).with_suffix(".js").read_text("utf8")
    context["body"] = f"{LINK.sub(link, body)}\n<script>\n{script}</script>\n"


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("quiz", Quiz)
    app.add_directive("prediction", Prediction)
    app.add_directive("predicted", Predicted)
    app.add_role("state", State())
    app.connect("html-page-context", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
