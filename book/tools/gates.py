"""What may not be in an executed notebook or a built page: each gate returns a list of plain sentences.

The gates exist because the tools before them let these faults pass: an error inside a live control ends up in the
saved widget state and everything stays green; a figure without a description, a script from somebody's server or a
claim that no longer holds are no errors to a notebook runner or to Sphinx.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, NavigableString, Tag
from nbformat import NotebookNode

from .contents import read_yaml

CLAIMS_MIME = "application/vnd.kdlib.claims+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
RECORDED = ("sentence", "source", "rows", "verdict")  # of a claim; what was measured varies with the machine
WORDS, VERDICTS = 2_900, 30  # of a page, at most
CELL_LINES, CELL_WIDTH = 15, 88  # of code that a page shows, at most
FOLDED = {"hide-input", "hide-cell"}  # a reader opens them
UNSEEN = {"remove-input", "remove-cell", "injected-parameters"}
PAGE_BYTES = 1_500_000
DIGITS = re.compile(r"<td>(-?[1-9]\d*\.\d{6,})</td>")
TRACEBACK = "Traceback (most recent call last)"


def _text(value: Any) -> str:
    """Notebook text is stored as one string or as a list of lines."""
    return "".join(value) if isinstance(value, list) else str(value)


def _outputs(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode, NotebookNode]]:
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            yield number, cell, output


def _stream_or_error(output: Mapping[str, Any]) -> str:
    """What is wrong with one output as such, or an empty string."""
    if output["output_type"] == "error":
        return f"raised {output['ename']}: {output['evalue']}"
    if output["output_type"] == "stream":
        text = _text(output["text"]).strip()
        if output["name"] == "stderr" and text:
            return f"wrote to stderr: {text.splitlines()[-1][:200]}"
        if TRACEBACK in text:
            return "printed a traceback"
    return ""


# ---------------------------------------------------------------- executed notebooks


def cell_errors(name: str, notebook: NotebookNode) -> list[str]:
    """Errors, stderr and printed tracebacks in the outputs of cells."""
    found = ((number, _stream_or_error(output)) for number, _, output in _outputs(notebook))
    return [f"{name}: cell {number} {fault}" for number, fault in found if fault]


def widget_errors(name: str, notebook: NotebookNode) -> list[str]:
    """Errors and stderr that a callback left inside the saved state of an Output widget."""
    models = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    faults = []
    for model in models.values():
        if model.get("model_name") == "OutputModel":
            faults += [_stream_or_error(output) for output in model["state"].get("outputs", [])]
    return [f"{name}: a live control {fault}" for fault in faults if fault]


def blank_outputs(name: str, notebook: NotebookNode) -> list[str]:
    """Widgets with no HTML beside them: alive in a notebook, an empty place in a page."""
    return [
        f"{name}: cell {number} shows a widget without text/html, so its place in the page stays empty"
        for number, _, output in _outputs(notebook)
        if WIDGET_VIEW in output.get("data", {}) and "text/html" not in output["data"]
    ]


def _described(node: Tag) -> bool:
    """Has this img or svg a text alternative, its own or that of a picture it is a part of?"""
    if node.name == "img" and str(node.get("alt") or "").strip():
        return True
    if node.name == "svg" and node.find("title"):
        return True
    for part in (node, *node.parents):
        if part.get("aria-hidden") == "true" or part.get("role") in ("presentation", "none"):
            return True
        if part.get("role") == "img" and (part.get("aria-label") or part.get("aria-labelledby")):
            return True
    return bool(node.get("aria-label") or node.get("aria-labelledby"))


def undescribed_figures(name: str, notebook: NotebookNode) -> list[str]:
    """Pictures without alt text.

    HTML carries its own: ``<img alt="...">``, or an SVG with a title or ``role="img"`` and a label. A bare picture
    (a matplotlib figure at the end of a cell) gets it from the cell's metadata ``mystnb: {image: {alt: ...}}``.
    """
    faults = []
    for number, cell, output in _outputs(notebook):
        data = output.get("data", {})
        if "text/html" in data:
            page = BeautifulSoup(_text(data["text/html"]), "html.parser")
            if missing := [node for node in page.find_all(["img", "svg"]) if not _described(node)]:
                faults.append(f"{name}: cell {number} has {len(missing)} picture(s) in HTML without alt text")
        elif any(mime.startswith("image/") for mime in data):
            image = cell.metadata.get("mystnb", {}).get("image", {})
            if not str(image.get("alt") or "").strip():
                faults.append(f"{name}: cell {number} has a figure without alt text (mystnb: image: alt)")
    return faults


def untidy_numbers(name: str, notebook: NotebookNode) -> list[str]:
    """Numbers of a table with the digits that rounding leaves in float32: 98.599998 for 98.6."""
    found = (
        (number, DIGITS.findall(_text(o.get("data", {}).get("text/html", "")))) for number, _, o in _outputs(notebook)
    )
    return [
        f"{name}: cell {number} shows {digits[0]} in a table: round it as float64" for number, digits in found if digits
    ]


def notebook_faults(name: str, notebook: NotebookNode) -> list[str]:
    """All of the above: what is wrong in any profile."""
    gates = (cell_errors, widget_errors, blank_outputs, undescribed_figures, untidy_numbers)
    return [fault for gate in gates for fault in gate(name, notebook)]


# ---------------------------------------------------------------- the shape of a page

FENCED = re.compile(
    r"^(`{3,}|~{3,})(?!\{)[^\n]*\n.*?^\1", re.MULTILINE | re.DOTALL
)  # code in the text; directives are text
WORD = re.compile(r"\S*\w\S*")
QUIZ = re.compile(r"^:::\{quiz\}.*?^:::$", re.MULTILINE | re.DOTALL)  # read in pieces, one reason at a time


def words_in(notebook: NotebookNode) -> int:
    """How many words a page has outside its code and its quizzes."""
    texts = (QUIZ.sub("", FENCED.sub("", cell.source)) for cell in notebook.cells if cell.cell_type == "markdown")
    return sum(len(WORD.findall(text)) for text in texts)


def shape_faults(name: str, notebook: NotebookNode) -> list[str]:
    """A page too long to read, with too many verdicts, or with code that does not fit it or is folded without a word.

    Works on a source or on an executed notebook; verdicts are counted in the latter.
    """
    faults = []
    if (words := words_in(notebook)) > WORDS:
        faults.append(f"has {words} words, at most {WORDS} are a page")
    if (verdicts := sum(len(o.get("data", {}).get(CLAIMS_MIME, [])) for *_, o in _outputs(notebook))) > VERDICTS:
        faults.append(f"gives {verdicts} verdicts, at most {VERDICTS} are a page")
    for number, cell in enumerate(notebook.cells):
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type != "code" or tags & UNSEEN:
            continue
        if tags & FOLDED:
            if not str(cell.metadata.get("mystnb", {}).get("code_prompt_show") or "").strip():
                faults.append(f"folds cell {number} without saying what it holds (mystnb: code_prompt_show)")
            continue
        lines = cell.source.rstrip().splitlines()
        if len(lines) > CELL_LINES:
            faults.append(f"shows cell {number} with {len(lines)} lines of code, at most {CELL_LINES} are read")
        if (width := max(map(len, lines), default=0)) > CELL_WIDTH:
            faults.append(f"shows cell {number} with a line of {width} characters, at most {CELL_WIDTH} do not wrap")
    return [f"{name}: {fault}" for fault in faults]


# ---------------------------------------------------------------- exercises

DEPTHS = ("Predict", "Change one thing", "Write it")  # further ones are welcome
DIRECTIVE = re.compile(r"^(`{3,})\{(exercise|solution)\}[ \t]*(.*)\n((?::.*\n)*)(?:.*\n)*?\1`*[ \t]*$", re.MULTILINE)
PASSED = "Right"  # how a check begins that found no mistake


def exercise_faults(name: str, notebook: NotebookNode) -> list[str]:
    """Exercises without one of the three depths, without a folded solution or, where something is written, without a check.

    A check is the code between such an exercise and what follows it. On the page it names the mistake of the attempt that
    stands there, which only an executed notebook shows.
    """
    titles: dict[str, str] = {}  # of the exercises, by label
    folded: set[str] = set()
    checks: dict[str, list[NotebookNode]] = {}
    here = ""  # the exercise whose check may follow
    for cell in notebook.cells:
        if cell.cell_type == "code" and here:
            checks[here].append(cell)
        if cell.cell_type != "markdown":
            continue
        if re.search("^## ", cell.source, re.MULTILINE):
            here = ""
        for _, kind, title, options in DIRECTIVE.findall(cell.source + "\n"):
            named = re.search(r"^:label: *(\S+)", options, re.MULTILINE)
            here = named[1] if kind == "exercise" and named else ""
            if kind == "exercise":
                titles[here or title], checks[here] = title.strip(), []
            elif re.search(r"^:class:.*\bdropdown\b", options, re.MULTILINE):
                folded.add(title.strip())
    faults = [f"has exercises, but none at the depth {d!r}" for d in DEPTHS if titles and d not in titles.values()]
    faults += [f"has no folded solution of the exercise {label}" for label in titles if label not in folded]
    for label, title in titles.items():
        if title != "Write it":
            continue
        outputs = [output for cell in checks.get(label, []) for output in cell.get("outputs", [])]
        said = [_text(o.get("text") or o.get("data", {}).get("text/plain", "")).strip("'\"\n ") for o in outputs]
        if not checks.get(label):
            faults.append(f"has no check of the exercise {label}")
        elif checks[label][-1].get("execution_count") and not (said and said[-1] and not said[-1].startswith(PASSED)):
            faults.append(f"checks the exercise {label} without naming the mistake of the attempt on the page")
    return [f"{name}: {fault}" for fault in faults]


# ---------------------------------------------------------------- claims


def claims_in(executed: Mapping[str, NotebookNode]) -> dict[str, dict[str, Any]]:
    """Claim id -> its sentence, source, the rows that it tests and verdict, over the whole book. ValueError where an id is used twice."""
    claims: dict[str, dict[str, Any]] = {}
    for name, notebook in executed.items():
        for number, _, output in _outputs(notebook):
            for claim in output.get("data", {}).get(CLAIMS_MIME, []):
                if claim["id"] in claims:
                    raise ValueError(f"{name}: cell {number} uses the claim id {claim['id']!r} a second time")
                claims[claim["id"]] = {"rows": []} | {part: claim[part] for part in RECORDED if part in claim}
    return claims


def recorded_claims(path: Path) -> dict[str, dict[str, Any]]:
    """The claims on record, ``book/claims.yml``; none where the file does not exist. ValueError for another format.

    Rows of a dossier stand there only where a claim tests any; here every claim has them, if need be an empty list.
    """
    claims = (read_yaml(path) or {}) if path.is_file() else {}
    if not isinstance(claims, dict):
        raise ValueError(f"{path} must be a mapping of claims, got {claims!r:.200}")
    for i, claim in claims.items():
        if not isinstance(i, str) or not isinstance(claim, dict) or {"rows", *claim} != set(RECORDED):
            raise ValueError(f"{path}: claim {i!r} must have {', '.join(RECORDED)} and nothing else, got {claim!r}")
        rows = claim.setdefault("rows", [])
        if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
            raise ValueError(f"{path}: claim {i!r} must have a list of names as rows, got {rows!r}")
    return claims


def is_elsewhere(i: str, found: Iterable[str], data: Iterable[str]) -> bool:
    """May this claim be absent, because it is about data that was not there when the chapters ran?

    Such a claim carries the data's name after an @ in its id (``smoothing-gain@fashion-mnist``). The data was there if
    it is among `data`, or if the run made another claim about it.
    """
    name = i.partition("@")[2]
    return bool(name) and name not in {*data, *(other.partition("@")[2] for other in found)}


def claim_differences(
    found: Mapping[str, Mapping[str, Any]], recorded: Mapping[str, Mapping[str, Any]], data: Iterable[str] = ()
) -> list[str]:
    """Claims that vanished, appeared or changed their verdict, sentence, source or rows since they were recorded.

    `data` names the data sets that were there. A claim about another (see `is_elsewhere`) may be absent, but if present
    it must be as recorded.
    """
    differences = []
    for i in sorted(found.keys() | recorded.keys()):
        if i not in found and not is_elsewhere(i, found, data):
            differences.append(f"claim {i}: recorded as {recorded[i]['verdict']!r}, now missing")
        elif i in found and i not in recorded:
            differences.append(f"claim {i}: {found[i]['verdict']!r}, but not on record")
        elif i in found:
            old, new = recorded[i], found[i]
            changed = [part for part in RECORDED if old[part] != new[part]]
            differences += [f"claim {i}: {part} recorded as {old[part]!r}, now {new[part]!r}" for part in changed]
    return differences


# ---------------------------------------------------------------- built pages

FETCHED = {  # element -> attributes whose address a browser fetches by itself
    "script": ["src"],
    "img": ["src", "srcset"],
    "source": ["src", "srcset"],
    "iframe": ["src"],
    "embed": ["src"],
    "object": ["data"],
    "audio": ["src"],
    "video": ["src", "poster"],
    "track": ["src"],
    "input": ["src"],
    "image": ["href", "xlink:href"],
    "use": ["href", "xlink:href"],
    "link": ["href"],
}
LINK_TYPES = {"stylesheet", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "icon", "manifest"}
CSS_ADDRESS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")
UNREAD = re.compile(r"\$|\{[a-z:]+\}|^\s*:::|\[\^")


def _addresses(page: BeautifulSoup) -> Iterator[str]:
    """Everything a browser would fetch while opening the page."""
    for node in page.find_all(list(FETCHED)):
        if node.name == "link" and not LINK_TYPES & {str(kind).lower() for kind in node.get_attribute_list("rel")}:
            continue
        for attribute in FETCHED[node.name]:
            value = str(node.get(attribute) or "").strip()
            if value and attribute == "srcset" and not value.startswith("data:"):
                yield from (candidate.split()[0] for candidate in value.split(","))
            elif value:
                yield value
    for node in page.find_all("meta", attrs={"http-equiv": re.compile("^refresh$", re.IGNORECASE)}):
        yield str(node.get("content") or "").partition("=")[2].strip(" '\"")
    for style in (*(node["style"] for node in page.find_all(style=True)), *(s.get_text() for s in page("style"))):
        yield from (a or b for a, b in CSS_ADDRESS.findall(str(style)))


def _bad_address(address: str, folder: Path, site: Path) -> str:
    """Why a file in this folder of the site, read from disk, cannot use this address, or an empty string."""
    try:
        parts = urlsplit(address.replace("\\", "/"))  # browsers read them as slashes
    except ValueError:
        return f"needs {address}, which is no address"
    if parts.scheme in ("data", "blob", "about") or not (parts.netloc or parts.scheme or parts.path):
        return ""
    if parts.netloc or parts.scheme:
        return f"fetches {address} from outside"
    target = (folder / unquote(parts.path).replace("\\", "/")).resolve()
    if parts.path.startswith("/") or not target.is_relative_to(site.resolve()) or not target.exists():
        return f"needs {address}, which is not in the built book"
    return ""


def _unread_markup(page: BeautifulSoup) -> Iterator[str]:
    """Pieces of text outside code and formulas that look like a formula, role, directive or footnote not read."""
    if page.select_one("body > main > .reveal"):
        return  # in slides the browser finds the formulas by their dollars
    for piece in page.find_all(string=UNREAD):
        # a bare string only: comments and scripts are classes of their own
        if (
            type(piece) is NavigableString
            and not piece.find_parent(["pre", "code"])
            and not piece.find_parent(class_="math")
        ):
            yield repr(" ".join(piece.split())[:60])


def page_faults(page: Path, site: Path) -> list[str]:
    """What is wrong with one built page: tracebacks, pictures without alt text, outside resources, its weight."""
    name, html = page.relative_to(site).as_posix(), page.read_text("utf8")
    tree = BeautifulSoup(html, "html.parser")
    faults = []
    if TRACEBACK in tree.get_text() or tree.select(".output.traceback, .system-message"):
        faults.append("shows a traceback or an error message")
    if unread := sorted(set(_unread_markup(tree))):
        faults.append(f"shows markup instead of what it means: {', '.join(unread)}")
    if missing := [str(node)[:80] for node in tree.find_all(["img", "svg"]) if not _described(node)]:
        faults.append(f"has pictures without alt text: {', '.join(missing)}")
    if any(not figure.find(["img", "svg", "canvas", "table", "pre"]) for figure in tree.find_all("figure")):
        faults.append("has an empty figure")
    if tree.find("base", href=True):
        faults.append("has a base element, which moves every address on it")
    faults += sorted({fault for address in _addresses(tree) if (fault := _bad_address(address, page.parent, site))})
    if len(html.encode()) > PAGE_BYTES:
        faults.append(f"weighs {len(html.encode()) / 1e6:.2f} MB, the cap is {PAGE_BYTES / 1e6:.1f} MB")
    return [f"{name}: {fault}" for fault in faults]


def stylesheet_faults(sheet: Path, site: Path) -> list[str]:
    """Fonts, pictures and sheets that a stylesheet of the book would fetch from outside, or that are not in the book."""
    addresses = {a or b for a, b in CSS_ADDRESS.findall(sheet.read_text("utf8", errors="replace"))}
    faults = {fault for address in addresses if (fault := _bad_address(address.strip(), sheet.parent, site))}
    return [f"{sheet.relative_to(site).as_posix()}: {fault}" for fault in sorted(faults)]


def site_faults(site: Path) -> list[str]:
    """Every gate on every built page and stylesheet below ``site``."""
    # the theme leaves templates in _static; they are not pages
    pages = [page for page in sorted(site.rglob("*.html")) if page.relative_to(site).parts[0] != "_static"]
    faults = [fault for page in pages for fault in page_faults(page, site)]
    return faults + [fault for sheet in sorted(site.rglob("*.css")) for fault in stylesheet_faults(sheet, site)]
