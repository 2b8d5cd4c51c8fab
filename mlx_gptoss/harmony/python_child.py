"""Start another Python that finds this package, also from within an app."""

import json
import os
import sys
from multiprocessing import spawn

import mlx_gptoss

HOME = os.path.dirname(os.path.dirname(mlx_gptoss.__file__))


def python_executable() -> str:
    """Return the Python to start; an app that bundles one calls `set_executable`."""
    found = spawn.get_executable()
    if not found:
        raise OSError(
            "no Python executable is known: call `multiprocessing.set_executable`"
        )
    return os.fsdecode(found)


def search_path() -> str:
    """Return `sys.path` as JSON, with the folder of this package."""
    return json.dumps([*(one for one in sys.path if isinstance(one, str)), HOME])
