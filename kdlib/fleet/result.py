"""Trained students: what they predict, and how well."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kdlib import _check, _files
from kdlib._checkpoint import checksum
from kdlib.data.task import Task
from kdlib.fleet.plan import pieces, slices
from kdlib.losses import cross_entropy, soften
from kdlib.models import CNN, MLP, FleetModel

SCORED_VALUES = 16_000_000  # logits that are scored at once
KINDS: dict[Any, tuple[str, ...]] = {MLP: ("sizes",), CNN: ("channels", "classes")}  # what makes one, beside its seeds


class Fleet:
    """F trained students. `students` has one row each: recipe, temperature, alpha, seed and grid columns.

    `curve` has what `train(curve=...)` measured on the way: the rows of `evaluate`, with columns epoch and split.
    """

    def __init__(self, model: FleetModel, students: pd.DataFrame, curve: pd.DataFrame | None = None) -> None:
        if len(model.seeds) != len(students):
            raise ValueError(
                f"students must have one row for each of the {len(model.seeds)} networks, got {len(students)}"
            )
        self.model, self.students, self.curve = model, students, curve

    def __len__(self) -> int:
        return len(self.students)

    def __repr__(self) -> str:
        recipes = f"{self.students['recipe'].nunique()} recipes, " if "recipe" in self.students else ""
        seeds = f"{self.students['seed'].nunique()} seeds" if "seed" in self.students else type(self.model).__name__
        return f"Fleet({len(self)} students: {recipes}{seeds})"

    @property
    def weights(self) -> list[Tensor]:
        """Weights of each layer, (F, in, out) for linear ones."""
        return self.model.weights

    @property
    def biases(self) -> list[Tensor]:
        """Biases of each layer, (F, out)."""
        return self.model.biases

    def part(self, rows: slice) -> Fleet:
        """Some of the students, in the same memory."""
        return Fleet(self.model.part(rows), self.students[rows])

    @torch.no_grad()
    def predict(self, x: Tensor, batch_size: int | None = None) -> Tensor:
        """Logits (F, N, K) of every student for inputs x (N, ...), on the device of x.

        `batch_size` examples go through the networks at once; by default as many as a memory of 64 MB takes.
        """
        _check.floating("x", x)
        flat = self.model.flat
        at_once, examples = pieces(self.model, x[:1].to(flat))
        examples = examples if batch_size is None else _check.positive_int(batch_size, "batch_size")
        networks = [self.model.part(rows) for rows in slices(len(self), at_once)]
        parts = []
        for part in x.split(examples):
            own = part.to(flat)
            parts.append(torch.cat([network(own) for network in networks]).to(x.device))
        return torch.cat(parts, dim=1).to(x.dtype)

    @torch.no_grad()
    def mean_probs(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """The ensemble's answer: the mean over students of softmax(logits / temperature), (N, K), on the device of x."""
        total = sum(soften(part.predict(x), temperature).sum(0) for part in self._parts(x))
        assert isinstance(total, Tensor)
        return total / len(self)

    def evaluate(self, task: Task) -> pd.DataFrame:
        """One row per student: `students` and what `scores` measures on the test set.

        Where the task has a validation part (`Task.split_validation`), the same on that part, as `val_accuracy` and so on.
        Raises FloatingPointError that names the student whose logits are not finite.
        """
        frame = self.scored(task.x_test, task.y_test)
        if "x_validation" not in task.extra:
            return frame
        held = self.scored(task.extra["x_validation"], task.extra["y_validation"])
        return frame.join(held.drop(columns=self.students.columns).add_prefix("val_"))

    def scored(self, x: Tensor, y: Tensor) -> pd.DataFrame:
        """As `evaluate`, on inputs x (N, ...) and labels y (N,)."""
        x, y = x.to(self.model.flat.device), y.to(self.model.flat.device)  # once, not for every part
        columns = []
        for part in self._parts(x):
            logits = part.predict(x)
            bad = ~logits.isfinite().flatten(1).all(1)
            if bad.any():
                student = part.students.iloc[int(bad.nonzero()[0])].to_dict()
                raise FloatingPointError(f"the logits of student {student} are not finite: its training diverged")
            columns.append(scores(logits, y))
        measured = {name: torch.cat([c[name] for c in columns]).cpu().numpy() for name in columns[0]}
        return self.students.assign(**measured)

    def _parts(self, x: Tensor) -> Iterator[Fleet]:
        """A few students at a time, so that their logits for all of x stay small."""
        values = len(x) * self.part(slice(0, 1)).predict(x[:1]).shape[-1]
        for rows in slices(len(self), max(1, min(32, SCORED_VALUES // max(1, values)))):
            yield self.part(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, students and curve to one safetensors file, which `Fleet.load` reads."""
        about = {
            "students": _text(self.students),
            "seeds": json.dumps([int(seed) for seed in self.model.seeds]),
            "model": type(self.model).__name__,
            "settings": json.dumps({name: getattr(self.model, name) for name in KINDS.get(type(self.model), ())}),
        }
        if self.curve is not None:
            about["curve"] = _text(self.curve)
        flat = self.model.flat.detach().cpu().contiguous()
        about["checksum"] = _checksum(flat, about)
        _files.write_bytes(path, safetensors.torch.save({"flat": flat}, about))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Callable[[Sequence[int]], FleetModel] | None = None) -> Fleet:
        """The fleet that `save` wrote. `model`, as given to `train`, is needed where it was not an MLP or a CNN.

        Raises ValueError for a file that is damaged or no fleet, or a model whose parameters do not fit.
        """
        try:
            with safetensors.safe_open(_files.resolved(path), framework="pt") as file:
                about, flat = file.metadata() or {}, file.get_tensor("flat")
            if about.pop("checksum") != _checksum(flat, about):
                raise ValueError("its checksum is wrong")
            students, seeds = _frame(about["students"]), json.loads(about["seeds"])
            name, settings = about["model"], json.loads(about["settings"])
            known = next((k for k, own in KINDS.items() if k.__name__ == name and set(own) == set(settings)), None)
            curve = _frame(about["curve"]) if "curve" in about else None
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as problem:
            raise ValueError(f"{path} must be a file that Fleet.save wrote, and whole: {problem}") from None
        if model is not None:
            network = model(seeds)
        elif known is not None:
            network = known(**settings, seeds=seeds, dtype=flat.dtype)
        else:
            raise ValueError(f"model must be given to load {path}: a function from seeds to a {name}")
        if network.flat.shape != flat.shape:
            raise ValueError(
                f"model must have parameters {tuple(flat.shape)} as in {path}, got {tuple(network.flat.shape)}"
            )
        network.to(flat.dtype)
        network.flat.data.copy_(flat)
        return cls(network, students, curve)


def scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What logits (F, N, K) are worth on labels (N,), each (F,): accuracy, nll (nats), ece, confidence and logit_norm.

    accuracy and ece (15 equal-width bins, Guo et al. 2017) are fractions; confidence is the mean largest probability;
    logit_norm the mean length of the centred logit vector. For floating targets (N,) or (N, D) instead: mse, the mean
    squared error over examples and outputs, and r2, the share of the targets' variance that is explained.
    """
    _check.shape("logits", logits, (None, None, None))
    if labels.is_floating_point():
        wanted = labels.to(logits.dtype).reshape(len(labels), -1)
        _check.shape("logits", logits, (None, *wanted.shape))
        mse = (logits - wanted).square().mean((1, 2))
        return {"mse": mse, "r2": 1 - mse / (wanted - wanted.mean(0)).square().mean()}
    nll = cross_entropy(logits, labels).mean(-1)
    confidence, guess = torch.softmax(logits, dim=-1).max(-1)  # (F, N)
    right = (guess == labels).to(logits.dtype)
    bins = (confidence * 15).long().clamp_(max=14)  # (F, N)
    gap = torch.zeros(len(logits), 15, dtype=logits.dtype, device=logits.device)
    gap.scatter_add_(1, bins, right - confidence)
    centred = logits - logits.mean(-1, keepdim=True)
    return {
        "accuracy": right.mean(-1),
        "nll": nll,
        "ece": gap.abs().sum(-1) / logits.shape[1],
        "confidence": confidence.mean(-1),
        "logit_norm": centred.norm(dim=-1).mean(-1),
    }


def chosen(frame: pd.DataFrame, by: str = "val_accuracy", of: str = "epochs") -> pd.DataFrame:
    """Of each student's rows at several values of `of`, say lengths, the one that validation data choose: largest `by`.

    `frame` is tidy, as `Fleet.evaluate` returns it with `epochs` a grid column; what identifies a student is whatever it has of
    world, where, recipe, temperature, alpha, lr, weight_decay and seed. Among equals the smallest value of `of` is taken.
    Raises ValueError for a column that is missing, or not a number somewhere.
    """
    known = [
        c for c in ("world", "where", "recipe", "temperature", "alpha", "lr", "weight_decay", "seed") if c in frame
    ]
    if missing := {by, of, "recipe", "seed"} - set(frame.columns):
        raise ValueError(f"frame must have columns {by!r}, {of!r}, 'recipe' and 'seed', misses {sorted(missing)}")
    if frame[by].isna().any():
        raise ValueError(f"frame must have a number in every row of {by!r}, got {int(frame[by].isna().sum())} without")
    frame = frame.reset_index(drop=True)  # frames that were put together have numbers twice
    ranked = frame.sort_values([by, of], ascending=[False, True], kind="stable")
    kept = ranked.drop_duplicates([c for c in known if c != of]).index
    return frame.loc[sorted(kept)].reset_index(drop=True)


def _checksum(flat: Tensor, about: dict[str, str]) -> str:
    """CRC-32 of the weights and of what is said about them: the format has none of its own."""
    return f"{zlib.crc32(json.dumps(about, sort_keys=True).encode(), checksum(flat) or 0):08x}"


def _text(frame: pd.DataFrame) -> str:
    """As JSON by columns: what `_frame` reads back is equal to the last bit, infinities and NaN included."""
    try:
        return json.dumps([(name, str(column.dtype), column.tolist()) for name, column in frame.items()])
    except TypeError as problem:
        raise ValueError(f"students must hold numbers, strings and booleans to be saved: {problem}") from None


def _frame(text: str) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(values, dtype=kind) for name, kind, values in json.loads(text)})
