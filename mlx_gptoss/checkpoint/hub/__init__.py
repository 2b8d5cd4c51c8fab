"""Model names to local folders; the only code that accesses the network.

local_models.py   `demo`, paths and Hub ids; which models are complete
cache.py          Hub: resolve, pull, list and delete models
repo_listing.py   a repository's commit and files, and which are needed
download.py       download files into the cache: lock, resume, check, link
transfer.py       download one file, resuming it
ranges.py         one HTTP range request
retries.py        which errors are retried, and when
partial_file.py   the part of a file on disk, and its hash
repo_folder.py    a repository's folder in the cache, in the hub library's layout
cached_models.py  list the models in the cache
library.py        the hub library, and its own download
gguf.py           find and download GGUF files of the Hub
gguf_files.py     which GGUFs are models, and the command that converts one
other_apps.py     names of models of other applications
ollama_models.py  those of Ollama
lm_studio_models.py  those of LM Studio
adapters.py       adapters (LoRA), which are loaded with a model
errors.py         the hub library's exceptions as HubError
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
