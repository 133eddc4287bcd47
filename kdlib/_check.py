"""Input checks that name the argument, its value and what was expected."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor


def shape(name: str, value: Tensor, expected: tuple[int | None, ...]) -> Tensor:
    """Raise ValueError unless `value` is a tensor of shape `expected` (None matches any length)."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor of shape {_show(expected)}, got {type(value).__name__}")
    fits = value.dim() == len(expected) and all(
        e is None or e == n for e, n in zip(expected, value.shape, strict=False)
    )
    if not fits:
        raise ValueError(f"{name} must have shape {_show(expected)}, got {tuple(value.shape)}")
    return value


def floating(name: str, value: Tensor) -> Tensor:
    """Raise ValueError unless `value` is a floating-point tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a floating-point torch.Tensor, got {kind}")
    return value


def finite(name: str, value: Tensor) -> Tensor:
    """Raise ValueError if `value` holds a NaN or an infinity. Looks at every value: call it where data enters."""
    if value.numel() and not torch.isfinite(torch.stack(torch.aminmax(value))).all():  # NaN reaches both ends
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values of {value.numel()}")
    return value


def labels(name: str, value: Tensor, num_classes: int, length: int | None = None) -> Tensor:
    """Raise ValueError unless `value` is an int64 vector (length,) of classes 0..num_classes-1. Looks at every value."""
    shape(name, value, (length,))
    if value.dtype != torch.int64:
        raise ValueError(f"{name} must have dtype torch.int64, got {value.dtype}")
    if value.numel() and not (int(value.min()) >= 0 and int(value.max()) < num_classes):
        raise ValueError(f"{name} must lie in 0..{num_classes - 1}, got {int(value.min())}..{int(value.max())}")
    return value


def probabilities(name: str, value: Tensor, expected: tuple[int | None, ...] = (None, None)) -> Tensor:
    """Raise ValueError unless every row of `value` is a probability distribution over the last axis. Looks at every value."""
    shape(name, floating(name, value), expected)
    finite(name, value)
    if value.numel() and float(value.min()) < 0:
        raise ValueError(f"{name} must not be negative, got a smallest entry of {float(value.min()):.3g}")
    gap = float((value.sum(-1) - 1).abs().max()) if value.numel() else 0.0
    if gap > 1e-4:
        raise ValueError(f"{name} must have rows that sum to 1, got a row that is off by {gap:.3g}")
    return value


def temperature(value: float | Tensor, name: str = "temperature") -> float | Tensor:
    """Raise ValueError unless a temperature is positive and finite (a tensor is trusted beyond its dtype: no sync on a GPU)."""
    if isinstance(value, Tensor):
        return floating(name, value)
    if not _real(value) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")
    return value


def fraction(value: float | Tensor, name: str) -> float | Tensor:
    """Raise ValueError unless a number lies in [0, 1] (a tensor is trusted beyond its dtype: no sync on a GPU)."""
    if isinstance(value, Tensor):
        return floating(name, value)
    if not _real(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    return value


def number(name: str, value: float) -> float:
    """Raise ValueError for a tensor of several values where one number is meant: it would broadcast along any axis."""
    if isinstance(value, Tensor) and value.dim():
        raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}")
    return value


def weight(name: str, value: float | Tensor) -> float | Tensor:
    """Raise ValueError unless the weight of a term is a finite number of at least 0 (a tensor is trusted beyond its dtype)."""
    return floating(name, value) if isinstance(value, Tensor) else not_negative(value, name)


def not_negative(value: float, name: str) -> float:
    """`value` as a plain float. Raises ValueError unless it is a finite number of at least 0."""
    if not _real(value) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def integer(value: int, name: str, least: int = 0) -> int:
    """`value` as a plain int, NumPy's integers included. Raises ValueError unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def positive_int(value: int, name: str) -> int:
    """`value` as a plain int, NumPy's integers included. Raises ValueError unless it is an integer of at least 1."""
    return integer(value, name, 1)


def device(value: str | torch.device) -> torch.device:
    """`value` as a device, with its index where it is a GPU. Raises ValueError for one that torch cannot use here."""
    try:
        if not isinstance(value, str | torch.device):
            raise TypeError(f"it is of type {type(value).__name__}")
        return torch.empty(0, dtype=torch.uint8, device=value).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as problem:
        reason = str(problem).partition("\n")[0]
        raise ValueError(f"device must be one that torch can use here, got {value!r}: {reason}") from None


def _real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _show(expected: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if e is None else str(e) for e in expected) + ("," if len(expected) == 1 else "") + ")"
