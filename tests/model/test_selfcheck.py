"""Slots filled in place or by assignment, and the check that decides between them."""

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.experts import write_check
from mlx_gptoss.model.experts.pool import SlotPool


def test_this_device_sees_what_is_written() -> None:
    assert write_check.check_writes()
    assert write_check.in_place_writes_work()


def test_both_ways_of_filling_show_in_the_array() -> None:
    for in_place in (True, False):
        pool = SlotPool(3, (2, 4), mx.uint32, in_place=in_place)
        for slot in range(3):
            pool.slot_memory(slot)[:] = bytes(32)
        pool.commit(range(3))
        pool.slot_memory(1)[:] = bytes(range(32))
        pool.commit([1])
        expected = mx.array(list(range(32)), mx.uint8).view(mx.uint32)
        assert mx.array_equal(pool.array[1].flatten(), expected)
        assert not pool.array[0].any() and not pool.array[2].any()


def test_a_pool_changes_its_size_and_keeps_what_it_is_told() -> None:
    for in_place in (True, False):
        pool = SlotPool(4, (2,), mx.uint32, in_place=in_place)
        for slot in range(4):
            pool.slot_memory(slot)[:] = bytes([slot] * 8)
        pool.commit(range(4))
        smaller = pool.resized([3, 1], 2)
        assert np.array(smaller.array).tolist() == [[0x03030303] * 2, [0x01010101] * 2]
        larger = smaller.resized([1], 3)
        assert np.array(larger.array)[0].tolist() == [0x01010101] * 2
        assert larger.array.shape == (3, 2)
