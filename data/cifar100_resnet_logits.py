"""Logits of one ResNet-20 for the test images of CIFAR-100: half an hour on two cores, a minute or two on a GPU.

    python data/cifar100_resnet_logits.py --checkpoint _build/cifar100_resnet.pt --table data/cifar100_resnet_logits.npz

It can be stopped and started again: the checkpoint keeps every finished epoch. The settings are the defaults of `fit`, chosen
beforehand; one network was trained, none was selected.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from kdlib import Task
from kdlib.data.images import cifar100
from kdlib.data.shipped import pack_logits
from kdlib.resnet import resnet
from kdlib.trainer import fit, predict

DEPTH, EPOCHS = 20, 30


def make(task: Task, table: Path, checkpoint: Path) -> str:
    """Train the network, or go on from the checkpoint, and pack its logits for the test images; the table's sha256."""
    torch.manual_seed(0)
    model = resnet(DEPTH, task.num_classes)
    fit(task, model, epochs=EPOCHS, checkpoint=checkpoint)
    return pack_logits(table, predict(model, task.x_test), task)


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="file that keeps the training's state")
    parser.add_argument("--table", type=Path, required=True, help="the .npz file to write, in an existing folder")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    print(make(cifar100(), given.table, given.checkpoint))


if __name__ == "__main__":
    main()
