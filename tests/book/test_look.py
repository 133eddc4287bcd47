"""The mark and the card in ``book/_static`` are what the program draws."""

import io

import numpy as np
import pytest
from PIL import Image

from book.tools import look
from kdlib import claims


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)


def test_the_mark_is_what_the_program_draws() -> None:
    assert (look.STATIC / "mark.svg").read_text("utf8") == look.mark()


def test_the_card_is_what_the_program_draws() -> None:
    drawn, kept = pixels(look.card()), pixels((look.STATIC / "card.png").read_bytes())
    assert drawn.shape == kept.shape == (630, 1200, 3)
    assert np.abs(drawn - kept).mean() < 2  # of 255; letters may differ by a release of matplotlib


def test_the_card_shows_what_was_measured() -> None:
    ladder = look.steps()
    assert (ladder["low"] <= ladder["gain"]).all() and (ladder["gain"] <= ladder["high"]).all()
    assert ladder["seeds"].min() >= claims.FEWEST
    assert ladder["start"].tolist() == pytest.approx([0, *ladder["gain"].cumsum()[:-1]])


def test_it_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert look.main(["x"]) == 2 and "x" in capsys.readouterr().err
