"""F small convolutional networks as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import _check
from kdlib.models.base import Cost, FleetModel

CORNERS = [(slice(i, None, 2), slice(j, None, 2)) for i in (0, 1) for j in (0, 1)]  # of each 2 x 2 window, in order


class CNN(FleetModel):
    """F small convolutional networks: 3 x 3 convolutions with ReLU and 2 x 2 max-pooling, mean over space, linear layer.

    `channels` = (input, hidden, ...); the last convolution is not pooled. On a CPU students go one after another,
    channels last: a grouped convolution there is slower than no fleet at all (1.7 times, measured). On a GPU one grouped
    convolution serves all.

    Raises ValueError for fewer than two channel counts, a count below 1 or no seeds.

    >>> CNN((1, 8, 16), classes=10, seeds=[0, 1])(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([2, 5, 10])
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
        flat: Tensor | None = None,
    ) -> None:
        if len(channels) < 2:
            raise ValueError(f"channels must name the input's and at least one layer's, got {tuple(channels)}")
        self.channels = tuple(_check.positive_int(n, "channels") for n in channels)
        self.classes = _check.positive_int(classes, "classes")
        shapes: list[tuple[int, ...]] = [(o, i, 3, 3) for i, o in zip(self.channels, self.channels[1:], strict=False)]
        super().__init__([*shapes, (self.classes, self.channels[-1])], seeds, dtype, flat)

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.dim() != 5 or x.shape[2] != self.channels[0]:
            raise ValueError(
                f"x must have examples ({self.channels[0]}, height, width), got shape {tuple(x.shape[2:])}"
            )
        if min(x.shape[3:]) < 2 ** (len(self.channels) - 2):
            raise ValueError(
                f"x must have images of at least {2 ** (len(self.channels) - 2)} pixels a side for "
                f"{len(self.channels) - 2} poolings, got {tuple(x.shape[3:])}"
            )
        *convolutions, (w_out, b_out) = self.layers(flat)
        features = self._grouped if flat.is_cuda else self._one_by_one
        return torch.baddbmm(b_out, w_out, features(convolutions, x)).mT  # from (F, C, B)

    def _one_by_one(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        features = []
        for f in range(len(x)):
            h = x[f].contiguous(memory_format=torch.channels_last)
            for k, (w, b) in enumerate(layers):
                h = F.conv2d(h, w[f], b[f, :, 0], padding=1)
                h = torch.relu(h if k == len(layers) - 1 else F.max_pool2d(h, 2))
            features.append(h.mean((2, 3)).T)
        return torch.stack(features)

    def _grouped(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        students, batch = x.shape[:2]
        h = x.transpose(0, 1).flatten(1, 2)  # (B, F*C, H, W)
        for k, (w, b) in enumerate(layers):
            h = F.conv2d(h, w.flatten(0, 1), b.flatten(), padding=1, groups=students)
            h = torch.relu(h if k == len(layers) - 1 else F.max_pool2d(h, 2))
        return h.mean((2, 3)).view(batch, students, -1).permute(1, 2, 0)

    def cost(self, x: Tensor) -> Cost:
        adds, kept, passing, (h, w) = 0, x.shape[1:].numel() + 4 * self.classes, 0, x.shape[-2:]
        for k, (i, o) in enumerate(zip(self.channels, self.channels[1:], strict=False)):
            adds += h * w * o * i * 9
            pooled = (h // 2) * (w // 2) * o if k < len(self.channels) - 2 else 0
            kept += h * w * o + pooled
            passing = max(
                passing, 2 * h * w * o + pooled
            )  # a layer's gradient twice, for oneDNN's own order, and its input
            h, w = h // 2, w // 2
        size = len(x) * self.flat.element_size()
        adds = len(x) * (adds + math.prod(self.shapes[-1]))
        return Cost(adds, size * (kept + passing), 0 if self.flat.is_cuda else size * passing)

    def tape(self) -> ConvTape | None:
        """Hand-written forward and backward pass for a CPU; a subclass may differ and gets none."""
        return ConvTape(self) if type(self) is CNN and not self.flat.is_cuda else None


class ConvTape:
    """The CNN's chain rule written out, student by student: the same numbers as autograd (tested), in 0.6 of its time.

    Interface as `mlp.Tape`: `parameter` is what an optimiser steps, `forward(x)` takes (F, B, C, H, W) and returns logits
    (F, K, B), `backward(g)` takes dLoss/dlogits in that shape and fills `parameter.grad`, `store` writes to the model.
    Between the two calls a student's activations are kept, so a batch is cut by the caller where they would be too large.
    """

    def __init__(self, model: CNN) -> None:
        self.model = model
        self.parameter = nn.Parameter(model.flat.data)  # the model's own memory, row by row
        self.parameter.grad = torch.zeros_like(self.parameter)
        self.layers = [model.layers(rows) for rows in self.parameter.data.split(1)]
        self.grads = [model.layers(rows) for rows in self.parameter.grad.split(1)]
        self.kept: list[tuple[list[Tensor], list[Tensor], Tensor]] = []

    def store(self) -> None:
        """Put the gradients where the model has its own; the weights are the model's already."""
        self.model.flat.grad = self.parameter.grad

    def arranged(self, rows: Tensor) -> Tensor:
        """A table of the model's parameters (F, P) in the order of `parameter`: as it is."""
        return rows

    def forward(self, x: Tensor) -> Tensor:
        self.kept, logits = [], []
        for layers, own in zip(self.layers, x, strict=True):
            *convolutions, (w_out, b_out) = layers
            h = own.contiguous(memory_format=torch.channels_last)
            inputs, outputs = [], []
            for k, (w, b) in enumerate(convolutions):
                inputs.append(h)
                out = F.conv2d(h, w[0], b.view(-1), padding=1)
                h = out.relu_() if k == len(convolutions) - 1 else _pooled(out).relu_()
                outputs.append(out)
            feature = h.mean((2, 3))  # (B, C)
            self.kept.append((inputs, outputs, feature))
            logits.append(torch.addmm(b_out.view(-1), feature, w_out[0].T).T)
        return torch.stack(logits)

    def backward(self, g: Tensor) -> None:
        for layers, grads, (inputs, outputs, feature), own in zip(self.layers, self.grads, self.kept, g, strict=True):
            w_out, (dw, db) = layers[-1][0][0], grads[-1]
            torch.mm(own, feature, out=dw[0])
            torch.sum(own, 1, out=db.view(-1))
            last = outputs[-1]
            spread = (own.T @ w_out).div_(last.shape[2] * last.shape[3])[:, :, None, None].expand(last.shape)
            # where the ReLU was shut its output is 0, and so is the gradient
            d = _shut(spread.contiguous(memory_format=torch.channels_last), last)
            for k in range(len(inputs) - 1, -1, -1):
                w, options = layers[k][0][0], ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
                wanted = [k > 0, True, True]
                d_in, d_w, d_b = torch.ops.aten.convolution_backward(d, inputs[k], w, [len(w)], *options, wanted)
                grads[k][0][0].copy_(d_w)
                grads[k][1].view(-1).copy_(d_b)
                if k:
                    d = _unpooled(_shut(d_in, inputs[k]), inputs[k], outputs[k - 1])
        self.kept = []


def _shut(g: Tensor, h: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(g, h, 0)


def _pooled(h: Tensor) -> Tensor:
    """The largest of each 2 x 2 window, (B, C, H, W) -> (B, C, H // 2, W // 2)."""
    a, b, c, d = _corners(h)
    return torch.maximum(torch.maximum(a, b), torch.maximum(c, d))


def _corners(h: Tensor) -> list[Tensor]:
    h = h[..., : h.shape[2] // 2 * 2, : h.shape[3] // 2 * 2]
    return [h[:, :, i, j] for i, j in CORNERS]


def _unpooled(g: Tensor, pooled: Tensor, h: Tensor) -> Tensor:
    """The gradient of h from that of its pooled and rectified values: to the first of each window's largest, as torch."""
    d = torch.zeros_like(h) if h.shape[2] % 2 or h.shape[3] % 2 else torch.empty_like(h)
    *first, last = _corners(d)
    for to, value in zip(first, _corners(h), strict=False):
        # value - pooled is 0 at the largest and negative elsewhere: floats that differ do so by a normal number
        torch.sub(value, pooled, out=to)
        torch.ops.aten.threshold_backward.grad_input(g, to, -torch.finfo(g.dtype).tiny, grad_input=to)
        g = g.sub_(to)
    last.copy_(g)
    return d
