"""Networks that learn one view of a class each, what an ensemble of them knows, and how one network is taught it.

Source: Allen-Zhu & Li, "Towards Understanding Ensemble, Knowledge Distillation and Self-Distillation in Deep Learning"
(ICLR 2023), as recalled; step size, lengths and constants are this book's, chosen so that the effect shows on a CPU.
Data: `kdlib.data.multiview`. An ensemble is the mean of its members' logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdlib import _check, _seeds
from kdlib.data.task import Task
from kdlib.fleet import Fleet
from kdlib.fleet.objective import Objective
from kdlib.losses import cross_entropy, kd_loss
from kdlib.models import FleetModel


class _SmoothedReLU(torch.autograd.Function):
    """Half the passes over memory that autograd would make: value and slope share their powers."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, exponent: int, knee: float) -> Tensor:
        bent = z.clamp(0, knee)
        power = bent.pow(exponent - 1) if exponent > 1 else (z > 0).to(z)
        ctx.save_for_backward(power)
        ctx.scale = knee ** (1 - exponent)
        return (z - knee).relu_().addcmul_(power, bent, value=ctx.scale / exponent)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (power,) = ctx.saved_tensors
        return torch.addcmul(power.new_zeros(()), power, g, value=ctx.scale), None, None  # in one pass


def smoothed_relu(z: Tensor, exponent: int = 4, knee: float = 0.5) -> Tensor:
    """0 up to 0, z^q / (q knee^(q-1)) up to the knee, then z - (1 - 1/q) knee, for q = `exponent`; 1 is the ReLU.

    Any shape. Its slope is min(max(z, 0) / knee, 1)^(q-1); it is differentiable once.
    Raises ValueError for an exponent that is no integer of at least 1 or a knee that is not positive.
    """
    _check.positive_int(exponent, "exponent")
    _check.temperature(knee, "knee")
    return _SmoothedReLU.apply(z, exponent, knee)


class MultiViewNet(FleetModel):
    """F networks with `width` neurons for each class, shared by all patches: logit k = sum_r sum_p act(<w_kr, x_p>).

    Inputs are (..., patches, inputs), act is `smoothed_relu`, the second layer is ones, weights start as N(0, scale^2). The
    biases that every layer of a fleet has stay 0 and are not read. Source: Allen-Zhu & Li 2023, section on the network.

    >>> MultiViewNet(5, 12, 60, seeds=[0, 1])(torch.zeros(7, 6, 60)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(
        self,
        classes: int,
        width: int,
        inputs: int,
        seeds: Sequence[int],
        *,
        exponent: int = 4,
        knee: float = 0.5,
        scale: float = 0.01,
        dtype: torch.dtype = torch.float32,
        flat: Tensor | None = None,
    ) -> None:
        self.classes, self.width = _check.positive_int(classes, "classes"), _check.positive_int(width, "width")
        self.inputs, self.exponent = _check.positive_int(inputs, "inputs"), _check.positive_int(exponent, "exponent")
        self.knee, self.scale = float(_check.temperature(knee, "knee")), _check.not_negative(scale, "scale")
        super().__init__([(classes * width, inputs)], seeds, dtype, flat)

    def _initial(self) -> Tensor:
        neurons, drawn = self.classes * self.width, {}
        for seed in set(self.seeds):
            generator = _seeds.stream(seed, "initialisation")
            normal = torch.randn(neurons * self.inputs, generator=generator, dtype=torch.float32, device="cpu")
            drawn[seed] = torch.cat([self.scale * normal, torch.zeros(neurons, dtype=torch.float32, device="cpu")])
        return torch.stack([drawn[seed] for seed in self.seeds])

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        return self._summed(smoothed_relu(self._seen(flat, x), self.exponent, self.knee), x)

    def _seen(self, flat: Tensor, x: Tensor) -> Tensor:
        """<w, x_p> of every neuron and patch, (F, K m, B P)."""
        if x.dim() != 4 or x.shape[-1] != self.inputs:
            raise ValueError(f"x must be (F, B, patches, {self.inputs}), got shape {tuple(x.shape)}")
        ((w, _),) = self.layers(flat)
        if x.stride(0) == 0:  # the same examples for all: one product in place of F
            return (w.flatten(0, 1) @ x[0].flatten(0, 1).T).unflatten(0, w.shape[:2])
        return w @ x.flatten(1, 2).mT

    def _summed(self, h: Tensor, x: Tensor) -> Tensor:
        """Over the neurons of a class and the patches of an image: (F, K m, B P) -> (F, B, K)."""
        own = h.view(len(h), self.classes, self.width, -1).sum(2)  # (F, K, B P)
        return own.view(len(h), self.classes, *x.shape[1:3]).sum(3).mT

    def correlations(self, features: Tensor) -> Tensor:
        """Lambda (F, K, views): the largest <w_kr, feature>, or 0, over the neurons of a class; features (K, views, inputs)."""
        _check.shape("features", features, (self.classes, None, self.inputs))
        ((w, _),) = self.layers(self.flat.data)
        own = torch.einsum("fkri,kvi->fkrv", w.unflatten(1, (self.classes, self.width)), features.to(w))
        return own.amax(2).clamp(min=0)


class Linearised(MultiViewNet):
    """The same networks to first order in the weights around their start w0: sum of act(a) + act'(a) (<w, x> - a), a = <w0, x>.

    A linear model on the random features act'(<w0, x_p>) x_p: the tangent kernel's view of a network.
    """

    def __init__(self, *sizes: Any, **settings: Any) -> None:
        super().__init__(*sizes, **settings)
        self.start = self._initial()

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        with torch.no_grad():
            at = self._seen(self.start.to(flat)[self.rows.to(flat.device)], x)
            slope = (at / self.knee).clamp_(0, 1).pow_(self.exponent - 1)
            offset = smoothed_relu(at, self.exponent, self.knee) - slope * at
        return self._summed(offset + slope * self._seen(flat, x), x)


class CappedDescent(torch.optim.Optimizer):
    """Gradient descent with one step size per network, lr, smaller where a neuron would move by more than `longest`.

    step = min(lr, longest / max_r |g_r|) over the neurons r, each of `inputs` weights: a path of gradient descent, walked at
    an even pace. `together` neighbouring networks share the smallest step among them. For parameters (F, neurons (inputs + 1)).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 600.0,
        weight_decay: float = 0.0,
        inputs: int,
        longest: float = 0.1,
        together: int = 1,
    ) -> None:
        if weight_decay:
            raise ValueError(f"weight_decay must be 0: the rule for the step knows none, got {weight_decay}")
        super().__init__(list(params), {"lr": lr})
        self.inputs, self.longest, self.together = inputs, longest, together

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                neurons = parameter.shape[1] // (self.inputs + 1)
                g = parameter.grad
                lengths = g[:, : neurons * self.inputs].unflatten(1, (neurons, self.inputs)).norm(dim=2)  # (F, neurons)
                most = lengths.unflatten(0, (-1, self.together)).amax((1, 2)).repeat_interleave(self.together)
                parameter.sub_((self.longest / most).clamp(max=group["lr"]).unsqueeze(1) * g)  # a rest: 1 / 0 is capped


def descent(task: Task, together: int = 1) -> dict[str, Any]:
    """Settings for `fleet.fit`: full-batch `CappedDescent` at a constant rate of 600."""
    optimiser = partial(CappedDescent, inputs=task.x_train.shape[-1], together=together)
    return {"optimiser": optimiser, "lr": 600.0, "batch_size": None, "schedule": "constant"}


def on_labels(task: Task, stop: float = 0.0, targets: Tensor | None = None, members: int = 1) -> Objective:
    """Mean cross-entropy against the labels, or `targets (N, K)`. A network whose loss is below `stop` stands still.

    members: this many neighbours are one model, the mean of their logits, and trained as such (`coupled=members` in `fit`,
    `together=members` in `descent`); each one's value is the loss of the model, so that it has the slope of a part.
    """
    _check.positive_int(members, "members")
    table = task.y_train if targets is None else targets
    _check.shape("targets", table, (len(task.y_train), *table.shape[1:]))

    def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        z = model.each(x)
        if members > 1:
            z = ensembles(z, members).repeat_interleave(members, 0)
        loss = cross_entropy(z, table[index]).mean(-1)
        return torch.where(loss.detach() < stop, 0.0, loss)

    return objective


def on_teacher(task: Task, teacher: Tensor, temperature: float | None = None, alpha: float = 0.5) -> Objective:
    """Distillation from logits `teacher`, (N, K) for all students or (R, N, K): student f has teacher f modulo R.

    With a temperature it is `losses.kd_loss`; None is regression on the logits, half their squared distance, no labels.
    Raises ValueError for a teacher of another shape.
    """
    rows = teacher if teacher.dim() == 3 else teacher.unsqueeze(0)
    _check.shape("teacher", rows, (None, len(task.y_train), task.num_classes))

    def objective(model: FleetModel, x: Tensor, index: Tensor) -> Tensor:
        own = model.rows.to(index.device) % len(rows)
        z, v = model.each(x), rows[own.unsqueeze(1), index]
        if temperature is None:
            return (z - v).square().sum(-1).mean(-1) / 2
        return kd_loss(z, v, task.y_train[index], temperature, alpha).mean(-1)

    return objective


def ensembles(logits: Tensor, size: int) -> Tensor:
    """Mean logits of each `size` neighbours: (F, N, K) -> (F // size, N, K); what is left over at the end has no ensemble."""
    if not 1 <= _check.positive_int(size, "size") <= len(logits):
        raise ValueError(f"size must be at most {len(logits)}, the number of networks, got {size}")
    return logits[: len(logits) // size * size].unflatten(0, (-1, size)).mean(1)


def views_known(model: MultiViewNet, task: Task, share: float = 0.3) -> Tensor:
    """Which views each network knows, bool (F, K, views): those whose correlation exceeds `share` of the class's largest."""
    _check.fraction(share, "share")
    known = model.correlations(_features(task))
    return known > share * known.amax(2, keepdim=True)


def errors(logits: Tensor, task: Task) -> pd.DataFrame:
    """Share of wrong answers on test images, one row per network of logits (F, M, K): `single` view, `multi` view, `total`."""
    _check.shape("logits", logits, (None, len(task.y_test), task.num_classes))
    _features(task)
    wrong, single = (logits.argmax(-1) != task.y_test).double(), task.extra["single_test"]
    parts = {"single": wrong[:, single], "multi": wrong[:, ~single], "total": wrong}
    return pd.DataFrame({name: part.mean(1).numpy() for name, part in parts.items()})


def averaged(fleet: Fleet, size: int) -> Tensor:
    """The mean weights of each `size` neighbours, (F // size, P), for a network's `flat`."""
    return ensembles(fleet.model.flat.data.unsqueeze(1), size).squeeze(1)


def _features(task: Task) -> Tensor:
    if "features" not in task.extra:
        raise ValueError(f"task must be one that data.multiview made, with its features in `extra`, got {task.name}")
    return task.extra["features"]
