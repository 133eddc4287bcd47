"""The contract between data and everything else: one frozen `Task`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdlib import _check, _seeds

OTHER_SETS = ("_test", "_teacher", "_validation")  # an extra named so belongs to that set's examples


@dataclass(frozen=True, eq=False)
class Task:
    """A problem with a fixed train and test split: classification, or regression where the targets are floating.

    Shapes: `x_train (N, ...)`, `y_train (N,)`, `x_test (M, ...)`, `y_test (M,)`; float inputs, int64 labels in
    0..num_classes-1. In a regression `y_train` and `y_test` are floating, (N,) or (N, D), and `num_classes` is the number of
    outputs, 1 or D. `groups (K,)` is the superclass of each class, or None. `extra` holds what only some tasks have,
    such as `clean` (bool, N), `class_names`, or the teacher's own training set `x_teacher`, `y_teacher`. A tensor in
    `extra` with as many rows as `x_train` belongs to the training examples, and goes where they go, unless its name
    ends in _test, _teacher or _validation.

    Raises ValueError on wrong shapes, dtypes, labels out of range, or NaN inputs or targets.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    groups: Tensor | None = None
    name: str = "task"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_classes", _check.positive_int(self.num_classes, "num_classes"))
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            _check.finite(f"x_{split}", _check.floating(f"x_{split}", x))
            if x.dim() == 0 or len(x) == 0:
                raise ValueError(f"x_{split} must hold at least one example, got shape {tuple(x.shape)}")
            if self.is_regression:
                self._check_outputs(f"y_{split}", y, len(x))
            else:
                _check.labels(f"y_{split}", y, self.num_classes, len(x))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"x_test must have examples of shape {tuple(self.x_train.shape[1:])} like x_train, "
                f"got {tuple(self.x_test.shape[1:])}"
            )
        if self.groups is not None:
            self.require_classes("groups")
            _check.labels("groups", self.groups, self.num_classes, self.num_classes)

    def _check_outputs(self, name: str, y: Tensor, n: int) -> None:
        _check.shape(name, _check.finite(name, y), (n,) if self.y_train.dim() == 1 else (n, None))
        outputs = 1 if y.dim() == 1 else y.shape[1]
        if outputs != self.num_classes:
            raise ValueError(f"num_classes must be {outputs}, the number of outputs in {name}, got {self.num_classes}")

    @property
    def is_regression(self) -> bool:
        """Whether the targets are floating numbers and not classes."""
        return all(isinstance(y, Tensor) and y.is_floating_point() for y in (self.y_train, self.y_test))

    def require_classes(self, purpose: str) -> None:
        """Raise ValueError, saying what for, if this is a regression."""
        if self.is_regression:
            raise ValueError(
                f"{purpose} needs classes, but {self.name} is a regression: y_train is {self.y_train.dtype}"
            )

    def to(self, device: str | torch.device) -> Task:
        """The same task with every tensor on `device`. Raises ValueError for one that torch cannot use here."""
        place = _check.device(device)

        def move(value: Any) -> Any:
            return value.to(place) if isinstance(value, Tensor) else value

        there = copy(self)  # not `replace`, which would look at every value again, on the device
        for name in ("x_train", "y_train", "x_test", "y_test", "groups"):
            object.__setattr__(there, name, move(getattr(self, name)))
        object.__setattr__(there, "extra", {key: move(value) for key, value in self.extra.items()})
        return there

    @property
    def for_teacher(self) -> Task:
        """The task as the teacher sees it: its own training set where `extra` holds one, else this task itself."""
        if "x_teacher" not in self.extra:
            return self
        return replace(
            self,
            x_train=self.extra["x_teacher"],
            y_train=self.extra["y_teacher"],
            extra={},
            name=f"{self.name} (teacher)",
        )

    def subset(self, rows: Tensor) -> Task:
        """The same task with only the training examples `rows`, indices or a mask; what `extra` has of them follows."""
        mine = {key: value[rows] for key, value in self.extra.items() if self._is_per_example(key, value)}
        return replace(self, x_train=self.x_train[rows], y_train=self.y_train[rows], extra={**self.extra, **mine})

    def _is_per_example(self, key: str, value: Any) -> bool:
        rows = len(value) if isinstance(value, Tensor) and value.dim() else None
        return rows == len(self.x_train) and not key.endswith(OTHER_SETS)

    def split_validation(self, fraction: float = 0.2, seed: int = 0, stratified: bool = False) -> Task:
        """The same task with a random part of its training set, noise included, kept apart as a validation set.

        `extra` of the new task has `x_validation`, `y_validation`, and `rows (N',)` int64, the rows of this task's training set that
        are left, in their order: a table of targets (N, K) follows by `table[task.extra["rows"]]`. Other extras of the
        training examples follow too. The validation set has round(fraction N) examples, at least 1 and at most N - 1; with
        `stratified` each class has its share of them, but for rounding. Fixed by `seed`.

        Raises ValueError for a fraction that does not lie between 0 and 1, a training set of one example, or a task that has a
        validation set already (split the original: rows would have two meanings).
        """
        n = len(self.x_train)
        if not 0 < _check.not_negative(fraction, "fraction") < 1:
            raise ValueError(f"fraction must lie between 0 and 1, got {fraction!r}")
        if n < 2:
            raise ValueError(f"x_train must hold at least 2 examples to be split, got {n}")
        if "x_validation" in self.extra:
            raise ValueError(f"{self.name} has a validation set already, of {len(self.extra['x_validation'])} examples")
        size = min(max(round(fraction * n), 1), n - 1)
        order = torch.randperm(n, generator=_seeds.stream(seed, "validation"), device="cpu")
        if stratified:
            self.require_classes("a stratified split")
            order = order[self.y_train.cpu()[order].argsort(stable=True)]  # class by class, at random within one
        # Every (n / size)-th of the order: in a random one a random draw, class by class each class's share.
        taken = (torch.arange(1, n + 1, device="cpu") * size // n).diff(prepend=torch.zeros_like(order[:1])) > 0
        kept = torch.ones_like(order, dtype=torch.bool).index_fill_(0, order[taken], False).to(self.x_train.device)
        parts = {"x_validation": self.x_train[~kept], "y_validation": self.y_train[~kept], "rows": kept.nonzero()[:, 0]}
        left = self.subset(kept)
        return replace(left, extra={**left.extra, **parts})

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.x_train.shape[1:]))
        groups = "" if self.groups is None else f", {int(self.groups.max()) + 1} superclasses"
        held = f"{len(self.extra['x_validation'])} validation, " if "x_validation" in self.extra else ""
        kind = "classes" if not self.is_regression else "output" if self.num_classes == 1 else "outputs"
        return (
            f"Task({self.name}: {len(self.x_train)} train, {held}{len(self.x_test)} test, "
            f"inputs {shape}, {self.num_classes} {kind}{groups})"
        )
