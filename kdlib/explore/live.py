"""A figure's life in a notebook: ipywidgets, and the training of settings outside the grid."""

from __future__ import annotations

import asyncio
import html as markup
from collections.abc import Generator
from typing import Any

import ipywidgets

from kdlib.explore.frame import Frame, Sweep
from kdlib.explore.page import asset, table


class Live:
    """The widgets of one figure. `box` is the one to display, `controls` the inputs by name, `frame` what is shown.

    Sliders use plain `observe` callbacks: an error in one reaches the caller and is never caught in an Output widget. Errors
    in training are shown under the figure and raised by `train`; a button, whose callbacks ipywidgets guards, logs them.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        style = {"description_width": "auto"}
        self.controls: dict[str, Any] = {}
        for name, control in sweep.controls.items():
            kind = ipywidgets.SelectionSlider if control.numeric else ipywidgets.Dropdown
            self.controls[name] = kind(
                options=list(zip(control.texts, control.options, strict=True)),
                value=sweep.start[name],
                description=control.label or name,
                style=style,
                layout=ipywidgets.Layout(width="22rem"),
            )
            self.controls[name].observe(self._moved, names="value")
        self.picture, self.sentence, self.table = (ipywidgets.HTML() for _ in range(3))
        # not a details element like the page's, which would close at every move
        folded = ipywidgets.Accordion([self.table], titles=["Data behind the figure"])
        caption = f"<p>{markup.escape(sweep.caption)}</p>" if sweep.caption else ""
        words = ipywidgets.HTML(f"<style>{asset('explore.css')}</style>{caption}")

        self.numbers = {
            name: ipywidgets.FloatText(sweep.start[name], description=control.label or name, style=style)
            for name, control in sweep.controls.items()
            if control.numeric
        }
        self.train_button = ipywidgets.Button(description="Train this setting")
        self.stop_button = ipywidgets.Button(description="Stop", disabled=True)
        self.progress = ipywidgets.FloatProgress(min=0.0, max=1.0)
        self.message = ipywidgets.HTML()
        self.train_button.on_click(self._press_train)
        self.stop_button.on_click(self._press_stop)
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        training = [
            ipywidgets.HBox([*self.numbers.values(), self.train_button], layout=wrap),
            ipywidgets.HBox([self.progress, self.stop_button], layout=wrap),
            self.message,
        ]

        inputs = ipywidgets.HBox(list(self.controls.values()), layout=wrap)
        parts = [self.picture, inputs, self.sentence, words]
        parts += [folded] if sweep.table is not None else []
        parts += training if sweep.retrain else []
        self.box = ipywidgets.VBox(parts)
        self.box.add_class("kdx")
        self.show(sweep.frame(sweep.start))

    @property
    def state(self) -> dict[str, Any]:
        """Where the controls stand."""
        return {name: control.value for name, control in self.controls.items()}

    def show(self, frame: Frame) -> None:
        """Put one frame in front of the reader: picture, sentence and table together."""
        self.frame = frame
        alt, source = markup.escape(frame.sentence), markup.escape(frame.source)
        self.picture.value = f'<img alt="{alt}" src="{source}" style="max-width: 100%">'
        self.sentence.value = f'<p role="status">{alt}</p>'
        self.table.value = table(frame)

    async def train(self) -> None:
        """Train the setting in the number fields until done or stopped, then show it. An error is shown and raised."""
        assert self.sweep.retrain is not None
        state = self.state | {name: self._number(name) for name in self.numbers}
        words = self.sweep.words(state)
        self._stopped, self.progress.value = False, 0.0
        self.train_button.disabled, self.stop_button.disabled = True, False
        self._say(f"Training {words}.")
        steps = None
        try:
            steps = self.sweep.retrain(**state)
            if not isinstance(steps, Generator):
                raise ValueError(f"retrain must be a generator function, got one that returns {type(steps).__name__}")
            done, value = False, None
            while not (done or self._stopped):
                # in a thread: the kernel stays free to hear the stop button
                done, value = await asyncio.to_thread(_advance, steps)
                self.progress.value = 1.0 if done else _fraction(value)
            if done:
                self.show(self.sweep.render(state, value))
                self._say(f"Shown: {words}, trained just now. Any control leads back to the settings above.")
            else:
                self._say(f"Stopped before {words} was ready.")
        except Exception as error:
            self._say(f"{words} failed: {type(error).__name__}: {error}", role="alert")
            raise
        finally:
            if isinstance(steps, Generator):
                steps.close()
            self.train_button.disabled, self.stop_button.disabled = False, True

    def _moved(self, _change: Any) -> None:
        self.message.value = ""
        self.show(self.sweep.frame(self.state))

    def _press_train(self, _button: Any) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel to keep free: train here and return when done
            asyncio.run(self.train())
        else:
            self._task = loop.create_task(self.train())  # kept, since the loop holds its tasks only weakly

    def _press_stop(self, _button: Any) -> None:
        self._stopped = True

    def _number(self, name: str) -> float | int:
        """A number field's value, whole where all options of its control are."""
        value = float(self.numbers[name].value)
        whole = all(isinstance(option, int) for option in self.sweep.controls[name].options)
        return int(value) if whole and value.is_integer() else value

    def _say(self, text: str, role: str = "status") -> None:
        self.message.value = f'<p role="{role}">{markup.escape(text)}</p>'


def _advance(steps: Generator[Any, None, Any]) -> tuple[bool, Any]:
    """One step of a generator: (False, what it yields) or (True, what it returns)."""
    try:
        return False, next(steps)
    except StopIteration as end:
        return True, end.value


def _fraction(progress: Any) -> float:
    """How far training is, from 0 to 1."""
    return float(progress.step / progress.steps if hasattr(progress, "steps") else progress)
