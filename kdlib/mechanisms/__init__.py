"""Methods that go on from distillation, one module each."""

from typing import TYPE_CHECKING

from kdlib import _lazy

if TYPE_CHECKING:
    from kdlib.mechanisms import ensembles, sampling

__all__ = ["ensembles", "sampling"]

_TABLE = {"ensembles": "kdlib.mechanisms.ensembles", "sampling": "kdlib.mechanisms.sampling"}

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.attach(__name__, _TABLE)
