"""F copies of anybody's network as one fleet."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kdlib import _seeds
from kdlib.models.base import Cost, FleetModel, named

# Multiply-adds of one student's batch above which its own products fill a core; below, all students share each product.
WORK_ALONE = 5_000_000
_DRAWING = threading.Lock()  # torch's generator, which a module's own initialisation draws from, is one for all threads


class Stack(FleetModel):
    """See `stack`."""

    def __init__(self, make: Callable[[], nn.Module], seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        made: dict[int, nn.Module] = {}
        for seed in dict.fromkeys(named(seeds)):
            with _DRAWING, torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.default_generator.manual_seed(_seeds.stream(seed, "initialisation").initial_seed())
                usual = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)  # a caller's default would draw other numbers
                try:
                    made[seed] = _checked(make()).to(dtype)
                finally:
                    torch.set_default_dtype(usual)
        if len({id(network) for network in made.values()}) < len(made):
            raise ValueError("make must return a new module each time, got the same one twice")
        template = next(iter(made.values()))
        parameters = dict(template.named_parameters())
        rows = {seed: nn.utils.parameters_to_vector(network.parameters()).detach() for seed, network in made.items()}
        super().__init__([], seeds, dtype, torch.stack([rows[seed] for seed in seeds]))
        self.names = {name: p.shape for name, p in parameters.items()}
        self.changes = torch.cat(
            [torch.full((p.numel(),), p.requires_grad, dtype=torch.bool, device="cpu") for p in parameters.values()]
        )
        self.alone: dict[torch.Size, bool] = {}  # by the shape of a batch
        # not a submodule: its parameters are placeholders, and nobody should train or move them (a move would part tied ones)
        self.__dict__["template"] = template

    def parameters_of(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Parameters by the module's own names, each (F, ...): differentiable views of `flat` (default: the model's)."""
        flat = self.flat if flat is None else flat
        parts = flat.split([shape.numel() for shape in self.names.values()], dim=1)
        return {n: p.unflatten(1, s) if s else p[:, 0] for (n, s), p in zip(self.names.items(), parts, strict=True)}

    def layers(self, flat: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Raises ValueError: modules of any kind have no weights and biases in a row."""
        raise ValueError(
            "layers must be those of an MLP, a CNN or a model of your own; of a stack: parameters_of(flat)"
        )

    @property
    def trainable(self) -> Tensor | None:
        return None if bool(self.changes.all()) else self.changes

    def part(self, rows: slice) -> Self:
        other = super().part(rows)
        # a functional call puts parameters into the module while it runs, and parts run in threads side by side
        other.__dict__["template"] = deepcopy(self.__dict__["template"])
        return other

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        parameters = self.parameters_of(flat)
        if len(x) > 1 and not self._one_by_one(flat, x):
            return vmap(self._one)(parameters, x)
        # unbind, whose backward is one stack, and not p[f], whose backward is a table of zeros for each student
        own = zip(*(p.unbind() for p in parameters.values()), strict=True)
        return torch.stack([self._one(dict(zip(parameters, p, strict=True)), b) for p, b in zip(own, x, strict=True)])

    def _one(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        value = functional_call(self.__dict__["template"], parameters, (x,))
        if not isinstance(value, Tensor):
            raise ValueError(f"make must return a module whose output is one tensor, got {type(value).__name__}")
        return value

    def _one_by_one(self, flat: Tensor, x: Tensor) -> bool:
        """Whether students go one after another: their products fill a core, or vmap cannot map the module."""
        if x.shape[1:] not in self.alone:
            large = flat.device.type == "cpu" and self._measured(x[0])[0] > WORK_ALONE
            two = flat[:2].detach().requires_grad_(flat.is_cuda)
            self.alone[x.shape[1:]] = large or not self._maps(two, x[:2])
        return self.alone[x.shape[1:]]

    def cost(self, x: Tensor) -> Cost:
        adds, kept, peak = self._measured(x)
        in_turn = self._one_by_one(self.flat.data, x.expand(2, *x.shape)) if len(self.seeds) > 1 else True
        return Cost(adds, peak, peak - kept if in_turn else 0)

    def _maps(self, flat: Tensor, x: Tensor) -> bool:
        # vmap says where it loops over students inside, in attention on a CPU: still faster than a loop over the module.
        # For good, because a filter for a while (`catch_warnings`) is one for all threads.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        try:
            with torch.set_grad_enabled(flat.is_cuda):
                made = vmap(self._one)(self.parameters_of(flat), x)
                if flat.is_cuda:  # some kernels map forwards and fail backwards: attention, in torch 2.11
                    made.sum().backward(inputs=[flat])
        except RuntimeError:
            return False
        return True


def stack(make: Callable[[], nn.Module], seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Stack:
    """F networks that `make()` builds, one per seed, as a fleet: `train(task, recipes, model=partial(stack, make))`.

    `make` returns a new module, with its own initialisation, which draws from torch's generator: it is seeded from each
    student's seed before. Any module works that has no buffers, no dropout and no other chance, and returns logits (B, K).
    Parameters with `requires_grad=False` stay as they are.

    Raises ValueError for a module with buffers (batch norm: its running averages belong to one training loop), dropout or
    without parameters.
    """
    return Stack(make, seeds, dtype)


def _checked(network: nn.Module) -> nn.Module:
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise ValueError(f"make must return an nn.Module with parameters, got {type(network).__name__}")
    if buffers := [name for name, _ in network.named_buffers()]:
        raise ValueError(f"make must return a module without buffers, got {', '.join(buffers[:3])}: try layer norm")
    for name, module in network.named_modules():
        chance = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(chance, float) and chance > 0:
            raise ValueError(f"make must return a module without dropout, got p = {chance} in {name or 'the module'}")
    return network
