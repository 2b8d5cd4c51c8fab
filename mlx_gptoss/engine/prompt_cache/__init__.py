"""The prompt cache: prefix trees of computed prompts, in memory and on disk.

cache.py            lease KV caches that start from the longest known prefix
lazy.py             opened on first use, saved at the end
lease.py            exclusive use of one KV cache
tree.py             a prefix tree over token ids
known_prompts.py    the prefix tree and the files of each adapter
live_cache.py       a KV cache and its path in the tree
live_caches.py      all of them: restore a known prefix, copy out what one holds
snapshot_points.py  where snapshots are taken
eviction.py         least recently used first
disk.py             what is written to disk, and when
files.py            the files of one model; file_format.py: one file
folder.py           the files of all models: size, removal
digest.py           what the files are valid for
options.py          limits
background.py       prefill ahead in idle time
statistics.py       figures
"""

from mlx_gptoss.engine.prompt_cache.background import BackgroundPrefill
from mlx_gptoss.engine.prompt_cache.cache import PromptCache
from mlx_gptoss.engine.prompt_cache.digest import cache_digest
from mlx_gptoss.engine.prompt_cache.files import MIN_FILE_TOKENS, PromptFiles
from mlx_gptoss.engine.prompt_cache.folder import clear_files, shrink_files
from mlx_gptoss.engine.prompt_cache.lazy import LazyPromptCache
from mlx_gptoss.engine.prompt_cache.lease import CacheLease, PinnedLease
from mlx_gptoss.engine.prompt_cache.options import CacheOptions
from mlx_gptoss.engine.prompt_cache.statistics import CacheSize, CacheStatistics

__all__ = [
    "MIN_FILE_TOKENS",
    "BackgroundPrefill",
    "CacheLease",
    "CacheOptions",
    "CacheSize",
    "CacheStatistics",
    "LazyPromptCache",
    "PinnedLease",
    "PromptCache",
    "PromptFiles",
    "cache_digest",
    "clear_files",
    "shrink_files",
]
