"""Real images as `Task`s: scikit-learn's digits, Fashion-MNIST, CIFAR-10, and CIFAR-100 with its superclasses.

Pixels are standardised per channel, (x / white - mean) / std, with fixed numbers of the whole official training set. They
do not depend on the subset, the seed or the size, so a teacher trained on everything reads the images of a student's
small subset as its own. `extra` keeps `mean` and `std` (C, 1, 1): `x * std + mean` lies in [0, 1] again, for showing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d

from kdlib import _check
from kdlib.data import places, store
from kdlib.data.decode import Arrays
from kdlib.data.task import Task

# Mean and standard deviation of each channel, white = 1, over the official training set (digits: over all images).
PIXELS = {
    "digits": ((0.3053,), (0.3760,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def digits(seed: int = 0, n_train: int | None = None, n_test: int = 500) -> Task:
    """The 1,797 handwritten digits that ship with scikit-learn: images (N, 1, 8, 8), 10 classes, no file needed.

    There is no official split: `seed` draws `n_test` test images, then `n_train` of the rest (None: all of it), both
    stratified by class. Raises ValueError if more are asked for than there are.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), UCI Machine Learning Repository.
    """
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]  # (N, 1, 8, 8), ink 0..16
    labels = bunch.target.astype(np.int64)
    test = _draw(labels, n_test, seed, "n_test")
    rest = np.setdiff1d(np.arange(len(labels)), test)
    if len(np.unique(labels[rest])) < 10:
        raise ValueError(f"n_test must leave an image of every class to train on, of {len(labels)}, got {n_test!r}")
    arrays = {"classes": np.array([str(digit) for digit in range(10)])}
    arrays |= {"x_train": images[rest], "y_train": labels[rest], "x_test": images[test], "y_test": labels[test]}
    return _task("digits", arrays, 8, n_train, None, seed, white=16)


def fashion_mnist(
    n_train: int | None = None,
    n_test: int | None = None,
    size: int = 28,
    seed: int = 0,
    root: places.Root = None,
    download: bool = True,
) -> Task:
    """Fashion-MNIST: 60,000 + 10,000 grey images (N, 1, size, size) of clothes, 10 classes.

    `n_train`, `n_test`: a subset drawn stratified from `seed` (None: all, in the official order; a smaller subset is part
    of a larger one). `size`: 28, or a divisor of it reached by averaging areas. `root`: a folder with the official files,
    else the environment variable KDLIB_DATA, else the cache folder (KDLIB_CACHE); then Debian's package; then, if
    `download`, the official address (30 MB).

    Raises ValueError on bad arguments, names a damaged file, or lists the remedies if the data set is nowhere.

    Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST (2017), arXiv:1708.07747. MIT licence.
    """
    return _task("fashion_mnist", store.load("fashion_mnist", root, download), size, n_train, n_test, seed)


def cifar10(
    n_train: int | None = None,
    n_test: int | None = None,
    size: int = 32,
    seed: int = 0,
    root: places.Root = None,
    download: bool = True,
) -> Task:
    """CIFAR-10: 50,000 + 10,000 colour images (N, 3, size, size), 10 classes. Arguments and errors as in `fashion_mnist`.

    The official Python files are read only after their md5 is found right, from a folder or from the archive (170 MB).

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return _task("cifar10", store.load("cifar10", root, download), size, n_train, n_test, seed)


def cifar100(
    superclasses: Sequence[str] | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    size: int = 32,
    seed: int = 0,
    root: places.Root = None,
    download: bool = True,
) -> Task:
    """CIFAR-100: 50,000 + 10,000 colour images (N, 3, size, size), 100 classes in 20 superclasses (`groups`).

    `superclasses`: names of those to keep, None for all. The classes kept are numbered anew, superclass by superclass in
    the order given (so their blocks are contiguous) and by official number inside; `extra["class_names"]` and
    `extra["group_names"]` follow. Other arguments and errors as in `fashion_mnist`; `n_train`, `n_test` count after the
    selection.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    arrays = store.load("cifar100", root, download)
    if superclasses is not None:
        arrays = _keep(arrays, superclasses)
    return _task("cifar100", arrays, size, n_train, n_test, seed)


def available(name: str, root: places.Root = None) -> bool:
    """Whether "digits", "fashion_mnist", "cifar10" or "cifar100" can be loaded without a network. Never downloads.

    A set with a damaged or missing file counts as there: loading it then names the file. Raises ValueError on other names.
    """
    if name not in PIXELS:
        raise ValueError(f"name must be one of {', '.join(PIXELS)}, got {name!r}")
    return name == "digits" or bool(places.source(name, root))


def _keep(arrays: Arrays, superclasses: Sequence[str]) -> Arrays:
    """Only the classes of `superclasses`, numbered anew."""
    known = arrays["group_names"].tolist()
    chosen = [] if isinstance(superclasses, str) or not isinstance(superclasses, Sequence) else list(superclasses)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ValueError(
            f"superclasses must be a list of different names among {', '.join(known)}, got {superclasses!r}"
        )
    classes = np.concatenate([np.flatnonzero(arrays["groups"] == known.index(name)) for name in chosen])
    number = np.full(len(arrays["classes"]), -1)
    number[classes] = np.arange(len(classes))
    kept = {"classes": arrays["classes"][classes], "group_names": np.array(chosen)}
    kept["groups"] = np.array([chosen.index(known[group]) for group in arrays["groups"][classes]])
    for split in ("train", "test"):
        labels = number[arrays[f"y_{split}"]]
        kept |= {f"x_{split}": arrays[f"x_{split}"][labels >= 0], f"y_{split}": labels[labels >= 0]}
    return kept


def _task(
    name: str, arrays: Arrays, size: int, n_train: int | None, n_test: int | None, seed: int, white: int = 255
) -> Task:
    mean, std = (
        torch.tensor(channel, dtype=torch.float32, device="cpu")[:, None, None] for channel in PIXELS[name]
    )  # (C, 1, 1)
    full = arrays["x_train"].shape[-1]
    if full % _check.positive_int(size, "size"):
        raise ValueError(f"size must divide {full}, the width of the images of {name}, got {size}")
    tensors: dict[str, Tensor] = {}
    for split, n in (("train", n_train), ("test", n_test)):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        rows = _draw(labels, n, seed, f"n_{split}")
        tensors[f"x_{split}"] = _shrink(images, rows, size).sub_(white * mean).div_(white * std)
        tensors[f"y_{split}"] = torch.from_numpy(labels[rows])
    extra: dict[str, Any] = {"class_names": arrays["classes"].tolist(), "mean": mean, "std": std}
    if "groups" in arrays:
        extra["group_names"] = arrays["group_names"].tolist()
    groups = torch.from_numpy(arrays["groups"]) if "groups" in arrays else None
    return Task(**tensors, num_classes=len(arrays["classes"]), groups=groups, name=name, extra=extra)


def _shrink(images: np.ndarray, rows: np.ndarray, size: int) -> Tensor:
    """float32 (len(rows), C, size, size): the mean of each square of pixels, in chunks so that memory stays low."""
    square = images.shape[-1] // size
    small = torch.empty(len(rows), images.shape[1], size, size, dtype=torch.float32, device="cpu")
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        chunk = torch.from_numpy(images[rows[part]])
        small[part] = avg_pool2d(chunk.float(), square) if square > 1 else chunk
    return small


def _draw(labels: np.ndarray, n: int | None, seed: int, name: str) -> np.ndarray:
    """Sorted rows of a stratified sample of `n` (None: all), nested in `n` for one seed.

    scikit-learn's stratified splits are not nested and refuse to leave out fewer rows than there are classes.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    if n is None:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not len(counts) <= n <= len(labels):
        raise ValueError(f"{name} must be an integer in {len(counts)}..{len(labels)}, got {n!r}")
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = pd.Series(labels[order])
    share = (shuffled.groupby(shuffled).cumcount().to_numpy() + 0.5) / counts[shuffled]  # how far into its own class
    return np.sort(order[np.argsort(share, kind="stable")[:n]])
