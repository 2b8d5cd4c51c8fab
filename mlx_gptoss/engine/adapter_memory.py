"""The memory of adapters, before they are loaded from the headers of their files."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.checkpoint.adapters import StoredAdapter, open_adapter
from mlx_gptoss.engine.adapter_source import AdapterSource, find_adapter
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.adapters import Ranks, adapter_bytes
from mlx_gptoss.model.adapters import Adapter
from mlx_gptoss.model.device import on_gpu


def measure_adapters(
    sources: Sequence[AdapterSource],
    config: ModelConfig,
    *,
    offline: bool,
    float_bytes: int,
) -> int:
    """Return the bytes that adapters will take beside a model; may download them.

    Raises HubError for one that is not found, and CheckpointError for one that is
    damaged or of another model.
    """
    folders = [find_adapter(source, offline=offline) for source in sources]
    return measure_folders(folders, config, float_bytes=float_bytes)


def adapter_dtype(dtype: mx.Dtype) -> mx.Dtype:
    """Return the dtype of adapters beside a model that computes in `dtype`."""
    return dtype if on_gpu() else mx.float32  # of gathered products on a CPU


def measure_folders(
    folders: Sequence[Path], config: ModelConfig, *, float_bytes: int
) -> int:
    """Return the bytes that the adapters in these folders will take together."""
    ranks = [stored_ranks(open_adapter(folder, config)) for folder in folders]
    return adapter_bytes(config, ranks, float_bytes=float_bytes)


def stored_ranks(adapter: StoredAdapter) -> Ranks:
    """Return the rank of each update of an adapter on disk."""
    found: dict[str, int] = {}
    for path, pairs in adapter.pairs.items():
        ranks = [pair.rank for pair in pairs]
        apart = pairs[0].part.isdigit()  # experts, each with an update of its own
        found[path] = max(ranks) if apart else sum(ranks)
    return found


def loaded_ranks(adapter: Adapter) -> Ranks:
    """Return the rank of each update of an adapter in memory."""
    return {path: update.rank for path, update in adapter.updates.items()}
