"""What a chapter's result depends on, as one key: a chapter runs again only when its key changed."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from .contents import Chapter, files_under

DEBIAN_IMAGES = Path("/usr/share/datasets/fashion-mnist")  # its presence changes what some chapters compute


def digest(root: Path, files: Iterable[Path], *facts: str) -> str:
    """SHA-256 over facts and files; a file counts by its place below root and its content (empty if missing)."""
    total = hashlib.sha256("\0".join(facts).encode())
    for path in files:
        content = path.read_bytes() if path.is_file() else b""
        total.update(f"\0{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def environment_key(root: Path) -> str:
    """Changes when kdlib, the shipped tables, the pinned versions, Python or the data at hand change."""
    shared = [*files_under(root / "kdlib"), *files_under(root / "data"), root / "constraints.txt"]
    facts = (platform.python_version(), os.environ.get("KDLIB_DATA", ""), str(DEBIAN_IMAGES.is_dir()))
    return digest(root, shared, *facts)


def stored_key(path: Path) -> str | None:
    """The key an executed notebook was stored under, or None where there is none."""
    try:
        return str(json.loads(path.read_text("utf8"))["metadata"]["kdlib"]["key"])
    except (OSError, ValueError, KeyError):
        return None


def chapter_key(root: Path, chapter: Chapter, environment: str) -> str:
    """Changes when the chapter, a file of the book that it reads or the environment changes."""
    return digest(root, [chapter.source, *(root / "book" / name for name in chapter.reads())], environment)
