"""Fleets of convolutional networks and of anybody's modules, against training one network after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdlib
from kdlib import Recipe, losses
from kdlib.fleet import training
from kdlib.models import CNN, FleetModel, stack

from .conftest import Contest

LOOP = "one student after the other"
STUDENTS = 16


def tiny_cnn(channels: tuple[int, ...] = (1, 16, 32), classes: int = 10) -> nn.Module:
    """The plain network that `CNN` is, as one would write it."""
    layers: list[nn.Module] = []
    for i, o in pairwise(channels):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


class Block(nn.Module):
    """One layer of a transformer: attention of four heads, then two linear maps, both behind a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.look(self.before(x)).view(b, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
        x = x + self.join(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.after(x))))


class Transformer(nn.Module):
    """Two layers over `tokens` vectors of length 8; the mean goes to the classes."""

    def __init__(self, width: int = 64, tokens: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.read, self.place = nn.Linear(8, width), nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.say = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.say(self.norm(self.blocks(self.read(x) + self.place)).mean(1))


def problem(*shape: int, n: int) -> kdlib.Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float32)
    y = torch.randint(10, (n,), generator=generator)
    return kdlib.Task(x, y, x[:4], y[:4], 10)


def loop(task: kdlib.Task, make: Callable[[], nn.Module], epochs: int, batch_size: int) -> Iterator[None]:
    """An epoch of every student, with a fused AdamW each; images channels last, the faster way."""
    layout = torch.channels_last if task.x_train.dim() == 4 else torch.contiguous_format
    x, networks = task.x_train.contiguous(memory_format=layout), []
    for seed in range(STUDENTS):
        torch.manual_seed(seed)
        networks.append(make().to(memory_format=layout))  # type: ignore[call-overload]
    optimisers = [torch.optim.AdamW(network.parameters(), lr=3e-3, fused=True) for network in networks]
    for _ in range(epochs):
        for network, optimiser in zip(networks, optimisers, strict=True):
            for index in torch.randperm(len(x)).split(batch_size):
                optimiser.zero_grad()
                F.cross_entropy(network(x[index]), task.y_train[index]).backward()
                optimiser.step()
        yield


def fleet(
    task: kdlib.Task, model: Callable[..., FleetModel], epochs: int, batch_size: int, threads: int
) -> Iterator[object]:
    return training(
        task, Recipe.hard(), seeds=STUDENTS, model=model, epochs=epochs, batch_size=batch_size, threads=threads
    )


def vmapped(task: kdlib.Task, make: Callable[[], nn.Module], epochs: int, batch_size: int) -> Iterator[None]:
    """torch.func.vmap over functional calls, gradients by autograd, one fused AdamW for all."""
    model = stack(make, range(STUDENTS))
    names = {name: nn.Parameter(p.clone()) for name, p in model.parameters_of(model.flat.data).items()}
    optimiser = torch.optim.AdamW(names.values(), lr=3e-3, fused=True)
    network = make().to("meta")
    call = torch.func.vmap(lambda p, x: torch.func.functional_call(network, p, (x,)))
    for _ in range(epochs):
        for index in torch.randperm(len(task.x_train)).split(batch_size):
            optimiser.zero_grad()
            z = call(names, task.x_train[index].expand(STUDENTS, -1, -1, -1))
            y = task.y_train[index].repeat(STUDENTS)
            (F.cross_entropy(z.flatten(0, 1), y, reduction="sum") / len(index)).backward()
            optimiser.step()
        yield


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("contender", [LOOP, "kdlib"])
def test_cnn(contender: str, threads: int, timing: bool, measure: Callable[..., None]) -> None:
    """16 CNNs (1-16-32) on images of 28 x 28, batch 64: an epoch of 1,280 images."""
    torch.set_num_threads(threads)
    task, rounds = problem(1, 28, 28, n=1280 if timing else 64), 5 if timing else 1
    if contender == LOOP:
        run: Iterator[object] = loop(task, tiny_cnn, rounds + 1, 64)
    else:
        run = fleet(task, partial(CNN, (1, 16, 32), 10), rounds + 1, 64, threads)
    contest = Contest(f"epoch of 16 CNNs 1-16-32, 28 x 28, batch 64, threads: {threads}", LOOP)
    measure(contest, contender, lambda: next(run), rounds, 1 if timing else 0)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("contender", [LOOP, "torch.func.vmap", "kdlib"])
def test_transformers(contender: str, threads: int, timing: bool, measure: Callable[..., None]) -> None:
    """16 transformers of 2 layers, width 64, 64 tokens, batch 16: ten steps."""
    torch.set_num_threads(threads)
    task, rounds = problem(64, 8, n=160 if timing else 16), 5 if timing else 1
    if contender == LOOP:
        run: Iterator[object] = loop(task, Transformer, rounds + 1, 16)
    elif contender == "kdlib":
        run = fleet(task, partial(stack, Transformer), rounds + 1, 16, threads)
    else:
        run = vmapped(task, Transformer, rounds + 1, 16)
    contest = Contest(f"ten steps of 16 tiny transformers, batch 16, threads: {threads}", LOOP)
    measure(contest, contender, lambda: next(run), rounds, 1 if timing else 0)


@pytest.mark.parametrize("contender", ["closed form", "any loss f(z, v, y)"])
def test_loss(contender: str, timing: bool, measure: Callable[..., None]) -> None:
    """64 students 32-128-128-10, batch 32: plain distillation as a table, and as a function differentiated by autograd."""
    task, rounds = problem(32, n=640 if timing else 32), 8 if timing else 1
    v = torch.randn(len(task.x_train), 10, generator=torch.Generator().manual_seed(1))
    by_loss = Recipe("KD", teacher=v, loss=losses.kd_loss)
    recipe = Recipe.distil("KD", v) if contender == "closed form" else by_loss
    run = training(
        task, recipe, seeds=64 if timing else 2, hidden=(128, 128), epochs=rounds + 2, batch_size=32, threads=1
    )
    measure(
        Contest("20 steps of 64 students by a recipe", "closed form", "ms"), contender, lambda: next(run), rounds, 1
    )
