"""Methods that go on from distillation, one module each."""

from typing import TYPE_CHECKING

from kdlib import _lazy

if TYPE_CHECKING:
    from kdlib.mechanisms import sampling

__all__ = ["sampling"]

_TABLE = {"sampling": "kdlib.mechanisms.sampling"}

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.attach(__name__, _TABLE)
