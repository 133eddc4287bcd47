"""The release branch's tree: notebooks that run anywhere, and links that lead to them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from book.tools import contents, launch, pages, release

from .tinybook import ROOT, TinyBook, cell

URL = "https://github.com/somebody/distil"


@pytest.fixture
def tiny(tmp_path):
    made = TinyBook(tmp_path / "root")
    settings = made.root / "_config.yml"
    text = settings.read_text("utf8").replace(release.repository(made.root)[0], URL)
    settings.write_text(text, "utf8")
    return made


def test_the_tree_holds_each_chapter_beside_its_source_and_nothing_that_was_built(tiny):
    (tiny.root / "book" / "part" / "__pycache__").mkdir()
    (tiny.root / "book" / "part" / "__pycache__" / "x.pyc").write_text("")
    (tiny.root / "book" / "part" / "data.csv").write_text("1\n")
    status, said = tiny.call("release")
    tree = tiny.root / "_build" / "release"
    assert (status, said) == (0, f"2 notebooks: {tree}\n")
    assert sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()) == sorted(
        ["README.md", "book/_toc.yml", "book/index.md", "book/references.bib", "constraints.txt", "environment.yml"]
        + [f"book/part/{name}.{end}" for name in "ab" for end in ("md", "ipynb")]
        + ["book/part/data.csv", "kdlib/__init__.py", "kdlib/x.py", "pyproject.toml"]
    )
    for path in tree.rglob("*.ipynb"):
        made = nbformat.read(path, as_version=4)
        nbformat.validate(made)
        assert all(not each.get("outputs") for each in made.cells)
        assert f'"kdlib @ {URL}/archive/refs/heads/release.zip"' in made.cells[0].source
    before = (tree / "book" / "part" / "a.ipynb").read_bytes()
    (tree / "old.txt").write_text("from the last release")
    assert tiny.call("release")[0] == 0
    assert (tree / "book" / "part" / "a.ipynb").read_bytes() == before and not (tree / "old.txt").exists()


PROGRAM = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
asked = []
shell.register_magic_function(asked.append, magic_name="pip")
sys.path.insert(0, {path!r})
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f)]
print(shell.run_cell({cell!r}).success, asked)
"""


@pytest.mark.parametrize("there", [True, False])
def test_the_first_cell_installs_where_kdlib_is_missing_and_does_nothing_where_it_is_there(tiny, tmp_path, there):
    first = release.notebook(tiny.root, contents.chapters(tiny.root)[0]).cells[0].source
    if not there:  # a name that is installed nowhere stands for kdlib
        first = first.replace('find_spec("kdlib")', 'find_spec("kdlib_that_is_not_installed")')
    program = PROGRAM.format(path=str(tiny.root), cell=first)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    asked = [f'install --quiet "kdlib @ {URL}/archive/refs/heads/release.zip" pyarrow pyyaml']
    assert done.stdout.splitlines()[-1] == f"True {[] if there else asked}", done.stderr


def test_chapters_import_what_the_first_cell_installs_and_no_directive_or_role_is_left_in_their_text():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    asked = {re.match(r"[\w-]+", line)[0] for line in (*project["dependencies"], *release.BESIDES)}
    modules = (asked - {"scikit-learn", "pyyaml"}) | {"sklearn", "yaml", "IPython", "kdlib"}
    used, left = set(), set()
    for chapter in contents.chapters(ROOT):
        for each in release.notebook(ROOT, chapter).cells:
            if each.cell_type == "code":
                used |= set(re.findall(r"^\s*(?:import|from) (\w+)", each.source, re.MULTILINE))
            else:
                left |= set(re.findall(r"\{[a-z][\w:-]*\}`|^(?:`{3,}|:{3,})\{|^:[\w-]+: ", each.source, re.MULTILINE))
    assert {"torch", "kdlib"} <= used and left == set()
    assert used - modules - set(sys.stdlib_module_names) == set()


def test_environment_yml_of_the_release_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    python, torch, pip, nested = yaml.safe_load(release.environment(ROOT))["dependencies"]
    assert python == f"python{project['requires-python']}" and pip == "pip"
    assert torch.replace("pytorch-cpu", "torch") in project["dependencies"]
    assert nested == {"pip": ["-e .[voila]", *release.BESIDES]} and "voila" in project["optional-dependencies"]


MYST = """(a-label)=
## A question

As shown {footcite}`hinton2015distilling,tang2020understanding`, see {prf:ref}`prop-x` and [next](../levels/domain.md#here).

```{prf:proposition} Two limits
:label: prop-x
Let $T=1$.
```

````{exercise} Predict
:label: ex

Say it.

```{tip}
Look.
```
````

```{dropdown} Proof
Because $a\\to b$.
```

```{footbibliography}
```"""
PLAIN = """## A question

As shown [Hinton 2015, Tang 2020], see “Two limits” and [next](../levels/domain.ipynb#here).

**Proposition: Two limits**

Let $T=1$.

**Exercise: Predict**

Say it.

> **Tip**
>
> Look.

<details><summary>Proof</summary>

Because $a\\to b$.

</details>

The works named in brackets stand in `book/references.bib`."""


def test_text_becomes_markdown_that_any_notebook_shows():
    said = release.plain(MYST, {"prop-x": "Two limits"})
    assert re.sub(r"\n{3,}", "\n\n", said) == PLAIN


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f"url: {URL}", "url: github.com/x", "repository.url must look like https://github.com/owner/name"),
        (f"url: {URL}", "url: https://github.com/x", "got 'https://github.com/x'"),
        ("branch: release", "branch: [a]", "repository.branch must be the name of the release branch, got ['a']"),
    ],
)
def test_an_unusable_repository_is_refused_and_the_last_tree_stays(tiny, old, new, said):
    assert tiny.call("release")[0] == 0
    settings = tiny.root / "_config.yml"
    settings.write_text(settings.read_text("utf8").replace(old, new), "utf8")
    status, printed = tiny.call("release")
    assert status == 1 and said in printed
    assert (tiny.root / "_build" / "release" / "README.md").is_file()


def test_buttons_open_the_notebook_and_not_in_colab_where_it_needs_the_book_around_it(tiny):
    tiny.chapter("b", cell('open("../claims.yml").read()'))
    buttons = [{"text": "Binder", "url": "b/part/b.md"}, {"text": "Colab", "url": "c/part/b.md"}]
    assert [each["url"] for each in launch.to_notebooks(buttons, "part/b", alone=True)] == [
        "b/part/b.ipynb",
        "c/part/b.ipynb",
    ]
    assert [each["text"] for each in launch.to_notebooks(buttons, "part/b", alone=False)] == ["Binder"]
    assert buttons[0]["url"] == "b/part/b.md"
    page = release.readme(tiny.root, contents.chapters(tiny.root))
    assert release.colab(tiny.root, "part/a") in page and release.binder(tiny.root, "part/b") in page
    assert release.colab(tiny.root, "part/b") not in page


def launch_links(page: Path) -> dict[str, str]:
    soup = BeautifulSoup(page.read_bytes(), "html.parser")
    found = soup.select(".article-header-buttons .dropdown-launch-buttons a[href^=http]")
    return {link.get_text(strip=True): link["href"] for link in found}


def test_the_built_pages_lead_to_notebooks_of_the_release_branch():
    if not pages.is_current(ROOT):
        pytest.skip("the book is not built, or not from these sources: run `make book` first")
    apps = release.apps(ROOT, contents.chapters(ROOT))
    for chapter in contents.chapters(ROOT):
        expected = {"Binder": release.binder(ROOT, chapter.name), "Colab": release.colab(ROOT, chapter.name)}
        if chapter.reads():
            del expected["Colab"]
        if chapter.name in apps:
            expected["Figures"] = release.app(ROOT, chapter.name)
        assert launch_links(pages.site(ROOT) / f"{chapter.name}.html") == expected
