"""KV cache: keys and values of the tokens so far; no attention, no weights.

`FullCache` keeps every key and can be trimmed. `WindowCache` keeps the last `window`
keys; older ones are gone, but its state can be saved and restored. `KVCache` holds one
or the other per layer. Take a `snapshot()` at an offset, or `request_snapshots` before
a chunk passes several, and `restore()` returns there without another prefill. Keys and
values of the full layers can be copied out as a `Segment`; `rebuild` puts segments and
a snapshot into a cache and so reaches any offset.
"""

from mlx_gptoss.model.kv_cache.cache import KVCache, stack_caches
from mlx_gptoss.model.kv_cache.full import GROWTH, FullCache
from mlx_gptoss.model.kv_cache.snapshot import (
    KeysValues,
    LayerState,
    Segment,
    Snapshot,
)
from mlx_gptoss.model.kv_cache.window import WindowCache

__all__ = [
    "GROWTH",
    "FullCache",
    "KVCache",
    "KeysValues",
    "LayerState",
    "Segment",
    "Snapshot",
    "WindowCache",
    "stack_caches",
]
