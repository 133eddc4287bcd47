"""The reader's defaults change no result: another default dtype or device gives the same numbers to the last bit."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kdlib
from kdlib import losses
from kdlib.data import Task, world
from kdlib.levels import domain, instance, split, universe
from kdlib.resnet import resnet
from kdlib.trainer import draw_epoch, fit, predict


@contextmanager
def default(dtype: torch.dtype | None = None, device: str | None = None) -> Iterator[None]:
    """Another default dtype or device. Torch's meta device holds no numbers: whatever lands there shows at once."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype or before)
        torch.set_default_device(device)
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


G = torch.Generator().manual_seed(0)
Z, V = torch.randn(2, 12, 4, generator=G)
Y = torch.arange(12) % 4
P = V.softmax(-1)
X = torch.randn(12, 1, 8, 8, generator=G)


def tensors_of(task: Task) -> list[Tensor]:
    values = [*vars(task).values(), *task.extra.values()]
    return [value for value in values if isinstance(value, Tensor)]


def trained() -> list[Tensor]:
    before = torch.random.get_rng_state()
    torch.manual_seed(0)
    with torch.device("cpu"):  # a network lives where its owner makes it
        model = resnet(8, 4, width=2, channels=1)
    torch.random.set_rng_state(before)
    task = Task(X, Y, X, Y, 4)
    history = fit(task, model, epochs=2, batch_size=4, crop=1, teacher_logits=V, progress=False, device="cpu")
    return [
        *model.state_dict().values(),
        predict(model, X),
        torch.tensor(history.loss, dtype=torch.float64, device="cpu"),
    ]


def taught() -> list[Tensor]:
    z = Z.clone().requires_grad_()
    made = [losses.kd_loss(z, V, Y), losses.cross_entropy(z, Y), losses.soft_cross_entropy(z, P), losses.soften(z, 2.0)]
    made += [losses.dkd_loss(z, V, Y), losses.dist_loss(z, V, Y), losses.logit_standardised_kd_loss(z, V, Y)]
    made += [losses.jsd_loss(z, V, Y), losses.without_true_class(z, Y), losses.true_class_odds(z, Y)]
    return [*made, *(torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in made)]


def levels() -> list[Tensor]:
    parts = [universe.smooth_labels(Y, 4, 0.1), universe.matched_smoothing(P, Y), domain.class_mean_targets(P, Y)]
    parts += [domain.similarity_targets(V[:4], Y, 0.5), domain.class_correlation(P), instance.confidence_targets(P, Y)]
    parts += [instance.gradient_rescaling(Z, V, Y, 2.0, 0.5), split.topk_targets(P, 2), split.permuted_targets(P, Y)]
    parts += [domain.free_feature_model(torch.eye(4, dtype=torch.float32, device="cpu"), width=3, steps=5)]
    parts += [domain.family_targets(torch.tensor([0, 0, 1, 1], dtype=torch.int64, device="cpu"), 0.6, 0.5, seed=1)]
    return [*parts, *split.ladder(P, Y).values()]


MADE: dict[str, Callable[[], list[Tensor]]] = {
    "H": lambda: tensors_of(world("H", 3, 60, 30)),
    "S": lambda: tensors_of(world("S", 3, 60, 30)),
    "F": lambda: tensors_of(world("F", 3, 60, 30)),
    "F, split": lambda: tensors_of(world("F", 3, 60, 30).split_validation(0.3, stratified=True).subset(Y)),
    "losses": taught,
    "levels": levels,
    "trainer": trained,
    "draws": lambda: list(draw_epoch(0, 1, 50, 2, True)),
}


@pytest.mark.parametrize("other", [{"dtype": torch.float64}, {"dtype": torch.float16}, {"device": "meta"}], ids=str)
@pytest.mark.parametrize("what", MADE)
def test_results_are_the_same_under_other_defaults(what: str, other: dict[str, torch.dtype | str]) -> None:
    wanted = MADE[what]()
    with default(**other):  # type: ignore[arg-type]
        made = MADE[what]()
    assert len(made) == len(wanted)
    for i, (a, b) in enumerate(zip(made, wanted, strict=True)):
        assert a.dtype == b.dtype and a.device == b.device and torch.equal(a, b), i


CONSTRUCTORS = {"tensor", "zeros", "ones", "full", "empty", "eye", "linspace", "logspace", "rand", "randn", "normal"}
WHOLE = {"arange", "randint", "randperm"}  # int64 whatever the default
SOURCE = Path(kdlib.__file__).parent


def nameless(source: str) -> list[int]:
    """Lines on which a tensor is made without its dtype, where the default would decide, or without its device."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            name, given = node.func.attr, {keyword.arg for keyword in node.keywords}
            needed = {"dtype", "device"} if name in CONSTRUCTORS else {"device"} if name in WHOLE else set()
            if node.func.value.id == "torch" and not needed <= given:
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_tensor_names_its_dtype_and_device(path: Path) -> None:
    assert nameless(path.read_text("utf-8")) == []


def test_nameless_tensors_are_seen() -> None:
    assert nameless("torch.zeros(3)\ntorch.arange(3)\ntorch.eye(3, dtype=d)\n") == [1, 2, 3]
    assert nameless("torch.zeros(3, dtype=d, device=e)\ntorch.arange(3, device=e)\ntorch.zeros_like(x)\n") == []
