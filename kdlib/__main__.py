"""The `kdlib` command.

A sub-command is one row of `COMMANDS`: its name and, as "module:function", the function that adds its parser to argparse's
subparsers. The parser sets `function`, which takes the parsed arguments and returns the exit status: 0 all is well,
1 something was found or failed, 2 unusable input. A ValueError is unusable input; its text is printed.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from pkgutil import resolve_name

from kdlib import __version__

COMMANDS = {"check-loss": "kdlib._check_loss:command", "study": "kdlib.study:command"}
EXAMPLES = """\
examples:
  kdlib check-loss mine:loss          which public bugs has the function `loss` of mine.py in this folder?
  kdlib check-loss mine:loss --json   the same for programs
  kdlib check-loss --help             more about one command
  kdlib study --help                  run an experiment on a grid of points: examples
"""


def parser(commands: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The command line with these sub-commands; only their modules are imported."""
    main = argparse.ArgumentParser(
        prog="kdlib",
        description="Knowledge distillation by experiment.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument("--version", action="version", version=f"kdlib {__version__}")
    subparsers = main.add_subparsers(dest="command", required=True, metavar="command")
    for name in commands:
        resolve_name(COMMANDS[name])(subparsers)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the sign for T squared
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = given[0] if given else ""
    args = parser([first] if first in COMMANDS else [] if first == "--version" else COMMANDS).parse_args(given)
    try:
        return int(args.function(args))
    except ValueError as problem:
        print(f"kdlib {args.command}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nkdlib {args.command}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
