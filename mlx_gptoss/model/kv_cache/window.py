"""Rings: the last `window` keys or values of a row in a window layer.

Position p is in place p mod window, so one new token overwrites the one that left the
window and then sees every place. The order of places does not matter to attention,
because keys are rotated before they are stored.

Dimensions: Hk key/value heads, L new tokens, D head dim.
"""

import mlx.core as mx


def append_in_order(ring: mx.array, new: mx.array, offset: int) -> mx.array:
    """Return the keys of a ring (1, Hk, window, D) and the new ones, in order."""
    window = ring.shape[2]
    if offset == 0:
        return new
    if offset <= window:
        return mx.concatenate([ring[:, :, :offset], new], axis=2)
    place = offset % window
    return mx.concatenate([ring[:, :, place:], ring[:, :, :place], new], axis=2)


def make_ring(keys: mx.array, later: int, offset: int, window: int) -> mx.array:
    """Build the ring at `offset` from ordered keys that end `later` tokens after it.

    Always a new array: a slice would keep the memory of the whole chunk alive.
    """
    end = keys.shape[2] - later
    last = keys[:, :, max(0, end - window) : end]
    if offset <= window:
        B, Hk, count, D = last.shape
        room = mx.zeros((B, Hk, window - count, D), keys.dtype)
        return mx.concatenate([last, room], axis=2)
    split = window - offset % window  # how many of them belong at the end of the ring
    return mx.concatenate([last[:, :, split:], last[:, :, :split]], axis=2)
