"""A run's state in one file. The first process reads and writes it for all, so that all go on from the same state."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdlib import _files

Path = str | os.PathLike[str]
PARTS = {"settings": dict, "cycles": list, "history": list, "model": dict, "optimiser": dict, "schedule": dict}


def save(path: Path, state: dict[str, Any], parts: Mapping[str, Any], device: torch.device) -> None:
    """Write `state` and the states of `parts` to `path`, atomically, in the first process.

    Raises OSError naming the file where it cannot be written, in every process.
    """
    from_first(lambda: _write(path, state | {name: part.state_dict() for name, part in parts.items()}), device)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state that the first process finds at `path`, in every process, tensors on `device`; None where no file is.

    Nothing but tensors and plain values is ever unpickled. Raises ValueError, in every process, for a file that cannot be
    read, is damaged or holds something else.
    """
    content = from_first(lambda: _read(path), device)
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True) if content else None


def continued(
    path: Path, state: dict[str, Any], settings: dict[str, Any], model: nn.Module
) -> tuple[list[dict[str, float]], list[int]]:
    """History so far and the ends of the cycles, this call's included, after the checkpoint was found to be this run's."""
    history, ends, epochs = state["history"], state["cycles"], settings["epochs"]
    more = epochs > ends[-1] == len(history)
    for name, value in settings.items():
        stored = ends[-1] if name == "epochs" else state["settings"].get(name)
        if stored != value and not (name == "epochs" and more):
            hint = (
                f"; it can be extended once its {stored} epochs are done" if name == "epochs" and value > stored else ""
            )
            raise ValueError(
                f"checkpoint {os.fspath(path)} was made with {name}={stored}, got {name}={value}: give another path{hint}"
            )
    stored, mine = (
        {name: tuple(getattr(value, "shape", ())) for name, value in table.items()}
        for table in (state["model"], model.state_dict())
    )
    if stored != mine:
        name = next(name for name in stored | mine if stored.get(name) != mine.get(name))
        raise ValueError(
            f"checkpoint {os.fspath(path)} was made with another network: {name} had shape {stored.get(name)}, "
            f"got {mine.get(name)}: give another path"
        )
    return history, [*ends, epochs] if more else ends


@contextmanager
def fitting(path: Path | None) -> Iterator[None]:
    """Around what puts a checkpoint's states back: raises ValueError naming the file where they do not fit."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError) as error:
        raise _unfit(path or "", str(error).partition("\n")[0]) from error


def checksum(table: Tensor | None) -> int | None:
    """CRC-32 of a table's bytes, which tells whether a checkpoint belongs to the data at hand; None for None."""
    return None if table is None else zlib.crc32(table.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def from_first(make: Callable[[], bytes], device: torch.device) -> bytes:
    """What `make()` returns in the first process, in all of them. What it raises there ends them all, with its message."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return make()
    content, failure = b"", None
    if dist.get_rank() == 0:
        try:
            content = make()
        except Exception as error:
            content, failure = str(error).encode(), error
    kind = 0 if failure is None else 1 if isinstance(failure, ValueError) else 2
    head = torch.tensor([kind, len(content)], dtype=torch.int64, device=device)
    dist.broadcast(head, 0)
    kind, length = head.tolist()
    body = torch.empty(length, dtype=torch.uint8, device=device)
    if length:
        if dist.get_rank() == 0:
            body.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(body, 0)
        content = body.cpu().numpy().tobytes()
    if kind:
        raise failure or (ValueError if kind == 1 else OSError)(content.decode())
    return content


def _write(path: Path, state: dict[str, Any]) -> bytes:
    try:
        with _files.replacing(path, durable=True) as part:
            torch.save(state, part)
    except RuntimeError as error:  # torch's word for a disk without room
        first = str(error).partition("\n")[0]
        raise OSError(f"cannot write checkpoint {os.fspath(path)}: {first} (is the disk full?)") from error
    return b""


def _read(path: Path) -> bytes:
    """The content of `path` after every checksum and part of it was found right; empty where no file is."""
    place = _files.resolved(path)
    if not place.exists():
        return b""
    try:
        content = place.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch does not compare the checksums that it writes
            damaged = archive.testzip()
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        whole = isinstance(state, dict) and all(isinstance(state.get(name), kind) for name, kind in PARTS.items())
        whole = whole and all(isinstance(n, int) for n in state["cycles"] or [""])
        whole = whole and all(isinstance(row, dict) for row in state["history"] or [""])
    except Exception as error:  # in any way, and torch's own words may advise to load it unsafely
        raise _unfit(path, getattr(error, "strerror", None) or type(error).__name__) from None
    if damaged or not whole:
        raise _unfit(path, f"the checksum of {damaged} is wrong" if damaged else "it holds something else")
    return content


def _unfit(path: Path, why: str) -> ValueError:
    return ValueError(
        f"checkpoint {os.fspath(path)} is damaged or was not written by `fit` ({why}): restore it, remove it to start "
        "again, or give another path"
    )
