"""What a chapter's result depends on, as one key: a chapter runs again only when its key changed.

The key holds the chapter; the local modules that it can reach, followed through the imports in their source; the installed
versions of the packages that those import; and the files that its code names: tables that ship, data sets below KDLIB_DATA
and KDLIB_CACHE, files beside the chapter. Nothing of it is imported, so asking costs no PyTorch.
"""

import hashlib
import json
import os
import platform
import re
import runpy
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from . import imports
from .contents import Chapter, files_under, write_atomically

RUNNERS = ("ipykernel", "ipywidgets", "jupytext", "nbclient", "papermill")  # between a source and its outputs
FOLDERS = {"KDLIB_DATA": "data_root", "KDLIB_CACHE": "cache_folder"}  # variable -> function of kdlib.data.places


def digest(root: Path, files: Iterable[Path], *facts: str) -> str:
    """SHA-256 over facts and files; a file counts by its place seen from root and its content (empty if missing)."""
    total = hashlib.sha256("\0".join(facts).encode())
    for path in files:
        content = path.read_bytes() if path.is_file() else b""
        place = Path(os.path.relpath(path, root)).as_posix()
        total.update(f"\0{place}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def stored_key(path: Path) -> str | None:
    """The key an executed notebook was stored under, or None where there is none."""
    try:
        return str(json.loads(path.read_text("utf8"))["metadata"]["kdlib"]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def environment_key(root: Path) -> str:
    """Changes when Python or what runs the chapters changes: the part of the key that all of them share."""
    return digest(root, [], platform.python_version(), *versions(RUNNERS))


def chapter_key(root: Path, chapter: Chapter, environment: str) -> str:
    """Changes when the chapter or anything that it depends on changes. ValueError for a data folder that is not there."""
    here = chapter.source.parent
    cells = imports.read_cells(cell.source for cell in chapter.read().cells if cell.cell_type == "code")
    scripts = [path for path in _beside(here, {word for cell in cells for word in cell.words}) if path.suffix == ".py"]
    cells += [imports.read_code(path.read_text("utf-8-sig", errors="replace")) for path in scripts]
    modules, packages = imports.reached(cells, (root, here))
    data = root / "kdlib" / "data"  # it names every data set, whoever asks for one
    said = cells + [imports.module_code(name, path) for name, path in modules.items() if path.parent != data]
    words = {word for piece in said for word in piece.words}
    computed = any(piece.computed_table for piece in said)
    named = [*(root / "book" / name for name in chapter.reads()), *_beside(here, words), *_static(modules.values())]
    facts = [*versions(packages), *_tables(root, words, computed), *_data(root, here, words)]
    facts += [f"{name}={os.environ.get(name, '')}" for name in sorted(words) if re.fullmatch("KDLIB_[A-Z_]+", name)]
    return digest(root, [chapter.source, *modules.values(), *named], environment, *facts)


# ---------------------------------------------------------------- versions and files


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: list(found) for name, found in metadata.packages_distributions().items()}


def versions(names: Iterable[str]) -> list[str]:
    """ "name version" of the installed distributions that provide these packages, and of all that they require."""
    found: dict[str, str] = {}
    waiting = [d for name in names for d in _distributions().get(name, [name])]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name], required = _installed(name)
            waiting += required
    return sorted(f"{name} {version}" for name, version in found.items())


@cache
def _installed(name: str) -> tuple[str, tuple[str, ...]]:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return "missing", ()
    required = [Requirement(line) for line in distribution.requires or ()]
    return distribution.version, tuple(r.name for r in required if not r.marker or r.marker.evaluate({"extra": ""}))


def _static(modules: Iterable[Path]) -> list[Path]:
    """Files beside the code of the packages that are reached: scripts and styles that a module reads."""
    folders = {path.parent for path in modules if (path.parent / "__init__.py").is_file()}

    def owner(path: Path) -> Path:
        return next(folder for folder in path.parents if (folder / "__init__.py").is_file())

    others = {path for folder in folders for path in files_under(folder) if path.suffix != ".py"}
    return sorted(path for path in others if owner(path) in folders)


def _names(word: str, words: Iterable[str]) -> bool:
    return any(re.search(rf"\b{re.escape(word)}\b", text) for text in words)


def _tables(root: Path, words: set[str], every: bool) -> list[str]:
    """The shipped tables that are named (or all), each with its content and the checksum it must have."""
    listed: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        listed = json.loads((root / "data" / "checksums.json").read_text("utf8"))
    tables = [path for path in sorted((root / "data").glob("*.npz")) if every or _names(path.stem, words)]
    return [
        f"{path.name} {listed.get(path.name)} {line}" for path, line in zip(tables, _sums(root, tables), strict=True)
    ]


def _beside(here: Path, words: Iterable[str]) -> list[Path]:
    """Files that a string names as seen from the chapter's folder, where its kernel runs."""
    found = []
    for text in sorted(words):
        with suppress(OSError, ValueError):  # most strings are no paths
            if len(text) < 256 and (here / text).is_file():
                found.append(here / text)
    return found


def _places(root: Path) -> dict[str, Any]:
    """The names in kdlib.data.places of this root; it imports nothing of kdlib."""
    script = root / "kdlib" / "data" / "places.py"
    return runpy.run_path(str(script)) if script.is_file() else {"FILES": {}}


def data_at_hand(root: Path) -> list[str]:
    """The data sets on this machine, written as claims name them after their @. ValueError for a bad KDLIB_DATA."""
    places = _places(root)
    return [name.replace("_", "-") for name in places["FILES"] if places["source"](name)]


def _data(root: Path, here: Path, words: set[str]) -> list[str]:
    """The files of the data sets that are named, and all below a data folder that is itself named, by content."""
    places = _places(root)
    files: dict[str, Path] = {}
    for name in places["FILES"]:
        if _names(name, words):
            folders = [None, *(here / text for text in sorted(words) if len(text) < 256 and _is_folder(here / text))]
            for number, folder in enumerate(folders):
                files |= {f"{name} {number} {path.name}": path for path in places["source"](name, folder)}
    for variable, function in FOLDERS.items():
        if function in places and (function in words or (_names(variable, words) and os.environ.get(variable))):
            folder = places[function]()
            paths = (Path(top, name) for top, _, names in os.walk(folder, followlinks=True) for name in names)
            files |= {f"{variable} {path.relative_to(folder).as_posix()}": path for path in sorted(paths)}
    return [f"{label} {line}" for label, line in zip(files, _sums(root, files.values()), strict=True)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _sums(root: Path, files: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file ("missing" where there is none), remembered as long as its size and time are the same."""
    memory = root / "_build" / "checksums.json"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        read = json.loads(memory.read_text("utf8"))
        known = read if isinstance(read, dict) else {}
    sums, news = [], {}
    for path in files:
        if not path.is_file():
            sums.append("missing")
            continue
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = known.get(str(path.absolute()))
        if not (isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3):
            with path.open("rb") as file:
                entry = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
            if time.time_ns() - status.st_mtime_ns > 2e9:  # a file of this moment may change again within one tick
                news[str(path.absolute())] = entry
        sums.append(str(entry[2]))
    if news:
        with suppress(OSError):  # only speed is lost
            write_atomically(memory, json.dumps({**known, **news}))
    return sums
