"""Never read a prompt twice: a prefix tree of what was read, in memory and on disk.

`tree` holds tokens, `live` the caches in use, `cache` puts them together; `files` is
the part on disk, `digest` what its files are valid for, `options` say how much is
kept; `reading` generates with it.
"""

from mlx_gptoss.engine.prompt_cache.cache import (
    CacheSize,
    CacheStatistics,
    Lease,
    PromptCache,
)
from mlx_gptoss.engine.prompt_cache.digest import cache_digest
from mlx_gptoss.engine.prompt_cache.files import (
    WORTH_A_FILE,
    PromptFiles,
    forget_files,
    shrink_files,
)
from mlx_gptoss.engine.prompt_cache.generation import CachedGeneration, Preparation
from mlx_gptoss.engine.prompt_cache.options import CacheOptions

__all__ = [
    "WORTH_A_FILE",
    "CacheOptions",
    "CacheSize",
    "CacheStatistics",
    "CachedGeneration",
    "Lease",
    "Preparation",
    "PromptCache",
    "PromptFiles",
    "cache_digest",
    "forget_files",
    "shrink_files",
]
