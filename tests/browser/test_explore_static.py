"""The page's half of `explore` in a real browser: keyboard, address, print, no scripts, phone, night, two on a page."""

from __future__ import annotations

import html
import io
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdlib.explore import Control, Explorer, explore
from kdlib.explore import frame as module

pytestmark = pytest.mark.browser
INK = "#7d7d7d"

# the rules of the book's theme that meet the figure
THEME = """
body { max-width: 45rem; margin: 0 auto; padding: 0 1rem; font: 16px/1.6 sans-serif; color: #222832; background: #fff; }
html[data-theme="light"] { color-scheme: light; }
html[data-theme="dark"] { color-scheme: dark; scroll-behavior: smooth; }
html[data-theme="dark"] body { color: #ced6dd; background: #121212; }
html[data-theme="dark"] .bd-content div.cell_output .text_html:not(:has(table.dataframe)),
html[data-theme="dark"] .bd-content div.cell_output img { background-color: #ced6dd; color: #222832; padding: 0.5rem; }
html[data-theme="dark"] img:not(.only-dark, .dark-light) { filter: brightness(0.8) contrast(1.2); }
figure figcaption { color: #888; text-align: center; font-weight: 300; }
"""


def curve(T: int, alpha: float) -> str:
    with plt.rc_context(
        dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), INK)
    ):
        ax = plt.gca()
        ax.plot([0, 1], [0, alpha * T], color="#b8860b")
        ax.set(ylim=(0, 8), xlabel="epoch", ylabel="gain (points)")
    return f"At T = {T} and alpha = {alpha:g} the gain is {alpha * T:g} points."


def bars(T: int, image: str) -> str:
    plt.gca().bar(["boot", "bag"], [T, len(image)], color="#1f78d1")
    return f"{image} at {T}."


@pytest.fixture(scope="module")
def figures() -> tuple[Explorer, Explorer]:
    table = pd.DataFrame(
        [{"T": T, "alpha": a, "recipe": "teacher", "gain": a * T} for T in (1, 2, 4, 8) for a in (0, 0.5, 1)]
    )
    wide = table.assign(**{f"another long column {i}": "some words in a cell" for i in range(6)})
    one = explore(
        curve,
        table=wide,
        caption="One run.",
        start={"T": 2, "alpha": 0.5},
        retrain=lambda **state: iter(()),
        T=Control([1, 2, 4, 8], "temperature T"),
        alpha=[0, 0.5, 1],
    )
    return one, explore(bars, T=[1, 2, 4], image=["a shoe", "a <b>"])


@pytest.fixture(scope="module")
def page_file(figures: tuple[Explorer, Explorer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = "".join(
        f'<p>{"A paragraph before the figure. " * 40}</p><div class="cell_output"><div class="output text_html">'
        f"{figure.html()}</div></div>"
        for figure in figures
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Two figures</title>'
        f'<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{THEME}</style></head>"
        f'<body><main class="bd-content"><h1 id="top">Two figures</h1>{outputs}<p>{"After. " * 900}</p></main></body></html>',
        encoding="utf-8",
    )
    return path


@pytest.fixture(params=["http", "file"])
def address(request: pytest.FixtureRequest, page_file: Path, serve: Callable[[Path], str]) -> str:
    return page_file.as_uri() if request.param == "file" else f"{serve(page_file.parent)}/{page_file.name}"


def shown(page: Any, figure: int = 0) -> dict[str, Any]:
    """What a reader has in front of them: picture, its alternative text, the sentence, the table and the inputs."""
    return (
        page.locator("figure.kdx")
        .nth(figure)
        .evaluate(
            """f => ({
            svg: decodeURIComponent(f.querySelector('img').src.replace(/^[^,]*,/, '')),
            alt: f.querySelector('img').alt,
            sentence: f.querySelector('.kdx-sentence').textContent,
            state: f.querySelector('.kdx-state').textContent,
            table: [...f.querySelectorAll('tr')].map(r => [...r.cells].map(c => c.textContent)),
            inputs: [...f.querySelectorAll('input, select')].map(i => i.value),
            outputs: [...f.querySelectorAll('output')].map(o => o.value),
            spoken: [...f.querySelectorAll('input')].map(i => i.getAttribute('aria-valuetext')),
        })"""
        )
    )


def assert_shows(page: Any, explorer: Explorer, state: dict[str, Any], figure: int = 0) -> None:
    seen, frame = shown(page, figure), explorer.frame(explorer.start | state)
    assert seen["svg"] == frame.svg
    assert seen["alt"] == seen["sentence"] == frame.sentence
    assert seen["state"] == frame.state
    assert seen["table"] == ([frame.table["columns"], *frame.table["rows"]] if frame.table else [])
    wanted = [
        control.texts[list(control.options).index((explorer.start | state)[n])]
        for n, control in explorer.controls.items()
    ]
    numeric = [text for text, control in zip(wanted, explorer.controls.values(), strict=True) if control.numeric]
    assert seen["outputs"] == seen["spoken"] == numeric


def test_keys_move_picture_sentence_and_table_together(address: str, visit: Any, figures: Any) -> None:
    one, two = figures
    seen = visit(address)
    page = seen.page
    assert_shows(page, one, {})
    page.get_by_label("temperature T").focus()
    for key, T in [("ArrowRight", 4), ("ArrowRight", 8), ("ArrowRight", 8), ("Home", 1), ("End", 8), ("ArrowLeft", 4)]:
        page.keyboard.press(key)
        assert_shows(page, one, {"T": T})
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert_shows(page, one, {"T": 4, "alpha": 1})
    assert_shows(page, two, {}, figure=1)
    page.keyboard.press("Tab")  # the disclosure of the table comes next
    page.keyboard.press("Enter")
    assert page.locator("figure.kdx details").first.get_attribute("open") is not None
    page.get_by_label("image").focus()
    page.keyboard.press("ArrowDown")
    assert_shows(page, two, {"image": "a <b>"}, figure=1)
    assert_shows(page, one, {"T": 4, "alpha": 1})
    assert (seen.outside, seen.errors) == ([], [])


def test_every_state_can_be_reached(address: str, visit: Any, figures: Any) -> None:
    one, _ = figures
    page = visit(address).page
    for i, T in enumerate([1, 2, 4, 8]):
        for j, alpha in enumerate([0, 0.5, 1]):
            page.get_by_label("temperature T").fill(str(i))
            page.get_by_label("alpha").fill(str(j))
            assert_shows(page, one, {"T": T, "alpha": alpha})


def test_the_address_holds_the_state_of_every_figure(address: str, visit: Any, figures: Any) -> None:
    one, two = figures
    seen = visit(address)
    page = seen.page
    ids = page.locator("figure.kdx").evaluate_all("all => all.map(f => f.id)")
    page.get_by_label("temperature T").press("End")
    page.wait_for_timeout(1100)
    page.get_by_label("image").select_option("a <b>")
    held = dict(urllib.parse.parse_qsl(page.url.split("#")[1]))
    assert held == {f"{ids[0]}.T": "8", f"{ids[0]}.alpha": "0.5", f"{ids[1]}.T": "1", f"{ids[1]}.image": "a <b>"}
    page.reload()
    assert_shows(page, one, {"T": 8})
    assert_shows(page, two, {"image": "a <b>"}, figure=1)
    page.go_back()
    assert_shows(page, one, {"T": 8})
    assert_shows(page, two, {}, figure=1)
    page.go_back()
    assert_shows(page, one, {})
    page.go_forward()
    assert_shows(page, one, {"T": 8})
    page.goto(f"{address}#top")  # a place of the page, not a state
    assert_shows(page, one, {})
    assert seen.errors == []


def test_a_link_opens_a_state_at_its_figure(address: str, visit: Any, figures: Any) -> None:
    one, two = figures
    name = re.findall(r'<figure class="kdx" id="([^"]+)"', two.html())[0]
    seen = visit(f"{address}#{name}.T=4&{name}.image=nothing+known&%zz", viewport={"width": 900, "height": 500})
    assert_shows(seen.page, two, {"T": 4}, figure=1)
    assert_shows(seen.page, one, {})
    top = seen.page.locator("figure.kdx").nth(1).evaluate("f => f.getBoundingClientRect().top")
    assert 0 <= top < 250
    assert seen.errors == []


def test_without_scripts_the_first_state_stands_there(address: str, visit: Any, figures: Any) -> None:
    page = visit(address, java_script_enabled=False).page
    first = figures[0].frame(figures[0].start)
    figure = page.locator("figure.kdx").first
    assert figure.locator("img").get_attribute("alt") == first.sentence
    assert urllib.parse.unquote(figure.locator("img").get_attribute("src").split(",", 1)[1]) == first.svg
    assert figure.locator(".kdx-sentence").inner_text() == first.sentence
    assert figure.locator(".kdx-state").inner_text() == "temperature T = 2, alpha = 0.5"
    assert figure.locator("td").all_text_contents()[:2] == ["teacher", "1"]
    assert not figure.locator(".kdx-controls").is_visible()


def test_print_shows_the_state_in_words_and_no_inputs(address: str, visit: Any) -> None:
    page = visit(address).page
    assert not page.locator(".kdx-state").first.is_visible()
    page.get_by_label("temperature T").press("End")
    page.emulate_media(media="print")
    assert page.locator(".kdx-state").first.inner_text() == "temperature T = 8, alpha = 0.5"
    assert page.locator(".kdx-state").first.is_visible()
    assert page.locator("figure.kdx img").first.is_visible()
    assert not page.locator(".kdx-controls").first.is_visible()


def test_on_a_phone_nothing_overflows_and_fingers_hit(address: str, visit: Any) -> None:
    page = visit(
        address, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, device_scale_factor=3
    ).page
    page.locator("figure.kdx summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = page.locator(".kdx-scroll").first
    assert box.evaluate("b => b.scrollWidth > b.clientWidth && b.clientWidth <= 328")  # the table scrolls alone
    for target in page.locator("figure.kdx input, figure.kdx select").all():
        assert target.bounding_box()["height"] >= 44
    assert page.locator("figure.kdx summary").first.bounding_box()["height"] >= 44
    # text of 11 points in a picture, as it arrives on the screen
    scale = page.locator("figure.kdx img").first.evaluate("i => i.clientWidth / i.naturalWidth")
    assert scale * 11 / 0.75 > 9


def contrast(front: str, back: str) -> float:
    """WCAG contrast of two colours as a browser writes them."""

    def luminance(colour: str) -> float:
        channels = np.array([float(c) for c in re.findall(r"[\d.]+", colour)[:3]]) / 255
        return float(
            np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
            @ [0.2126, 0.7152, 0.0722]
        )

    light, dark = sorted([luminance(front), luminance(back)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("system", ["light", "dark"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_day_and_night_are_legible(address: str, visit: Any, theme: str, system: str) -> None:
    page = visit(address, color_scheme=system).page
    page.locator("figure.kdx summary").first.click()
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    style = "e => { const s = getComputedStyle(e); return [s.color, s.backgroundColor, s.filter] }"
    for part in ("figcaption", ".kdx-sentence", ".kdx-name", "output", "summary", "th", "td", "select", "caption"):
        colour, behind, _ = page.locator(f"figure.kdx {part}").first.evaluate(style)
        assert contrast(colour, ground) > 7, part
        assert behind == "rgba(0, 0, 0, 0)", part
    for part in ("figure.kdx img", ".text_html"):
        _, behind, effect = page.locator(part).first.evaluate(style)
        assert (behind, effect) == ("rgba(0, 0, 0, 0)", "none")
    # the picture lets the page through: its corner has the page's colour, and the ink is there
    pixels = np.asarray(
        Image.open(io.BytesIO(page.locator("figure.kdx img").first.screenshot())).convert("RGB")
    ).astype(int)
    assert tuple(pixels[1, 1]) == tuple(int(c) for c in re.findall(r"\d+", ground)[:3])
    assert (np.abs(pixels - 0x7D).max(axis=-1) < 24).sum() > 300
    # its text takes the shade for the page's scheme, whatever the system's is
    grey = pixels[np.ptp(pixels, axis=-1) < 3].mean(axis=-1)
    ink, shade = (
        (grey.min(), 0x6F) if theme == "light" else (grey.max(), 0x8F)
    )  # of all grey the farthest from the page
    assert abs(ink - shade) < 3


def test_focus_is_seen_and_nothing_moves_by_itself(address: str, visit: Any) -> None:
    page = visit(address).page
    slider = page.get_by_label("temperature T")
    slider.focus()
    page.keyboard.press("ArrowRight")
    outline = page.locator(".kdx-control").first.evaluate("c => getComputedStyle(c).outline")
    assert "solid" in outline and "2px" in outline
    assert "none" in page.locator(".kdx-control").nth(1).evaluate("c => getComputedStyle(c).outline")
    moving = """[...document.querySelectorAll('.kdx, .kdx *')].filter(e => {
        const s = getComputedStyle(e); return s.animationName !== 'none' || parseFloat(s.transitionDuration) > 0 }).length"""
    assert page.evaluate(moving) == 0


def test_names_and_roles_reach_assistive_technology(address: str, visit: Any) -> None:
    page = visit(address).page
    assert page.get_by_role("slider", name="temperature T", exact=True).count() == 1
    assert page.get_by_role("slider", name="alpha", exact=True).count() == 1
    assert page.get_by_role("combobox", name="image", exact=True).count() == 1
    assert (
        page.get_by_role("figure", name=re.compile("One run. Other settings can be trained in JupyterLab.")).count()
        == 1
    )
    assert page.get_by_role("img", name="At T = 2 and alpha = 0.5 the gain is 1 points.").count() == 1
    assert page.locator(".kdx-sentence[aria-live=polite]").count() == 2
    ids = page.locator("[id]").evaluate_all("all => all.map(e => e.id)")
    assert len(ids) == len(set(ids)) >= 6
    page.locator("figure.kdx summary").first.click()
    assert page.get_by_role("region", name="Data behind the figure").first.get_attribute("tabindex") == "0"
    assert page.get_by_role("columnheader", name="gain").count() == 1


def test_the_same_figure_twice_on_a_page_keeps_two_states(visit: Any, figures: Any, tmp_path: Path) -> None:
    _, two = figures
    path = tmp_path / "twice.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>Twice</title>{two.html()}{two.html()}", encoding="utf-8"
    )
    seen = visit(path.as_uri())
    seen.page.get_by_label("T", exact=True).nth(1).press("End")
    assert_shows(seen.page, two, {}, figure=0)
    assert_shows(seen.page, two, {"T": 4}, figure=1)
    seen.page.reload()
    assert_shows(seen.page, two, {}, figure=0)
    assert_shows(seen.page, two, {"T": 4}, figure=1)
    assert seen.errors == []


def test_a_small_picture_looks_like_the_one_matplotlib_wrote(visit: Any, monkeypatch: Any, tmp_path: Path) -> None:
    def marks(n: int) -> str:
        ax, rng = plt.gca(), np.random.default_rng(0)
        ax.scatter(*rng.uniform(size=(2, 40)), alpha=0.5)
        ax.fill_between([0, 1], [0, 0.1], [0.5, 1], alpha=0.2, hatch="//")
        ax.plot([0, 0.5, 1], [1, 0.2, 0.9], "s--", label="a line")
        ax.legend(title="$T^2$")
        return "Marks."

    small = explore(marks, n=[1]).frames[0].svg
    monkeypatch.setattr(module, "_small", lambda svg: re.sub("<dc:date>.*?</dc:date>", "", svg))
    whole = explore(marks, n=[1]).frames[0].svg
    assert len(small) < 0.75 * len(whole)
    pixels = []
    for name, svg in [("small", small), ("whole", whole)]:
        path = tmp_path / f"{name}.html"
        source = html.escape("data:image/svg+xml," + urllib.parse.quote(svg))
        path.write_text(f'<!doctype html><title>{name}</title><img src="{source}">', encoding="utf-8")
        pixels.append(
            np.asarray(Image.open(io.BytesIO(visit(path.as_uri()).page.locator("img").screenshot())).convert("L"))
        )
    difference = np.abs(pixels[0].astype(int) - pixels[1])
    assert (pixels[0] < 128).sum() > 1000
    assert difference.mean() < 0.5 and (difference > 64).mean() < 0.001
