"""Ordinary training runs, one student each: the oracle of the tests here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import Recipe, Task
from kdlib._seeds import stream
from kdlib.losses import soften
from kdlib.models import CNN, MLP

from ..models.ordinary import DTYPE, ordinary_cnn, ordinary_mlp

N, K = 50, 4


def make_task(*shape: int, n: int = N, seed: int = 0, dtype: torch.dtype = DTYPE) -> Task:
    generator = torch.Generator().manual_seed(seed)
    x_train, x_test = (torch.randn(m, *shape, generator=generator, dtype=dtype) for m in (n, 30))
    y_train, y_test = (torch.randint(K, (m,), generator=generator) for m in (n, 30))
    return Task(x_train, y_train, x_test, y_test, K)


def make_logits(task: Task, seed: int = 1) -> Tensor:
    return 3 * torch.randn(len(task.y_train), K, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def make_recipes(task: Task) -> list[Recipe]:
    """Different targets, temperatures and weights, with and without the factor T^2, one table with zeros."""
    v = make_logits(task)
    return [
        Recipe.hard(),
        Recipe("KD", soften(v, 4.0), temperature=4.0, alpha=0.9),
        Recipe("KD cold", soften(v), temperature=1.0, alpha=0.5),
        Recipe("KD alone, no factor", soften(-v, 2.5), temperature=2.5, alpha=1.0, t_squared=False),
        Recipe("one-hot teacher", F.one_hot((v[:, 0] > 0).long(), K).double(), temperature=0.7, alpha=0.3),
    ]


def ordinary_loss(z: Tensor, y: Tensor, targets: Tensor | None, recipe: Recipe) -> Tensor:
    """What a Recipe promises, with torch's own losses and autograd, one value per example."""
    hard = F.cross_entropy(z, y, reduction="none")
    if targets is None:
        return hard
    T = recipe.temperature
    soft = F.kl_div(F.log_softmax(z / T, dim=1), targets, reduction="none").sum(1)
    return (1 - recipe.alpha) * hard + recipe.alpha * (T**2 if recipe.t_squared else 1) * soft


def ordinary_run(
    network: nn.Module,
    task: Task,
    recipe: Recipe | Callable[[nn.Module, Tensor], Tensor],
    seed: int,
    epochs: int,
    batch_size: int,
    lr: float = 3e-3,
    weight_decay: float = 0.0,
    after: Callable[[int, nn.Module], Any] = lambda epoch, network: None,
) -> nn.Module:
    """One student by the book: AdamW, cosine decay, shuffled batches of which the last may be smaller.

    In place of a recipe: a function of the network and the examples' numbers. `after` is called after every epoch.
    """
    n = len(task.x_train)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-n // batch_size))
    generator = stream(seed, "data order")
    for epoch in range(1, epochs + 1):
        for index in torch.randperm(n, generator=generator).split(batch_size):
            optimiser.zero_grad()
            if isinstance(recipe, Recipe):
                z, y = network(task.x_train[index]), task.y_train[index]
                if recipe.loss is not None and recipe.teacher is not None:
                    value = recipe.loss(z, recipe.teacher[index], y)
                else:
                    value = ordinary_loss(z, y, None if recipe.targets is None else recipe.targets[index], recipe)
                (value if recipe.weights is None else recipe.weights[index] * value).mean().backward()
            else:
                recipe(network, index).backward()
            optimiser.step()
            schedule.step()
        after(epoch, network)
    return network


def plain_mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *ordinary_mlp(MLP(sizes, [seed], DTYPE), 0))


def plain_cnn(channels: Sequence[int], seed: int) -> nn.Sequential:
    return ordinary_cnn(CNN(channels, K, [seed], DTYPE), 0)


def flat(network: nn.Module) -> Tensor:
    """All parameters in the fleet's order: weight, bias, weight, bias."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])
