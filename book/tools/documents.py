"""The book as plain documents, made from the built pages: what `epub` and `pdf` have in common.

A reader of either has no scripts. So formulas become MathML, a figure that moves shows its first state with the sentence and the data,
what was folded is open, and buttons, links to headings and the parts that only a screen needs are left out. Links between pages
stay links, by names that are unique in the whole book.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, NavigableString, Tag
from latex2mathml.converter import convert

from . import contents

# what is of no use without a screen, a pointer or a script
DROPPED = "script, style, template, .headerlink, .kdx-controls, .copybtn, .toggle-button, button, input, .kd-screen, link, form"
FRAMES = re.compile(
    r'<script type="application/json".*?</script>', re.DOTALL
)  # all states of a figure: most of a page's weight
VARIANTS = {  # letters of their own in Unicode; renderers of MathML Core know no other way to them
    "double-struck": (0x1D538, 0x1D552, {"C": "ℂ", "H": "ℍ", "N": "ℕ", "P": "ℙ", "Q": "ℚ", "R": "ℝ", "Z": "ℤ"}),
    "script": (
        0x1D49C,
        0x1D4B6,
        {"B": "ℬ", "E": "ℰ", "F": "ℱ", "H": "ℋ", "I": "ℐ", "L": "ℒ", "M": "ℳ", "R": "ℛ", "e": "ℯ", "g": "ℊ", "o": "ℴ"},
    ),
    "bold": (0x1D400, 0x1D41A, {}),
}
SUFFIXES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg", "image/gif": "gif"}


@dataclass
class Page:
    """One page: its name in the table of contents, its title as text, and its article as a tree."""

    name: str
    title: str
    body: Tag


@dataclass
class Edition:
    """All pages in reading order, and the pictures that they show: file name -> content."""

    pages: list[Page] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)


def read(root: Path, site: Path) -> Edition:
    """The edition of the pages built in `site`. ValueError where a page of the table of contents is not there."""
    names = [name.removesuffix(".md") for name in contents.toc_entries(root)]
    edition = Edition()
    for name in names:
        path = site / f"{name}.html"
        if not path.is_file():
            raise ValueError(f"{path} is missing: run `make book` first")
        tree = BeautifulSoup(FRAMES.sub("", path.read_text("utf8")), "html.parser")
        body = tree.find("article")
        if not isinstance(body, Tag):
            raise ValueError(f"{path} has no article: is it a page of the book?")
        _clean(body)
        _formulas(body)
        _names(body, name, names)
        edition.pictures |= _pictures(body, path.parent, site)
        heading = body.find("h1")
        edition.pages.append(Page(name, " ".join(heading.get_text().split()) if heading else name, body))
    return edition


def anchor(name: str, part: str = "") -> str:
    """The name in the whole book of a page or of a part of it."""
    return re.sub(r"[^\w.-]", "-", name) + (f"--{part}" if part else "")


def _clean(body: Tag) -> None:
    for node in body.select(DROPPED):
        node.decompose()
    for folded in body.find_all("details"):
        folded["open"] = ""
    for node in body.select("[hidden]"):
        del node["hidden"]
    for node in body.find_all(True):
        for name in ("onclick", "tabindex", "aria-live", "autocomplete", "align", "border", "valign"):
            if name in node.attrs:
                del node[name]


def _formulas(body: Tag) -> None:
    """Formulas as MathML in place of their TeX, which stays as a text alternative."""
    for node in body.select("span.math, div.math"):
        tex = node.get_text().strip()
        block = node.name == "div"
        tex = re.sub(r"^\\[\[(]|\\[\])]$", "", tex).strip()
        number = node.select_one(".eqno")
        if number is not None:
            tex = tex.replace(number.get_text(), "").strip()
        node.replace_with(BeautifulSoup(mathml(tex, block), "html.parser"))


def mathml(tex: str, block: bool = False) -> str:
    """TeX as MathML with letters of other alphabets as such; the TeX itself as `alttext`."""
    tree = BeautifulSoup(convert(tex, display="block" if block else "inline"), "html.parser")
    for node in tree.select("[mathvariant]"):
        variant, text = str(node["mathvariant"]), node.get_text()
        if variant in VARIANTS:
            node.string = "".join(_letter(variant, letter) for letter in text)
            del node["mathvariant"]
    whole = tree.find("math")
    assert isinstance(whole, Tag)
    whole["alttext"] = tex
    return str(tree)


def _letter(variant: str, letter: str) -> str:
    upper, lower, own = VARIANTS[variant]
    if letter in own:
        return own[letter]
    if "A" <= letter <= "Z":
        return chr(upper + ord(letter) - ord("A"))
    if "a" <= letter <= "z":
        return chr(lower + ord(letter) - ord("a"))
    return (
        chr(0x1D7CE + ord(letter) - ord("0")) if variant == "bold" and letter.isascii() and letter.isdigit() else letter
    )


def _names(body: Tag, name: str, names: list[str]) -> None:
    """Ids that are unique in the book, and links between pages that lead to them."""
    for node in body.find_all(id=True):
        node["id"] = anchor(name, str(node["id"]))
    body["id"] = anchor(name)
    for node in body.select("td[headers], th[headers]"):
        del node["headers"]
    for attribute in ("aria-labelledby", "aria-describedby", "for"):
        for node in body.select(f"[{attribute}]"):
            node[attribute] = anchor(name, str(node[attribute]))
    folder = name.rpartition("/")[0]
    for link in body.find_all("a", href=True):
        address = urlsplit(str(link["href"]))
        if address.scheme or address.netloc:
            continue
        target = name if not address.path else _joined(folder, unquote(address.path)).removesuffix(".html")
        if target in names:
            place = unquote(address.fragment)
            if place.startswith("kdx-"):  # a figure in a state: here it has one alone
                place = place.partition(".")[0]
            link["href"] = "#" + anchor(target, place)
        else:  # to the sources or to an index: the words stay
            link.unwrap()


def _joined(folder: str, path: str) -> str:
    parts = folder.split("/") if folder else []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _pictures(body: Tag, folder: Path, site: Path) -> dict[str, bytes]:
    """The pictures of a page, each named by its content; the page then shows them from `pictures/`."""
    found = {}
    for image in body.find_all("img", src=True):
        source = str(image["src"])
        if source.startswith("data:"):
            head, _, data = source.partition(",")
            kind = head.removeprefix("data:").split(";")[0]
            content = base64.b64decode(data) if head.endswith(";base64") else unquote(data).encode()
        else:
            path = (folder / unquote(urlsplit(source).path)).resolve()
            if not path.is_relative_to(site.resolve()) or not path.is_file():
                raise ValueError(f"{folder} shows {source}, which is not in the built book")
            content = path.read_bytes()
            kind = {suffix: kind for kind, suffix in SUFFIXES.items()}.get(path.suffix[1:].replace("jpeg", "jpg"), "")
        if kind not in SUFFIXES:
            raise ValueError(f"a picture must be one of {', '.join(SUFFIXES)}, got {kind!r} in {source:.60}")
        file = f"{hashlib.sha256(content).hexdigest()[:16]}.{SUFFIXES[kind]}"
        found[file] = content
        image["src"] = f"pictures/{file}"
    return found


def link_targets(pages: list[Page]) -> Iterator[tuple[Page, Tag, str]]:
    """Every link inside the book: page, link, the id that it leads to."""
    for page in pages:
        for link in page.body.find_all("a", href=re.compile("^#")):
            yield page, link, str(link["href"])[1:]


def dead_links(edition: Edition) -> list[str]:
    """Links of the edition that lead nowhere, as page and id."""
    known = {str(page.body["id"]) for page in edition.pages}
    known |= {str(node["id"]) for page in edition.pages for node in page.body.find_all(id=True)}
    return [f"{page.name}: {target}" for page, _, target in link_targets(edition.pages) if target not in known]


def text_of(node: Tag | NavigableString) -> str:
    """The words of a node, one blank between them."""
    return " ".join(node.get_text().split())
