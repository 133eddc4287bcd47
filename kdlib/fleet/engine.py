"""How F students step: groups with one ordinary optimiser each, side by side in threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdlib import _cpu, _seeds
from kdlib.data.task import Task
from kdlib.fleet.plan import plan
from kdlib.fleet.result import Fleet
from kdlib.fleet.settings import Optimiser, Setting
from kdlib.models import MLP, FleetModel


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; `fleet` can be evaluated at any time."""

    step: int
    steps: int
    epoch: int
    epochs: int
    fleet: Fleet


@dataclass(frozen=True)
class Block:
    """Neighbours with one objective and setting."""

    rows: slice
    objective: Any
    setting: Setting


class Engine:
    """Blocks of students on their way through the epochs; `plan` says how they are divided into groups."""

    def __init__(
        self,
        task: Task,
        fleet: Fleet,
        blocks: Sequence[Block],
        *,
        batch_size: int | None,
        optimiser: Optimiser,
        schedule: str,
        mask: Tensor | None,
        coupled: int,
        marks: set[int],
        threads: int | None,
        compile: bool,
    ) -> None:
        network = fleet.model
        x = task.x_train.to(network.flat)
        n = len(x)
        self.task, self.fleet, self.blocks, self.marks = task, fleet, blocks, marks
        self.x = x.flatten(1) if type(network) is MLP else x
        self.shuffled, self.batch = batch_size is not None, n if batch_size is None else min(batch_size, n)
        self.steps_each = -(-n // self.batch)
        self.onednn = x.device.type == "cpu" and not compile
        some = x[:1].expand(self.batch, *x.shape[1:])
        self.plan = plan(network, some, [b.rows for b in blocks], threads=threads, together=coupled, compiled=compile)
        self.groups = []
        for rows in self.plan.groups:
            block = next(b for b in blocks if b.rows.start <= rows.start < b.rows.stop)
            objective = block.objective
            if hasattr(objective, "part"):
                objective = objective.part(slice(rows.start - block.rows.start, rows.stop - block.rows.start))
            group = Group(network.part(rows), objective, self.x, None if mask is None else mask[rows], compile)
            group.optimise(optimiser, block, self.steps_each if schedule == "cosine" else 0)
            self.groups.append(group)

    def run(self) -> Iterator[Progress]:
        """One epoch after another; a group stops after its own last one."""
        seeds = list(dict.fromkeys(self.fleet.model.seeds))
        place = {seed: i for i, seed in enumerate(seeds)}
        slots = [
            torch.tensor([place[s] for s in g.model.seeds], dtype=torch.int64, device=self.x.device)
            for g in self.groups
        ]
        generators = [_seeds.stream(seed, "data order") for seed in seeds]
        epochs, n = max(b.setting.epochs for b in self.blocks), len(self.x)
        steps = epochs * self.steps_each
        with ThreadPoolExecutor(self.plan.workers) as pool:
            each = pool.map if self.plan.workers > 1 else map
            for epoch in range(1, epochs + 1):
                orders = None
                if self.shuffled:
                    drawn = [torch.randperm(n, generator=g, device="cpu") for g in generators]
                    orders = torch.stack(drawn).to(self.x.device)  # (S, N)

                def advance(pair: tuple[Group, Tensor], orders: Tensor | None = orders) -> None:
                    with _cpu.settings(self.plan.threads, onednn=self.onednn):
                        pair[0].epoch(orders, pair[1], self.batch)

                running = [pair for pair in zip(self.groups, slots, strict=True) if epoch <= pair[0].epochs]
                # Between epochs the caller has its own settings back, also if it never resumes us.
                list(each(advance, running))
                for group, _ in running:
                    self._check_finite(group, epoch)
                self._record(epoch)
                yield Progress(epoch * self.steps_each, steps, epoch, epochs, self.fleet)

    def _check_finite(self, group: Group, epoch: int) -> None:
        good = group.finite()
        if not bool(good.all()):
            student = self.fleet.students.iloc[int(group.model.rows[int((~good).nonzero()[0])])].to_dict()
            raise FloatingPointError(
                f"training diverged: student {student} has weights or logits that are not finite in epoch {epoch}; "
                "try a smaller lr"
            )

    def _record(self, epoch: int) -> None:
        """Evaluate who is at a mark, and everybody at the end of its own way."""
        if not self.marks:
            return
        frames = [] if self.fleet.curve is None else [self.fleet.curve]
        for block in self.blocks:
            if epoch == block.setting.epochs or (epoch < block.setting.epochs and epoch in self.marks):
                own = self.fleet.part(block.rows)
                frames.append(own.scored(self.task.x_test, self.task.y_test).assign(epoch=epoch, split="test"))
                if "x_validation" in self.task.extra:
                    held = own.scored(self.task.extra["x_validation"], self.task.extra["y_validation"])
                    frames.append(held.assign(epoch=epoch, split="validation"))
        self.fleet.curve = pd.concat(frames, ignore_index=True) if frames else None


class Group:
    """Students that step together."""

    def __init__(self, model: FleetModel, objective: Any, x: Tensor, mask: Tensor | None, compile: bool) -> None:
        self.model, self.objective, self.x = model, objective, x
        self.by_logits = hasattr(objective, "gradient")
        self.each = torch.compile(model.each) if compile else model.each
        self.tape = model.tape() if self.by_logits and not compile else None
        self.parameter = model.flat if self.tape is None else self.tape.parameter
        self.frozen, self.start = None, self.parameter.data
        if mask is not None:
            self.frozen = ~(mask if self.tape is None else self.tape.arranged(mask))
            self.start = self.parameter.data.clone()
        self.checked = False

    def optimise(self, optimiser: Optimiser, block: Block, steps_each: int) -> None:
        """Set the optimiser, and a cosine that falls to 0 over the block's epochs of `steps_each` steps (0: constant)."""
        self.epochs = block.setting.epochs
        self.optimiser = optimiser([self.parameter], lr=block.setting.lr, weight_decay=block.setting.weight_decay)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        self.schedule = cosine(self.optimiser, block.setting.epochs * steps_each) if steps_each else None

    @torch.enable_grad()
    def epoch(self, orders: Tensor | None, slot: Tensor, batch_size: int) -> None:
        """One step for each batch of the data orders (S, N); student f follows order slot[f]. None: one step on all examples."""
        if orders is None:
            self.step(None)
        else:
            for part in orders.split(batch_size, dim=1):
                self.step(part.index_select(0, slot))
        if self.tape is not None:
            self.tape.store()

    def step(self, index: Tensor | None) -> None:
        """One optimiser step on examples index (F, B), None for all of them."""
        if index is None:
            students = len(self.model.seeds)
            x = self.x.expand(students, *self.x.shape)
            index = torch.arange(len(self.x), device=self.x.device).expand(students, -1)
        else:
            x = self.x.index_select(0, index.reshape(-1)).view(*index.shape, *self.x.shape[1:])
        if self.tape is not None:
            with torch.no_grad():
                self.tape.backward(self.objective.gradient(self.tape.forward(x), index))
        else:
            self.optimiser.zero_grad()
            if self.by_logits:
                z = self.each(x).mT  # (F, K, B)
                with torch.no_grad():
                    g = self.objective.gradient(z.detach().clone(memory_format=torch.contiguous_format), index)
                z.backward(g)
            else:
                self._value(x, index).sum().backward()
        self.optimiser.step()
        if self.frozen is not None:
            torch.where(self.frozen, self.start, self.parameter.data, out=self.parameter.data)
        if self.schedule is not None:
            self.schedule.step()

    def _value(self, x: Tensor, index: Tensor) -> Tensor:
        value = self.objective(self.model, x, index)
        if self.checked:
            return value
        expected = (len(index),)
        if not isinstance(value, Tensor) or tuple(value.shape) != expected:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"objective must return one value per student, shape {expected}, got {got}")
        if not value.requires_grad:
            raise ValueError("objective must depend on the model's parameters, got a value without gradient")
        self.checked = True
        return value

    @torch.no_grad()
    def finite(self) -> Tensor:
        """Which students (F,) have finite weights, and finite logits on the first few examples."""
        least, most = torch.aminmax(self.model.flat, dim=1)  # a NaN is both; no table of flags is made
        return least.isfinite() & most.isfinite() & self.model(self.x[:8]).isfinite().flatten(1).all(1)
