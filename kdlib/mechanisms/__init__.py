"""Methods that go on from distillation, one module each."""

from typing import TYPE_CHECKING

from kdlib import _lazy

if TYPE_CHECKING:
    from kdlib.mechanisms import meta, sampling

__all__ = ["meta", "sampling"]

_TABLE = {"meta": "kdlib.mechanisms.meta", "sampling": "kdlib.mechanisms.sampling"}

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.attach(__name__, _TABLE)
