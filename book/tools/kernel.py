"""Runs one chapter in a kernel that is this very Python and a member of this process's group."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from .contents import Chapter

KERNEL = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")


def check_parameters(inferred: dict[str, Any], given: dict[str, str], name: str) -> None:
    """papermill only warns about a parameter the notebook does not have; here it is an error."""
    if unknown := sorted(set(given) - set(inferred)):
        known = ", ".join(sorted(inferred)) or "none"
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}; its `parameters` cell sets: {known}")
    default = str(inferred.get("profile", {}).get("default", "")).strip("'\"")
    if default != "page":
        raise ValueError(f'{name}: the `parameters` cell must set profile = "page", found {default!r}')


class _Provisioner(LocalProvisioner):
    """Starts the kernel in this process's group; jupyter_client would give it a session, out of reach of who ends us."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        if os.name != "posix":
            return await super().launch_kernel(cmd, **kwargs)
        env = kwargs["env"] | {"JPY_PARENT_PID": str(os.getpid())}
        self.process = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, cwd=kwargs.get("cwd"), env=env)
        self.pid = self.process.pid  # and no group: a signal to it would reach this process too
        return self.connection_info


class Kernel(AsyncKernelManager):
    """A kernel of this very Python, whatever kernels are installed where."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.provisioner = _Provisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=list(KERNEL), display_name="Python 3 (ipykernel)", language="python")


def run(chapter: Chapter, parameters: dict[str, str], timeout: int | None, target: Path) -> None:
    """Run a chapter in its own folder; the executed notebook goes to `target`, also when a cell raised.

    Without parameters the cells that run are exactly the source's cells, which is what jupyter-cache needs.
    """
    plain = target.with_name("source.ipynb")
    nbformat.write(chapter.read(), plain)
    # profile stands for the rest: a page run injects nothing, so its default must be the page profile
    check_parameters(papermill.inspect_notebook(str(plain)), parameters, chapter.name)
    try:
        papermill.execute_notebook(
            str(plain),
            str(target),
            parameters,
            kernel_name="python3",
            kernel_manager_class=Kernel,
            shutdown_kernel="immediate",  # nothing in it is needed any more; asking it nicely takes seconds
            cwd=str(chapter.source.parent),
            progress_bar=False,
            execution_timeout=timeout,
        )
    except papermill.PapermillExecutionError:
        notebook = nbformat.read(target, as_version=4)
        # papermill adds a cell on top that points to the failure; the error itself stays in its own cell
        notebook.cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
        nbformat.write(notebook, target)
