"""The shipped tables: found in a checkout and in a wheel, checked before they are read, and true to what made them."""

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kdlib.data.shipped import CHECKSUMS, folder, pack_logits, pack_table, shipped
from kdlib.data.task import Task

module = importlib.import_module("kdlib.data.shipped")


def a_task(n: int = 40, k: int = 6) -> Task:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(k, (n,), generator=generator)
    extra = {"class_names": [f"class {c}" for c in range(k)], "group_names": ["even", "odd"]}
    x = torch.zeros(n, 3)
    return Task(x, y, x, y, k, groups=torch.arange(k) % 2, extra=extra)


def some_logits(task: Task, scale: float = 4.0) -> torch.Tensor:
    return scale * torch.randn(len(task.y_test), task.num_classes, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=["wheel", "checkout"])
def place(request, tmp_path, monkeypatch) -> Path:
    """An empty folder where the tables of an installed wheel, or of a checkout, are looked for."""
    package = tmp_path / "site" / "kdlib"
    where = package / "shipped" if request.param == "wheel" else package.parent / "data"
    where.mkdir(parents=True)
    monkeypatch.setattr(module, "PACKAGE", package)
    return where


def test_a_packed_table_comes_back(place):
    task = a_task()
    logits = some_logits(task)
    logits[0, :] = 1.5  # a constant row
    logits[1, 2], logits[1, 3] = 20.0, 20.0 - 1e-4  # two classes that rounding alone would not tell apart
    digest = pack_logits(place / "small.npz", logits, task)

    table = shipped("small")
    steps = (logits.amax(1) - logits.amin(1)) / 255
    assert table["logits"].dtype == np.float32 and table["labels"].dtype == np.int64
    error = np.abs(table["logits"] - logits.numpy()).max(1)
    assert (error <= steps.numpy() + 1e-5).all() and error.max() > 0
    assert (table["logits"].argmax(1) == logits.numpy().argmax(1)).all()
    accuracy = (logits.argmax(1) == task.y_test).double().mean().item()
    assert table["accuracy"] == accuracy == (table["logits"].argmax(1) == table["labels"]).mean()
    assert table["labels"].tolist() == task.y_test.tolist() and table["groups"].tolist() == [0, 1, 0, 1, 0, 1]
    assert table["class_names"].tolist() == task.extra["class_names"]
    assert table["group_names"].tolist() == ["even", "odd"]
    assert json.loads((place / CHECKSUMS).read_text()) == {"small.npz": digest}
    assert sorted(p.name for p in place.iterdir()) == [CHECKSUMS, "small.npz"]  # no half-written file is left


def test_packing_again_gives_the_same_bytes_and_keeps_the_other_sums(place):
    task = a_task()
    first = pack_logits(place / "small.npz", some_logits(task), task)
    other = pack_logits(place / "other.npz", some_logits(task, 1.0), task)
    assert pack_logits(place / "small.npz", some_logits(task), task) == first != other
    assert json.loads((place / CHECKSUMS).read_text()) == {"other.npz": other, "small.npz": first}


def test_a_packed_frame_comes_back(place):
    frame = pd.DataFrame({"recipe": ["hard labels", "KD", "KD"], "seed": [0, 0, 1], "accuracy": [0.5, 0.625, 0.75]})
    digest = pack_table(place / "small.npz", frame)
    pd.testing.assert_frame_equal(
        pd.DataFrame(shipped("small")), frame.astype({"accuracy": "float32"}), check_dtype=False
    )
    assert pack_table(place / "small.npz", frame) == digest
    for bad, name in ((frame[:0], "frame"), (frame.assign(seed=[None, {}, 1]), "seed")):
        with pytest.raises(ValueError, match=name):
            pack_table(place / "small.npz", bad)
    with pytest.raises(ValueError, match="path"):
        pack_table(place / "small.csv", frame)
    assert json.loads((place / CHECKSUMS).read_text()) == {"small.npz": digest}


def test_a_wheel_goes_before_what_lies_beside_it(tmp_path, monkeypatch):
    package, task = tmp_path / "kdlib", a_task()
    monkeypatch.setattr(module, "PACKAGE", package)
    for where, scale in ((package / "shipped", 1.0), (tmp_path / "data", 9.0)):
        where.mkdir(parents=True)
        pack_logits(where / "small.npz", some_logits(task, scale), task)
    assert np.abs(shipped("small")["logits"]).max() < 5


@pytest.mark.parametrize("harm", ["flip a bit", "truncate", "another table"])
def test_a_damaged_file_is_refused_by_name(place, harm):
    task = a_task()
    path = place / "small.npz"
    pack_logits(path, some_logits(task), task)
    blob = path.read_bytes()
    if harm == "flip a bit":
        path.write_bytes(blob[:200] + bytes([blob[200] ^ 1]) + blob[201:])
    elif harm == "truncate":
        path.write_bytes(blob[:-1])
    else:
        pack_logits(place / "other.npz", some_logits(task, 1.0), task)
        path.write_bytes((place / "other.npz").read_bytes())
    with pytest.raises(ValueError, match=r"small\.npz is damaged: its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        shipped("small")


def test_what_is_missing_is_named(place, tmp_path, monkeypatch):
    task = a_task()
    pack_logits(place / "small.npz", some_logits(task), task)
    with pytest.raises(ValueError, match=r"name must be one of the shipped tables \(small\), got '\.\./large'"):
        shipped("../large")
    (place / "small.npz").unlink()
    with pytest.raises(ValueError, match=r"small\.npz is missing"):
        shipped("small")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "nowhere" / "kdlib")
    with pytest.raises(ValueError, match=r"no checksums\.json under .*nowhere"):
        shipped("small")


def test_a_pickle_is_never_run(place):
    path = place / "small.npz"
    np.savez_compressed(path, labels=np.array([{"an": "object"}], dtype=object))
    (place / CHECKSUMS).write_text(json.dumps({"small.npz": module._sha256(path)}))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        shipped("small")


@pytest.mark.parametrize("bad", ["shape", "nan", "suffix", "folder"])
def test_pack_logits_names_a_bad_argument(tmp_path, bad):
    task = a_task()
    logits = some_logits(task)
    path = tmp_path / {"suffix": "small.npy", "folder": "none/small.npz"}.get(bad, "small.npz")
    if bad == "shape":
        logits = logits[:, :-1]
    if bad == "nan":
        logits[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"logits must be finite and have shape \(40, 6\)|path must be an \.npz"):
        pack_logits(path, logits, task)
    assert list(tmp_path.iterdir()) == []


def test_every_table_that_ships_is_whole_described_and_small():
    listed = json.loads((folder() / CHECKSUMS).read_text("utf-8"))
    readme = (folder() / "README.md").read_text("utf-8")
    assert "cifar100_resnet_logits.npz" in listed
    assert {path.name for path in folder().glob("*.npz")} == set(listed)
    for file, digest in listed.items():
        assert digest in readme and f"## {file}" in readme
        assert (folder() / file).stat().st_size < 1_500_000
        shipped(file.removesuffix(".npz"))


def test_the_cifar100_table():
    table = shipped("cifar100_resnet_logits")
    assert table["logits"].shape == (10_000, 100) and table["logits"].dtype == np.float32
    assert np.isfinite(table["logits"]).all()
    assert (np.bincount(table["labels"]) == 100).all() and (np.bincount(table["groups"]) == 5).all()
    names = dict(zip(table["class_names"], table["group_names"][table["groups"]], strict=True))
    assert len(names) == 100 and names["maple_tree"] == names["oak_tree"] == "trees" and names["train"] == "vehicles_1"
    predicted = table["logits"].argmax(1)
    assert table["accuracy"] == (predicted == table["labels"]).mean() > 0.5
    # A network that has learned confuses classes of one superclass far more often than chance (4 of 99) would.
    wrong = predicted != table["labels"]
    assert (table["groups"][predicted] == table["groups"][table["labels"]])[wrong].mean() > 0.2


def test_a_runner_up_by_a_hair_stays_the_runner_up(place):
    """Nearer to the largest logit than half a step, before it and after it: both would round to the top level."""
    x, y = torch.zeros(3, 2), torch.tensor([2, 0, 1])
    task = Task(x, y, x, y, 4)
    logits = torch.tensor([[4.9999, 0.0, 5.0, 1.0], [5.0, 4.9999, 0.0, 1.0], [4.9999, 5.0, 4.9999, 0.0]])
    pack_logits(place / "small.npz", logits, task)
    table = shipped("small")
    assert table["logits"].argmax(1).tolist() == [2, 0, 1] and table["accuracy"] == 1.0
    top = np.sort(table["logits"], axis=1)
    assert (top[:, -1] - top[:, -2]).min() > 0.5 * 5 / 255
