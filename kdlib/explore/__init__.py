"""One figure, two lives: widgets in a notebook; in a rendered page, a control over frames drawn ahead by the same function."""

from kdlib.explore.figure import Explorer, explore
from kdlib.explore.frame import FIGSIZE, Control, Frame, in_words

__all__ = ["FIGSIZE", "Control", "Explorer", "Frame", "explore", "in_words"]
