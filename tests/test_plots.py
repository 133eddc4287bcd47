"""The look: contrast, distinguishable colours, reproducible pictures, labels that do not overlap."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from kdlib import _ink, plots
from kdlib.explore import explore

Array = NDArray[np.float64]
# Machado, Oliveira & Fernandes 2009, severity 1.0; they act on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


@pytest.fixture(autouse=True)
def theme() -> Iterator[None]:
    with mpl.rc_context():
        plots.use()
        yield
    plt.close("all")


def linear(colour: str) -> Array:
    """sRGB hex to linear light, IEC 61966-2-1."""
    s = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(light: Array) -> Array:
    """Linear RGB to CIELAB, white D65."""
    t = TO_XYZ @ light / (TO_XYZ @ np.ones(3))
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_yardsticks_themselves() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    for matrix in VISION.values():
        assert matrix.sum(1) == pytest.approx(1, abs=2e-6)  # grey stays grey

    def apart(kind: str) -> float:
        red, green = (lab(np.clip(VISION[kind] @ linear(c), 0, 1)) for c in ("#d62728", "#2ca02c"))
        return float(np.hypot(*(red - green)[1:]))  # hue and chroma alone

    assert apart("deuteranopia") < 0.4 * apart("normal")
    assert apart("protanopia") < 0.4 * apart("normal")


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
@pytest.mark.parametrize("colour", [*plots.COLOURS.values(), plots.INK])
def test_colours_stand_out_on_light_and_dark_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("kind", VISION)
def test_colours_stay_apart_also_for_colour_blind_readers(kind: str) -> None:
    seen = {name: lab(np.clip(VISION[kind] @ linear(c), 0, 1)) for name, c in plots.COLOURS.items()}
    distances = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(seen, 2)}
    assert min(distances.values()) >= 10, min(distances, key=lambda pair: distances[pair])


def test_markers_and_dashes_double_the_colours() -> None:
    assert set(plots.MARKERS) == set(plots.DASHES) == set(plots.COLOURS)
    assert len(set(plots.MARKERS.values())) == len(plots.COLOURS)
    looks = {(plots.DASHES[name], plots.MARKERS[name]) for name in plots.COLOURS}
    assert len(looks) == len(plots.COLOURS)
    meanings = {"KD": "teacher", "LS 0.1": "universe"}
    assert plots.palette(meanings) == {"KD": "#b8860b", "LS 0.1": "#1f78d1"}
    assert plots.markers(meanings) == {"KD": "*", "LS 0.1": "s"}
    assert plots.dashes(meanings) == {"KD": (8, 2), "LS 0.1": (4, 2)}


def curve(ends: dict[str, float], names: dict[str, str] | None = None) -> Axes:
    """One seaborn line per recipe, ending at the heights given."""
    names = names or dict(zip(ends, plots.COLOURS, strict=False))
    rows = [(name, x, y * x / 3) for name, y in ends.items() for x in range(4)]
    frame = pd.DataFrame(rows, columns=["recipe", "x", "y"])
    return sns.lineplot(
        frame,
        x="x",
        y="y",
        hue="recipe",
        style="recipe",
        palette=plots.palette(names),
        markers=plots.markers(names),
        dashes=plots.dashes(names),
    )


class TestLabelEnds:
    @pytest.mark.parametrize(
        "ends",
        [
            {"KD": 1.0, "LS": 1.0, "CE": 1.0, "sim": 1.001},
            {"KD": 7.0, "LS": 6.9, "CE": 0.1},
            {"KD": -1.0, "LS": 5.0},
        ],
    )
    def test_labels_do_not_overlap_and_keep_the_order(self, ends: dict[str, float]) -> None:
        ax = curve(ends)
        plots.label_ends(ax)
        self.check(ax, ends)

    def test_also_where_limits_are_not_settled_yet(self) -> None:
        """matplotlib fits the axes to the data only when it draws."""
        _, ax = plt.subplots()
        ends = {"a": 100.0, "b": 99.0, "c": 1.0}
        for (name, y), colour in zip(ends.items(), plots.COLOURS.values(), strict=False):
            ax.plot([0, 1], [0, y], label=name, color=colour)
        plots.label_ends(ax)
        self.check(ax, ends)

    @staticmethod
    def check(ax: Axes, ends: dict[str, float]) -> None:
        ax.figure.canvas.draw()
        assert ax.get_legend() is None
        assert sorted(t.get_text() for t in ax.texts) == sorted(ends)
        boxes = {t.get_text(): t.get_window_extent() for t in ax.texts}
        for a, b in itertools.combinations(boxes.values(), 2):
            assert a.y1 <= b.y0 or b.y1 <= a.y0
        by_height = sorted(boxes, key=lambda name: boxes[name].y0)
        assert [ends[name] for name in by_height] == sorted(ends.values())
        lowest = by_height[0]  # nothing pushes it: it sits at its line's end
        middle = (boxes[lowest].y0 + boxes[lowest].y1) / 2
        assert middle == pytest.approx(ax.transData.transform((0, ends[lowest]))[1], abs=4)

    def test_labels_have_the_colours_of_their_lines(self) -> None:
        ax = curve({"KD": 2.0, "CE": 1.0}, {"KD": "teacher", "CE": "hard"})
        plots.label_ends(ax)
        assert {t.get_text(): t.get_color() for t in ax.texts} == {"KD": "#b8860b", "CE": "#8c8c8c"}

    def test_lines_of_one_colour_are_told_apart(self) -> None:
        _, ax = plt.subplots()
        ax.plot([0, 1], [0, 9], label="high", color="#b8860b")
        ax.plot([0, 1], [0, 1], label="low", color="#b8860b", linestyle="--")
        plots.label_ends(ax)
        assert {t.get_text(): t.xy[1] for t in ax.texts} == {"high": 9, "low": 1}  # type: ignore[attr-defined]

    def test_ends_are_the_last_finite_points(self) -> None:
        _, ax = plt.subplots()
        ax.plot([2, 0, 1, 3], [4, 0, 1, np.nan], label="a")
        ax.plot([0, 1], [np.nan, np.nan], label="nothing")
        plots.label_ends(ax)
        assert [(t.get_text(), t.xy) for t in ax.texts] == [("a", (2, 4))]  # type: ignore[attr-defined]

    def test_what_is_no_line_is_left_alone(self) -> None:
        _, ax = plt.subplots()
        ax.scatter([0, 1], [0, 1], label="dots")
        ax.bar([0], [1], label="bar")
        plots.label_ends(ax)
        assert len(ax.texts) == 0


class TestPictures:
    def test_svg_is_the_same_to_the_byte(self) -> None:
        def draw() -> str:
            ax = curve({"KD": 2.0, "CE": 1.0})
            plots.zero(ax)
            plots.label_ends(ax)
            return plots.to_svg(plt.gcf())

        first = draw()
        assert plt.get_fignums() == []  # closed
        assert draw() == first
        with mpl.rc_context({"svg.hashsalt": None, "svg.fonttype": "path"}):  # whatever the session has set
            assert draw() == first
        assert ">KD</text>" in first  # text stays text
        assert first.lstrip().startswith("<?xml")

    def test_background_is_transparent(self) -> None:
        curve({"KD": 1.0})
        svg = plots.to_svg(plt.gcf())
        assert re.search(r'id="patch_1">\s*<path [^>]*style="fill: none', svg)

    def test_page_shows_alt_and_caption_and_asks_for_nothing_outside(self) -> None:
        curve({"KD": 1.0})
        picture = plots.show("What you see: a < b & c.", alt='A "rising" line <KD>')
        bundle = picture._repr_mimebundle_()
        page = bundle["text/html"]
        assert 'alt="A &quot;rising&quot; line &lt;KD&gt;"' in page
        assert "<figcaption>What you see: a &lt; b &amp; c.</figcaption>" in page
        assert bundle["text/plain"] == 'A "rising" line <KD>'
        sources = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert len(sources) == 1
        kind, data = sources[0].split(",")
        assert kind == "data:image/svg+xml;base64"
        assert "http" not in page.replace(data, "")
        svg = base64.b64decode(data).decode()
        assert svg == picture.svg
        references = re.findall(r'(?:href|src)\s*=\s*"([^"]*)"', svg) + re.findall(r"url\(([^)]*)\)", svg)
        assert all(r.startswith("#") for r in references)

    def test_caption_stands_in_for_a_missing_alt(self) -> None:
        figure, _ = plt.subplots()
        plt.figure()  # another one is current
        assert plots.show("One line.", figure=figure).alt == "One line."
        assert not plt.fignum_exists(figure.number)

    def test_theme_is_for_pages_light_and_dark(self) -> None:
        figure, ax = plt.subplots()
        for patch in (figure.patch, ax.patch):
            assert mpl.colors.to_rgba(patch.get_facecolor()) == (0, 0, 0, 0)
        assert mpl.colors.to_hex(ax.spines["left"].get_edgecolor()) == plots.INK
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(plots.COLOURS.values())


class TestLabelCells:
    @pytest.mark.parametrize("cmap", ["vlag", "Blues", "viridis", "Greys"])
    def test_numbers_are_read_on_every_cell(self, cmap: str) -> None:
        values = np.ma.masked_greater(np.linspace(0, 1.01, 48).reshape(6, 8), 1)
        ax = sns.heatmap(values.data, mask=values.mask, annot=True, cmap=cmap, cbar=False)
        seaborns = plots.contrast().query("text in @shown", local_dict={"shown": [t.get_text() for t in ax.texts]})
        assert (seaborns["ratio"] < 4.5).any() and len(ax.texts) == 47
        plots.label_cells(ax)
        table = plots.contrast()
        assert (table["ratio"] >= table["needed"]).all(), table

    @pytest.mark.parametrize("annot", [True, False])
    def test_what_is_no_labelled_heat_map_is_refused(self, annot: bool) -> None:
        ax = plt.gca()
        if not annot:
            sns.heatmap(np.eye(2), ax=ax)
        with pytest.raises(ValueError, match=r"ax must be a heat map with a text in each cell, got [04] cells and 0"):
            plots.label_cells(ax)


class TestContrast:
    """Measured on the figure, against WCAG's formula as written above."""

    @staticmethod
    def of(text: str, figure: Any = None) -> Any:
        table = plots.contrast(figure)
        (row,) = table[table["text"] == text].to_dict("records")
        return row

    def test_white_on_yellow_fails_and_ink_on_paper_passes(self) -> None:
        _, ax = plt.subplots()
        ax.axvspan(0, 0.5, color="#ffee00")
        ax.text(0.25, 0.5, "white", color="white", ha="center", transform=ax.transAxes)
        ax.text(0.75, 0.5, "ink", ha="center", transform=ax.transAxes)
        ax.set_xlim(0, 1)
        white, ink = self.of("white"), self.of("ink")
        assert white["ratio"] == pytest.approx(contrast("#ffffff", "#ffee00"))
        assert (white["colour"], white["behind"], white["needed"]) == ("#ffffff", "#ffee00", 4.5)
        assert ink["ratio"] == pytest.approx(contrast(ink["colour"], ink["behind"]))
        assert ink["ratio"] >= ink["needed"] and ink["behind"] in _ink.PAGES.values()

    @pytest.mark.parametrize("colour", [*plots.COLOURS.values(), plots.INK])
    def test_every_colour_of_the_book_is_read_as_text_on_both_pages(self, colour: str) -> None:
        light, dark = _ink.SHADES[colour]
        assert contrast(light, "#ffffff") >= 4.5 and contrast(dark, "#121212") >= 4.5
        plt.figtext(0.5, 0.5, "x", color=colour)
        assert self.of("x")["ratio"] == pytest.approx(min(contrast(light, "#ffffff"), contrast(dark, "#121212")))

    def test_a_text_is_judged_on_the_page_where_it_is_harder_to_read(self) -> None:
        plt.figtext(0.5, 0.5, "black", color="#000000")
        black = self.of("black")
        assert (black["page"], black["behind"]) == ("dark", "#121212")
        assert black["ratio"] == pytest.approx(contrast("#000000", "#121212"))

    def test_numbers_in_the_cells_of_a_heat_map(self) -> None:
        ax = sns.heatmap(np.array([[0.0, 1.0], [0.5, 0.0]]), cmap="Greys", cbar=False, annot=False)
        for x, y, text, colour in [(0, 0, "light", "#262626"), (1, 0, "lost", "#262626"), (0, 1, "middle", "white")]:
            ax.text(x + 0.5, y + 0.5, text, color=colour, ha="center", va="center")
        cells = {text: mpl.colors.to_hex(plt.colormaps["Greys"](v)) for text, v in [("light", 0.0), ("lost", 1.0)]}
        for text, cell in cells.items():
            assert self.of(text)["behind"] == cell
            assert self.of(text)["ratio"] == pytest.approx(contrast("#262626", cell))
        assert self.of("lost")["ratio"] < 4.5 < self.of("light")["ratio"]
        assert self.of("middle")["ratio"] < 4.5  # seaborn's own choice there

    def test_images_and_transparent_areas_mix_with_the_page(self) -> None:
        _, (left, right) = plt.subplots(1, 2)
        left.imshow(np.zeros((2, 2)), cmap="gray")
        left.text(0.5, 0.5, "on black", color="#333333", ha="center")
        right.axhspan(0, 1, color="#000000", alpha=0.5, linewidth=0)
        right.text(0.5, 0.5, "on half", color="#000000", ha="center")
        assert self.of("on black")["behind"] == "#000000"
        half = self.of("on half")
        assert (half["page"], half["behind"]) == ("dark", "#090909")

    @pytest.mark.parametrize("framed", [True, False])
    def test_a_legend_has_a_plate_or_not(self, framed: bool) -> None:
        _, ax = plt.subplots()
        ax.plot([0, 1], label="line")
        ax.legend(labelcolor="white", frameon=framed, facecolor="#ffffff", framealpha=1)
        assert self.of("line")["ratio"] == pytest.approx(1) and self.of("line")["page"] == "light"
        ax.legend(labelcolor="white", frameon=framed, facecolor="#000000", framealpha=1)
        assert self.of("line")["ratio"] == pytest.approx(21 if framed else 1)

    def test_a_plate_of_a_text_lies_over_what_was_there(self) -> None:
        _, ax = plt.subplots()
        ax.axhspan(0, 1, color="#ffffff")
        ax.text(0.5, 0.5, "x", color="white", bbox={"facecolor": "#000000", "edgecolor": "none"})
        assert self.of("x")["ratio"] == pytest.approx(21)

    def test_labels_of_ticks_and_axes_titles_and_offsets(self) -> None:
        _, ax = plt.subplots()
        ax.set(xlabel="x axis", ylabel="y axis", title="title", xlim=(0, 1e9), yticks=[0, 1], yticklabels=["no", "yes"])
        ax.bar([0], [1], color="#000000")
        ax.tick_params(axis="y", labelcolor="#cccccc")
        table = plots.contrast().set_index("text")
        assert {"x axis", "y axis", "title", "no", "yes", "0.0", "1e9"} <= set(table.index)
        assert (table["ratio"] < table["needed"]).loc[["no", "yes"]].all()
        assert (table["ratio"] >= table["needed"]).drop(["no", "yes"]).all()

    @pytest.mark.parametrize(
        ("size", "weight", "needed"), [(17, "normal", 4.5), (30, "normal", 3), (23, "bold", 3), (23, "normal", 4.5)]
    )
    def test_large_text_needs_less_where_it_is_large_on_a_phone(self, size: float, weight: str, needed: float) -> None:
        figure = plt.figure(figsize=(5.2, 3.4))  # 499 pixels, of which a phone shows 320
        figure.text(0.5, 0.5, "x", size=size, weight=weight)
        assert self.of("x", figure)["needed"] == needed
        small = plt.figure(figsize=(3, 3))
        small.text(0.5, 0.5, "x", size=18)
        assert self.of("x", small)["needed"] == 3

    def test_what_nobody_sees_is_not_measured(self) -> None:
        figure, (ax, bare, hidden) = plt.subplots(1, 3)
        ax.text(0, 0, "invisible", visible=False)
        ax.text(0, 0, "  ")
        ax.text(0, 0, "no ink", color="none")
        ax.set(xticks=[], yticks=[])
        bare.set(xlabel="no axes")
        bare.axis("off")
        hidden.set(xlabel="hidden")
        hidden.set_visible(False)
        assert plots.contrast(figure).empty
        assert list(plots.contrast(figure)) == ["text", "page", "colour", "behind", "ratio", "needed"]

    def test_text_outside_the_canvas_stands_on_the_page(self) -> None:
        _, ax = plt.subplots()
        ax.axhspan(0, 1, color="#000000")
        ax.text(3, 0.5, "far", color="#999999")
        assert self.of("far")["behind"] == "#ffffff"

    def test_a_line_across_a_text_is_no_ground_but_half_a_bar_is(self) -> None:
        _, ax = plt.subplots()
        ax.bar([0], [1], width=0.2, color=plots.INK)
        ax.axhline(0.5, color=plots.INK)
        ax.text(0.5, 0.5, "crossed", va="center")
        ax.text(0.1, 0.8, "half", ha="center")
        ax.set_xlim(-1, 1)
        assert self.of("crossed")["ratio"] >= 4.5
        assert self.of("half")["ratio"] < 1.5

    def test_transparent_ink_is_paler(self) -> None:
        plt.figtext(0.5, 0.5, "x", color="#000000", alpha=0.25)
        assert self.of("x")["ratio"] < 2

    def test_a_white_plate_of_the_figure_counts_for_nothing(self) -> None:
        """No page gets it: pictures are transparent."""
        figure, ax = plt.subplots(facecolor="white")
        ax.set_facecolor("white")
        ax.text(0.5, 0.5, "x", color="#000000")
        assert self.of("x")["page"] == "dark"
        assert figure.dpi == 96 and figure.patch.get_visible()

    def test_the_file_has_the_shades_that_were_measured(self) -> None:
        ax = curve({"KD": 1.0}, {"KD": "teacher"})
        plots.label_ends(ax)
        ax.set_title("$x^2$")
        svg = plots.to_svg(plt.gcf())
        light, dark = _ink.SHADES[plots.COLOURS["teacher"]]
        assert re.search(f'<text style="[^"]*fill: {light}"[^>]*>KD</text>', svg)
        assert f'text[style*="{light}"],g[style*="{light}"]{{fill:{dark}!important}}' in svg
        assert plots.COLOURS["teacher"] in svg  # its line
        assert not re.search(f"<(text|g)[^>]*fill: {plots.INK}", svg)
        assert svg.count("<style>@media (prefers-color-scheme:dark)") == 1

    def test_only_the_book_complains(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def draw() -> None:
            plt.figtext(0.5, 0.5, "pale", color="#cccccc")
            plt.figtext(0.5, 0.2, "good")
            plots.show("A figure.")

        monkeypatch.delenv(_ink.ASKED, raising=False)
        draw()
        assert capsys.readouterr().err == ""
        monkeypatch.setenv(_ink.ASKED, "1")
        monkeypatch.setattr(_ink, "_seen", set())
        draw()
        draw()  # said once
        assert capsys.readouterr().err == (
            "text 'pale' in #cccccc on #ffffff has a contrast of 1.61:1 on the light page, it needs 4.5:1 "
            "(figure 'A figure.')\n"
        )

    def test_a_figure_that_moves_names_its_state(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def draw(T: float) -> str:
            plt.plot([0, 1])
            plt.text(0, 0, "pale", color="#cccccc" if T > 1 else plots.INK)
            return "It moves."

        monkeypatch.setenv(_ink.ASKED, "1")
        monkeypatch.setattr(_ink, "_seen", set())
        explore(draw, caption="Moving.", T=[1, 2, 4])
        assert capsys.readouterr().err == (
            "text 'pale' in #cccccc on #ffffff has a contrast of 1.61:1 on the light page, it needs 4.5:1 "
            "(figure 'Moving.' at T = 2)\n"
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.palette({"KD": "techer"}), "meaning must be one of hard, universe, .*, got 'techer'"),
        (lambda: plots.markers({"KD": ""}), "meaning must be one of hard"),
        (lambda: plots.dashes({"KD": "KD"}), "meaning must be one of hard, .* got 'KD'"),
        (lambda: plots.show("  ", figure=plt.figure()), "caption must say what to see, got '  '"),
        (lambda: plots.show("Nothing drawn."), "figure must be given or drawn before, got None"),
    ],
)
def test_bad_input_names_argument_value_and_expectation(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
