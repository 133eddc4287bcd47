"""Train one big network on images: augmentation in bulk on the device, resumable, on one process or several.

Many small students are `kdlib.fleet`; this is the ten-minutes-to-a-day run. The data set lives on the device, a batch
is augmented by a single gather (after K. Jordan's airbench), and there are no loader processes.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from kdlib import _check, _checkpoint, _seeds
from kdlib.data.task import Task
from kdlib.losses import cross_entropy, kd_loss

Loss = Callable[..., Tensor]  # f(z, v, y), or f(z, y) without a teacher, -> one value per example


def augment(x: Tensor, index: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Images `index` of x (N, C, H, W), each shifted and perhaps mirrored -> (B, C, H, W), channels last in memory.

    `index (B,)` int64, `shift (B, 2)` int64 pixels down and right, smaller than the image, `flip (B,)` bool; an image
    is shifted before it is mirrored. What a shift uncovers is filled by reflection. One gather makes the batch: nothing
    is padded or copied beforehand.
    """
    h, w = x.shape[2:]
    rows = torch.arange(h, device=x.device) - shift[:, :1]  # (B, H)
    columns = torch.arange(w, device=x.device)
    columns = torch.where(flip[:, None], w - 1 - columns, columns) - shift[:, 1:]  # (B, W)
    # |i| reflects at the near edge, the second absolute value at the far one
    rows, columns = (n - 1 - (n - 1 - i.abs()).abs() for n, i in ((h, rows), (w, columns)))
    batch = x[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return batch.permute(0, 3, 1, 2)


def draw_epoch(
    seed: int, epoch: int, n: int, crop: int, flip: bool, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Order (n,), shifts (n, 2) in -crop..crop and flips (n,) of one epoch, a function of (seed, epoch) alone.

    Drawn on the CPU, so they are the same on every device and in every process, and a resumed run stores no state.
    """
    n, crop = _check.positive_int(n, "n"), _check.integer(crop, "crop")
    generator = _seeds.stream(seed, f"epoch {_check.integer(epoch, 'epoch')}")
    order = torch.randperm(n, generator=generator, device="cpu")
    shift = torch.randint(-crop, crop + 1, (n, 2), generator=generator, device="cpu")
    mirrored = torch.rand(n, generator=generator, dtype=torch.float32, device="cpu") < (0.5 if flip else 0.0)
    return order.to(device), shift.to(device), mirrored.to(device)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) in float32 of the network in evaluation mode for x (N, C, H, W), on x's device.

    Every module is left in the mode in which it was. A network may return its logits alone, first in a tuple, or as
    `logits` of a dictionary; anything else raises ValueError.
    """
    device, dtype = _place(model, x)
    parts = []
    with _evaluating(model):
        for part in x.split(_check.positive_int(batch_size, "batch_size")):
            with _autocast(device):
                z = model(part.to(device, dtype, memory_format=torch.channels_last))
            parts.append(_logits(z, len(part)).float())
    return torch.cat(parts).to(x.device)


def fit(
    task: Task,
    model: nn.Module,
    *,
    epochs: int = 30,
    batch_size: int = 128,
    lr: float = 0.2,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    crop: int = 4,
    flip: bool = True,
    teacher_logits: Tensor | None = None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    loss: Loss | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train `model` in place on task.x_train (N, C, H, W); one row per epoch: epoch, lr, loss, accuracy, seconds.

    SGD with Nesterov momentum; the learning rate rises to `lr` over the first fifth and falls to almost 0, both along
    a cosine (Smith and Topin 2018). Loss: cross-entropy in nats on the labels, or `kd_loss` with a table
    `teacher_logits (N, K)`, made once from the images as they are, or any `loss(z, v, y)` (`loss(z, y)` without a
    teacher) that returns one value per example, such as those of `kdlib.losses`; fix its options by `functools.partial`.
    Each image is moved by up to `crop` pixels and mirrored with probability 1/2 (if `flip`). `lr` in the result is that
    of the epoch's last step, `loss` the mean over its steps, `accuracy` on the test set, for reading only: nothing is
    chosen by it. On CUDA the forward pass runs in bfloat16.

    The model's initialisation is the caller's (`torch.manual_seed` before `resnet`). It may return logits as `predict`
    says. Parameters that need no gradient, and modules in evaluation mode inside a model in training mode, are frozen
    and stay as they are. The model is left in evaluation mode.

    With `checkpoint` the whole state is written there after every epoch, and a call that finds the file goes on from
    it, to the same result as a run that was never stopped. A file of another run (settings, data, loss) is refused. A
    finished run goes on when called with more `epochs`: the added ones are a cycle of the learning rate of their own.

    Started by `torchrun --nproc-per-node=P`, the P processes share each batch and average their gradients (gloo on the
    CPU, NCCL on CUDA); the first one's checkpoint decides for all, also on several hosts. Batch norm then sees each
    process's own share only; convert the model to `nn.SyncBatchNorm` beforehand where that matters.

    Raises ValueError on bad arguments or a checkpoint that is damaged or another run's, OSError where one cannot be
    written, FloatingPointError when the loss is not finite.
    """
    settings = _settings(
        task, teacher_logits, loss, epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum,
        weight_decay=weight_decay, crop=crop, flip=flip, temperature=temperature, alpha=alpha, seed=seed,
    )  # fmt: skip
    epochs, batch_size, lr, crop = (settings[name] for name in ("epochs", "batch_size", "lr", "crop"))
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("model must have at least one parameter that needs a gradient, got none")
    rank, world, device = _join(device)
    n, share = len(task.x_train), batch_size // world
    if share * world != batch_size:
        raise ValueError(f"batch_size must be a multiple of {world}, the number of processes, got {batch_size}")
    steps = n // batch_size  # what is left over is another part of the data in every epoch

    state, bare = None, getattr(model, "_orig_mod", model)  # a compiled network's state is the network's
    history: list[dict[str, float]] = []
    ends = [epochs]
    if checkpoint is not None:
        settings |= _fingerprint(task, teacher_logits, model)
        state = _checkpoint.load(checkpoint, device)
        if state is not None:
            history, ends = _checkpoint.continued(checkpoint, state, settings, bare)
    began = ends[-2] if len(ends) > 1 else 0
    if (epochs - began) * steps < 6:
        raise ValueError(f"epochs must give at least 6 steps for the schedule, got {epochs - began} x {steps}")

    frozen = [module for module in model.modules() if model.training and not module.training]
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(
        trained,
        lr=lr,
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        nesterov=settings["momentum"] > 0,
    )
    cycle = partial(
        torch.optim.lr_scheduler.OneCycleLR,
        optimiser, lr, total_steps=(epochs - began) * steps, pct_start=0.2, cycle_momentum=False,
    )  # fmt: skip
    schedule = cycle()
    if state is not None:
        with _checkpoint.fitting(checkpoint):
            bare.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            if len(history) > began:
                schedule.load_state_dict(state["schedule"])
            else:
                schedule = cycle()  # from its own start, whatever rate the last one ended at
    network = DistributedDataParallel(model) if world > 1 else model

    dtype, layout = _place(model, task.x_train)[1], torch.channels_last
    x, x_test = (images.to(device, dtype).contiguous(memory_format=layout) for images in (task.x_train, task.x_test))
    y, y_test = task.y_train.to(device), task.y_test.to(device)
    teacher = None if teacher_logits is None else teacher_logits.to(device)
    distil = partial(kd_loss, temperature=settings["temperature"], alpha=settings["alpha"])
    objective: Loss = loss or (cross_entropy if teacher is None else distil)
    bar = tqdm(total=epochs * steps, initial=len(history) * steps, unit="step", disable=not progress or rank > 0)
    for epoch in range(len(history), epochs):
        start, total = time.perf_counter(), torch.zeros((), dtype=torch.float32, device=device)
        order, shift, mirrored = draw_epoch(settings["seed"], epoch, n, crop, settings["flip"], device)
        network.train()
        for module in frozen:
            module.training = False
        for step in range(steps):
            here = slice(step * batch_size + rank * share, step * batch_size + (rank + 1) * share)
            index = order[here]
            with _autocast(device):
                output = network(augment(x, index, shift[here], mirrored[here]))
            z = _logits(output, share, task.num_classes)
            z = z.float() if z.dtype.itemsize < 4 else z
            values = objective(z, y[index]) if teacher is None else objective(z, teacher[index], y[index])
            mean_loss = _mean(values, share)
            optimiser.zero_grad()
            mean_loss.backward()
            optimiser.step()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            total += mean_loss.detach()
            bar.update()
        if world > 1:
            dist.all_reduce(total)
        mean = total.item() / (steps * world)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean} in epoch {epoch}: try a smaller lr than {lr}")
        accuracy = (predict(model, x_test).argmax(1) == y_test).sum().item() / len(y_test)
        row = {"epoch": epoch, "lr": rate, "loss": mean, "accuracy": accuracy}
        history.append(row | {"seconds": time.perf_counter() - start})
        bar.set_postfix(epoch=epoch + 1, loss=f"{mean:.3f}", accuracy=f"{accuracy:.3f}")
        if checkpoint is not None:
            state = {"settings": settings, "cycles": ends, "history": history}
            _checkpoint.save(checkpoint, state, {"model": bare, "optimiser": optimiser, "schedule": schedule}, device)
    bar.close()
    model.eval()
    return pd.DataFrame(history)


def _settings(task: Task, teacher_logits: Tensor | None, loss: Loss | None, **given: Any) -> dict[str, Any]:
    """The arguments, checked, as plain numbers: what a checkpoint keeps and compares."""
    task.require_classes("fit")
    if task.x_train.dim() != 4:
        raise ValueError(f"task.x_train must have shape (N, C, H, W), got {tuple(task.x_train.shape)}")
    n, size = len(task.x_train), min(task.x_train.shape[2:])
    for name in ("epochs", "batch_size"):
        given[name] = _check.positive_int(given[name], name)
    for name in ("seed", "crop"):
        given[name] = _check.integer(given[name], name)
    for name in ("lr", "momentum", "weight_decay"):
        given[name] = _check.not_negative(given[name], name)
    if given["batch_size"] > n:
        raise ValueError(f"batch_size must be at most {n}, the number of training images, got {given['batch_size']}")
    if given["crop"] >= size:
        raise ValueError(f"crop must lie in 0..{size - 1} for images of {size} pixels, got {given['crop']}")
    given["temperature"] = float(_check.temperature(given["temperature"]))
    given["alpha"] = float(_check.fraction(given["alpha"], "alpha"))
    if teacher_logits is not None:
        _check.shape("teacher_logits", _check.floating("teacher_logits", teacher_logits), (n, task.num_classes))
        _check.finite("teacher_logits", teacher_logits)
    if loss is not None and (given["temperature"], given["alpha"]) != (4.0, 0.9):
        raise ValueError("temperature and alpha are those of kd_loss: give those of another loss by functools.partial")
    return given | {"flip": bool(given["flip"]), "loss": None if loss is None else _name(loss)}


def _fingerprint(task: Task, teacher_logits: Tensor | None, model: nn.Module) -> dict[str, int | None]:
    """What tells whether a checkpoint belongs to the data and the network at hand."""
    tables = {"images": task.x_train, "labels": task.y_train, "test_images": task.x_test, "test_labels": task.y_test}
    sums = {name: _checkpoint.checksum(table) for name, table in (tables | {"teacher_logits": teacher_logits}).items()}
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sums | {"parameters": sum(n for n, _ in sizes), "trained": sum(n for n, needed in sizes if needed)}


def _name(loss: Any) -> str:
    """What tells losses apart in a checkpoint: the function's name and what `partial` fixed."""
    if isinstance(loss, partial):
        fixed = [*map(repr, loss.args), *(f"{key}={value!r}" for key, value in sorted(loss.keywords.items()))]
        return re.sub(r" at 0x[0-9a-f]+", "", f"{_name(loss.func)}({', '.join(fixed)})")
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}.{named.__qualname__}"


def _mean(values: Any, n: int) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (n,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"loss must return one value per example, a tensor of shape ({n},), got {got}")
    return values.mean()


def _logits(output: Any, n: int, classes: int | None = None) -> Tensor:
    """The logits (n, classes) in what a network returned."""
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif isinstance(output, tuple | list):
        found = output[0] if output else None
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if (
        not isinstance(found, Tensor)
        or found.dim() != 2
        or (len(found), found.shape[1]) != (n, classes or found.shape[1])
    ):
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ValueError(
            f"model must return logits ({n}, {classes or 'K'}), alone, first in a tuple or as 'logits' of a dictionary, "
            f"got {type(output).__name__}{shape}"
        )
    return found


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode; afterwards every module is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _place(model: nn.Module, x: Tensor) -> tuple[torch.device, torch.dtype]:
    """Device and floating type of a network's first weights; those of `x` where it has none."""
    weights = chain(model.parameters(), model.buffers())
    first = next((w for w in weights if w.is_floating_point()), x)
    return first.device, first.dtype


def _autocast(device: torch.device) -> torch.autocast:
    gpu = device.type == "cuda"
    return torch.autocast("cuda" if gpu else "cpu", torch.bfloat16, enabled=gpu)


def _device(given: str | torch.device | None) -> torch.device:
    """The device, with its index where it is a GPU: torchrun's for this process, else the current one."""
    try:
        device = torch.device(given if given is not None else "cuda" if torch.cuda.is_available() else "cpu")
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a torch.device or the name of one, got {given!r}") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index is None and count:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        if (device.index or 0) >= count:
            raise ValueError(f"device must be one that this machine has, got {str(device)!r} with {count} GPUs")
        return device
    if device.type == "meta":
        raise ValueError("device must be one that holds numbers, got 'meta'")
    return _check.device(device)


def _join(device: str | torch.device | None) -> tuple[int, int, torch.device]:
    """(rank, number of processes, device) of this process; joins torchrun's group when started by it."""
    chosen = _device(device)
    if dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group()
        atexit.register(dist.destroy_process_group)
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1, chosen
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # where NCCL looks
    return dist.get_rank(), dist.get_world_size(), chosen
