"""Atomic writes: a reader sees the old file or the new one, never half of one, and a failed write leaves nothing."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def resolved(path: str | os.PathLike[str]) -> Path:
    """The file that `path` means: `~` expanded, links followed, absolute; it need not exist."""
    return Path(os.path.realpath(os.path.expanduser(path)))


@contextmanager
def replacing(path: str | os.PathLike[str], durable: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` to write to, moved to `path` when the block ends; folders are made as needed.

    An old file keeps its mode and a link stays a link; a new file gets the mode that the umask leaves. Whatever goes wrong,
    an interrupt included, the temporary file is removed and the old file untouched. `durable` waits until the content is
    on the disk (fsync), for what must survive a power cut.

    Raises OSError naming `path` where it cannot be written: no room, no permission, a folder in its place.
    """
    target = resolved(path)
    part = target.with_name(f".{target.stem[:100]}.{uuid.uuid4().hex[:12]}.part{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            raise OSError("it is no regular file")
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        if mode is not None:
            part.chmod(stat.S_IMODE(mode))
        if durable:
            _flush(part)
        os.replace(part, target)
        if durable:
            with suppress(OSError):  # not every file system can flush a folder
                _flush(target.parent)
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace `path` by `content`, atomically. Raises OSError naming `path`."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace `path` by `text` in UTF-8, atomically, line ends as they are. Raises OSError naming `path`."""
    write_bytes(path, text.encode("utf-8"))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot(path: str | os.PathLike[str], error: OSError) -> OSError:
    why = f"cannot write {os.fspath(path)}: {error.strerror or error}"
    return OSError(why) if error.errno is None else OSError(error.errno, why)
