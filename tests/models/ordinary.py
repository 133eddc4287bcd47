"""Students of a fleet as ordinary torch modules: the oracle of the tests here and of tests/fleet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdlib.models import CNN, MLP, FleetModel

DTYPE = torch.float64


def ordinary_mlp(fleet: MLP, f: int) -> nn.Sequential:
    """Student f as a plain network."""
    layers: list[nn.Module] = []
    for w, b in zip(fleet.weights, fleet.biases, strict=True):
        linear = nn.Linear(w.shape[1], w.shape[2], dtype=w.dtype)
        linear.weight.data, linear.bias.data = w[f].T.clone(), b[f].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def ordinary_cnn(fleet: CNN, f: int) -> nn.Sequential:
    """Student f as a plain network."""
    layers: list[nn.Module] = []
    *convolutions, (w_out, b_out) = zip(fleet.weights, fleet.biases, strict=True)
    for w, b in convolutions:
        conv = nn.Conv2d(w.shape[2], w.shape[1], 3, padding=1, dtype=w.dtype)
        conv.weight.data, conv.bias.data = w[f].clone(), b[f].clone()  # type: ignore[union-attr]
        layers += [conv, nn.ReLU(), nn.MaxPool2d(2)]
    linear = nn.Linear(w_out.shape[1], w_out.shape[2], dtype=w_out.dtype)
    linear.weight.data, linear.bias.data = w_out[f].T.clone(), b_out[f].clone()
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def with_biases(fleet: FleetModel) -> None:
    """Biases start at zero, which would hide a mistake in how they are used."""
    for b in fleet.biases:
        b.normal_(generator=torch.Generator().manual_seed(1))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DTYPE, generator=torch.Generator().manual_seed(2))


def gradient(network: nn.Module) -> Tensor:
    """Of all parameters, in the fleet's order: weight, bias, weight, bias."""
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
