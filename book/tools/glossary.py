"""Sphinx extension: the glossary and the pages know each other, and the search finds what stands in outputs.

The first time that a page uses a term of the glossary, outside headings, code and other links, it becomes a link to the entry; each
entry lists the pages that use it. Nothing has to be marked up in the pages.
"""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes

# a piece of text below one of these is not running text
SKIPPED: tuple[type[nodes.Node], ...] = (
    *(nodes.title, nodes.rubric, nodes.caption, nodes.term, nodes.comment, nodes.reference, addnodes.pending_xref),
    *(nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, addnodes.desc_signature),
)
TABLE = re.compile(r"<style.*?</style>|<script.*?</script>|<details>.*?</details>", re.DOTALL | re.IGNORECASE)
FEWEST_LETTERS = 2
FORMULAS = {"T squared": re.compile(r"T\^\{?2")}  # terms that pages write as a formula


def pattern(term: str) -> re.Pattern[str]:
    """Finds a term as a whole word, also in the plural, at the start of a sentence and over the end of a line."""
    words = r"\s+".join(map(re.escape, term.split()))
    first = f"[{words[0].upper()}{words[0].lower()}]{words[1:]}" if words[0].isalpha() else words
    return re.compile(rf"(?<![\w-]){first}s?(?![\w-])")


def join_lines(tree: nodes.Node) -> None:
    """Make one piece of neighbouring pieces of text: the parser makes one of every line."""
    for parent in list(dict.fromkeys(text.parent for text in tree.findall(nodes.Text))):
        joined: list[nodes.Node] = []
        for child in parent.children:
            if joined and isinstance(child, nodes.Text) and isinstance(joined[-1], nodes.Text):
                joined[-1] = nodes.Text(joined[-1].astext() + child.astext())
            else:
                joined.append(child)
        if len(joined) < len(parent.children):
            parent.children = []
            parent.extend(joined)


def texts(tree: nodes.Node) -> Iterator[nodes.Text]:
    """The running text of a page: pieces outside headings, code, formulas and links."""
    for text in tree.findall(nodes.Text):
        node = text.parent
        while node is not None and not isinstance(node, SKIPPED):
            node = node.parent
        if node is None:
            yield text


def first_uses(tree: nodes.Node, terms: list[str]) -> dict[str, tuple[nodes.Text, re.Match[str]]]:
    """Term -> the first piece of text that uses it, and where in it. Longer terms come first, and no two overlap."""
    found: dict[str, tuple[nodes.Text, re.Match[str]]] = {}
    join_lines(tree)
    pieces = list(texts(tree))
    for term in sorted(terms, key=len, reverse=True):
        wanted = pattern(term)
        for text in pieces:
            taken = [match.span() for other, match in found.values() if other is text]
            hits = (m for m in wanted.finditer(text.astext()) if all(m.end() <= a or m.start() >= b for a, b in taken))
            if match := next(hits, None):
                found[term] = (text, match)
                break
    return found


def _terms(env: Any) -> dict[str, tuple[str, str]]:
    """Term -> page and place of its entry."""
    objects = env.get_domain("std").objects
    return {name: place for (kind, name), place in objects.items() if kind == "term" and len(name) >= FEWEST_LETTERS}


def _collect(app: Any, env: Any) -> list[str]:
    """After all pages were read: which page uses which term."""
    terms = _terms(env)
    homes = {page for page, _ in terms.values()}
    env.kd_uses = {term: [] for term in terms}
    if not terms:
        return []
    order = [name for name in env.toctree_includes.get(env.config.root_doc, []) if name in env.all_docs]
    order += sorted(set(env.all_docs) - set(order))
    for name in order:
        if name not in homes:
            tree = env.get_doctree(name)
            used = set(first_uses(tree, list(terms)))
            formulas = " ".join(
                node.astext() for node in tree.findall() if isinstance(node, (nodes.math, nodes.math_block))
            )
            used |= {term for term, wanted in FORMULAS.items() if term in terms and wanted.search(formulas)}
            for term in used:
                env.kd_uses[term].append(name)
    return sorted(homes)


def _link(app: Any, tree: nodes.document, name: str) -> None:
    """Before a page is written: its first uses become links, the glossary's entries get theirs back."""
    terms = _terms(app.env)
    if name in {page for page, _ in terms.values()}:
        _back_links(app, tree, name)
        return
    by_text: dict[int, list[tuple[re.Match[str], str]]] = {}
    kept: dict[int, nodes.Text] = {}
    for term, (text, match) in first_uses(tree, list(terms)).items():
        by_text.setdefault(id(text), []).append((match, term))
        kept[id(text)] = text
    for key, hits in by_text.items():
        text, at, pieces = kept[key], 0, []
        whole = text.astext()
        for match, term in sorted(hits, key=lambda hit: hit[0].start()):
            page, place = terms[term]
            address = f"{app.builder.get_relative_uri(name, page)}#{place}"
            pieces += [nodes.Text(whole[at : match.start()])]
            pieces += [nodes.reference("", match[0], internal=True, refuri=address, classes=["kd-term"])]
            at = match.end()
        text.parent.replace(text, [*pieces, nodes.Text(whole[at:])])


def _back_links(app: Any, tree: nodes.document, name: str) -> None:
    for item in tree.findall(nodes.definition_list_item):
        names = [term.astext() for term in item.findall(nodes.term)]
        pages = dict.fromkeys(page for term in names for page in getattr(app.env, "kd_uses", {}).get(term, []))
        definition = next(iter(item.findall(nodes.definition)), None)
        if definition is None or not pages:
            continue
        line = nodes.paragraph("", "Used in: ", classes=["kd-uses"])
        for number, page in enumerate(pages):
            title = app.env.titles[page].astext()
            line += nodes.Text(", " if number else "")
            line += nodes.reference("", title, internal=True, refuri=app.builder.get_relative_uri(name, page))
        definition += line


def plain(html: str) -> str:
    """What a reader sees of an output: words apart, without the data behind a figure and all its other states."""
    return re.sub(r"<[^<]+?>", " ", TABLE.sub(" ", html))


def _index_outputs(app: Any) -> None:
    """Sphinx strips tags from outputs and so glues the words of neighbouring cells together; here they stay apart."""
    index = getattr(app.builder, "index_page", None)
    if index is None:
        return

    def index_page(name: str, tree: nodes.document, title: str) -> None:
        copy = tree.deepcopy()
        for raw in list(copy.findall(nodes.raw)):
            if "html" in raw.get("format", "").split():
                raw.parent.replace(raw, nodes.Text(plain(raw.astext())))  # replace_self refuses to lose its classes
        index(name, copy, title)

    app.builder.index_page = index_page


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _index_outputs)
    app.connect("env-updated", _collect)
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
