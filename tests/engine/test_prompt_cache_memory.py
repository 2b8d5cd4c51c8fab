"""The slabs of a pool are never copied: peak memory while requests come and go.

A slice of a slab that is held, even a lazy one, makes MLX copy the slab at its next
write. Memory is counted, because the time of a copy depends on the machine.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.prompt_cache import CacheLease, PromptCache
from mlx_gptoss.model.kv_cache import KVCache, KVPool, PackedRows, RowChunk

ROWS, STEPS = 8, 100
PROMPT = 270  # tokens; the slots hold 384
END = 9  # ends a message, so that a snapshot is taken
LAYERS, WINDOW, Hk, D = 12, 32, 2, 64


def write(cache: KVCache, count: int) -> None:
    """Append `count` tokens to every layer, as prefill does."""
    chunk = RowChunk(cache, count)
    for layer in range(LAYERS):
        k = mx.full((1, Hk, count, D), float(layer))
        chunk.update(layer, k, k)
    chunk.advance()
    mx.eval(cache.arrays)


def decode(caches: list[KVCache]) -> mx.array:
    """Append a token to every row, and read what it sees, as attention does."""
    batch = PackedRows(caches, [1] * len(caches))
    h = mx.ones((len(caches), Hk, 1, D))
    for layer in range(LAYERS):
        spans = [x for each in batch.update(layer, h, h) for x in each.spans]
        seen = [(h[:1] @ x.keys.swapaxes(-1, -2)) @ x.values for x in spans]
        h = h / (1 + sum(x.sum() for x in seen))
    batch.advance()
    return h


@dataclass
class Running:
    ids: list[int]
    lease: CacheLease


def start(prompts: PromptCache, ids: list[int]) -> Running:
    """Lease a cache and prefill what it does not hold, but for the last token."""
    lease = prompts.acquire(ids)
    part = ids[lease.cached_tokens : -1]
    if part:
        write(lease.cache, len(part))
        lease.record(part)
    return Running(list(ids), lease)


def test_a_hundred_steps_take_the_slabs_and_less_than_a_row() -> None:
    pool = KVPool([n % 2 == 0 for n in range(LAYERS)], WINDOW)
    prompts = PromptCache(pool, message_ends=[END], limit=10**9)
    draw = np.random.default_rng(3)

    def prompt() -> list[int]:
        ids = draw.integers(10, 90, PROMPT)
        ids[[40, 200]] = END
        return ids.tolist()

    batch = [start(prompts, prompt()) for _ in range(ROWS)]
    row = batch[0].lease.cache.nbytes
    worst, before, others = 0, None, mx.get_active_memory() - prompts.nbytes
    for step in range(STEPS):
        held = prompts.nbytes
        mx.reset_peak_memory()
        if step % 25 == 3:  # cancelled: another one takes its place
            batch.pop(step % ROWS).lease.discard()
            batch.append(start(prompts, prompt()))
        if step % 11 == 5:  # preempted, then resumed
            paused = batch.pop(step % ROWS)
            paused.lease.release()
            batch.append(start(prompts, paused.ids))
        tokens = [END if (step + n) % 9 == 0 else 20 + n for n in range(ROWS)]
        for running, token in zip(batch, tokens, strict=True):
            running.ids.append(token)
        h = decode([running.lease.cache for running in batch])
        mx.async_eval(h)
        if before is not None:
            mx.eval(before)
        before = h
        for running in batch:
            running.lease.record([running.ids[-2]])
        mx.eval(h)
        held = max(held, prompts.nbytes)  # slabs and snapshots
        worst = max(worst, mx.get_peak_memory() - others - held)

    print(f"slabs {pool.nbytes:,}, a row {row:,}, beside them at most {worst:,}")
    assert pool.nbytes > 2 * ROWS * row / 3
    assert prompts.statistics.snapshots > ROWS
    assert worst < row
