"""A figure's kernel: trains settings outside the grid and hands their frames to the figure in the browser."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Generator, Mapping
from dataclasses import asdict
from typing import Any

import anywidget
import traitlets

from kdlib.explore.frame import Frame, State, Sweep
from kdlib.explore.page import asset


class Live(anywidget.AnyWidget):
    """What a notebook's figure asks of its kernel: `train` a setting, or `stop`. The controls never need it.

    It has no view. Its script (train.js) joins it to the figures that carry its `token`, whichever of them comes first, and
    says there what it says here: `said` (an error if `failed`), `busy`, `progress` from 0 to 1, the frames `trained` so far,
    and how many requests were `answered`, so that a reader who waits for a kernel at work on other cells is told so.
    """

    _esm = asset("train.js")
    token = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    failed = traitlets.Bool().tag(sync=True)
    busy = traitlets.Bool().tag(sync=True)
    progress = traitlets.Float().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)
    trained = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(token=uuid.uuid4().hex)
        self.sweep, self.frames = sweep, dict[str, Frame]()
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self.on_msg(lambda _, content, __: self._hear(content))

    async def train(self, **state: Any) -> None:
        """Train a setting until done or stopped and show it: values by control, the start's where none is given.

        Errors of the training are shown under the figure and raised. ValueError for a setting that the controls cannot mean,
        in a figure without `retrain`, and while another setting is being trained.
        """
        await self._run(self._begin(state))

    def stop(self) -> None:
        """End the training that runs, after the step that it is at."""
        if self.busy:
            self._stopped = True
            self._say("Stopping after this step.", busy=True)

    def _hear(self, content: Mapping[str, Any]) -> None:
        """A request from the browser: the stop button, or where the controls stand and the numbers in the fields."""
        if "stop" in content:
            self.stop()
        if "train" not in content:
            return
        at, numbers = content["train"]["at"], content["train"]["numbers"]
        options = [control.options[i] for control, i in zip(self.sweep.controls.values(), at, strict=True)]
        with self.hold_sync():  # the answer and what it is arrive together
            self.answered += 1
            if self.busy:  # another window asked first
                return
            state = self._begin(dict(zip(self.sweep.controls, options, strict=True)) | numbers)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel to keep free: train here and return when done
            asyncio.run(self._run(state))
        else:
            self._task = loop.create_task(self._run(state))  # kept, since the loop holds its tasks only weakly

    def _begin(self, given: State) -> State:
        """The whole setting that is to be trained, announced."""
        if self.sweep.retrain is None:
            raise ValueError("train needs a figure that was made with retrain, got one without")
        if self.busy:
            raise ValueError(f"train must wait until the setting in training is ready, got {given} before")
        state = self._setting(given)
        self._stopped, self.progress = False, 0.0
        self._say(f"Training {self.sweep.words(state)}.", busy=True)
        return state

    async def _run(self, state: State) -> None:
        assert self.sweep.retrain is not None
        words, steps = self.sweep.words(state), None
        try:
            steps = self.sweep.retrain(**state)
            if not isinstance(steps, Generator):
                raise ValueError(f"retrain must be a generator function, got one that returns {type(steps).__name__}")
            done, value = False, None
            while not (done or self._stopped):
                # in a thread: the kernel stays free to hear the stop button
                done, value = await asyncio.to_thread(_advance, steps)
                self.progress = 1.0 if done else _fraction(value)
            if done:
                frame = self.sweep.render(state, value)
                self.frames = {at: old for at, old in self.frames.items() if at != words} | {words: frame}
                with self.hold_sync():  # the figure and the words for it arrive together
                    self.trained = [asdict(frame) for frame in self.frames.values()]
                    self._say(f"Shown: {words}, trained just now. Any control leads back to the settings above.")
            else:
                self._say(f"Stopped before {words} was ready.")
        except Exception as error:
            self._say(f"{words} failed: {type(error).__name__}: {error}", failed=True)
            raise
        finally:
            if isinstance(steps, Generator):
                steps.close()

    def _setting(self, given: Mapping[str, Any]) -> State:
        """A whole setting, its numbers whole where all options of their control are. ValueError for one that cannot be."""
        state = dict(self.sweep.start)
        for name, value in given.items():
            if name not in state:
                raise ValueError(f"train must be given controls of the figure ({', '.join(state)}), got {name!r}")
            control = self.sweep.controls[name]
            if not control.numeric:
                if value not in control.options:
                    raise ValueError(f"{name} must be one of {list(control.options)}, got {value!r}")
            elif not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
            elif float(value).is_integer() and all(isinstance(option, int) for option in control.options):
                value = int(value)
            state[name] = value
        return state

    def _say(self, text: str, *, busy: bool = False, failed: bool = False) -> None:
        with self.hold_sync():
            self.said, self.busy, self.failed = text, busy, failed


def _advance(steps: Generator[Any, None, Any]) -> tuple[bool, Any]:
    """One step of a generator: (False, what it yields) or (True, what it returns)."""
    try:
        return False, next(steps)
    except StopIteration as end:
        return True, end.value


def _fraction(progress: Any) -> float:
    """How far training is, from 0 to 1."""
    return float(progress.step / progress.steps if hasattr(progress, "steps") else progress)
