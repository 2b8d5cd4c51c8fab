"""Notebooks for tests: small ones, skipped where the system isolates nothing."""

import psutil
import pytest

from mlx_gptoss.chat.tools.notebook import Limits, Notebook
from mlx_gptoss.errors import ToolError

MB = 1 << 20
SMALL = Limits(memory=256 * MB, drive_bytes=8 * MB, seconds=1)


def open_notebook(limits: Limits) -> Notebook:
    try:
        return Notebook(limits)
    except ToolError as error:
        pytest.skip(str(error))


def kernel_of(notebook: Notebook) -> psutil.Process:
    assert notebook._process is not None
    return psutil.Process(notebook._process._watch.pid)
