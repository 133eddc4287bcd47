"""The tools as commands: from other folders, on paths with spaces, with broken files, and where nothing can be written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from book.tools import __main__ as tools
from book.tools import contents, execute, gates, keys, pages
from kdlib import _files

ROOT = Path(__file__).parents[2]
CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

```{code-cell} python
:tags: [parameters]

profile = "page"
```

```{code-cell} python
import kdlib

print(kdlib.__file__)
```
"""
DOCUMENTED = {
    " ".join(words.split())
    for text in (
        sys.modules["book.tools"].__doc__,
        *((ROOT / f"{name}.md").read_text("utf8") for name in ("README", "CONTRIBUTING")),
    )
    for words in re.findall(r"python -m book\.tools((?: (?:--)?[a-z]+)+)(?=   |`| *$)", text or "", re.MULTILINE)
}


# need assignments, plans, voila or a current book, which the small one has not; they have tests of their own
ALONE = {"course", "export", "figures", "mark", "slides"}


def small_book(root: Path) -> Path:
    """A root with this project's kdlib, tools and settings, a cover and one chapter."""
    for name in ("kdlib", "book/tools", "book/_static"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "constraints.txt", "pyproject.toml", "jupytext.toml", "book/references.bib"):
        shutil.copy(ROOT / name, root / name)
    (root / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: part/a\n")
    (root / "book" / "index.md").write_text("# Cover\n")
    (root / "book" / "part").mkdir()
    (root / "book" / "part" / "a.md").write_text(CHAPTER)
    return root


@pytest.fixture
def book(tmp_path):
    return small_book(tmp_path / "root")


def call(root: Path, *arguments: str) -> int:
    return tools.main(["--root", str(root), *arguments])


def test_every_command_is_documented_once():
    (choices,) = [action.choices for action in tools.parser()._actions if action.dest == "command"]
    documented = {words.split()[0] for words in DOCUMENTED if not words.startswith("--")}
    assert documented | ALONE == choices.keys()


ALL = """
import json, runpy, sys
for words in json.loads(sys.argv.pop()):
    sys.argv = ["book.tools", *words]
    print("$", *words, flush=True)
    try:
        runpy.run_module("book.tools", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print("status", end.code, flush=True)
"""


@pytest.mark.slow
def test_every_documented_command_works_from_another_folder_on_a_path_with_spaces(tmp_path):
    root, here = small_book(tmp_path / "a book, mit Größe"), tmp_path / "some where"
    here.mkdir()
    for name in ("part/a.md", "index.md"):  # as some editors on Windows save them
        source = root / "book" / name
        source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    first = ["book", "check", "claims --write"]
    every = [*first, *sorted(DOCUMENTED - {*first})]
    place = ["--root", os.path.relpath(root, here)]
    calls = [[*place, *words.split(), *["--version"] * (words == "lab")] for words in every]
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps(calls)],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CI": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("status 0") == len(every), (done.stdout, done.stderr)
    assert (root / "_build" / "html" / "index.html").as_uri() in done.stdout
    assert "<h1>A chapter" in (root / "_build" / "html" / "part" / "a.html").read_text("utf8")
    assert list(here.iterdir()) == []


@pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")
def test_every_documented_make_target_exists(tmp_path):
    texts = [(ROOT / f"{name}.md").read_text("utf8") for name in ("README", "CONTRIBUTING")]
    targets = {
        word
        for text in texts
        for words in re.findall(r"(?:`|^ {4})make ([a-z ]+?)(?=`|\s*#|$)", text, re.MULTILINE)
        for word in words.split()
    }
    assert {"book", "test", "lab", "help", "check", "lint"} <= targets
    for target in sorted(targets):
        done = subprocess.run(["make", "-n", "-C", str(ROOT), target], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_second_checkout_runs_stores_and_builds_its_own(tmp_path):
    first, second = (small_book(tmp_path / name) for name in ("first", "second"))
    (second / "kdlib" / "__init__.py").write_text((first / "kdlib" / "__init__.py").read_text("utf8") + "\n# second\n")
    assert len({keys.chapter_key(root, contents.chapters(root)[0], "") for root in (first, second)}) == 2
    done = subprocess.run(
        [sys.executable, "-m", "book.tools", "book"],
        cwd=second,
        env=os.environ | {"PYTHONPATH": str(second), "OMP_NUM_THREADS": "1", "CI": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (second / "_build/html/index.html").as_uri() in done.stdout
    executed = (second / "_build/chapters/page/part/a.ipynb").read_text("utf8")
    assert str(second / "kdlib" / "__init__.py") in executed and str(first) not in executed
    assert not (first / "_build").exists()


# Options


@pytest.mark.parametrize(
    "options",
    [[], ["--no-browser", "--port=9999"], ["-y"], ["--help"], ["-h"], ["--root", "x"], ["a b.md", "--x"], ["--", "-x"]],
)
def test_options_of_lab_go_on_to_jupyterlab_unchanged(book, monkeypatch, options):
    called = []
    monkeypatch.setattr(
        tools.subprocess, "run", lambda command, cwd: called.append(command) or subprocess.CompletedProcess(command, 7)
    )
    assert call(book, "lab", *options) == 7
    assert called == [[*tools.lab_command(book), *options]]


def test_lab_opens_the_first_chapter_whatever_it_is_called(book):
    (book / "book" / "part").rename(book / "book" / "ein Teil, 50 %")
    (book / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: ein Teil, 50 %/a\n")
    assert "--LabApp.default_url=/lab/tree/book/ein%20Teil%2C%2050%20%25/a.md" in tools.lab_command(book)


@pytest.mark.parametrize("arguments", [["--root", "nowhere", "run"], ["runn"], [], ["run", "--profile", "quick"]])
def test_unusable_arguments_end_with_status_2(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        tools.main(arguments)
    assert end.value.code == 2 and "usage: python -m book.tools" in capsys.readouterr().err


def test_the_root_may_be_named_from_home(book, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(book.parent))
    monkeypatch.setenv("USERPROFILE", str(book.parent))
    monkeypatch.chdir(ROOT)
    assert call(Path("~/root"), "claims") == 1
    assert "part/a has not been run" in capsys.readouterr().err


# Broken and foreign files


BROKEN = {
    "a tab": (b"format: jb-book\nroot: index\n\tchapters:\n", "is no valid YAML in line 3"),
    "unfinished merge": (b"a: 1\n<<<<<<< HEAD\nb: 2\n=======\n>>>>>>> other\n", "unfinished merge in line 2"),
    "half written": (b'a: {sentence: "It ri', "is no valid YAML in line 1"),
    "control character": (b"a: \x00\n", "is no valid YAML: special characters"),
    "Python object": (b"!!python/object/apply:os.getcwd []\n", "is no valid YAML in line 1"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "is not UTF-8 text"),
    "Latin-1": ("a: Größe\n".encode("latin-1"), "is not UTF-8 text (invalid start byte at byte 5)"),
}


@pytest.mark.parametrize(("content", "expected"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["book/_toc.yml", "book/claims.yml", "_config.yml"])
def test_a_broken_yaml_file_is_named_in_one_line(book, monkeypatch, capsys, name, content, expected):
    monkeypatch.setattr(execute, "load_executed", lambda *_: {})
    monkeypatch.setattr(execute, "run_chapters", lambda *_: [])
    (book / name).write_bytes(content)
    status = call(book, "claims" if name.endswith("claims.yml") else "book")
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 1 and line.startswith(f"{book / name} ") and expected in line
    assert not (book / "_build" / "html").exists()


@pytest.mark.parametrize("content", ["", "[]", "root: 3", "- file: a"])
def test_a_table_of_contents_without_a_root_page_is_refused(book, capsys, content):
    (book / "book" / "_toc.yml").write_text(content)
    assert call(book, "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{book / 'book' / '_toc.yml'} must be a mapping with a page called `root`, got")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("chapters: 5", "a list of entries below `chapters`, got 5"),
        ("chapters: {file: part/a}", "a list of entries below `chapters`, got {'file'"),
        ("parts: [{caption: a, chapters: [part/a]}]", "a list of entries below `chapters`, got ['part/a']"),
        ("chapters: [{file: [part/a]}]", "a page after `file`, got ['part/a']"),
    ],
)
def test_a_table_of_contents_of_another_form_is_refused(book, capsys, content, expected):
    (book / "book" / "_toc.yml").write_text(f"root: index\n{content}\n")
    assert call(book, "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{book / 'book' / '_toc.yml'} must ") and expected in line


@pytest.mark.parametrize("name", ["_toc.yml", "part/a.md", "claims.yml"])
def test_a_byte_order_mark_changes_nothing(book, name):
    if name == "claims.yml":
        (book / "book" / name).write_text("one: {sentence: a, source: b, verdict: c}\n")
    path, (chapter,) = book / "book" / name, contents.chapters(book)
    before = chapter.read(), contents.toc_entries(book), gates.recorded_claims(book / "book" / "claims.yml")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = chapter.read(), contents.toc_entries(book), gates.recorded_claims(book / "book" / "claims.yml")
    assert [cell.source for cell in after[0].cells] == [cell.source for cell in before[0].cells]
    assert after[0].metadata == before[0].metadata and after[1:] == before[1:]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kernelspec:", "<<<<<<< HEAD\nkernelspec:", "unfinished merge in line 7"),
        ("# A chapter", "# A chapter\n\n>>>>>>> other", "unfinished merge in line 15"),
        ("  text_rep", "\ttext_rep", "cannot be read as a notebook: while scanning"),
        (
            "  text_representation:\n",
            "  text_representation: []\n  x:\n",
            "cannot be read as a notebook: 'list' object",
        ),
        ("[parameters]", "[parameters", "cannot be read as a notebook: Code cell 1 at line"),
        (":tags: [parameters]", ":tags: 3", "cannot be read as a notebook: 3 is not of type 'array'"),
        ("# A chapter", "# A chapter\n\0", "cannot be read as a notebook: "),
    ],
)
def test_a_broken_chapter_is_named_in_one_line(book, capsys, old, new, expected):
    path = book / "book" / "part" / "a.md"
    path.write_text(CHAPTER.replace(old, new), "utf8")
    for words in (["run"], ["lint"], ["lab"]):
        assert call(book, *words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{path} ") and expected in line


def test_a_missing_file_is_named(book, capsys):
    (book / "book" / "_toc.yml").unlink()
    assert call(book, "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{book / 'book' / '_toc.yml'}: No such file or directory; restore it"


# Where nothing can be written


@pytest.mark.parametrize("words", ["run", "book", "lint", "lab"])
def test_a_file_in_the_place_of_the_build_folder_is_named_with_the_remedy(book, capsys, words):
    (book / "_build").write_text("in the way")
    assert call(book, words) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert str(book / "_build") in line and line.endswith("; a file stands where a folder is needed: move it away")
    assert (book / "_build").read_text() == "in the way"


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize("words", ["lint", "lab", "claims --write"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(book, capsys, words):
    import resource

    record = book / "book" / "claims.yml"
    record.write_text("one: {sentence: a, source: b, verdict: c}\n")
    if words.startswith("claims"):  # a book without chapters, so that nothing must have been run
        (book / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    before = {path for path in book.rglob("*") if "_build" not in path.parts}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        status = call(book, *words.split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = capsys.readouterr().err.splitlines()[-1]
    assert status == 1 and "File too large; free some space" in line and str(book) in line
    assert record.read_text() == "one: {sentence: a, source: b, verdict: c}\n"
    assert {path for path in book.rglob("*") if "_build" not in path.parts} == before
    assert [path for path in (book / "_build").rglob("*") if path.is_file()] == []


def test_pages_without_room_say_so(book, monkeypatch, capsys):
    monkeypatch.setattr(execute, "load_executed", lambda *_: {})
    monkeypatch.setattr(execute, "run_chapters", lambda *_: [])
    monkeypatch.setattr(pages, "fill_cache", lambda *_: None)

    def sphinx(command, cwd, stdout, stderr):
        stdout.write("Exception occurred:\nOSError: [Errno 28] No space left on device\n")
        return subprocess.CompletedProcess(command, 2)

    (book / "_build").mkdir()
    monkeypatch.setattr(pages.subprocess, "run", sphinx)
    assert call(book, "book") == 1
    assert capsys.readouterr().err == f"{book / '_build'}: No space left on device; free some space\n"
    assert not pages.is_current(book)


def test_a_filled_cache_is_closed(book, monkeypatch):
    real, made = pages.get_cache, []

    def remembered(folder):
        made.append(real(folder))
        return made[-1]

    monkeypatch.setattr(pages, "get_cache", remembered)
    pages.fill_cache(book, {})
    assert (made[0].path / "global.db").is_file()
    assert not any(Path(file.path).name == "global.db" for file in psutil.Process().open_files())


def test_a_cache_without_room_says_so(book, monkeypatch, capsys):
    monkeypatch.setattr(execute, "run_chapters", lambda *_: [])
    monkeypatch.setattr(execute, "load_executed", lambda *_: {})
    real = pages.get_cache

    def full(folder):
        (folder / "global.db").mkdir()  # SQLite cannot open it
        return real(folder)

    monkeypatch.setattr(pages, "get_cache", full)
    assert call(book, "book") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{book / '_build' / '.jupyter_cache'}: unable to open database file; see to it and call again"


def test_a_record_keeps_its_mode_and_a_link_to_it_stays_one(book):
    record, link = book / "book" / "claims.yml", book / "link.yml"
    record.write_text("")
    record.chmod(0o664)
    link.symlink_to(record)
    _files.write_text(link, "new")
    assert link.is_symlink() and record.read_text() == "new"
    assert record.stat().st_mode & 0o777 == 0o664
