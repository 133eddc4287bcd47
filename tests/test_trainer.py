"""The trainer of one big network: a textbook loop's numbers, also when stopped and resumed, and on two processes."""

import math
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdlib
from kdlib import _checkpoint, losses, trainer
from kdlib.data.task import Task
from kdlib.resnet import resnet
from kdlib.trainer import augment, draw_epoch, fit, predict

# The same lines make the data and the network here and in other processes.
SETUP = """
import torch
from torch import nn
from kdlib.data.task import Task
from kdlib.resnet import resnet
from kdlib.trainer import fit

def stripes(dtype=torch.float32, n=96, size=8):  # three classes: a bright row, a bright column, neither
    generator = torch.Generator().manual_seed(5)
    x, y = 0.3 * torch.randn(n, 3, size, size, generator=generator).to(dtype), torch.arange(n) % 3
    x[y == 0, :, 3] += 1
    x[y == 1, :, :, 4] += 1
    return Task(x[:64], y[:64], x[64:], y[64:], 3)

def network(normed=True):
    torch.manual_seed(0)
    if normed:
        return resnet(8, 3, width=4)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))
"""
exec(SETUP)
stripes, network = globals()["stripes"], globals()["network"]
QUICK = {"batch_size": 16, "lr": 0.1, "crop": 1, "flip": False, "progress": False}


def environment():
    """That of another process which runs the kdlib under test, wherever else one may be installed."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(kdlib.__file__).parents[1])}


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(("h", "w"), [(8, 8), (5, 9)])
def test_augmentation_is_reflecting_pad_then_crop_then_flip(h, w):
    x, crop = torch.randn(7, 3, h, w), 3
    index = torch.tensor([6, 0, 3, 3, 1])
    shift = torch.tensor([[0, 0], [3, -3], [-2, 1], [1, 2], [-3, -1]])
    flip = torch.tensor([False, True, False, True, True])
    batch = augment(x, index, shift, flip)
    for row, (i, (down, right), mirrored) in enumerate(zip(index.tolist(), shift.tolist(), flip.tolist(), strict=True)):
        padded = F.pad(x[i], (crop,) * 4, mode="reflect")
        wanted = padded[:, crop - down : crop - down + h, crop - right : crop - right + w]
        assert torch.equal(batch[row], wanted.flip(-1) if mirrored else wanted)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_an_epochs_draws_depend_on_seed_and_epoch_alone():
    order, shift, flip = draw_epoch(3, 5, 4000, 2, True)
    torch.manual_seed(99)
    again = draw_epoch(3, 5, 4000, 2, True)
    assert all(torch.equal(a, b) for a, b in zip((order, shift, flip), again, strict=True))
    assert order.sort()[0].equal(torch.arange(4000))
    counts = torch.bincount(shift.flatten() + 2)
    assert len(counts) == 5 and (counts - 1600).abs().max() < 5 * math.sqrt(1600)
    assert abs(flip.sum().item() - 2000) < 5 * math.sqrt(1000)
    for seed, epoch in ((3, 6), (4, 5), (4, 4)):
        assert not draw_epoch(seed, epoch, 4000, 2, True)[0].equal(order)
    _, still, straight = draw_epoch(3, 5, 4000, 0, False)
    assert not still.any() and not straight.any()


@pytest.mark.parametrize("taught", [False, True])
def test_fit_is_the_textbook_loop(taught):
    """Against a loop written from the formulas: Nesterov SGD by hand, both cosines, the loss from its definition."""
    task, epochs, lr, decay, T, alpha = stripes(torch.float64), 3, 0.1, 1e-3, 2.0, 0.7
    v = torch.randn(64, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if taught else None
    model, mine = network().double(), network().double()
    settings = {"temperature": T, "alpha": alpha, "weight_decay": decay, "seed": 4}
    history = fit(task, model, epochs=epochs, teacher_logits=v, **settings, **QUICK)

    parameters, total, step = list(mine.parameters()), epochs * 4, 0
    velocity = [torch.zeros_like(p) for p in parameters]
    top, rates, losses = 0.2 * total - 1, [], []
    for epoch in range(epochs):
        order, shift, flip = draw_epoch(4, epoch, 64, 1, False)
        for at in range(0, 64, 16):
            part = order[at : at + 16]
            z = mine(augment(task.x_train, part, shift[at : at + 16], flip[at : at + 16]))
            loss = -z.log_softmax(1)[torch.arange(16), task.y_train[part]].mean()
            if taught:
                p, log_q = (v[part] / T).softmax(1), (z / T).log_softmax(1)
                loss = (1 - alpha) * loss + alpha * T**2 * (p * (p.log() - log_q)).sum(1).mean()
            rising = step <= top
            before, after = (lr / 25, lr) if rising else (lr, lr / 25e4)
            way = step / top if rising else (step - top) / (total - 1 - top)
            rate = after + (before - after) * (1 + math.cos(math.pi * way)) / 2
            for p, g, m in zip(parameters, torch.autograd.grad(loss, parameters), velocity, strict=True):
                g = g + decay * p.data
                m.mul_(0.9).add_(g)
                p.data -= rate * (g + 0.9 * m)
            losses.append(loss.item())
            rates.append(rate)
            step += 1
    assert history.lr.tolist() == pytest.approx(rates[3::4], rel=1e-9)
    assert history.loss.tolist() == pytest.approx(torch.tensor(losses).view(3, 4).mean(1).tolist(), rel=1e-6)
    for p, q in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(p.data.contiguous(), q.data, rtol=1e-9, atol=1e-10)
    mine.eval()
    accuracy = (mine(task.x_test).argmax(1) == task.y_test).double().mean().item()
    assert history.accuracy.iloc[-1] == accuracy and not model.training


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_it_learns_and_reports(device):
    task, model = stripes(), network()
    history = fit(task, model, epochs=12, device=device, **QUICK)
    assert list(history.columns) == ["epoch", "lr", "loss", "accuracy", "seconds"] and len(history) == 12
    assert history.accuracy.iloc[-1] > 0.9 and history.loss.iloc[-1] < 0.5 * history.loss.iloc[0]
    z = predict(model, task.x_test, batch_size=7)
    assert z.shape == (32, 3) and z.dtype == torch.float32 and z.device == task.x_test.device
    assert (z.argmax(1) == task.y_test).double().mean().item() == history.accuracy.iloc[-1]


def test_predict_uses_evaluation_mode_and_restores_the_mode():
    task, model = stripes(), network()
    fit(task, model, epochs=2, **QUICK)
    wanted = model(task.x_test).detach()
    model.train()
    torch.testing.assert_close(predict(model, task.x_test, batch_size=5), wanted)
    assert model.training


class Interrupted(nn.Module):
    """A network that is stopped from outside in the middle of its nth step."""

    def __init__(self, inner: nn.Module, steps: int) -> None:
        super().__init__()
        self.inner, self.left = inner, steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= int(self.training)
        if self.left < 0:
            raise KeyboardInterrupt
        return self.inner(x)


def test_a_run_stopped_in_mid_epoch_goes_on_to_the_same_result(tmp_path):
    task, path = stripes(), tmp_path / "runs" / "state.pt"
    whole = Interrupted(network(), 10**6)
    history = fit(task, whole, epochs=6, **QUICK)
    for steps in (4 * 2 + 3, 4 * 2 + 1):  # the third epoch is stopped, then the fifth
        with pytest.raises(KeyboardInterrupt):
            fit(task, Interrupted(network(), steps), epochs=6, checkpoint=path, **QUICK)
    done = torch.load(path, weights_only=True)["history"]
    assert [row["epoch"] for row in done] == [0, 1, 2, 3]
    resumed = Interrupted(network(), 10**6)
    joined = fit(task, resumed, epochs=6, checkpoint=path, **QUICK)
    assert same_weights(whole, resumed)
    assert joined.drop(columns="seconds").equals(history.drop(columns="seconds"))
    assert joined.seconds.tolist()[:4] == [row["seconds"] for row in done]
    untouched = path.read_bytes()
    finished = Interrupted(network(), 0)  # nothing is left to train, and nothing is trained
    assert fit(task, finished, epochs=6, checkpoint=path, **QUICK).equals(joined) and same_weights(whole, finished)
    assert path.read_bytes() == untouched and [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_a_killed_process_goes_on_to_the_same_result(tmp_path):
    path, epochs = tmp_path / "state.pt", 60
    threads = f"torch.set_num_threads({torch.get_num_threads()})\n"  # sums are split among them: same number, same bits
    script = SETUP + threads + f"fit(stripes(), network(), epochs={epochs}, checkpoint={str(path)!r}, **{QUICK!r})"
    process = subprocess.Popen([sys.executable, "-c", script], env=environment())
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(torch.load(path, weights_only=True)["history"]) < epochs
    resumed, whole = network(), network()
    fit(stripes(), resumed, epochs=epochs, checkpoint=path, **QUICK)
    fit(stripes(), whole, epochs=epochs, **QUICK)
    assert same_weights(whole, resumed)


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    task, path = stripes(), tmp_path / "state.pt"
    real, calls = torch.save, []

    def cut_short(state, file):
        calls.append(file)
        if len(calls) == 3:
            with open(file, "wb") as half:
                half.write(b"half a file")
            raise KeyboardInterrupt
        real(state, file)

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        fit(task, network(), epochs=4, checkpoint=path, **QUICK)
    monkeypatch.undo()
    assert len(torch.load(path, weights_only=True)["history"]) == 2
    resumed, whole = network(), network()
    fit(task, resumed, epochs=4, checkpoint=path, **QUICK)
    fit(task, whole, epochs=4, **QUICK)
    assert same_weights(whole, resumed)


def changed(task, **fields):
    return Task(
        **({name: getattr(task, name) for name in ("x_train", "y_train", "x_test", "y_test")} | fields), num_classes=3
    )


def test_another_runs_checkpoint_is_refused(tmp_path):
    task, path = stripes(), tmp_path / "state.pt"
    fit(task, network(), epochs=2, checkpoint=path, **QUICK)
    before = path.read_bytes()
    v, fixed = torch.zeros(64, 3), network()
    fixed.head.weight.requires_grad_(False)
    for data, model, wrong, name in (
        (task, network(), {"seed": 1}, "seed=0, got seed=1"),
        (task, network(), {"flip": True}, "flip=False, got flip=True"),
        (task, network(), {"teacher_logits": v}, "teacher_logits=None, got teacher_logits="),
        (task, network(), {"loss": losses.cross_entropy}, "loss=None, got loss=kdlib.losses.kd.cross_entropy"),
        (changed(task, x_train=task.x_train + 1e-3), network(), {}, "images="),
        (changed(task, y_train=task.y_train.flip(0)), network(), {}, "labels="),
        (changed(task, x_test=task.x_test + 1e-3), network(), {}, "test_images="),
        (changed(task, y_test=task.y_test.flip(0)), network(), {}, "test_labels="),
        (task, resnet(8, 3, width=5), {}, "parameters="),
        (task, fixed, {}, "trained="),
    ):
        with pytest.raises(ValueError, match=rf"state\.pt was made with {name}"):
            fit(data, model, **(QUICK | {"epochs": 2, "checkpoint": path} | wrong))
    assert path.read_bytes() == before


def test_a_network_of_the_same_size_but_another_shape_is_refused_and_left_alone(tmp_path):
    def head(*layers):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), *layers)

    task, path = stripes(), tmp_path / "state.pt"
    fit(task, head(nn.Linear(192, 4, bias=False), nn.Linear(4, 3)), epochs=2, checkpoint=path, **QUICK)
    other = head(
        nn.Linear(192, 3, bias=False), nn.Linear(3, 3), nn.Linear(3, 64, bias=False), nn.Linear(64, 3, bias=False)
    )
    other[4].weight.requires_grad_(True)
    wide = head(nn.Linear(192, 4, bias=False), nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3, affine=False))
    wide[2].bias_ = nn.Parameter(torch.zeros(3))
    before = [p.clone() for p in wide.parameters()]
    with pytest.raises(
        ValueError, match=r"state\.pt was made with another network: 2\.bias had shape \(3,\), got None"
    ):
        fit(task, wide, epochs=2, checkpoint=path, **QUICK)
    assert all(torch.equal(p, q) for p, q in zip(wide.parameters(), before, strict=True))


class Exploit:
    """What a pickle may do to whoever opens it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_file_that_is_no_checkpoint_is_named_with_a_remedy(tmp_path):
    task, path, mark = stripes(), tmp_path / "state.pt", tmp_path / "opened"
    fit(task, network(), epochs=2, checkpoint=path, **QUICK)
    good, spare = path.read_bytes(), tmp_path / "spare"
    cases = {"half": good[: len(good) // 2], "empty": b"", "text": b"hello\n", "tail": good[1000:], "twice": good[:-40]}
    cases["pointer"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    state = torch.load(path, weights_only=True)
    for name, content in {
        "weights": network().state_dict(),
        "whole": network(),
        "list": [1, 2],
        "without history": {k: v for k, v in state.items() if k != "history"},
        "history of another kind": state | {"history": "long"},
        "history of nothing": state | {"history": []},
        "no cycle": state | {"cycles": []},
        "cycles of another kind": state | {"cycles": ["two"]},
        "exploit": {"settings": Exploit(mark)},
    }.items():
        torch.save(content, spare)
        cases[name] = spare.read_bytes()
    cases["pickle"] = pickle.dumps(Exploit(mark))
    model = network()
    for name, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"state\.pt is damaged or was not written by `fit` \(.*remove it"
        ) as caught:
            fit(task, model, epochs=2, checkpoint=path, **QUICK)
        assert "weights_only" not in str(caught.value) and caught.value.__cause__ is None, name
        assert path.read_bytes() == content, name
    assert not mark.exists() and same_weights(model, network())


@pytest.mark.parametrize("part", ["model", "optimiser"])
def test_a_state_that_does_not_fit_is_named(part, tmp_path):
    """The file is whole, and made by somebody else's optimiser, say."""
    task, path = stripes(), tmp_path / "state.pt"
    fit(task, network(), epochs=4, checkpoint=path, **QUICK)
    state = torch.load(path, weights_only=True)
    foreign = {"model": {**state["model"], "extra": torch.ones(1)}, "optimiser": {"state": {}, "param_groups": []}}
    torch.save(state | {part: foreign[part]}, path)
    with pytest.raises(ValueError, match=r"checkpoint .*state\.pt (is damaged|was made with another network)"):
        fit(task, network(), epochs=8, checkpoint=path, **QUICK)


def test_a_single_wrong_bit_is_noticed(tmp_path):
    """In whatever part: torch itself loads other weights without a word."""
    task, path = stripes(), tmp_path / "state.pt"
    fit(task, network(), epochs=2, checkpoint=path, **QUICK)
    good, wanted = path.read_bytes(), torch.load(path, weights_only=True)
    found = 0
    for at in np.random.default_rng(0).integers(0, len(good), 150).tolist():
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        try:
            state = _checkpoint.load(path, torch.device("cpu"))
        except ValueError:
            found += 1
        else:  # in the padding between the parts: nothing that is loaded has changed
            assert state["history"] == wanted["history"] and state["settings"] == wanted["settings"]
            for name, value in wanted["model"].items():
                assert torch.equal(state["model"][name], value)
    assert found > 50


def test_a_place_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged or was not written by `fit` \(Is a directory\)"):
        fit(stripes(), network(), epochs=2, checkpoint=tmp_path, **QUICK)


def test_a_full_disk_is_named_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    task, path = stripes(), tmp_path / "state.pt"
    fit(task, network(), epochs=2, checkpoint=path, **QUICK)
    before = path.read_bytes()

    def full(state, file):
        Path(file).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    for place in (path, tmp_path / "new" / "state.pt"):
        with pytest.raises(OSError, match=r"cannot write checkpoint .*state\.pt: .*is the disk full\?"):
            fit(task, network(), epochs=4, checkpoint=place, **QUICK)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["state.pt"]


def test_a_tilde_in_the_checkpoints_name_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = fit(stripes(), network(), epochs=2, checkpoint="~/runs/state.pt", **QUICK)
    assert (tmp_path / "runs" / "state.pt").is_file()
    assert fit(stripes(), network(), epochs=2, checkpoint="~/runs/state.pt", **QUICK).equals(first)


def test_numbers_of_numpy_are_kept_as_plain_ones(tmp_path):
    path = tmp_path / "state.pt"
    given = {
        "epochs": np.int64(2), "batch_size": np.int32(16), "lr": np.float64(0.1), "momentum": np.float32(0.5),
        "weight_decay": np.float64(0), "crop": np.int64(1), "flip": np.bool_(False), "seed": np.int64(3),
        "temperature": np.float64(4), "alpha": np.float64(0.9),
    }  # fmt: skip
    first = fit(stripes(), network(), checkpoint=path, progress=False, **given)
    stored = torch.load(path, weights_only=True)["settings"]
    assert {type(stored[name]) for name in given} == {int, float, bool}
    plain = {name: value.item() for name, value in given.items()}
    assert fit(stripes(), network(), checkpoint=path, progress=False, **plain).equals(first)


def rows_without_time(history):
    return history.drop(columns="seconds")


def test_a_finished_run_goes_on_to_more_epochs(tmp_path):
    """The added epochs are a cycle of their own, from the weights, momenta and data order that the run has come to."""
    task, path = stripes(), tmp_path / "state.pt"
    first = fit(task, network(), epochs=3, checkpoint=path, **QUICK)
    model = network()
    whole = fit(task, model, epochs=6, checkpoint=path, **QUICK)
    assert rows_without_time(whole[:3]).equals(rows_without_time(first)) and whole.epoch.tolist() == [*range(6)]
    assert whole.lr[3:].tolist() == first.lr.tolist()
    assert torch.load(path, weights_only=True)["cycles"] == [3, 6]
    assert fit(task, network(), epochs=6, checkpoint=path, **QUICK).equals(whole)

    # by hand: the same weights and momenta under a fresh schedule
    stepped, (x, y) = network(), (task.x_train, task.y_train)
    (tmp_path / "again.pt").unlink(missing_ok=True)
    fit(task, stepped, epochs=3, checkpoint=tmp_path / "again.pt", **QUICK)
    state = torch.load(tmp_path / "again.pt", weights_only=True)["optimiser"]
    optimiser = torch.optim.SGD(stepped.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    optimiser.load_state_dict(state)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=12, pct_start=0.2, cycle_momentum=False)
    stepped.train()
    for epoch in (3, 4, 5):
        order, shift, flip = draw_epoch(0, epoch, 64, 1, False)
        for index, moved, mirrored in zip(order.split(16), shift.split(16), flip.split(16), strict=True):
            optimiser.zero_grad()
            F.cross_entropy(stepped(augment(x, index, moved, mirrored)), y[index]).backward()
            optimiser.step()
            schedule.step()
    for p, q in zip(model.parameters(), stepped.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_an_extended_run_may_be_stopped_and_resumed(tmp_path):
    task, path, other = stripes(), tmp_path / "state.pt", tmp_path / "other.pt"
    for place in (path, other):
        fit(task, network(), epochs=2, checkpoint=place, **QUICK)
    whole = network()
    history = fit(task, whole, epochs=5, checkpoint=path, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        fit(task, Stopped(network(), 4 + 2), epochs=5, checkpoint=other, **QUICK)
    assert len(torch.load(other, weights_only=True)["history"]) == 3
    for epochs, message in (
        (2, "epochs=5, got epochs=2: give another path$"),
        (9, "epochs=9: .* once its 5 epochs are done"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(task, network(), epochs=epochs, checkpoint=other, **QUICK)
    resumed = network()
    joined = fit(task, resumed, epochs=5, checkpoint=other, **QUICK)
    assert same_weights(whole, resumed) and rows_without_time(joined).equals(rows_without_time(history))
    with pytest.raises(ValueError, match="at least 6 steps for the schedule, got 1 x 4"):
        fit(task, network(), epochs=6, checkpoint=other, **QUICK)


class Stopped(Interrupted):
    """The same, with the state of the network inside, so that a plain one can go on."""

    def state_dict(self, *args, **kwargs):
        return self.inner.state_dict(*args, **kwargs)

    def load_state_dict(self, state, *args, **kwargs):
        return self.inner.load_state_dict(state, *args, **kwargs)


def test_any_loss_that_returns_a_value_per_example(tmp_path):
    task, v = stripes(), torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
    own, given, plain, taught = network(), network(), network(), network()
    fit(task, own, epochs=2, teacher_logits=v, temperature=2.0, alpha=0.5, **QUICK)
    mine = partial(losses.kd_loss, temperature=2.0, alpha=0.5)
    fit(task, given, epochs=2, teacher_logits=v, loss=mine, **QUICK)
    assert same_weights(own, given)
    fit(task, plain, epochs=2, **QUICK)
    fit(task, taught, epochs=2, loss=lambda z, y: F.cross_entropy(z, y, reduction="none"), **QUICK)
    for p, q in zip(plain.parameters(), taught.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    path = tmp_path / "state.pt"
    fit(task, network(), epochs=2, teacher_logits=v, loss=mine, checkpoint=path, **QUICK)
    other = partial(losses.kd_loss, temperature=3.0, alpha=0.5)
    with pytest.raises(ValueError, match=r"loss=kdlib\.losses\..*kd_loss\(alpha=0\.5, temperature=2\.0\), got loss="):
        fit(task, network(), epochs=2, teacher_logits=v, loss=other, checkpoint=path, **QUICK)


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda z, y: F.cross_entropy(z, y), r"\(\)"),
        (lambda z, y: z, r"\(16, 3\)"),
        (lambda z, y: z.sum().item(), "float"),
    ],
)
def test_a_loss_that_does_not_return_a_value_per_example_is_named(loss, got):
    with pytest.raises(ValueError, match=rf"loss must return one value per example, .* \(16,\), got {got}"):
        fit(stripes(), network(), epochs=2, loss=loss, **QUICK)


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = network(), wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


class Answer:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("wrap", [lambda z: (z, None), lambda z: [z], lambda z: {"logits": z, "loss": None}, Answer])
def test_logits_are_found_in_what_networks_return(wrap):
    task, model, plain = stripes(), Wrapped(wrap), network()
    history = fit(task, model, epochs=2, **QUICK)
    assert rows_without_time(fit(task, plain, epochs=2, **QUICK)).equals(rows_without_time(history))
    assert torch.equal(predict(model, task.x_test), predict(plain, task.x_test))


@pytest.mark.parametrize(
    ("wrap", "got"),
    [
        (lambda z: {"scores": z}, "dict"),
        (lambda z: (), "tuple"),
        (lambda z: ("features", z), "tuple"),
        (lambda z: (z[:, :2], z), r"tuple of shape \(16, 2\)"),
        (lambda z: z[:1], r"Tensor of shape \(1, 3\)"),
        (lambda z: z.sum(1), r"Tensor of shape \(16,\)"),
        (lambda z: None, "NoneType"),
    ],
)
def test_other_outputs_of_a_model_are_named(wrap, got):
    with pytest.raises(ValueError, match=rf"model must return logits \(16, 3\), .* got {got}$"):
        fit(stripes(), Wrapped(wrap), epochs=2, **QUICK)


def test_frozen_parts_stay_as_their_owner_left_them():
    task, model = stripes(), network()
    block = model.features[3]
    block.eval()  # its running statistics are not to move, its weights are
    model.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = []
    block.register_forward_pre_hook(lambda module, _: modes.append((module.training, module.norm1.training)))
    model.register_forward_pre_hook(lambda module, _: modes.append((not module.training, False)))
    fit(task, model, epochs=2, **QUICK)
    after = model.state_dict()
    for name, value in before.items():
        still = name == "head.weight" or (
            name.startswith("features.3.") and ("running" in name or "num_batches" in name)
        )
        assert torch.equal(value, after[name]) == still, name
    assert (True, True) not in modes and (False, False) in modes


@pytest.mark.parametrize("fails", [False, True])
def test_predict_leaves_every_module_in_its_mode(fails):
    model = Wrapped((lambda z: None) if fails else (lambda z: z))
    model.inner.features[3].eval()
    model.inner.features[4].norm1.eval()
    before = [module.training for module in model.modules()]
    if fails:
        with pytest.raises(ValueError, match=r"model must return logits \(5, K\)"):
            predict(model, torch.randn(5, 3, 8, 8))
    else:
        predict(model, torch.randn(5, 3, 8, 8))
    assert [module.training for module in model.modules()] == before and True in before and False in before


def test_a_compiled_network_and_the_network_share_a_checkpoint(tmp_path):
    task, path, plain = stripes(), tmp_path / "state.pt", network()
    whole = fit(task, plain, epochs=4, **QUICK)
    fit(task, torch.compile(Stopped(network(), 10**6), backend="eager"), epochs=4, checkpoint=path, **QUICK)
    resumed = network()
    assert rows_without_time(fit(task, resumed, epochs=4, checkpoint=path, **QUICK)).equals(rows_without_time(whole))
    assert same_weights(plain, resumed)


@pytest.mark.parametrize(
    ("data", "weights"),
    [(torch.float64, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.bfloat16)],
)
def test_images_follow_the_precision_of_the_network(data, weights):
    model = network().to(weights)
    history = fit(stripes(data), model, epochs=2, **QUICK)
    assert next(model.parameters()).dtype == weights and history.loss.map(math.isfinite).all()
    assert predict(model, stripes(data).x_test).dtype == torch.float32


def test_nothing_to_train_is_named():
    with pytest.raises(ValueError, match="model must have at least one parameter that needs a gradient"):
        fit(stripes(), network().requires_grad_(False), epochs=2, **QUICK)


def test_a_regression_is_named():
    y = torch.randn(64)
    task = Task(stripes().x_train, y, stripes().x_test, y[:32], 1, name="heights")
    with pytest.raises(ValueError, match="fit needs classes, but heights is a regression"):
        fit(task, network(), epochs=2, **QUICK)


def test_data_are_placed_once_and_not_in_every_epoch(monkeypatch):
    """Seen on a task in another precision, which takes a copy as another device does."""
    task, seen, real = stripes(torch.float64), [], trainer.predict
    monkeypatch.setattr(trainer, "predict", lambda model, x: (seen.append(x), real(model, x))[1])
    fit(task, network(), epochs=4, **QUICK)
    assert len(seen) == 4 and len({id(x) for x in seen}) == 1 and seen[0].dtype == torch.float32


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, as far as torch is asked about them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_a_gpu_without_a_number_is_the_current_one_or_torchruns(gpus, monkeypatch):
    for given in ("cuda", None, torch.device("cuda")):
        assert trainer._join(given) == (0, 1, torch.device("cuda", 1))
    assert trainer._join("cuda:0")[2] == torch.device("cuda", 0) and trainer._join("cpu")[2] == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert trainer._join("cuda")[2] == trainer._join(None)[2] == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="device must be one that this machine has, got 'cuda:2' with 2 GPUs"):
        trainer._join("cuda:2")


def test_processes_of_one_group_each_make_their_gpu_the_current_one(gpus, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    trainer._join("cuda")
    assert not chosen  # a single process leaves the caller's choice alone
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert trainer._join("cuda") == (1, 2, torch.device("cuda", 1)) and chosen == [torch.device("cuda", 1)]


@pytest.mark.parametrize("given", ["gpu", "", "cuda:x", 1.5, "cuda", "cuda:0", "meta", "xpu"])
def test_a_device_that_is_none_is_named(given, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must be"):
        fit(stripes(), network(), epochs=2, device=given, **QUICK)


def test_a_batch_is_made_and_predicted_where_the_data_are():
    """On torch's meta device, which has no numbers: anything that comes from another device is an error."""
    order, shift, flip = draw_epoch(0, 0, 64, 1, True, "meta")
    assert {t.device.type for t in (order, shift, flip)} == {"meta"}
    x, model = stripes().x_train.to("meta"), network().to("meta")
    batch = augment(x, order[:16], shift[:16], flip[:16])
    assert batch.shape == (16, 3, 8, 8) and batch.device.type == "meta"
    assert predict(model, x).device.type == "meta" and predict(model, stripes().x_test.to("meta")).shape == (32, 3)


def test_a_loss_that_explodes_is_reported_and_not_saved(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(FloatingPointError, match=r"the loss became (nan|inf) in epoch 0: try a smaller lr than 1e\+30"):
        fit(stripes(), network(normed=False), epochs=2, checkpoint=path, **(QUICK | {"lr": 1e30}))
    assert not path.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"epochs": 1}, "epochs must give at least 6 steps for the schedule, got 1 x 4"),
        ({"batch_size": 65}, "batch_size must be at most 64, the number of training images, got 65"),
        ({"seed": 0.5}, "seed must be an integer of at least 0, got 0.5"),
        ({"crop": 8}, r"crop must lie in 0\.\.7 for images of 8 pixels, got 8"),
        ({"lr": math.nan}, "lr must be a finite number of at least 0, got nan"),
        ({"momentum": -0.1}, "momentum must be a finite number of at least 0, got -0.1"),
        ({"temperature": 0.0}, "temperature must be a positive .*, got 0.0"),
        ({"alpha": 1.5}, r"alpha must .*\[0, 1\], got 1.5"),
        ({"teacher_logits": torch.zeros(64, 4)}, r"teacher_logits must have shape \(64, 3\), got \(64, 4\)"),
        ({"teacher_logits": torch.full((64, 3), math.nan)}, "teacher_logits must be finite"),
    ],
)
def test_a_bad_argument_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(stripes(), network(), **(QUICK | {"epochs": 2} | wrong))


def test_inputs_that_are_no_images_are_named():
    x, y = torch.zeros(20, 4), torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"task\.x_train must have shape \(N, C, H, W\), got \(20, 4\)"):
        fit(Task(x, y, x, y, 2), nn.Linear(4, 2))


TOGETHER = (
    SETUP
    + """
import os, sys
from pathlib import Path
import torch.distributed as dist
from kdlib.trainer import _join
torch.set_num_threads(1)
folder, quick, rank = Path(sys.argv[1]), {quick}, int(os.environ["RANK"])

def made():
    model = network(normed=False)
    if rank:  # the first process's weights count
        [nn.init.zeros_(p) for p in model.parameters()]
    return model

def told(**arguments):
    try:
        fit(stripes(), made(), **(quick | dict(epochs=4) | arguments))
    except (ValueError, OSError) as error:
        return type(error).__name__ + ": " + str(error)
    return "nothing was raised"

said = dict(odd=told(batch_size=15))
model = made()
history = fit(stripes(), model, epochs=4, checkpoint=folder / "state.pt", **quick)
said |= dict(world=dist.get_world_size(), loss=history.loss.tolist(), weights=model.state_dict())

# several hosts: only the first process's folder holds the checkpoint, the second's is of another run or not there
resumed = made()
hosts = folder / f"host{{rank}}"
said["epochs"] = len(fit(stripes(), resumed, epochs=4, checkpoint=hosts / "half.pt", **quick))
said |= dict(resumed=resumed.state_dict(), written=(hosts / "half.pt").exists())
said["damaged"] = told(checkpoint=hosts / "damaged.pt")
said["another"] = told(checkpoint=hosts / "another.pt")
(folder / "file").touch()
said["unwritable"] = told(checkpoint=folder / "file" / "state.pt" if rank == 0 else folder / "fine.pt")
torch.save(said, folder / f"said{{rank}}")
"""
)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes saw that torchrun started on the CPU; without batch norm, which sees each one's own half."""
    folder = tmp_path_factory.mktemp("together")
    for host in ("host0", "host1"):
        (folder / host).mkdir()
    with pytest.raises(KeyboardInterrupt):
        half = Stopped(network(normed=False), 4 * 2 + 1)
        fit(stripes(), half, epochs=4, checkpoint=folder / "host0" / "half.pt", **QUICK)
    fit(stripes(), network(normed=False), epochs=2, checkpoint=folder / "host0" / "another.pt", **(QUICK | {"lr": 0.2}))
    fit(stripes(), network(normed=False), epochs=3, checkpoint=folder / "host1" / "damaged.pt", **QUICK)
    (folder / "host0" / "damaged.pt").write_bytes(b"no checkpoint")
    script = folder / "two.py"
    script.write_text(TOGETHER.replace("{quick}", repr(QUICK)).replace("{{", "{").replace("}}", "}"))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",  # else the two look for the machine by its name, which need not lead anywhere
        "--nproc-per-node=2",
        str(script),
        str(folder),
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return folder, [torch.load(folder / f"said{rank}", weights_only=True) for rank in (0, 1)]


def test_two_processes_equal_one_with_the_combined_batch(together):
    folder, said = together
    one = network(normed=False)
    history = fit(stripes(), one, epochs=4, **QUICK)
    for state in said:
        assert state["world"] == 2 and state["loss"] == pytest.approx(history.loss.tolist(), abs=1e-6)
        for weights in (state["weights"], state["resumed"]):
            for name, value in one.state_dict().items():
                torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)
        assert "multiple of 2, the number of processes, got 15" in state["odd"]
    # What the first wrote goes on in one process, for the state belongs to the run and not to the launcher.
    joined = fit(stripes(), network(normed=False), epochs=4, checkpoint=folder / "state.pt", **QUICK)
    assert joined.loss.tolist() == said[0]["loss"]


def test_the_first_processs_checkpoint_decides_for_all(together):
    _, said = together
    assert [state["epochs"] for state in said] == [4, 4] and [state["written"] for state in said] == [True, False]
    for rank in (0, 1):
        assert (
            "ValueError: checkpoint" in said[rank]["damaged"] and "host0/damaged.pt is damaged" in said[rank]["damaged"]
        )
        assert "was made with lr=0.2, got lr=0.1" in said[rank]["another"]


def test_a_failed_save_ends_all_processes_with_its_message(together):
    folder, said = together
    for state in said:
        assert "Error: " in state["unwritable"] and "cannot write" in state["unwritable"]
        assert f"{folder}/file/state.pt" in state["unwritable"]
    assert not (folder / "fine.pt").exists()
