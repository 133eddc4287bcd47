"""Threads and the library for products come back as they were, in whatever order trainings start and end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kdlib import Recipe, Task, _cpu, train
from kdlib.fleet.engine import Group

REAL = _cpu._onednn_is_exact
MATMUL: Any = getattr(torch.backends.mkldnn, "matmul", None)
pytestmark = pytest.mark.skipif(MATMUL is None, reason="this torch has one library for products")


@pytest.fixture(autouse=True)
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A caller that has chosen four threads, on a machine where oneDNN is wanted."""
    monkeypatch.setattr(_cpu, "_onednn_is_exact", lambda: True)
    before = torch.get_num_threads(), MATMUL.fp32_precision
    torch.set_num_threads(4)
    yield
    assert _cpu._inside == []
    assert _cpu._wanting == 0
    assert MATMUL.fp32_precision == before[1]
    torch.set_num_threads(before[0])


class Actor(threading.Thread):
    """A thread that enters and leaves `settings` when told, and reports its own thread count."""

    def __init__(self, threads: int) -> None:
        super().__init__(daemon=True)
        self.threads, self.told, self.done = threads, threading.Semaphore(0), threading.Semaphore(0)
        self.inside = self.after = 0
        self.start()

    def run(self) -> None:
        self.told.acquire()
        with _cpu.settings(self.threads):
            self.inside = torch.get_num_threads()
            self.done.release()
            self.told.acquire()
        self.after = torch.get_num_threads()
        self.done.release()

    def go(self) -> None:
        self.told.release()
        assert self.done.acquire(timeout=10)


ORDERS = sorted(set(itertools.permutations("aabbcc")))


@pytest.mark.parametrize("threads", [(1, 1, 1), (1, 2, 4), (4, 1, 2)])
def test_three_threads_in_every_order(threads: tuple[int, int, int]) -> None:
    """Each name stands twice in an order: to enter, and to leave. All 90 orders."""
    before = MATMUL.fp32_precision
    assert len(ORDERS) == 90
    for order in ORDERS:
        actors = {name: Actor(n) for name, n in zip("abc", threads, strict=True)}
        entered: list[str] = []
        for name in order:
            actors[name].go()
            entered.remove(name) if name in entered else entered.append(name)
            assert MATMUL.fp32_precision == ("bf16" if entered else before), order
            assert torch.get_num_threads() == 4  # of a thread that trains nothing
        for actor in actors.values():
            assert actor.inside == actor.threads
            assert actor.after == 4, order
            actor.join()


def test_a_thread_that_chose_for_itself_keeps_its_choice() -> None:
    other = Actor(1)
    other.go()
    seen: list[int] = []

    def chosen() -> None:
        torch.set_num_threads(3)
        with _cpu.settings(2):
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=chosen)
    thread.start()
    thread.join()
    other.go()
    assert seen == [2, 3]


def test_nested_in_one_thread() -> None:
    before = MATMUL.fp32_precision
    with _cpu.settings(2):
        with _cpu.settings(1):
            assert torch.get_num_threads() == 1
            with _cpu.settings(2):
                assert torch.get_num_threads() == 2
            assert torch.get_num_threads() == 1
            assert MATMUL.fp32_precision == "bf16"
        assert torch.get_num_threads() == 2
        with _cpu.settings(2):
            pass
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4
    assert MATMUL.fp32_precision == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing_behind(error: type[BaseException]) -> None:
    before = MATMUL.fp32_precision
    other = Actor(2)
    other.go()
    with pytest.raises(error), _cpu.settings(1), _cpu.settings(2):
        raise error
    assert torch.get_num_threads() == 4
    assert MATMUL.fp32_precision == "bf16"  # the other one's
    other.go()
    assert MATMUL.fp32_precision == before


def test_without_onednn_the_precision_is_not_touched() -> None:
    before = MATMUL.fp32_precision
    with _cpu.settings(2, onednn=False):
        assert MATMUL.fp32_precision == before


@pytest.mark.parametrize("fails", [False, True])
def test_two_trainings_side_by_side(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's last step waits for the second one's first, so that they overlap at their ends."""
    before = MATMUL.fp32_precision
    step, started, over = Group.step, threading.Event(), threading.Event()

    def slow(self: Any, index: Any) -> None:
        if threading.current_thread().name.startswith("first"):
            assert started.wait(10)
        else:
            started.set()
            assert over.wait(10)
        if fails:
            raise ValueError("planted")
        step(self, index)

    monkeypatch.setattr(Group, "step", slow)
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    task = Task(x, y, x, y, 2)
    counts: dict[str, int] = {}

    def run() -> None:
        try:
            train(task, Recipe.hard(), seeds=1, epochs=2, hidden=(4,), threads=1)
        except ValueError as error:
            assert str(error) == "planted"
        counts[threading.current_thread().name] = torch.get_num_threads()

    first, second = (threading.Thread(target=run, name=name) for name in ("first", "second"))
    first.start()
    second.start()
    first.join(20)
    over.set()
    second.join(20)
    assert counts == {"first": 4, "second": 4}
    assert torch.get_num_threads() == 4
    assert MATMUL.fp32_precision == before


def test_a_product_inside_is_as_exact_as_outside() -> None:
    """Whatever oneDNN is allowed, the library lets it only where it keeps float32."""
    a = torch.randn(4, 128, 128, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ a.double()
    with _cpu.settings(1, onednn=REAL()):
        assert ((a @ a) - exact).abs().max() < 1e-4
