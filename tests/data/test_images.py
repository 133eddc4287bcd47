"""Real images: splits, sizes and superclasses, and files that are missing, damaged, hostile or half-written.

Small imitations of the official files stand in for the real ones; where the real ones are present they are read as well.
"""

import gzip
import hashlib
import os
import pickle
import shutil
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from sklearn.datasets import load_digits

from kdlib.data import decode, images, places, store

REAL_ROOT = os.environ.get("KDLIB_DATA")
REAL_DEBIAN = places.DEBIAN


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No data set of this machine, and no network: every address answers nothing on this very machine."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(places, "DEBIAN", tmp_path / "no debian")
    for name, files in places.DOWNLOADS.items():
        local = {f"http://127.0.0.1:9/{Path(url).name}": md5 for url, md5 in files.items()}
        monkeypatch.setitem(places.DOWNLOADS, name, local)


def md5(blob):
    return hashlib.md5(blob).hexdigest()


def make(n, classes, shape, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.permutation(np.arange(n) % classes)


def plant_fashion(monkeypatch, folder, n=200, zipped=True):
    """Imitation Fashion-MNIST files in `folder`, with their sums where kdlib looks for the official ones."""
    folder.mkdir(parents=True, exist_ok=True)
    sums, zips, data = {}, {}, {}
    for seed, (split, stem) in enumerate({"train": "train", "test": "t10k"}.items()):
        x, y = data[split] = make(n, 10, (28, 28), seed)
        for kind, head, a in (
            ("images-idx3", struct.pack(">4i", 2051, n, 28, 28), x),
            ("labels-idx1", struct.pack(">2i", 2049, n), y),
        ):
            file, blob = f"{stem}-{kind}-ubyte", head + a.astype(np.uint8).tobytes()
            sums[file] = md5(blob)
            packed = gzip.compress(blob, 1)
            zips[f"http://127.0.0.1:9/{file}.gz"] = md5(packed)
            (folder / (file + ".gz" * zipped)).write_bytes(packed if zipped else blob)
    monkeypatch.setitem(places.FILES, "fashion_mnist", sums)
    monkeypatch.setitem(places.DOWNLOADS, "fashion_mnist", zips)
    return data


def old_pickle(value):
    """`value` as Python 2 wrote it, opcode by opcode: the form of the official CIFAR files."""
    if isinstance(value, str):
        return b"T" + struct.pack("<i", len(value)) + value.encode()
    if isinstance(value, dict):
        return b"(" + b"".join(old_pickle(k) + old_pickle(v) for k, v in value.items()) + b"d"
    if isinstance(value, np.ndarray):
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        size = b"".join(b"J" + struct.pack("<i", n) for n in value.shape) + b"\x86"
        pixels = b"T" + struct.pack("<i", value.size) + value.tobytes()
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return empty + b"(K\x01" + size + dtype + b"\x89" + pixels + b"tb"
    if isinstance(value, list):
        return b"(" + b"".join(map(old_pickle, value)) + b"l"
    return b"J" + struct.pack("<i", value)


CLASSES = [f"class {k}" for k in range(100)]
COARSE = [f"super {g}" for g in range(20)]
GROUP = np.arange(100) * 7 % 20


def plant_files(monkeypatch, name, folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    blobs = {file: b"\x80\x02" + old_pickle(value) + b"." for file, value in files.items()}
    for file, blob in blobs.items():
        (folder / file).write_bytes(blob)
    monkeypatch.setitem(places.FILES, name, {file: md5(blob) for file, blob in blobs.items()})


def plant_cifar10(monkeypatch, folder):
    data = {f"data_batch_{i}": make(40, 10, (3, 32, 32), i) for i in range(1, 6)} | {
        "test_batch": make(40, 10, (3, 32, 32), 6)
    }
    files = {f: {"labels": y.tolist(), "data": x.reshape(40, -1)} for f, (x, y) in data.items()}
    plant_files(monkeypatch, "cifar10", folder, files | {"batches.meta": {"label_names": CLASSES[:10]}})
    train = [data[f"data_batch_{i}"] for i in range(1, 6)]
    return {"train": tuple(map(np.concatenate, zip(*train, strict=True))), "test": data["test_batch"]}


def plant_cifar100(monkeypatch, folder, n=1000, seed=0):
    data = {split: make(n, 100, (3, 32, 32), seed + i) for i, split in enumerate(("train", "test"))}
    files = {
        s: {"fine_labels": y.tolist(), "coarse_labels": GROUP[y].tolist(), "data": x.reshape(n, -1)}
        for s, (x, y) in data.items()
    }
    names = {"fine_label_names": CLASSES, "coarse_label_names": COARSE}
    plant_files(monkeypatch, "cifar100", folder, files | {"meta": names})
    return data


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """A root with imitation CIFAR-100 files, and the images and labels in them."""
    return tmp_path / "root", plant_cifar100(monkeypatch, tmp_path / "root" / "cifar-100-python", n=2000)


def pixels(task, split="train"):
    """The images of a task as they were stored, uint8."""
    x = getattr(task, f"x_{split}") * task.extra["std"] + task.extra["mean"]
    return (x * 255).round().to(torch.uint8).numpy()


def same(a, b):
    pairs = [(getattr(a, f), getattr(b, f)) for f in ("x_train", "y_train", "x_test", "y_test")]
    return all(torch.equal(x, y) for x, y in pairs) and a.extra["class_names"] == b.extra["class_names"]


def rows_of(x):
    return {row.tobytes() for row in x.numpy()}


# Splits and subsets


def test_digits_split_is_seeded_disjoint_and_whole():
    task, again, other = images.digits(3), images.digits(3), images.digits(4)
    assert same(task, again) and not torch.equal(task.y_test, other.y_test)
    assert task.x_train.shape == (1297, 1, 8, 8) and task.x_test.shape == (500, 1, 8, 8)
    assert task.x_train.dtype == torch.float32 and task.num_classes == 10 and task.groups is None
    both = torch.cat([task.x_train, task.x_test]) * task.extra["std"] + task.extra["mean"]
    truth = load_digits()
    found = {
        (row.tobytes(), int(y))
        for row, y in zip(
            (both * 16).round().to(torch.uint8).numpy(), torch.cat([task.y_train, task.y_test]), strict=True
        )
    }
    expected = {(row.astype(np.uint8).tobytes(), int(y)) for row, y in zip(truth.images, truth.target, strict=True)}
    assert found == expected and len(found) == 1797


def test_digits_split_is_stratified():
    share = np.bincount(load_digits().target) / 1797
    task = images.digits(0, n_train=301, n_test=203)
    for y in (task.y_train, task.y_test):
        assert np.abs(np.bincount(y) - share * len(y)).max() <= 1


def test_a_smaller_subset_is_part_of_a_larger_one(monkeypatch, tmp_path):
    plant_fashion(monkeypatch, tmp_path)
    small, large = (images.fashion_mnist(n, 10, seed=5, root=tmp_path) for n in (60, 125))
    assert rows_of(small.x_train) < rows_of(large.x_train)
    assert np.bincount(small.y_train).tolist() == [6] * 10
    assert set(np.bincount(large.y_train).tolist()) == {12, 13} and np.bincount(large.y_test).tolist() == [1] * 10
    assert same(small, images.fashion_mnist(60, 10, seed=5, root=tmp_path))
    assert rows_of(small.x_train) != rows_of(images.fashion_mnist(60, 10, seed=6, root=tmp_path).x_train)
    nearly_all = images.fashion_mnist(199, 200, root=tmp_path)  # fewer left out than there are classes
    assert len(rows_of(nearly_all.x_train)) == 199


# Pixels


@pytest.mark.parametrize("size", [32, 16, 8, 1])
def test_sizes_are_means_over_squares(monkeypatch, tmp_path, size):
    data = plant_cifar10(monkeypatch, tmp_path / "cifar-10-batches-py")
    task = images.cifar10(size=size, root=tmp_path)
    for split, (x, y) in data.items():
        square = 32 // size
        expected = np.empty((len(x), 3, size, size))
        for i in range(size):
            for j in range(size):
                expected[:, :, i, j] = (
                    x[:, :, square * i : square * (i + 1), square * j : square * (j + 1)].mean((2, 3)) / 255
                )
        got = getattr(task, f"x_{split}").double() * task.extra["std"] + task.extra["mean"]
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
        assert getattr(task, f"y_{split}").tolist() == y.tolist()
    assert task.extra["class_names"] == CLASSES[:10] and task.groups is None


def test_an_image_keeps_its_numbers_in_every_subset(monkeypatch, tmp_path):
    plant_fashion(monkeypatch, tmp_path)
    whole, part = images.fashion_mnist(root=tmp_path), images.fashion_mnist(30, 20, root=tmp_path)
    assert rows_of(part.x_train) < rows_of(whole.x_train) and rows_of(part.x_test) < rows_of(whole.x_test)


def test_digits_are_standardised():
    task = images.digits()
    x = torch.cat([task.x_train, task.x_test]).double()
    assert abs(float(x.mean())) < 1e-3 and abs(float(x.std()) - 1) < 1e-3


# Superclasses


def test_superclasses_are_numbered_anew(cifar):
    root, data = cifar
    wanted = ["super 13", "super 2", "super 7"]
    task = images.cifar100(wanted, root=root)
    names, groups = task.extra["class_names"], task.extra["group_names"]
    assert groups == wanted and len(names) == 15 == task.num_classes
    assert task.groups.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    for split, (x, y) in data.items():
        old = [(CLASSES[k], COARSE[k * 7 % 20], image.tobytes()) for k, image in zip(y, x, strict=True)]
        labels = getattr(task, f"y_{split}")
        new = [
            (names[k], groups[task.groups[k]], image.tobytes())
            for k, image in zip(labels, pixels(task, split), strict=True)
        ]
        assert new == [example for example in old if example[1] in wanted]
    few = images.cifar100(wanted, n_train=45, n_test=30, size=8, root=root)
    assert np.bincount(few.y_train).tolist() == [3] * 15 and np.bincount(few.y_test).tolist() == [2] * 15
    assert few.x_test.shape == (30, 3, 8, 8)


def test_whole_cifar100_keeps_the_official_numbers(cifar):
    root, data = cifar
    task = images.cifar100(root=root)
    assert task.num_classes == 100 and task.groups.tolist() == GROUP.tolist() and task.extra["class_names"] == CLASSES
    assert task.y_train.tolist() == data["train"][1].tolist() and np.array_equal(pixels(task), data["train"][0])


# Where data comes from


def test_the_argument_comes_before_the_environment_and_both_before_debian(monkeypatch, cifar, tmp_path):
    root, data = cifar
    monkeypatch.setenv("KDLIB_DATA", str(root))
    task = images.cifar100()
    assert np.array_equal(pixels(task), data["train"][0]) and task.groups.tolist() == GROUP.tolist()
    plant_fashion(monkeypatch, tmp_path / "a", n=50)
    monkeypatch.setattr(places, "DEBIAN", tmp_path / "a")
    assert len(images.fashion_mnist().y_train) == 50  # Debian's folder is the last of the places on this machine
    plant_fashion(monkeypatch, root / "FashionMNIST" / "raw", n=60, zipped=False)
    assert len(images.fashion_mnist().y_train) == 60
    other = tmp_path / "other"
    plant_fashion(monkeypatch, other / "fashion-mnist", n=70)
    assert len(images.fashion_mnist(root=other).y_train) == 70


def pack(monkeypatch, name, root):
    """The official folder of `name` under `root` as the official archive instead."""
    folder = root / places.FOLDERS[name][0]
    (url,) = places.DOWNLOADS[name]
    archive = root / Path(url).name
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    monkeypatch.setitem(places.DOWNLOADS, name, {url: md5(archive.read_bytes())})
    return archive


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_archive_reads_like_the_folder_and_nothing_is_unpacked_to_disk(monkeypatch, tmp_path, name):
    plant = {"cifar10": plant_cifar10, "cifar100": plant_cifar100}[name]
    plant(monkeypatch, tmp_path / places.FOLDERS[name][0])
    load = getattr(images, name)
    unpacked = load(root=tmp_path)
    archive = pack(monkeypatch, name, tmp_path)
    assert same(unpacked, load(root=tmp_path))
    assert list(tmp_path.rglob("*")) == [archive]


def test_nothing_is_fetched_to_find_out_what_is_there(monkeypatch, tmp_path, cifar):
    monkeypatch.setattr(pooch.Pooch, "fetch", lambda *_, **__: pytest.fail("touched the network"))
    assert images.available("digits")
    assert not any(images.available(name) for name in ("fashion_mnist", "cifar10", "cifar100"))
    for name, load in (
        ("fashion_mnist", images.fashion_mnist),
        ("cifar10", images.cifar10),
        ("cifar100", images.cifar100),
    ):
        with pytest.raises(ValueError, match=f"{name} is not on this machine.*download=False"):
            load(download=False)
    assert images.available("cifar100", root=cifar[0]) and not images.available("cifar10", root=cifar[0])
    monkeypatch.setenv("KDLIB_DATA", str(cifar[0]))
    assert images.available("cifar100")


@pytest.mark.parametrize(
    ("name", "remedies"),
    [
        ("fashion_mnist", ["dataset-fashion-mnist", "train-images-idx3"]),
        ("cifar10", ["cifar-10-python.tar.gz"]),
        ("cifar100", ["cifar-100-python.tar.gz"]),
    ],
)
def test_offline_refusal_names_the_remedies(name, remedies):
    with pytest.raises(ValueError, match="the download failed") as caught:
        getattr(images, name)()
    for remedy in [*remedies, "root=", "KDLIB_DATA", "download=True"]:
        assert remedy in str(caught.value)


class Handler(SimpleHTTPRequestHandler):
    cut = 1.0

    def log_message(self, *args):
        pass

    def do_GET(self):
        """Announce the whole file and send the share `cut` of it, as when a line goes dead."""
        blob = (Path(self.directory) / Path(self.path).name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(blob)))
        self.end_headers()
        self.wfile.write(blob[: int(len(blob) * self.cut)])


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Imitation Fashion-MNIST files served from this machine."""
    plant_fashion(monkeypatch, tmp_path / "served")
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served")))
    files = {url.replace(":9/", f":{http.server_port}/"): md5 for url, md5 in places.DOWNLOADS["fashion_mnist"].items()}
    monkeypatch.setitem(places.DOWNLOADS, "fashion_mnist", files)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield
    http.shutdown()
    thread.join()
    http.server_close()


def test_download_is_kept_and_mended(monkeypatch, tmp_path, server):
    task = images.fashion_mnist()
    assert images.available("fashion_mnist") and len(task.y_train) == 200
    monkeypatch.setattr(Handler, "cut", 0.0)  # from here on the line is dead
    assert same(task, images.fashion_mnist())
    kept = tmp_path / "cache" / "downloads" / "t10k-images-idx3-ubyte.gz"
    kept.write_bytes(kept.read_bytes()[:1000])
    assert not images.available("fashion_mnist")
    with pytest.raises(ValueError, match="the download failed"):
        images.fashion_mnist()
    monkeypatch.setattr(Handler, "cut", 1.0)
    assert same(task, images.fashion_mnist())


def test_an_interrupted_download_leaves_nothing_to_trip_over(monkeypatch, tmp_path, server):
    monkeypatch.setattr(Handler, "cut", 0.5)
    with pytest.raises(ValueError, match="the download failed"):
        images.fashion_mnist()
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []
    monkeypatch.setattr(Handler, "cut", 1.0)
    assert len(images.fashion_mnist().y_train) == 200


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path):
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 4
    path.write_bytes(bytes(blob))


DAMAGE = {"truncated": truncate, "one bit": flip, "empty": lambda path: path.write_bytes(b""), "missing": Path.unlink}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_fashion_files_are_named(monkeypatch, tmp_path, harm, file, zipped):
    plant_fashion(monkeypatch, tmp_path, zipped=zipped)
    harm(tmp_path / (file + ".gz" * zipped))
    with pytest.raises(ValueError, match=rf"{file}\S* is (damaged or truncated|missing)"):
        images.fashion_mnist(root=tmp_path)


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_damaged_cifar_files_are_named(monkeypatch, tmp_path, harm, file):
    plant_cifar10(monkeypatch, tmp_path / "cifar-10-batches-py")
    harm(tmp_path / "cifar-10-batches-py" / file)
    with pytest.raises(ValueError, match=rf"{file} is (damaged or truncated|missing)"):
        images.cifar10(root=tmp_path)


@pytest.mark.parametrize("harm", [truncate, flip])
def test_damaged_archives_are_named_even_after_a_good_read(monkeypatch, tmp_path, harm):
    plant_cifar10(monkeypatch, tmp_path / "cifar-10-batches-py")
    archive = pack(monkeypatch, "cifar10", tmp_path)
    images.cifar10(root=tmp_path)
    harm(archive)
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is damaged or truncated"):
        images.cifar10(root=tmp_path)


# Hostile files


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_planted_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "boom"), 2))
    assert (tmp_path / "boom").exists()


@pytest.mark.parametrize("sum_matches", [False, True])
def test_no_stranger_s_pickle_is_run(monkeypatch, tmp_path, sum_matches):
    folder = tmp_path / "cifar-10-batches-py"
    plant_cifar10(monkeypatch, folder)
    bomb = pickle.dumps(Bomb(tmp_path / "boom"), 2)
    (folder / "data_batch_1").write_bytes(bomb)
    if sum_matches:  # even if the checksum were fooled
        monkeypatch.setitem(places.FILES["cifar10"], "data_batch_1", md5(bomb))
    expected, why = (
        (pickle.UnpicklingError, "refused to load") if sum_matches else (ValueError, "data_batch_1 is damaged")
    )
    with pytest.raises(expected, match=why):
        images.cifar10(root=tmp_path)
    assert not (tmp_path / "boom").exists()


def test_a_changed_decoder_is_used_at_once_and_nothing_decoded_is_kept(monkeypatch, tmp_path, cifar):
    before = images.cifar100(root=cifar[0])
    real = decode.cifar
    monkeypatch.setattr(decode, "cifar", lambda blobs: real(blobs) | {"x_train": 255 - real(blobs)["x_train"]})
    assert np.array_equal(pixels(images.cifar100(root=cifar[0])), 255 - pixels(before))
    assert not (tmp_path / "cache").exists()


def test_a_folder_may_be_named_from_home(monkeypatch, tmp_path):
    plant_fashion(monkeypatch, tmp_path / "home" / "data")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("KDLIB_CACHE", "~/cache")
    assert places.cache_folder() == tmp_path / "home" / "cache"
    assert images.available("fashion_mnist", root="~/data") and not images.available("fashion_mnist")
    monkeypatch.setenv("KDLIB_DATA", "~/data")
    assert len(images.fashion_mnist(n_test=20).y_train) == 200


def test_one_registry_holds_every_download_with_its_checksum():
    registry = places.registry()
    assert registry.registry_files == [Path(registry.urls[file]).name for file in registry.registry_files]
    listed = {url: md5 for files in places.DOWNLOADS.values() for url, md5 in files.items()}
    assert {registry.urls[file]: md5.removeprefix("md5:") for file, md5 in registry.registry.items()} == listed
    assert Path(registry.abspath) == places.cache_folder() / "downloads"


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 10}, "size must divide 28.*got 10"),
        ({"size": 0}, "size must be an integer of at least 1, got 0"),
        ({"n_train": 9}, r"n_train must be an integer in 10\.\.200, got 9"),
        ({"n_test": 201}, r"n_test must be an integer in 10\.\.200, got 201"),
        ({"n_train": 20.0}, r"n_train must be an integer.*got 20\.0"),
        ({"seed": -1, "n_train": 20}, "seed must be an integer of at least 0, got -1"),
        ({"root": "/no/such/folder"}, "root must be an existing folder, got '/no/such/folder'"),
        ({"root": ""}, "root must be an existing folder, got ''"),
    ],
)
def test_bad_arguments_are_named(monkeypatch, tmp_path, arguments, message):
    plant_fashion(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=message):
        images.fashion_mnist(**({"root": tmp_path} | arguments))


@pytest.mark.parametrize("wrong", ["super 1", [], ["super 1", "super 1"], ["super 1", "dragons"], 3])
def test_bad_superclasses_are_refused_with_the_names_there_are(cifar, wrong):
    with pytest.raises(
        ValueError, match=r"superclasses must be a list of different names among super 0, super 1, .*got"
    ):
        images.cifar100(wrong, root=cifar[0])


def test_other_bad_arguments(monkeypatch):
    with pytest.raises(ValueError, match="name must be one of digits, fashion_mnist, cifar10, cifar100, got 'mnist'"):
        images.available("mnist")
    with pytest.raises(ValueError, match="n_test must leave an image of every class"):
        images.digits(n_test=1797)
    with pytest.raises(ValueError, match=r"n_train must be an integer in 10\.\.1297, got 1298"):
        images.digits(n_train=1298)
    monkeypatch.setenv("KDLIB_DATA", "/no/such/folder")
    with pytest.raises(ValueError, match="KDLIB_DATA must be an existing folder"):
        images.available("cifar10")


# The real thing, where present


@pytest.fixture
def real():
    if not REAL_ROOT or not (Path(REAL_ROOT) / "cifar-100-python" / "train").is_file():
        pytest.skip("no official CIFAR-100 files: KDLIB_DATA names no folder with a subfolder cifar-100-python")
    return Path(REAL_ROOT)


def test_real_superclasses(real):
    names = ["vehicles_1", "large_carnivores", "trees", "household_furniture"]
    task = images.cifar100(names, size=16, root=real)
    assert task.x_train.shape == (10_000, 3, 16, 16) and task.x_test.shape == (2_000, 3, 16, 16)
    assert task.extra["class_names"][:5] == ["bicycle", "bus", "motorcycle", "pickup_truck", "train"]
    assert task.extra["class_names"][10:15] == ["maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"]
    assert torch.bincount(task.y_train).tolist() == [500] * 20


def test_real_pixels_are_standardised(real):
    x = store.load("cifar100", real)["x_train"]
    for channel, (mean, std) in enumerate(zip(*images.PIXELS["cifar100"], strict=True)):
        counts, values = np.bincount(x[:, channel].ravel(), minlength=256), np.arange(256) / 255
        found = np.average(values, weights=counts)
        assert abs(found - mean) < 1e-4
        assert abs(np.sqrt(np.average((values - found) ** 2, weights=counts)) - std) < 1e-4


def test_real_fashion_mnist_of_debian(monkeypatch):
    if not REAL_DEBIAN.is_dir():
        pytest.skip(f"no {REAL_DEBIAN}: Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(places, "DEBIAN", REAL_DEBIAN)
    assert images.available("fashion_mnist")
    task = images.fashion_mnist()
    assert task.x_train.shape == (60_000, 1, 28, 28) and task.x_test.shape == (10_000, 1, 28, 28)
    assert torch.bincount(task.y_train).tolist() == [6000] * 10
    assert abs(float(task.x_train.mean())) < 1e-3 and abs(float(task.x_train.std()) - 1) < 1e-3
    assert task.extra["class_names"][int(task.y_train[0])] == "Ankle boot"
