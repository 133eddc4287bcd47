"""Data sets as `Task`s: synthetic worlds with known answers, and real images."""

from kdlib.data.images import available, cifar10, cifar100, digits, fashion_mnist
from kdlib.data.shipped import shipped
from kdlib.data.stored import stored_logits
from kdlib.data.task import Task
from kdlib.data.worlds import STUDENT, TEACHER, world

__all__ = [
    "STUDENT",
    "TEACHER",
    "Task",
    "available",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "shipped",
    "stored_logits",
    "world",
]
