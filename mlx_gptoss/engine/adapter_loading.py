"""Read adapters and add them to a runtime.

    load_adapters(runtime, parse_adapters(["french=./fr"]), offline=True)

The files are read and checked in a thread of their own, so that running requests wait
for no disk.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mlx_gptoss.checkpoint.adapters import open_adapter, read_adapter
from mlx_gptoss.engine.adapter_source import AdapterSource, find_adapter, first_active
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.format.config import ModelConfig


def load_adapters(
    runtime: Runtime, sources: Iterable[AdapterSource], *, offline: bool
) -> None:
    """Add adapters to a runtime; the one given without a name becomes active.

    Raises HubError for one that is not found, CheckpointError for one that is damaged
    or of another model, and MemoryBudgetError for one that does not fit.
    """
    sources = tuple(sources)
    for source in sources:
        folder = find_adapter(source, offline=offline)
        load_adapter(runtime, folder, source.name, source.scale)
    if sources:
        runtime.use_adapter(first_active(sources))


def starts_with_harmony(
    sources: Sequence[AdapterSource], config: ModelConfig, *, offline: bool
) -> bool:
    """Whether the adapter that will be active first was trained on Harmony.

    Reads its header only. Raises HubError and CheckpointError as `load_adapters` does.
    """
    active = first_active(sources)
    return any(
        open_adapter(find_adapter(source, offline=offline), config).teaches_harmony
        for source in sources
        if source.name == active
    )


def load_adapter(runtime: Runtime, folder: Path, name: str, scale: float = 1.0) -> None:
    """Read the adapter in a folder and add it under a name, which it may replace."""
    thread, config = EngineThread("reading an adapter"), runtime.config
    try:
        adapter = thread.call(read_adapter, folder, config, name=name, scale=scale)
    finally:
        thread.close()
    runtime.add_adapter(adapter)
