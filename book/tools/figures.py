"""The figures of the book that move, as apps: for each chapter a notebook of its figures alone, which voila opens without code.

Of a chapter's code only what its figures need is taken: the cells that give a value to a name in use, followed back from the
cells that call `explore`. They run unseen (`%%capture`), so all that is shown is each figure under the heading of its section.
Its states are drawn ahead, as everywhere; the kernel stays for a figure that trains further settings.
"""

import ast
import re
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

FIRST = "index"  # its app leads to the others
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
SETTINGS = {"use", "seed", "manual_seed"}  # calls that change what everything after them does
MISSING = """voila is not installed: pip install -c constraints.txt -e ".[voila]\""""


@dataclass(frozen=True)
class Code:
    """What a cell does with the notebook's names; `settles` if it changes what everything after it does, `shows` if it has a figure."""

    gives: frozenset[str]
    imports: frozenset[str]
    changes: frozenset[str]  # in place
    reads: frozenset[str]
    settles: bool
    shows: bool


def code(source: str) -> Code:
    """What one cell does. SyntaxError where it is none."""
    source = TransformerManager().transform_cell(source)  # magics are calls
    gives, imports, reads = set[str](), set[str](), set[str]()
    tables = [symtable.symtable(source, "<cell>", "exec")]
    for table in tables:
        tables += table.get_children()
        own = table.get_type() == "module"
        for name in table.get_symbols():
            if own and name.is_assigned():
                gives.add(name.get_name())
            if own and name.is_imported():
                imports.add(name.get_name())
            if name.is_referenced() and (own or name.is_global()):
                reads.add(name.get_name())
    tree = ast.parse(source)
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return Code(
        frozenset(gives),
        frozenset(imports),
        frozenset(_changed(tree)),
        frozenset(reads),
        settles=any(isinstance(each, ast.Attribute) and each.attr in SETTINGS for each in called),
        shows=any(isinstance(each, ast.Name) and each.id == "explore" for each in called),
    )


def _changed(tree: ast.AST) -> Iterator[str]:
    """Names whose values change in place where a cell runs: `frame["x"] = ...`, `rows.append(...)`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        at: ast.AST | None = None
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            at = node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            at = node.value.func
        while isinstance(at, (ast.Attribute, ast.Subscript)):
            at = at.value
        if isinstance(at, ast.Name):
            yield at.id
        yield from _changed(node)


def needed(sources: list[str]) -> dict[int, bool]:
    """The numbers of the cells that show figures (True), and of those before them that they need (False), in order."""
    cells = [code(source) for source in sources]
    modules = frozenset().union(*(cell.imports for cell in cells))  # a call of a module's function changes no name
    found: dict[int, bool] = {}
    for at in (number for number, cell in enumerate(cells) if cell.shows):
        mine = {at} | {number for number in range(at) if cells[number].settles}
        while True:
            wanted = frozenset().union(*(cells[number].reads for number in mine))
            touched = (cell.gives | cell.imports | (cell.changes - modules) for cell in cells[:at])
            if not (new := {number for number, names in enumerate(touched) if names & wanted} - mine):
                break
            mine |= new
        found |= dict.fromkeys(mine, False)
    return {number: cells[number].shows for number in sorted(found)}


def app(made: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """The figures of a released notebook, all other cells unseen; None where none moves."""
    install, *cells = made.cells
    sources = [cell for cell in cells if cell.cell_type == "code"]
    shown = {id(sources[number]): shows for number, shows in needed([cell.source for cell in sources]).items()}
    if not any(shown.values()):
        return None
    title, heading, kept = "", "", [_unseen(install)]
    for cell in cells:
        if cell.cell_type == "markdown":
            for heading in HEADING.findall(cell.source):
                title = title or heading
        elif id(cell) in shown and not shown[id(cell)]:
            kept.append(_unseen(cell))
        elif id(cell) in shown:
            if heading not in ("", title):
                kept.append(nbformat.v4.new_markdown_cell(f"## {heading}"))
                heading = ""
            kept.append(cell)
    kept.insert(1, nbformat.v4.new_markdown_cell(f"# {title}"))
    metadata = made.metadata | {"title": title}  # voila's page is called so
    return nbformat.v4.new_notebook(cells=kept, metadata=metadata)


def _unseen(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(f"%%capture\n{cell.source}")


def apps(released: dict[str, nbformat.NotebookNode]) -> dict[str, nbformat.NotebookNode]:
    """Name -> app of each released notebook with figures that move. The first leads to the others, and they back to it."""
    made = {name: each for name, notebook in released.items() if (each := app(notebook)) is not None}
    titles = {name: each.metadata["title"] for name, each in made.items()}
    for name, each in made.items():
        if name == FIRST:
            links = [f"- [{title}]({other}.ipynb)" for other, title in titles.items() if other != FIRST]
            each.cells.append(nbformat.v4.new_markdown_cell("\n".join(["## The figures of each chapter", "", *links])))
        elif FIRST in made:
            back = f"[{titles[FIRST]}]({'../' * name.count('/')}{FIRST}.ipynb)"
            each.cells.append(nbformat.v4.new_markdown_cell(back))
        for number, cell in enumerate(each.cells):
            cell.id = f"cell-{number}"  # the same from one release to the next
    return made


def voila_command(folder: Path) -> list[str]:
    """The command that serves the apps in a folder. ValueError where voila is not installed."""
    if find_spec("voila") is None:
        raise ValueError(MISSING)
    return [sys.executable, "-m", "voila", str(folder), "--strip_sources=True", "--show_tracebacks=True"]
