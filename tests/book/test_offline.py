"""The offline edition: one archive, complete, the same bytes each time."""

import zipfile
from pathlib import Path

import pytest

from book.tools import offline


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("index.html", "part/a.html", "_static/look.css", ".buildinfo", "_sources/.cache/x"):
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, "utf8")
    return tmp_path / "site"


def test_every_file_is_in_it_and_hidden_ones_are_not(site: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(offline.write(site, tmp_path / "book.zip")) as packed:
        assert packed.testzip() is None
        names = packed.namelist()
        assert packed.read(f"{offline.FOLDER}/part/a.html") == b"part/a.html"
    assert names == [f"{offline.FOLDER}/{name}" for name in ("_static/look.css", "index.html", "part/a.html")]


def test_the_same_pages_give_the_same_bytes(site: Path, tmp_path: Path) -> None:
    first = offline.write(site, tmp_path / "1.zip").read_bytes()
    (site / "index.html").write_text("index.html", "utf8")  # as it was, at another time
    assert offline.write(site, tmp_path / "2.zip").read_bytes() == first


def test_pages_that_are_not_built_are_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline.pages, "is_current", lambda _root: False)
    with pytest.raises(ValueError, match="make book"):
        offline.pack(tmp_path)
    assert not offline.archive(tmp_path).exists()
