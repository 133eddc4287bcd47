"""The offline edition: every built page in one archive, to be unpacked and opened anywhere, without a server or a network.

Pages, styles, formulas' letters and sources are all there; `gates` has seen to it that no page asks for anything else. The
same pages give the same bytes, so an archive can be compared by its checksum.
"""

import zipfile
from pathlib import Path

import kdlib
from kdlib import _files

from . import pages
from .contents import files_under

FOLDER = "knowledge-distillation-by-experiment"  # what the archive unpacks to
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that the format knows; the files' own would change the bytes


def archive(root: Path) -> Path:
    """Where the archive is written."""
    return root / "_build" / f"{FOLDER}-{kdlib.__version__}.zip"


def pack(root: Path) -> Path:
    """Write the archive of the built book and return its path.

    Raises ValueError where the pages are not built from the sources as they are, OSError where it cannot be written.
    """
    if not pages.is_current(root):
        raise ValueError("the pages are not built from these sources: run `make book` first")
    return write(pages.site(root), archive(root))


def write(site: Path, target: Path) -> Path:
    """Pack all files below ``site``, hidden ones left out, into ``target``. Raises OSError where it cannot be written."""
    with _files.replacing(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in files_under(site):
            entry = zipfile.ZipInfo(f"{FOLDER}/{path.relative_to(site).as_posix()}", EPOCH)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return target
