"""Text in figures: its shades for light and dark pages, and the contrast at which a reader really sees it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage, BboxImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from numpy.typing import NDArray

#: The pages that a transparent figure lies on.
PAGES = {"light": "#ffffff", "dark": "#121212"}
#: What the book's colours become as text on a light and on a dark page: no single colour reaches 4.5:1 on both.
SHADES = {
    "#8c8c8c": ("#6f6f6f", "#8f8f8f"),
    "#1f78d1": ("#1d70c4", "#4293e3"),
    "#0b7a5a": ("#0b7a5a", "#0fa378"),
    "#c8501e": ("#bc4b1c", "#e26d3c"),
    "#c0408c": ("#bc3e89", "#cf6fa8"),
    "#b8860b": ("#8f6809", "#b9870b"),
    "#7d7d7d": ("#6f6f6f", "#8f8f8f"),
}
NEEDED, LARGE = 4.5, 3.0  # WCAG 2, for ordinary and for large text
PHONE = 320  # pixels: the narrowest that a page shows a figure, which is when its text is smallest
THICK = 6  # points from which a line is a surface that text may stand on
#: Where a text is looked at, as parts of its box, and what part of it a line or a dot may cross.
GRID, CROSSED = (np.linspace(0.06, 0.94, 9), np.linspace(0.1, 0.9, 5)), 0.25
ASKED = "KDLIB_MEASURE_INK"  # set where the book's own chapters run, never for a reader

_TEXT = re.compile(r"<(?:text|g style=)[^>]*>")
_FILL = re.compile(r"(fill: ?)(#[0-9a-f]{6})")
_LINEAR = np.array([v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255])
_seen: set[tuple[str, ...]] = set()


def legible(svg: str) -> str:
    """An SVG whose text in the book's colours takes their shade for the page it lies on: light, or dark by a style."""
    used: dict[str, str] = {}

    def lighten(tag: re.Match[str]) -> str:
        def shade(fill: re.Match[str]) -> str:
            if fill[2] not in SHADES:
                return fill[0]
            light, used[light] = SHADES[fill[2]]
            return fill[1] + light

        return _FILL.sub(shade, tag[0])

    svg = _TEXT.sub(lighten, svg)
    if not used:
        return svg
    rules = (
        f'text[style*="{light}"],g[style*="{light}"]{{fill:{dark}!important}}' for light, dark in sorted(used.items())
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{''.join(rules)}}}</style>"
    return re.sub(r"<svg[^>]*>", lambda tag: tag[0] + style, svg, count=1)


def on(colour: Any) -> str:
    """Black or white, whichever is read better on a surface of this colour: at least 4.5:1."""
    ground = 255 * np.array(mpl.colors.to_rgb(colour))
    return max(("#000000", "#ffffff"), key=lambda ink: float(_ratio(_bytes(ink), ground)))


class Contrast(NamedTuple):
    """How well one text is seen, on the page where it is harder to read."""

    text: str
    page: str
    colour: str
    behind: str
    ratio: float
    needed: float


def measure(figure: Figure, drawn: bool = False) -> list[Contrast]:
    """The contrast of each text of a figure; `drawn` says that it has just been saved whole as an SVG, which saves time.

    What lies behind is drawn only where a text meets an axes with something filled in it; everywhere else it is the page.
    """
    with _at_72_dpi(figure):
        if not drawn:
            figure.draw_without_rendering()
        texts = [text for text in _texts(figure) if text.get_text().strip() and _colour(text)[3] > 0]
        behind = np.zeros((len(texts), len(GRID[0]) * len(GRID[1]), 4))  # transparent: the page itself
        surfaces = [(axes, filled) for axes in figure.axes if (filled := _filled(axes))]
        if surfaces and texts:
            boxes = np.array([text.get_window_extent().extents for text in texts])
            meets = [_meets(boxes, axes) for axes, _ in surfaces]
            inside = np.any(meets, axis=0)
            if inside.any():
                renderer = RendererAgg(int(figure.bbox.width), int(figure.bbox.height), figure.dpi)
                for (_, filled), met in zip(surfaces, meets, strict=True):
                    for artist in filled if met.any() else []:
                        artist.draw(renderer)
                behind[inside] = _looked_at(np.asarray(renderer.buffer_rgba()), boxes[inside])
    return _contrasts(texts, behind, scale=min(1.0, PHONE / (figure.get_figwidth() * 96)))


def complain(figure: Figure, caption: str, state: str = "", drawn: bool = False) -> None:
    """Where the book's chapters run: say on stderr, which their gate refuses, which text is hard to read; once each."""
    if ASKED not in os.environ:
        return
    for found in measure(figure, drawn):
        key = (caption, found.text, found.colour, found.behind)
        if found.ratio < found.needed and key not in _seen:
            _seen.add(key)
            at = f" at {state}" if state else ""
            print(
                f"text {found.text!r} in {found.colour} on {found.behind} has a contrast of {found.ratio:.2f}:1 on the "
                f"{found.page} page, it needs {found.needed:g}:1 (figure {caption!r}{at})",
                file=sys.stderr,
            )


@contextmanager
def _at_72_dpi(figure: Figure) -> Iterator[None]:
    """Inside: at the resolution of an SVG, for which saving one has left all sizes and places known."""
    dpi = figure.dpi
    figure.set_dpi(72)
    try:
        yield
    finally:
        figure.set_dpi(dpi)


def _texts(artist: Artist) -> Iterator[Text]:
    """All texts below an artist that are drawn."""
    if not artist.get_visible():
        return
    if isinstance(artist, Text):
        yield artist
        return
    bare = isinstance(artist, Axes) and not artist.axison
    for child in artist.get_children():
        if not (bare and isinstance(child, Axis)):
            yield from _texts(child)


def _filled(axes: Axes) -> list[Artist]:
    """What a text can stand on, in the order of drawing: areas, images, thick lines, plates of legends and texts.

    Not the plate of the axes, nor that of the figure: a page gets neither.
    """
    found = []
    for child in axes.get_children():
        plate = child.get_bbox_patch() if isinstance(child, Text) else getattr(child, "legendPatch", child)
        if plate is not None and plate is not axes.patch and child.get_visible() and _is_filled(plate):
            found.append((child.get_zorder(), plate))
    return [plate for _, plate in sorted(found, key=lambda pair: pair[0])]


def _is_filled(artist: Artist) -> bool:
    if not artist.get_visible():
        return False
    if isinstance(artist, Collection):
        thick = np.max(artist.get_linewidth(), initial=0) >= THICK
        return thick or artist.get_array() is not None or bool(np.any(np.asarray(artist.get_facecolor())[..., 3:]))
    if isinstance(artist, Line2D):
        return artist.get_linewidth() >= THICK
    if isinstance(artist, Patch):
        return artist.get_fill() and mpl.colors.to_rgba(artist.get_facecolor())[3] > 0
    return isinstance(artist, AxesImage | BboxImage)


def _meets(boxes: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """Which texts meet an axes with their middle part; a tick's label may touch its edge."""
    frame = axes.get_window_extent()
    quarter = (boxes[:, 2:] - boxes[:, :2]) / 4
    low, high = boxes[:, :2] + quarter, boxes[:, 2:] - quarter
    return np.asarray((high >= frame.min).all(1) & (low <= frame.max).all(1))


def _looked_at(pixels: NDArray[Any], boxes: NDArray[Any]) -> NDArray[Any]:
    """The pixels behind a grid of points in each box, (texts, points, rgba); transparent where it leaves the canvas."""
    height, width = pixels.shape[:2]
    x = boxes[:, 0, None] + GRID[0] * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, 1, None] + GRID[1] * (boxes[:, 3] - boxes[:, 1])[:, None]
    column, row = np.floor(x).astype(int)[:, :, None], np.floor(height - y).astype(int)[:, None, :]
    found = pixels[row.clip(0, height - 1), column.clip(0, width - 1)].astype(float)
    found[(row < 0) | (row >= height) | (column < 0) | (column >= width)] = 0
    return found.reshape(len(boxes), -1, 4)


def _contrasts(texts: list[Text], behind: NDArray[Any], scale: float) -> list[Contrast]:
    """What a reader sees of the texts, over the pixels behind them (texts, points, rgba)."""
    inks = np.array([_colour(text) for text in texts]).reshape(-1, 1, 4)
    colours = [mpl.colors.to_hex(ink) for ink in inks[:, 0]]
    alpha, part, nth = inks[..., 3:], behind[..., 3:] / 255, int(CROSSED * behind.shape[1])
    found: list[list[Contrast]] = [[] for _ in texts]
    for i, (page, paper) in enumerate(PAGES.items()):
        shades = [SHADES.get(colour, (colour, colour))[i] for colour in colours]
        ground = part * behind[..., :3] + (1 - part) * _bytes(paper)
        ink = alpha * np.array([_bytes(shade) for shade in shades]).reshape(-1, 1, 3) + (1 - alpha) * ground
        ratios = _ratio(ink, ground)
        worst = np.argsort(ratios, axis=1, kind="stable")[:, nth]  # but for what crosses it
        for j, (text, point) in enumerate(zip(texts, worst, strict=True)):
            size = float(text.get_fontsize()) * scale
            needed = LARGE if size >= 18 or (size >= 14 and _heavy(text)) else NEEDED
            on = mpl.colors.to_hex(np.round(ground[j, point]) / 255)
            found[j].append(Contrast(text.get_text(), page, shades[j], on, float(ratios[j, point]), needed))
    return [min(both, key=lambda one: one.ratio) for both in found]


def _colour(text: Text) -> tuple[float, float, float, float]:
    return mpl.colors.to_rgba(text.get_color(), text.get_alpha())


def _heavy(text: Text) -> bool:
    weight = text.get_fontweight()
    return int(mpl.font_manager.weight_dict.get(weight, 400) if isinstance(weight, str) else weight) >= 600


def _bytes(colour: str) -> NDArray[Any]:
    return 255 * np.array(mpl.colors.to_rgb(colour))


def _ratio(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """WCAG 2 contrast ratios of colours (..., 3) of 0 to 255."""
    one, other = (_LINEAR[np.round(c).astype(int)] @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (a, b))
    return np.maximum(one, other) / np.minimum(one, other)
