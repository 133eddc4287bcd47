"""`kdlib check-loss module:function`: which of the thirteen public bugs has the reader's own loss?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from pkgutil import resolve_name
from typing import Any

OK, BUG, UNKNOWN = "ok", "bug", "not checked"
HELP = "run the public bug checks on a distillation loss of yours"
ABOUT = """\
Run the public bug checks on a distillation loss of yours.

It is called like kdlib.losses.kd_loss(student_logits, teacher_logits, labels, temperature, alpha) with logits (N, K) and
labels (N,), and returns one value per example, (N,). The bugs of training loops are listed as not checked: those
checks are called from Python, see kdlib.checks.

exit status: 0 no bug was found, 1 some were, 2 the loss cannot be imported or called
"""
EXAMPLES = """\
examples:
  kdlib check-loss mine:loss           the function `loss` of mine.py in this folder
  kdlib check-loss package.module:Distiller.loss --json
  kdlib check-loss kdlib.losses:kd_loss
"""


class Refused(ValueError):
    """The loss itself raised, whatever it raised."""


def command(subparsers: Any) -> None:
    """Add `check-loss` to the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser("check-loss", help=HELP, description=ABOUT, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("loss", metavar="module:function", help="where the loss is; the current folder comes first")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.set_defaults(function=run)


def run(args: argparse.Namespace) -> int:
    """Check the loss that the arguments name, print what was found, return the exit status."""
    with redirect_stdout(sys.stderr):  # what the reader's own code prints is no part of the answer
        found = check(load(args.loss), args.loss)
    bugs = [row for row in found if row["result"] == BUG]
    if args.json:
        print(json.dumps({"loss": args.loss, "bugs": [row["number"] for row in bugs], "checks": found}, indent=1))
        return int(bool(bugs))
    for row in found:
        print(f"{row['number']:>3}  {row['name']:<36} {row['result']:<12} {row['message']}".rstrip())
    checked = sum(row["result"] != UNKNOWN for row in found)
    has = f"has bug {', '.join(str(row['number']) for row in bugs)}" if bugs else "has none of them"
    print(f"{args.loss} {has}: {checked} of {len(found)} bugs were checked")
    return int(bool(bugs))


def load(where: str) -> Callable[..., Any]:
    """The function at "module:function", looked for in the current folder first. ValueError says what is wrong with it."""
    module, colon, name = where.partition(":")
    if not (module and colon and name) or module.endswith(".py") or os.sep in module:
        raise ValueError(f"the loss must be given as module:function, like mine:loss for mine.py, got {where!r}")
    from kdlib.levels import museum  # noqa: F401 (before the reader's folder can hide a module that it needs)

    sys.path.insert(0, os.getcwd())
    try:
        loss = resolve_name(where)
    except (Exception, SystemExit) as problem:  # importing runs the reader's code
        raise ValueError(f"{where} cannot be imported from {os.getcwd()}: {_said(problem)}") from problem
    if not callable(loss):
        raise ValueError(f"{where} must be a function, got {type(loss).__name__}")
    return loss


def check(loss: Callable[..., Any], name: str = "the loss") -> list[dict[str, Any]]:
    """One row for each of the thirteen bugs: number, name, result (ok, bug, not checked) and message.

    ValueError for a loss that cannot be called like `kd_loss`, or that does not return one value per example.
    """
    from kdlib.levels.museum import EXHIBITS  # the numbers and names of the bugs, with the checks that catch them

    @wraps(loss)
    def asked(*args: Any, **options: Any) -> Any:
        try:
            return loss(*args, **options)
        except Exception as problem:
            raise Refused(_said(problem)) from problem

    _callable_like_kd_loss(asked, name)
    found = []
    for bug in EXHIBITS:
        result, message = OK, ""
        if bug.of != "loss":
            result, message = UNKNOWN, "a bug of training loops"
        else:
            try:
                bug.check(asked)
            except AssertionError as problem:
                result, message = BUG, str(problem)
            except Exception as problem:
                result, message = UNKNOWN, str(problem) if isinstance(problem, Refused) else _said(problem)
        found.append({"number": bug.number, "name": bug.name, "result": result, "message": message})
    return found


def _callable_like_kd_loss(loss: Callable[..., Any], name: str) -> None:
    """Raise ValueError unless an ordinary call gives one value per example."""
    import torch

    z, v = torch.linspace(-1, 1, 12, dtype=torch.float64, device="cpu").reshape(2, 3, 2).unbind(-1)
    expected = "called as loss(student_logits (2, 3), teacher_logits (2, 3), labels (2,), 4.0, 0.5) in float64"
    try:
        value = loss(z.clone().requires_grad_(), v, torch.tensor([0, 2], dtype=torch.int64, device="cpu"), 4.0, 0.5)
    except Refused as problem:
        raise ValueError(f"{name} raised {problem}; it was {expected}") from problem
    if not isinstance(value, torch.Tensor) or value.shape != (2,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{name} must return one value per example, shape (2,), got {got}; it was {expected}")


def _said(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__
