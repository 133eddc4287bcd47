"""The residual networks of the CIFAR literature, for one big run (many small students: `kdlib.models`).

He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2: three stages of n blocks with 1, 2 and 4
times `width` channels at full, half and quarter resolution, so depth = 6n + 2; shortcuts have no parameters.
"""

from __future__ import annotations

from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import _check


def _convolution(i: int, o: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, stride, padding=1, bias=False, dtype=torch.float32)


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to the input: (B, i, H, W) -> (B, o, H/stride, W/stride)."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(i, o, stride), nn.BatchNorm2d(o, dtype=torch.float32)
        self.conv2, self.norm2 = _convolution(o, o), nn.BatchNorm2d(o, dtype=torch.float32)
        self.stride, self.grown = stride, o - i

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        h = self.norm2(self.conv2(h))
        if self.stride > 1 or self.grown:  # the paper's option A: every other pixel, new channels zero
            x = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.grown))
        return F.relu(h + x, inplace=True)


class ResNet(nn.Module):
    """See `resnet`. `features` ends in the vector that the linear layer `head` reads, (B, 4 * width)."""

    def __init__(self, blocks: int, classes: int, width: int, channels: int) -> None:
        super().__init__()
        stages = [width, 2 * width, 4 * width]
        layers: list[nn.Module] = [
            _convolution(channels, width),
            nn.BatchNorm2d(width, dtype=torch.float32),
            nn.ReLU(inplace=True),
        ]
        for i, o in zip([width, *stages], stages, strict=False):
            layers += [Block(i if k == 0 else o, o, 1 if i == o or k else 2) for k in range(blocks)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4 * width, classes, dtype=torch.float32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def resnet(depth: int, classes: int, width: int = 16, channels: int = 3) -> ResNet:
    """A float32 ResNet for small images: x (B, channels, H, W) -> logits (B, classes). Depth 8, 14, 20, 32, 44, 56, ...

    Raises ValueError for a depth that is not 6n + 2, or a count below 1. Source: He et al. 2016, section 4.2.

    >>> resnet(8, classes=10)(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """
    if isinstance(depth, bool) or not isinstance(depth, Integral) or depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6n + 2 for a whole n (8, 14, 20, 32, 56, ...), got {depth!r}")
    given = {"classes": classes, "width": width, "channels": channels}
    return ResNet((int(depth) - 2) // 6, **{name: _check.positive_int(value, name) for name, value in given.items()})
