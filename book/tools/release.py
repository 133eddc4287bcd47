"""The release tree: the library, and each chapter as a notebook that runs where nothing of this is installed.

Sources are MyST Markdown; Colab, Binder and most hubs open ipynb. So a branch of its own holds generated notebooks, each beside
its source, and the launch links of the pages lead there. The branch is written by ``make release`` and pushed by a workflow;
nobody edits it. A notebook's first cell installs kdlib where it is missing and does nothing where it is there; notebooks carry no
outputs, and their text is plain Markdown, since no directive of MyST means anything in Colab. In a folder of their own stand the
chapters' figures that move, as apps for voila.
"""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import yaml

from . import contents, figures

FOLDERS = ("kdlib", "data", "book")
FILES = ("pyproject.toml", "constraints.txt", "LICENSE", "LICENSE-TEXT", "CITATION.cff")
LEFT_OUT = ("tools", "_static")  # of book/: what builds pages
LEFT_OUT_TYPES = (".pyc", ".ipynb")
APPS = "figures"  # the folder of the apps
BESIDES = ("pyarrow", "pyyaml")  # what chapters use besides kdlib's own requirements: stores of a study, the ledger
INSTALL = """\
# Installs kdlib where it is missing, as in Colab, and does nothing where it is there.
from importlib.util import find_spec

if find_spec("kdlib") is None:
    %pip install --quiet "kdlib @ {archive}" {besides}"""

FENCE = re.compile(r"^(`{3,}|:{3,})\{([\w:.-]+)\}[ \t]*(.*)$")
OPTION = re.compile(r"^:([\w-]+):[ \t]*(.*)$")
TARGET = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
CITED = re.compile(r"\{foot(?:cite)(?::\w+)?\}`([^`]+)`")
ROLE = re.compile(r"\{([\w:]+)\}`([^`<]*?)(?:\s*<([^`>]+)>)?`")
NOTEBOOK_LINK = re.compile(r"(\]\((?!\w+:)[^)#\s]+)\.md(#[^)]*)?\)")


def repository(root: Path) -> tuple[str, str]:
    """Address and release branch from ``repository`` in ``_config.yml``. ValueError where they are not of a form to link to."""
    path = root / "_config.yml"
    given = (contents.read_yaml(path) or {}).get("repository") or {}
    url, branch = given.get("url"), given.get("branch")
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme != "https" or len(parts.path.strip("/").split("/")) != 2 or parts.query:
        raise ValueError(f"{path}: repository.url must look like https://github.com/owner/name, got {url!r}")
    if not isinstance(branch, str) or not re.fullmatch(r"[\w./-]+", branch):
        raise ValueError(f"{path}: repository.branch must be the name of the release branch, got {branch!r}")
    return f"https://{parts.netloc}/{parts.path.strip('/')}", branch


def folder(root: Path) -> Path:
    return root / "_build" / "release"


def notebook(root: Path, chapter: contents.Chapter) -> nbformat.NotebookNode:
    """A chapter as a notebook for anywhere: installation first, no outputs, text in plain Markdown."""
    url, branch = repository(root)
    made = chapter.read()
    archive = f"{url}/archive/refs/heads/{branch}.zip"
    first = INSTALL.format(archive=archive, besides=" ".join(BESIDES))
    labels = _labels(made)
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, labels)
    made.cells.insert(0, nbformat.v4.new_code_cell(first, id="install-kdlib", metadata={"tags": ["remove-cell"]}))
    made.cells = [cell for cell in made.cells if cell.cell_type != "markdown" or cell.source.strip()]
    made.metadata.pop("jupytext", None)  # it is a product, so nothing is to be saved back from it
    made.nbformat, made.nbformat_minor = 4, 5
    for number, cell in enumerate(made.cells[1:], 1):
        cell.id = f"cell-{number}"  # the same from one release to the next
    return made


# ---------------------------------------------------------------- MyST to plain Markdown


def plain(text: str, labels: dict[str, str] | None = None) -> str:
    """MyST Markdown as Markdown that Colab and JupyterLab show: boxes become quotations, what folds becomes ``details``."""
    lines, out = TARGET.sub("", text).splitlines(), []
    at = 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        if fence is None:
            out.append(_inline(lines[at], labels or {}))
            at += 1
            continue
        mark, name, title = fence.groups()
        close = re.compile(rf"^{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$")
        end = next((i for i in range(at + 1, len(lines)) if close.match(lines[i])), len(lines))
        body = lines[at + 1 : end]
        while body and (OPTION.match(body[0]) or (not body[0].strip() and len(body) > 1)):
            body = body[1:]
        out += _directive(
            name.split(":")[-1], _inline(title, labels or {}), plain("\n".join(body), labels).splitlines()
        )
        at = end + 1
    return "\n".join(out).strip("\n")


def _directive(name: str, title: str, body: list[str]) -> list[str]:
    if name in ("footbibliography", "bibliography"):
        return ["The works named in brackets stand in `book/references.bib`."]
    if name in ("dropdown", "solution"):
        summary = title if name == "dropdown" else "Solution"
        return ["", f"<details><summary>{summary}</summary>", "", *body, "", "</details>", ""]
    if name in ("admonition", "note", "tip", "warning"):
        quoted = [f"> {line}".rstrip() for line in body]
        return ["", f"> **{title or name.capitalize()}**", ">", *quoted, ""]
    if name == "grid":
        return ["", *body, ""]
    kind = "" if name.startswith("grid") else name.capitalize()
    head = f"**{': '.join(filter(None, (kind, title)))}**"
    return ["", head, "", *body, ""]


def _inline(line: str, labels: dict[str, str]) -> str:
    def cited(found: re.Match[str]) -> str:
        keys = [
            re.sub(r"^([a-z-]+)(\d{4}).*$", lambda k: f"{k[1].capitalize()} {k[2]}", key) for key in found[1].split(",")
        ]
        return f"[{', '.join(keys)}]"

    def role(found: re.Match[str]) -> str:
        return found[2] if found[3] else f"“{labels[found[2]]}”" if found[2] in labels else found[2]

    return NOTEBOOK_LINK.sub(r"\1.ipynb\2)", ROLE.sub(role, CITED.sub(cited, line)))


def _labels(made: nbformat.NotebookNode) -> dict[str, str]:
    """Label -> title of the propositions and exercises of a notebook."""
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    return {found[2]: found[1] for found in re.finditer(r"\{[\w:]+\}[ \t]*(\S.*)\n:label: (\S+)", text)}


# ---------------------------------------------------------------- the tree


def environment(root: Path) -> str:
    """``environment.yml`` for repo2docker: PyTorch's build for CPUs from conda-forge, everything else as kdlib asks for it."""
    project = tomllib.loads(contents.read_text(root / "pyproject.toml"))["project"]
    torch = next(line for line in project["dependencies"] if re.match(r"torch\b", line))
    needs: list[Any] = [f"python{project['requires-python']}", torch.replace("torch", "pytorch-cpu", 1), "pip"]
    needs.append({"pip": ["-e .[voila]", *BESIDES]})
    return yaml.safe_dump({"name": "kdlib", "channels": ["conda-forge"], "dependencies": needs}, sort_keys=False)


def colab(root: Path, name: str) -> str:
    url, branch = repository(root)
    return f"https://colab.research.google.com/github/{'/'.join(url.split('/')[-2:])}/blob/{branch}/book/{name}.ipynb"


def binder(root: Path, name: str) -> str:
    url, branch = repository(root)
    return f"https://mybinder.org/v2/gh/{'/'.join(url.split('/')[-2:])}/{branch}?urlpath=lab/tree/book/{name}.ipynb"


def apps(root: Path, chapters: list[contents.Chapter]) -> dict[str, nbformat.NotebookNode]:
    """The chapters' figures as apps for voila, by the chapter's name. ValueError for a chapter whose code cannot be read."""
    try:
        return figures.apps({chapter.name: notebook(root, chapter) for chapter in chapters})
    except SyntaxError as problem:
        raise ValueError(f"a cell cannot be read, {problem.msg}: {(problem.text or '').strip()!r}") from problem


def write_apps(root: Path) -> Path:
    """Write the apps alone, to `_build/figures`; where they are."""
    target = root / "_build" / APPS
    shutil.rmtree(target, ignore_errors=True)
    _write(target, apps(root, contents.chapters(root)))
    return target


def _write(target: Path, notebooks: dict[str, nbformat.NotebookNode]) -> None:
    for name, made in notebooks.items():
        contents.write_atomically(target / f"{name}.ipynb", nbformat.writes(made) + "\n")


def app(root: Path, name: str) -> str:
    """The address of an app on Binder."""
    return f"{binder(root, name).partition('?')[0]}?urlpath=voila/render/{APPS}/{name}.ipynb"


def readme(root: Path, chapters: list[contents.Chapter]) -> str:
    rows, moving = [], apps(root, chapters)
    for chapter in chapters:
        title = next(cell.source for cell in chapter.read().cells if cell.cell_type == "markdown").splitlines()[0]
        links = [f"[Binder]({binder(root, chapter.name)})"]
        if not chapter.reads():  # it looks into the book's folder, and in Colab there is only the notebook
            links.insert(0, f"[Colab]({colab(root, chapter.name)})")
        if chapter.name in moving:
            links.append(f"[figures alone]({app(root, chapter.name)})")
        rows.append(f"| [{title.lstrip('# ')}](book/{chapter.name}.ipynb) | {' · '.join(links)} |")
    head = "# The chapters as notebooks\n\nGenerated by `make release` from the main branch; changes belong there.\n"
    return "\n".join([head, "| chapter | open in |", "|---|---|", *rows, ""])


def write(root: Path) -> list[contents.Chapter]:
    """Write the release tree to ``_build/release`` anew; the chapters that it holds.

    It is put together under another name and renamed when whole. ValueError for an unusable ``repository`` in the settings.
    """
    repository(root)
    chapters, target = contents.chapters(root), folder(root)
    part = target.with_name("release.part")
    shutil.rmtree(part, ignore_errors=True)
    for name in FOLDERS:
        source = root / name
        for path in contents.files_under(source) if source.is_dir() else []:
            place = path.relative_to(source)
            if path.suffix not in LEFT_OUT_TYPES and not (name == "book" and place.parts[0] in LEFT_OUT):
                _copy(path, part / name / place)
    for name in FILES:
        if (root / name).is_file():
            _copy(root / name, part / name)
    _write(part / "book", {chapter.name: notebook(root, chapter) for chapter in chapters})
    _write(part / APPS, apps(root, chapters))
    contents.write_atomically(part / "environment.yml", environment(root))
    contents.write_atomically(part / "README.md", readme(root, chapters))
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return chapters


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
