"""Multi-view data: every class has several features, and most images show all those of their class.

Source: Allen-Zhu & Li, "Towards Understanding Ensemble, Knowledge Distillation and Self-Distillation in Deep Learning"
(ICLR 2023), section on the data distribution, as recalled; sizes and strengths are this book's, chosen so that it shows on a CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdlib import _check, _seeds
from kdlib.data.task import Task

Range = tuple[float, float]
ALL = -1  # the visible view of an image that shows all of them


def multiview(
    seed: int = 0,
    *,
    classes: int = 5,
    views: int = 2,
    dimension: int = 60,
    patches: int = 6,
    others: int | None = None,
    others_train: int | None = None,
    own: Range = (1.0, 1.5),
    hidden: Range = (0.13, 0.17),
    other: Range = (0.3, 0.5),
    other_single: Range = (0.2, 0.3),
    single_train: float = 0.0,
    single_test: float = 0.5,
    noise: float = 0.1,
    noise_inside: float = 0.0,
    rotated: bool = False,
    n_train: int = 120,
    n_test: int = 1000,
) -> Task:
    """Images as bags of patches, x (N, patches, dimension), float32; `classes` labels drawn evenly at random.

    Class k has `views` features, unit vectors that are all orthogonal: `extra["features"] (K, views, dimension)`. An image
    shows each feature of its class in a patch of its own, at a strength drawn from `own`, and `others` features of other
    classes (default: as many as patches are left; in training images `others_train`, default the same), one a patch, at
    strengths from `other`. In a *single-view* image one view
    of the class, drawn evenly, is visible at `own` strength; the hidden ones are faint, from `hidden`, and the features of
    other classes come from `other_single`. Which patch shows what is drawn for each image.

    single_train, single_test: share of single-view images, rounded to whole images, at random places.
    noise: length of the Gaussian noise of a patch (root mean square) outside the span of the features.
    noise_inside: standard deviation of Gaussian noise along each feature, in every patch.
    rotated: features in random directions; else they are the first coordinates.

    `extra` has `single (N,)` bool, `view (N,)` int64 (the visible view; -1 where all are) and `strengths (N, K, views)`, the
    strength of each feature (0 where it is not shown), and the same of the test images with a name ending in _test.

    Raises ValueError for more features than dimensions, more features to show than patches or than there are, ranges that
    are not ordered and at least 0, or shares outside [0, 1].
    """
    for name, value in {"classes": classes, "views": views, "dimension": dimension, "patches": patches}.items():
        _check.positive_int(value, name)
    for name, value in {"n_train": n_train, "n_test": n_test}.items():
        _check.positive_int(value, name)
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    if classes * views > dimension:
        raise ValueError(f"dimension must be at least classes x views = {classes * views}, got {dimension}")
    if patches < views:
        raise ValueError(f"patches must be at least views = {views}, one for each, got {patches}")
    foreign = (classes - 1) * views
    room = min(patches - views, foreign)
    others = room if others is None else _check.integer(others, "others")
    others_train = others if others_train is None else _check.integer(others_train, "others_train")
    for name, value in {"others": others, "others_train": others_train}.items():
        if value > room:
            raise ValueError(
                f"{name} must be at most {room}: {patches - views} patches are left and the other classes have "
                f"{foreign} features; got {value}"
            )
    ranges = {"own": own, "hidden": hidden, "other": other, "other_single": other_single}
    for name, pair in ranges.items():
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1] < math.inf:
            raise ValueError(f"{name} must be two finite numbers from low to high, at least 0, got {pair!r}")
    for name, share in {"single_train": single_train, "single_test": single_test}.items():
        _check.fraction(share, name)
    _check.not_negative(noise, "noise")
    _check.not_negative(noise_inside, "noise_inside")

    generator = _seeds.stream(seed, "multi-view")
    basis = torch.eye(dimension, device="cpu", dtype=torch.float32)
    if rotated:
        basis = torch.linalg.qr(
            torch.randn(dimension, dimension, generator=generator, dtype=torch.float64, device="cpu")
        ).Q.T.float()
    features, rest = basis[: classes * views], basis[classes * views :]

    def uniform(pair: Range, *shape: int) -> Tensor:
        return pair[0] + (pair[1] - pair[0]) * torch.rand(
            *shape, generator=generator, dtype=torch.float32, device="cpu"
        )

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")

    def draw(n: int, share: float, others: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        y = torch.randint(0, classes, (n,), generator=generator, device="cpu")
        single = torch.zeros(n, dtype=torch.bool, device="cpu")
        single[torch.randperm(n, generator=generator, device="cpu")[: round(share * n)]] = True
        view = torch.randint(0, views, (n,), generator=generator, device="cpu").masked_fill(~single, ALL)
        mine = y[:, None] * views + torch.arange(views, device="cpu")  # (n, views), numbers of the class's own features
        faint = single[:, None] & (torch.arange(views, device="cpu") != view[:, None])
        strength = torch.where(faint, uniform(hidden, n, views), uniform(own, n, views))
        # The others: the first of a random order of all features, the class's own put last.
        order = uniform((0.0, 1.0), n, classes * views).scatter(1, mine, 2.0).argsort(1)[:, :others]
        weak = torch.where(single[:, None], uniform(other_single, n, others), uniform(other, n, others))
        shown, strengths = torch.cat([mine, order], 1), torch.cat([strength, weak], 1)  # (n, views + others)
        x = rest.new_zeros(n, patches, dimension)
        place = uniform((0.0, 1.0), n, patches).argsort(1)[:, : views + others]
        x[torch.arange(n, device="cpu")[:, None], place] = strengths[..., None] * features[shown]
        if len(rest):
            x += noise / math.sqrt(len(rest)) * (normal(n, patches, len(rest)) @ rest)
        if noise_inside:
            x += noise_inside * (normal(n, patches, len(features)) @ features)
        table = x.new_zeros(n, classes * views).scatter(1, shown, strengths).view(n, classes, views)
        return x, y, single, view, table

    x_train, y_train, *train = draw(n_train, single_train, others_train)
    x_test, y_test, *test = draw(n_test, single_test, others)
    names = ("single", "view", "strengths")
    extra = dict(zip(names, train, strict=True)) | {f"{k}_test": v for k, v in zip(names, test, strict=True)}
    extra["features"] = features.reshape(classes, views, dimension)
    return Task(x_train, y_train, x_test, y_test, classes, name="multi-view", extra=extra)
