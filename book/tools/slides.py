"""Slides of a chapter: its own cells, figures and sentences in the order of its teaching plan, as reveal.js by nbconvert.

Each step of a plan is a slide or more. What a slide shows is taken from the executed chapter: a figure that moves, the output
or the code of a cell, a formula, a proposition, an exercise, the prediction. The plan adds a few points and gives the
speaker's notes. A deck and all it needs lie beside each other in the built book and open from a file, without a network.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode

from . import contents, execute, teach
from .teach import Plan

SLIDES = 25  # of a chapter, at most
DECK = Path(__file__).parent / "deck"
SHOWN = ("figure", "picture", "output", "code", "formula", "statement", "exercise", "prediction")
ROLE = re.compile(r"\{[\w:-]+\}`([^`]*)`")
PREDICTION = re.compile(
    r"^(`{3,})\{(?:prediction\}|admonition\} Commit to a prediction)\n(?::[^\n]*\n)*(.*?)^\1", re.MULTILINE | re.DOTALL
)


def plain(text: str) -> str:
    """Markdown of a chapter as a slide can show it: roles as their text, citations and options of directives left out."""
    text = re.sub(r"\s*\{(?:footcite|cite)[\w:]*\}`[^`]*`", "", text)
    text = ROLE.sub(lambda found: re.sub(r"\s*<[^>]*>$", "", found[1]), text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return "\n".join(line for line in text.splitlines() if not re.match(r":[\w-]+:", line)).strip()


class Chapter:
    """What a slide can take from an executed chapter."""

    def __init__(self, plan: Plan, executed: NotebookNode) -> None:
        self.plan = plan
        injected = "injected-parameters"
        self.cells = [cell for cell in executed.cells if injected not in cell.metadata.get("tags", [])]
        self.code = [cell for cell in self.cells if cell.cell_type == "code"]
        self.text = "\n\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")

    def html(self, cell: NotebookNode) -> list[str]:
        pieces = (output.get("data", {}).get("text/html", "") for output in cell.outputs)
        return ["".join(piece) for piece in pieces if piece]

    def cell(self, piece: str) -> NotebookNode:
        """The one code cell whose source contains this text."""
        found = [cell for cell in self.code if piece in cell.source]
        if len(found) != 1:
            raise ValueError(f"{self.plan.path.name}: {piece!r} must be in one cell, it is in {len(found)}")
        return found[0]

    def figure(self, name: str) -> tuple[teach.Controls, str]:
        """A figure that moves, and the HTML that it is."""
        everything = "\n".join(piece for cell in self.code for piece in self.html(cell))
        found = self.plan.source.at(name, teach.controls(everything))
        begin = everything.index(f'<figure class="kdx" id="{found.name}"')
        end = everything.index("</script>", everything.index("</figure>", begin)) + len("</script>")
        return found, everything[begin:end]

    def formula(self, section: str, number: int) -> str:
        """The display formula of that number in a section."""
        heading = self.plan.source.sections[section]
        body = re.split(r"^#{2,3} ", self.text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
        found = re.findall(r"\$\$.*?\$\$", body, re.DOTALL)
        if not 1 <= number <= len(found):
            raise ValueError(f"{self.plan.path.name}: formula must be 1 to {len(found)} of {section}, got {number}")
        return str(found[number - 1])

    def labelled(self, label: str) -> str:
        """The text of a proposition or an exercise."""
        pattern = rf"^(`{{3,}})\{{(?:exercise|prf:\w+)\}}[^\n]*\n(?::[^\n]*\n)*:label: {re.escape(label)}\n(.*?)^\1"
        found = re.search(pattern, self.text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"{self.plan.path.name}: there is no proposition or exercise {label!r}")
        return plain(found[2])

    def prediction(self) -> str:
        found = PREDICTION.search(self.text)
        if found is None:
            raise ValueError(f"{self.plan.path.name}: the chapter asks for no prediction")
        return plain(found[2])


def markdown(text: str, kind: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})


def shown(html_text: str) -> NotebookNode:
    """A cell of which a slide shows the output alone."""
    output = nbformat.v4.new_output("display_data", data={"text/html": html_text})
    return nbformat.v4.new_code_cell("", outputs=[output])


def quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def notebook(plan: Plan, executed: NotebookNode) -> NotebookNode:
    """The deck as a notebook of nbconvert's slide types. ValueError for a slide that shows nothing or too many of them."""
    chapter, source, placed = Chapter(plan, executed), plan.source, set[str]()
    aims = "\n".join(f"- {outcome['can']}" for outcome in plan.what["outcomes"])
    cells = [markdown(f"# {source.title}\n\n{aims}", "slide"), markdown(plan.what["before"], "notes")]

    def parts(slide: dict[str, Any]) -> list[NotebookNode]:
        found = []
        if "figure" in slide:
            name, state = teach.opened(slide["figure"])
            figure, body = chapter.figure(name)
            figure.fragment(state)
            packed = html.escape(json.dumps({control: str(value) for control, value in state.items()}), quote=True)
            inside = "" if name in placed else body
            placed.add(name)
            found.append(
                shown(f'<div class="deck-figure" data-figure="{figure.name}" data-state="{packed}">{inside}</div>')
            )
        if "picture" in slide:
            found.append(shown(chapter.html(chapter.cell(slide["picture"]))[0]))
        if "output" in slide:
            cell = chapter.cell(slide["output"])
            pages = [shown(piece) for piece in chapter.html(cell)]
            said = [output for output in cell.outputs if "text/html" not in output.get("data", {})]
            found += [nbformat.v4.new_code_cell("", outputs=said), *pages] if said else pages
        if "code" in slide:
            found.append(markdown(f"```python\n{chapter.cell(slide['code']).source}\n```", "-"))
        return found

    for step, *spans in zip(plan.what["plan"], *map(plan.times, teach.LENGTHS), strict=True):
        slides = step.get("slides") or ([{"figure": step["figure"]}] if "figure" in step else [])
        for slide in slides:
            if not set(slide) & {*SHOWN, "points"} or not set(slide) <= {*SHOWN, "points", "title", "notes"}:
                raise ValueError(
                    f"{plan.path.name}: a slide must have some of points, {', '.join(SHOWN)}, got {slide!r}"
                )
            lines = [f"## {slide.get('title') or source.sections[step['section']]}", ""]
            lines += [f"- {point}" for point in slide.get("points", [])]
            if "formula" in slide:
                lines += ["", chapter.formula(step["section"], slide["formula"])]
            if "prediction" in slide:
                lines += ["", quoted(chapter.prediction())]
            lines += [
                "\n" + quoted(chapter.labelled(slide[kind])) for kind in ("statement", "exercise") if kind in slide
            ]
            when = [
                f"minute {start} to {end} of {n}"
                for n, (start, end) in zip(teach.LENGTHS, spans, strict=True)
                if end > start
            ]
            notes = [f"*{', '.join(when)}*", "", plain(step["do"]), "", slide.get("notes", "")]
            cells += [markdown("\n".join(lines), "slide"), *parts(slide), markdown("\n".join(notes), "notes")]
    number = sum(cell.metadata.get("slideshow", {}).get("slide_type") == "slide" for cell in cells)
    if number > SLIDES:
        raise ValueError(f"{plan.path.name}: {number} slides, at most {SLIDES}")
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": source.title})


def deck(plan: Plan, executed: NotebookNode) -> str:
    """The HTML of a chapter's slides; it needs the folder `reveal` beside it and the book's MathJax."""
    exporter = SlidesExporter(
        extra_template_basedirs=[str(DECK.parent)],
        template_name=DECK.name,
        reveal_url_prefix="reveal",
        reveal_theme="white",
        exclude_input=True,  # code that is to be seen is in the slide's text
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    resources = {
        "metadata": {"name": plan.source.title},
        "deck": {
            "style": (DECK / "deck.css").read_text("utf8"),
            "script": (DECK / "deck.js").read_text("utf8"),
            "mathjax": "../_static/mathjax/tex-chtml.js",
        },
    }
    body, _ = exporter.from_notebook_node(notebook(plan, executed), resources=resources)
    return str(body)


def carry_reveal(folder: Path) -> None:
    """Put reveal.js, which the package sphinx-revealjs brings, beside the decks."""
    carrier = metadata.distribution("sphinx-revealjs")
    home = Path(str(carrier.locate_file("sphinx_revealjs/_static/revealjs")))
    for part in ("dist/reveal.js", "dist/reveal.css", "dist/theme/white.css", "dist/theme/fonts/source-sans-pro",
                 "plugin/notes/notes.js", "LICENSE"):  # fmt: skip
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (home / part).is_dir():
            shutil.copytree(home / part, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(home / part, target)


def build(root: Path, folder: Path) -> list[Path]:
    """Write the decks of all chapters that have a plan into a folder. ValueError where a chapter has not been run."""
    plans = teach.plans(root)
    executed = execute.load_executed(root, "page", plans)
    if plans:
        carry_reveal(folder / "reveal")
    written = []
    for name, plan in plans.items():
        written.append(folder / f"{plan.name}.html")
        contents.write_atomically(written[-1], deck(plan, executed[name]))
    return written
