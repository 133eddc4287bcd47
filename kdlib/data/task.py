"""The contract between data and everything else: one frozen `Task`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdlib import _check


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem with a fixed train and test split.

    Shapes: `x_train (N, ...)`, `y_train (N,)`, `x_test (M, ...)`, `y_test (M,)`; float inputs, int64 labels in
    0..num_classes-1. `groups (K,)` is the superclass of each class, or None. `extra` holds what only some tasks have,
    such as `clean` (bool, N), `class_names`, or the teacher's own training set `x_teacher`, `y_teacher`.

    Raises ValueError on wrong shapes, dtypes, labels out of range or NaN inputs.
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
        _check.positive_int(self.num_classes, "num_classes")
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            _check.finite(f"x_{split}", _check.floating(f"x_{split}", x))
            if x.dim() == 0 or len(x) == 0:
                raise ValueError(f"x_{split} must hold at least one example, got shape {tuple(x.shape)}")
            _check.labels(f"y_{split}", y, self.num_classes, len(x))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"x_test must have examples of shape {tuple(self.x_train.shape[1:])} like x_train, "
                f"got {tuple(self.x_test.shape[1:])}"
            )
        if self.groups is not None:
            _check.labels("groups", self.groups, self.num_classes, self.num_classes)

    def to(self, device: str | torch.device) -> Task:
        """The same task with every tensor on `device`."""

        def move(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        fields = ("x_train", "y_train", "x_test", "y_test", "groups")
        moved = {name: move(getattr(self, name)) for name in fields}
        return replace(self, **moved, extra={key: move(value) for key, value in self.extra.items()})

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
        """The same task with only the training examples `rows`, indices or a mask; `clean` and `valid` in `extra` follow."""
        masks = {key: self.extra[key][rows] for key in ("clean", "valid") if key in self.extra}
        return replace(self, x_train=self.x_train[rows], y_train=self.y_train[rows], extra={**self.extra, **masks})

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.x_train.shape[1:]))
        groups = "" if self.groups is None else f", {int(self.groups.max()) + 1} superclasses"
        return (
            f"Task({self.name}: {len(self.x_train)} train, {len(self.x_test)} test, "
            f"inputs {shape}, {self.num_classes} classes{groups})"
        )
