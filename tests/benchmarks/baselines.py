"""What a fleet is measured against: the same students trained in other people's ways, each written plainly and well.

A contender is a function of a `Problem` that returns a generator: it yields, after every epoch, a function that gives the
logits (F, N, K) of all students. All start from the same weights, see the same batches in the same order, minimise the
same loss with AdamW and the same cosine schedule, and so end with the same students (`test_contenders_agree`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdlib
from kdlib import _seeds, losses
from kdlib.models import MLP

Predict = Callable[[Tensor], Tensor]
Contender = Callable[["Problem"], Iterator[Predict]]


@dataclass(frozen=True, eq=False)
class Problem:
    """Recipes x seeds on one task, with the tables every contender looks things up in."""

    task: kdlib.Task
    recipes: list[kdlib.Recipe]
    seeds: int
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    lr: float = 3e-3
    weight_decay: float = 0.01
    threads: int = 1

    @property
    def inputs(self) -> Tensor:
        return self.task.x_train

    @property
    def labels(self) -> Tensor:
        return self.task.y_train

    @cached_property
    def targets(self) -> Tensor:
        """Softened teacher probabilities of each recipe, (R, N, K)."""
        return torch.stack([recipe.targets for recipe in self.recipes if recipe.targets is not None]).to(self.inputs)

    @property
    def students(self) -> list[tuple[int, int]]:
        """(recipe, seed) of each student, in the order of `kdlib.train`."""
        return [(r, s) for r in range(len(self.recipes)) for s in range(self.seeds)]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.inputs.shape[1], *self.hidden, self.task.num_classes)

    @property
    def steps(self) -> int:
        return self.epochs * -(-len(self.inputs) // self.batch_size)

    def start(self) -> tuple[list[Tensor], list[Tensor]]:
        """Initial weights (F, in, out) and biases (F, out) of each layer."""
        model = MLP(self.sizes, [seed for _, seed in self.students], self.inputs.dtype)
        return [w.contiguous() for w in model.weights], [b.contiguous() for b in model.biases]

    def orders(self, seed: int) -> Iterator[Tensor]:
        """The data order of a seed, one permutation an epoch."""
        generator = _seeds.stream(seed, "data order")
        for _ in range(self.epochs):
            yield torch.randperm(len(self.inputs), generator=generator)

    def optimiser(self, parameters: list[Any], **kind: Any) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, **kind)

    def cosine(self, optimiser: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)


def loop(problem: Problem) -> Iterator[Predict]:
    """Ordinary training: one nn.Sequential, one fused AdamW after the other. An epoch of all students, then the next."""
    weights, biases = problem.start()
    runs = [
        _single(problem, *student, [w[f] for w in weights], [b[f] for b in biases])
        for f, student in enumerate(problem.students)
    ]
    for predicts in zip(*runs, strict=True):
        yield partial(_stacked, predicts)


def _stacked(predicts: Sequence[Predict], x: Tensor) -> Tensor:
    return torch.stack([predict(x) for predict in predicts])


def _single(problem: Problem, recipe: int, seed: int, weights: list[Tensor], biases: list[Tensor]) -> Iterator[Predict]:
    x, y, targets = problem.inputs, problem.labels, problem.targets[recipe]
    temperature, alpha = problem.recipes[recipe].temperature, problem.recipes[recipe].alpha
    layers: list[nn.Module] = []
    for w, b in zip(weights, biases, strict=True):
        linear = nn.Linear(w.shape[0], w.shape[1], dtype=x.dtype)
        with torch.no_grad():
            linear.weight.copy_(w.T)
            linear.bias.copy_(b)
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = problem.optimiser(list(model.parameters()), fused=True)
    schedule = problem.cosine(optimiser)
    for order in problem.orders(seed):
        for index in order.split(problem.batch_size):
            z = model(x[index])
            soft = F.kl_div(F.log_softmax(z / temperature, -1), targets[index], reduction="batchmean")
            loss = (1 - alpha) * F.cross_entropy(z, y[index]) + alpha * temperature**2 * soft
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        yield torch.no_grad()(model)


def plain_batch(problem: Problem) -> Iterator[Predict]:
    """All students in one graph: batched matrix products, autograd, log-softmax over the last axis, foreach AdamW."""
    weights, biases = (([p.requires_grad_() for p in parts]) for parts in problem.start())

    def forward(h: Tensor) -> Tensor:
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            h = torch.baddbmm(b.unsqueeze(1), h, w)  # (F, B, out)
            h = torch.relu(h) if k < len(weights) - 1 else h
        return h

    x, y, recipe, temperature, alpha = _per_student(problem)
    optimiser = problem.optimiser([*weights, *biases], foreach=True)
    schedule = problem.cosine(optimiser)
    for index in _batches(problem):
        if index is None:
            yield torch.no_grad()(lambda x: forward(x.expand(len(recipe), *x.shape)))
            continue
        z = forward(x[index])
        log_q = torch.log_softmax(z / temperature, -1)
        soft = F.kl_div(log_q, problem.targets[recipe, index], reduction="none").sum(-1)  # (F, B)
        hard = -torch.log_softmax(z, -1).gather(-1, y[index].unsqueeze(-1)).squeeze(-1)
        loss = ((1 - alpha) * hard + alpha * temperature.squeeze(-1) ** 2 * soft).mean(-1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def vmap(problem: Problem) -> Iterator[Predict]:
    """Model ensembling as torch.func's documentation has it: functional_call, vmap(grad), stacked parameters."""
    base = nn.Sequential(
        *[m for i, o in zip(problem.sizes, problem.sizes[1:], strict=False) for m in (nn.Linear(i, o), nn.ReLU())][:-1]
    )
    parameters = {}
    for k, (w, b) in enumerate(zip(*problem.start(), strict=True)):
        parameters[f"{2 * k}.weight"], parameters[f"{2 * k}.bias"] = w.mT.contiguous(), b

    def loss(own: dict[str, Tensor], x: Tensor, y: Tensor, p: Tensor, temperature: Tensor, alpha: Tensor) -> Tensor:
        z = torch.func.functional_call(base, own, (x,))
        soft = F.kl_div(F.log_softmax(z / temperature, -1), p, reduction="batchmean")
        return (1 - alpha) * F.cross_entropy(z, y) + alpha * temperature**2 * soft

    gradients = torch.func.vmap(torch.func.grad(loss))
    outputs = torch.func.vmap(lambda own, x: torch.func.functional_call(base, own, (x,)), in_dims=(0, None))
    x, y, recipe, temperature, alpha = _per_student(problem)
    optimiser = problem.optimiser(list(parameters.values()), fused=True)
    schedule = problem.cosine(optimiser)
    for index in _batches(problem):
        if index is None:
            yield torch.no_grad()(lambda x: outputs(parameters, x))
            continue
        p = problem.targets[recipe, index]
        with torch.no_grad():
            found = gradients(parameters, x[index], y[index], p, temperature.view(-1), alpha.view(-1))
            for name, parameter in parameters.items():
                parameter.grad = found[name]
        optimiser.step()
        schedule.step()


def jax_vmap(problem: Problem) -> Iterator[Predict]:
    """JAX: jit of a whole epoch, a scan over steps of vmap(grad), AdamW written out, buffers donated."""
    jax: Any = import_module("jax")
    jnp: Any = import_module("jax.numpy")
    jax.config.update("jax_enable_x64", problem.inputs.dtype == torch.float64)
    x, y, recipe, temperature, alpha = (jnp.asarray(t.numpy()) for t in _per_student(problem))
    temperature, alpha = temperature.reshape(-1), alpha.reshape(-1)
    targets = jnp.asarray(problem.targets.numpy())
    start = [jnp.asarray(p.numpy()) for parts in problem.start() for p in parts]
    depth = len(start) // 2

    def forward(own: Any, h: Any) -> Any:
        for k in range(depth):
            h = h @ own[k] + own[depth + k]
            h = jax.nn.relu(h) if k < depth - 1 else h
        return h

    def loss(own: Any, x: Any, y: Any, p: Any, temperature: Any, alpha: Any) -> Any:
        z = forward(own, x)
        log_q = jax.nn.log_softmax(z / temperature)
        soft = -(p * log_q).sum(-1).mean()
        hard = -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()
        return (1 - alpha) * hard + alpha * temperature**2 * soft

    gradients = jax.vmap(jax.grad(loss))

    def step(state: Any, index: Any) -> Any:
        own, mean, square, t = state
        p = targets[recipe, index]
        found = gradients(own, x[index], y[index], p, temperature, alpha)
        lr = problem.lr * (1 + jnp.cos(jnp.pi * t / problem.steps)) / 2
        t = t + 1
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, found)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, found)

        def update(p: Any, m: Any, v: Any) -> Any:
            move = (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
            return p * (1 - lr * problem.weight_decay) - lr * move

        return (jax.tree.map(update, own, mean, square), mean, square, t), None

    epoch = jax.jit(lambda state, indices: jax.lax.scan(step, state, indices)[0], donate_argnums=0)
    outputs = jax.jit(jax.vmap(forward, in_axes=(0, None)))
    state: Any = (start, [0 * p for p in start], [0 * p for p in start], jnp.asarray(0.0, x.dtype))
    batches: list[Any] = []
    for index in _batches(problem):
        if index is not None:
            batches.append(index.numpy())
            continue
        state = jax.block_until_ready(epoch(state, jnp.asarray(batches)))
        batches = []
        yield partial(lambda own, x: torch.tensor(np.asarray(outputs(own, x.numpy()))), state[0])


def fleet(problem: Problem, compile: bool = False) -> Iterator[Predict]:
    """kdlib."""
    settings = {name: getattr(problem, name) for name in ("seeds", "hidden", "epochs", "batch_size", "lr")}
    settings |= {"weight_decay": problem.weight_decay, "threads": problem.threads, "dtype": problem.inputs.dtype}
    for state in kdlib.fleet.training(problem.task, problem.recipes, compile=compile, **settings):
        yield state.fleet.predict


def _per_student(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Inputs, labels; recipe (F, 1), temperature (F, 1, 1) and alpha (F, 1) of each student."""
    recipe = torch.tensor([r for r, _ in problem.students]).unsqueeze(1)
    temperature = torch.tensor([r.temperature for r in problem.recipes], dtype=problem.inputs.dtype)[recipe]
    alpha = torch.tensor([r.alpha for r in problem.recipes], dtype=problem.inputs.dtype)[recipe]
    return problem.inputs, problem.labels, recipe, temperature.unsqueeze(-1), alpha


def _batches(problem: Problem) -> Iterator[Tensor | None]:
    """Examples (F, B) of every step; None ends an epoch."""
    slot = torch.tensor([seed for _, seed in problem.students])
    for orders in zip(*(problem.orders(seed) for seed in range(problem.seeds)), strict=True):
        yield from torch.stack(orders)[slot].split(problem.batch_size, dim=1)
        yield None


def random_problem(
    sizes: tuple[int, ...],
    batch_size: int,
    steps: int,
    epochs: int,
    seeds: int = 8,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """8 recipes, each with its own (T, alpha), times `seeds` students, on random data of `steps` batches."""
    generator = torch.Generator().manual_seed(0)
    n, classes = batch_size * steps, sizes[-1]
    x = torch.randn(n, sizes[0], generator=generator, dtype=dtype)
    y = torch.randint(classes, (n,), generator=generator)
    v = 3 * torch.randn(n, classes, generator=generator, dtype=dtype)
    recipes = [
        kdlib.Recipe(f"T={t}, alpha={a}", losses.soften(v, t), t, a) for t in (1.0, 2.0, 4.0, 8.0) for a in (0.5, 0.9)
    ]
    task = kdlib.Task(x, y, x[:100], y[:100], classes)
    return Problem(task, recipes, seeds, sizes[1:-1], epochs, batch_size)
