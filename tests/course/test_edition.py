"""The students' edition: nothing of an answer is in it, all else is, and the search for leaks finds what is planted."""

import importlib.util
import json
import re
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest

from book.tools import contents, edition

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("tinybook", ROOT / "tests" / "book" / "tinybook.py")
assert spec is not None and spec.loader is not None
tinybook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tinybook)

TEXT = """Before.

````{exercise} Write it
:label: x-write
Write `f`.
````

```{solution} x-write
:class: dropdown
Multiply by the number forty-two point seven of the lecture, then take the root: `f = lambda x: (42.7 * x) ** 0.5`.
```

:::{quiz} What does a raised T do?
:label: x-quiz-1
- It smooths more. <!-- wrong: No: the rows of the teacher are what they are, and look at
  the second figure. -->
- It smooths less. <!-- right: Since its resting point moves towards the label. -->
:::

After, and [how to teach it](../teach/x.md); [next](y.md).
"""
CHECKED = """

## Exercises

```{code-cell} ipython3
def f(x):
    return x
```

```{code-cell} ipython3
---
mystnb:
  code_prompt_show: Show the check
tags: [hide-input]
---
secret = (42.7 * 2) ** 0.5

def check(candidate):
    return "Right." if candidate(2) == secret else "It must be the root of forty-two point seven times x."
```

```{code-cell} ipython3
said = check(f)
print("the same", 1 + 1)
print(said)
```

```{code-cell} ipython3
print(check(f))
```

## What to remember

```{code-cell} ipython3
print("remembered")
```
"""


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """The sources of all pages as students get them, in a folder."""
    folder = tmp_path_factory.mktemp("students")
    chapters = [page.name for page in contents.notebooks(ROOT)]
    for page in contents.toc_entries(ROOT):
        name = page.removesuffix(".md")
        source = contents.page_source(ROOT, name)
        if name in chapters:
            notebook, _ = edition.filtered_notebook(contents.Chapter(name, source).read())
            text = jupytext.writes(notebook, fmt="md:myst")
        else:
            text = edition.filtered_text(contents.read_text(source), lambda target: False)
        (folder / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "book" / f"{name}.md").write_text(text, "utf8")
    return folder


@pytest.fixture(scope="module")
def known():
    return edition.secrets(ROOT)


def test_no_page_gives_an_answer_away(students, known):
    runs, numbers, _ = known
    assert len(runs) > 1000 and sum(map(len, numbers.values())) > 40
    assert edition.leaks(known, students) == []


def test_every_page_keeps_its_exercises_and_cells_that_run(students):
    for page in contents.notebooks(ROOT):
        text, new = contents.read_text(page.source), (students / "book" / f"{page.name}.md").read_text("utf8")
        assert re.findall(r"\{exercise\}.*", text) == re.findall(r"\{exercise\}.*", new)
        assert re.findall(r"^#+ .*", text, re.MULTILINE) == re.findall(r"^#+ .*", new, re.MULTILINE)
        assert "{solution}" not in new
        for cell in jupytext.reads(new, fmt="md:myst").cells:
            if cell.cell_type == "code":
                compile(cell.source, page.name, "exec")
                assert cell.source.strip()


@pytest.mark.parametrize("where", ["text", "notebook", "state", "zip", "number"])
def test_what_is_planted_is_found(known, tmp_path, where):
    text = contents.read_text(contents.page_source(ROOT, "levels/universe"))
    answer = next(found[2] for found in edition.SOLUTION.finditer(text) if "universe-change" in found[0])
    assert "nothing left of the damage" in answer
    line = answer.strip().splitlines()[-1]
    if where == "text":
        (tmp_path / "levels").mkdir()
        (tmp_path / "levels" / "universe.html").write_text(f"<p>{line.replace(' ', ' <em>x</em> ', 1)}</p>")
    elif where == "notebook":
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(answer)]), tmp_path / "x.ipynb")
    elif where == "state":
        state = json.dumps({"state": {"a": {"outputs": [{"text": f"<b>\n{line}</b>"}]}}}).replace("<", "\\u003c")
        (tmp_path / "x.html").write_text(f'<script type="application/vnd.jupyter.widget-state+json">{state}</script>')
    elif where == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("book/x.md", line)
    else:
        (tmp_path / "html" / "levels").mkdir(parents=True)
        page = '<section id="exercises"><p>It is <em>0.105</em>.</p></section>'
        (tmp_path / "html" / "levels" / "universe.html").write_text(page)
    assert len(edition.leaks(known, tmp_path)) == 1


def test_text_loses_its_answers_and_nothing_else():
    new = edition.filtered_text(TEXT, lambda target: "teach/" in target)
    assert "42.7" not in new and "wrong" not in new and "resting point" not in new
    assert "- It smooths more.\n- It smooths less.\n" in new and "What does a raised T do?" in new
    assert "After, and how to teach it; [next](y.md)." in new and "Write `f`." in new


def test_a_chapter_loses_its_checks_and_what_calls_them():
    notebook = jupytext.reads(tinybook.HEADER.format(name="x") + TEXT + CHECKED, fmt="md:myst")
    new, origin = edition.filtered_notebook(notebook)
    code = [cell.source for cell in new.cells if cell.cell_type == "code"]
    assert code[1:] == ["def f(x):\n    return x", 'print("the same", 1 + 1)', 'print("remembered")']
    assert origin == [0, -1, -1, 5]
    assert sum(cell.source == edition.CHECKED_ELSEWHERE for cell in new.cells) == 1


def test_a_book_for_students_is_built_without_running_anything(tmp_path):
    book = tinybook.TinyBook(tmp_path / "book")
    words = TEXT.split(":::{quiz}")[0] + "\n[how](../teach/x.md)\n"  # the quiz's directive is another extension's
    book.chapter("a", tinybook.cell('print("profile is", profile)') + "\n" + words + CHECKED)
    book.write("teach/x.md", "# Teaching\n\nforty-two\n")
    toc = contents.read_yaml(book.root / "book" / "_toc.yml")
    toc["chapters"].append({"file": "teach/x"})
    book.write("_toc.yml", json.dumps(toc))
    for name in "ab":
        book.pretend(name)
    target = tmp_path / "course" / "student"
    assert sorted(edition.write(book.root, target)) == ["index", "part/a", "part/b"]
    page = (target / "html" / "part" / "a.html").read_text("utf8")
    assert "Write it" in page and "remembered" in page and "check(" not in page and "42.7" not in page
    assert not (target / "html" / "teach").exists() and not (target / "_build").exists()
    assert nbformat.read(target / "notebooks" / "part" / "a.ipynb", as_version=4).cells
    with zipfile.ZipFile(target.with_name("student.zip")) as archive:
        assert "student/html/searchindex.js" in archive.namelist() and "student/README.md" in archive.namelist()
    index = (target / "html" / "searchindex.js").read_text("utf8")
    assert '"rememb"' in index
    (target / "html" / "searchindex.js").write_text(index.replace('"terms": {', '"terms": {"forti": 1, '), "utf8")
    assert any("searchindex.js" in leak for leak in edition.leaks(edition.secrets(book.root), target))
