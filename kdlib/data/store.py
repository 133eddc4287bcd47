"""Find, check, download and cache the files of the image data sets.

Every byte is compared with a published checksum before it is read, so a damaged or truncated file is refused by name.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pooch

from kdlib import _files
from kdlib.data import decode
from kdlib.data.decode import Arrays

Root = str | os.PathLike[str] | None

DEBIAN = Path("/usr/share/datasets/fashion-mnist")

# The md5 of each file to read, once unpacked.
FILES = {
    "fashion_mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    "cifar100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
}
# Where those files lie under a root: as their authors, Debian and torchvision unpack them.
FOLDERS = {
    "fashion_mnist": ("fashion-mnist", "FashionMNIST/raw", "."),
    "cifar10": ("cifar-10-batches-py",),
    "cifar100": ("cifar-100-python",),
}
# What is downloaded, with its md5.
ZALANDO = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
TORONTO = "https://www.cs.toronto.edu/~kriz"
DOWNLOADS = {
    "fashion_mnist": {
        f"{ZALANDO}/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        f"{ZALANDO}/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        f"{ZALANDO}/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        f"{ZALANDO}/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    "cifar10": {f"{TORONTO}/cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
    "cifar100": {f"{TORONTO}/cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
}


def cache_folder() -> Path:
    """The folder for downloads and decoded arrays: the environment variable KDLIB_CACHE, else the system's own place."""
    return Path(os.environ.get("KDLIB_CACHE") or pooch.os_cache("kdlib"))


def data_root(root: Root = None) -> Path:
    """The folder to look in: `root`, else the environment variable KDLIB_DATA, else the cache folder.

    Raises ValueError if the folder named by the argument or the variable does not exist.
    """
    named = root if root is not None else os.environ.get("KDLIB_DATA") or None
    if named is None:
        return cache_folder()
    if not str(named) or not Path(named).is_dir():
        raise ValueError(f"{'KDLIB_DATA' if root is None else 'root'} must be an existing folder, got {str(named)!r}")
    return Path(named)


def load(name: str, root: Root = None, download: bool = True) -> Arrays:
    """The arrays of data set `name` from the first source that has it (see `find`), then by a download if allowed.

    Raises ValueError naming the file that is damaged or missing, or the remedies if the data set is nowhere.
    """
    read = find(name, root)
    if read is None:
        _fetch(name, data_root(root), download)
        read = _official(name, _downloads())
    assert read is not None  # else _fetch has raised
    return read()


def find(name: str, root: Root = None) -> Callable[[], Arrays] | None:
    """The reader of the first source of `name` on this machine, or None. Nothing is downloaded.

    In this order: the official files under the root (unpacked, or as downloaded), the compact sheets under it
    (CIFAR-100), Debian's package (Fashion-MNIST), an earlier download. A source that is there but lacks a file counts:
    its reader then names the file, for a silent change of source would hide the damage.
    """
    place = data_root(root)
    read = _official(name, place)
    if read is None and name == "cifar100":
        read = _sheets(place / "cifar100")
    if read is None and name == "fashion_mnist":
        read = _official(name, DEBIAN)
    if read is None and all(_intact(_downloads() / Path(url).name, md5) for url, md5 in DOWNLOADS[name].items()):
        read = _official(name, _downloads())
    return read


def _official(name: str, place: Path) -> Callable[[], Arrays] | None:
    for folder in (place / sub for sub in FOLDERS[name]):
        if any(_stored(folder, file) for file in FILES[name]):
            return partial(_read_folder, name, folder)
    for url, md5 in DOWNLOADS[name].items():
        if url.endswith(".tar.gz") and (place / Path(url).name).is_file():
            return partial(_read_archive, name, place / Path(url).name, md5)
    return None


def _stored(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _read_folder(name: str, folder: Path) -> Arrays:
    blobs = {}
    for file, md5 in FILES[name].items():
        path = _stored(folder, file)
        if path is None:
            raise ValueError(
                f"{folder / file} is missing: restore it, or remove the files beside it to use another copy"
            )
        blob = path.read_bytes()
        if path.suffix == ".gz":
            try:
                blob = gzip.decompress(blob)
            except (OSError, EOFError, zlib.error) as error:
                raise _damaged(path, f"it does not unpack ({error})") from error
        blobs[file] = _checked(path, blob, md5)
    return _decode(name, blobs)


def _read_archive(name: str, archive: Path, md5: str) -> Arrays:
    if not _intact(archive, md5):
        raise _damaged(archive, f"its md5 is not the expected {md5}")

    def read() -> Arrays:
        blobs = {}
        with tarfile.open(archive) as tar:  # members are read one by one: nothing is unpacked to disk
            for file, expected in FILES[name].items():
                member = tar.extractfile(f"{FOLDERS[name][0]}/{file}")
                blobs[file] = _checked(archive / file, member.read() if member else b"", expected)
        return _decode(name, blobs)

    return _cached(f"{name}-{md5[:16]}", read)


def _decode(name: str, blobs: dict[str, bytes]) -> Arrays:
    return decode.fashion_mnist(blobs) if name == "fashion_mnist" else decode.cifar(blobs)


def _sheets(folder: Path) -> Callable[[], Arrays] | None:
    """The reader of CIFAR-100 kept as lossless contact sheets of 25 x 40 images, with SHA256SUMS beside them."""
    there = (folder / "SHA256SUMS").is_file() or any(folder.glob("t*_[0-9][0-9].webp"))
    return partial(_read_sheets, folder) if there else None


def _read_sheets(folder: Path) -> Arrays:
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise ValueError(f"{sums} is missing: without it the sheets beside it cannot be checked")
    text = sums.read_bytes()
    wanted = rb"^([0-9a-f]{64}) [ *]((?:train|test)_\d\d\.webp|labels\.npz|classes\.json)$"
    listed = {file.decode(): digest.decode() for digest, file in re.findall(wanted, text, re.MULTILINE)}
    if not {"labels.npz", "classes.json"} <= listed.keys():
        raise _damaged(sums, "it does not list labels.npz and classes.json")
    blobs = {}
    for file, digest in listed.items():
        if not (folder / file).is_file():
            raise ValueError(f"{folder / file} is missing: fetch it again")
        blobs[file] = _checked(folder / file, (folder / file).read_bytes(), digest, "sha256")

    def read() -> Arrays:
        try:
            return decode.cifar100_sheets(blobs)
        except (ValueError, KeyError, OSError) as error:  # the files are what SHA256SUMS says: the list is at fault
            raise _damaged(sums, str(error)) from error

    return _cached(f"cifar100-{hashlib.sha256(text).hexdigest()[:16]}", read)


def _checked(path: Path, blob: bytes, digest: str, algorithm: str = "md5") -> bytes:
    found = hashlib.new(algorithm, blob, usedforsecurity=False).hexdigest()
    if found != digest:
        raise _damaged(path, f"the {algorithm} of its {len(blob)} bytes is {found}, expected {digest}")
    return blob


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged or truncated: {why}; fetch it again")


def _intact(path: Path, md5: str) -> bool:
    return path.is_file() and pooch.file_hash(str(path), alg="md5") == md5


def _cached(key: str, read: Callable[[], Arrays]) -> Arrays:
    """`read()`, kept in the cache folder under `key`; zip's CRC-32 checks every array of it on the way back."""
    path = cache_folder() / f"{key}.npz"
    # A damaged cache is ours to mend and may fail in any way: read the source again and replace it.
    with suppress(Exception), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(stored)
    arrays = read()
    # a full disk or a read-only home costs time, not the data
    with suppress(OSError), _files.replacing(path) as part, part.open("wb") as out:
        np.savez(out, **arrays)  # type: ignore[arg-type]
    return arrays


def _downloads() -> Path:
    return cache_folder() / "downloads"


def _fetch(name: str, place: Path, download: bool) -> None:
    """Download the official files of `name` into the cache; pooch checks them and leaves nothing half-written."""
    if not download:
        raise _nowhere(name, place, "download=False forbids fetching it")
    for url, md5 in DOWNLOADS[name].items():
        try:
            pooch.retrieve(url, f"md5:{md5}", Path(url).name, _downloads(), progressbar=sys.stderr.isatty())
        except (OSError, ValueError) as error:  # requests raises kinds of OSError, a wrong checksum is a ValueError
            raise _nowhere(name, place, f"the download failed: {error}") from error


def _nowhere(name: str, place: Path, why: str) -> ValueError:
    addresses = ", ".join(DOWNLOADS[name])
    debian = "; install Debian's package dataset-fashion-mnist" if name == "fashion_mnist" else ""
    return ValueError(
        f"{name} is not on this machine (looked under {place}), and {why}. Any of these helps: fetch {addresses} into a "
        f"folder, unpacked or not, and name the folder by root= or the environment variable KDLIB_DATA{debian}; "
        "or call again with download=True and a network connection."
    )
