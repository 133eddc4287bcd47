"""A chapter runs in the tools' own Python with its checkout's own kdlib, whatever the reader's surroundings say."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from book.tools import execute
from book.tools.processes import surroundings

from .tinybook import ROOT, TinyBook, cell

TELL = """import json
import os
import sys

import matplotlib as mpl
import torch

import kdlib
from kdlib import x

facts = {
    "python": sys.executable,
    "kdlib": [kdlib.__file__, x.__file__],
    "optimised": sys.flags.optimize,
    "usetex": mpl.rcParams["text.usetex"],
    "inline": "inline" in mpl.get_backend(),
    "dtype": str(torch.get_default_dtype()),
    "planted": "planted" in globals(),
    "data": os.environ["KDLIB_DATA"],
    "cache": os.environ["KDLIB_CACHE"],
    "user site": [p for p in sys.path if "foreign" in p],
}
assert not os.environ.get("asserted"), "assertions count"
print(json.dumps(facts))"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf8")
    return path


@pytest.mark.slow
def test_nothing_of_the_readers_own_reaches_a_chapter(tmp_path):
    tiny, foreign = TinyBook(tmp_path / "book"), tmp_path / "foreign"
    tiny.chapter("a", cell(TELL))
    argv = ["/usr/bin/env", "-i", "/bin/false", "{connection_file}"]
    spec = {"argv": argv, "display_name": "x", "language": "python"}
    write(foreign / "jupyter/kernels/python3/kernel.json", json.dumps(spec))
    write(foreign / "packages/kdlib/__init__.py", "raise ImportError('a foreign kdlib')")
    write(foreign / "packages/kdlib/x.py", "")
    write(foreign / "packages/sitecustomize.py", "import builtins; builtins.planted = 1")
    rc = write(foreign / "matplotlib/matplotlibrc", "text.usetex: True\n")
    planted = "import torch; torch.set_default_dtype(torch.float64); planted = True\n"
    startup = write(foreign / "ipython/profile_default/startup/00.py", planted)
    write(foreign / "ipython/profile_default/ipython_kernel_config.py", "c.IPKernelApp.exec_lines = ['planted = 1']")
    other = {
        "JUPYTER_PATH": str(foreign / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "IPYTHONDIR": str(foreign / "ipython"),
        "PYTHONPATH": f"{foreign / 'packages'}{os.pathsep}{ROOT}",
        "PYTHONSTARTUP": str(startup),
        "PYTHONOPTIMIZE": "2",
        "MATPLOTLIBRC": str(rc),
        "XDG_CONFIG_HOME": str(foreign),
        "MPLBACKEND": "module://nowhere",
        "HOME": "/dev/null",
        "KDLIB_DATA": "some/../data",
        "KDLIB_CACHE": "~/cache",
    }
    command = [sys.executable, "-m", "book.tools", "--root", str(tiny.root), "run", "--profile", "smoke", "part/a"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | other, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (chapter,) = (tiny.root / "_build").rglob("a.ipynb")
    text = "".join(o.get("text", "") for c in nbformat.read(chapter, 4).cells for o in c.get("outputs", []))
    own = tiny.root / "kdlib"
    assert json.loads(text) == {
        "python": sys.executable,
        "kdlib": [str(own / "__init__.py"), str(own / "x.py")],
        "optimised": 0,
        "usetex": False,
        "inline": True,
        "dtype": "torch.float32",
        "planted": False,
        "data": str(ROOT / "data"),
        "cache": "/dev/null/cache",
        "user site": [],
    }


def test_a_root_without_the_library_is_refused(tmp_path):
    tiny = TinyBook(tmp_path)
    (tiny.root / "kdlib" / "__init__.py").unlink()
    with pytest.raises(ValueError, match=r"has no kdlib of its own; its chapters would run with another, of ") as told:
        execute.run_chapters(tiny.root, "smoke")
    assert str(tiny.root) in str(told.value) and sys.prefix in str(told.value)


def test_what_is_not_ours_to_change_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    around = surroundings(tmp_path, tmp_path / "scratch")
    assert around["OMP_NUM_THREADS"] == "1" and around["CUDA_VISIBLE_DEVICES"] == "3"
    assert "PYTHONWARNINGS" not in around and around["PATH"] == os.environ["PATH"]


def test_a_root_may_be_named_by_a_tilde(tmp_path, monkeypatch):
    tiny = TinyBook(tmp_path / "book")
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.root = "~/book"
    assert tiny.call("claims")[1].startswith("part/a has not been run in profile 'page'")
