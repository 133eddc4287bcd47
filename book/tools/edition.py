"""The students' edition: the book without solutions, without the checks that hold an answer, without instructors' pages.

It is made from the sources and from notebooks that have been run already, so nothing is trained again. What goes:

- every `{solution}`, wherever it stands, and which answer of a `{quiz}` is right, with the reasons;
- under the heading "Exercises", folded cells, which hold the checks and what comes out of a change, statements of other
  cells that need them, and all outputs, which a reader makes;
- the pages below `teach/`, and the links to them.

`leaks` reads the sources in another way than the filter does, and looks for what must not be there in everything written.
"""

import ast
import copy
import html
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from . import contents, execute, pages

TEACHERS = "teach/"  # pages below are for instructors
SECTION = "Exercises"
CHECKED_ELSEWHERE = (
    "*Your course checks this exercise: its assignment, or your teacher, says what is wrong with an answer.*"
)
OPEN = re.compile(r"^(\s*)(`{3,}|:{3,})(\{([\w:-]+)\}\s*(.*?))?\s*$")
HEADING = re.compile(r"^## +(.+?)\s*$")
ANSWER = re.compile(r"\s*<!--\s*(?:right|wrong):.*?-->", re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
CARD = re.compile(r"^:link(?:-type)?:")


# ---------------------------------------------------------------- what is left of a text


def _blocks(lines: list[str]) -> Iterator[tuple[list[str], str, str]]:
    """The lines in pieces: (lines, name, argument) of each outermost fenced block, name "" for what stands between."""
    between: list[str] = []
    at = 0
    while at < len(lines):
        found = OPEN.match(lines[at])
        if found is None:
            between.append(lines[at])
            at += 1
            continue
        fence, end = found[2], at + 1
        closing = re.compile(rf"^\s*{re.escape(fence[0])}{{{len(fence)},}}\s*$")
        while end < len(lines) and not closing.match(lines[end]):
            end += 1
        if between:
            yield between, "", ""
            between = []
        yield lines[at : end + 1], found[4] or "fence", found[5] or ""
        at = end + 1
    if between:
        yield between, "", ""


def _quiz(lines: list[str], question: str) -> list[str]:
    """A quiz as a plain question: its answers, without a mark at any of them."""
    body = ANSWER.sub("", "\n".join(lines[1:-1])).split("\n")
    kept = [line for line in body if not re.match(r"^:\w+:", line)]
    return ["```{admonition} Question", ":class: tip", question, "", *(line for line in kept if line.strip()), "```"]


def filtered_text(text: str, dropped: Callable[[str], bool] = lambda target: False) -> str:
    """Markdown without solutions and answers; a link whose target is `dropped` becomes its words."""

    def unlinked(line: str) -> str:
        return LINK.sub(lambda found: found[1] if dropped(found[2]) else found[0], line)

    out: list[str] = []
    for lines, name, argument in _blocks(text.split("\n")):
        if name == "solution":
            while out and not out[-1].strip():
                out.pop()
        elif name == "quiz":
            out += _quiz(lines, argument)
        elif name in ("", "fence", "code-cell", "math"):
            out += [unlinked(line) for line in lines] if not name else lines
        else:  # a directive may hold others
            inner = filtered_text("\n".join(lines[1:-1]), dropped).split("\n") if len(lines) > 2 else []
            target = next((line.split(":", 2)[2].strip() for line in inner if line.startswith(":link:")), "")
            if target and dropped(target):
                inner = [line for line in inner if not CARD.match(line)]
            out += [lines[0], *inner, lines[-1]] if len(lines) > 1 else lines
    return "\n".join(out)


def _defined(source: str) -> set[str]:
    """The names that a cell gives a value to."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
    return found


def _without(source: str, lost: set[str]) -> str:
    """The cell without its statements that use a lost name; what those defined is lost too."""
    lines, gone = source.split("\n"), set()
    for node in ast.parse(source).body:
        if any(isinstance(part, ast.Name) and part.id in lost for part in ast.walk(node)):
            gone |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
            lost |= _defined(ast.unparse(node))
    return "\n".join(line for number, line in enumerate(lines) if number not in gone).strip("\n")


def filtered_notebook(
    notebook: nbformat.NotebookNode, dropped: Callable[[str], bool] = lambda target: False
) -> tuple[nbformat.NotebookNode, list[int]]:
    """The notebook of a chapter for students, and for each of its code cells the number of the code cell whose outputs it
    keeps, or -1 for none."""
    inside, number, lost = False, -1, set[str]()
    kept: list[nbformat.NotebookNode] = []
    origin: list[int] = []
    checks: list[int] = []  # places in `kept` where a check stood
    for cell in notebook.cells:
        cell = copy.deepcopy(cell)
        if cell.cell_type == "code":
            number += 1
            if inside and {"hide-input", "hide-cell"} & set(cell.metadata.get("tags", [])):
                lost |= _defined(cell.source)
                if "check" in cell.metadata.get("mystnb", {}).get("code_prompt_show", "").lower():
                    checks.append(len(kept))
                continue
            kept.append(cell)
            origin.append(-1 if inside else number)
            continue
        for lines, name, _ in _blocks(cell.source.split("\n")):
            if not name:
                headings = [found[1] for line in lines if (found := HEADING.match(line))]
                inside = headings[-1] == SECTION if headings else inside
        cell.source = filtered_text(cell.source, dropped).strip("\n")
        if cell.source:
            kept.append(cell)
    code = [cell for cell in kept if cell.cell_type == "code"]
    lost -= {name for cell in code for name in _defined(cell.source)}
    for place, cell in enumerate(code):
        if origin[place] == -1:
            cell.source = _without(cell.source, lost)
    for place in reversed(checks):
        kept.insert(place, nbformat.v4.new_markdown_cell(CHECKED_ELSEWHERE))
    gone = [cell for cell in code if not cell.source.strip()]
    origin = [each for each, cell in zip(origin, code, strict=True) if cell.source.strip()]
    new = copy.deepcopy(notebook)
    new.cells = [cell for cell in kept if not any(cell is other for other in gone)]
    return new, origin


# ---------------------------------------------------------------- a book of it


def _toc(node: Any) -> Any:
    """The table of contents without instructors' pages, and without parts that are empty then."""
    if isinstance(node, list):
        return [each for each in map(_toc, node) if each is not None]
    if isinstance(node, dict):
        if str(node.get("file", "")).startswith(TEACHERS):
            return None
        new = {key: _toc(value) for key, value in node.items()}
        if any(key in new and not new[key] for key in contents.LISTS) and "file" not in new and "root" not in new:
            return None
        return {key: value for key, value in new.items() if not (key in contents.LISTS and not value)}
    return node


def write_tree(root: Path, tree: Path) -> None:
    """A copy of the book for students below `tree`: sources, and executed notebooks of exactly these sources.

    ValueError where a chapter has not been run since it changed.
    """
    executed = execute.load_executed(root, "page")
    notebooks = {page.name: page for page in contents.notebooks(root)}
    names = [name.removesuffix(".md") for name in contents.toc_entries(root)]
    kept = [name for name in names if not name.startswith(TEACHERS)]
    shutil.copy(root / "_config.yml", tree / "_config.yml")
    for path in contents.files_under(root / "book"):
        place = path.relative_to(root / "book")
        if place.parts[0] not in ("tools", "teach", "_toc.yml") and path.suffix != ".md":
            (tree / "book" / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / "book" / place)
    toc = _toc(contents.read_yaml(root / "book" / "_toc.yml"))
    contents.write_atomically(tree / "book" / "_toc.yml", yaml.safe_dump(toc, sort_keys=False, allow_unicode=True))
    for name in kept:
        here = Path(name).parent

        def dropped(target: str, here: Path = here) -> bool:
            place = os.path.normpath(here / target.removesuffix(".md").removesuffix(".html")).replace(os.sep, "/")
            return place.startswith(TEACHERS)

        source = tree / "book" / f"{name}.md"
        if name not in notebooks:
            text = contents.read_text(contents.page_source(root, name))
            contents.write_atomically(source, filtered_text(text, dropped))
            continue
        notebook, origin = filtered_notebook(notebooks[name].read(), dropped)
        contents.write_atomically(source, jupytext.writes(notebook, fmt="md:myst"))
        if name in executed:
            contents.write_atomically(
                tree / "_build" / "chapters" / "page" / f"{name}.ipynb",
                nbformat.writes(_as_run(contents.Chapter(name, source).read(), origin, executed[name])) + "\n",
            )


def _as_run(source: nbformat.NotebookNode, origin: list[int], executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The filtered notebook with the outputs that the whole one produced. Live widgets' state, which may name anything, stays
    behind."""
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell, number in zip((cell for cell in source.cells if cell.cell_type == "code"), origin, strict=True):
        if number >= 0:
            cell.outputs, cell.execution_count = ran[number].outputs, ran[number].execution_count
    source.metadata.update({key: executed.metadata[key] for key in ("kdlib", "papermill") if key in executed.metadata})
    source.nbformat_minor = 5
    return source


README = """# Knowledge distillation by experiment: students' edition

Open `html/index.html`: the pages need no network. `notebooks/` holds the chapters to run, `book/` the same as text.
To run them install JupyterLab and kdlib ({version}) from where your teacher says. Solutions come in class.
"""


def write(root: Path, target: Path) -> list[str]:
    """Write the students' edition to the folder `target`, which it replaces, and beside it as one zip; the pages' names.

    ValueError where a chapter has to be run first, or where something leaks; BuildError where Sphinx complains.
    """
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write_tree(root, new)
    shutil.copytree(root / "kdlib", new / "kdlib", ignore=shutil.ignore_patterns("__pycache__"))  # for the key alone
    executed = {
        chapter.name: nbformat.read(chapter.executed(new, "page"), as_version=4) for chapter in contents.chapters(new)
    }
    pages.build(new, executed)
    shutil.move(pages.site(new), new / "html")
    (new / "html" / ".complete").unlink()
    (new / "html" / ".buildinfo").unlink(missing_ok=True)
    for page in contents.notebooks(new):
        notebook = page.read()
        notebook.metadata.pop("jupytext", None)
        contents.write_atomically(new / "notebooks" / f"{page.name}.ipynb", nbformat.writes(notebook) + "\n")
    from kdlib import __version__

    contents.write_atomically(new / "README.md", README.format(version=__version__))
    for scratch in ("_build", "kdlib"):
        shutil.rmtree(new / scratch)
    if found := leaks(secrets(root), new):
        raise ValueError("the students' edition would give away:\n" + "\n".join(found))
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    zipped(target)
    return contents.toc_entries(target)


def zipped(folder: Path) -> Path:
    """The folder as one zip beside it, the same bytes for the same files."""
    path = folder.with_name(f"{folder.name}.zip")
    new = path.with_suffix(".new")
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in contents.files_under(folder):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}", (2000, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
    new.replace(path)
    return path


# ---------------------------------------------------------------- what must not be in it

SOLUTION = re.compile(r"^(`{3,}|:{3,})\{solution\}[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
REASON = re.compile(r"<!--\s*(?:right|wrong):(.*?)-->", re.DOTALL)
CHECK = re.compile(
    r"^```\{code-cell\}[^\n]*\n---\n(?:(?!^---$).)*?^tags: \[hide-(?:input|cell)\]\n---\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"(?<![\d.])(?:\d+\.\d+|\d{2,})(?!\.?\d)")
WORD = re.compile(r"\w+")
TARGET = re.compile(r"\]\([^)]*\)")
WINDOW = 7  # so many words in a row are no accident
READ = (".md", ".ipynb", ".html", ".js", ".json", ".txt", ".yml")


def words(text: str) -> list[str]:
    """The words of a text, of a page without its tags, and of strings inside JSON."""
    text = re.sub(r"\\u00([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text.replace("\\n", " "))
    spoken = re.findall(r'(?:alt|title|aria-label|content)="([^"]*)"', text)
    return re.findall(r"\w+", html.unescape(re.sub(r"<[^<>]*>", " ", text) + " " + " ".join(spoken)))


def _windows(tokens: list[str]) -> set[str]:
    starts = range(0, max(1, len(tokens) - WINDOW + 1))
    return {" ".join(tokens[at : at + WINDOW]) for at in starts} if len(tokens) >= 4 else set()


def _exercises(text: str) -> str:
    """What stands under the heading Exercises in a source."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return "".join(part for part in parts if part.startswith(f"{SECTION}\n"))


Secrets = tuple[set[str], dict[str, set[str]], set[str]]


def secrets(root: Path) -> Secrets:
    """What must not be given away: runs of words, numbers by page, and words that stand in answers alone."""
    runs: set[str] = set()
    numbers: dict[str, set[str]] = {}
    said: set[str] = set()
    rest: list[str] = []
    for name in (name.removesuffix(".md") for name in contents.toc_entries(root) if not name.startswith(TEACHERS)):
        text = contents.read_text(contents.page_source(root, name))
        exercises = _exercises(text)
        answers = [found[2] for found in SOLUTION.finditer(text)] + REASON.findall(text)
        answers = [TARGET.sub("]", answer) for answer in answers]  # a heading's name is no answer
        hidden = [*answers, *CHECK.findall(exercises)]
        given = SOLUTION.sub("", text)
        for check in CHECK.findall(exercises):
            given = given.replace(check, "")
        given = REASON.sub("", given)
        rest += [*words(given), *WORD.findall(given)]  # code has < and > that are no tags
        for piece in hidden:
            runs |= _windows(words(piece))
        said |= {word.lower() for piece in answers for word in words(piece) if word.isalpha() and len(word) > 3}
        numbers[name] = set(NUMBER.findall(" ".join(answers))) - set(NUMBER.findall(_exercises(given)))
    for path in contents.files_under(root / "kdlib"):  # which students have, and the page of names shows
        rest += WORD.findall(contents.read_text(path)) if path.suffix == ".py" else []
    known = " " + " ".join(rest) + " "
    runs = {run for run in runs if f" {run} " not in known and re.search("[^\\W\\d_]{2}", run)}
    stems = {_stem(word) for word in {word.lower() for word in rest}}
    return runs, numbers, {word for word in said if _stem(word) not in stems}


def leaks(known: Secrets, folder: Path) -> list[str]:
    """Where a students' edition in `folder`, zips included, holds what it must not; one line for each file and kind."""
    runs, numbers, said = known
    found = []
    for name, text in _texts(folder):
        tokens = words(text)
        here = {" ".join(tokens[at : at + WINDOW]) for at in range(len(tokens))}
        short = [run for run in runs if run.count(" ") < WINDOW - 1]
        whole = " " + " ".join(tokens) + " " if short else ""
        if told := sorted((runs & here) | {run for run in short if f" {run} " in whole}):
            found.append(f"{name}: {len(told)} run(s) of words of an answer, such as {told[0]!r}")
        page = re.sub(r"^(?:.*/)?(?:book|notebooks|html|_sources)/", "", name).rsplit(".", 1)[0]
        exercises = _exercises(text) if name.endswith((".md", ".ipynb")) else ""
        if name.endswith(".html"):
            section = text.partition('<section id="exercises">')[2].partition("<section id=")[0]
            exercises = re.sub(
                r"Exercise \d+", "", html.unescape(re.sub(r"<[^<>]*>", " ", section))
            )  # they are counted
        if told := sorted(numbers.get(page, set()) & set(NUMBER.findall(exercises))):
            found.append(f"{name}: numbers of an answer under {SECTION}: {', '.join(told)}")
        if name.endswith("searchindex.js") and (told := sorted(_indexed(text, said))):
            found.append(f"{name}: words that only answers have: {', '.join(told)}")
    return found


def _indexed(text: str, said: Iterable[str]) -> set[str]:
    """Which of the words, cut to their stems as the index has them, the search index knows."""
    terms = json.loads(text.partition("(")[2].rpartition(")")[0])["terms"]
    return {word for word in said if _stem(word) in terms}


@cache
def _stemmer() -> Callable[[str], str]:
    from sphinx.search.en import SearchEnglish

    return SearchEnglish({}).stem


def _stem(word: str) -> str:
    """A word as the search index has it."""
    return _stemmer()(word)


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file with text in a folder, and in the zips in it, as (name, content)."""
    for path in contents.files_under(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for inner in archive.namelist():
                    if inner.endswith(READ):
                        yield f"{name}/{inner}", _sources(inner, archive.read(inner).decode("utf8", "replace"))
        elif path.suffix in READ and "_static/" not in name:
            yield name, _sources(name, path.read_text("utf8", errors="replace"))


def _sources(name: str, text: str) -> str:
    """A notebook's cells one below the other, with all the rest of it; any other file as it is."""
    if not name.endswith(".ipynb"):
        return text
    notebook = json.loads(text)
    cells = ["".join(cell.pop("source")) for cell in notebook["cells"]]
    return "\n".join([*cells, "## and the rest", json.dumps(notebook, ensure_ascii=False)])
