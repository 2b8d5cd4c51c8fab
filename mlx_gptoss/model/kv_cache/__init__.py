"""KV cache: keys and values of the tokens so far; no attention, no weights.

slabs.py     slots of one capacity: per layer an array of keys and one of values
pool.py      the slabs of all layers, shared by the rows of a batch
cache.py     one sequence, a row of a pool: snapshots, segments, rewinding
base.py      the first tokens of several rows, stored once
window.py    rings: the last keys of a window layer
batch.py     one forward pass: its rows in the order of their slots
chunk.py     the new tokens of one row
spans.py     what rows attend to, as views of slabs
snapshot.py  copies that are kept: `Snapshot` and `Segment`

A full layer keeps every key and can be trimmed. A window layer keeps the last `window`
keys; older ones are gone, but its state can be saved and restored. Take a `snapshot()`
at an offset, or `request_snapshots` before a chunk passes several, and `restore()`
returns there without another prefill. Keys and values of the full layers can be copied
out as a `Segment`; `rebuild` puts segments and a snapshot into a cache and so reaches
any offset.
"""

from mlx_gptoss.model.kv_cache.batch import PackedRows
from mlx_gptoss.model.kv_cache.cache import KVCache
from mlx_gptoss.model.kv_cache.chunk import RowChunk
from mlx_gptoss.model.kv_cache.pool import KVPool
from mlx_gptoss.model.kv_cache.snapshot import (
    KeysValues,
    LayerState,
    Segment,
    Snapshot,
)
from mlx_gptoss.model.kv_cache.spans import Span, Spans

__all__ = [
    "KVCache",
    "KVPool",
    "KeysValues",
    "LayerState",
    "PackedRows",
    "RowChunk",
    "Segment",
    "Snapshot",
    "Span",
    "Spans",
]
