"""The look: contrast, distinguishable colours, reproducible pictures, labels that do not overlap."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from kdlib import plots

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


@pytest.mark.parametrize("page", ["#ffffff", "#14181e"])
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
