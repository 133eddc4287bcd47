"""Build the pages once more with Sphinx alone, so that the book can outlive Jupyter Book.

Jupyter Book 1.x is a translator: it reads ``_config.yml`` and hands Sphinx a configuration. Here the same file is translated
into an ordinary ``conf.py``, and ``sphinx-build`` makes the pages from it and from the same executed notebooks. Nothing in
this module, nor in the build that it starts, imports ``jupyter_book``. The day that package no longer installs, the file
in ``_build/sphinx-conf`` goes into ``book/`` and the book goes on.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

from . import contents, execute, keys, pages

# What only Jupyter Book's own package provides. Its other extensions are packages by themselves.
ITS_OWN = ("jupyter_book", "sphinx_jupyterbook_latex", "sphinx_thebe", "sphinx_comments")

# Where a key of _config.yml says what a Sphinx setting of another name says. Keys that are not listed, apart from those
# that `settings` treats by hand, are refused: a setting that one build obeys and the other ignores is a fault.
TOP = {"author": "author", "copyright": "copyright", "logo": "html_logo", "bibtex_bibfiles": "bibtex_bibfiles"}
EXECUTE = {
    "execute_notebooks": "nb_execution_mode",
    "timeout": "nb_execution_timeout",
    "raise_on_error": "nb_execution_raise_on_error",
    "stderr_output": "nb_output_stderr",
    "show_tb": "nb_execution_show_tb",
}
PARSE = {"myst_enable_extensions": "myst_enable_extensions", "myst_url_schemes": "myst_url_schemes"}
HTML = {"favicon": "html_favicon", "baseurl": "html_baseurl"}
THEME = {
    "home_page_in_navbar": "home_page_in_toc",
    "extra_footer": "extra_footer",
    "announcement": "announcement",
    "use_repository_button": "use_repository_button",
    "use_edit_page_button": "use_edit_page_button",
    "use_issues_button": "use_issues_button",
}
REPOSITORY = {"url": "repository_url", "branch": "repository_branch", "path_to_book": "path_to_docs"}
FILES = {"bibtex_bibfiles", "html_favicon", "html_logo", "html_static_path"}
DEFAULTS: dict[str, Any] = {  # of Jupyter Book, where they differ from Sphinx's and can be seen on a page
    "exclude_patterns": ["**.ipynb_checkpoints", ".DS_Store", "Thumbs.db", "_build"],
    "html_sourcelink_suffix": "",
    "html_theme": "sphinx_book_theme",
    "myst_url_schemes": ["mailto", "http", "https"],
    "numfig": True,
    "pygments_style": "sphinx",
}
BY_HAND = {
    "": {"title", "only_build_toc_files", "exclude_patterns", "execute", "parse", "html", "sphinx", "repository"}
    | {"launch_buttons", "latex"},  # pages have no LaTeX
    "html": {"use_multitoc_numbering"},  # an extension in the list says it better
    "sphinx": {"config", "recursive_update"},
}


def site(root: Path) -> Path:
    return root / "_build" / "sphinx"


def settings(root: Path) -> dict[str, Any]:
    """What ``_config.yml`` means in Sphinx's own words; files are paths from root.

    ValueError where it has a key whose meaning is not known here.
    """
    path = root / "_config.yml"
    config = contents.read_yaml(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} must be a mapping of settings, got {config!r:.200}")
    known = {"": TOP, "execute": EXECUTE, "parse": PARSE, "html": HTML | THEME, "repository": REPOSITORY, "sphinx": {}}
    for group, names in known.items():
        given = (config.get(group) or {}) if group else config
        if not isinstance(given, dict):
            raise ValueError(f"{path}: `{group}` must be a mapping, got {given!r:.200}")
        if unknown := sorted(given.keys() - names.keys() - BY_HAND.get(group, set())):
            place = f"below `{group}`" if group else "at the top"
            raise ValueError(
                f"{path}: {place}, {', '.join(unknown)} has no translation in book/tools/plain.py; add one"
            )

    def translated(group: str, names: dict[str, str]) -> dict[str, Any]:
        given = (config.get(group) or {}) if group else config
        return {new: given[old] for old, new in names.items() if old in given}

    made = DEFAULTS | translated("", TOP) | translated("execute", EXECUTE) | translated("parse", PARSE)
    made |= translated("html", HTML)
    made["project"] = made["html_title"] = config.get("title", "")
    made["exclude_patterns"] = sorted({*DEFAULTS["exclude_patterns"], *config.get("exclude_patterns", [])})
    made["external_toc_exclude_missing"] = bool(config.get("only_build_toc_files"))
    made["external_toc_path"] = "_toc.yml"
    made["nb_execution_cache_path"] = Path("_build/.jupyter_cache")
    theme = translated("html", THEME) | translated("repository", REPOSITORY)
    if "launch_buttons" in config:
        theme["launch_buttons"] = config["launch_buttons"]
    made["html_theme_options"] = {"search_bar_text": "Search this book...", **theme}
    static = root / "book" / "_static"
    made["html_static_path"] = ["_static"]
    for kind, setting in ((".css", "html_css_files"), (".js", "html_js_files")):  # Jupyter Book puts each on every page
        if found := sorted(static.rglob(f"*{kind}")):
            made[setting] = [file.relative_to(static).as_posix() for file in found]
    _merge(made, (config.get("sphinx") or {}).get("config") or {})
    if not made.get("extensions"):
        raise ValueError(f"{path} must list the extensions below `sphinx`, `config`, got none")
    made["extensions"] = [name for name in made["extensions"] if name not in ITS_OWN]
    for name in FILES & made.keys():  # Sphinx looks beside its conf.py, Jupyter Book in book/
        value = made[name]
        made[name] = (
            [Path("book", each) for each in value] if isinstance(value, list) else value and Path("book", value)
        )
    return made


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Jupyter Book's ``recursive_update``: mappings are merged, everything else is replaced."""
    for key, value in more.items():
        if isinstance(into.get(key), dict) and isinstance(value, dict):
            _merge(into[key], value)
        else:
            into[key] = value


def conf(root: Path) -> str:
    """The text of a ``conf.py`` that needs nothing but Sphinx, the extensions that it lists, and this folder."""

    def literal(value: Any) -> str:
        if isinstance(value, Path):
            return f"f{'{ROOT}/' + value.as_posix()!r}"
        return f"[{', '.join(map(literal, value))}]" if isinstance(value, list) else repr(value)

    head = [
        '"""Sphinx settings of the book, written from _config.yml by `python -m book.tools sphinx`."""',
        "",
        "import sys",
        "",
        f"ROOT = {str(root)!r}  # where the book lies",
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})  # where kdlib and the book's own extensions lie",
        "",
    ]
    return "\n".join([*head, *(f"{name} = {literal(value)}" for name, value in sorted(settings(root).items())), ""])


def key(root: Path) -> str:
    """Changes when anything that this build is made from changes."""
    return keys.digest(root, [Path(__file__)], pages.site_key(root))


def build(root: Path) -> bool:
    """Build with Sphinx alone if anything changed; True if there was something to do. Errors as in ``pages.build``."""
    stamp = site(root) / ".complete"
    now = key(root)
    if stamp.is_file() and stamp.read_text("utf8", errors="replace") == now:
        return False
    text = conf(root)
    folder = root / "_build" / "sphinx-conf"
    doctrees = root / "_build" / ".sphinx-doctrees"
    for old in (site(root), doctrees):
        shutil.rmtree(old, ignore_errors=True)
    contents.write_atomically(folder / "conf.py", text)
    pages.fill_cache(root, execute.load_executed(root, "page"))
    options = ["-b", "html", "-W", "-n", "--keep-going", "-c", str(folder), "-d", str(doctrees)]
    command = [sys.executable, "-m", "sphinx", *options, str(root / "book"), str(site(root))]
    pages.run_strictly(root, command, root / "_build" / "sphinx.log")
    contents.write_atomically(stamp, now)
    return True


def headings(page: Path) -> list[str]:
    """The headings of a built page's text in reading order, without their link marks."""
    soup = BeautifulSoup(page.read_bytes(), "html.parser")
    article = soup.select_one("article.bd-article") or soup
    for mark in article.select("a.headerlink"):
        mark.decompose()
    return [f"{each.name} {' '.join(each.get_text().split())}" for each in article.select("h1, h2, h3, h4, h5, h6")]


def differences(root: Path) -> list[str]:
    """What a reader of one build finds and a reader of the other does not: pages, and headings on them."""
    found = []
    for name in contents.toc_entries(root):
        page = f"{name.removesuffix('.md')}.html"
        both = (pages.site(root) / page, site(root) / page)
        missing = [os.fspath(each.relative_to(root)) for each in both if not each.is_file()]
        if missing:
            found += [f"{each} does not exist" for each in missing]
        elif (first := headings(both[0])) != (second := headings(both[1])):
            odd = sorted(set(first) ^ set(second)) or ["their order"]
            found.append(f"{page}: the headings differ: {'; '.join(odd)}")
    return found
