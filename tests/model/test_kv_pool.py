"""A pool of KV caches: the keys that rows see, and the memory that they take."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.kv_cache import KVCache, KVPool, PackedRows, RowChunk
from mlx_gptoss.model.kv_cache.spans import split_runs
from mlx_gptoss.model.kv_sizes import pool_bytes, slab_slots, slot_capacity
from tests.support.checkpoints import hf_config

Hk, D, WINDOW = 2, 2, 6
SLIDING = (True, False)
ROW = 10_000  # of a key: its row's number; the rest is its position


@dataclass
class Row:
    number: int
    cache: KVCache

    def keys(self, count: int) -> np.ndarray:
        """Return the next `count` keys of this row."""
        return self.number * ROW + np.arange(count) + self.cache.offset


def packed(values: np.ndarray) -> mx.array:
    """Return keys (N, Hk, 1, D) that are all `values` (N,)."""
    return mx.array(np.tile(values[:, None, None, None], (1, Hk, 1, D)), mx.float32)


def seen_by_each(rows: list[Row], counts: list[int], layer: int) -> list[list[float]]:
    """Feed `counts` tokens of each row to one layer; return what each row may see."""
    batch = PackedRows([row.cache for row in rows], counts)
    fed = [value for n in batch.order for value in rows[n].keys(counts[n])]
    k = packed(np.array(fed))
    q = mx.arange(len(fed))
    found: dict[int, list[float]] = {}
    for each in [batch.update(other, k, k) for other in range(len(SLIDING))][layer]:
        own = q[each.tokens] if each.spread is None else q[each.tokens][each.spread]
        gathered = None if each.gather is None else np.array(each.gather).tolist()
        at, answers = 0, []
        for span in each.spans:
            queries = np.array(own[span.tokens]).tolist()
            if span.lengths is None:
                views = [(span.keys[0], span.keys.shape[2])]
            else:
                views = list(zip(span.keys, span.lengths, strict=True))
            keys = [np.array(x)[0, :n, 0].tolist() for x, n in views]
            answers += keys if span.lengths else keys * len(queries)
            at += len(queries)
        if gathered is not None:
            answers = [answers[n] for n in gathered]
        for token, keys in enumerate(answers, start=each.tokens.start):
            found[token] = keys
    ends = np.cumsum([counts[n] for n in batch.order]) - 1
    by_row = {n: found[int(end)] for n, end in zip(batch.order, ends, strict=True)}
    batch.advance()
    mx.eval([row.cache.arrays for row in rows])
    return [by_row[n] for n in range(len(rows))]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "step", "step", "chunks"]), st.integers(0, 99)
    ),
    min_size=3,
    max_size=25,
)


@given(STEPS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_rows_that_come_and_go_see_their_own_keys(steps: list, draw: object) -> None:
    pool, rows, made = KVPool(SLIDING, WINDOW), [], 0
    for action, number in steps:
        if action == "join" or len(rows) < 2:
            made += 1
            row = Row(made, pool.make_cache())
            start = (1, 5, 7, 250, 300, 380)[number % 6]
            chunk = RowChunk(row.cache, start)
            k = packed(row.keys(start)).transpose(2, 1, 0, 3)
            for layer in range(len(SLIDING)):
                mx.eval(chunk.update(layer, k, k))
            chunk.advance()
            rows.insert(number % (len(rows) + 1), row)
        elif action == "leave":
            rows.pop(number % len(rows)).cache.free()
        else:
            layer = number % 2
            counts = [1] * len(rows)
            if action == "chunks":
                counts[number % len(rows)] = 2 + number % 11
            starts = [row.cache.offset for row in rows]
            found = seen_by_each(rows, counts, layer)
            for row, start, count, keys in zip(
                rows, starts, counts, found, strict=True
            ):
                end = start + count
                first = max(0, start - WINDOW + 1) if SLIDING[layer] else 0
                expected = [row.number * ROW + n for n in range(first, end)]
                assert sorted(keys) == expected


def test_rows_in_the_order_of_their_slots_are_one_view() -> None:
    pool = KVPool(SLIDING, WINDOW)
    rows = [Row(n, pool.make_cache()) for n in range(5)]
    seen_by_each(rows, [7] * 5, 0)
    batch = PackedRows([row.cache for row in rows], [1] * 5)
    for layer in range(len(SLIDING)):
        k = packed(np.arange(5))
        [each] = batch.update(layer, k, k)
        assert (len(each.spans), each.spread, each.gather) == (1, None, None)


def test_runs_are_at_least_half_used() -> None:
    assert split_runs([0, 1, 2]) == [(0, 3)]
    assert split_runs([0, 2, 3, 9]) == [(0, 4), (9, 10)]
    assert split_runs([1, 3]) == [(1, 4)]
    assert split_runs([0, 4]) == [(0, 1), (4, 5)]


def make_rows(pool: KVPool, lengths: list[int]) -> list[KVCache]:
    caches = [pool.make_cache() for _ in lengths]
    for cache, length in zip(caches, lengths, strict=True):
        chunk = RowChunk(cache, length)
        k = mx.zeros((1, Hk, length, D))
        for layer in range(len(SLIDING)):
            chunk.update(layer, k, k)
        chunk.advance()
        mx.eval(cache.arrays)
    return caches


CONFIG = ModelConfig.from_dict(
    hf_config(
        layer_types=["sliding_attention", "full_attention"],
        num_hidden_layers=2,
        num_attention_heads=2 * Hk,
        num_key_value_heads=Hk,
        head_dim=D,
        sliding_window=WINDOW,
    )
)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_pool_allocates_what_is_planned(lengths: list[int]) -> None:
    pool = KVPool(SLIDING, WINDOW)
    caches = make_rows(pool, lengths)
    assert pool.nbytes == pool_bytes(CONFIG, lengths, float_bytes=4)
    for cache in caches[:-1:2]:
        cache.free()
        cache.free()
    pool.compact()
    left = [cache.offset for cache in caches if cache.offset]
    assert pool.nbytes == pool_bytes(CONFIG, left, float_bytes=4)
    for cache in caches:
        cache.free()
    assert pool.nbytes == 0


def test_short_rows_beside_a_long_one_cost_little() -> None:
    for short in (129, 200, 400, 700, 1000):
        lengths = [short] * 15 + [70_000]
        pool = KVPool(SLIDING, WINDOW)
        make_rows(pool, lengths)
        bare = 2 * Hk * D * 4 * sum(n + min(n, WINDOW) for n in lengths)
        assert pool.nbytes <= 1.1 * bare


@given(st.integers(1, 200_000))
def test_a_slot_is_empty_by_a_third_at_most(tokens: int) -> None:
    assert tokens <= slot_capacity(tokens) <= max(256, 1.5 * tokens)


@given(st.integers(1, 500))
def test_a_slab_has_few_spare_slots(used: int) -> None:
    assert used <= slab_slots(used) <= max(1.5 * used - 0.5, 1)


def test_the_slot_of_a_forgotten_cache_is_used_again() -> None:
    pool = KVPool(SLIDING, WINDOW)
    [cache] = make_rows(pool, [5])
    before = pool.nbytes
    del cache
    make_rows(pool, [5])
    assert pool.nbytes == before


def test_what_a_broken_row_left_is_not_read() -> None:
    """Batches read padding with a weight of zero, and zero times NaN is NaN."""
    pool = KVPool(SLIDING, WINDOW)
    first, kept = pool.make_cache(), pool.make_cache()
    for cache in (first, kept):
        chunk = RowChunk(cache, 20)
        k = mx.full((1, Hk, 20, D), np.nan if cache is first else 0.0)
        for layer in range(len(SLIDING)):
            chunk.update(layer, k, k)
        chunk.advance()
    mx.eval(kept.arrays)
    first.free()
    [again] = make_rows(pool, [3])
    assert again.slot == 0
    assert all(bool(mx.isfinite(x).all()) for x in again.arrays)


def test_rows_that_grow_together_exist_twice_in_one_layer_only() -> None:
    pool = KVPool([False] * 10, WINDOW)
    caches = [pool.make_cache() for _ in range(8)]
    for count in (256, 1):
        before = mx.get_active_memory() - pool.nbytes
        mx.reset_peak_memory()
        batch = PackedRows(caches, [count] * 8)
        if count == 1:
            beside = mx.get_peak_memory() - before - pool.nbytes
            assert [cache.slot for cache in caches] == list(range(8))
            assert beside <= 3 * pool.nbytes / 10
        k = packed(np.arange(8 * count))
        for layer in range(10):
            batch.update(layer, k, k)
        batch.advance()
        mx.eval([cache.arrays for cache in caches])
    assert pool.nbytes == 10 * 2 * 8 * 384 * Hk * D * 4
