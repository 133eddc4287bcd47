"""What a stored result belongs to: the experiment's code, all that it captures, and the versions it ran with.

Code counts as compiled, not as the text in its file: comments and layout do not matter, and an edited file does not
pass for the function that was imported before the edit. With a function count its defaults, what its closure holds, and
the globals that it reads, functions and classes among them, followed through the user's own modules. Installed packages
count by name and version, kdlib by the source of everything that computes. What a function imports inside its body
counts by name alone.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import platform
import site
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib import __version__

VIEWS = ("study", "explore", "plots.py", "claims.py", "__main__.py", "__init__.py")  # they compute no result
PLAIN = (type(None), bool, int, float, complex)
DULL = {"__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__", "_abc_impl"}


def key(experiment: Any) -> str:
    """The folder of an experiment's results in a store: 16 hex digits. Raises ValueError where content cannot be told."""
    return digest([experiment, versions(), default_dtype() or "float32"])[:16]


@functools.cache
def versions() -> dict[str, str]:
    """What decides a number beside the experiment: Python, kdlib with its source, torch, NumPy, pandas."""
    root, source = Path(__file__).parents[1], hashlib.blake2b(digest_size=4)
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in VIEWS:
            source.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    installed = {name: metadata.version(name).split("+")[0] for name in ("torch", "numpy", "pandas")}
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "kdlib": f"{__version__}+{source.hexdigest()}",
    } | installed


def default_dtype() -> str | None:
    """torch's default dtype by name, None where torch is not loaded."""
    return str(sys.modules["torch"].get_default_dtype()).removeprefix("torch.") if "torch" in sys.modules else None


def digest(value: Any) -> str:
    """32 hex digits fixed by the content of `value`, the same in every process. Raises ValueError where it has none."""
    return _hash(value, {}, 0).hex()


def _hash(value: Any, seen: dict[int, tuple[bytes, Any]], depth: int) -> bytes:
    sha = hashlib.blake2b(digest_size=16)
    if isinstance(value, PLAIN):
        sha.update(f"{type(value).__name__} {value!r}".encode())
        return sha.digest()
    if id(value) in seen:
        return seen[id(value)][0]
    seen[id(value)] = b"open %11d" % depth, value  # as long as a digest: where a cycle closes
    try:
        kind, raw, children = _parts(value)
    except (TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        text = f"a stored study must tell its content, got {type(value).__name__} {value!r:.80}: {error}"
        raise ValueError(text) from None
    sha.update(f"{kind} {len(raw)} ".encode() + raw)
    for child in children:
        sha.update(_hash(child, seen, depth + 1))
    seen[id(value)] = sha.digest(), value
    return sha.digest()


def _parts(value: Any) -> tuple[str, bytes, list[Any]]:
    """A value's kind, the bytes it consists of, and the values it holds."""
    match value:
        case str():
            return "str", value.encode("utf-8", "surrogatepass"), []
        case bytes() | bytearray():
            return "bytes", bytes(value), []
        case np.generic():
            return "scalar", value.dtype.str.encode(), [value.item()]
        case np.ndarray() if not value.dtype.hasobject:
            return "array", f"{value.dtype.str}{value.shape}".encode() + value.tobytes(), []
        case pd.DataFrame() | pd.Series() | pd.Index():
            columns = list(value.columns) if isinstance(value, pd.DataFrame) else [value.name]
            kinds = [str(kind) for kind in value.dtypes] if isinstance(value, pd.DataFrame) else [str(value.dtype)]
            return "frame", pd.util.hash_pandas_object(value).to_numpy().tobytes(), [columns, kinds]
        case Mapping():
            pairs = sorted(value.items(), key=lambda pair: digest(pair[0]))
            return "mapping", b"", [part for pair in pairs for part in pair]
        case list() | tuple():
            return type(value).__name__, b"", list(value)
        case set() | frozenset():
            return "set", "".join(sorted(map(digest, value))).encode(), []
        case functools.partial():
            return "partial", b"", [value.func, value.args, value.keywords]
        case types.FunctionType():
            return _function(value)
        case types.CodeType():
            local = [value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars]
            return "code", value.co_code + value.co_exceptiontable, [list(value.co_consts), *local]
        case types.MethodType():
            return "method", b"", [value.__func__, value.__self__]
        case staticmethod() | classmethod():
            return type(value).__name__, b"", [value.__func__]
        case property():
            return "property", b"", [value.fget, value.fset, value.fdel]
        case types.ModuleType():
            return "module", _installed(value.__name__), []
        case types.MemberDescriptorType() | types.GetSetDescriptorType():
            return "slot", value.__name__.encode(), []
        case type():
            members = {} if not own(value.__module__) else {k: v for k, v in vars(value).items() if k not in DULL}
            return "class", f"{value.__qualname__} ".encode() + _installed(value.__module__), [value.__bases__, members]
    if hasattr(value, "__wrapped__"):
        return "wrapper", b"", [value.__wrapped__]
    if (torch := sys.modules.get("torch")) and isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return "tensor", f"{value.dtype}{tuple(value.shape)}".encode() + raw, []
    made = value.__reduce_ex__(4)  # as pickle and copy see it; nothing is ever read back
    if isinstance(made, str):
        return "name", made.encode(), [_installed(getattr(value, "__module__", None) or type(value).__module__)]
    make, arguments, state, items, pairs = (*made, None, None, None)[:5]
    return "object", b"", [make, arguments, state, list(items or ()), dict(pairs or ())]


def _function(value: types.FunctionType) -> tuple[str, bytes, list[Any]]:
    held = []
    for cell in value.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            held.append("empty cell")
    held = [value.__defaults__, value.__kwdefaults__, held]
    if not own(value.__module__):
        return "function", value.__qualname__.encode() + _installed(value.__module__), held
    reads: dict[str, Any] = {}
    for opcode, name in _names(value.__code__):
        if opcode in ("LOAD_GLOBAL", "LOAD_NAME") and name in value.__globals__:
            reads[name] = value.__globals__[name]
    attributes = {name for opcode, name in _names(value.__code__) if opcode in ("LOAD_ATTR", "LOAD_METHOD")}
    for module in [v for v in reads.values() if isinstance(v, types.ModuleType) and own(v.__name__)]:
        reads |= {f"{module.__name__}.{name}": getattr(module, name) for name in attributes if hasattr(module, name)}
    return "function", b"own", [*held, value.__code__, reads]


def _names(code: types.CodeType) -> Iterator[tuple[str, str]]:
    for step in dis.get_instructions(code):
        if isinstance(step.argval, str):
            yield step.opname, step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


@functools.cache
def own(module: str | None) -> bool:
    """Whether a module is the user's own: not installed, not built in, not kdlib."""
    top = (module or "__main__").partition(".")[0]
    if top in ("__main__", "kdlib") or top not in sys.modules:
        return top != "kdlib"
    path = getattr(sys.modules[top], "__file__", None) or next(iter(getattr(sys.modules[top], "__path__", [])), None)
    roots = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return path is not None and not any(
        Path(path).is_relative_to(root) for root in [*roots, site.getusersitepackages()]
    )


def _installed(module: str | None) -> bytes:
    """Name and version of the package that a module belongs to; of the user's own nothing, wherever it was defined."""
    if module is None or own(module):
        return b""
    top = module.partition(".")[0]
    version = "" if top == "kdlib" else getattr(sys.modules.get(top), "__version__", "")
    return f"{module} {version}".encode()
