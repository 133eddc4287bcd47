"""Atomic writes: whole or not at all, the file's mode and its links kept, nothing left behind."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from kdlib import _files


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "it.txt"
    path.write_text("old", "utf-8")
    return path


def test_content_is_replaced_and_nothing_else_is_left(old):
    _files.write_text(old, "né\r\n")
    assert old.read_bytes() == "né\r\n".encode() and os.listdir(old.parent) == ["it.txt"]


def test_readers_see_the_old_file_until_the_block_ends(old):
    with _files.replacing(old) as part:
        part.write_text("new", "utf-8")
        assert old.read_text("utf-8") == "old"
        assert part.parent == old.parent and part.suffix == ".txt"  # a rename, and the name that writers go by
    assert old.read_text("utf-8") == "new"


@pytest.mark.parametrize("bits", [0o600, 0o644, 0o664, 0o755, 0o444])
def test_an_old_file_keeps_its_mode(old, bits):
    old.chmod(bits)
    _files.write_text(old, "new")
    assert mode(old) == bits


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_gets_what_the_umask_leaves(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        _files.write_text(tmp_path / "deep" / "new.txt", "new")
    finally:
        os.umask(before)
    assert mode(tmp_path / "deep" / "new.txt") == expected


def test_a_link_stays_a_link(old, tmp_path):
    link = tmp_path / "elsewhere" / "link.txt"
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(old, link.parent))
    _files.write_text(link, "new")
    assert link.is_symlink() and old.read_text("utf-8") == "new" and os.listdir(link.parent) == ["link.txt"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    _files.write_text("~/runs/new.txt", "new")
    assert (tmp_path / "runs" / "new.txt").read_text("utf-8") == "new"
    assert _files.resolved("~/runs") == (tmp_path / "runs").resolve()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError("no"), OSError(errno.ENOSPC, "No space left")])
def test_whatever_goes_wrong_the_old_file_stays_alone(old, raised):
    with pytest.raises(type(raised) if isinstance(raised, Exception) else raised), _files.replacing(old) as part:
        part.write_text("half", "utf-8")
        raise raised
    assert old.read_text("utf-8") == "old" and os.listdir(old.parent) == ["it.txt"]


def test_a_full_disk_names_the_file_and_not_the_temporary_one(old):
    message = r"cannot write .*it\.txt: No space left on device"
    with pytest.raises(OSError, match=message) as caught, _files.replacing(old):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "something.part")
    assert caught.value.errno == errno.ENOSPC and ".part" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_named(old):
    with pytest.raises(OSError, match=r"cannot write .*it\.txt/new"):
        _files.write_text(old / "new", "new")  # a file where a folder should be
    with pytest.raises(OSError, match=r"cannot write .*: it is no regular file"):
        _files.write_text(old.parent, "new")
    assert os.listdir(old.parent) == ["it.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(old):
    old.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match=r"cannot write .*new\.txt: Permission denied"):
            _files.write_text(old.parent / "new.txt", "new")
    finally:
        old.parent.chmod(0o755)


def test_durable_content_is_flushed_before_it_is_moved(old, monkeypatch):
    done = []
    fsync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("flushed"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("moved"), move(*paths)))
    with _files.replacing(old) as part:
        part.write_text("one", "utf-8")
    with _files.replacing(old, durable=True) as part:
        part.write_text("two", "utf-8")
    assert done == ["moved", "flushed", "moved", "flushed"] and old.read_text("utf-8") == "two"
