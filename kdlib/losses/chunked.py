"""Distillation over very many classes: the losses of logits that are never held, from hidden states and output weights.

With K classes, N examples and d features the logits are N x K numbers, and a loss written on them keeps five to eight such
arrays. Here z = hidden @ weight.T + bias exists for a few rows at a time, piece by piece over the classes, so that a piece
stays in the processor's cache from the product that makes it to the products that use its gradient. Results are exact:
the log-sum-exp runs over all classes, nothing is sampled or left out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdlib import _check
from kdlib.losses._pieces import How, Sums, evaluate, wide

HELD = 64 * 2**20  # bytes of logits that are held at a time where `chunk` is left open
CLASSES = {"cpu": 2048}  # of a piece: its few arrays fit a core's cache
MANY = 16384  # of a piece elsewhere: few and large operations

Layer = tuple[Tensor, Tensor | None, Tensor | None]  # hidden, weight, bias; a table of logits has no weight
Student = tuple[Tensor, Tensor, Tensor | None]


def chunked_kd_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    labels: Tensor | None = None,
    *,
    teacher_hidden: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    weights: Tensor | None = None,
    chunk: int | tuple[int, int] | None = None,
) -> Tensor:
    """`kd_loss` of the logits hidden @ weight.T + bias of each example, in nats, without ever holding them: (N,).

    student_hidden (N, d), student_weight (K, d), student_bias (K,), labels (N,), which may be None at alpha = 1. The teacher
    is given by its logits (N, K) or by teacher_hidden (N, e), teacher_weight (K, e), teacher_bias (K,); it gets no gradient.
    `weights` (N,) multiplies each example's loss; where it is 0 nothing of the example counts, NaN and labels out of
    range included. `chunk`: rows at a time, or (rows, classes); None holds at most 64 MiB of logits.

    What is computed when: each row's gradient of the logits is known once its log-sum-exp is, so the gradients of hidden,
    weight and bias are summed in the forward pass, for an incoming gradient of 1 per example. A mean or a sum sends back
    the same number for every example, which then scales the sums (in place, so they exist once). If it sends back
    different numbers, weight and bias are summed anew with these as weights, at the price of a second forward pass: put
    masks and importance into `weights` and take `loss.sum() / weights.sum()` instead. A second backward through the same
    graph also computes anew.

    Half precision is widened piece by piece: products and sums are float32 (also under autocast), gradients are rounded
    once, and the loss is float32. Has `torch.func.grad` and `vmap`; `torch.compile` leaves it as it is (a graph break).
    There are first derivatives only: a RuntimeError says so.

    Raises ValueError for shapes or dtypes that do not match, labels out of range, a temperature that is not positive,
    alpha outside [0, 1] or a teacher given twice or not at all.
    Source: the loss of Hinton, Vinyals & Dean 2015; log-sum-exp over pieces as in Milakov & Gimelshein 2018.

    >>> h, w = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> chunked_kd_loss(h, w, teacher_logits=torch.zeros(1, 3), temperature=1.0, alpha=1.0)
    tensor([0.1195])
    """
    student = (student_hidden, student_weight, student_bias)
    layers = _checked(student, teacher_logits, teacher_hidden, teacher_weight, teacher_bias)
    return _loss(layers, labels, weights, temperature, alpha, 0.0, chunk)


def chunked_jsd_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    labels: Tensor | None = None,
    *,
    teacher_hidden: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float = 1.0,
    alpha: float = 0.9,
    beta: float = 0.5,
    weights: Tensor | None = None,
    chunk: int | tuple[int, int] | None = None,
) -> Tensor:
    """`jsd_loss` in the same way as `chunked_kd_loss`: forward KL at beta = 0, reverse KL at beta = 1, between them JSD; (N,).

    Raises ValueError as `chunked_kd_loss`, and for beta outside [0, 1]. The gradient of the logits needs no more than the
    loss: alpha T q (log(q / m) - KL(q || m)) / beta. Source: Agarwal et al. 2024 (GKD), eq. 1, normalised as in `jsd_loss`.
    """
    student = (student_hidden, student_weight, student_bias)
    layers = _checked(student, teacher_logits, teacher_hidden, teacher_weight, teacher_bias)
    return _loss(layers, labels, weights, temperature, alpha, beta, chunk)


def _checked(
    student: Student, logits: Tensor | None, hidden: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Student, Layer]:
    """Student and teacher with shapes that fit, the teacher cut off from its graph."""
    n, d = _matrix("student_hidden", student[0], None, None)
    k, _ = _matrix("student_weight", student[1], None, d)
    if k < 1:
        raise ValueError(f"student_weight must have at least 1 class, got shape {(k, d)}")
    for name, value in (("student_bias", student[2]), ("teacher_bias", bias)):
        if value is not None:
            _check.shape(name, _check.floating(name, value), (k,))
    given = [
        name
        for name, value in (("logits", logits), ("hidden", hidden), ("weight", weight), ("bias", bias))
        if value is not None
    ]
    if logits is not None and len(given) == 1:
        _matrix("teacher_logits", logits, n, k)
        return student, (logits.detach(), None, None)
    if logits is not None or hidden is None or weight is None:
        raise ValueError(
            f"teacher must be given as teacher_logits or as teacher_hidden and teacher_weight, got {given}"
        )
    _matrix("teacher_weight", weight, k, _matrix("teacher_hidden", hidden, n, None)[1])
    return student, (hidden.detach(), weight.detach(), None if bias is None else bias.detach())


def _matrix(name: str, value: Tensor, *expected: int | None) -> torch.Size:
    return _check.shape(name, _check.floating(name, value), expected).shape


def _loss(
    layers: tuple[Student, Layer],
    labels: Tensor | None,
    weights: Tensor | None,
    temperature: float,
    alpha: float,
    beta: float,
    chunk: int | tuple[int, int] | None,
) -> Tensor:
    student, teacher = layers
    n = len(student[0])
    for name, value in (("temperature", temperature), ("alpha", alpha), ("beta", beta)):
        if isinstance(value, Tensor):
            raise ValueError(f"{name} must be a number, got a tensor: kd_loss and jsd_loss take one per example")
    _check.temperature(temperature)
    _check.fraction(alpha, "alpha")
    _check.fraction(beta, "beta")
    if labels is None and alpha < 1:
        raise ValueError(f"labels must be given for alpha below 1, got None and alpha={alpha!r}")
    if labels is not None and _check.shape("labels", labels, (n,)).dtype != torch.int64:
        raise ValueError(f"labels must have dtype torch.int64, got {labels.dtype}")
    if weights is not None and _check.shape("weights", _check.floating("weights", weights), (n,)).requires_grad:
        raise ValueError("weights must not require a gradient, got a tensor that does: multiply the loss by it instead")
    rows, classes = _plan(student, teacher, chunk)
    need_hidden, need_weight, need_bias = (
        torch.is_grad_enabled() and t is not None and t.requires_grad for t in student
    )
    how = How(temperature, alpha, beta, rows, classes, (need_hidden, need_weight, need_bias))
    # Not as a decorator, which would load the compiler, seconds long, together with this module.
    apply = torch.compiler.disable(_apply) if torch.compiler.is_compiling() else _apply
    return apply(*student, *teacher, labels, weights, how)


def _apply(*args: Any) -> Tensor:
    return _Chunked.apply(*args)[0]


def _plan(student: Student, teacher: Layer, chunk: int | tuple[int, int] | None) -> tuple[int, int]:
    """(rows, classes) at a time: blocks of even length whose logits fit HELD bytes, pieces whose arrays fit the cache."""
    (n, k), width = (len(student[0]), len(student[1])), CLASSES.get(student[0].device.type, MANY)
    if chunk is None:
        row = k * wide(*student[:2]).itemsize * (1 if teacher[1] is None else 2)
        blocks = max(1, math.ceil(n / max(1, HELD // row)))
        return max(1, math.ceil(n / blocks)), width
    rows, classes = chunk if isinstance(chunk, tuple) and len(chunk) == 2 else (chunk, width)
    return _check.positive_int(rows, "chunk"), _check.positive_int(classes, "chunk")


class _Chunked(torch.autograd.Function):
    """(loss, d hidden, d weight, d bias) for an incoming gradient of 1; what is not needed is an empty tensor."""

    @staticmethod
    def forward(*args: Any) -> Sums:
        return evaluate(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Sums) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:-1], *output[1:])
        ctx.how, ctx.first = inputs[-1], [True]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        need = tuple(ctx.needs_input_grad[:3])
        if gradient is None:
            return (None,) * 9
        mode = "scale in place" if ctx.first and ctx.how.need == need else "anew"
        ctx.first.clear()
        how = replace(ctx.how, need=need)
        found = _Backward.apply(gradient, *ctx.saved_tensors, how, mode)
        return (*(g if needed else None for g, needed in zip(found, need, strict=True)), *(None,) * 6)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _one_by_one(_Chunked, info, in_dims, args)


class _Backward(torch.autograd.Function):
    """The gradients for a given incoming one: scaled sums of the forward pass, or summed anew."""

    @staticmethod
    def forward(gradient: Tensor, *args: Any) -> tuple[Tensor, ...]:
        hidden, weight, bias, v, v_weight, v_bias, labels, weights, d_hidden, d_weight, d_bias, how, mode = args
        shared = how.need[1] or how.need[2]  # weight and bias sum over examples
        if mode == "anew" or (shared and not bool((gradient == gradient[:1]).all())):
            weights = gradient if weights is None else gradient * weights
            _, d_hidden, d_weight, d_bias = evaluate(hidden, weight, bias, v, v_weight, v_bias, labels, weights, how)
        else:
            scale = gradient[0] if len(gradient) else 1.0
            if mode == "scale in place":  # past autograd's version counter: `mode` sees to it that this happens once
                d_weight, d_bias = d_weight.data.mul_(scale), d_bias.data.mul_(scale)
            else:
                d_weight, d_bias = d_weight * scale, d_bias * scale
            d_hidden = d_hidden * gradient.unsqueeze(1) if how.need[0] else d_hidden
        return d_hidden.to(hidden.dtype), d_weight.to(weight.dtype), d_bias if bias is None else d_bias.to(bias.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError("chunked losses have first derivatives only: take kd_loss or jsd_loss for second ones")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        mode = "anew" if args[-1] == "anew" else "scale"  # the sums may be shared by all that is mapped over
        return _one_by_one(_Backward, info, in_dims, (*args[:-1], mode))


def _one_by_one(
    function: Any, info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    each = [
        function.apply(*(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
    return stacked, (0,) * len(stacked)
