"""Draw the book's mark and its card for links: ``python -m book.tools.look`` writes both to ``book/_static``.

The mark is the book's main figure in small: what a teacher says (gold) as a ladder of its four parts, the last one the longest
step. The card is that ladder with measured heights, those of the shipped table on 20 classes of CIFAR-100.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.patches import Rectangle

from kdlib import _files, claims, plots
from kdlib.data.shipped import shipped
from kdlib.fleet import chosen

STATIC = Path(__file__).parents[1] / "_static"
TITLE = "Knowledge distillation\nby experiment"
PARTS = {"universe": 12, "domain": 8, "confidence": 14, "shape": 26}  # heights in the mark, of 60
RUNGS = ["hard labels", "universe", "domain", "domain + confidence", "teacher"]
PAPER, TEXT, QUIET = "#ffffff", "#1b1f23", "#5c5c5c"


def mark() -> str:
    """The mark as an SVG file of 64 by 64 units: five columns, each part standing on the one before."""
    bottom, columns = 62, []
    for i, (part, height) in enumerate([*PARTS.items(), ("teacher", sum(PARTS.values()))]):
        y = bottom - height if part != "teacher" else 62 - height
        columns.append(
            f'<rect x="{2 + 12.5 * i:g}" y="{y}" width="10" height="{height}" rx="1.5" fill="{plots.COLOURS[part]}"/>'
        )
        bottom -= height
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
        f"<title>Knowledge distillation by experiment</title>{''.join(columns)}</svg>\n"
    )


def steps() -> pd.DataFrame:
    """What students of CIFAR-100 gain by each part: columns part, start, gain, low, high in points, and seeds."""
    table = pd.DataFrame(shipped("image_ladder"))
    kept = table["recipe"].isin(RUNGS) & (table["temperature"].eq(4) | table["recipe"].eq("hard labels"))
    students = chosen(table[kept & table["where"].str.startswith("CIFAR")], of="steps")
    found = []
    for part, worse, better in zip(PARTS, RUNGS, RUNGS[1:], strict=False):
        gained = 100 * claims.paired(students, "accuracy", better, worse)
        gain, low, high = claims.interval(gained)
        found.append({"part": part, "gain": gain, "low": low, "high": high, "seeds": len(gained)})
    return pd.DataFrame(found).assign(start=lambda frame: frame["gain"].cumsum().shift(fill_value=0.0))


def card() -> bytes:
    """The card as a PNG of 1200 by 630 pixels: title, and the ladder of what each part brings."""
    ladder = steps()
    whole = float(ladder["gain"].sum())
    names = ["smoothing", "class relations", "confidence", "wrong answers", "whole teacher"]
    with plt.style.context("default"), plt.rc_context({"font.family": "DejaVu Sans"}):
        figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
        figure.text(0.06, 0.86, TITLE, size=38, weight="bold", color=TEXT, va="top", linespacing=1.25)
        figure.text(
            0.06, 0.47, "A teacher's answer, taken apart:\nwhat does each part teach?", size=21, color=QUIET, va="top"
        )
        figure.text(0.06, 0.09, "a book whose pages run  ·  kdlib", size=17, color=QUIET)
        ax = figure.add_axes((0.57, 0.2, 0.4, 0.6))
        for i, row in enumerate(ladder.itertuples()):
            _column(ax, i, float(row.start), float(row.gain), str(row.part))  # type: ignore[arg-type]
        _column(ax, 4, 0.0, whole, "teacher")
        ax.axhline(0, color=QUIET, linewidth=1.5)
        ax.set(xlim=(-0.6, 4.6), ylim=(-1.2, whole + 1.6), xticks=range(5), yticks=[])
        ax.set_xticklabels([name.replace(" ", "\n", 1) for name in names], size=13, color=TEXT)
        ax.tick_params(length=0)
        for side in ("left", "right", "top", "bottom"):
            ax.spines[side].set_visible(False)
        figure.text(
            0.57,
            0.06,
            f"points of accuracy, 20 classes of CIFAR-100, {ladder['seeds'].min()} seeds",
            size=13,
            color=QUIET,
        )
        file = io.BytesIO()
        figure.savefig(file, format="png", facecolor=PAPER, metadata={"Software": None})
        plt.close(figure)
    return file.getvalue()


def _column(ax: plt.Axes, at: int, start: float, gain: float, part: str) -> None:
    ax.add_patch(Rectangle((at - 0.4, min(start, start + gain)), 0.8, abs(gain), color=plots.COLOURS[part]))
    text = f"{gain:+.1f}".replace("-", "−")
    ax.text(at, max(start, start + gain) + 0.25, text, ha="center", size=17, weight="bold", color=TEXT)


def main(arguments: Sequence[str] = ()) -> int:
    """Write both files; takes no arguments."""
    if arguments:
        print(f"no arguments are known, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    _files.write_text(STATIC / "mark.svg", mark())
    _files.write_bytes(STATIC / "card.png", card())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
