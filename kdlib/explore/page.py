"""A figure as HTML: native inputs over frames drawn ahead; works from a file, offline, printed and without a kernel."""

from __future__ import annotations

import hashlib
import html as markup
import json
import re
from importlib import resources
from typing import Any

from kdlib.explore.frame import Frame, Sweep


def html(sweep: Sweep, kernel: str = "") -> str:
    """The whole figure as one string of HTML: the first state as plain elements, all states for the script.

    kernel: the token by which the figure and the kernel that trains other settings for it find each other in a notebook; a
        figure with one has a panel for that, which a page never shows.
    """
    first, name = sweep.frame(sweep.start), figure_id(sweep)
    width, height = (round(float(x) / 0.75) for x in re.findall(r'(?:width|height)="([\d.]+)pt"', first.svg)[:2])
    controls = "".join(_control(sweep, i, control) for i, control in enumerate(sweep.controls))
    note = "Other settings can be trained in JupyterLab." if sweep.retrain else ""
    caption = " ".join(filter(None, [markup.escape(sweep.caption), note]))
    # `</` and `<!` would end or swallow the script element; JSON has another spelling for both.
    frames = json.dumps(data(sweep), ensure_ascii=False, separators=(",", ":"))
    frames = frames.replace("</", "<\\/").replace("<!", "\\u003c!")
    joined = f' data-kernel="{kernel}"' if kernel else ""
    parts = [
        f'<figure class="kdx" id="{name}"{joined} style="max-width: {width}px">',
        f"<style>{asset('explore.css')}{asset('train.css') * bool(kernel)}</style>",
        f'<img class="kdx-picture dark-light" alt="{markup.escape(first.sentence)}" width="{width}" height="{height}"'
        f' src="{markup.escape(first.source)}">',
        f'<div class="kdx-controls" role="group" aria-label="Controls of the figure" hidden>{controls}</div>',
        f'<p class="kdx-state">{markup.escape(first.state)}</p>',
        f'<p class="kdx-sentence" aria-live="polite">{markup.escape(first.sentence)}</p>',
        f"<details><summary>Data behind the figure</summary>{table(first)}</details>" if first.table else "",
        f'<script type="application/json" class="kdx-frames">{frames}</script>',
        f"<figcaption>{caption}</figcaption>" if caption else "",
        _training(sweep) if kernel else "",
        f"</figure>\n<script>{asset('explore.js')}</script>",
    ]
    return "\n".join(filter(None, parts))


def figure_id(sweep: Sweep) -> str:
    """The figure's name in the page and its address: from what it is about, not from its numbers, so that links last."""
    controls = [(name, control.label, control.texts) for name, control in sweep.controls.items()]
    about = json.dumps([sweep.caption, getattr(sweep.draw, "__qualname__", ""), controls])
    return "kdx-" + hashlib.sha256(about.encode()).hexdigest()[:8]


def data(sweep: Sweep) -> dict[str, Any]:
    """What the script reads: controls, the first state's indices, every frame, and every different table once."""
    tables: list[dict[str, Any]] = []
    frames = []
    for frame in sweep.frames:
        if frame.table is not None and frame.table not in tables:
            tables.append(frame.table)
        at = None if frame.table is None else tables.index(frame.table)
        frames.append({"state": frame.state, "sentence": frame.sentence, "svg": frame.svg, "table": at})
    return {
        "controls": [{"name": name, "texts": control.texts} for name, control in sweep.controls.items()],
        "start": [list(control.options).index(sweep.start[name]) for name, control in sweep.controls.items()],
        "frames": frames,
        "tables": tables,
    }


def table(frame: Frame) -> str:
    """The data of a frame as a table in a box that scrolls; an empty string where there is none."""
    if frame.table is None:
        return ""
    kinds = [' class="kdx-number"' if numeric else "" for numeric in frame.table["numeric"]]

    def row(cells: list[str], tag: str, scope: str = "") -> str:
        pairs = zip(cells, kinds, strict=True)
        return f"<tr>{''.join(f'<{tag}{scope}{kind}>{markup.escape(cell)}</{tag}>' for cell, kind in pairs)}</tr>"

    head = row(frame.table["columns"], "th", ' scope="col"')
    body = "".join(row(cells, "td") for cells in frame.table["rows"])
    return (
        '<div class="kdx-scroll" role="region" aria-label="Data behind the figure" tabindex="0">'
        f"<table><caption>{markup.escape(frame.state)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"
        "</div>"
    )


def _control(sweep: Sweep, i: int, name: str) -> str:
    """One labelled input; its value is the index of the option."""
    control, ticks = sweep.controls[name], f"{figure_id(sweep)}-{i}"
    at = list(control.options).index(sweep.start[name])
    texts = [markup.escape(text) for text in control.texts]
    label = f'<span class="kdx-name">{markup.escape(control.label or name)}</span>'
    if not control.numeric:
        picks = (f'<option value="{j}"{" selected" * (j == at)}>{text}</option>' for j, text in enumerate(texts))
        field = f'<select autocomplete="off">{"".join(picks)}</select>'
        return f'<div class="kdx-control"><label>{label}{field}</label></div>'
    marks = "".join(f'<option value="{j}" label="{text}"></option>' for j, text in enumerate(texts))
    field = (
        f'<input type="range" min="0" max="{len(texts) - 1}" value="{at}" aria-valuetext="{texts[at]}" '
        f'list="{ticks}" autocomplete="off">'
    )
    return (
        f'<div class="kdx-control"><label>{label}{field}</label>'
        f'<output aria-live="off">{texts[at]}</output><datalist id="{ticks}">{marks}</datalist></div>'
    )


def _training(sweep: Sweep) -> str:
    """Fields for a setting outside the grid, with the button that asks the kernel to train it."""
    fields = "".join(
        f'<div class="kdx-control"><label><span class="kdx-name">{markup.escape(control.label or name)}</span><input '
        f'type="number" name="{markup.escape(name)}" value="{sweep.start[name]}" step="any" required></label></div>'
        for name, control in sweep.controls.items()
        if control.numeric
    )
    return (
        '<div class="kdx-train" role="group" aria-label="Train another setting" hidden>'
        f'<div class="kdx-fields">{fields}</div><div class="kdx-steps">'
        '<button type="button" aria-disabled="true">Train this setting</button>'
        '<button type="button" aria-disabled="true">Stop</button>'
        '<progress max="1" value="0" aria-label="Progress of training"></progress></div>'
        '<p class="kdx-said" role="status">No kernel is connected to this figure: run its cell again to train other '
        'settings.</p><div class="kdx-trained kdx-control" hidden></div></div>'
    )


def asset(name: str) -> str:
    """The text of one of the figure's files, its style or its script."""
    return resources.files("kdlib").joinpath("explore", "static", name).read_text("utf-8").strip()
