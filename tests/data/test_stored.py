"""Stored logits: what comes back, by which key, with what error, and which files are refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from kdlib.data import stored_logits
from kdlib.data.stored import StoredLogits
from kdlib.levels.split import topk_targets
from kdlib.losses import kd_loss

KINDS: dict[str, dict[str, int]] = {"full": {}, "top": {"top": 3}, "draws": {"draws": 12}}


def teacher(n: int = 40, k: int = 7, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Ids that are no positions, and logits."""
    g = torch.Generator().manual_seed(seed)
    return torch.randperm(10 * n, generator=g)[:n] - 3 * n, scale * torch.randn(n, k, generator=g)


def shuffled(ids: Tensor, seed: int = 1) -> Tensor:
    return torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 9), st.floats(0.1, 300), st.sampled_from([1.0, 4.0]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_full_rows_come_back_by_id_within_the_stated_error(
    tmp_path: Path, seed: int, n: int, k: int, scale: float, T: float
) -> None:
    ids, logits = teacher(n, k, seed, scale)
    cut = seed % (n + 1)
    parts = [(ids[:cut], logits[:cut]), (ids[cut:], logits[cut:])]
    store = stored_logits(tmp_path / "teacher", parts, temperature=T)
    order = shuffled(ids, seed)
    found, expected = store.logits(ids[order]).double(), (logits[order].double() / T).log_softmax(1)
    assert (len(store), store.kind, store.num_classes, store.temperature) == (n, "full", k, T)
    assert ((found - expected).abs() <= 2.0**-11 * expected.abs() + 1e-6).all()
    assert ids.tolist() != sorted(ids.tolist()) or n < 9


@pytest.mark.parametrize("kind", KINDS)
def test_a_shuffled_batch_meets_its_own_rows(tmp_path: Path, kind: str) -> None:
    ids, logits = teacher()
    store = stored_logits(tmp_path / "teacher", [(ids, logits)], **KINDS[kind])
    order = shuffled(ids)
    torch.testing.assert_close(store.logits(ids[order]), store.logits(ids)[order], rtol=0, atol=0)
    assert not torch.equal(store.logits(ids[order]), store.logits(ids))
    twice = torch.cat([ids[:2], ids[:2]])
    torch.testing.assert_close(store.logits(twice)[:2], store.logits(twice)[2:], rtol=0, atol=0)
    assert store.logits(ids[:0]).shape == (0, 7)
    again = stored_logits(tmp_path / "teacher")
    torch.testing.assert_close(again.logits(ids), store.logits(ids), rtol=0, atol=0)
    assert (again.kind, again.width) == (kind, {"full": 7, "top": 3, "draws": 12}[kind])


def test_a_generator_writes_the_file_that_a_list_writes(tmp_path: Path) -> None:
    ids, logits = teacher()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(ids.split(9), logits.split(9), strict=True)

    for kind, setting in KINDS.items():
        stored_logits(tmp_path / f"{kind} a", list(batches()), **setting)
        stored_logits(tmp_path / f"{kind} b", batches(), length=40, **setting)
        assert (tmp_path / f"{kind} a").read_bytes() == (tmp_path / f"{kind} b").read_bytes()


class TestTop:
    def test_spread_evenly_it_is_kd_topk(self, tmp_path: Path) -> None:
        ids, logits = teacher()
        store = stored_logits(tmp_path / "teacher", [(ids, logits)], top=3, temperature=2.0)
        probs = (logits / 2).softmax(1)
        torch.testing.assert_close(store.logits(ids).exp(), topk_targets(probs, 3), rtol=0, atol=3e-3)
        torch.testing.assert_close(store.logits(ids).exp().sum(1), torch.ones(40), rtol=1e-6, atol=0)

    def test_renormalised_the_other_classes_are_impossible(self, tmp_path: Path) -> None:
        ids, logits = teacher()
        found = stored_logits(tmp_path / "teacher", [(ids, logits)], top=3).logits(ids, tail="renormalise")
        probs = logits.softmax(1)
        kept = probs >= probs.topk(3).values[:, -1:]
        torch.testing.assert_close(found.exp(), probs * kept / (probs * kept).sum(1, keepdim=True), rtol=4e-3, atol=0)
        assert (found[~kept] == -torch.inf).all()
        assert kd_loss(logits, found, ids * 0, 1.0).isfinite().all()

    def test_all_classes_are_the_table(self, tmp_path: Path) -> None:
        ids, logits = teacher()
        whole, top = (stored_logits(tmp_path / str(i), [(ids, logits)], top=i) for i in (None, 7))
        torch.testing.assert_close(top.logits(ids), whole.logits(ids), rtol=1e-3, atol=1e-5)

    def test_sparse_rows_are_the_largest_classes_in_order(self, tmp_path: Path) -> None:
        ids, logits = teacher()
        classes, probs = stored_logits(tmp_path / "teacher", [(ids, logits)], top=3).sparse(ids)
        values, expected = logits.softmax(1).topk(3)
        assert torch.equal(classes, expected)
        torch.testing.assert_close(probs, values, rtol=5e-3, atol=0)


class TestDraws:
    def test_mean_over_many_is_the_teacher(self, tmp_path: Path) -> None:
        n, s = 20_000, 5
        logits = torch.tensor([[1.5, 0.0, -1.0, -6.0]]).repeat(n, 1)
        store = stored_logits(tmp_path / "teacher", [(torch.arange(n), logits)], draws=s, temperature=2.0)
        p, found = (logits[0] / 2).softmax(0), store.logits(torch.arange(n)).exp()
        z = (found.mean(0) - p) / (p * (1 - p) / (n * s)).sqrt()
        assert z.abs().max() < 4.5
        torch.testing.assert_close(found.var(0), p * (1 - p) / s, rtol=0.1, atol=0)
        torch.testing.assert_close(found * s, (found * s).round(), rtol=0, atol=1e-5)  # counts

    def test_seed_decides(self, tmp_path: Path) -> None:
        ids, logits = teacher()
        rows = [stored_logits(tmp_path / "t", [(ids, logits)], draws=6, seed=seed).sparse(ids)[0] for seed in (0, 0, 1)]
        assert torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[0], rows[2])


def test_impossible_and_extreme_classes(tmp_path: Path) -> None:
    logits = torch.tensor([[0.0, -torch.inf, -1e6, 1e6], [0.0, 0.0, -torch.inf, -torch.inf]])
    for kind, setting in KINDS.items():
        store = stored_logits(tmp_path / kind, [(torch.arange(2), logits)], **setting)
        probs = store.logits(torch.arange(2), tail="renormalise").exp()
        assert probs[0].tolist() == [0, 0, 0, 1], kind
        assert probs[1, 2:].tolist() == [0, 0]
    full = stored_logits(tmp_path / "full").logits(torch.arange(2))
    assert full[0, 1] == -torch.inf and full[0, 2].isfinite()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_floating_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    ids, logits = teacher()
    logits = logits.to(dtype)
    found = stored_logits(tmp_path / "teacher", [(ids, logits)]).logits(ids)
    torch.testing.assert_close(found, logits.float().log_softmax(1), rtol=6e-4, atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_reading_a_few_rows_does_not_load_the_file(tmp_path: Path) -> None:
    stored_logits(
        tmp_path / "teacher",
        ((torch.arange(1000) + i, torch.randn(1000, 2000)) for i in range(0, 16_000, 1000)),
        length=16_000,
    )
    code = (
        "import sys, torch; from kdlib.data import stored_logits\n"
        "def own(): return sum(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(('RssAnon', 'VmSwap'))) * 1024\n"
        "before = own(); store = stored_logits(sys.argv[1], verify=False); store.logits(torch.arange(0, 16000, 1000)); print(own() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "teacher")], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "teacher").stat().st_size > 64e6
    assert int(done.stdout) < 16e6


class TestDamage:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        ids, logits = teacher()
        stored_logits(tmp_path / "teacher", [(ids, logits)], top=3)
        return tmp_path / "teacher"

    @pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
    def test_truncated(self, file: Path, kept: float) -> None:
        blob = file.read_bytes()
        file.write_bytes(blob[: int(kept * len(blob)) if isinstance(kept, float) else kept])
        with pytest.raises(ValueError, match="teacher is damaged, truncated or no file of stored logits"):
            stored_logits(file)

    def test_any_byte_changed_is_noticed(self, file: Path) -> None:
        blob, rng = file.read_bytes(), random.Random(0)
        data = int.from_bytes(blob[:8], "little") + 8
        ids, _ = teacher()
        for position in [*rng.sample(range(data), 200), *rng.sample(range(data, len(blob)), 60)]:
            file.write_bytes(blob[:position] + bytes([blob[position] ^ (1 << rng.randrange(8))]) + blob[position + 1 :])
            try:
                store = stored_logits(file)
            except ValueError as error:
                assert "teacher" in str(error)
                continue
            assert position < data  # a space between the header's words
            assert torch.equal(store.ids, ids.sort().values)
            assert (store.kind, store.width, store.num_classes, store.temperature) == ("top", 3, 7, 1.0)

    def test_without_verifying_the_index_is_still_checked(self, file: Path) -> None:
        blob = file.read_bytes()
        start = int.from_bytes(blob[:8], "little") + 8
        file.write_bytes(blob[:start] + bytes([blob[start] ^ 1]) + blob[start + 1 :])
        with pytest.raises(ValueError, match="checksum of its ids"):
            stored_logits(file, verify=False)
        file.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
        stored_logits(file, verify=False)
        with pytest.raises(ValueError, match="checksum of its log_probs"):
            stored_logits(file)

    def test_foreign_files(self, tmp_path: Path) -> None:
        save_file({"weight": torch.zeros(3, 3)}, tmp_path / "model", metadata={"format": "pt"})
        with pytest.raises(ValueError, match="model is no file of stored logits: its format is 'pt'"):
            stored_logits(tmp_path / "model")
        torch.save({"logits": torch.zeros(3)}, tmp_path / "pickle")
        with pytest.raises(ValueError, match="pickle is damaged, truncated or no file of stored logits"):
            stored_logits(tmp_path / "pickle")
        with pytest.raises(ValueError, match="path must be an existing file"):
            stored_logits(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="path must be an existing file"):
            stored_logits(tmp_path)

    def test_arrays_of_another_file(self, file: Path, tmp_path: Path) -> None:
        blob = file.read_bytes()
        size = int.from_bytes(blob[:8], "little")
        about = json.loads(blob[8 : 8 + size])["__metadata__"]
        assert about["format"].startswith("kdlib")
        save_file({"ids": torch.arange(3), "rows": torch.arange(3)}, tmp_path / "mixed", metadata=about)
        with pytest.raises(ValueError, match="mixed is damaged: its arrays are"):
            stored_logits(tmp_path / "mixed")

    def test_what_fails_leaves_the_old_file_and_nothing_else(self, file: Path) -> None:
        before = file.read_bytes()

        def broken() -> Iterator[tuple[Tensor, Tensor]]:
            yield torch.arange(2), torch.zeros(2, 4)
            raise RuntimeError("the teacher fell over")

        with pytest.raises(RuntimeError, match="fell over"):
            stored_logits(file, broken(), length=4)
        assert file.read_bytes() == before
        assert os.listdir(file.parent) == ["teacher"]

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device to write to")
    def test_full_disk(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            stored_logits(file, [teacher()])
        assert os.listdir(file.parent) == ["teacher"]


IDS, LOGITS = torch.arange(3), torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("batches", "settings", "words"),
    [
        ([(IDS.float(), LOGITS)], {}, ["ids", "int64", "float32"]),
        ([(IDS[:2], LOGITS)], {}, ["logits", "(2, 4)", "(3, 4)"]),
        ([(IDS, LOGITS), (IDS + 3, LOGITS[:, :3])], {}, ["logits", "(3, 4)", "(3, 3)"]),
        ([(IDS, LOGITS.long())], {}, ["logits", "floating-point", "int64"]),
        ([(IDS, LOGITS[0])], {}, ["logits", "(4,)"]),
        ([(IDS, LOGITS), (IDS + 2, LOGITS)], {}, ["ids", "different", "1", "2"]),
        ([(IDS, LOGITS + torch.nan)], {}, ["logits", "finite", "3"]),
        ([(IDS, LOGITS + torch.inf)], {}, ["logits", "finite", "3"]),
        ([(IDS, LOGITS - torch.inf)], {}, ["logits", "finite", "3"]),
        ([], {}, ["batches", "at least one"]),
        (iter([(IDS, LOGITS)]), {}, ["length", "None"]),
        (iter([(IDS, LOGITS)]), {"length": 2}, ["length", "2", "3"]),
        (iter([(IDS, LOGITS)]), {"length": 4}, ["length", "4", "3"]),
        ([(IDS, LOGITS)], {"top": 5}, ["top", "4", "5"]),
        ([(IDS, LOGITS)], {"top": 0}, ["top", "at least 1", "0"]),
        ([(IDS, LOGITS)], {"draws": 0}, ["draws", "at least 1", "0"]),
        ([(IDS, LOGITS)], {"draws": 3, "top": 2}, ["top", "draws", "2", "3"]),
        ([(IDS, LOGITS)], {"temperature": 0.0}, ["temperature", "positive", "0.0"]),
        (None, {"top": 2}, ["batches", "None", "top"]),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, batches: Any, settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        stored_logits(tmp_path / "teacher", batches, **settings)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert os.listdir(tmp_path) == []


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path must lie in an existing folder"):
        stored_logits(tmp_path / "no" / "teacher", [teacher()])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.logits(torch.tensor([10**6, -400])), ["ids", "teacher", "2", "1000000"]),
        (lambda s: s.logits(torch.zeros(2)), ["ids", "int64", "float32"]),
        (lambda s: s.logits(torch.zeros(2, 2, dtype=torch.int64)), ["ids", "(any,)", "(2, 2)"]),
        (lambda s: s.logits(s.ids, tail="other"), ["tail", "'other'"]),
        (lambda s: s.sparse(s.ids), ["teacher", "full"]),
    ],
)
def test_bad_requests_are_named(tmp_path: Path, call: Any, words: list[str]) -> None:
    store: StoredLogits = stored_logits(tmp_path / "teacher", [teacher()])
    with pytest.raises(ValueError) as error:
        call(store)
    assert all(word in str(error.value) for word in words), str(error.value)
