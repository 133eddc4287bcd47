"""Ctrl-C that is neither lost nor cuts a piece of bookkeeping in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Interrupts:
    """Inside, Python's KeyboardInterrupt comes in `taken` and from `check` only; elsewhere it is kept until one of them.

    Python raises it wherever the main thread happens to be. In a finaliser or a callback of somebody else's code it is
    printed and forgotten, and between two statements that belong together it leaves half of them. Here the signal is
    remembered, so both end the same way. A second Ctrl-C is raised at once. Where somebody else handles the signal, or in
    a thread that cannot, nothing is changed.
    """

    def __init__(self) -> None:
        self.came = self.open = self.ours = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        self.ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.ours:
            signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raises KeyboardInterrupt if one came."""
        if self.came:
            raise KeyboardInterrupt

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A block that may be left at any point: one that waits, or that runs the user's code."""
        self.open = True
        try:
            self.check()
            yield
        finally:
            self.open = False
        self.check()

    def _take(self, number: int, frame: FrameType | None) -> None:
        again, self.came = self.came, True
        if self.open or again:
            signal.default_int_handler(number, frame)
