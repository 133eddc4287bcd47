"""Each gate is shown the fault it is there for, and the same thing without the fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book.tools import gates
from kdlib import claims as claims_of

ERROR = {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": []}


def notebook(*outputs: Any, metadata: dict[str, Any] | None = None, cell: dict[str, Any] | None = None) -> Any:
    node = new_notebook(cells=[new_code_cell("x", outputs=list(outputs), metadata=cell or {})])
    node.metadata.update(metadata or {})
    return node


def shown(**data: Any) -> Any:
    """A display output; keyword text_html stands for text/html."""
    return new_output("display_data", data={key.replace("_", "/", 1): value for key, value in data.items()})


def claim(
    verdict: str, sentence: str = "It rises.", source: str = "ours", rows: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {"sentence": sentence, "source": source, "rows": list(rows), "verdict": verdict}


def claims(*pairs: tuple[str, str]) -> Any:
    listed = [{"id": i, **claim(verdict), "effect": 0.5} for i, verdict in pairs]
    return new_output("display_data", data={gates.CLAIMS_MIME: listed, "text/html": "<table></table>"})


def faults(node: Any) -> list[str]:
    return gates.notebook_faults("levels/x", node)


def test_quiet_output_passes():
    assert faults(notebook(new_output("stream", name="stdout", text="accuracy 0.9"))) == []


@pytest.mark.parametrize("number", ["98.599998", "-217.606495", "1.500000"])
def test_digits_of_float32_in_a_table(number):
    said = faults(notebook(shown(text_html=f"<td>{number}</td>")))
    assert said == [f"levels/x: cell 0 shows {number} in a table: round it as float64"]


@pytest.mark.parametrize("number", ["98.6", "0.000001", "12", "2.5e-07", "98.59999"])
def test_other_numbers_pass(number):
    assert faults(notebook(shown(text_html=f"<td>{number}</td>"))) == []


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (new_output(**ERROR), "raised ZeroDivisionError: division by zero"),
        (new_output("stream", name="stderr", text="a\nUserWarning: old"), "wrote to stderr: UserWarning: old"),
        (new_output("stream", name="stdout", text=f"{gates.TRACEBACK}:\n ..."), "printed a traceback"),
    ],
)
def test_errors_in_cells(output, expected):
    assert faults(notebook(output)) == [f"levels/x: cell 0 {expected}"]


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ([], []),
        ([{"output_type": "stream", "name": "stdout", "text": "fine"}], []),
        ([ERROR], ["levels/x: a live control raised ZeroDivisionError: division by zero"]),
        (
            [{"output_type": "stream", "name": "stderr", "text": ["one\n", "two"]}],
            ["levels/x: a live control wrote to stderr: two"],
        ),
    ],
)
def test_errors_inside_the_saved_state_of_a_live_control(inner, expected):
    models = {
        "a": {"model_name": "FloatSliderModel", "state": {"value": 1.0}},
        "b": {"model_name": "OutputModel", "state": {"outputs": inner}},
    }
    assert faults(notebook(metadata={"widgets": {gates.WIDGET_STATE: {"state": models}}})) == expected


def test_a_widget_needs_html_for_the_page():
    view = {gates.WIDGET_VIEW: {"model_id": "a"}}
    assert "stays empty" in faults(notebook(new_output("display_data", data=view)))[0]
    assert faults(notebook(new_output("display_data", data={**view, "text/html": "<p>5</p>"}))) == []


@pytest.mark.parametrize(
    ("html", "described"),
    [
        ('<img src="data:," alt="two bars">', True),
        ('<img src="data:,">', False),
        ('<img src="data:," alt=" ">', False),
        ('<img src="data:," alt="" role="presentation">', True),
        ("<svg><rect/></svg>", False),
        ("<svg><title>two bars</title></svg>", True),
        ('<svg role="img" aria-label="two bars"></svg>', True),
        ('<div role="img" aria-label="two bars"><svg></svg></div>', True),
        ('<div role="img"><svg></svg></div>', False),
        ('<button><svg aria-hidden="true"></svg>next</button>', True),
        ("<table><tr><td>0.9</td></tr></table>", True),
    ],
)
def test_pictures_in_html_need_a_description(html, described):
    assert (faults(notebook(shown(text_html=html))) == []) is described


def test_bare_figures_need_a_description_in_the_cell():
    figure = shown(image_png="aGk=", text_plain="<Figure>")
    assert "figure without alt text" in faults(notebook(figure))[0]
    assert "figure without alt text" in faults(notebook(figure, cell={"mystnb": {"image": {"alt": ""}}}))[0]
    assert faults(notebook(figure, cell={"mystnb": {"image": {"alt": "a rising line"}}})) == []


def shape(*cells: Any) -> list[str]:
    return gates.shape_faults("levels/x", new_notebook(cells=list(cells)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Three small words", 3),
        ("a - b, $x + y$; it's 4.5 %", 6),
        ("before\n\n```python\nnot = a, word\n```\n\nafter", 2),
        ("before\n\n~~~\nnot a word\n~~~\n\nafter", 2),
        ("```{admonition} Title\nthree more words\n```", 5),
        ("before\n\n:::{quiz} Not counted?\n:label: a\n- no <!-- right: not here -->\n:::\n\nafter", 2),
        ("````{exercise}\ntwo words\n```python\ncode = here\n```\n````", 3),
    ],
)
def test_words_are_counted_outside_code(text, words):
    assert gates.words_in(new_notebook(cells=[new_markdown_cell(text), new_code_cell("one two")])) == words


def test_a_page_has_a_length():
    enough = new_markdown_cell("word " * (gates.WORDS - 1))
    assert shape(enough, new_code_cell("x " * 40), new_markdown_cell("word")) == []
    assert shape(enough, new_markdown_cell("two words")) == ["levels/x: has 2901 words, at most 2900 are a page"]


def test_a_page_has_room_for_thirty_verdicts():
    def cell(first: int, count: int) -> Any:
        return new_code_cell("x", outputs=[claims(*((f"c{first + i}", "confirmed") for i in range(count)))])

    assert shape(cell(0, 20), cell(20, 10)) == []
    assert shape(cell(0, 20), cell(20, 11)) == ["levels/x: gives 31 verdicts, at most 30 are a page"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("\n".join("x" * 15), []),
        ("\n".join("x" * 16), ["levels/x: shows cell 0 with 16 lines of code, at most 15 are read"]),
        ("\n".join("x" * 15) + "\n\n", []),
        ("x" * 88, []),
        ("y\n" + "x" * 89, ["levels/x: shows cell 0 with a line of 89 characters, at most 88 do not wrap"]),
        ("", []),
    ],
)
def test_code_that_a_page_shows_fits_it(source, expected):
    assert shape(new_code_cell(source)) == expected
    assert shape(new_code_cell(source, metadata={"tags": ["parameters"]})) == expected
    assert shape(new_markdown_cell(source)) == []
    for tag in ("remove-input", "remove-cell", "injected-parameters"):
        assert shape(new_code_cell(source, metadata={"tags": [tag]})) == []
    for tag in ("hide-input", "hide-cell"):
        named = {"tags": [tag], "mystnb": {"code_prompt_show": "The figure's code"}}
        assert shape(new_code_cell(source, metadata=named)) == []


@pytest.mark.parametrize("mystnb", [{}, {"mystnb": {}}, {"mystnb": {"code_prompt_show": " "}}])
def test_a_folded_cell_says_what_it_holds(mystnb):
    expected = ["levels/x: folds cell 0 without saying what it holds (mystnb: code_prompt_show)"]
    for tag in ("hide-input", "hide-cell"):
        assert shape(new_code_cell("x", metadata={"tags": [tag], **mystnb})) == expected


PREDICT = (
    "```{exercise} Predict\n:label: x-predict\nWhat?\n```\n\n```{solution} x-predict\n:class: dropdown\nThat.\n```"
)
CHANGE = "````{exercise} Change one thing\n:label: x-change\n```python\na = 1\n```\n````"
CHANGED = "```{solution} x-change\n:class: dropdown\nSo.\n```"
WRITE = "```{exercise} Write it\n:label: x-write\nWrite.\n```"
WRITTEN = "```{solution} x-write\n:class: dropdown\nThus.\n```\n\n## What to remember\n\nMuch."


def exercises(*parts: Any) -> list[str]:
    cells = [part if isinstance(part, dict) else new_markdown_cell(part) for part in parts]
    return gates.exercise_faults("levels/x", new_notebook(cells=cells))


def checked(*outputs: Any) -> Any:
    return new_code_cell("check(mine)", execution_count=3, outputs=list(outputs))


def result(text: str) -> Any:
    return new_output("execute_result", data={"text/plain": repr(text)}, execution_count=3)


def test_exercises_at_three_depths_with_solutions_and_a_check_pass():
    check = new_code_cell("check(mine)")
    assert exercises("# Page\n\nNo exercises.", check) == []
    assert exercises("## Exercises\n\n" + PREDICT, f"{CHANGE}\n\n{CHANGED}\n\n{WRITE}", check, WRITTEN) == []
    assert exercises("\n\n".join([PREDICT, CHANGE, CHANGED, WRITE]), new_code_cell("def mine():"), check, WRITTEN) == []


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((CHANGE, CHANGED, WRITE, checked(result("No T.")), WRITTEN), "has exercises, but none at the depth 'Predict'"),
        (
            (PREDICT, WRITE, checked(result("No T.")), WRITTEN),
            "has exercises, but none at the depth 'Change one thing'",
        ),
        ((PREDICT, CHANGE, CHANGED), "has exercises, but none at the depth 'Write it'"),
        (
            (PREDICT, CHANGE, WRITE, checked(result("No T.")), WRITTEN),
            "has no folded solution of the exercise x-change",
        ),
        (
            (PREDICT, CHANGE, CHANGED, WRITE, checked(result("No T.")), WRITTEN.replace(":class: dropdown\n", "")),
            "has no folded solution of the exercise x-write",
        ),
        ((PREDICT, CHANGE, CHANGED, WRITE, WRITTEN, checked(result("No T."))), "has no check of the exercise x-write"),
    ],
)
def test_what_exercises_lack(parts, expected):
    assert exercises(*parts) == [f"levels/x: {expected}"]


@pytest.mark.parametrize(
    ("outputs", "passes"),
    [
        ([result("T is missing.")], True),
        ([new_output("stream", name="stdout", text="T is missing.\n")], True),
        ([], False),
        ([result("Right: two terms.")], False),
        ([new_output("stream", name="stdout", text="Right.\n")], False),
        ([result("")], False),
    ],
)
def test_a_check_names_the_mistake_of_the_attempt_on_the_page(outputs, passes):
    found = exercises(PREDICT, CHANGE, CHANGED, WRITE, checked(*outputs), WRITTEN)
    fault = "levels/x: checks the exercise x-write without naming the mistake of the attempt on the page"
    assert found == ([] if passes else [fault])


def test_claims_are_collected_over_chapters_and_ids_are_unique():
    executed = {"a": notebook(claims(("one", "confirmed"))), "b": notebook(claims(("two", "inconclusive")))}
    assert gates.claims_in(executed) == {"one": claim("confirmed"), "two": claim("inconclusive")}
    with pytest.raises(ValueError, match="b: cell 0 uses the claim id 'one' a second time"):
        gates.claims_in({**executed, "b": notebook(claims(("one", "confirmed")))})


@pytest.mark.parametrize(
    ("found", "recorded", "expected"),
    [
        ("confirmed", "confirmed", []),
        ("inconclusive", "confirmed", ["claim one: verdict recorded as 'confirmed', now 'inconclusive'"]),
        (None, "confirmed", ["claim one: recorded as 'confirmed', now missing"]),
        ("confirmed", None, ["claim one: 'confirmed', but not on record"]),
    ],
)
def test_verdicts_against_the_record(found, recorded, expected):
    def claims(verdict: str | None, id: str) -> dict[str, dict[str, Any]]:
        return {id: claim(verdict)} if verdict else {}

    assert gates.claim_differences(claims(found, "one"), claims(recorded, "one")) == expected
    here = [line.replace("one:", "one@fashion-mnist:") for line in expected]
    elsewhere = [] if found is None else here
    both = claims(found, "one@fashion-mnist"), claims(recorded, "one@fashion-mnist")
    assert gates.claim_differences(*both) == gates.claim_differences(*both, ["cifar100"]) == elsewhere
    assert gates.claim_differences(*both, ["cifar100", "fashion-mnist"]) == here


def test_a_claim_shows_that_the_data_of_its_like_was_there():
    one, two = {"one@trees": claim("confirmed")}, {"two@trees": claim("confirmed")}
    assert gates.claim_differences(two, one | two) == ["claim one@trees: recorded as 'confirmed', now missing"]
    assert gates.claim_differences({"two": claim("confirmed")}, one | {"two": claim("confirmed")}) == []


def test_sentences_and_sources_against_the_record():
    old, new = claim("confirmed"), claim("confirmed", "It falls.", "folklore")
    assert gates.claim_differences({"one": new}, {"one": old}) == [
        "claim one: sentence recorded as 'It rises.', now 'It falls.'",
        "claim one: source recorded as 'ours', now 'folklore'",
    ]


def test_the_rows_that_a_claim_tests_are_on_record(tmp_path):
    old, new = claim("confirmed", rows=("tang.4",)), claim("confirmed", rows=("tang.4", "tang.9"))
    assert gates.claim_differences({"one": new}, {"one": old}) == [
        "claim one: rows recorded as ['tang.4'], now ['tang.4', 'tang.9']"
    ]
    (tmp_path / "claims.yml").write_text("one: {sentence: a, source: b, rows: [tang.4], verdict: c}", "utf8")
    assert gates.recorded_claims(tmp_path / "claims.yml")["one"]["rows"] == ["tang.4"]
    (tmp_path / "claims.yml").write_text("one: {sentence: a, source: b, verdict: c}", "utf8")
    assert gates.recorded_claims(tmp_path / "claims.yml")["one"]["rows"] == []
    for wrong in ("tang.4", "[4]", "{tang: 4}"):
        (tmp_path / "claims.yml").write_text(f"one: {{sentence: a, source: b, rows: {wrong}, verdict: c}}", "utf8")
        with pytest.raises(ValueError, match="claim 'one' must have a list of names as rows, got"):
            gates.recorded_claims(tmp_path / "claims.yml")


def test_the_record_takes_what_a_report_shows():
    report = claims_of.report(
        claims_of.identity("one", "It is.", "derived", 0.0, 1.0, rows=("tang.1", "tang.2")),
        claims_of.identity("two", "It is too.", "derived", 0.0, 1.0),
    )
    shown = new_output("display_data", data=json.loads(json.dumps(report._repr_mimebundle_())))
    found = gates.claims_in({"a": notebook(shown)})
    assert found["one"] == claim("confirmed", "It is.", "derived", ("tang.1", "tang.2"))
    assert found["two"] == claim("confirmed", "It is too.", "derived")


@pytest.mark.parametrize(
    "text", ["one: confirmed", "one: {sentence: a, verdict: b}", "one: {sentence: a, source: b, verdict: c, seeds: 9}"]
)
def test_a_record_in_another_format_is_refused(tmp_path, text):
    (tmp_path / "claims.yml").write_text(text, "utf8")
    with pytest.raises(ValueError, match="claim 'one' must have sentence, source, rows, verdict and nothing else, got"):
        gates.recorded_claims(tmp_path / "claims.yml")


@pytest.mark.parametrize("text", ["- one", "one", "7: {sentence: a, source: b, verdict: c}"])
def test_a_record_that_is_no_mapping_of_names_is_refused(tmp_path, text):
    (tmp_path / "claims.yml").write_text(text, "utf8")
    with pytest.raises(ValueError, match=r"claims\.yml(: claim 7 must have| must be a mapping of claims, got)"):
        gates.recorded_claims(tmp_path / "claims.yml")


def page(folder: Path, body: str, name: str = "index.html") -> list[str]:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"<html><head><title>x</title></head><body>{body}</body></html>", "utf8")
    return gates.site_faults(folder)


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script src="//cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="http://cdn.example/x.css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img alt="a" src="https://cdn.example/x.png">',
        '<img alt="a" src="data:," srcset="https://cdn.example/x.png 2x">',
        '<iframe src="https://video.example/1"></iframe>',
        '<p style="background: url(https://cdn.example/x.png)">x</p>',
        "<style>@import 'https://fonts.example/x.css';</style>",
        "<style>@font-face { src: url('https://fonts.example/x.woff') }</style>",
    ],
)
def test_pages_fetch_nothing_from_outside(tmp_path, body):
    (fault,) = page(tmp_path, body)
    assert fault.startswith("index.html: fetches ") and fault.endswith(" from outside")


def test_links_to_other_sites_and_data_are_no_fetches(tmp_path):
    body = '<a href="https://arxiv.org">x</a><link rel="canonical" href="https://x.org"><img alt="a" src="data:,">'
    assert page(tmp_path, body) == []


def test_local_resources_must_be_there(tmp_path):
    body = '<script src="../_static/a b.js?v=1"></script>'.replace(" ", "%20").replace("<script%20", "<script ")
    assert page(tmp_path, body, "levels/x.html") == [
        "levels/x.html: needs ../_static/a%20b.js?v=1, which is not in the built book"
    ]
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a b.js").write_text("")
    assert page(tmp_path, body, "levels/x.html") == []


@pytest.mark.parametrize(
    "address",
    [
        "../../secret.png",
        "..%2f..%2Fsecret.png",
        "..\\..\\secret.png",
        "x/../../../secret.png",
        "../link/secret.png",
        "../../site-two/secret.png",
        "/secret.png",
    ],
)
@pytest.mark.parametrize(
    "element",
    ['<img alt="a" src="{}">', '<img alt="a" src="data:," srcset="{} 2x">', '<p style="background: url({})">'],
)
def test_what_is_there_but_outside_the_site_is_no_local_resource(tmp_path, address, element):
    site = tmp_path / "site"
    for folder in (tmp_path, tmp_path / "site-two", site / "levels"):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "secret.png").write_bytes(b"")
    (site / "link").symlink_to(tmp_path)
    (fault,) = page(site, element.format(address), "levels/x.html")
    assert fault == f"levels/x.html: needs {address}, which is not in the built book"
    assert page(site, element.format("../levels/secret.png?v=1"), "levels/x.html") == []


def test_addresses_are_read_from_where_the_page_is(tmp_path):
    assert "has a base element" in page(tmp_path, '<base href="../"><p>x</p>')[0]
    (fault,) = page(tmp_path, '<meta http-equiv="Refresh" content="0; url=https://example.org/x">')
    assert fault == "index.html: fetches https://example.org/x from outside"
    (fault,) = page(tmp_path, '<img alt="a" src="http://[::1/x.png">')
    assert fault.endswith("which is no address")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"<pre>{gates.TRACEBACK}: ...</pre>", "shows a traceback"),
        ('<div class="output traceback highlight">oh</div>', "shows a traceback"),
        ('<img src="data:,">', "has pictures without alt text"),
        ("<figure><figcaption>x</figcaption></figure>", "has an empty figure"),
        ("<p>For each $$q$$ here</p>", "shows markup instead of what it means: 'For each $$q$$ here'"),
        ("<p>see {prf:ref}<code>x</code></p>", "shows markup"),
        ("<p>::: tip</p>", "shows markup"),
        ("<p>as said[^1]</p>", "shows markup"),
        (f"<p>{'x' * gates.PAGE_BYTES}</p>", "the cap is 1.5 MB"),
    ],
)
def test_faults_in_built_pages(tmp_path, body, expected):
    (fault,) = page(tmp_path, body)
    assert expected in fault


def test_code_and_formulas_are_no_unread_markup(tmp_path):
    body = "<pre>$HOME {x}</pre><code>{cite}</code><span class='math'>\\(a_{i}\\)</span><script>var a = '$'</script>"
    assert page(tmp_path, body) == []


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("//cdn.example/x.png", "fetches //cdn.example/x.png from outside"),
        ("../../etc/x.png", "needs ../../etc/x.png, which is not in the built book"),
        ("/etc/x.png", "needs /etc/x.png, which is not in the built book"),
        ("missing.png", "needs missing.png, which is not in the built book"),
        ("../there.png", None),
        ("data:image/png;base64,aGk=", None),
    ],
)
def test_stylesheets_fetch_only_what_is_in_the_book(tmp_path, address, fault):
    site = tmp_path / "site"
    (site / "_static").mkdir(parents=True)
    (site / "there.png").write_bytes(b"")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "x.png").write_bytes(b"")
    (site / "_static" / "x.css").write_text(f"a {{ background: url('{address}') }}", "utf8")
    assert gates.site_faults(site) == ([f"_static/x.css: {fault}"] if fault else [])
