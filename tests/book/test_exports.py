"""The book as one file: what an EPUB and a PDF are made from, and that both are what readers' programs expect."""

import base64
import xml.etree.ElementTree as ET
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from book.tools import documents, epub, pages, pdf
from tests.book.tinybook import ROOT

SVG = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><title>nine</title></svg>"
PICTURE = "data:image/svg+xml;base64," + base64.b64encode(SVG.encode()).decode()
FIGURE = (
    f'<figure class="kdx"><style>x</style><img alt="nine" src="{PICTURE}"><div class="kdx-controls" hidden><select></select></div>'
    '<p class="kdx-sentence">Nine.</p><details><summary>Data</summary><table><tr><td>9</td></tr></table></details>'
    '<script type="application/json" class="kdx-frames">{"a": "<article>"}</script></figure><script>run()</script>'
)
PAGE = (
    '<html><body><nav>menu</nav><article class="bd-article"><section id="{id}">{body}</section></article></body></html>'
)
HEAD = '<h1>{title}<a class="headerlink" href="#x">#</a></h1>'
COVER = (
    HEAD.format(title="The book")
    + '<p>See <a href="part/a.html#two">two</a> and <a href="_sources/a.md">source</a>.</p>'
)
FIRST = (
    HEAD.format(title="The first chapter of all, with a title that is longer than a line of a page on paper can be")
    + r'<p><span class="math notranslate">\(\mathbb E[p\mid y]\)</span></p><section id="two"><h2>Two &amp; two</h2>'
    + FIGURE
    + '<p><a href="../index.html">back</a></p></section>'
)


@pytest.fixture
def book(tmp_path: Path) -> documents.Edition:
    (tmp_path / "book" / "part").mkdir(parents=True)
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: part/a}]\n", "utf8")
    site = tmp_path / "site"
    (site / "part").mkdir(parents=True)
    (site / "index.html").write_text(PAGE.format(id="cover", body=COVER), "utf8")
    (site / "part" / "a.html").write_text(PAGE.format(id="first", body=FIRST), "utf8")
    return documents.read(tmp_path, site)


def test_a_page_keeps_what_can_be_read_and_loses_what_needs_a_screen(book: documents.Edition) -> None:
    _, page = book.pages
    assert page.title.startswith("The first chapter") and "#" not in page.title
    assert not page.body.select("script, style, select, nav, .headerlink, [hidden]")
    assert page.body.find("details").has_attr("open") and page.body.find(class_="kdx-sentence").get_text() == "Nine."
    (file,) = book.pictures
    assert book.pictures[file].decode() == SVG and page.body.find("img")["src"] == f"pictures/{file}"
    assert documents.dead_links(book) == []


def test_links_lead_to_their_place_or_are_words(book: documents.Edition) -> None:
    assert [(page.name, target) for page, _, target in documents.link_targets(book.pages)] == [
        ("index", "part-a--two"),
        ("part/a", "index"),
    ]
    assert "source" in book.pages[0].body.get_text()
    book.pages[1].body.find(id="part-a--two")["id"] = "elsewhere"
    assert documents.dead_links(book) == ["index: part-a--two"]


def test_formulas_are_mathml_with_their_own_letters() -> None:
    shown = documents.mathml(r"\mathbb E\mathcal H\mathcal A\mathbf 1 \mathbf x\mathbb R")
    for letter in "𝔼ℋ𝒜𝟏𝐱ℝ":
        assert letter in shown
    assert 'mathvariant="double-struck"' not in shown and r'alttext="\mathbb E' in shown
    assert 'display="block"' in documents.mathml("x", block=True)


def test_a_missing_page_is_named(tmp_path: Path, book: documents.Edition) -> None:
    (tmp_path / "site" / "part" / "a.html").unlink()
    with pytest.raises(ValueError, match=r"a\.html is missing: run `make book`"):
        documents.read(tmp_path, tmp_path / "site")


def opened(path: Path) -> tuple[zipfile.ZipFile, ET.Element]:
    """The archive and its package document, after everything that a reading program asks of the container."""
    packed = zipfile.ZipFile(path)
    first = packed.infolist()[0]
    assert (first.filename, first.compress_type, packed.read("mimetype")) == ("mimetype", 0, b"application/epub+zip")
    container = ET.fromstring(packed.read("META-INF/container.xml"))
    package = ET.fromstring(packed.read(container.find(".//{*}rootfile").get("full-path")))  # type: ignore[union-attr, arg-type]
    items = {item.get("id"): item.get("href") for item in package.iterfind(".//{*}item")}
    assert len(items) == len(package.findall(".//{*}item"))
    listed = {f"book/{href}" for href in items.values()}
    assert listed | {"mimetype", "META-INF/container.xml", "book/book.opf"} == set(packed.namelist())
    assert {ref.get("idref") for ref in package.iterfind(".//{*}itemref")} <= items.keys()
    return packed, package


def spine(package: ET.Element) -> list[str]:
    items = {item.get("id"): str(item.get("href")) for item in package.iterfind(".//{*}item")}
    return [items[ref.get("idref")] for ref in package.iterfind(".//{*}itemref")]


def test_an_epub_holds_every_page_in_order(book: documents.Edition, tmp_path: Path) -> None:
    packed, package = opened(epub.write(book, tmp_path / "book.epub", datetime(2026, 11, 27, tzinfo=UTC)))
    assert spine(package) == ["nav.xhtml", "index.xhtml", "part-a.xhtml"]
    assert "2026-11-27T00:00:00Z" in packed.read("book/book.opf").decode()
    page = packed.read("book/part-a.xhtml").decode()
    assert "<math" in page and "index.xhtml#index" in page
    contents = packed.read("book/nav.xhtml").decode()
    assert "part-a.xhtml#part-a--two" in contents and "Two &amp; two" in contents
    kinds = {item.get("href"): item.get("properties") for item in package.iterfind(".//{*}item")}
    assert kinds["part-a.xhtml"] == "mathml" and kinds["index.xhtml"] is None


@pytest.mark.browser
def test_a_pdf_is_tagged_and_has_an_entry_for_every_page(book: documents.Edition, tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    try:
        path = pdf.write(book, tmp_path / "book.pdf")
    except pdf.NoBrowser as missing:
        pytest.skip(str(missing))
    printed = pypdf.PdfReader(path)
    root = printed.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"] and "/StructTreeRoot" in root and root["/Lang"] == "en"
    titles = [" ".join(entry.title.split()) for entry in printed.outline if not isinstance(entry, list)]
    assert titles == [page.title for page in book.pages]
    assert "Nine." in "".join(page.extract_text() for page in printed.pages)


def test_without_a_browser_the_pdf_says_what_is_missing(
    book: documents.Edition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDLIB_CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(pdf.NoBrowser, match="needs"):
        pdf.write(book, tmp_path / "book.pdf")
    assert not (tmp_path / "book.pdf").exists()


def test_the_built_book_becomes_an_epub_without_a_dead_link(tmp_path: Path) -> None:
    site = pages.site(ROOT)
    if not (site / ".complete").is_file():
        pytest.skip("the book is not built: run `make book`")
    whole = documents.read(ROOT, site)
    assert documents.dead_links(whole) == []
    packed, package = opened(epub.write(whole, tmp_path / "book.epub", datetime(2026, 11, 27, tzinfo=UTC)))
    assert spine(package)[1:] == [documents.anchor(page.name) + ".xhtml" for page in whole.pages]
    assert sum("<math" in packed.read(f"book/{name}").decode() for name in spine(package)) >= 16  # as many as chapters
