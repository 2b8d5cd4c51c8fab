"""A prompt cache on a folder of files, and prompts to put there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.prompt_cache import (
    BackgroundPrefill,
    PromptCache,
    PromptFiles,
)
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors

END = 9
SYSTEM = [*range(20, 35), END]
ASK = [*range(40, 52), END]
OTHER = [*range(60, 66), END]
ROOMY = 10**9


def small_model() -> GptOss:
    """A model of three layers with random weights, always the same."""
    config = hf_config(num_hidden_layers=3)
    return build(config, random_tensors(config, seed=5))


def files(
    model: GptOss, root: Path, cap: int = ROOMY, digest: str = "d"
) -> PromptFiles:
    return PromptFiles(root, digest, model.config, mx.float32, cap)


def opened(model: GptOss, root: Path, **options: Any) -> PromptCache:
    """Open a cache on a folder, as a new process would."""
    on_disk = files(model, root, **options)
    return PromptCache(model.make_pool(), message_ends=[END], files=on_disk)


def prepare(model: GptOss, cache: PromptCache, ids: Sequence[int]) -> None:
    work = BackgroundPrefill(model, cache, ids, chunk=11)
    while work.step():
        pass


def stored(model: GptOss, root: Path, *prompts: Sequence[int]) -> list[Path]:
    cache = opened(model, root)
    for ids in prompts:
        prepare(model, cache, ids)
    return sorted(root.glob("*/*.safetensors"))


def ask(model: GptOss, cache: PromptCache, ids: Sequence[int]) -> tuple[int, mx.array]:
    """Read a prompt; return how much was known, and the logits of its end."""
    with cache.acquire(ids) as lease:
        part = list(ids[lease.cached_tokens :])
        logits = model(mx.array([part]), lease.cache)[0, -1]
        mx.eval(logits)
        lease.record(part)
        return lease.cached_tokens, logits
