"""F copies of anybody's network as one fleet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kdlib import _seeds
from kdlib.models.base import FleetModel, named

# Multiply-adds of one student's batch above which its own products fill a core; below, all students share each product.
WORK_ALONE = 5_000_000


class Stack(FleetModel):
    """See `stack`."""

    def __init__(self, make: Callable[[], nn.Module], seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        made: dict[int, nn.Module] = {}
        for seed in dict.fromkeys(named(seeds)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_seeds.stream(seed, "initialisation").initial_seed())
                made[seed] = _checked(make()).to(dtype)
        template = next(iter(made.values()))
        parameters = dict(template.named_parameters())
        rows = {seed: nn.utils.parameters_to_vector(network.parameters()).detach() for seed, network in made.items()}
        super().__init__([], seeds, dtype, torch.stack([rows[seed] for seed in seeds]))
        self.names = {name: p.shape for name, p in parameters.items()}
        self.changes = torch.cat([torch.full((p.numel(),), p.requires_grad) for p in parameters.values()])
        self.alone: dict[torch.Size, bool] = {}  # by the shape of a batch
        # not a submodule: its parameters are placeholders, and nobody should train or move them
        self.__dict__["template"] = deepcopy(template).to("meta")

    def parameters_of(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Parameters by the module's own names, each (F, ...): differentiable views of `flat` (default: the model's)."""
        flat = self.flat if flat is None else flat
        parts = flat.split([shape.numel() for shape in self.names.values()], dim=1)
        return {n: p.unflatten(1, s) if s else p[:, 0] for (n, s), p in zip(self.names.items(), parts, strict=True)}

    @property
    def trainable(self) -> Tensor | None:
        return None if bool(self.changes.all()) else self.changes

    def apply(self, flat: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        def one(parameters: dict[str, Tensor], own: Tensor) -> Any:
            return functional_call(self.__dict__["template"], parameters, (own,))

        parameters = self.parameters_of(flat)
        if len(x) == 1 or (flat.device.type == "cpu" and self._works_alone(x[0])):
            own = [{name: p[f] for name, p in parameters.items()} for f in range(len(x))]
            return torch.stack([_logits(one(p, batch)) for p, batch in zip(own, x, strict=True)])
        with warnings.catch_warnings():  # vmap says where it loops over students inside: what it computes is the same
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return _logits(vmap(one)(parameters, x))

    def _works_alone(self, x: Tensor) -> bool:
        if x.shape not in self.alone:
            self.alone[x.shape] = self.cost(x).multiply_adds > WORK_ALONE
        return self.alone[x.shape]


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


def _logits(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"make must return a module whose output is a tensor of logits, got {type(value).__name__}")
    return value
