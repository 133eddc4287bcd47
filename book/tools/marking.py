"""What stands at the head of every test of an assignment: the tools copy this file into each, so it imports nothing of the book.

A student who reads it learns how answers are compared and how long they may take, and no answer.
"""

import math  # noqa: F401  for the tests below
import random
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from otter.test_files import test_case

SECONDS = 5.0  # of computing for one test, whatever the function does; six times as many by the clock


class Late(BaseException):
    """Time is up. No Exception, so that an answer's own `except Exception` does not catch it."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """End the block with TimeoutError when it computes for longer, or takes six times as long by the clock, as it may on a
    busy machine. Where the system has no such alarms, do nothing."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise Late

    alarms = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 6 * seconds))
    before = [signal.signal(number, ring) for number, _, _ in alarms]
    for _, timer, after in alarms:
        signal.setitimer(timer, after, 0.2)  # again and again: a bare `except` may swallow one
    try:
        yield
    except Late:
        raise TimeoutError(f"Not done after {seconds:g} seconds: is there a loop that never ends?") from None
    finally:
        for (number, timer, _), handler in zip(alarms, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def own(name: str, function: Any) -> Any:
    """The student's function, if it is there and written by hand; else an AssertionError that says what is wrong."""
    assert callable(function), f"There is no function `{name}`. Was its cell deleted, or did it fail?"
    given = getattr(function, "__globals__", {})
    codes, names = [getattr(function, "__code__", None)], {getattr(function, "__module__", "") or ""}
    while codes:
        if isinstance(code := codes.pop(), types.CodeType):
            codes += code.co_consts
            names |= set(code.co_names)
            for used in code.co_names:
                value = given.get(used)
                names.add(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
    borrowed = any(str(each).split(".")[0] == "kdlib" for each in names)
    assert not borrowed, f"`{name}` calls kdlib. The task is to write it: torch is enough."
    return function


class case(test_case):  # named like the decorator that it replaces
    """One test: the function's points are given if it returns. Its arguments are the student's functions of these names."""

    def call_func(self, global_environment: dict[str, Any]) -> None:
        given = {name: own(name, global_environment.get(name)) for name in self._get_func_params()}
        with limit(SECONDS):
            self.test_func(**given)

    def __reduce__(self) -> Any:  # results travel between processes, and this class lives in a test file alone
        return test_case, (self.name, self.points, self.hidden, self.success_message, self.failure_message)


def fresh() -> torch.Generator:
    """A source of numbers that are new at every marking: no answer can be prepared for them."""
    return torch.Generator().manual_seed(random.SystemRandom().getrandbits(60))


def normal(g: torch.Generator, *shape: int) -> torch.Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def classes(g: torch.Generator, n: int, k: int) -> torch.Tensor:
    """n labels below k, every class among them as long as n >= k."""
    return torch.cat([torch.arange(k), torch.randint(k, (max(0, n - k),), generator=g)])[
        torch.randperm(max(n, k), generator=g)
    ][:n]


def same(got: Any, wanted: Any, message: str, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    """AssertionError, with what is wrong, unless the answer is a tensor (or number) of the wanted shape and values."""
    assert got is not None and got is not ..., "Your function returns nothing yet."
    if isinstance(wanted, torch.Tensor):
        assert isinstance(got, torch.Tensor), f"A tensor is wanted; you return {type(got).__name__}."
        shapes = tuple(got.shape), tuple(wanted.shape)
        assert shapes[0] == shapes[1], f"The shape is {shapes[0]}; {shapes[1]} is wanted."
        ours, theirs = (x.detach().double().flatten().tolist() for x in (got, wanted))
    else:
        ours, theirs = [float(got)], [float(wanted)]
    # as plain numbers, so that nothing a notebook does to torch's own comparisons matters; nan is never near
    assert all(abs(x - y) <= atol + rtol * abs(y) for x, y in zip(ours, theirs, strict=True)), message
