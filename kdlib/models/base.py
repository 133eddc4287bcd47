"""What every fleet model shares: one row of parameters per student, and what an author writes, `apply`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdlib import _check, _seeds


class Cost(NamedTuple):
    """What one student needs for one batch: multiply-adds of the forward pass, and bytes alive at the peak of a step.

    The bytes are those of activations and their gradients, without the student's weights and its optimiser's state.
    `passing_bytes` of them are needed only during the student's turn, where students go one after another.
    """

    multiply_adds: int
    activation_bytes: int
    passing_bytes: int = 0


class FleetModel(nn.Module):
    """F networks of one shape, one per seed, all parameters of a student in one row of `flat (F, P)`.

    An author writes `apply(flat, x)` and names the layers' weights in `shapes`, each (out, in, ...); every layer has a bias
    (out,). Initialisation: He et al. 2015 with the last layer halved and biases 0, drawn on the CPU from each student's own
    seed, so a student starts the same in any fleet, on any device. `rows (F,)` are the students' places in the fleet that
    this one is a part of. Attributes of a subclass go along with its parts as they are.

    Raises ValueError for no seeds or a `flat` that does not have a row for each.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
        flat: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shapes, self.seeds = list(shapes), named(seeds)
        self.rows = torch.arange(len(self.seeds), device="cpu")
        self.flat = nn.Parameter(self._initial().to(dtype) if flat is None else flat)  # (F, P)
        _check.shape("flat", self.flat, (len(self.seeds), None))

    def _initial(self) -> Tensor:
        drawn = {}
        for seed in set(self.seeds):
            generator = _seeds.stream(seed, "initialisation")
            parts = []
            for k, shape in enumerate(self.shapes):
                scale = math.sqrt(2 / math.prod(shape[1:])) * (0.5 if k == len(self.shapes) - 1 else 1.0)
                normal = torch.randn(math.prod(shape), generator=generator, dtype=torch.float32, device="cpu")
                parts += [scale * normal, torch.zeros(shape[0], dtype=torch.float32, device="cpu")]
            drawn[seed] = torch.cat(parts)
        return torch.stack([drawn[seed] for seed in self.seeds])

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        """Logits (F, B, K) of parameters flat (F, P) for one batch per student x (F, B, ...): pure, differentiable in both."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(flat, x): (F, P), (F, B, ...) -> (F, B, K)")

    def layers(self, flat: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Weight (F, out, in, ...) and bias (F, out, 1) of each layer, differentiable views of `flat` (default: the model's)."""
        # One split, not a slice per layer: its backward is a single concatenation.
        lengths = [n for shape in self.shapes for n in (math.prod(shape), shape[0])]
        parts = (self.flat if flat is None else flat).split(lengths, dim=1)
        weights = [part.unflatten(1, shape) for part, shape in zip(parts[::2], self.shapes, strict=True)]
        return list(zip(weights, [b.unsqueeze(-1) for b in parts[1::2]], strict=True))

    @property
    def weights(self) -> list[Tensor]:
        """Weights of each layer, (F, in, out) for linear ones and (F, out, in, k, k) for convolutions; views into `flat`."""
        return [w.mT if w.dim() == 3 else w for w, _ in self.layers(self.flat.data)]

    @property
    def biases(self) -> list[Tensor]:
        """Biases of each layer, each (F, out); views into `flat`."""
        return [b.squeeze(-1) for _, b in self.layers(self.flat.data)]

    @property
    def trainable(self) -> Tensor | None:
        """Which of the P parameters training may change, a mask (P,); None for all."""
        return None

    def part(self, rows: slice) -> Self:
        """Students `rows` as a fleet that shares this one's memory: training the part trains these students."""
        other = object.__new__(type(self))
        other.__dict__ = dict(self.__dict__)
        other._parameters = dict(self._parameters)
        other.seeds, other.rows = self.seeds[rows], self.rows[rows]
        other.flat = nn.Parameter(self.flat.data[rows], requires_grad=self.flat.requires_grad)
        return other

    def each(self, x: Tensor) -> Tensor:
        """Logits (F, B, K) for one batch per student, x (F, B, ...)."""
        return self.apply(self.flat, x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (F, N, K) of every student for the same examples x (N, ...)."""
        return self.each(x.expand(len(self.seeds), *x.shape))

    def tape(self) -> Any:
        """A hand-written pass for training, where there is one that is faster than autograd: see `mlp.Tape`."""
        return None

    def cost(self, x: Tensor) -> Cost:
        """What one student needs for one batch x (B, ...), read off a pass of the first one, forward and back.

        Raises ValueError for a model that draws random numbers: no two passes of a student would agree.
        """
        adds, _, peak = self._measured(x)
        return Cost(adds, peak)

    def _measured(self, x: Tensor) -> tuple[int, int, int]:
        """Multiply-adds, bytes kept for the way back, and bytes at the peak."""
        with torch.inference_mode(False), torch.enable_grad():
            student = self.part(slice(0, 1))
            with _Watch(student.flat) as watch:
                z = student.each(x.clone().unsqueeze(0))
                forward, kept = watch.flops, watch.now
                z.backward(torch.ones_like(z))
        if watch.random is not None:
            raise ValueError(
                f"model must not draw random numbers, got a {type(self).__name__} that calls {watch.random}"
            )
        gradient = student.flat.numel() * student.flat.element_size()
        return forward // 2, kept, max(kept, watch.peak - gradient)


def named(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds as a tuple. Raises ValueError for a number or none."""
    if not hasattr(seeds, "__len__") or len(seeds) < 1:
        raise ValueError(f"seeds must be a sequence that names at least one student, got {seeds!r}")
    return tuple(seeds)


class _Watch(TorchDispatchMode):
    """Counts products, and the bytes of tensors made inside and still alive; `peak` is the most there was.

    `random` is the first operation that drew random numbers. Memory of the `known` tensors is not counted.
    """

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.flops = self.now = self.peak = 0
        self.random: str | None = None
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry  # not needed where a model knows its own cost

        result = func(*args, **(kwargs or {}))
        attention = "attention" in func.name()  # marked as random for a dropout that it may have
        if torch.Tag.nondeterministic_seeded in func.tags and not attention:
            self.random = self.random or func.name()
        aten = torch.ops.aten
        on_cpu = func.overloadpacket is aten._scaled_dot_product_flash_attention_for_cpu
        formula = flop_registry.get(aten._scaled_dot_product_flash_attention if on_cpu else func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and (key := value.untyped_storage()._cdata) not in self.known:
                storage = value.untyped_storage()
                self.known.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                finalize(storage, self._gone, key, storage.nbytes())
        return result

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
