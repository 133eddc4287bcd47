"""Teachers' logits on disk: whole tables, the k largest classes or random draws, read by example id from a mapped file.

The file is in safetensors format, so nothing in it is code. Rows are asked for by the ids of their examples, never by
position: a shuffled batch cannot meet another example's row.
"""

from __future__ import annotations

import json
import math
import os
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdlib import _check

FORMAT = "kdlib stored logits 1"
DTYPES = {"I64": torch.int64, "I32": torch.int32, "F16": torch.float16}
LOWEST = torch.finfo(torch.float16).min

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class StoredLogits:
    """An open file of N rows over `num_classes` classes: `kind` is "full", "top" or "draws", `width` the entries of a row.

    Rows are log-probabilities at `temperature`, in float16: off by at most 2^-11 of their size (0.05 %), which for a
    class of probability p is a factor between p^(2^-11) and p^-(2^-11), 0.3 % at p = 0.001.
    """

    path: Path
    kind: str
    num_classes: int
    temperature: float
    ids: Tensor  # (N,) ascending
    _rows: Tensor  # (N,) where each id's row is
    _arrays: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        return next(iter(self._arrays.values())).shape[1]

    def logits(self, ids: Tensor, tail: str = "even") -> Tensor:
        """Log-probabilities of the examples `ids` (B,), in their order: (B, K) in float32, -inf where probability is 0.

        `tail` says what becomes of the mass outside the k largest classes: "even" spreads it over the others, as
        `levels.split.topk_targets` does; "renormalise" gives it to the k, as is often practised: such a teacher is too
        confident. Draws count: a class drawn c times of S has log(c / S), an unbiased estimate of the probability.

        Raises ValueError for ids that are not in the file or an unknown `tail`.
        """
        if tail not in ("even", "renormalise"):
            raise ValueError(f"tail must be 'even' or 'renormalise', got {tail!r}")
        if self.kind == "full":
            return self._arrays["log_probs"][self._find(ids)].float()
        classes, probs = self.sparse(ids)
        if self.kind == "draws":
            counts = torch.zeros(len(classes), self.num_classes, dtype=probs.dtype, device="cpu").scatter_add_(
                1, classes, torch.ones_like(probs)
            )
            return (counts / self.width).log_()
        mass = probs.sum(1, keepdim=True)
        if tail == "renormalise":
            table, probs = torch.zeros(len(classes), self.num_classes, dtype=probs.dtype, device="cpu"), probs / mass
        else:
            rest = (1 - mass).clamp(min=0) / max(1, self.num_classes - self.width)
            table = rest.repeat(1, self.num_classes)
        return table.scatter_(1, classes, probs).log_()

    def sparse(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (B, width) in int64 and their probabilities (B, width) in float32, as they are kept: no (B, K) is made.

        Top classes come largest first and sum to less than 1; drawn classes come as often as they were drawn, 1 / S each.
        Raises ValueError for ids that are not in the file, or if it holds full tables.
        """
        if self.kind == "full":
            raise ValueError(f"{self.path} holds full tables: ask for logits(ids)")
        rows = self._find(ids)
        classes = self._arrays["classes"][rows].long()
        if self.kind == "draws":
            return classes, torch.full(classes.shape, 1 / self.width, dtype=torch.float32, device="cpu")
        return classes, self._arrays["log_probs"][rows].float().exp_()

    def _find(self, ids: Tensor) -> Tensor:
        if _check.shape("ids", ids, (None,)).dtype != torch.int64:
            raise ValueError(f"ids must have dtype torch.int64, got {ids.dtype}")
        at = torch.searchsorted(self.ids, ids.cpu()).clamp_(max=max(0, len(self) - 1))
        strange = ids.cpu() if not len(self) else ids.cpu()[self.ids[at] != ids.cpu()]
        if len(strange):
            raise ValueError(
                f"ids must be examples of {self.path}, got {len(strange)} that are not, such as {int(strange[0])}"
            )
        return self._rows[at]


def stored_logits(
    path: str | os.PathLike[str],
    batches: Iterable[Batch] | None = None,
    *,
    length: int | None = None,
    top: int | None = None,
    draws: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    verify: bool = True,
) -> StoredLogits:
    """The stored rows of a teacher at `path`; with `batches`, of ids (B,) and logits (B, K), writes them there first.

    Kept of each row of softmax(logits / temperature): everything, or the `top` largest classes, or `draws` random ones
    (with replacement, by `seed`: Anshumann et al. 2025), whose number of bytes is 2 K, 6 k or 4 S, and 16 for its id.
    `batches` may be a generator, so a table need not fit memory; then `length` says how many rows it yields. The file
    appears whole or not at all. `verify=False` skips the checksum of the rows, which reads all of them once.

    Raises ValueError for ids that are no int64 or come twice, logits that are no finite rows of one width (-inf is
    allowed), and for a file that is missing, damaged, truncated or something else.
    """
    place = Path(path).expanduser()
    if batches is not None:
        if top is not None and draws is not None:
            raise ValueError(f"top and draws exclude each other, got top={top!r} and draws={draws!r}")
        if length is None:
            if not isinstance(batches, Sequence):
                raise ValueError("length must be given for batches that are not a sequence, got None")
            length = sum(len(ids) for ids, _ in batches)
        _check.temperature(temperature)
        if isinstance(temperature, Tensor):
            raise ValueError(f"temperature must be a number, got {temperature!r}")
        _write(place, batches, length, top, draws, float(temperature), seed)
    elif not (length is top is draws is None):
        raise ValueError("batches must be given to write a file, got None with length, top or draws")
    return _open(place, verify)


def _open(path: Path, verify: bool) -> StoredLogits:
    if not path.is_file():
        raise ValueError(f"path must be an existing file, got {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (mapped, nothing is read yet)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, truncated or no file of stored logits: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no file of stored logits: its format is {about.get('format')!r}, expected {FORMAT!r}"
        )
    try:
        if about.pop("crc32") != _sum_of_notes(about):
            raise ValueError("the checksum of its description is another")
        kind, k, width, n = about["kind"], *(int(about[name]) for name in ("num_classes", "width", "length"))
        layout, temperature = _layout(kind, n, width), float(about["temperature"])
        found = {name: (str(array.dtype), tuple(array.shape)) for name, array in arrays.items()}
        if found != {name: (str(DTYPES[dtype]), shape) for name, (dtype, shape) in layout.items()}:
            raise ValueError(f"its arrays are {found}")
        for name in layout if verify else ("ids", "rows"):
            if f"{zlib.crc32(_bytes(arrays[name])):08x}" != about[f"crc32 {name}"]:
                raise ValueError(f"the checksum of its {name} is another")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; write it again") from error
    return StoredLogits(path, kind, k, temperature, arrays.pop("ids"), arrays.pop("rows"), arrays)


def _layout(kind: str, n: int, width: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of each array, in the order of the file."""
    arrays = {"full": ("log_probs",), "top": ("classes", "log_probs"), "draws": ("classes",)}[kind]
    index: dict[str, tuple[str, tuple[int, ...]]] = {"ids": ("I64", (n,)), "rows": ("I64", (n,))}
    return index | {name: ("I32" if name == "classes" else "F16", (n, width)) for name in arrays}


def _write(
    path: Path, batches: Iterable[Batch], length: int, top: int | None, draws: int | None, T: float, seed: int
) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"path must lie in an existing folder, got {str(path)!r}")
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError("batches must hold at least one batch, got none")
    k = _check.shape("logits", _check.floating("logits", first[1]), (None, None)).shape[1]
    kind, name, width = ("top", "top", top) if top is not None else ("draws", "draws", draws)
    if width is None:
        kind, width = "full", k
    elif _check.positive_int(width, name) > k and kind == "top":
        raise ValueError(f"top must be at most the number of classes, {k}, got {top}")
    about = {"format": FORMAT, "kind": kind, "num_classes": k, "width": width, "length": length, "temperature": T}
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            _fill(file, chain([first], stream), about, torch.Generator().manual_seed(seed))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _fill(file: IO[bytes], batches: Iterable[Batch], about: dict[str, Any], generator: torch.Generator) -> None:
    """Write each batch to its place in every array, then the index, then the header with the checksums."""
    n, k, width = (about[name] for name in ("length", "num_classes", "width"))
    layout = _layout(about["kind"], n, width)
    crc, offsets, end = dict.fromkeys(layout, 0), {}, 0
    for name, (dtype, shape) in layout.items():
        offsets[name], end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
    start, done, ids = len(_header(layout, offsets, about, crc)), 0, torch.empty(n, dtype=torch.int64, device="cpu")

    def put(name: str, values: Tensor, row: int) -> None:
        block = _bytes(values)
        file.seek(start + offsets[name] + row * (len(block) // max(1, len(values))))
        file.write(block)
        crc[name] = zlib.crc32(block, crc[name])

    for batch, logits in batches:
        if _check.shape("ids", batch, (None,)).dtype != torch.int64:
            raise ValueError(f"ids must have dtype torch.int64, got {batch.dtype}")
        _check.shape("logits", _check.floating("logits", logits), (len(batch), k))
        if done + len(batch) > n:
            raise ValueError(f"length must be the number of rows, got {n} and at least {done + len(batch)} rows")
        for name, values in _kept(logits, about["kind"], width, about["temperature"], generator).items():
            put(name, values, done)
        ids[done : done + len(batch)] = batch
        done += len(batch)
    if done < n:
        raise ValueError(f"length must be the number of rows, got {n} and {done} rows")
    ids, rows = ids.sort()
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise ValueError(f"ids must be different, got {len(twice)} that come again, such as {int(twice[0])}")
    put("ids", ids, 0)
    put("rows", rows, 0)
    file.seek(0)
    file.write(_header(layout, offsets, about, crc))
    file.truncate(start + end)


def _header(
    layout: dict[str, tuple[str, tuple[int, ...]]], offsets: dict[str, int], about: dict[str, Any], crc: dict[str, int]
) -> bytes:
    """The head of a safetensors file, whose length does not depend on the checksums."""
    notes = about | {f"crc32 {name}": f"{value:08x}" for name, value in crc.items()}
    strings = {name: str(value) for name, value in notes.items()}
    head: dict[str, Any] = {"__metadata__": strings | {"crc32": _sum_of_notes(strings)}}
    for name, (dtype, shape) in layout.items():
        size = math.prod(shape) * DTYPES[dtype].itemsize
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offsets[name], offsets[name] + size]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _sum_of_notes(notes: dict[str, str]) -> str:
    return f"{zlib.crc32(json.dumps(sorted(notes.items())).encode()):08x}"


def _kept(logits: Tensor, kind: str, width: int, T: float, generator: torch.Generator) -> dict[str, Tensor]:
    """What is stored of a batch."""
    logits = logits.detach().cpu()
    log_p = torch.log_softmax((logits.float() if logits.dtype.itemsize < 4 else logits) / T, dim=1)
    if log_p.isnan().any():
        bad = int(log_p.isnan().any(1).sum())
        raise ValueError(f"logits must be finite or -inf, with a finite one in every row, got {bad} other rows")
    if kind == "draws":
        if not len(log_p):
            return {"classes": torch.empty(0, width, dtype=torch.int32, device="cpu")}
        drawn = torch.multinomial(log_p.exp(), width, replacement=True, generator=generator)
        return {"classes": drawn.sort(1).values.int()}
    if kind == "top":
        log_p, classes = log_p.topk(width, dim=1)
        return {"classes": classes.int(), "log_probs": _half(log_p)}
    return {"log_probs": _half(log_p)}


def _half(log_p: Tensor) -> Tensor:
    """In float16, where only -inf becomes -inf."""
    return torch.where(log_p == -math.inf, log_p, log_p.clamp(min=LOWEST)).half()


def _bytes(values: Tensor) -> memoryview:
    return values.contiguous().numpy().data.cast("B") if values.numel() else memoryview(b"")
