"""One figure for notebooks and pages: controls over frames drawn ahead, which need no kernel, and training, which needs one."""

from kdlib.explore.figure import Explorer, explore
from kdlib.explore.frame import FIGSIZE, Control, Frame, in_words

__all__ = ["FIGSIZE", "Control", "Explorer", "Frame", "explore", "in_words"]
