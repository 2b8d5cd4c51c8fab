"""Small notebooks for tests, skipped where the system cannot isolate them."""

import psutil
import pytest

from mlx_gptoss.chat.tools.notebook import Notebook, NotebookLimits
from mlx_gptoss.errors import ToolError

MB = 1 << 20
SMALL = NotebookLimits(memory=256 * MB, drive_bytes=8 * MB, seconds=1)


def open_notebook(limits: NotebookLimits) -> Notebook:
    try:
        return Notebook(limits)
    except ToolError as error:
        pytest.skip(str(error))


def kernel_of(notebook: Notebook) -> psutil.Process:
    assert notebook._process is not None
    return psutil.Process(notebook._process._monitor.pid)
