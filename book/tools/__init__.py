"""From source to proof: the book's own tooling.

    python -m book.tools book        run the chapters that changed, build the pages, say where the first one is
    python -m book.tools check       judge what the last build produced (budgets, errors, claims, alt text, pages)
    python -m book.tools claims      compare the claims with book/claims.yml; --write records them
    python -m book.tools export FORMAT   write the built book as one file: offline (zip), epub or pdf
    python -m book.tools run         run chapters only, in any profile
    python -m book.tools calibrate   compare this machine with the one whose seconds the budgets stand in
    python -m book.tools lint        check the code cells and the headers of the chapters
    python -m book.tools lab         open JupyterLab on the chapters

The path a chapter takes, one module per step:

1. ``execute``   Markdown -> notebook (jupytext) -> executed notebook (papermill, by ``worker`` and ``kernel``, in a group of
   ``processes`` that ends as one), stored with what it cost (``calibration``) and a key (``keys``, ``imports``) of all that
   its result depends on and no more, so that a chapter runs again only when it must.
2. ``gates``     reads executed notebooks and built pages and lists what is wrong with them; ``budgets`` what was too dear.
3. ``pages``     puts the executed notebooks into jupyter-cache and lets Jupyter Book build strictly from there.

4. ``offline``, ``epub`` and ``pdf`` make one file of the built pages, the latter two by way of ``documents``.

Everything made on the way lies under ``_build/``; deleting that folder loses time and nothing else.
"""
