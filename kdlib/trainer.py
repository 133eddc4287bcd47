"""Train one big network on images: augmentation in bulk on the device, resumable, on one process or several.

Many small students are `kdlib.fleet`; this is the ten-minutes-to-a-day run. The data set lives on the device, a batch
is augmented by a single gather (after K. Jordan's airbench), and there are no loader processes.
"""

from __future__ import annotations

import atexit
import math
import os
import time
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from kdlib import _check
from kdlib.data.task import Task
from kdlib.losses import kd_loss


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
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(n, generator=generator)
    shift = torch.randint(-crop, crop + 1, (n, 2), generator=generator)
    mirrored = torch.rand(n, generator=generator) < (0.5 if flip else 0.0)
    return order.to(device), shift.to(device), mirrored.to(device)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) in float32 of the network in evaluation mode for x (N, C, H, W), on x's device."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    parts = []
    for part in x.split(batch_size):
        with _autocast(device):
            parts.append(model(part.to(device, memory_format=torch.channels_last)).float())
    model.train(training)
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
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train `model` in place on task.x_train (N, C, H, W); one row per epoch: epoch, lr, loss, accuracy, seconds.

    SGD with Nesterov momentum; the learning rate rises to `lr` over the first fifth and falls to almost 0, both along
    a cosine (Smith and Topin 2018). Loss: cross-entropy in nats on the labels, or `kd_loss` with a table
    `teacher_logits (N, K)`, made once from the images as they are. Each image is moved by up to `crop` pixels and
    mirrored with probability 1/2 (if `flip`). `lr` in the result is that of the epoch's last step, `loss` the mean over
    its steps, `accuracy` on the test set, for reading only: nothing is chosen by it. On CUDA the forward pass runs in
    bfloat16. The model's initialisation is the caller's (`torch.manual_seed` before `resnet`); it is left in
    evaluation mode.

    With `checkpoint` the whole state is written there after every epoch, and a call that finds the file goes on from
    it, to the same result as a run that was never stopped. A file of another run (settings, data) is refused.

    Started by `torchrun --nproc-per-node=P`, the P processes share each batch and average their gradients (gloo on the
    CPU, NCCL on CUDA). Batch norm then sees each process's own share only; convert the model to `nn.SyncBatchNorm`
    beforehand where that matters.

    Raises ValueError on bad arguments or another run's checkpoint, FloatingPointError when the loss is not finite.
    """
    arguments = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
        "crop": crop, "flip": flip, "temperature": temperature, "alpha": alpha, "seed": seed,
    }  # fmt: skip
    _check_arguments(task, teacher_logits, **arguments)
    rank, world, device = _join(device)
    n, share = len(task.x_train), batch_size // world
    if share * world != batch_size:
        raise ValueError(f"batch_size must be a multiple of {world}, the number of processes, got {batch_size}")
    steps = n // batch_size  # what is left over is another part of the data in every epoch
    if epochs * steps < 6:
        raise ValueError(f"epochs must give at least 6 steps for the schedule, got {epochs} x {steps}")
    settings = arguments | {
        "images": _sum(task.x_train), "labels": _sum(task.y_train), "teacher_logits": _sum(teacher_logits),
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip

    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, lr, total_steps=epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    history: list[dict[str, float]] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = _resume(Path(checkpoint), settings, model, optimiser, schedule, device)
    network = DistributedDataParallel(model) if world > 1 else model

    x, y = task.x_train.to(device).contiguous(memory_format=torch.channels_last), task.y_train.to(device)
    teacher = None if teacher_logits is None else teacher_logits.to(device)
    bar = tqdm(total=epochs * steps, initial=len(history) * steps, unit="step", disable=not progress or rank > 0)
    for epoch in range(len(history), epochs):
        start, total = time.perf_counter(), torch.zeros((), device=device)
        order, shift, mirrored = draw_epoch(seed, epoch, n, crop, flip, device)
        network.train()
        for step in range(steps):
            here = slice(step * batch_size + rank * share, step * batch_size + (rank + 1) * share)
            index = order[here]
            with _autocast(device):
                z = network(augment(x, index, shift[here], mirrored[here]))
            if teacher is None:
                loss = F.cross_entropy(z.float(), y[index])
            else:
                loss = kd_loss(z.float(), teacher[index], y[index], temperature, alpha).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            total += loss.detach()
            bar.update()
        if world > 1:
            dist.all_reduce(total)
        mean = total.item() / (steps * world)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean} in epoch {epoch}: try a smaller lr than {lr}")
        accuracy = (predict(model, task.x_test).argmax(1) == task.y_test).double().mean().item()
        row = {"epoch": epoch, "lr": rate, "loss": mean, "accuracy": accuracy}
        history.append(row | {"seconds": time.perf_counter() - start})
        bar.set_postfix(epoch=epoch + 1, loss=f"{mean:.3f}", accuracy=f"{accuracy:.3f}")
        if checkpoint is not None and rank == 0:
            _save(Path(checkpoint), settings, model, optimiser, schedule, history)
    bar.close()
    model.eval()
    return pd.DataFrame(history)


def _check_arguments(task: Task, teacher_logits: Tensor | None, **given: Any) -> None:
    if task.x_train.dim() != 4:
        raise ValueError(f"task.x_train must have shape (N, C, H, W), got {tuple(task.x_train.shape)}")
    n, size = len(task.x_train), min(task.x_train.shape[2:])
    for name in ("epochs", "batch_size"):
        _check.positive_int(given[name], name)
    if isinstance(given["seed"], bool) or not isinstance(given["seed"], int) or given["seed"] < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {given['seed']!r}")
    if given["batch_size"] > n:
        raise ValueError(f"batch_size must be at most {n}, the number of training images, got {given['batch_size']}")
    if not 0 <= given["crop"] < size:
        raise ValueError(f"crop must lie in 0..{size - 1} for images of {size} pixels, got {given['crop']}")
    for name in ("lr", "momentum", "weight_decay"):
        if not 0 <= given[name] < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, got {given[name]}")
    _check.temperature(given["temperature"])
    _check.fraction(given["alpha"], "alpha")
    if teacher_logits is not None:
        _check.shape("teacher_logits", _check.floating("teacher_logits", teacher_logits), (n, task.num_classes))
        _check.finite("teacher_logits", teacher_logits)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _sum(table: Tensor | None) -> int | None:
    """CRC-32 of a table's bytes: tells whether a checkpoint belongs to the data at hand."""
    return None if table is None else zlib.crc32(table.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def _join(device: str | torch.device | None) -> tuple[int, int, torch.device]:
    """(rank, number of processes, device) of this process; joins torchrun's group when started by it."""
    if dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group()
        atexit.register(dist.destroy_process_group)
    together = dist.is_available() and dist.is_initialized()
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # where NCCL looks
    return (dist.get_rank(), dist.get_world_size(), torch.device(device)) if together else (0, 1, torch.device(device))


def _save(
    path: Path,
    settings: dict[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
    history: list[dict[str, float]],
) -> None:
    """Write the whole state beside `path` and move it there at once: a kill leaves the old file or the new one."""
    state = {"settings": settings, "history": history, "model": model.state_dict()}
    state |= {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _resume(
    path: Path,
    settings: dict[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
    device: torch.device,
) -> list[dict[str, float]]:
    """Load what `_save` wrote into the model, optimiser and schedule; return the history so far."""
    state = torch.load(path, map_location=device, weights_only=True)
    for name, value in settings.items():
        stored = state["settings"].get(name)
        if stored != value:
            raise ValueError(f"checkpoint {path} was made with {name}={stored}, got {name}={value}: give another path")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    return state["history"]
