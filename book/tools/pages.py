"""Build the pages strictly from notebooks that have already been run."""

import errno
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import webbrowser
from contextlib import ExitStack
from importlib.metadata import distributions
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.cache.main import CacheBundleIn
from sqlalchemy.exc import DBAPIError

from . import contents, execute, keys
from .gates import CLAIMS_MIME, WIDGET_VIEW

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)  # what keeps a build from being written
PAGE_TOOLS = {  # those of the tools that a page is made by
    "pages.py", "accessible.py", "contents.py", "keys.py", "docstrings.py", "figures.py", "glossary.py", "languages.py", "launch.py", "learning.py", "learning.js", "provenance.py", "release.py", "slides.py", "teach.py",
}  # fmt: skip
CACHED = re.compile(r"^(.+): Using cached notebook", re.MULTILINE)  # what the build says of a page it did not run


class BuildError(RuntimeError):
    """The pages could not be built; the message says why and where the log is."""


def site(root: Path) -> Path:
    return root / "_build" / "html"


def with_outputs(source: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The source's cells and metadata with the outputs of the executed notebook.

    jupyter-cache finds a notebook by its code *and* metadata, and papermill writes into the metadata, so only outputs
    are taken over. The state of live widgets stays behind: a page shows the HTML that travels beside them.
    """
    old = [cell for cell in source.cells if cell.cell_type == "code"]
    new = [cell for cell in executed.cells if cell.cell_type == "code"]
    if [cell.source for cell in old] != [cell.source for cell in new]:
        raise BuildError("the executed notebook is not a run of this source")
    for cell, ran in zip(old, new, strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
        for output in cell.outputs:
            if "text/html" in output.get("data", {}):  # what a page shows; Jupyter Book warns about the claims' type
                output.data.pop(CLAIMS_MIME, None)
                output.data.pop(WIDGET_VIEW, None)
    source.nbformat_minor = min(source.nbformat_minor, 5)  # jupyter-cache refuses newer formats
    return source


def fill_cache(root: Path, executed: dict[str, nbformat.NotebookNode]) -> None:
    """A fresh jupyter-cache that holds every notebook page, so that Sphinx has nothing left to run. OSError if it cannot be."""
    folder = root / "_build" / ".jupyter_cache"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        cache = get_cache(folder)
        with ExitStack() as afterwards:
            afterwards.callback(cache.db.dispose)  # its pool would keep the database open
            for page in contents.notebooks(root):
                notebook = page.read()
                if page.name in executed:
                    notebook = with_outputs(notebook, executed[page.name])
                seconds = executed[page.name].metadata["papermill"]["duration"] if page.name in executed else 0.0
                bundle = CacheBundleIn(notebook, str(page.source), data={"execution_seconds": seconds})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    except BuildError:
        raise
    except (DBAPIError, RuntimeError) as problem:  # jupyter-cache hides some of the database's own errors
        cause = getattr(problem.__cause__ if isinstance(problem, RuntimeError) else problem, "orig", problem)
        raise OSError(errno.EIO, str(cause), str(folder)) from problem


def site_key(root: Path) -> str:
    """Changes when anything that the pages are made from changes."""
    folders = (root / "book", root / "kdlib")  # docstrings are a page too
    files = [path for folder in folders for path in contents.files_under(folder)]
    sources = [path for path in files if "tools" not in path.relative_to(root).parts]
    notebooks = [chapter.executed(root, "page") for chapter in contents.chapters(root)]
    tools = [path for path in contents.files_under(root / "book" / "tools") if path.name in PAGE_TOOLS]
    # of this environment, wherever else this process may import from
    places = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    installed = sorted({f"{each.name} {each.version}" for each in distributions(path=places)})
    return keys.digest(
        root, [*sources, *notebooks, *tools, root / "_config.yml"], platform.python_version(), *installed
    )


def is_current(root: Path) -> bool:
    """Do the built pages belong to the sources and executed notebooks as they are now?"""
    stamp = site(root) / ".complete"
    return stamp.is_file() and stamp.read_text("utf8", errors="replace") == site_key(root)


def build(root: Path, executed: dict[str, nbformat.NotebookNode] | None = None) -> bool:
    """Build the pages if anything they are made from changed; True if there was something to do.

    `executed` are the chapters' notebooks by name, for an edition whose chapters have not been run as they are.

    Always from scratch: Sphinx mentions a warning only when it reads the page again, so a strict build on top of an
    old one could pass with the warning still in the book. The stamp is written last, so an interrupted build counts
    as none. BuildError where Sphinx warns, fails, or runs a notebook by itself; ValueError for a source that cannot be
    read; OSError where the build folder cannot be written.
    """
    if is_current(root):
        return False
    contents.read_yaml(root / "_config.yml")
    for bibliography in (root / "book").rglob("*.bib"):
        contents.read_text(bibliography)
    key = site_key(root)
    print("building the pages ...", flush=True)
    shutil.rmtree(site(root), ignore_errors=True)
    shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
    fill_cache(root, execute.load_executed(root, "page") if executed is None else executed)
    # the checkout of these tools comes first: its own extension and kdlib, whichever are installed or in the folder
    own = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {own!r}); from jupyter_book.cli.main import main; main()"
    options = ["build", "book", "--config", "_config.yml", "--path-output", ".", "-W", "-n", "--keep-going"]
    run_strictly(root, [sys.executable, "-c", program, *options], root / "_build" / "book.log")
    contents.write_atomically(site(root) / ".complete", key)
    return True


def run_strictly(root: Path, command: list[str], log: Path) -> None:
    """Run a command that builds pages from the cache, keeping what it says in a log. BuildError or OSError as in `build`."""
    with log.open("w") as stream:
        status = subprocess.run(command, cwd=root, stdout=stream, stderr=subprocess.STDOUT).returncode
    text = COLOUR.sub("", log.read_text("utf8", errors="replace"))
    contents.write_atomically(log, text)
    if status:
        for number in FULL:
            if os.strerror(number) in text:
                raise OSError(number, os.strerror(number), str(root / "_build"))
        lines = text.splitlines()
        warnings = [line for line in lines if any(word in line for word in ("WARNING", "ERROR", "Error:"))]
        raise BuildError("\n".join([*(warnings or lines[-30:]), f"the strict build failed; the whole log is {log}"]))
    cached = {Path(page) for page in CACHED.findall(text)}
    again = [page.name for page in contents.notebooks(root) if page.source not in cached]
    if again or "Executing notebook" in text:
        raise BuildError(f"pages ran a second time instead of coming from the cache ({', '.join(again)}); see {log}")


def show(page: Path) -> None:
    """Open the page in a browser if a person is likely to see it."""
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and sys.stdout.isatty() and not os.environ.get("CI"):
        webbrowser.open(page.as_uri())
