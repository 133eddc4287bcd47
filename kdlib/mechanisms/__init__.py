"""Methods that go on from distillation, one module each."""

from typing import TYPE_CHECKING

from kdlib import _lazy

if TYPE_CHECKING:
    from kdlib.mechanisms import causal, ensembles, lipschitz, meta, sampling

__all__ = ["causal", "ensembles", "lipschitz", "meta", "sampling"]

_TABLE = {name: f"kdlib.mechanisms.{name}" for name in ("causal", "ensembles", "lipschitz", "meta", "sampling")}

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.attach(__name__, _TABLE)
