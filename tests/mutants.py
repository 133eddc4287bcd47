"""Do the tests notice a slip? Plant small ones in the library's mathematics, one at a time, and count those that a test fails on.

    python tests/mutants.py [NUMBER] [MODULE ...]    a sample, the same every time (120), or as many as there are

A slip changes one operator, comparison, number or reduction of one module, and runs the tests of that module. Survivors
are printed: each is either a missing test or no slip at all (an equivalent formula, a constant of no consequence).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
LOSSES = ["tests/losses/test_kd.py", "tests/losses/test_modern.py", "tests/losses/test_contract.py"]
LEVELS = ("universe", "domain", "instance", "split", "failures", "museum")
MECHANISMS = ("causal", "ensembles", "lipschitz", "meta", "sampling")
TESTS = {
    "kdlib.losses._arguments": LOSSES,
    "kdlib.losses.kd": LOSSES,
    "kdlib.losses.modern": LOSSES,
    **{f"kdlib.levels.{name}": [f"tests/levels/test_{name}.py"] for name in LEVELS},
    **{f"kdlib.mechanisms.{name}": [f"tests/mechanisms/test_{name}.py"] for name in MECHANISMS},
    "kdlib.claims": ["tests/test_claims.py"],
}
SWAPS: dict[Any, Any] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.USub: ast.UAdd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.In: ast.NotIn, ast.Is: ast.IsNot,
    "mean": "sum", "sum": "mean", "min": "max", "max": "min", "maximum": "minimum", "minimum": "maximum",
    "all": "any", "any": "all", "log_softmax": "softmax", "softmax": "log_softmax", "ppf": "cdf", "sf": "cdf",
}  # fmt: skip
Slip = tuple[str, int]  # module, and the number of the place in it


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, Callable[[], None]]]:
    """Every node that can be changed, with what changes it. Messages and annotations are left alone."""
    for name, field in ast.iter_fields(tree):
        for node in field if isinstance(field, list) else [field]:
            if (
                isinstance(node, ast.AST)
                and not isinstance(node, ast.Raise | ast.JoinedStr)
                and "annotation" not in name
            ):
                yield from places(node)
    swap = partial(setattr, tree)
    match tree:
        case ast.BinOp(op=op) | ast.UnaryOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield tree, partial(swap, "op", SWAPS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield tree, partial(swap, "ops", [SWAPS[type(op)]()])
        case ast.Attribute(attr=name) if name in SWAPS:
            yield tree, partial(swap, "attr", SWAPS[name])
        case ast.Constant(value=bool(value)):
            yield tree, partial(swap, "value", not value)
        case ast.Constant(value=int(value) | float(value)):
            yield tree, partial(swap, "value", value + 1 if isinstance(value, int) else 2 * value or 1.0)


def slipped(slip: Slip) -> tuple[ast.Module, str]:
    """The module with one slip, and the slip in words."""
    module, number = slip
    path = ROOT / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node, change = list(places(tree))[number]
    before = ast.unparse(node)
    change()
    return tree, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {before} -> {ast.unparse(node)}"


class Planted(SourceFileLoader):
    """Loads a module from a changed tree."""

    tree: ast.Module

    def get_code(self, fullname: str) -> Any:
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")


def verdict(slip: Slip | str) -> tuple[str, int]:
    """A slip in words and pytest's exit code: 0 if no test noticed. A module's name runs its tests as they are."""
    module, words = (slip, slip) if isinstance(slip, str) else (slip[0], "")
    if not isinstance(slip, str):
        tree, words = slipped(slip)
        loader = Planted(module, str(ROOT / f"{module.replace('.', '/')}.py"))
        loader.tree = tree
        finder: Any = type("Finder", (), {})()
        finder.find_spec = lambda name, *_: (
            importlib.util.spec_from_file_location(name, loader.path, loader=loader) if name == module else None
        )
        sys.meta_path.insert(0, finder)
    signal.signal(signal.SIGPROF, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_PROF, 120)  # seconds of work: a loop without end is noticed too
    options = ["-x", "-q", "-p", "no:cacheprovider", "-k", "not compiles", "--hypothesis-profile=slips"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return words, int(pytest.main([*options, *TESTS[module]]))


def main(number: int, modules: list[str]) -> int:
    """Print the survivors of a sample and the score; 1 if the tests fail without any slip."""
    for heavy in ("pandas", "scipy.stats", "seaborn", "sklearn", "torch"):
        importlib.import_module(heavy)  # once, before the processes part
    settings.register_profile(
        "slips",
        deadline=None,
        derandomize=True,
        max_examples=10,
        database=None,
        phases=[Phase.explicit, Phase.generate],
    )
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    trees = {
        module: ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")) for module in modules
    }
    slips = [(module, i) for module, tree in trees.items() for i in range(len(list(places(tree))))]
    sample = random.Random(0).sample(slips, min(number, len(slips)))
    noticed = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for module, code in pool.imap_unordered(verdict, modules):
            if code:
                print(f"the tests of {module} fail as they are (pytest's exit code {code})", file=sys.stderr)
                return 1
        for words, code in tqdm(pool.imap_unordered(verdict, sample), total=len(sample), disable=None, leave=False):
            noticed += code != 0
            if code == 0:
                tqdm.write(words)
    print(f"{noticed} of {len(sample)} slips noticed ({noticed / len(sample):.0%}), of {len(slips)} possible ones")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", nargs="?", type=int, default=120, help="slips to plant")
    parser.add_argument("module", nargs="*", help="where; all of those with tests of their own if none is named")
    given = parser.parse_args()
    if given.number < 1:
        parser.error(f"NUMBER must be at least 1, got {given.number}")
    if unknown := set(given.module) - TESTS.keys():
        parser.error(f"MODULE must be among {', '.join(TESTS)}; got {', '.join(sorted(unknown))}")
    sys.exit(main(given.number, given.module or list(TESTS)))
