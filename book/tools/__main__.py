"""The command line of the book's tooling; ``python -m book.tools --help`` lists the commands."""

import argparse
import difflib
import errno
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import jupytext
import nbformat
import yaml
from jupytext.config import load_jupytext_config

from . import (
    assignments,
    budgets,
    calibration,
    contents,
    epub,
    execute,
    gates,
    keys,
    marker,
    offline,
    pages,
    pdf,
    plain,
)
from . import course as courses
from . import figures as apps
from . import links as link_check
from . import release as release_tree
from . import slides as decks

CLAIMS_HEADER = (
    "# Every claim in the book: its sentence, where it comes from, the rows of a paper's claims that it tests, and the verdict\n"
    "# that its chapter computed.\n"
    "# Written by `python -m book.tools claims --write`; `make check` fails when a run says anything else.\n"
)


REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space",
    errno.EACCES: "make it writable, or work in a copy that is",
    errno.EPERM: "make it writable, or work in a copy that is",
    errno.EROFS: "make it writable, or work in a copy that is",
    errno.EEXIST: "a file stands where a folder is needed: move it away",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away",
    errno.ENOENT: "restore it",
}


def run(root: Path, args: argparse.Namespace) -> int:
    """Run chapters (all, or the named ones) in a profile."""
    runs = execute.run_chapters(root, args.profile, args.names)
    return int(any(r.state == "failed" for r in runs))


def book(root: Path, args: argparse.Namespace) -> int:
    """Run what changed, build the pages, print the address of the first one."""
    started = time.perf_counter()
    if failed := [r.name for r in execute.run_chapters(root) if r.state == "failed"]:
        print(f"the book was not built: {', '.join(failed)} failed", file=sys.stderr)
        return 1
    built = pages.build(root)
    if built:  # the pages' folder is new, and instructors' pages lead to the slides in it
        decks.build(root, pages.site(root) / "slides")
    first = pages.site(root) / "index.html"
    print(f"{'built' if built else 'pages unchanged'} ({time.perf_counter() - started:.0f} s): {first.as_uri()}")
    if args.open:
        pages.show(first)
    return 0


def sphinx(root: Path, args: argparse.Namespace) -> int:
    """Build the pages a second time, with Sphinx alone, from the chapters as they were last run."""
    started = time.perf_counter()
    built = plain.build(root)
    first = plain.site(root) / "index.html"
    print(f"{'built' if built else 'pages unchanged'} ({time.perf_counter() - started:.0f} s): {first.as_uri()}")
    if not pages.is_current(root):
        print("not compared with the book: it is not built from these sources (`make book` does)")
        return 0
    faults = plain.differences(root)
    print("\n".join(faults) or f"{len(contents.toc_entries(root))} pages, all with the same headings as in the book")
    return int(bool(faults))


def release(root: Path, args: argparse.Namespace) -> int:
    """Write the tree of the release branch: each chapter as a notebook that runs anywhere, beside its source."""
    chapters = release_tree.write(root)
    print(f"{len(chapters)} notebooks: {release_tree.folder(root)}")
    return 0


def links(root: Path, args: argparse.Namespace) -> int:
    """Check the links of the built pages: inside always, outside where there is a network."""
    site = pages.site(root).resolve()
    if not (site / "index.html").is_file():
        raise ValueError(f"{site} holds no pages: run `make book` first")
    found = link_check.pages_of(site)
    url, _ = release_tree.repository(root)
    own = "/".join(url.split("/")[-2:])
    faults = link_check.inside(site, found)
    dead, unknown, asked = link_check.outside(link_check.addresses(found, own))
    for line in [*faults, *(f"dead: {line}" for line in dead), *(f"could not be checked: {line}" for line in unknown)]:
        print(line)
    links_inside = sum(len(names) for names, _ in found.values())
    print(
        f"{len(found)} pages with {links_inside} links, {len(faults)} broken; {asked} addresses outside, {len(dead)} dead, "
        f"{len(unknown)} could not be checked; links to {own} were left out, they change with its owner"
    )
    return int(bool(faults or dead))


def check(root: Path, args: argparse.Namespace) -> int:
    """Judge the executed chapters and, in the page profile, budgets, claims and built pages too."""
    executed = execute.load_executed(root, args.profile)
    faults = [fault for name, notebook in executed.items() for fault in gates.notebook_faults(name, notebook)]
    for gate in (gates.shape_faults, gates.exercise_faults):
        faults += [fault for name, notebook in executed.items() for fault in gate(name, notebook)]
    found = gates.claims_in(executed)
    recorded = gates.recorded_claims(root / "book" / contents.LEDGER)
    differences = gates.claim_differences(found, recorded, keys.data_at_hand(root))
    if args.profile == "page":
        print("\n".join(budgets.costs(executed)))
        faults += budgets.over_budget(executed)
        if differences:
            differences.append("if what is new is right, record it: python -m book.tools claims --write")
        faults += differences
        if pages.is_current(root):
            faults += gates.site_faults(pages.site(root))
        else:
            faults.append("the pages are not built from these sources: run `make book` first")
    else:
        print("\n".join(f"not enforced in profile {args.profile}: {line}" for line in differences))
    for fault in faults:
        print(fault)
    print(f"{len(executed)} chapters, {len(found)} claims, {len(faults)} fault(s)")
    return int(bool(faults))


def claims(root: Path, args: argparse.Namespace) -> int:
    """Show how the claims of the last run differ from the record; with --write, make them the record."""
    path = root / "book" / contents.LEDGER
    # a page made from the record has no say in it, and may not even run before the record is right
    sources = [chapter.name for chapter in contents.chapters(root) if contents.LEDGER not in chapter.reads()]
    found, recorded = gates.claims_in(execute.load_executed(root, "page", sources)), gates.recorded_claims(path)
    data = keys.data_at_hand(root)
    differences = gates.claim_differences(found, recorded, data)
    print("\n".join(differences) or f"{len(found)} claim(s), all as recorded")
    if not args.write:
        return int(bool(differences))
    elsewhere = {i: claim for i, claim in recorded.items() if gates.is_elsewhere(i, found, data)}
    entries = [
        yaml.safe_dump(
            {i: {part: value for part, value in claim.items() if value}},
            sort_keys=False,
            allow_unicode=True,
            width=math.inf,
        )
        for i, claim in sorted((elsewhere | found).items())
    ]
    contents.write_atomically(path, "\n".join([CLAIMS_HEADER, *entries]))
    print(f"wrote {len(found)} claim(s) to {path}")
    return 0


def export(root: Path, args: argparse.Namespace) -> int:
    """Write the built book as one file: the pages for offline reading (zip), an EPUB, or a tagged PDF."""
    made = {"offline": offline.pack, "epub": epub.make, "pdf": pdf.make}[args.format](root)
    print(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")
    return 0


def calibrate(root: Path, args: argparse.Namespace) -> int:
    """Measure this machine in units of the reference machine; with --write, make it the reference."""
    now = calibration.measure()
    if args.write or not calibration.REFERENCE.is_file():
        calibration.record(now)
        print(f"wrote {calibration.REFERENCE}")
    print(calibration.describe(now, calibration.reference()))
    return 0


def lint(root: Path, args: argparse.Namespace) -> int:
    """Check that chapters open and save unchanged in JupyterLab, and their code cells with ruff."""
    folder, changed = root / "_build" / "lint", 0
    shutil.rmtree(folder, ignore_errors=True)
    config = load_jupytext_config(str(root / "book"))
    pages_and_cells = [(page, folder / f"{page.name}.ipynb") for page in contents.notebooks(root)]
    for page, cells in pages_and_cells:
        notebook = jupytext.reads(contents.read_text(page.source), fmt="md:myst", config=config)
        contents.write_atomically(cells, nbformat.writes(notebook))

    def ruff(*options: str) -> int:
        width = ["--config", str(root / "pyproject.toml"), "--line-length", str(gates.CELL_WIDTH)]
        command = [sys.executable, "-m", "ruff", *options, "--quiet", *width, str(folder)]
        return subprocess.run(command, cwd=root).returncode  # it leaves a cache where it stands

    if args.fix:
        ruff("check", "--no-respect-gitignore", "--fix")
    for page, cells in pages_and_cells:
        text = contents.read_text(page.source)
        saved = jupytext.writes(nbformat.read(cells, as_version=4), fmt="md:myst", config=config)
        if saved != text and args.fix:
            contents.write_atomically(page.source, saved)
        elif saved != text:
            diff = difflib.unified_diff(text.splitlines(), saved.splitlines(), "as it is", "as saved", lineterm="", n=0)
            print(f"{page.source}: saving it from a notebook would change it (`make fix` does)", *diff, sep="\n")
            changed += 1
    return int(ruff("check", "--no-respect-gitignore") or changed > 0)


def course(root: Path, args: argparse.Namespace) -> int:
    """Write what a teacher hands out to _build/course: students' edition, assignments, autograders."""
    if unknown := sorted(set(args.names) - set(assignments.names(root))):
        known = ", ".join(assignments.names(root))
        print(f"assignment must be one of {known}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    print("\n".join(courses.write(root, args.names)))
    return 0


def mark(root: Path, args: argparse.Namespace) -> int:
    """Mark submissions of an assignment that `course` wrote; a line of points for each."""
    autograder = courses.folder(root) / "assignments" / args.name / "autograder.zip"
    if args.name not in (known := assignments.names(root)):
        print(f"assignment must be one of {', '.join(known)}, got {args.name}", file=sys.stderr)
        return 2
    if absent := [str(path) for path in (autograder, *args.submissions) if not path.is_file()]:
        print(f"not there: {', '.join(absent)} (`make course` writes the autograders)", file=sys.stderr)
        return 2
    for path in args.submissions:
        marked = marker.mark(autograder, path)
        points = ", ".join(f"{task} {number:g}" for task, number in marked.points.items())
        print(f"{path}: {sum(marked.points.values()):g} points ({marked.problem or points})", flush=True)
    return 0


def lab_command(root: Path) -> list[str]:
    """The JupyterLab command that opens chapters as notebooks on a double click and asks the network for nothing."""
    settings = root / "_build" / "lab-settings"
    overrides = {
        "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Jupytext Notebook"}},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    contents.write_atomically(settings / "overrides.json", json.dumps(overrides, indent=1))
    first = next(iter(contents.chapters(root)), None)
    options = {
        "ServerApp.root_dir": str(root),
        "LabApp.app_settings_dir": str(settings),
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.news_url": "None",
        "NotebookNotary.data_dir": str(settings),  # of its own, or no notebook opens where the home is not writable
        "LabApp.default_url": f"/lab/tree/{quote(first.source.relative_to(root).as_posix())}" if first else "/lab",
    }
    return [sys.executable, "-m", "jupyterlab", *(f"--{key}={value}" for key, value in options.items())]


def lab(root: Path, args: argparse.Namespace) -> int:
    """Open JupyterLab on the chapters; further options go to it unchanged."""
    return subprocess.run([*lab_command(root), *args.rest], cwd=root).returncode


def figures(root: Path, args: argparse.Namespace) -> int:
    """Open the figures that move as apps, without code; needs voila, to which further options go unchanged."""
    command = apps.voila_command(release_tree.write_apps(root))
    return subprocess.run([*command, *args.rest], cwd=root).returncode


def slides(root: Path, args: argparse.Namespace) -> int:
    """Make the slides of every chapter that has a teaching plan, in the built book."""
    started = time.perf_counter()
    if not pages.is_current(root):
        print("the pages are not built from these sources: run `make book` first", file=sys.stderr)
        return 1
    written = decks.build(root, pages.site(root) / "slides")
    print(f"{len(written)} decks ({time.perf_counter() - started:.0f} s) in {pages.site(root) / 'slides'}")
    return 0


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="python -m book.tools", description="From source to proof.")
    main.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the repository (default: this)")
    commands = main.add_subparsers(dest="command", required=True)
    functions = (
        book,
        sphinx,
        release,
        links,
        slides,
        export,
        run,
        check,
        claims,
        calibrate,
        lint,
        course,
        mark,
        lab,
        figures,
    )
    for function in functions:
        command = commands.add_parser(
            function.__name__,
            help=function.__doc__,
            description=function.__doc__,
            # to these no word is an option of their own, so that all go on to JupyterLab or voila
            prefix_chars="\0" if function in (lab, figures) else "-",
            add_help=function not in (lab, figures),
        )
        command.set_defaults(function=function)
        if function is book:
            command.add_argument("--no-open", dest="open", action="store_false", help="never open a browser")
        if function in (run, check):
            command.add_argument("--profile", choices=execute.PROFILES, default="page")
        if function is run:
            command.add_argument("names", nargs="*", metavar="chapter", help="for example levels/universe")
        if function is export:
            command.add_argument("format", choices=["offline", "epub", "pdf"])
        if function is course:
            command.add_argument("names", nargs="*", metavar="assignment", help="these alone, for example universe")
        if function is mark:
            command.add_argument("name", metavar="assignment")
            command.add_argument("submissions", nargs="+", type=Path, metavar="notebook")
        if function is claims:
            command.add_argument("--write", action="store_true", help="record the claims of the last run")
        if function is calibrate:
            command.add_argument("--write", action="store_true", help="make this machine the reference")
        if function is lint:
            command.add_argument("--fix", action="store_true", help="write chapters as jupytext would")
        if function in (lab, figures):
            command.add_argument("rest", nargs=argparse.REMAINDER, help="options for JupyterLab or voila")
    return main


def _said(problem: OSError) -> str:
    """File, cause and remedy of what the operating system refused, in one line."""
    cause = problem.strerror or str(problem)
    place = f"{problem.filename}: " if problem.filename else ""
    return f"{place}{cause}; {REMEDIES.get(problem.errno or 0, 'see to it and call again')}"


def main(arguments: Sequence[str] | None = None) -> int:
    commands = parser()
    args = commands.parse_args(arguments)
    root = args.root.expanduser().resolve()
    if not (root / "book").is_dir():
        commands.error(f"--root must be a folder with a folder book in it, got {str(args.root)!r}")
    try:
        return int(args.function(root, args))
    except (ValueError, pages.BuildError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except OSError as problem:
        print(_said(problem), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept, and the next call goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
