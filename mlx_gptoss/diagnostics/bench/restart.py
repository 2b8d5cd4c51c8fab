"""Time a long prompt after a restart: prefilled again, or loaded from disk.

One runtime prefills the prompt and writes it to disk in idle time; a new runtime then
generates one token behind it. Times are to that token, with files in the page cache.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.prompt_cache import CacheOptions, PromptFiles, cache_digest
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.files import scratch, temporary_folder

ROOM_ON_DISK = 2**40  # bytes: no cap
ONE_TOKEN = SamplingParams(temperature=0, max_tokens=1)


@dataclass(frozen=True)
class Restart:
    """Seconds to the first token behind `tokens`, and the bytes on disk."""

    tokens: int
    read_s: float
    load_s: float
    file_bytes: int

    @property
    def gain(self) -> float:
        return self.read_s / self.load_s


def bench_restart(
    model: LanguageModel, checkpoint: Checkpoint, dtype: mx.Dtype, ids: Sequence[int]
) -> Restart:
    """Time both ways for the prompt `ids`, with temporary files."""
    with scratch(temporary_folder()) as folder:
        options = CacheOptions(disk=ROOM_ON_DISK, folder=folder)

        def files(options: CacheOptions) -> PromptFiles:
            digest = cache_digest(checkpoint, dtype)
            cap = options.disk_bytes
            return PromptFiles(options.root, digest, checkpoint.config, dtype, cap)

        def fresh() -> Runtime:
            return Runtime(model, cache=options, files=files)

        with fresh() as runtime:
            read_s = _first_token(runtime, ids)
            ahead = runtime.prepare(ids)
            assert ahead is not None
            ahead.result()
            file_bytes = runtime.cache_statistics.disk_bytes
        with fresh() as runtime:
            load_s = _first_token(runtime, ids)
    return Restart(len(ids), read_s, load_s, file_bytes)


def _first_token(runtime: Runtime, ids: Sequence[int]) -> float:
    list(runtime.generate(ids[:2], ONE_TOKEN))  # warms up; not cached
    start = time.perf_counter()
    list(runtime.generate(ids, ONE_TOKEN, reuse=True))
    return time.perf_counter() - start
