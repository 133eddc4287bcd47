"""What the losses ask of their arguments: shapes that fit and do not only seem to, labels that are classes, one widening."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from kdlib import _check

NumberOrTensor = TypeVar("NumberOrTensor", float, Tensor, float | Tensor)


def examples_of(logits: Tensor) -> torch.Size:
    """The shape (..., N) of logits (..., N, K). Raises ValueError for fewer axes."""
    if logits.dim() < 2:
        raise ValueError(f"logits must have shape (..., N, K), got {tuple(logits.shape)}")
    return logits.shape[:-1]


def same_examples(name: str, value: Tensor, other_name: str, other: Tensor) -> torch.Size:
    """The examples' shape (..., N) of two floating-point tensors (..., N, K). Raises ValueError unless they match."""
    _check.floating(name, value)
    if min(_check.floating(other_name, other).dim(), value.dim()) < 2 or value.shape[-2:] != other.shape[-2:]:
        raise ValueError(
            f"{name} must end in the same (N, K) as {other_name} {tuple(other.shape)}, got {tuple(value.shape)}"
        )
    try:
        return torch.broadcast_shapes(value.shape, other.shape)[:-1]
    except RuntimeError:
        expected = f"leading axes that broadcast against {other_name} {tuple(other.shape)}"
        raise ValueError(f"{name} must have {expected}, got {tuple(value.shape)}") from None


def broadcasts(shape: torch.Size, examples: torch.Size) -> bool:
    """Whether `shape` broadcasts to `examples` without enlarging it."""
    pairs = zip(reversed(shape), reversed(examples), strict=False)
    return len(shape) <= len(examples) and all(n in (1, expected) for n, expected in pairs)


def fits(name: str, value: float | Tensor, examples: torch.Size) -> None:
    """Raise ValueError for a tensor that would enlarge the examples' shape, such as a column for a vector of examples."""
    if isinstance(value, Tensor) and not broadcasts(value.shape, examples):
        expected = f"a shape that broadcasts to the examples' {tuple(examples)}"
        raise ValueError(f"{name} must have {expected}, got {tuple(value.shape)}")


def check_labels(labels: Tensor, examples: torch.Size, num_classes: int, soft: bool = True) -> None:
    """Raise ValueError unless labels are classes (..., N) int64 or, where allowed, a floating-point table (..., N, K)."""
    table = f" or, as soft labels, {(*examples, num_classes)}" if soft else ""
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"labels must be a torch.Tensor of shape {tuple(examples)}{table}, got {type(labels).__name__}"
        )
    shape = labels.shape
    if soft and labels.is_floating_point() and labels.dim() > 1:
        fits = shape[-2:] == (examples[-1], num_classes) and broadcasts(shape[:-1], examples)
    elif labels.dtype != torch.int64:
        raise ValueError(f"labels must have dtype torch.int64{' or be soft labels' * soft}, got {labels.dtype}")
    else:
        fits = shape[-1:] == examples[-1:] and broadcasts(shape, examples)
    if not fits:
        raise ValueError(f"labels must have shape {tuple(examples)}{table}, got {tuple(shape)}")


def check_range(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError for classes outside 0..K - 1. Not on a GPU: reading values waits for it, and the look-up asserts."""
    if labels.is_floating_point() or labels.device.type != "cpu" or not labels.numel() or torch.compiler.is_compiling():
        return
    try:
        low, high = (int(value) for value in torch.aminmax(labels))
    except RuntimeError:  # under vmap there are no values to look at
        return
    if low < 0 or high >= num_classes:
        bad = low if low < 0 else high
        expected = f"lie in 0..{num_classes - 1} (weights=labels != {bad} leaves an example out)"
        raise ValueError(f"labels must {expected}, got {bad}")


def kept(weights: Tensor | None, examples: torch.Size, *values: Tensor) -> tuple[Tensor, ...]:
    """Logits, tables (..., N, K) and labels (..., N) with zeros for examples of weight 0: nothing of them is left."""
    if weights is None:
        return values
    if not isinstance(weights, Tensor):
        raise ValueError(f"weights must be a torch.Tensor of shape {tuple(examples)}, got {type(weights).__name__}")
    fits("weights", weights, examples)
    keep = weights != 0
    return tuple(torch.where(keep.unsqueeze(-1) if x.is_floating_point() else keep, x, 0) for x in values)


def wide(value: NumberOrTensor) -> NumberOrTensor:
    # Dividing by T in half precision would round the logits before log_softmax sees them: the value still looks right,
    # the gradient is off by percents.
    return value.float() if isinstance(value, Tensor) and value.dtype.itemsize < 4 else value
