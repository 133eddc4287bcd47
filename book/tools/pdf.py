"""The book as one tagged PDF with an outline, printed by Chromium from one document of all pages.

One document and not one a page: tags and outline are made by the browser, and files merged afterwards would lose them. What a
PDF has not: figures that move (each shows its first state, its sentence and its data), and links to pages' sources.
"""

import html
import os
import re
import shutil
import tempfile
from pathlib import Path

from bs4 import BeautifulSoup

import kdlib
from kdlib import _files

from . import documents, pages
from .documents import Edition
from .epub import AUTHOR, STYLE, TITLE
from .offline import FOLDER

PRINT = """@page { size: A4; margin: 20mm 18mm 22mm; }
html { font: 10.5pt/1.45 "DejaVu Sans", Verdana, sans-serif; }
article, nav { break-before: page; }
article:first-of-type { break-before: auto; }
h1, h2, h3, h4, summary { break-after: avoid; line-height: 1.25; }
h1 { font-size: 20pt; } h2 { font-size: 14pt; margin-top: 1.6em; } h3 { font-size: 12pt; }
a { color: #0b57a4; text-decoration: none; }
table { max-width: 100%; } td, th { overflow-wrap: anywhere; }
summary { list-style: none; font-weight: bold; }
"""
FOOTER = (
    '<div style="font: 8pt sans-serif; width: 100%; text-align: center; color: #5c5c5c">'
    '<span class="pageNumber"></span> / <span class="totalPages"></span></div>'
)


class NoBrowser(ValueError):
    """There is no Chromium to print with."""


def target(root: Path) -> Path:
    """Where the file is written."""
    return root / "_build" / f"{FOLDER}-{kdlib.__version__}.pdf"


def make(root: Path) -> Path:
    """Print the built book and return the file's path.

    Raises ValueError where the pages are not built from the sources as they are, NoBrowser where Playwright or Chromium is
    missing, OSError where the file cannot be written.
    """
    if not pages.is_current(root):
        raise ValueError("the pages are not built from these sources: run `make book` first")
    return write(documents.read(root, pages.site(root)), target(root))


def document(book: Edition) -> str:
    """All pages as one HTML document: table of contents first, then the pages in reading order."""
    _keep_blanks(book)
    first, *rest = book.pages
    entries = "".join(f'<li><a href="#{page.body["id"]}">{html.escape(page.title)}</a></li>' for page in rest)
    contents = f'<nav aria-label="Contents"><h2>Contents</h2><ol>{entries}</ol></nav>' if rest else ""
    bodies = "\n".join(str(page.body) for page in rest)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title>'
        f'<meta name="author" content="{AUTHOR}"><style>{STYLE}{PRINT}</style></head>'
        f"<body>{first.body}{contents}{bodies}</body></html>\n"
    )


def _keep_blanks(book: Edition) -> None:
    """Blanks of headings may end a line but stay: the browser's outline would lose those at which a heading breaks."""
    for page in book.pages:
        for heading in page.body.find_all(["h1", "h2", "h3"]):
            for text in [text for text in heading.find_all(string=re.compile(r"\s")) if not text.find_parent("math")]:
                kept = html.escape(re.sub(r"\s+", "\u00a0", str(text))).replace("\u00a0", "\u00a0<wbr>")
                text.replace_with(BeautifulSoup(kept, "html.parser"))


def write(book: Edition, path: Path) -> Path:
    """Print an edition to `path`. Raises NoBrowser without Playwright or Chromium (KDLIB_CHROMIUM names one), OSError."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser("printing needs the package playwright: install kdlib with its extra `test`") from None
    program = os.environ.get("KDLIB_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(program).exists():
        raise NoBrowser(f"printing needs Chromium, none at {program}; KDLIB_CHROMIUM may name another program")
    with tempfile.TemporaryDirectory(prefix="kdlib-pdf-") as folder, _files.replacing(path) as part:
        source = Path(folder) / "book.html"
        source.write_text(document(book), "utf8")
        (pictures := Path(folder) / "pictures").mkdir()
        for name, content in book.pictures.items():
            (pictures / name).write_bytes(content)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(color_scheme="light")
            page.set_default_timeout(600_000)
            page.route(
                "**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort()
            )
            page.goto(source.as_uri(), wait_until="load")
            page.pdf(
                path=part,
                tagged=True,
                outline=True,
                prefer_css_page_size=True,
                print_background=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
            )
            browser.close()
    return path
