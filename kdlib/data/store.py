"""Read and download the files of the image data sets (`places` says where they lie).

Every byte is compared with a published checksum before it is read, so a damaged or truncated file is refused by name.
Decoded arrays are kept nowhere: what is read is always what the authors published.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import tarfile
import zlib
from pathlib import Path

from kdlib.data import decode, places
from kdlib.data.decode import Arrays
from kdlib.data.places import Root, cache_folder, data_root

__all__ = ["Root", "cache_folder", "data_root", "load"]


def load(name: str, root: Root = None, download: bool = True) -> Arrays:
    """The arrays of data set `name` from the first place that has it (see `places.source`), then by a download if allowed.

    Raises ValueError naming the file that is damaged or missing, or the remedies if the data set is nowhere.
    """
    paths = places.source(name, root) or _fetch(name, data_root(root), download)
    blobs = _from_archive(name, paths[0]) if paths[0].name.endswith(".tar.gz") else _from_files(name, paths)
    return decode.fashion_mnist(blobs) if name == "fashion_mnist" else decode.cifar(blobs)


def _from_files(name: str, paths: list[Path]) -> dict[str, bytes]:
    blobs = {}
    for (file, md5), path in zip(places.FILES[name].items(), paths, strict=True):
        if not path.is_file():
            raise ValueError(f"{path} is missing: restore it, or remove the files beside it to use another copy")
        blob = path.read_bytes()
        if path.suffix == ".gz":
            try:
                blob = gzip.decompress(blob)
            except (OSError, EOFError, zlib.error) as error:
                raise _damaged(path, f"it does not unpack ({error})") from error
        blobs[file] = _checked(path, blob, md5)
    return blobs


def _from_archive(name: str, archive: Path) -> dict[str, bytes]:
    """The members of the official archive, read one by one: nothing is unpacked to disk."""
    (md5,) = places.DOWNLOADS[name].values()
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() != md5:
            raise _damaged(archive, f"its md5 is not the expected {md5}")
        file.seek(0)
        blobs = {}
        with tarfile.open(fileobj=file) as tar:  # members in the order of the archive: no rewinding
            wanted = {f"{places.FOLDERS[name][0]}/{file}": file for file in places.FILES[name]}
            for member in tar:
                if member.name in wanted and (content := tar.extractfile(member)):
                    blobs[wanted[member.name]] = content.read()
    return {
        file: _checked(archive / file, blobs.get(file, b""), expected) for file, expected in places.FILES[name].items()
    }


def _checked(path: Path, blob: bytes, md5: str) -> bytes:
    found = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    if found != md5:
        raise _damaged(path, f"the md5 of its {len(blob)} bytes is {found}, expected {md5}")
    return blob


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged or truncated: {why}; fetch it again")


def _fetch(name: str, place: Path, download: bool) -> list[Path]:
    """Download the official files of `name` into the cache; pooch checks them and leaves nothing half-written."""
    if not download:
        raise _nowhere(name, place, "download=False forbids fetching it")
    registry = places.registry()
    try:
        files = [url.rsplit("/", 1)[-1] for url in places.DOWNLOADS[name]]
        return [Path(registry.fetch(file, progressbar=sys.stderr.isatty())) for file in files]
    except (OSError, ValueError) as error:  # requests raises kinds of OSError, a wrong checksum is a ValueError
        raise _nowhere(name, place, f"the download failed: {error}") from error


def _nowhere(name: str, place: Path, why: str) -> ValueError:
    addresses = ", ".join(places.DOWNLOADS[name])
    debian = "; install Debian's package dataset-fashion-mnist" if name == "fashion_mnist" else ""
    return ValueError(
        f"{name} is not on this machine (looked under {place}), and {why}. Any of these helps: fetch {addresses} into a "
        f"folder, unpacked or not, and name the folder by root= or the environment variable KDLIB_DATA{debian}; "
        "or call again with download=True and a network connection."
    )
