"""Where the files of the image data sets lie, what they are called, and their published checksums.

Nothing of kdlib is imported here, so that the book's tools can ask what a chapter reads without loading PyTorch.
"""

from __future__ import annotations

import os
from pathlib import Path

import pooch

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
    """The folder for downloads: the environment variable KDLIB_CACHE, else the system's own place. `~` is home."""
    return Path(os.environ.get("KDLIB_CACHE") or pooch.os_cache("kdlib")).expanduser()


def data_root(root: Root = None) -> Path:
    """The folder to look in: `root`, else the environment variable KDLIB_DATA, else the cache folder. `~` is home.

    Raises ValueError if the folder named by the argument or the variable does not exist.
    """
    named = root if root is not None else os.environ.get("KDLIB_DATA") or None
    if named is None:
        return cache_folder()
    folder = Path(named).expanduser()
    if not str(named) or not folder.is_dir():
        raise ValueError(f"{'KDLIB_DATA' if root is None else 'root'} must be an existing folder, got {str(named)!r}")
    return folder


def registry() -> pooch.Pooch:
    """pooch's registry of every file that can be downloaded; what it fetches is checked and kept under the cache folder."""
    sums = {url: md5 for files in DOWNLOADS.values() for url, md5 in files.items()}
    names = {url: url.rsplit("/", 1)[-1] for url in sums}
    return pooch.create(
        cache_folder() / "downloads",
        base_url="",
        registry={names[url]: f"md5:{md5}" for url, md5 in sums.items()},
        urls={name: url for url, name in names.items()},
    )


def source(name: str, root: Root = None) -> list[Path]:
    """The files of data set `name` on this machine, or none: the first of the places below that has any. No download.

    In this order: the official files under the root, unpacked or as downloaded; Debian's package (Fashion-MNIST); an
    earlier download, if it is whole. A place that lacks a file counts (its plain name is then in the list): a silent
    change of place would hide the damage.
    """
    found = _under(data_root(root), name)
    if not found and name == "fashion_mnist":
        found = _under(DEBIAN, name)
    if not found:
        kept = registry()
        files = [Path(kept.abspath) / url.rsplit("/", 1)[-1] for url in DOWNLOADS[name]]
        if all(path.is_file() and pooch.hashes.hash_matches(str(path), kept.registry[path.name]) for path in files):
            found = files
    return found


def _under(place: Path, name: str) -> list[Path]:
    for folder in (place / sub for sub in FOLDERS[name]):
        stored = {file: [p for p in (folder / file, folder / f"{file}.gz") if p.is_file()] for file in FILES[name]}
        if any(stored.values()):
            return [(paths or [folder / file])[0] for file, paths in stored.items()]
    archives = [place / url.rsplit("/", 1)[-1] for url in DOWNLOADS[name]]
    return [path for path in archives if path.name.endswith(".tar.gz") and path.is_file()]
