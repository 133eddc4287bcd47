"""matplotlib's settings without those of the reader's matplotlibrc file, which would change a figure without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.style

SALT = "kdlib"  # of the ids in SVG files; the book's theme sets it and is known by it


@contextmanager
def settings(own: Mapping[str, Any]) -> Iterator[None]:
    """Inside: matplotlib's own defaults, over them what this session has set since it began, over that `own`.

    The book's theme has been set whole in the session, so under it nothing can come from the file.
    """
    now: Any = mpl.rcParams
    default: Any = mpl.rcParamsDefault
    file: Any = mpl.rcParamsOrig
    themed = now["svg.hashsalt"] == SALT
    changed = [name for name in default if name != "backend" and now[name] != default[name]]  # asking for it loads one
    kept = {name: now[name] for name in changed if themed or now[name] != file[name]}
    with mpl.rc_context():
        mpl.style.use("default")
        now.update({**kept, **own})
        yield
