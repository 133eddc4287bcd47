"""An experiment on its way to another process: pickled by value, with all that it reads of the user's own modules."""

from __future__ import annotations

import functools
import io
from typing import Any

from kdlib.study.grid import Experiment
from kdlib.study.identity import default_dtype, own


def payload(experiment: Experiment) -> bytes:
    """The experiment, and torch's default dtype, as a worker reads them. Raises ValueError where it cannot be sent."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc, name-defined, unused-ignore]
        def reducer_override(self, value: Any) -> Any:
            # Such a function would go by its name alone, and a worker does not have the user's module.
            if isinstance(value, CACHED) and own(value.__module__):
                return _cached, (value.__wrapped__, value.cache_parameters())
            return super().reducer_override(value)

    sent = io.BytesIO()
    try:
        Pickler(sent).dump((experiment, default_dtype()))
    except Exception as error:
        raise ValueError(f"experiment must hold only what can be sent to another process, got {error}") from None
    return sent.getvalue()


def _cached(function: Any, how: dict[str, Any]) -> Any:
    """A worker's own `functools.lru_cache`, empty."""
    return functools.lru_cache(**how)(function)


CACHED = type(functools.lru_cache(_cached))
