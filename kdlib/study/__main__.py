"""`python -m kdlib.study FILE ...`: the same as `kdlib study FILE ...`."""

from __future__ import annotations

import argparse
import sys

from kdlib.study.cli import command


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kdlib")
    command(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["study", *sys.argv[1:]])
    try:
        return int(arguments.function(arguments))
    except ValueError as problem:
        print(f"kdlib study: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
