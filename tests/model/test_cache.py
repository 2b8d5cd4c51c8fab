"""KV caches: the keys queries get, for any chunks of keys, and after restoring."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.model.kv_cache import KVCache, KVPool, RowChunk
from mlx_gptoss.model.kv_sizes import SMALLEST_CAPACITY, slot_capacity

Hk, D = 3, 2
FULL, WINDOW = [False], [True]
BOTH = [True, False, True]


def tokens(start: int, count: int, value: float = 0.0) -> mx.array:
    """Return keys (1, Hk, count, D) whose values are their positions, plus `value`."""
    positions = mx.arange(start, start + count, dtype=mx.float32) + value
    return mx.broadcast_to(positions[None, None, :, None], (1, Hk, count, D)) + 0


def read(cache: KVCache, count: int, value: float = 0.0) -> list[list[float]]:
    """Append `count` tokens; return what the queries of each layer get, as stored."""
    start, found = cache.offset, []
    chunk = RowChunk(cache, count)
    for layer in range(len(cache.pool.sliding)):
        k, v = tokens(start, count, value), tokens(start, count, value + 0.5)
        k, v = chunk.update(layer, k, v)
        mx.eval(k, v)
        np.testing.assert_array_equal(np.array(v), np.array(k) + 0.5)
        assert k.shape[:2] == (1, Hk)
        assert (np.array(k) == np.array(k)[:1, :1, :, :1]).all()
        found.append(np.array(k)[0, 0, :, 0].tolist())
    chunk.advance()
    return found


def test_a_full_layer_returns_every_key_in_order() -> None:
    cache = KVPool(FULL, 4).make_cache()
    for count in (3, 1, 1, 300, 1):
        end = cache.offset + count
        assert read(cache, count) == [list(range(end))]


def test_a_cache_grows_by_its_capacities() -> None:
    cache, sizes = KVPool(FULL, 4).make_cache(), []
    for count in (1, SMALLEST_CAPACITY - 1, 1, 2 * SMALLEST_CAPACITY):
        read(cache, count)
        sizes.append(cache.nbytes // (2 * Hk * D * 4))
    assert sizes == [slot_capacity(n) for n in (1, 256, 257, 769)]
    assert cache.pool.nbytes == cache.nbytes  # those it grew out of are gone


def test_a_cache_is_written_in_place() -> None:
    cache, places = KVPool(BOTH, 4).make_cache(), set()
    read(cache, 5)
    for _ in range(3):
        read(cache, 1)
        places.add(tuple(np.asarray(x).ctypes.data for x in cache.arrays))
    assert len(places) == 1


def test_a_full_layer_trims_and_goes_on() -> None:
    cache = KVPool(FULL, 4).make_cache()
    read(cache, 9)
    cache.trim(4)
    assert read(cache, 2, value=100) == [[0, 1, 2, 3, 4, 105, 106]]


def test_a_window_layer_gives_one_token_the_keys_of_its_window() -> None:
    cache = KVPool(WINDOW, 4).make_cache()
    for position in range(11):
        [found] = read(cache, 1)
        assert sorted(found) == list(range(max(0, position - 3), position + 1))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_a_window_layer_gives_the_right_keys_in_any_chunks(
    counts: list[int], window: int
) -> None:
    cache = KVPool(WINDOW, window).make_cache()
    for count in counts:
        start, end = cache.offset, cache.offset + count
        [found] = read(cache, count)
        first = max(0, start - window + 1)
        if count > 1:
            assert found == list(range(first, end))
        else:
            assert sorted(found) == list(range(max(0, end - window), end))


def test_the_memory_of_a_window_layer_is_bounded() -> None:
    cache = KVPool(WINDOW, 8).make_cache()
    read(cache, 500)
    assert [x.shape for x in cache.arrays] == [(1, Hk, 8, D)] * 2


def test_copies_are_not_touched_by_later_tokens() -> None:
    cache = KVPool(BOTH, 4).make_cache()
    read(cache, 6)
    segment, snapshot = cache.copy_segment(1, 6), cache.snapshot()
    before = [np.array(x) for x in (*segment.arrays, *snapshot.arrays)]
    cache.trim(0)
    for _ in range(5):
        read(cache, 1, value=100)
    after = [np.array(x) for x in (*segment.arrays, *snapshot.arrays)]
    assert all(map(np.array_equal, before, after))


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("until", [0, 2, 4, 9])
def test_restore_continues_as_if_nothing_had_come_between(
    until: int, chunk: int
) -> None:
    plain, rewound = (KVPool(BOTH, 4).make_cache() for _ in range(2))
    for _ in range(until):
        read(plain, 1)
        read(rewound, 1)
    kept = rewound.snapshot()
    read(rewound, 5, value=100)
    read(rewound, 1, value=100)
    rewound.restore(kept)
    read(rewound, 2, value=200)
    rewound.restore(kept)  # a snapshot can be used again
    assert rewound.offset == plain.offset == until
    for count in (chunk, 1):
        found, expected = read(rewound, count), read(plain, count)
        assert [sorted(x) for x in found] == [sorted(x) for x in expected]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_requested_snapshots_are_the_states_at_their_offsets(
    counts: list[int], data: st.DataObject
) -> None:
    total = sum(counts)
    wanted = data.draw(st.sets(st.integers(1, total), max_size=4))
    plain, cache = (KVPool(BOTH, 4).make_cache() for _ in range(2))
    expected = {}
    for offset in range(1, total + 1):
        read(plain, 1)
        expected[offset] = [np.array(x) for x in plain.snapshot().arrays]
    cache.request_snapshots(wanted)
    found = []
    for count in counts:
        read(cache, count)
        found += cache.take_snapshots()
    assert [one.offset for one in found] == sorted(wanted)
    for one in found:
        states = [np.array(x) for x in one.arrays]
        assert all(map(np.array_equal, states, expected[one.offset]))


def test_a_snapshot_holds_the_windows_only() -> None:
    cache = KVPool(BOTH, 4).make_cache()
    read(cache, 300)
    window_bytes = Hk * 4 * D * 4
    assert cache.snapshot().nbytes == 2 * 2 * window_bytes
    assert cache.nbytes == 2 * 2 * window_bytes + 2 * Hk * slot_capacity(300) * D * 4


def test_trim_works_until_a_window_wraps() -> None:
    cache = KVPool(BOTH, 4).make_cache()
    read(cache, 4)
    assert cache.can_trim(2)
    cache.trim(2)
    assert [sorted(x) for x in read(cache, 1, value=100)] == [[0, 1, 102]] * 3
    read(cache, 2)
    assert (cache.offset, cache.can_trim(1), cache.can_trim(0)) == (5, False, True)
