"""Public names that are imported when first used (PEP 562), so that who wants a loss does not wait for widgets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def attach(package: str, table: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names stand in `table`: name -> the module that has it, or that it is.

    The table is a literal in the package, so that programs which read the source can follow a name to its module.
    Other modules of the package are found too; `__getattr__` raises AttributeError for everything else.
    """

    def get(name: str) -> Any:
        own = f"{package}.{name}"
        if name not in table and (name.startswith("_") or find_spec(own) is None):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(table.get(name, own))
        value = module if module.__name__ == own else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *table})

    return get, names
