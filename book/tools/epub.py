"""The book as an EPUB 3: one file for readers of electronic books, with formulas as MathML and every picture inside."""

import html
import re
import uuid
import xml.etree.ElementTree as ET
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import kdlib
from kdlib import _files

from . import documents, look, pages
from .documents import Edition, Page
from .offline import EPOCH, FOLDER

TITLE, AUTHOR, RIGHTS = "Knowledge distillation by experiment", "The kdlib authors", "Text CC BY 4.0, code MIT"
TYPES = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg", "gif": "image/gif"}
CONTAINER = (
    '<?xml version="1.0" encoding="utf-8"?>\n<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="book/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>\n'
)
ACCESS = {  # what a reader of any kind can expect, in schema.org's words
    "accessMode": ["textual", "visual"],
    "accessModeSufficient": ["textual"],
    "accessibilityFeature": ["alternativeText", "MathML", "structuralNavigation", "tableOfContents", "unlocked"],
    "accessibilityHazard": ["none"],
    "accessibilitySummary": ["Every figure has a sentence that says what it shows; formulas are MathML."],
}
STYLE = """body { line-height: 1.5; }
img { max-width: 100%; height: auto; color-scheme: light; }
figure { margin: 1em 0; break-inside: avoid; }
figcaption, .kdx-sentence, .kd-provenance { font-size: 0.9em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85em; border-left: 2px solid #8c8c8c; padding-left: 0.6em; }
table { border-collapse: collapse; font-size: 0.85em; }
td, th { border-bottom: 1px solid #8c8c8c; padding: 0.15em 0.5em; text-align: start; vertical-align: top; }
.admonition { border-left: 3px solid #1f78d1; padding-left: 0.8em; margin: 1em 0; }
.admonition-title { font-weight: bold; }
.kd-claims .kd-verdict { white-space: nowrap; }
math[display="block"] { display: block; margin: 0.8em 0; text-align: center; }
"""


def target(root: Path) -> Path:
    """Where the file is written."""
    return root / "_build" / f"{FOLDER}-{kdlib.__version__}.epub"


def make(root: Path) -> Path:
    """Write the built book as an EPUB and return its path.

    Raises ValueError where the pages are not built from the sources as they are, or one cannot be read as XML; OSError where
    the file cannot be written.
    """
    if not pages.is_current(root):
        raise ValueError("the pages are not built from these sources: run `make book` first")
    site = pages.site(root)
    made = datetime.fromtimestamp((site / "index.html").stat().st_mtime, UTC)
    return write(documents.read(root, site), target(root), made)


def write(book: Edition, path: Path, made: datetime) -> Path:
    """Write an edition, made at that time, to `path`. ValueError for a page that is no XML, OSError if it cannot be written."""
    _qualify(book.pages)
    files = {"META-INF/container.xml": CONTAINER.encode(), "book/style.css": STYLE.encode()}
    files |= {f"book/{_file(page)}": _xhtml(page.title, str(page.body)).encode() for page in book.pages}
    files["book/nav.xhtml"] = _xhtml("Contents", _contents(book.pages)).encode()
    files |= {f"book/pictures/{name}": content for name, content in book.pictures.items()}
    files["book/cover.png"] = (look.STATIC / "card.png").read_bytes()
    files["book/book.opf"] = _package(book, made).encode()
    for name, content in files.items():
        if name.endswith((".xhtml", ".opf", ".xml")):
            try:
                ET.fromstring(content)
            except ET.ParseError as problem:
                raise ValueError(f"{name} of the EPUB is not well-formed: {problem}") from None
    with _files.replacing(path) as part, zipfile.ZipFile(part, "w") as packed:
        # first and as it is: this is how a reader knows the file
        packed.writestr(zipfile.ZipInfo("mimetype", EPOCH), b"application/epub+zip", zipfile.ZIP_STORED)
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED, 9)
    return path


def _file(page: Page) -> str:
    return documents.anchor(page.name) + ".xhtml"


def _qualify(book: list[Page]) -> None:
    """Links to other pages get the file's name."""
    owner = {str(node["id"]): page for page in book for node in [page.body, *page.body.find_all(id=True)]}
    for page, link, wanted in documents.link_targets(book):
        other = owner.get(wanted)
        if other is None:
            link.unwrap()  # no such place: the words stay
        elif other is not page:
            link["href"] = f"{_file(other)}#{wanted}"


def _xhtml(title: str, body: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">'
        f'<head><title>{html.escape(title)}</title><link rel="stylesheet" href="style.css"/></head><body>{body}</body></html>\n'
    )


def _contents(book: list[Page]) -> str:
    """The table of contents: pages, and below each its sections."""
    entries = []
    for page in book:
        sections = [(s, s.find("h2", recursive=False)) for s in page.body.find_all("section", id=True)]
        below = "".join(
            f'<li><a href="{_file(page)}#{html.escape(str(section["id"]))}">{html.escape(documents.text_of(heading))}</a></li>'
            for section, heading in sections
            if heading
        )
        nested = f"<ol>{below}</ol>" if below else ""
        entries.append(f'<li><a href="{_file(page)}">{html.escape(page.title)}</a>{nested}</li>')
    return f'<nav epub:type="toc" id="toc"><h1>Contents</h1><ol>{"".join(entries)}</ol></nav>'


def _package(book: Edition, made: datetime) -> str:
    """The package document: metadata, manifest and spine."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{FOLDER} {kdlib.__version__}")
    facts = "".join(
        f'<meta property="schema:{key}">{html.escape(v)}</meta>' for key, values in ACCESS.items() for v in values
    )
    items = ['<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>']
    items += ['<item id="style" href="style.css" media-type="text/css"/>']
    items += ['<item id="cover" href="cover.png" media-type="image/png" properties="cover-image"/>']
    for i, page in enumerate(book.pages):
        kind = ' properties="mathml"' if page.body.find("math") else ""
        items.append(f'<item id="page{i}" href="{_file(page)}" media-type="application/xhtml+xml"{kind}/>')
    items += [
        f'<item id="p{re.sub("[^0-9a-z]", "-", file)}" href="pictures/{file}" media-type="{TYPES[file.rpartition(".")[2]]}"/>'
        for file in book.pictures
    ]
    spine = "".join(f'<itemref idref="page{i}"/>' for i in range(len(book.pages)))
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:identifier id="id">urn:uuid:{name}</dc:identifier><dc:title>{TITLE}</dc:title><dc:language>en</dc:language>'
        f"<dc:creator>{AUTHOR}</dc:creator><dc:rights>{RIGHTS}</dc:rights>"
        f'<meta property="dcterms:modified">{made:%Y-%m-%dT%H:%M:%SZ}</meta>{facts}</metadata>'
        f'<manifest>{"".join(items)}</manifest><spine><itemref idref="nav"/>{spine}</spine></package>\n'
    )
