"""The trainer of one big network: a textbook loop's numbers, also when stopped and resumed, and on two processes."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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

def stripes(n=96, size=8):  # three classes: a bright row, a bright column, neither
    generator = torch.Generator().manual_seed(5)
    x, y = 0.3 * torch.randn(n, 3, size, size, generator=generator), torch.arange(n) % 3
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
    assert order.sort().values.equal(torch.arange(4000))
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
    task, epochs, lr, decay, T, alpha = stripes(), 3, 0.1, 1e-3, 2.0, 0.7
    v = torch.randn(64, 3) if taught else None
    model, mine = network(), network()
    history = fit(
        task, model, epochs=epochs, teacher_logits=v, temperature=T, alpha=alpha, weight_decay=decay, seed=4, **QUICK
    )

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
    assert history.loss.tolist() == pytest.approx(torch.tensor(losses).view(3, 4).mean(1).tolist(), rel=1e-4)
    for p, q in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(p.data.contiguous(), q.data, rtol=1e-3, atol=1e-5)
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
        self.left -= self.training
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
    process = subprocess.Popen([sys.executable, "-c", script])
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


def test_another_runs_checkpoint_is_refused(tmp_path):
    task, path = stripes(), tmp_path / "state.pt"
    fit(task, network(), epochs=2, checkpoint=path, **QUICK)
    before = path.read_bytes()
    changed = Task(task.x_train + 1e-3, task.y_train, task.x_test, task.y_test, 3)
    v = torch.zeros(64, 3)
    for data, model, wrong, name in (
        (task, network(), {"epochs": 3}, "epochs=2, got epochs=3"),
        (task, network(), {"seed": 1}, "seed=0, got seed=1"),
        (task, network(), {"teacher_logits": v}, "teacher_logits=None, got teacher_logits="),
        (changed, network(), {}, "images="),
        (task, resnet(8, 3, width=5), {}, "parameters="),
    ):
        with pytest.raises(ValueError, match=rf"state\.pt was made with {name}"):
            fit(data, model, **(QUICK | {"epochs": 2, "checkpoint": path} | wrong))
    assert path.read_bytes() == before


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


def test_two_processes_equal_one_with_the_combined_batch(tmp_path):
    """Started by torchrun on the CPU. Without batch norm, for that sees each process's own half of the batch."""
    script, results = tmp_path / "two.py", tmp_path / "rank"
    script.write_text(
        SETUP
        + "import torch.distributed as dist\n"
        + "torch.set_num_threads(1)\n"
        + "model = network(normed=False)\n"
        + "if int(__import__('os').environ['RANK']): [nn.init.zeros_(p) for p in model.parameters()]\n"
        + f"history = fit(stripes(), model, epochs=4, checkpoint={str(tmp_path / 'state.pt')!r}, **{QUICK!r})\n"
        + "state = dict(model.state_dict(), world=dist.get_world_size(), loss=history.loss.tolist())\n"
        + f"torch.save(state, {str(results)!r} + str(dist.get_rank()))\n"
        + "if dist.get_rank() == 0:\n"
        + "    try:\n"
        + "        fit(stripes(), model, epochs=4, batch_size=15)\n"
        + "    except ValueError as error:\n"
        + f"        open({str(tmp_path / 'odd')!r}, 'w').write(str(error))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    one = network(normed=False)
    history = fit(stripes(), one, epochs=4, **QUICK)
    for rank in (0, 1):
        state = torch.load(f"{results}{rank}", weights_only=True)
        assert state.pop("world") == 2 and state.pop("loss") == pytest.approx(history.loss.tolist(), abs=1e-6)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6)
    # What rank 0 wrote goes on in one process, for the state belongs to the run and not to the launcher.
    assert len(torch.load(tmp_path / "state.pt", weights_only=True)["history"]) == 4
    assert "multiple of 2, the number of processes, got 15" in (tmp_path / "odd").read_text()
