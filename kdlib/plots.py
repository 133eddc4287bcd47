"""The book's look: one meaning, one colour, on every page. Few shared helpers; every figure is a seaborn call."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib import _ink, _rc

#: The one colour of each meaning; all stand out on light and dark pages, also for colour-blind readers.
COLOURS = {
    "hard": "#8c8c8c",
    "universe": "#1f78d1",
    "domain": "#0b7a5a",
    "confidence": "#c8501e",
    "shape": "#c0408c",
    "teacher": "#b8860b",
}
#: Markers by meaning, for matplotlib.
MARKERS = {"hard": "o", "universe": "s", "domain": "^", "confidence": "D", "shape": "X", "teacher": "*"}
#: Dashes by meaning, for seaborn.
DASHES: dict[str, Any] = {
    "hard": "",
    "universe": (4, 2),
    "domain": (4, 2, 1, 2),
    "confidence": "",
    "shape": (1, 1.5),
    "teacher": (8, 2),
}
#: Colour of axes and text: over 4:1 on white and on the dark page, so one file serves both; as text it gets more (`_ink`).
INK = "#7d7d7d"
#: JupyterLab has no color-scheme of its own: its light and dark themes told to the pictures in it.
SCHEMES = "<style>{}</style>".format(
    "".join(
        f'[data-jp-theme-light="{light}"] .kd-figure img{{color-scheme:{scheme}}}'
        for light, scheme in (("true", "light"), ("false", "dark"))
    )
)
#: Sizes of figures in inches; text stays legible when a full figure is scaled to a phone.
FULL, HALF = (6.2, 3.6), (3.4, 2.9)


def use() -> None:
    """Set the book's theme for all figures of this session: transparent, mid-tone axes, text of the caption's size.

    It starts from matplotlib's own defaults: neither a matplotlibrc file nor what was set before leaves a trace.
    """
    plt.style.use("default")
    sns.set_theme(
        style="ticks",
        rc={
            "figure.figsize": FULL,
            "figure.dpi": 96,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "savefig.transparent": True,
            "svg.fonttype": "none",
            "svg.hashsalt": _rc.SALT,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],  # always there; a page falls back to the reader's own sans-serif
            "font.size": 12,
            "axes.labelsize": 12,
            "axes.titlesize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "text.color": INK,
            "axes.edgecolor": INK,
            "patch.edgecolor": "none",
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=list(COLOURS.values())),
            "lines.linewidth": 2,
            "lines.markersize": 6,
            "image.cmap": "vlag",
        },
    )


def palette(meanings: dict[str, str]) -> dict[str, str]:
    """Colours for seaborn: {"KD": "teacher", "LS 0.1": "universe"} -> {"KD": "#b8860b", ...}; likewise `markers`, `dashes`."""
    return {name: COLOURS[_known(meaning)] for name, meaning in meanings.items()}


def markers(meanings: dict[str, str]) -> dict[str, str]:
    """Markers for seaborn's `markers=`, by meaning."""
    return {name: MARKERS[_known(meaning)] for name, meaning in meanings.items()}


def dashes(meanings: dict[str, str]) -> dict[str, Any]:
    """Dash patterns for seaborn's `dashes=`, by meaning."""
    return {name: DASHES[_known(meaning)] for name, meaning in meanings.items()}


def _known(meaning: str) -> str:
    if meaning not in COLOURS:
        raise ValueError(f"meaning must be one of {', '.join(COLOURS)}, got {meaning!r}")
    return meaning


def zero(ax: Axes) -> None:
    """Draw the zero line of a plotted difference."""
    ax.axhline(0, color=INK, linewidth=1, zorder=0)


def label_ends(ax: Any, pad: float = 4, gap: float = 14) -> None:
    """Replace the legend by labels where the lines end, moved apart by `gap` points where they would overlap."""
    if legend := ax.get_legend():
        legend.remove()
    drawn = [line for line in ax.lines if len(line.get_xydata()) > 1]
    ends = []
    for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
        if not isinstance(handle, Line2D):
            continue
        # seaborn's legend holds empty twins: of the lines in the twin's colour, the one most like it
        alike = [line for line in drawn if _look(line)[0] == _look(handle)[0]]
        line = max(alike, key=lambda line: (line is handle, _look(line) == _look(handle)), default=handle)
        xy = np.asarray(line.get_xydata())
        xy = xy[np.isfinite(xy).all(axis=1)]
        if len(xy):
            ends.append((xy[xy[:, 0].argmax()], name, _look(handle)[0]))
    if not ends:
        return
    ax.autoscale_view()  # settles limits that are still to be fitted to the data
    pixels = 72 / ax.figure.dpi
    heights = [ax.transData.transform(end)[1] * pixels for end, _, _ in ends]  # in points
    placed = -np.inf
    for i in np.argsort(heights):
        (x, y), name, colour = ends[i]
        placed = max(heights[i], placed + gap)
        ax.annotate(
            name,
            (x, y),
            xytext=(pad, placed - heights[i]),
            textcoords="offset points",
            va="center",
            color=colour,
        )


def label_cells(ax: Axes) -> None:
    """Write the numbers in a heat map's cells in black or white, whichever is read better; seaborn's choice may not be.

    Raises ValueError where the axes has no heat map with one text in each of its cells.
    """
    mesh = next((mesh for mesh in ax.collections if isinstance(mesh, QuadMesh)), None)
    shown = ~np.ma.getmaskarray(np.ma.asarray([] if mesh is None else mesh.get_array())).ravel()
    if mesh is None or shown.sum() != len(ax.texts):
        raise ValueError(
            f"ax must be a heat map with a text in each cell, got {shown.sum()} cells and {len(ax.texts)} texts"
        )
    mesh.update_scalarmappable()
    for text, colour in zip(ax.texts, np.asarray(mesh.get_facecolor())[shown], strict=True):
        text.set_color(_ink.on(colour))


def _look(line: Line2D) -> tuple[str, Any, Any]:
    return mpl.colors.to_hex(line.get_color()), line.get_linestyle(), line.get_marker()


def contrast(figure: Figure | None = None) -> pd.DataFrame:
    """How well each text of a figure (default: the current one) is seen: columns text, page, colour, behind, ratio, needed.

    `ratio` is WCAG's contrast with what lies behind three quarters of the text, on the page, light or dark, where it is
    smaller; `needed` is 4.5, or 3 for text that is large even on a phone. Text outside the canvas stands on the page.
    """
    figure = plt.gcf() if figure is None else figure
    return pd.DataFrame(_ink.measure(figure), columns=list(_ink.Contrast._fields))


def to_svg(figure: Figure, caption: str = "") -> str:
    """The figure as an SVG text, reproducible byte for byte, text kept as text; closes the figure.

    Text in the book's colours takes the shade of it that is read well on the page, light or dark, that shows the file.
    """
    buffer = io.StringIO()
    with _rc.settings({"svg.fonttype": "none", "svg.hashsalt": _rc.SALT}):
        figure.savefig(
            buffer,
            format="svg",
            bbox_inches="tight",
            transparent=True,
            metadata={"Date": None, "Creator": None},
        )
        _ink.complain(figure, caption)
    plt.close(figure)
    return _ink.legible(buffer.getvalue())


class Picture:
    """A still figure with its caption and alternative text, the same in a notebook and in a page."""

    def __init__(self, svg: str, caption: str, alt: str) -> None:
        self.svg, self.caption, self.alt = svg, caption, alt

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        data = base64.b64encode(self.svg.encode()).decode()
        image = f'<img alt="{html.escape(self.alt)}" src="data:image/svg+xml;base64,{data}">'
        page = (
            f'<figure class="kd-figure">{image}<figcaption>{html.escape(self.caption)}</figcaption></figure>{SCHEMES}'
        )
        return {"text/html": page, "text/plain": self.alt}


def show(caption: str, alt: str | None = None, figure: Figure | None = None) -> Picture:
    """The current figure (or `figure`) as a `Picture`: caption below, `alt` for who cannot see it (default: the caption).

    Raises ValueError for an empty caption or where there is no figure.
    """
    if not caption.strip():
        raise ValueError(f"caption must say what to see, got {caption!r}")
    if figure is None and not plt.get_fignums():
        raise ValueError("figure must be given or drawn before, got None and no open figure")
    return Picture(to_svg(plt.gcf() if figure is None else figure, caption), caption, alt or caption)
