"""A path, `demo` or a Hub id -> a local folder. The only door to the network.

folders.py  what lies on this machine: names, paths, completeness, kinds
cache.py    the Hub and its cache: resolve, pull, list, delete
ggufs.py    GGUF files, which can only be converted
errors.py   what the hub library raises -> one line that says what to do
"""

from mlx_gptoss.hub.cache import Check, Hub, Progress, resolve
from mlx_gptoss.hub.folders import (
    DEMO,
    LocalModel,
    is_complete,
    is_path,
    local_folder,
)

__all__ = [
    "DEMO",
    "Check",
    "Hub",
    "LocalModel",
    "Progress",
    "is_complete",
    "is_path",
    "local_folder",
    "resolve",
]
