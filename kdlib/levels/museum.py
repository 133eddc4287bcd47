"""The bug museum: thirteen silent distillation bugs from public code, each planted by a switch, each with its catching check.

`buggy_loss`, `buggy_step` and `buggy_run` are a plain loss, a step on one batch and the loop around it; `bug=None` is the
correct version. `audit` runs the checks of `kdlib.checks` on any loss and loop.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import _cpu, _seeds, checks
from kdlib.checks import NOTHING, Loss, Run
from kdlib.data.task import Task
from kdlib.fleet import Fleet
from kdlib.losses import cross_entropy, kd_loss
from kdlib.models import MLP

Losses = Callable[[Tensor, Tensor], Tensor]  # of the examples `index` against the rows `row` of the cache: (F, B)


def buggy_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    alpha: float = 0.9,
    t_squared: bool = True,
    *,
    bug: int | None = None,
) -> Tensor:
    """`kdlib.losses.kd_loss`, written plainly for finite logits, with bug 2, 3, 4, 6, 8, 10, 11 or 12; others change nothing.

    Raises ValueError for a bug that is not in 1..13 and for a teacher with another number of classes.
    """
    _check_bug(bug)
    z, v, T = student_logits, teacher_logits, temperature
    if bug == 6:
        t_squared = not t_squared  # the flag means its opposite
    if bug == 10:
        z, v = z.bfloat16().to(z), v.bfloat16().to(v)  # rounded first, upcast after
    if bug == 12:
        v = F.pad(v, (0, z.shape[-1] - v.shape[-1]))  # logit 0 is not probability 0
    if v.shape[-1] != z.shape[-1]:
        raise ValueError(f"teacher_logits must have {z.shape[-1]} classes like the student's, got {v.shape[-1]}")
    log_p = torch.log_softmax(v / T, -1)
    log_q = torch.log_softmax(z if bug == 8 else z / T, -1)  # the fast path forgets the student's temperature
    if bug == 11:
        log_p, log_q = torch.softmax(v / T, -1).log(), torch.softmax(z / T, -1).log()
    if bug == 2:
        log_q = log_p  # the teacher is compared with itself
    terms = log_p.exp() * (log_p - log_q)
    soft = terms.mean(-1) if bug == 4 else terms.sum(-1)  # the mean over classes is K times too small
    if t_squared and bug != 3:
        soft = T**2 * soft
    return (1 - alpha) * cross_entropy(z, labels) + alpha * soft


def buggy_step(losses: Losses, valid: Tensor, batch: Tensor, place: Tensor, chunk: int, bug: int | None) -> Tensor:
    """Add up the gradient of a batch, a chunk of examples at a time, with bug 5, 7 or 9; the batch's mean losses (F,).

    `batch` are the examples, in the order of the shuffle, and `place` the numbers of their places in it.
    """
    row = place if bug == 5 else batch  # cached logits in the order of the file, not of the batch
    mask = torch.ones_like(valid[batch]) if bug == 7 else valid[batch]  # padding counts
    chunks = list(zip(*(t.split(chunk) for t in (batch, row, mask)), strict=True))
    total = valid.new_zeros(1)
    for index, cached, m in chunks:
        count = m.sum() * len(chunks) if bug == 9 else mask.sum().clamp_min(1)  # the mean of the chunks' means
        part = (losses(index, cached) * m).sum(-1) / count  # (F,)
        part.sum().backward()
        total = total + part.detach()
    return total


@_cpu.settings(threads=1, onednn=False)  # products too small to share
def buggy_run(
    task: Task,
    teacher: Fleet,
    bug: int | None = None,
    *,
    seeds: int = 4,
    hidden: tuple[int, ...] = (128,),
    epochs: int = 20,
    batch_size: int = 128,
    chunk: int = 96,
    lr: float = 3e-3,
    temperature: float = 4.0,
    alpha: float = 0.9,
    missing_classes: int = 0,
    order_seed: int = 0,
) -> pd.DataFrame:
    """Distil `teacher`, a fleet of one, in a plain loop with one bug; one row per epoch and seed, with its symptoms.

    Students differ in their start and share the data order. A batch goes through in chunks of `chunk` examples, whose
    gradients add up. Training rows where `task.extra["valid"]` is False are padding (see `checks.padded`). A teacher that
    never met the last `missing_classes` classes gives them probability 0; bug 12 shows with such a teacher only.

    Columns bug (0 for none), epoch, seed; accuracy, teacher_accuracy (test, fractions), val_accuracy where the task has a
    validation part; student_moved, teacher_moved,
    Euclidean distance of all weights from where they started; loss (mean over the epoch's last batch) and eval_loss (over
    the training set), nats; gradient_error, how far the gradient of the epoch's first batch is from the one intended,
    computed in float64 without the bug, relative to its length. Raises ValueError for a bug that is not in 1..13 and for
    a number of missing classes that leaves the teacher none.
    """
    _check_bug(bug)
    x, y, valid, k = task.x_train, task.y_train, _valid(task), task.num_classes
    if missing_classes not in range(k):
        raise ValueError(f"missing_classes must be a number from 0 to {k - 1}, got {missing_classes!r}")
    student, model = MLP((x[0].numel(), *hidden, k), range(seeds), x.dtype), deepcopy(teacher.model)
    learner, source = (model, student) if bug == 1 else (student, model)  # swapped in the constructor
    start = student.flat.detach().clone()
    optimiser = torch.optim.Adam([learner.flat], lr=lr)
    cache, intended = (net(x).detach()[..., : k - missing_classes] for net in (source, teacher.model))  # (1, N, K)
    intended = F.pad(intended, (0, missing_classes), value=NOTHING)
    if bug != 12:
        cache = F.pad(cache, (0, missing_classes), value=NOTHING)  # probability exactly 0
    shuffle = _seeds.stream(order_seed, "data order")
    everything = torch.arange(len(x), device=x.device)

    def losses(index: Tensor, row: Tensor) -> Tensor:
        return buggy_loss(learner(x[index]), cache[:, row], y[index], temperature, alpha, bug=bug)  # (F, B)

    frames = []
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(x), generator=shuffle, device="cpu").to(x.device)
        for batch, place in zip(order.split(batch_size), everything.split(batch_size), strict=True):
            optimiser.zero_grad()
            loss = buggy_step(losses, valid, batch, place, chunk, bug)
            if place[0] == 0:  # an epoch's first batch is a full one
                error = _gradient_error(student, task, batch, intended[0, batch], temperature, alpha)
            optimiser.step()
        with torch.no_grad():
            total = (losses(everything, everything) * valid).sum(-1)
        batches = -(-len(x) // batch_size)
        measured = {
            "accuracy": _accuracy(student, task.x_test, task.y_test),
            "teacher_accuracy": _accuracy(model, task.x_test, task.y_test),
            "student_moved": (student.flat.detach() - start).norm(dim=-1),
            "teacher_moved": (model.flat.detach() - teacher.model.flat.detach()).norm(dim=-1),
            "loss": loss,
            "eval_loss": total / (batches if bug == 13 else valid.sum()),  # sums per batch, averaged over batches
            "gradient_error": error,
        }
        if "x_validation" in task.extra:
            measured["val_accuracy"] = _accuracy(student, task.extra["x_validation"], task.extra["y_validation"])
        columns = {name: value.expand(seeds).tolist() for name, value in measured.items()}
        frames.append(pd.DataFrame({"bug": bug or 0, "epoch": epoch, "seed": range(seeds), **columns}))
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class Exhibit:
    """One bug: its number, name, where it was found, the check that catches it, and settings of `buggy_run` that show it.

    Where there are settings, its control is the correct loop under the same settings.
    """

    number: int
    name: str
    found: str
    check: Callable[[Any], None]
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def of(self) -> str:
        """What the check is called with: "loss" or "run"."""
        return next(iter(inspect.signature(self.check).parameters))

    @property
    def planted(self) -> str:
        """The lines of `buggy_loss`, `buggy_step` and `buggy_run` that plant the bug."""
        switch, found = re.compile(rf"\bbug [!=]= {self.number}\b"), []
        for function in (buggy_loss, buggy_step, buggy_run):
            source = inspect.getsource(function).splitlines()
            for line, following in pairwise(source):
                if switch.search(line):
                    found.append(textwrap.dedent(f"{line}\n{following}" if line.endswith(":") else line))
        return "\n".join(found)

    def verdict(self, loss: Loss = kd_loss, run: Run = buggy_run) -> str:
        """What the check says of a loss or a loop; empty if it passes."""
        return checks.verdict(self.check, loss if self.of == "loss" else run)


FOUND = {
    1: "keras-team/keras-io#257",
    2: "labmlai/annotated_deep_learning_paper_implementations#66",
    3: "IntelLabs/distiller#122, keras-team/keras-io#869",
    4: "facebookresearch/deit#116",
    5: "haitongli/knowledge-distillation-pytorch#16",
    6: "sunshangquan/logit-standardization-KD#15",
    7: "peremartra/optipfair#34",
    8: "huggingface/trl#5731",
    9: "huggingface/trl#6006, pytorch/torchtune#1885",
    10: "linkedin/Liger-Kernel#1432",
    11: "linkedin/Liger-Kernel#769",
    12: "linkedin/Liger-Kernel, read in its chunked base",
    13: "axolotl-ai-cloud/axolotl#3271",
}
SHOWN: dict[int, tuple[tuple[str, Any], ...]] = {11: (("temperature", 0.05),), 12: (("missing_classes", 5),)}
EXHIBITS = tuple(
    Exhibit(number, name, FOUND[number], check, SHOWN.get(number, ()))
    for number, (name, check) in sorted({**checks.LOSS_CHECKS, **checks.LOOP_CHECKS}.items())
)


def rooms() -> list[tuple[int | None, tuple[tuple[str, Any], ...]]]:
    """Every loop of the museum as (bug, settings of `buggy_run`): each exhibit, and each control once, as bug None."""
    return list(dict.fromkeys((bug, e.settings) for e in EXHIBITS for bug in (None, e.number)))


def label(bug: int | None, settings: tuple[tuple[str, Any], ...] = ()) -> str:
    """The name of a loop: "3", or "0, temperature 0.05" for the correct one under settings."""
    return ", ".join([str(bug or 0), *(f"{name.replace('_', ' ')} {value:g}" for name, value in settings)])


def audit(loss: Loss = kd_loss, run: Run = buggy_run) -> pd.DataFrame:
    """Run the thirteen checks on a loss and a loop: columns number, bug, check, passed, message. Bring your own.

    `loss` is called like `kdlib.losses.kd_loss`, `run` like `buggy_run`.
    """
    return checks.verdicts((e.number, e.name, e.check, e.verdict(loss, run)) for e in EXHIBITS)


def _check_bug(bug: int | None) -> None:
    if bug is not None and bug not in range(1, 14):
        raise ValueError(f"bug must be None or one of 1..13, got {bug!r}")


def _gradient_error(
    student: MLP, task: Task, batch: Tensor, teacher_logits: Tensor, temperature: float, alpha: float
) -> Tensor:
    exact = deepcopy(student).double()
    exact.flat.grad = None
    loss = kd_loss(
        exact(task.x_train[batch].double()), teacher_logits.double(), task.y_train[batch], temperature, alpha
    )
    weight = _valid(task)[batch].double()
    ((loss * weight).sum(-1) / weight.sum()).sum().backward()
    taken, intended = (
        torch.zeros_like(net.flat) if net.flat.grad is None else net.flat.grad for net in (student, exact)
    )
    return (taken - intended).norm(dim=-1) / intended.norm(dim=-1)


def _valid(task: Task) -> Tensor:
    return task.extra.get("valid", torch.ones_like(task.y_train)).to(task.x_train)


@torch.no_grad()
def _accuracy(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return (model(x).argmax(-1) == y).double().mean(-1)
