"""Pages in other languages: what they cover, and which way their text runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from docutils import nodes

from book.tools import contents, languages

ROOT = Path(__file__).parents[2]
LATIN = re.compile(r"\(([A-Za-z][^()]*)\)\s*$")


def header(name: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", contents.page_source(ROOT, name).read_text("utf8"), re.DOTALL)
    return (yaml.safe_load(found[1]) if found else {}) or {}


TRANSLATED = [name for name in contents.toc_entries(ROOT) if "lang" in header(name)]
FOLDERS = sorted({Path(name).parts[0] for name in TRANSLATED})


def text(folder: str, page: str) -> str:
    return (ROOT / "book" / folder / f"{page}.md").read_text("utf8")


def test_arabic_is_there_and_every_page_of_a_translation_names_its_language_and_day():
    assert "ar" in FOLDERS
    for folder in FOLDERS:
        for path in (ROOT / "book" / folder).rglob("*.md"):
            found = header(f"{folder}/{path.stem}")
            assert found["lang"] == folder and re.fullmatch(r"\d{4}-\d\d-\d\d", str(found["translated"])), path
            assert f"{folder}/{path.stem}" in TRANSLATED


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_chapter_has_an_abstract_of_two_to_four_sentences_in_reading_order(folder):
    sections = re.split(r"^### ", text(folder, "chapters"), flags=re.MULTILINE)[1:]
    rooms = ("start/", "foundations/", "levels/", "mechanisms/")
    chapters = [name.removesuffix(".md") for name in contents.toc_entries(ROOT) if name.startswith(rooms)]
    linked = [re.match(r"\[[^\]]+\]\(\.\./(\S+)\.md\)\n", section) for section in sections]
    assert [link and link[1] for link in linked] == chapters
    for name, section in zip(chapters, sections, strict=True):
        body = re.sub(r"\$[^$]*\$|\d\.\d", "", section.split("\n", 1)[1].split("\n## ")[0])
        assert 2 <= len(re.findall(r"[.؟!](?=\s|$)", body)) <= 6, name  # a question inside one counts as well
        assert len(body.split()) >= 30, name


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_term_has_its_english_name_once(folder):
    terms = re.findall(r"^(?![`:\s#-])(.+)\n  \S", text(folder, "glossary").split("```{glossary}")[1], re.MULTILINE)
    names = [LATIN.search(term) for term in terms]
    assert all(names), [term for term, name in zip(terms, names, strict=True) if not name]
    english = [name[1].lower() for name in names if name]
    assert len(english) >= 30 and len(english) == len(set(english))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("كسبٌ قدره +5.4 نقاط", ["+5.4"]),
        ("من 70% إلى 75.4%", ["70%", "75.4%"]),
        ("و3، −2.1", ["3", "−2.1"]),
        ("شبكة ResNet-20 على CIFAR-100 وH2", []),
        ("بلا أعداد", []),
    ],
)
def test_numbers_in_running_text_read_from_left_to_right_and_names_stay_whole(written, shown):
    paragraph = nodes.paragraph("", written)
    code = nodes.paragraph("", "", nodes.literal("", "x = 3"), nodes.math("", "T=4"))
    languages.isolate_numbers(nodes.section("", paragraph, code))
    raw = [node.astext() for node in paragraph.findall(nodes.raw)]
    assert raw == [f'<bdi dir="ltr">{number}</bdi>' for number in shown]
    assert re.sub(r"<.*?>", "", paragraph.astext()) == written
    assert not list(code.findall(nodes.raw))


@pytest.mark.parametrize(
    ("lang", "way"), [("ar", "rtl"), ("ar-EG", "rtl"), ("he", "rtl"), ("fa", "rtl"), ("de", "ltr"), ("pt-BR", "ltr")]
)
def test_a_page_is_marked_with_language_and_direction(lang, way):
    math, code = '<span class="math notranslate nohighlight">', '<div class="highlight-bash notranslate">'
    body = languages.wrapped(f"<p>{math}x</span></p>{code}x</div>", languages.language({"lang": lang}, "page"))
    assert body.startswith(f'<div class="kd-language" lang="{lang}" dir="{way}">')
    assert len(re.findall(r"<(?:span|div) dir=\"ltr\"", body)) == (2 if way == "rtl" else 0)


def test_pages_without_a_language_stay_as_they_are_and_an_impossible_one_is_refused_by_name():
    assert languages.language({}, "page") is None
    with pytest.raises(ValueError, match="ar/index: `lang` must be a language tag such as ar or pt-BR, got 'Arabic'"):
        languages.language({"lang": "Arabic"}, "ar/index")
