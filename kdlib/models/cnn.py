"""F small convolutional networks as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import _check
from kdlib.models.base import Cost, FleetModel

# Of a layer's output for the examples that pass at once: what stays in a core's own cache on the way back too.
PIECE_BYTES = 1_700_000
FEW_CHANNELS = 4  # of an input whose first layer is cheaper as four matrix products
NO_LESS = -torch.finfo(torch.float32).smallest_normal  # a difference above it is 0


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
            h = _channels_last(x[f])
            for k, (w, b) in enumerate(layers):
                h = F.conv2d(h, _channels_last(w[f]), b[f, :, 0], padding=1)
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
            if k == 0 and pooled and i <= FEW_CHANNELS:
                kept += 8 * pooled + 5 * h * w * i  # four corners, what is made of them, and their windows
                passing = 2 * pooled
            else:
                kept += h * w * o + 3 * pooled  # of each pooled pixel also its place, a long integer
                # a layer's gradient twice, for oneDNN's own order, and its input
                passing = max(passing, 2 * h * w * o + pooled)
            h, w = h // 2, w // 2
        size = len(x) * self.flat.element_size()
        adds = len(x) * (adds + math.prod(self.shapes[-1]))
        return Cost(adds, size * (kept + passing), 0 if self.flat.is_cuda else size * passing)

    def tape(self) -> ConvTape | None:
        """Hand-written forward and backward pass for a CPU; a subclass may differ and gets none."""
        return ConvTape(self) if type(self) is CNN and not self.flat.is_cuda else None


class ConvTape:
    """The CNN's chain rule written out, student by student and piece by piece: the same numbers as autograd (tested), sooner.

    Interface as `mlp.Tape`: `parameter` is what an optimiser steps, `forward(x)` takes (F, B, C, H, W) and returns logits
    (F, K, B), `backward(g)` takes dLoss/dlogits in that shape and fills `parameter.grad`, `store` writes to the model.
    A batch goes through in pieces whose largest layer fits the cache nearest to a core. Between the two calls a student's
    activations are kept, so a batch is cut by the caller where they would be too large; their memory is used again step by
    step until `store`, which ends an epoch.
    """

    def __init__(self, model: CNN) -> None:
        self.model = model
        self.parameter = nn.Parameter(model.flat.data)  # the model's own memory, row by row
        self.parameter.grad = torch.zeros_like(self.parameter)
        self.layers = [model.layers(rows) for rows in self.parameter.data.split(1)]
        self.grads = [model.layers(rows) for rows in self.parameter.grad.split(1)]
        self.rooms: list[list[_Passed]] = [[] for _ in self.layers]  # of each student, one a piece
        self.kept: list[tuple[list[_Passed], Tensor]] = []

    def store(self) -> None:
        """Put the gradients where the model has its own (the weights are the model's already), and give the rooms back."""
        self.model.flat.grad = self.parameter.grad
        self.rooms = [[] for _ in self.layers]

    def arranged(self, rows: Tensor) -> Tensor:
        """A table of the model's parameters (F, P) in the order of `parameter`: as it is."""
        return rows

    def forward(self, x: Tensor) -> Tensor:
        self.kept, logits = [], []
        pixels = x[0, 0, 0].numel()
        largest = max(c * pixels >> 2 * k for k, c in enumerate(self.model.channels[1:])) * x.element_size()
        pieces = -(-x.shape[1] * largest // PIECE_BYTES)
        for layers, own, rooms in zip(self.layers, x, self.rooms, strict=True):
            *convolutions, (w_out, b_out) = layers
            filters = [(_channels_last(w[0]), b.view(-1)) for w, b in convolutions]
            parts = _channels_last(own).split(-(-len(own) // pieces))
            rooms.extend(_Passed(filters) for _ in parts[len(rooms) :])
            passed = rooms[: len(parts)]
            for part, room in zip(parts, passed, strict=True):
                room.forward(part, filters)
            feature = torch.cat([part.feature for part in passed])  # (B, C)
            self.kept.append((passed, feature))
            logits.append(torch.addmm(b_out.view(-1), feature, w_out[0].T).T)
        return torch.stack(logits)

    def backward(self, g: Tensor) -> None:
        for layers, grads, (passed, feature), own in zip(self.layers, self.grads, self.kept, g, strict=True):
            (dw, db), w_out = grads[-1], layers[-1][0][0]
            torch.mm(own, feature, out=dw[0])
            torch.sum(own, 1, out=db.view(-1))
            d_feature = own.T @ w_out
            for i, (part, d) in enumerate(zip(passed, d_feature.split(len(passed[0].feature)), strict=True)):
                for (dw, db), (d_w, d_b) in zip(grads, part.backward(d), strict=False):
                    (dw[0].copy_ if i == 0 else dw[0].add_)(d_w)
                    (db.view(-1).copy_ if i == 0 else db.view(-1).add_)(d_b)
        self.kept = []


class _Passed:
    """A piece (B, C, H, W) of a student's batch that went through its filters, with what the way back needs."""

    def __init__(self, filters: list[tuple[Tensor, Tensor]]) -> None:
        *pooled, _ = filters
        self.steps: list[_Pooled | _Convolved] = [_Convolved(k < len(pooled)) for k in range(len(filters))]
        if pooled and filters[0][0].shape[1] <= FEW_CHANNELS:
            self.steps[0] = _Pooled()

    def forward(self, x: Tensor, filters: list[tuple[Tensor, Tensor]]) -> None:
        for step, (w, b) in zip(self.steps, filters, strict=True):
            x = step.forward(x, w, b)
        self.feature = x.mean((2, 3))  # (B, C)

    def backward(self, d_feature: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Gradients of the filters from that of `feature`."""
        last = self.steps[-1].out
        spread = (d_feature / last[0, 0].numel())[:, :, None, None].expand(last.shape)
        d: Tensor | None = spread.contiguous(memory_format=torch.channels_last)
        found = []
        for k, step in reversed(list(enumerate(self.steps))):
            # where the ReLU was shut its output is 0, and so is the gradient
            d, d_w, d_b = step.backward(torch.ops.aten.threshold_backward(d, step.out, 0), wanted=k > 0)
            found.append((d_w, d_b))
        return found[::-1]


class _Convolved:
    """A layer by torch's own convolution and pooling; pooled first, so that the ReLU has a quarter to do."""

    def __init__(self, pooled: bool) -> None:
        self.pooled = pooled

    def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        self.x, self.w, self.full = x, w, F.conv2d(x, w, b, padding=1)
        self.place: Tensor | None = None  # in the full output, of each pooled pixel
        out = self.full
        if self.pooled:
            out, self.place = torch.ops.aten.max_pool2d_with_indices(self.full, [2, 2])
        self.out = out.relu_()
        return self.out

    def backward(self, d: Tensor, wanted: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of `x` (where wanted), weight and bias from that before the ReLU."""
        if self.place is not None:
            d = torch.ops.aten.max_pool2d_with_indices_backward(
                d, self.full, [2, 2], [], [0, 0], [1, 1], False, self.place
            )
        d_x, d_w, d_b = torch.ops.aten.convolution_backward(
            d, self.x, self.w, [len(self.w)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [wanted, True, True]
        )
        return d_x, d_w, d_b


class _Pooled:
    """A first, pooled layer on few channels as four matrix products, one for each corner of a pooled pixel.

    Such a layer has the largest output of all and little to compute. Its four corners see one window of 4 x 4 pixels; the
    largest of four products is the pooled output, and on the way back the gradient goes to one of the four and into a
    product again. The full output is never put in order, filled with zeros or searched, and the memory is kept from step to
    step: asking the system for it anew costs as much as the arithmetic (measured).
    """

    shape: torch.Size | None = None  # of the images that there is room for

    def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        n, c, height, width = x.shape
        h, v, o = height // 2, width // 2, len(w)
        if x.shape != self.shape:
            self.shape = x.shape
            self.padded = x.new_zeros(n, height + 2, width + 2, c)
            self.filters = x.new_zeros(4, 4, 4, c, o)  # corner, row and column in the window, channel, output
            self.windows, self.corners = x.new_empty(16 * c, n * h * v), x.new_empty(4, n * h * v, o)
            self.upper, self.lower, self.largest, self.pooled = x.new_empty(4, n * h * v, o)
        self.padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
        image, row, pixel, _ = self.padded.stride()
        windows = self.padded.as_strided((4, 4, c, n, h, v), (row, pixel, 1, image, 2 * row, 2 * pixel))
        self.windows.view(windows.shape).copy_(windows)
        for filters, place in zip(self.filters, CORNERS, strict=True):
            filters[place] = w.permute(2, 3, 1, 0)
        torch.bmm(self.windows.T.expand(4, -1, -1), self.filters.view(4, 16 * c, o), out=self.corners)
        first, second, third, fourth = self.corners
        torch.maximum(first, second, out=self.upper)
        torch.maximum(third, fourth, out=self.lower)
        torch.maximum(self.upper, self.lower, out=self.largest)
        self.out = torch.add(self.largest, b, out=self.pooled).relu_().view(n, h, v, o).permute(0, 3, 1, 2)
        return self.out

    def backward(self, d: Tensor, wanted: bool) -> tuple[None, Tensor, Tensor]:
        """Gradients of weight and bias from that before the ReLU; the images get none. Called once: it writes over what was kept."""
        d = d.permute(0, 2, 3, 1).reshape(self.largest.shape)
        first, second, third, fourth = self.corners
        for one, of_two in ((first, self.upper), (third, self.lower), (self.upper, self.largest)):
            one.sub_(of_two)  # 0 where it is the larger
        for whole, one, other in (
            (d, self.upper, self.lower),
            (self.upper, first, second),
            (self.lower, third, fourth),
        ):
            # of equals the first gets the gradient, as in torch
            torch.ops.aten.threshold_backward.grad_input(whole, one, NO_LESS, grad_input=one)
            torch.sub(whole, one, out=other)
        products = torch.matmul(self.windows, self.corners).view(self.filters.shape)
        own = [product[place] for product, place in zip(products, CORNERS, strict=True)]
        return None, torch.stack(own).sum(0).permute(3, 2, 0, 1), d.sum(0)


# where a corner's own 3 x 3 pixels lie in the window of 4 x 4
CORNERS = [(slice(i, i + 3), slice(j, j + 3)) for i in (0, 1) for j in (0, 1)]


def _channels_last(x: Tensor) -> Tensor:
    """x (N, C, H, W) with a pixel's channels side by side, and strides that say so for a single channel too.

    torch's own layout leaves the strides of one channel as they are, reads the other layout off them, and so runs the first
    layer's output, the largest, the slow way (max-pooling 10 times slower, measured).
    """
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).contiguous().as_strided((n, c, h, w), (h * w * c, 1, w * c, c))
