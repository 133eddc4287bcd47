"""How a fleet uses a CPU while it trains: threads, and the faster of torch's two libraries for float32 products."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_LOCK = threading.Lock()
_own = threading.local()  # how deep this thread is in `settings`
_inside: list[int] = []  # the thread counts that trainings under way have set, one for each
_outside = 1  # what the thread that entered first had before
_precision = "none"  # of float32 products, before the first that wanted oneDNN
_wanting = 0


@contextmanager
def settings(threads: int, onednn: bool = True) -> Iterator[None]:
    """Inside, torch's operations use `threads` threads and oneDNN where that is exact; the caller's settings come back.

    Trainings may run side by side in threads of one process: what they share is set by the first and given back by the last.
    """
    exact = onednn and _onednn_is_exact()
    before = _enter(threads, exact)
    try:
        yield
    finally:
        _leave(threads, exact, before)


def _enter(threads: int, exact: bool) -> int:
    global _outside
    with _LOCK:
        before = torch.get_num_threads()
        if not _inside:
            _outside = before
        elif before in _inside and not getattr(_own, "depth", 0):
            before = _outside  # a new thread inherits what a training under way has set: that is not its own choice
        _own.depth = getattr(_own, "depth", 0) + 1
        _inside.append(threads)
        if exact:
            _want_onednn(1)
        torch.set_num_threads(threads)
        return before


def _leave(threads: int, exact: bool, before: int) -> None:
    with _LOCK:
        _inside.remove(threads)
        _own.depth -= 1
        if exact:
            _want_onednn(-1)
        torch.set_num_threads(before)


def _want_onednn(change: int) -> None:
    # torch multiplies float32 matrices by MKL, which uses AVX-512 on Intel's CPUs only. Permission to use bfloat16 makes it
    # call oneDNN instead, which uses AVX-512 everywhere, and bfloat16 only where the CPU has AMX.
    global _wanting, _precision
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    if _wanting == 0:
        _precision = matmul.fp32_precision
    _wanting += change
    matmul.fp32_precision = "bf16" if _wanting else _precision


@contextmanager
def _products_by_onednn() -> Iterator[None]:
    with _LOCK:
        _want_onednn(1)
    try:
        yield
    finally:
        with _LOCK:
            _want_onednn(-1)


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN keeps float32 on this machine, by what the CPU can do and by a product that bfloat16 would round."""
    if not hasattr(torch.cpu, "get_capabilities") or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    able = torch.cpu.get_capabilities()
    if not able.get("avx512_f") or able.get("amx_tile", True):
        return False
    fine = torch.full((2, 64, 64), 1 + 2.0**-12, dtype=torch.float32, device="cpu")
    with _products_by_onednn():
        return bool(((fine @ fine) / 64 - (1 + 2.0**-12) ** 2).abs().max() < 1e-6)
