"""Never read a prompt twice: a prefix tree of what was read, in memory and on disk.

`tree` holds tokens, `live` the caches in use, `cache` puts them together; `files` is
the part on disk, `digest` what its files are valid for, `options` say how much is
kept; `reading` generates with it.
"""

from mlx_gptoss.engine.prompt_cache.cache import (
    CacheLease,
    CacheSize,
    CacheStatistics,
    PromptCache,
)
from mlx_gptoss.engine.prompt_cache.digest import cache_digest
from mlx_gptoss.engine.prompt_cache.files import (
    MIN_FILE_TOKENS,
    PromptFiles,
    clear_files,
    shrink_files,
)
from mlx_gptoss.engine.prompt_cache.generation import (
    BackgroundPrefill,
    CachedGeneration,
)
from mlx_gptoss.engine.prompt_cache.options import CacheOptions

__all__ = [
    "MIN_FILE_TOKENS",
    "BackgroundPrefill",
    "CacheLease",
    "CacheOptions",
    "CacheSize",
    "CacheStatistics",
    "CachedGeneration",
    "PromptCache",
    "PromptFiles",
    "cache_digest",
    "clear_files",
    "shrink_files",
]
