"""Data sets as `Task`s: synthetic worlds with known answers, and real images."""

from kdlib.data.task import Task
from kdlib.data.worlds import world

__all__ = ["Task", "world"]
