"""The second build, by Sphinx alone: the same configuration and the same pages, where Jupyter Book cannot be imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from book.tools import contents, keys, pages, plain, release

from .test_release import launch_links
from .tinybook import ROOT, TinyBook, cell

# found by every Python that the test starts, before anything else is imported
BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "jupyter_book":
            raise ImportError("jupyter_book is not here")

sys.meta_path.insert(0, Refuse())
"""
REPRESENTATIVE = """
Some text {footcite}`hinton2015distilling`, $T^2$, and

$$\\mathcal L=\\alpha\\,T^2 .$$

```{prf:proposition} A statement
:label: prop-tiny
It holds.
```

```{dropdown} Proof
By {prf:ref}`prop-tiny`.
```

## What do you expect?

```{exercise} Predict
:label: tiny-predict
Say it.
```

```{solution} tiny-predict
:class: dropdown
So.
```

```{footbibliography}
```
"""
REAL = ("levels/domain", "levels/losses")
ROLE = re.compile(r"\{(?:doc|ref|numref|prf:ref)\}`([^`<]+)(?:<[^>]*>)?`")
LINK = re.compile(r"\[([^\]]+)\]\((?!http)[^)]*\)")


@pytest.fixture
def tiny(tmp_path):
    return TinyBook(tmp_path / "root")


def take_over(tiny: TinyBook, name: str) -> bool:
    """Put a chapter of this book, run already, into the tiny one, its links to pages that are not there left out."""
    (chapter,) = contents.chapters(ROOT, [name])
    if not chapter.executed(ROOT, "page").is_file():
        return False
    text = chapter.source.read_text("utf8")
    parts = re.split(r"(^```\{code-cell\}.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [ROLE.sub(r"\1", LINK.sub(r"\1", part)) for part in parts[::2]]  # cells stay as they ran
    tiny.write(f"{name}.md", "".join(parts))
    toc = yaml.safe_load((tiny.root / "book" / "_toc.yml").read_text("utf8"))
    tiny.write("_toc.yml", yaml.safe_dump(toc | {"chapters": [*toc["chapters"], {"file": name}]}))
    (copy,) = contents.chapters(tiny.root, [name])
    ran = nbformat.read(chapter.executed(ROOT, "page"), as_version=4)
    ran.metadata["kdlib"]["key"] = keys.chapter_key(tiny.root, copy, keys.environment_key(tiny.root))
    contents.write_atomically(copy.executed(tiny.root, "page"), nbformat.writes(ran))
    return True


@pytest.mark.slow
def test_the_pages_are_built_where_jupyter_book_cannot_be_imported(tiny, tmp_path):
    tiny.chapter("a", cell('print("profile is", profile)') + REPRESENTATIVE)
    tiny.pretend("a")
    tiny.pretend("b", one={"verdict": "confirmed", "sentence": "It rises.", "source": "ours"})
    real = [name for name in REAL if take_over(tiny, name)]
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCK)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "block"), str(ROOT)]), "CI": "1"}
    proof = subprocess.run(
        [sys.executable, "-c", "import jupyter_book"], env=environment, capture_output=True, text=True
    )
    assert "jupyter_book is not here" in proof.stderr
    command = [sys.executable, "-m", "book.tools", "--root", str(tiny.root), "sphinx"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (plain.site(tiny.root) / "index.html").as_uri() in done.stdout
    assert "not compared with the book" in done.stdout

    page = BeautifulSoup((plain.site(tiny.root) / "part" / "a.html").read_text("utf8"), "html.parser")
    assert plain.headings(plain.site(tiny.root) / "part" / "a.html") == ["h1 Chapter a", "h2 What do you expect?"]
    assert page.select_one("details summary").get_text(strip=True) == "Proof"
    assert (
        page.select_one("div.proof.proposition") and page.select_one("div.exercise") and page.select_one("div.solution")
    )
    assert "Distilling the knowledge" in page.select_one("aside.footnote, div.footnote, .footnote-list").get_text()
    assert page.find("link", href=re.compile(r"_static/book\.css"))
    assert [each["src"] for each in page.find_all("script", src=True) if "//" in each["src"]] == []
    assert launch_links(plain.site(tiny.root) / "part" / "a.html") == {
        "Binder": release.binder(tiny.root, "part/a"),
        "Colab": release.colab(tiny.root, "part/a"),
    }
    download = nbformat.read(plain.site(tiny.root) / "_sources" / "part" / "a.ipynb", as_version=4)
    assert download.cells[0].id == "install-kdlib" and not any(each.get("outputs") for each in download.cells)
    for name in real:
        of_the_book = pages.site(ROOT) / f"{name}.html"
        built = plain.site(tiny.root) / f"{name}.html"
        assert "kdx" in built.read_text("utf8")  # a figure that moves came along
        if pages.is_current(ROOT):
            assert plain.headings(built) == plain.headings(of_the_book)


def test_the_whole_second_build_has_the_pages_and_headings_of_the_book():
    stamp = plain.site(ROOT) / ".complete"
    if not (pages.is_current(ROOT) and stamp.is_file() and stamp.read_text("utf8") == plain.key(ROOT)):
        pytest.skip("the two builds are not there, or not from these sources: run `make book sphinx` first")
    assert plain.differences(ROOT) == []


def test_the_configuration_says_what_jupyter_book_makes_of_it():
    config = pytest.importorskip("jupyter_book.config")
    theirs, _ = config.get_final_config(
        user_yaml=ROOT / "_config.yml",
        sourcedir=ROOT / "book",
        cli_config={"latex_individualpages": False, "external_toc_path": "_toc.yml"},
    )
    ours = plain.settings(ROOT)
    assert ours["extensions"] == [name for name in theirs["extensions"] if name not in plain.ITS_OWN]
    theme, buttons = theirs["html_theme_options"], "launch_buttons"
    assert {k: v for k, v in theme.pop(buttons).items() if v} == ours["html_theme_options"].pop(buttons)
    assert {k: v for k, v in ours["html_theme_options"].items() if theme.get(k) != v} == {}
    elsewhere = {"extensions", "html_theme_options", "nb_execution_cache_path", *plain.FILES}
    different = {k: (v, theirs.get(k)) for k, v in ours.items() if k not in elsewhere and theirs.get(k) != v}
    assert different.pop("project")[0] == theirs["html_title"]  # Jupyter Book leaves it empty
    assert different == {}
    for name in plain.FILES & ours.keys():
        several = [ours[name], theirs[name]] if isinstance(theirs[name], list) else [[ours[name]], [theirs[name]]]
        assert [path.relative_to("book").as_posix() for path in several[0]] == several[1]
    # and nothing that a page shows is left out
    unsaid = {k for k, v in theirs.items() if v and k not in ours and not k.startswith(("latex", "use_", "comments"))}
    assert unsaid <= set()


@pytest.mark.parametrize(
    ("addition", "named"),
    [("html: {extra_navbar: hello}", "below `html`, extra_navbar"), ("only_toc: true", "at the top, only_toc")],
)
def test_a_setting_without_a_translation_is_refused_by_name(tiny, addition, named):
    (tiny.root / "_config.yml").write_text(addition, "utf8")
    status, said = tiny.call("sphinx")
    assert status == 1 and f"_config.yml: {named} has no translation" in said


def test_pages_and_headings_that_differ_are_named(tiny):
    def page(site: Path, name: str, *headings: str) -> None:
        contents.write_atomically(site / f"{name}.html", f"<article class=bd-article>{''.join(headings)}</article>")

    for site in (pages.site(tiny.root), plain.site(tiny.root)):
        page(site, "index", "<h1>Cover<a class=headerlink>#</a></h1>")
    page(pages.site(tiny.root), "part/a", "<h1>A</h1>", "<h2>B</h2>")
    page(plain.site(tiny.root), "part/a", "<h1>A</h1>", "<h2>C</h2>")
    page(pages.site(tiny.root), "part/b", "<h1>A</h1>")
    assert plain.differences(tiny.root) == [
        "part/a.html: the headings differ: h2 B; h2 C",
        "_build/sphinx/part/b.html does not exist",
    ]
