"""KV caches: the keys queries get, for any chunks of keys, and after restoring."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.model.kv_cache import GROWTH, FullCache, KVCache, WindowCache

B, Hk, D = 2, 3, 2


def tokens(start: int, count: int, value: float = 0.0) -> mx.array:
    """Return keys (B, Hk, count, D) whose values are their positions, plus `value`."""
    positions = mx.arange(start, start + count, dtype=mx.float32) + value
    return mx.broadcast_to(positions[None, None, :, None], (B, Hk, count, D)) + 0


def add(layer: FullCache | WindowCache, count: int, value: float = 0.0) -> list[float]:
    """Append `count` tokens; return the positions the queries get, as stored."""
    start = layer.offset
    k, v = layer.update(tokens(start, count, value), tokens(start, count, value + 0.5))
    mx.eval(k, v)
    np.testing.assert_array_equal(np.array(v), np.array(k) + 0.5)
    assert k.shape[:2] == (B, Hk)
    assert (np.array(k) == np.array(k)[:1, :1, :, :1]).all()
    return np.array(k)[0, 0, :, 0].tolist()


def test_full_cache_returns_every_key_in_order() -> None:
    layer = FullCache()
    for count in (3, 1, 1, 300, 1):
        end = layer.offset + count
        assert add(layer, count) == list(range(end))


def test_full_cache_grows_in_steps() -> None:
    layer = FullCache()
    sizes = []
    for count in (1, GROWTH - 1, 1, 2 * GROWTH):
        add(layer, count)
        sizes.append(layer.arrays[0].shape[2])
    assert sizes == [GROWTH, GROWTH, 2 * GROWTH, 4 * GROWTH]


def test_full_cache_is_written_in_place() -> None:
    layer = FullCache()
    add(layer, 5)
    place = np.asarray(layer.arrays[0]).ctypes.data
    for _ in range(3):
        add(layer, 1)
    assert np.asarray(layer.arrays[0]).ctypes.data == place


def test_full_cache_trims_and_goes_on() -> None:
    layer = FullCache()
    add(layer, 9)
    layer.trim(4)
    assert add(layer, 2, value=100) == [0, 1, 2, 3, 4, 105, 106]


def test_window_cache_gives_one_token_the_keys_of_its_window() -> None:
    layer = WindowCache(4)
    for position in range(11):
        found = sorted(add(layer, 1))
        assert found == list(range(max(0, position - 3), position + 1))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_window_cache_gives_the_right_keys_in_any_chunks(
    counts: list[int], window: int
) -> None:
    layer = WindowCache(window)
    for count in counts:
        start, end = layer.offset, layer.offset + count
        found = add(layer, count)
        first = max(0, start - window + 1)
        if count > 1:
            assert found == list(range(first, end))
        else:
            assert sorted(found) == list(range(max(0, end - window), end))


def test_window_cache_memory_is_bounded() -> None:
    layer = WindowCache(8)
    add(layer, 500)
    assert layer.arrays[0].shape == (B, Hk, 8, D)


@pytest.mark.parametrize("make", [FullCache, lambda: WindowCache(4)])
def test_a_state_is_not_touched_by_later_tokens(
    make: Callable[[], FullCache | WindowCache],
) -> None:
    layer = make()
    add(layer, 6)
    before = layer.state
    kept = [np.array(x) for x in before[1:]]
    for _ in range(5):
        add(layer, 1, value=100)
    again = make()
    again.state = before
    add(again, 1, value=200)
    for array, copy in zip(before[1:], kept, strict=True):
        np.testing.assert_array_equal(np.array(array), copy)


def model_cache() -> KVCache:
    return KVCache([WindowCache(4), FullCache(), WindowCache(4)])


def read(cache: KVCache, count: int, value: float = 0.0) -> list[list[float]]:
    return [sorted(add(layer, count, value)) for layer in cache]


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("until", [0, 2, 4, 9])
def test_restore_continues_as_if_nothing_had_come_between(
    until: int, chunk: int
) -> None:
    plain, rewound = model_cache(), model_cache()
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
        assert read(rewound, count) == read(plain, count)


def test_a_snapshot_holds_the_windows_only() -> None:
    cache = model_cache()
    read(cache, 300)
    window_bytes = B * Hk * 4 * D * 4
    assert cache.snapshot().nbytes == 2 * 2 * window_bytes
    assert cache.nbytes == 2 * 2 * window_bytes + 2 * B * Hk * 2 * GROWTH * D * 4


def test_trim_works_until_a_window_wraps() -> None:
    cache = model_cache()
    read(cache, 4)
    assert cache.can_trim(2)
    cache.trim(2)
    assert read(cache, 1, value=100) == [[0, 1, 102]] * 3
    read(cache, 2)
    assert (cache.offset, cache.can_trim(1), cache.can_trim(0)) == (5, False, True)
