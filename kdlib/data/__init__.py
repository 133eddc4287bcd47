"""Data sets as `Task`s: synthetic worlds with known answers, and real images."""

from typing import TYPE_CHECKING

from kdlib import _lazy
from kdlib.data.multiview import multiview  # here at once: the module has the function's name and would take its place
from kdlib.data.shipped import shipped  # likewise
from kdlib.data.task import Task
from kdlib.data.worlds import STUDENT, TEACHER, world

if TYPE_CHECKING:
    from kdlib.data.causal import causal_world
    from kdlib.data.images import available, cifar10, cifar100, digits, fashion_mnist
    from kdlib.data.stored import stored_logits

__all__ = [
    "STUDENT",
    "TEACHER",
    "Task",
    "available",
    "causal_world",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "multiview",
    "shipped",
    "stored_logits",
    "world",
]

_TABLE = {
    "available": "kdlib.data.images",
    "causal_world": "kdlib.data.causal",
    "cifar10": "kdlib.data.images",
    "cifar100": "kdlib.data.images",
    "digits": "kdlib.data.images",
    "fashion_mnist": "kdlib.data.images",
    "stored_logits": "kdlib.data.stored",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = _lazy.attach(__name__, _TABLE)
