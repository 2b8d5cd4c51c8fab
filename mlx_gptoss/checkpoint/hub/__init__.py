"""A path, `demo` or a Hub id -> a local folder. The only door to the network.

folders.py     what lies on this machine: names, paths, completeness, kinds
cache.py       the Hub and its cache: resolve, pull, list, delete
published.py   what the Hub says of a repository, and which files are needed
download.py    those files into the cache: locked, resumed, checked, linked
transfer.py    one file; ranges.py, retries.py, parts.py: what that takes
repos.py       a repository's folder in the cache, laid out as the library does
stored.py      the models that lie there, whole or in part
library.py     the hub library, and its own download
ggufs.py       GGUF files, which can only be converted
errors.py      what the hub library raises -> one line that says what to do
"""

from mlx_gptoss.checkpoint.hub.cache import Hub, ModelCheck, resolve
from mlx_gptoss.checkpoint.hub.download import Progress
from mlx_gptoss.checkpoint.hub.local_models import (
    DEMO,
    LocalModel,
    is_complete,
    is_path,
    local_folder,
)

__all__ = [
    "DEMO",
    "Hub",
    "LocalModel",
    "ModelCheck",
    "Progress",
    "is_complete",
    "is_path",
    "local_folder",
    "resolve",
]
