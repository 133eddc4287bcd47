"""How a fleet uses a CPU while it trains: threads, and the faster of torch's two libraries for float32 products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch


@contextmanager
def settings(threads: int, onednn: bool = True) -> Iterator[None]:
    """Inside, torch's operations use `threads` threads and oneDNN where that is exact; the caller's settings come back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _products_by_onednn() if onednn and _onednn_is_exact() else nullcontext():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _products_by_onednn() -> Iterator[None]:
    # torch multiplies float32 matrices by MKL, which uses AVX-512 on Intel's CPUs only. Permission to use bfloat16 makes it
    # call oneDNN instead, which uses AVX-512 everywhere, and bfloat16 only where the CPU has AMX.
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


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
