"""Teaching plans: one file a chapter from which the instructor's page, the syllabi and the slides are made.

`book/teach/plans/NAME.yml` says what a class can do afterwards, what happens minute by minute in a lesson of 45 and one of 90
minutes, what to draw, to ask and to expect. Sections, exercises, quizzes and the states of figures are named as the
chapter names them, so that a chapter that changes breaks its plan by name and not in front of a class. As a Sphinx extension
this module replaces two fences in the sources below `book/teach`: ```` ```{instructor} foundations/distillation ```` by the page
of that chapter and ```` ```{syllabi} ```` by the three courses in `syllabi.yml`.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from . import contents

log = logging.getLogger(__name__)
LENGTHS = (45, 90)  # minutes of a lesson
PARTS = {  # of a plan -> what it holds
    "chapter": str, "lead": str, "before": str, "outcomes": list, "plan": list, "board": list, "questions": list,
    "misconceptions": list, "trouble": list, "homework": list,
}  # fmt: skip
KEYS = {  # part -> the keys of its entries, those that must be there first
    "outcomes": (("can", "section"), ("figure", "exercise", "quiz")),
    "plan": (("minutes", "do"), ("section", "figure", "slides")),
    "board": (("title", "alt"), ("text", "svg")),
    "questions": (("ask", "usual", "reply"), ("figure",)),
    "misconceptions": (("belief", "refuted", "figure"), ()),
    "trouble": (("sign", "cure"), ()),
}
FENCE = re.compile(r"^```\{(instructor|syllabi)\}[ \t]*(\S*)[ \t]*\n```[ \t]*$", re.MULTILINE)
FIGURE = re.compile(
    r'<figure class="kdx" id="([^"]+)".*?<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL
)
FENCED = re.compile(r"([`~]{3,})(.*)")
HEADING = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)
LABELLED = re.compile(r"^[`:]{3,}\{(exercise|quiz|prf:\w+)\}[ \t]*(.*)\n(?::(?!label).*\n)*:label: (\S+)", re.MULTILINE)


# ---------------------------------------------------------------- what a chapter has


@dataclass(frozen=True)
class Controls:
    """A figure that moves: its id in the page, and for each control the texts of its options, in the figure's order."""

    name: str
    texts: dict[str, list[str]]

    def fragment(self, state: Mapping[str, Any]) -> str:
        """The end of an address that opens the figure in a state. ValueError for a state that it does not have."""
        for control, value in state.items():
            if str(value) not in self.texts.get(control, ()):
                raise ValueError(f"figure state must be of {self.texts}, got {control!r} = {str(value)!r}")
        pairs = (f"{self.name}.{quote_plus(control)}={quote_plus(str(value))}" for control, value in state.items())
        return "&".join(pairs) or self.name


def controls(figures: str) -> list[Controls]:
    """The figures that move in some HTML, in its order."""
    found = []
    for name, frames in FIGURE.findall(figures):
        each = json.loads(frames)["controls"]
        found.append(Controls(name, {control["name"]: list(control["texts"]) for control in each}))
    return found


def slug(heading: str) -> str:
    """The anchor that the parser gives to a heading."""
    from myst_parser.mdit_to_docutils.base import default_slugify

    return str(default_slugify(re.sub(r"[*`]|\$[^$]*\$", "", heading).strip()))


def drawn(code: str) -> list[str]:
    """The functions whose figures a cell shows with `explore`: what it is called with or, for a lambda, what that calls."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    names = []
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == "explore" and call.args:
            inner = (node.func for node in ast.walk(call.args[0]) if isinstance(node, ast.Call))
            name = call.args[0] if isinstance(call.args[0], ast.Name) else next(inner, None)
            names.append((call.lineno, name.id if isinstance(name, ast.Name) else ""))
    return [name for _, name in sorted(names)]


def without_code(text: str) -> str:
    """Markdown without the code in it; what directives hold stays."""
    kept, inside, code = [], list[str](), ""
    for line in text.splitlines():
        fence = FENCED.match(line)
        if code:
            code = "" if line.strip() == code else code
        elif fence and (fence[2].startswith("{") or fence[1] in inside):
            inside = inside[: inside.index(fence[1])] if fence[2] == "" else [*inside, fence[1]]
            kept.append(line)
        elif fence:
            code = fence[1]
        else:
            kept.append(line)
    return "\n".join(kept)


@dataclass(frozen=True)
class Source:
    """What a plan can name in a chapter: title, sections (anchor -> heading), labels, and functions that draw figures."""

    name: str
    notebook: Any = field(repr=False)

    @classmethod
    def read(cls, root: Path, name: str) -> Source:
        return cls(name, contents.Chapter(name, contents.page_source(root, name)).read())

    @cached_property
    def text(self) -> str:
        cells = (cell.source for cell in self.notebook.cells if cell.cell_type == "markdown")
        return without_code("\n\n".join(cells))

    @cached_property
    def title(self) -> str:
        return next(text.strip() for level, text in HEADING.findall(self.text) if level == "#")

    @cached_property
    def sections(self) -> dict[str, str]:
        return {slug(text): text.strip() for level, text in HEADING.findall(self.text) if level != "#"}

    @cached_property
    def labels(self) -> dict[str, tuple[str, str]]:
        """Label -> kind of directive (exercise, quiz, prf:...) and its argument."""
        return {label: (kind, text.strip()) for kind, text, label in LABELLED.findall(self.text)}

    def labelled(self, kind: str) -> dict[str, str]:
        return {label: text for label, (of, text) in self.labels.items() if of == kind}

    @cached_property
    def figures(self) -> list[str]:
        """Functions that draw the figures that move, in the page's order."""
        return [name for cell in self.notebook.cells if cell.cell_type == "code" for name in drawn(cell.source)]

    def at(self, figure: str, built: list[Controls]) -> Controls:
        """The built figure of that function. ValueError where the chapter or the build has none."""
        if figure not in self.figures:
            raise ValueError(f"{self.name}: figure must be one of {', '.join(self.figures)}, got {figure!r}")
        if len(built) != len(self.figures):
            raise ValueError(
                f"{self.name}: the source has {len(self.figures)} figures that move, the build {len(built)}"
            )
        return built[self.figures.index(figure)]


# ---------------------------------------------------------------- plans


@dataclass(frozen=True)
class Plan:
    """The plan of one chapter; `what` is the file as read, checked for its form and against its chapter's source."""

    path: Path
    source: Source
    what: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.stem

    def times(self, length: int) -> list[tuple[int, int]]:
        """Start and end of each step in a lesson of that length; equal where the step is left out."""
        now, times = 0, []
        for step in self.what["plan"]:
            minutes = step["minutes"][LENGTHS.index(length)]
            times.append((now, now + minutes))
            now += minutes
        return times

    def states(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every figure that the plan opens, with its state."""
        for entries in self.what.values():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict):
                    for owner in (entry, *entry.get("slides", ())):
                        if "figure" in owner:
                            yield opened(owner["figure"])


def opened(figure: Any) -> tuple[str, dict[str, Any]]:
    """Function and state of a figure as a plan names it: `draw` or `{draw: {T: 4}}`. ValueError for another form."""
    if isinstance(figure, str):
        return figure, {}
    if isinstance(figure, dict) and len(figure) == 1 and all(isinstance(at, dict) for at in figure.values()):
        return next(iter(figure.items()))
    raise ValueError(f"figure must be a name, or a name with a state such as {{draw: {{T: 4}}}}, got {figure!r}")


def read(root: Path, path: Path) -> Plan:
    """The plan in a file. ValueError, naming file, part and expectation, for one that does not fit its form or chapter."""
    what = contents.read_yaml(path)

    def fault(where: str, expected: str, got: Any) -> ValueError:
        return ValueError(f"{path.name}: {where} must be {expected}, got {got!r:.200}")

    if not isinstance(what, dict) or what.keys() != PARTS.keys():
        raise fault("the plan", f"a mapping of {', '.join(PARTS)}", list(what) if isinstance(what, dict) else what)
    for part, kind in PARTS.items():
        if not isinstance(what[part], kind) or not (what[part] or part == "homework"):
            raise fault(part, f"a {kind.__name__} that is not empty", what[part])
    source = Source.read(root, what["chapter"])
    for part, (needed, allowed) in KEYS.items():
        for entry in what[part]:
            if not isinstance(entry, dict) or not set(needed) <= entry.keys() <= {*needed, *allowed}:
                raise fault(part, f"entries with {', '.join(needed)} and perhaps {', '.join(allowed)}", entry)
            if "section" in entry and entry["section"] not in source.sections:
                raise fault(f"section in {part}", f"one of {', '.join(source.sections)}", entry["section"])
            for named in ("exercise", "quiz"):
                for label in several(entry.get(named)):
                    if label not in source.labelled(named):
                        raise fault(f"{named} in {part}", f"one of {', '.join(source.labelled(named))}", label)
    for step in what["plan"]:
        if [type(minutes) for minutes in step["minutes"]] != [int, int] or min(step["minutes"]) < 0:
            raise fault("minutes", "two whole numbers, for 45 and for 90 minutes", step["minutes"])
    for label in what["homework"]:
        if label not in source.labelled("exercise"):
            raise fault("homework", f"of {', '.join(source.labelled('exercise'))}", label)
    plan = Plan(path, source, what)
    for length in LENGTHS:
        if plan.times(length)[-1][1] != length:
            raise fault("plan", f"{length} minutes in all", plan.times(length)[-1][1])
    for figure, _ in plan.states():
        if figure not in source.figures:
            raise fault("figure", f"one of {', '.join(source.figures)}", figure)
    return plan


def several(value: Any) -> list[str]:
    """A name, a list of names or nothing, as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def plans(root: Path) -> dict[str, Plan]:
    """Chapter -> its plan, in the order of the book. ValueError for two plans of one chapter."""
    found: dict[str, Plan] = {}
    for path in sorted((root / "book" / "teach" / "plans").glob("*.yml")):
        plan = read(root, path)
        if plan.source.name in found:
            raise ValueError(f"{path.name}: {plan.source.name} has a plan already, {found[plan.source.name].path.name}")
        found[plan.source.name] = plan
    order = [name.removesuffix(".md") for name in contents.toc_entries(root)]
    if missing := found.keys() - set(order):
        raise ValueError(f"chapter of a plan must be in book/_toc.yml, got {', '.join(sorted(missing))}")
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


# ---------------------------------------------------------------- pages


def link(plan: Plan, text: str, to: str) -> str:
    """A link into the plan's chapter: to an anchor, or to a figure's state by its role."""
    return f"{{into}}`{text} <{plan.source.name} {to}>`"


def to_figure(plan: Plan, figure: Any) -> str:
    """The link that opens a figure in a state, named by the state."""
    name, state = opened(figure)
    said = ", ".join(f"{control} = {value}" for control, value in state.items())
    packed = json.dumps({name: {control: str(value) for control, value in state.items()}}, ensure_ascii=False)
    return link(plan, f"figure at {said}" if said else "figure", packed)


def to_section(plan: Plan, section: str) -> str:
    return f"[{plan.source.sections[section]}](../{plan.source.name}.md#{section})"


def to_exercise(plan: Plan, label: str) -> str:
    return f"{{ref}}`{plan.source.labelled('exercise')[label] or label} <{label}>`"


def to_quiz(plan: Plan, label: str) -> str:
    return link(plan, "quiz " + label.rpartition("-")[2], f"#{label}")


def page(plan: Plan, board: Path) -> str:
    """The instructor's page of a chapter in Markdown, from its lead on. `board` is the folder of the drawings."""
    what, source = plan.what, plan.source
    lines = [what["lead"], "", f"**Before the lesson.** {what['before']}", ""]
    lines += [
        f"Chapter: [{source.title}](../{source.name}.md). Slides: {{deck}}`{plan.name}`.",
        "",
    ]

    lines += ["## What can they do afterwards?", ""]
    for number, outcome in enumerate(what["outcomes"], 1):
        where = [to_section(plan, outcome["section"])]
        where += [to_figure(plan, outcome["figure"])] if "figure" in outcome else []
        where += [to_quiz(plan, label) for label in several(outcome.get("quiz"))]
        where += [to_exercise(plan, label) for label in several(outcome.get("exercise"))]
        lines += [f"{number}. **{outcome['can']}** " + " → ".join(where)]

    lines += ["", "## What happens when?", "", "````{list-table}", ":header-rows: 1", ":widths: 12 12 76", ""]
    lines += ["* - 45 min", "  - 90 min", "  - what happens"]
    for step, *spans in zip(what["plan"], *map(plan.times, LENGTHS), strict=True):
        short, long = (f"{start}\u2060–\u2060{end}" if end > start else "–" for start, end in spans)
        told = [step["do"].strip()]
        told += [f"({to_figure(plan, step['figure'])})"] if "figure" in step else []
        lines += [f"* - {short}", f"  - {long}", f"  - {' '.join(' '.join(told).split())}"]
    lines += ["````", "", "## What goes on the board?", ""]
    for drawing in what["board"]:
        lines += [f"**{drawing['title']}**", ""]
        if "svg" in drawing:
            picture = (board / drawing["svg"]).read_text("utf8").strip()
            name = html.escape(drawing["alt"], quote=True)
            picture = picture.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
            lines += ["```{raw} html", f'<div class="kdt-board">{picture}</div>', "```", ""]
        else:
            lines += ["```text", drawing["text"].rstrip("\n"), "```", "", f"In words: {drawing['alt']}", ""]

    lines += ["## What to ask, and what do they usually say?", ""]
    for question in what["questions"]:
        more = f" ({to_figure(plan, question['figure'])})" if "figure" in question else ""
        lines += [f"**{question['ask']}** Usually: {question['usual']} {question['reply'].strip()}{more}", ""]

    lines += ["## What do they believe that is not so?", ""]
    for wrong in what["misconceptions"]:
        lines += [f"“{wrong['belief']}” {wrong['refuted'].strip()} ({to_figure(plan, wrong['figure'])})", ""]

    lines += ["## What can go wrong in the room?", ""]
    lines += [f"- **{entry['sign']}** {' '.join(entry['cure'].split())}" for entry in what["trouble"]]

    lines += ["", "## What do they take home?", ""]
    home = ", ".join(to_exercise(plan, label) for label in what["homework"])
    lines += [f"Homework: {home}." if home else "The chapter has no exercises; what it asks for is done in the room."]
    if quizzes := source.labelled("quiz"):
        lines += ["", "Quizzes on the page:", ""]
        lines += [f"- {link(plan, re.sub('[`*]', '', text), f'#{label}')}" for label, text in quizzes.items()]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- courses


def clock(start: str, minutes: int) -> str:
    hours, past = map(int, start.split(":"))
    total = 60 * hours + past + minutes
    return f"{total // 60}:{total % 60:02}"


def courses(root: Path) -> list[dict[str, Any]]:
    """The courses in `syllabi.yml`. ValueError for a session that is neither a pause, a chapter with a plan, nor own work."""
    path = root / "book" / "teach" / "syllabi.yml"
    known, found = plans(root), contents.read_yaml(path)
    for course in found:
        for block in course["blocks"]:
            for session in block["sessions"]:
                if "chapter" in session and session["chapter"] not in known:
                    raise ValueError(
                        f"{path.name}: chapter must be one of {', '.join(known)}, got {session['chapter']!r}"
                    )
                if "chapter" in session and session.get("minutes") not in LENGTHS:
                    raise ValueError(
                        f"{path.name}: minutes of a lesson must be 45 or 90, got {session.get('minutes')!r}"
                    )
                if "chapter" not in session and not {"minutes", "what"} <= session.keys():
                    raise ValueError(f"{path.name}: a session must have chapter or what, and minutes, got {session!r}")
    return list(found)


def syllabi(root: Path) -> str:
    """The three courses in Markdown: what is taught when, what they can do afterwards, and what they take home."""
    known, lines = plans(root), []
    for course in courses(root):
        lines += [f"## {course['title']}", "", course["lead"].strip(), ""]
        clocked = "starts" in course
        lines += ["````{list-table}", ":header-rows: 1", ":widths: 16 50 34", ""]
        lines += [
            f"* - {'when' if clocked else course['unit']}",
            "  - what",
            "  - homework" if not clocked else "  - for",
        ]
        passed = 0
        for block in course["blocks"]:
            told, home = [], []
            for session in block["sessions"]:
                minutes = session["minutes"]
                said = session.get("what", "")
                if "chapter" in session:
                    plan = known[session["chapter"]]
                    said = f"[{plan.source.title}]({plan.name}.md)"
                    home += [to_exercise(plan, label) for label in session.get("homework", plan.what["homework"])]
                if clocked:
                    aim = known[session["chapter"]].what["outcomes"][0]["can"] if "chapter" in session else "–"
                    when = f"{clock(course['starts'], passed)}–{clock(course['starts'], passed + minutes)}"
                    lines += [f"* - {when}", f"  - {said}", f"  - {aim}"]
                    passed += minutes
                else:
                    told += [f"{said}, {minutes} min"]
            if not clocked:
                lines += [f"* - {block['title']}", f"  - {'; '.join(told)}", f"  - {', '.join(home) or '–'}"]
        total = sum(session["minutes"] for block in course["blocks"] for session in block["sessions"])
        lines += [
            "````",
            "",
            f"In all {total // 60} hours{f' {total % 60} minutes' * (total % 60 > 0)} in the room.",
            "",
        ]
    return "\n".join(lines)


# ---------------------------------------------------------------- Sphinx


class Into(SphinxRole):
    """A link into a chapter: text <chapter #anchor> or text <chapter {"draw": {"T": "4"}}>, to a figure's state."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        from sphinx import addnodes

        text, chapter, to = re.fullmatch(r"(.*) <(\S+) (.*)>", self.text, re.DOTALL).groups()  # type: ignore[union-attr]
        reference = addnodes.pending_xref("", reftype="kdlib-into", refdomain="", reftarget=f"{chapter} {to}")
        reference["refdoc"] = self.env.docname
        reference += nodes.inline("", text)
        return [reference], []


class Deck(SphinxRole):
    """The link to the slides of a chapter, which are made after the pages."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        return [nodes.reference("", f"{self.text}.html", refuri=f"../slides/{self.text}.html", internal=True)], []


class _Links:
    """Gives links into chapters their addresses, and reads each chapter once for all of them."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Source, list[Controls]]] = {}

    def chapter(self, app: Any, env: Any, name: str) -> tuple[Source, list[Controls]]:
        if name not in self.known:
            built = controls("\n".join(node.astext() for node in env.get_doctree(name).findall(nodes.raw)))
            self.known[name] = Source.read(Path(app.srcdir).parent, name), built
        return self.known[name]

    def resolve(self, app: Any, env: Any, reference: Any, text: Any) -> nodes.reference | None:
        """The link, or None, which Sphinx reports, where there is no such chapter or state."""
        if reference["reftype"] != "kdlib-into":
            return None
        name, _, to = reference["reftarget"].partition(" ")
        try:
            if to.startswith("{"):
                (figure, state), *_ = json.loads(to).items()
                source, built = self.chapter(app, env, name)
                to = "#" + source.at(figure, built).fragment(state)
            address = app.builder.get_relative_uri(reference["refdoc"], name)
        except (ValueError, OSError) as problem:
            log.warning("%s: %s", reference["refdoc"], problem, location=reference, type="teach")
            return None
        return nodes.reference("", "", text, refuri=address + to, internal=True)


def _write(app: Any, name: str, text: list[str]) -> None:
    """Put pages and courses in the place of their fences."""
    if not name.startswith("teach/") or not FENCE.search(text[0]):
        return
    root = Path(app.srcdir).parent
    folder = root / "book" / "teach"

    def written(found: re.Match[str]) -> str:
        if found[1] == "syllabi":
            return syllabi(root)
        plan = read(root, folder / "plans" / f"{Path(name).name}.yml")
        if plan.source.name != found[2]:
            raise ValueError(f"{name}: the chapter must be {plan.source.name}, as in its plan, got {found[2]!r}")
        return page(plan, folder / "board")

    for path in contents.files_under(folder):
        app.env.note_dependency(str(path))
    text[0] = FENCE.sub(written, text[0])


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role("into", Into())
    app.add_role("deck", Deck())
    app.connect("source-read", _write)
    app.connect("missing-reference", _Links().resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
