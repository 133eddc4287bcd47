"""The process between the tools and a chapter's kernel.

``python -m book.tools.worker REQUEST`` is started by ``execute`` in a group of its own, to which the kernel and all that
it starts belong too. It leaves the executed notebook, or the reason why there is none, in the folder of the request.
"""

import json
import os
import sys
from pathlib import Path

from .processes import end_with_parent


def main(request: str) -> int:
    """Exit status 0 where `executed.ipynb` is complete; else 1 and the reason in `error.txt`."""
    end_with_parent()  # before anything that takes time
    from . import kernel
    from .contents import Chapter

    asked = json.loads(request)
    folder = Path(asked["folder"])
    os.environ["PYTHONPATH"] = asked["root"]  # the kernel imports the kdlib of the book that it runs
    os.environ["KDLIB_MEASURE_INK"] = "1"  # which then says on stderr what text of its figures is hard to read
    try:
        chapter = Chapter(asked["name"], Path(asked["source"]))
        kernel.run(chapter, asked["parameters"], asked["timeout"], folder / "executed.ipynb")
    except Exception as problem:  # a dead kernel or a bad parameter: of this chapter alone
        (folder / "error.txt").write_text(f"{type(problem).__name__}: {problem}", "utf8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
