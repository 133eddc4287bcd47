"""One figure for notebooks and pages: controls over frames drawn ahead, which need no kernel, and training, which needs one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlib.explore.frame import Control, Draw, Retrain, State, Sweep, Table
from kdlib.explore.page import html

if TYPE_CHECKING:
    from kdlib.explore.live import Live


def explore(
    draw: Draw,
    *,
    table: Table = None,
    caption: str = "",
    start: State | None = None,
    retrain: Retrain | None = None,
    max_states: int = 64,
    max_bytes: int = 600_000,
    **controls: Iterable[Any] | Control,
) -> Explorer:
    """Make one figure that a reader moves, in a notebook and in a rendered page alike.

    draw(**state) draws on the current matplotlib figure, from numbers computed before, and returns the sentence that says
        what is to be seen: the text under the figure, and the text for those who cannot see it. Every state is drawn here
        and now, so a state that cannot be drawn raises in the cell. The figure is FIGSIZE inches unless draw resizes it. It
        must be the same every time (seaborn's bootstrap needs a seed; jitter is taken care of).
    table: the data behind the figure, a tidy DataFrame (the rows of a state are picked by the columns named like controls,
        and those columns left out) or a function of the state that returns one.
    caption: one plain sentence on what was run, the same at every state. start: the state shown first (else first values).
    retrain(**state) is a generator for settings outside the grid, in a notebook whose kernel runs. It yields numbers from 0 to 1, or objects with
        `step` and `steps`, and returns a pair (draw, table) that shows the new setting, or nothing if the ones given here do.
        Its steps run in a worker thread, so the kernel hears the stop button; figures are never drawn in that thread.
    controls: one to three, each name=list of numbers, strings or bools, or name=Control. All combinations are drawn.

    Raises ValueError for empty, repeated or unusable values, for a draw without a sentence or with chance in it, for a table without rows at some
    state, and for more than `max_states` states or `max_bytes` bytes of page, naming what to reduce.
    """
    if not 1 <= len(controls) <= 3:
        raise ValueError(f"controls must be one to three lists, got {len(controls)} ({', '.join(controls) or 'none'})")
    known = {name: _checked(name, given) for name, given in controls.items()}
    sizes = {name: len(control.options) for name, control in known.items()}
    if (states := math.prod(sizes.values())) > max_states:
        product = " x ".join(f"{size} {name}" for name, size in sizes.items())
        longest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(f"controls make {product} = {states} states, more than {max_states}: shorten {longest!r}")
    first = {name: control.options[0] for name, control in known.items()}
    for name, value in (start or {}).items():
        if name not in known or value not in known[name].options:
            expected = f"one of {list(known[name].options)}" if name in known else f"only {list(known)}"
            raise ValueError(f"start has {name}={value!r}, expected {expected}")
        first[name] = known[name].options[list(known[name].options).index(value)]
    explorer = Explorer(draw, table, caption, first, retrain, known)
    size, pictures = len(explorer.html().encode()), sum(len(frame.svg.encode()) for frame in explorer.frames)
    if size > max_bytes:
        raise ValueError(
            f"the figure takes {size:,} bytes of page, more than {max_bytes:,}: {states} states of {pictures // states:,} "
            f"bytes a picture and {(size - pictures) // states:,} for the rest. Shorten a control, draw fewer marks, "
            "or aggregate the table"
        )
    return explorer


class Explorer(Sweep):
    """A figure with controls, made by `explore`: display it. `html()` is the figure, `live` trains further settings for it.

    `frames` holds a Frame for every combination of the controls' values, last control fastest.
    """

    @cached_property
    def live(self) -> Live:
        """What trains settings outside the grid, made when first asked for."""
        from kdlib.explore.live import Live  # the widgets behind it are wanted by few figures, and by no script

        return Live(self)

    def html(self) -> str:
        """The figure: one string, nothing to fetch, the first state visible without scripts."""
        return html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The same figure for notebooks and pages, and its sentence for a terminal.

        No widget: a figure of plain HTML answers while the kernel is busy, and in a notebook that was opened again.
        """
        page = html(self, self.live.token) if self.retrain else self.html()
        return {"text/html": page, "text/plain": self.frame(self.start).sentence}


def _checked(name: str, given: Iterable[Any] | Control) -> Control:
    """A Control with plain Python values, or a ValueError that names it."""
    options, label = (given.options, given.label) if isinstance(given, Control) else (given, "")
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise ValueError(f"control {name!r} must be a list of values, got {options!r}")
    values = [option.item() if isinstance(option, np.generic) else option for option in options]
    if not values:
        raise ValueError(f"control {name!r} must have at least one value, got an empty list")
    for value in values:
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"control {name!r} must hold finite numbers, strings or bools, got {value!r}")
    control = Control(values, label)
    numbers = sorted(value for value in values if not isinstance(value, str))
    near = any(math.isclose(one, other, rel_tol=2e-6) for one, other in pairwise(numbers))  # a table's rows would mix
    if near or len(set(values)) < len(values) or len(set(control.texts)) < len(values):
        raise ValueError(f"control {name!r} must hold values that differ (in six digits), got {values}")
    return control
