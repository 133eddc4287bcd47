"""F small convolutional networks as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import _check
from kdlib.models.base import FleetModel


class CNN(FleetModel):
    """F small convolutional networks: 3 x 3 convolutions with ReLU and 2 x 2 max-pooling, mean over space, linear layer.

    `channels` = (input, hidden, ...); the last convolution is not pooled. One grouped convolution serves all F students.

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

    def part(self, rows: slice) -> CNN:
        return CNN(self.channels, self.classes, self.seeds[rows], flat=self.flat.data[rows])

    def each(self, x: Tensor) -> Tensor:
        if x.dim() != 5 or x.shape[2] != self.channels[0]:
            raise ValueError(
                f"x must have examples ({self.channels[0]}, height, width), got shape {tuple(x.shape[2:])}"
            )
        students, batch = x.shape[:2]
        h = x.transpose(0, 1).flatten(1, 2)  # (B, F*C, H, W)
        *convolutions, (w_out, b_out) = self._layers(self.flat)
        for k, (w, b) in enumerate(convolutions):
            h = F.conv2d(h, w.flatten(0, 1), b.flatten(), padding=1, groups=students)
            h = torch.relu(h) if k == len(convolutions) - 1 else F.max_pool2d(torch.relu(h), 2)
        h = h.mean((2, 3)).view(batch, students, -1).permute(1, 2, 0)  # (F, C, B)
        return torch.baddbmm(b_out, w_out, h).mT
