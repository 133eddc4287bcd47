"""`kdlib.checks` under its first name."""

from kdlib.checks import *  # noqa: F403
