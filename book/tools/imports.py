"""Which modules a piece of source can reach, told from the source alone: nothing is imported.

Lazy packages (PEP 562) are followed through their table, a dictionary literal of names and modules. Where something cannot
be told, more is said rather than less.
"""

import ast
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

# ---------------------------------------------------------------- what source code says


@dataclass(frozen=True)
class Code:
    """What one source says: dotted names it may use ("package.*": any name of a package, "package.**": any module), and the words in it."""

    used: frozenset[str]
    words: frozenset[str]  # identifiers and strings, no docstrings
    bound: frozenset[str] = frozenset()  # names that the module itself gives a value
    table: tuple[tuple[str, str], ...] = ()  # of a lazy package: (name, module), either way round
    lazy: bool = False  # has a __getattr__ of its own
    computed_table: bool = False  # calls `shipped` with a name that is computed


def read_cells(cells: Iterable[str]) -> list[Code]:
    """What the cells of one notebook say: together, for a name that one imports is used in others. Magics are calls."""
    together, alone = [], []
    for cell in cells:
        try:
            source = TransformerManager().transform_cell(cell)
            _parse(source)
            together.append(source)
        except SyntaxError:
            alone.append(read_code(cell))
    return [read_code("\n".join(together)), *alone]


def _parse(source: str) -> ast.AST:
    with warnings.catch_warnings(action="ignore"):
        return compile(source, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@cache
def read_code(source: str, package: str = "") -> Code:
    """Read one source (of `package`, for relative imports); what cannot be parsed may use all of kdlib."""
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError):
        return Code(frozenset({"kdlib.**"}), frozenset(re.findall(r"\w+", source)), computed_table=True)
    nodes = list(_executed(tree))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr) and _string(node.value)}
    strings = {text for node in nodes if id(node) not in docstrings and (text := _string(node))}
    aliases: dict[str, set[str]] = {}
    used: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for item in node.names:
                used.add(item.name)
                name = item.asname or item.name.split(".")[0]
                aliases.setdefault(name, set()).add(item.name if item.asname else name)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            origin = [*parents[: len(parents) - node.level + 1], node.module] if node.level else [node.module]
            for item in node.names:
                name = ".".join([*filter(None, origin), item.name])
                used.add(name)
                aliases.setdefault(item.asname or item.name, set()).add(name)
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, (ast.Attribute, ast.Name)) and id(node) not in inner:
            base, *rest = _chain(node)
            used |= {".".join([name, *(rest or ["*"])]) for name in aliases.get(base, ())}
    calls = [(_called(node), node) for node in nodes if isinstance(node, ast.Call)]
    if any(name in ("import_module", "__import__") for name, _ in calls):
        used |= {
            text.rstrip(".") + ".**" * text.endswith(".") for text in strings if re.fullmatch(r"\w+(\.\w+)*\.?", text)
        }
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {part for name in used for part in name.split(".")}
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))} | aliases.keys()
    lazy = "__getattr__" in bound
    return Code(
        frozenset(used),
        frozenset(names | strings),
        frozenset(bound),
        tuple(sorted(_pairs(tree))) if lazy else (),
        lazy,
        any(name == "shipped" and not all(map(_string, node.args)) for name, node in calls),
    )


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            branch = child.body if isinstance(child.test, ast.UnaryOp) else child.orelse
            for statement in branch:
                yield from _executed(statement)
        else:
            yield from _executed(child)


def _string(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _chain(node: ast.AST) -> list[str]:
    """["a", "b", "c"] for a.b.c; the first is empty where something else than a name has the attributes."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    return [node.id if isinstance(node, ast.Name) else "", *attributes]


def _called(node: ast.Call) -> str:
    return _chain(node.func)[-1]


def _pairs(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Strings that stand on both sides of an entry of a dictionary: a lazy package's table of names and modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                inside = [text for part in ast.walk(value) if (text := _string(part))]
                yield from ((_string(key), text) for text in inside if key)


# ---------------------------------------------------------------- which modules it reaches


def reached(start: Iterable[Code], bases: tuple[Path, ...]) -> tuple[dict[str, Path], list[str]]:
    """The local modules (below one of bases) that these sources can reach, with their files; the packages from elsewhere."""
    files: dict[str, Path] = {}
    outside: set[str] = set()
    seen: set[str] = set()
    waiting = [name for code in start for name in code.used]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.split(".")[0]
        if not any((base / top).is_dir() or (base / f"{top}.py").is_file() for base in bases):
            outside.add(top)
            continue
        prefixes = accumulate(name.split("."), "{}.{}".format)
        found = {prefix: path for prefix in prefixes if (path := _module(prefix, bases))}
        if not found:
            outside.add(top)
        for module in found.keys() - files.keys():
            files[module] = found[module]
            waiting += module_code(module, found[module]).used
        last = max(found, key=len, default="")
        if last and (rest := name[len(last) + 1 :].split(".")[0]):
            waiting += _behind(last, rest, found[last], bases)
    return dict(sorted(files.items())), sorted(outside - set(sys.stdlib_module_names) - {""})


def _module(name: str, bases: tuple[Path, ...]) -> Path | None:
    """The file of a local module, or None."""
    parts = name.split(".")
    for base in bases:
        for path in (base.joinpath(*parts, "__init__.py"), base.joinpath(*parts).with_suffix(".py")):
            if path.is_file():
                return path
    return None


@cache
def _read(path: Path, stamp: tuple[int, int], package: str) -> Code:
    return read_code(path.read_bytes().decode("utf-8-sig", errors="replace"), package)


def module_code(module: str, path: Path) -> Code:
    """What the source of a local module says."""
    status = path.stat()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return _read(path, (status.st_size, status.st_mtime_ns), package)


def _behind(module: str, name: str, path: Path, bases: tuple[Path, ...]) -> Iterator[str]:
    """What a lazy package imports for one of its names; all that it has where that cannot be told."""
    code = module_code(module, path)
    sides = [b if name == a else a for a, b in code.table if name in (a, b)]
    targets = {target for side in sides for target in (side, f"{module}.{side.lstrip('.')}") if _module(target, bases)}
    if name == "**" or (code.lazy and (name == "*" or not (targets or name in code.bound))):
        for inside in sorted(path.parent.rglob("*.py")):
            parts = inside.relative_to(path.parent).with_suffix("").parts
            yield ".".join([module, *(part for part in parts if part != "__init__")])
    elif code.lazy:
        yield from targets
