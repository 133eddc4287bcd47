"""The CIFAR residual networks: the paper's sizes, depth, shapes and shortcuts."""

import numpy as np
import pytest
import torch
from torch import nn

from kdlib.resnet import Block, resnet


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_parameters_as_in_the_paper(depth, millions):
    """Table 6 of He et al. 2016, which counts to two decimals for ten classes."""
    model = resnet(depth, classes=10)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0065)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


@pytest.mark.parametrize(("depth", "width", "channels", "size"), [(8, 4, 1, 8), (14, 6, 3, 16), (8, 16, 3, 28)])
def test_shapes_and_gradients(depth, width, channels, size):
    model = resnet(depth, 7, width, channels)
    x = torch.randn(5, channels, size, size)
    assert model.features(x).shape == (5, 4 * width)
    stages = [m for m in model.features if isinstance(m, Block)]
    assert len(stages) == (depth - 2) // 2 and [b.stride for b in stages].count(2) == 2
    model(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_block_without_its_branch_is_the_shortcut():
    x = torch.randn(2, 3, 6, 6).relu()
    same, down = Block(3, 3, 1).eval(), Block(3, 6, 2).eval()
    for block in (same, down):
        nn.init.zeros_(block.norm2.weight)
    assert torch.equal(same(x), x)
    assert torch.equal(down(x), torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 3, 3, 3)], dim=1))


def test_convolutions_start_by_he_et_al_2015_counted_by_their_outputs():
    """Standard deviation sqrt(2 / (9 o)) of each convolution i -> o, which differs from 2 / (9 i) where channels double."""
    torch.manual_seed(0)
    model, seen = resnet(8, 10, width=32), set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            o, i = module.weight.shape[:2]
            n, sd = module.weight.numel(), (2 / (9 * o)) ** 0.5
            assert module.weight.std().item() == pytest.approx(sd, rel=4 / (2 * n) ** 0.5)
            assert abs(module.weight.mean().item()) < 4 * sd / n**0.5
            seen.add((i, o))
    assert {(3, 32), (32, 64), (64, 128)} <= seen


def test_counts_may_be_numpys():
    torch.manual_seed(0)
    given = resnet(np.int64(8), np.int64(5), np.int32(4), np.int64(1))
    torch.manual_seed(0)
    plain = resnet(8, 5, 4, 1)
    assert torch.equal(given.head.weight, plain.head.weight) and given.features[0].in_channels == 1


@pytest.mark.parametrize("depth", [2, 7, 18, 20.0, True])
def test_a_depth_that_is_none_is_named(depth):
    with pytest.raises(ValueError, match="depth must be 6n"):
        resnet(depth, 10)


@pytest.mark.parametrize("name", ["classes", "width", "channels"])
def test_a_count_that_is_none_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
        resnet(8, **({"classes": 3} | {name: 0}))
