"""The chunked losses' arithmetic: values and gradients of a few rows at a time, piece by piece over the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kdlib import _check, _cpu

BITS = math.log2(math.e)  # a block's logits are kept in bits, z log2(e) / T, since exp2 costs a quarter of exp

Rows = slice | Tensor
Pieces = Callable[[int, Tensor], Tensor]  # (which piece, a place for it) -> (B, C); the place may be left alone
Sums = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class How:
    """What is computed and in which pieces; `need`: gradients of hidden, weight and bias."""

    temperature: float
    alpha: float
    beta: float
    rows: int
    classes: int
    need: tuple[bool, bool, bool]


@torch.no_grad()
def evaluate(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: Tensor,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    labels: Tensor | None,
    weights: Tensor | None,
    how: How,
) -> Sums:
    """Losses (N,) and the gradients of their weighted sum by hidden, weight and bias (empty where not needed), all wide."""
    (n, d), k, dtype, rows = hidden.shape, weight.shape[0], wide(hidden, weight), max(1, min(how.rows, len(hidden)))
    cuts = [slice(c, min(c + how.classes, k)) for c in range(0, k, how.classes)]
    held = hidden.new_empty((1 if teacher_weight is None else 2, rows * k), dtype=dtype)
    space = hidden.new_empty((4, rows * min(how.classes, k)), dtype=dtype)
    need_hidden, need_weight, need_bias = how.need
    loss = hidden.new_zeros(n, dtype=dtype)
    d_hidden = hidden.new_zeros((n, d) if need_hidden else 0, dtype=dtype)
    d_weight = hidden.new_zeros((k, d) if need_weight else 0, dtype=dtype)
    d_bias = hidden.new_zeros(k if need_bias else 0, dtype=dtype)
    alpha, T = how.alpha, how.temperature

    with _products(hidden, dtype):
        for r in _blocks(n, rows, weights):
            h = hidden[r].to(dtype)  # (B, d)
            w = torch.ones_like(h[:, :1]) if weights is None else weights[r].to(dtype).unsqueeze(1)  # (B, 1)
            wh, d_h, value = w * h, torch.zeros_like(h), torch.zeros_like(w)
            z = _layer(h, weight, bias, BITS / T, cuts, held[0])
            if teacher_weight is None:
                v: Pieces = partial(_table, teacher, r, BITS / T, cuts)
            else:
                v = _layer(teacher[r].to(dtype), teacher_weight, teacher_bias, BITS / T, cuts, held[1])
            soft = _Soft(z, v, len(cuts), how.beta, space) if alpha > 0 else None
            hard = _Hard(z, len(cuts), T, space) if alpha < 1 else None
            for j, cut in enumerate(cuts if any(how.need) or how.beta == 0 else []):
                dz = space[0, : len(h) * (cut.stop - cut.start)].view(len(h), -1).zero_()
                if soft:
                    dz = soft.gradient(j).mul_(alpha * T)  # (B, C)
                if hard and any(how.need):
                    dz.add_(hard.probabilities(j), alpha=1 - alpha)
                if need_hidden:
                    d_h.addmm_(dz, weight[cut].to(dtype))
                if need_weight:
                    d_weight[cut].addmm_(dz.T, wh)
                if need_bias:
                    d_bias[cut].addmv_(dz.T, w[:, 0])
            if soft:
                value += soft.value() * (alpha * T**2)
            if hard and labels is not None:
                y = labels[r] if labels.is_cuda else _check.labels("labels", labels[r], k)
                value += hard.value(_at(held[0], y, how.classes, k)) * (1 - alpha)
                if need_hidden:
                    d_h.sub_(weight[y].to(dtype), alpha=1 - alpha)
                if need_weight:
                    d_weight.index_add_(0, y, wh, alpha=alpha - 1)
                if need_bias:
                    d_bias.index_add_(0, y, w[:, 0], alpha=alpha - 1)
            loss[r] = (w * value)[:, 0]
            if need_hidden:
                d_hidden[r] = w * d_h
    return loss, d_hidden, d_weight, d_bias


def _layer(h: Tensor, weight: Tensor, bias: Tensor | None, scale: float, cuts: list[slice], flat: Tensor) -> Pieces:
    """The products of a block, each piece in one run of memory."""
    h, held = h * scale, []
    for cut in cuts:
        piece = flat[len(h) * cut.start : len(h) * cut.stop].view(len(h), -1)
        torch.mm(h, weight[cut].to(h.dtype).T, out=piece)
        if bias is not None:
            piece += bias[cut].to(h.dtype) * scale
        held.append(piece)
    return lambda j, place: held[j]


def _table(logits: Tensor, r: Rows, scale: float, cuts: list[slice], j: int, place: Tensor) -> Tensor:
    piece = logits[r, cuts[j]].to(place.dtype)
    return torch.mul(piece, scale, out=place[: piece.numel()].view(piece.shape))


def _log_sum(pieces: Pieces, count: int, place: Tensor, factor: float = 1.0) -> Tensor:
    """log2 of the sum of 2^(factor x) over all pieces, (B, 1)."""
    sums = [_log_sum_of_piece(pieces(j, place), place, factor) for j in range(count)]
    total = torch.cat(sums, 1)
    return _log_sum_of_piece(total, torch.empty_like(total).flatten())


def _log_sum_of_piece(x: Tensor, place: Tensor, factor: float = 1.0) -> Tensor:
    top = x.amax(1, keepdim=True)
    top.masked_fill_(top == -math.inf, 0)
    x = torch.sub(x, top, out=_like(x, place))
    return (x if factor == 1 else x.mul_(factor)).exp2_().sum(1, keepdim=True).log2_().add_(top, alpha=factor)


class _Hard:
    """Cross-entropy of a block at T = 1."""

    def __init__(self, z: Pieces, count: int, T: float, space: Tensor) -> None:
        self.z, self.T, self.space = z, T, space
        self.log_sum = _log_sum(z, count, space[2], T)

    def probabilities(self, j: int) -> Tensor:
        z = self.z(j, self.space[2])
        return torch.mul(z, self.T, out=_like(z, self.space[2])).sub_(self.log_sum).exp2_()

    def value(self, at_label: Tensor) -> Tensor:
        return (self.log_sum - self.T * at_label) / BITS


class _Soft:
    """D_beta of a block, forward KL at beta = 0, and its gradient with respect to z / T, a piece at a time."""

    def __init__(self, z: Pieces, v: Pieces, count: int, beta: float, space: Tensor) -> None:
        self.z, self.v, self.beta, self.space = z, v, beta, space
        self.log_z, self.log_v = (_log_sum(pieces, count, space[0]) for pieces in (z, v))
        self.nan = 0 * (self.log_z + self.log_v)  # (B, 1), 0 or NaN: what is NaN stays NaN
        self.bits = self.nan.clone()
        if beta > 0:
            self.reverse, forward = self.bits.clone(), torch.zeros_like(self.bits)  # KL(q || m), KL(p || m)
            for j in range(count):
                log_q, log_p, log_m, place = self._logs(j)
                if beta < 1:
                    forward += _expected(torch.exp2(log_p, out=place), log_p.sub_(log_m))
                self.reverse += _expected(torch.exp2(log_q, out=place), log_q.sub_(log_m))
            self.bits += self.reverse / beta + (forward / (1 - beta) if beta < 1 else 0)

    def gradient(self, j: int) -> Tensor:
        """(B, C); at beta = 0 it also adds the piece's share to the value: read every piece once."""
        log_q, log_p, log_m, place = self._logs(j)
        if self.beta > 0:
            q = torch.exp2(log_q, out=place)
            gap = log_q.sub_(log_m).sub_(self.reverse).mul_(q).nan_to_num_(0, math.inf, -math.inf)  # 0 log 0 = 0
            return gap.mul_(1 / (BITS * self.beta)).add_(self.nan)
        p = torch.exp2(log_p, out=place)
        self.bits += _expected(p, log_p.sub_(log_q))
        return log_q.exp2_().sub_(p)

    def value(self) -> Tensor:
        return self.bits / BITS

    def _logs(self, j: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, v = self.z(j, self.space[0]), self.v(j, self.space[1])
        log_q, log_p = (
            torch.sub(z, self.log_z, out=_like(z, self.space[0])),
            torch.sub(v, self.log_v, out=_like(z, self.space[1])),
        )
        place, log_m = _like(z, self.space[2]), log_p
        if 0 < self.beta < 1:
            log_m = torch.add(log_p, math.log2(self.beta), out=_like(z, self.space[3]))
            log_m = torch.logaddexp2(log_m, log_q + math.log2(1 - self.beta), out=log_m)
        return log_q, log_p, log_m, place


def _expected(p: Tensor, gap: Tensor) -> Tensor:
    """Row sums of p gap, (B, 1), where p = 0 costs nothing; `gap` is overwritten, p is left."""
    return gap.mul_(p).nan_to_num_(0, math.inf, -math.inf).sum(1, keepdim=True)


def _like(x: Tensor, place: Tensor) -> Tensor:
    return place[: x.numel()].view(x.shape)


def _at(flat: Tensor, y: Tensor, classes: int, k: int) -> Tensor:
    """The entries at classes y of a block's pieces, (B, 1)."""
    first = y // classes * classes
    width = (k - first).clamp(max=classes)
    return flat[len(y) * first + torch.arange(len(y), device=y.device) * width + y - first].unsqueeze(1)


def _blocks(n: int, rows: int, weights: Tensor | None) -> Iterator[Rows]:
    """The rows of each block; those of weight 0 are in none."""
    if weights is not None and not bool((weights != 0).all()):
        yield from (part for part in weights.nonzero().squeeze(1).split(rows) if len(part))
    else:
        yield from (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def wide(hidden: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)


def _products(hidden: Tensor, dtype: torch.dtype) -> AbstractContextManager[None]:
    """By the faster of a CPU's two libraries. (Products into a given place stay wide under autocast.)"""
    on_cpu = hidden.device.type == "cpu" and dtype == torch.float32
    return _cpu.settings(torch.get_num_threads()) if on_cpu else nullcontext()
