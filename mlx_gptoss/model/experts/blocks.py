"""Rows in blocks of one expert each, whose matrices a product reads once a block.

    blocks = ExpertBlocks(expert_indices, E, size)
    y = run(blocks.dispatch(x), blocks.experts)        # (B, size, M), of experts (B,)
    y = blocks.combine(y)                              # (N, T, M)

The last block of an expert is padded. How many blocks there are is bounded by shapes
alone, so that nothing is evaluated and a gradient passes; the padding's is zero.
Blocks of one row are rows sorted by expert.

Dimensions: N tokens, T experts per token, E experts, R = N * T rows, B blocks.
"""

from typing import cast

import mlx.core as mx

from mlx_gptoss.model.device import as_now

# Padding is half a block an expert, and a product of few rows reads the matrix for
# little: an eighth of an expert's average rows balances both.
BLOCKS_OF_EXPERT = 8
LEAST_ROWS, MOST_ROWS = 8, 64


def rows_of_block(rows: int, count: int) -> int:
    """Return how many rows a block should have: a power of two."""
    size = LEAST_ROWS
    while size < MOST_ROWS and 2 * size * BLOCKS_OF_EXPERT <= rows // count:
        size *= 2
    return size


class ExpertBlocks:
    """The blocks of the rows of every token and expert."""

    def __init__(self, expert_indices: mx.array, count: int, size: int) -> None:
        """Arrange rows of (N, T) expert indices, of `count` experts."""
        self.shape = expert_indices.shape
        self.size = size
        N, T = self.shape
        R = N * T
        flat = expert_indices.flatten().astype(mx.int32)
        order = mx.argsort(flat).astype(mx.int32)
        counts = (flat[:, None] == mx.arange(count)).sum(axis=0)  # (E,)
        blocks = (counts + (size - 1)) // size
        ends = mx.cumsum(blocks)
        behind = mx.cumsum(counts)
        # From a row's place among all sorted rows to its place in the blocks.
        shift = (ends - blocks) * size - (behind - counts)
        B = (R + count * (size - 1)) // size
        own = (mx.arange(B)[:, None] >= ends).sum(axis=1)
        self.experts = mx.minimum(own, count - 1)
        places = mx.arange(B * size)
        sorted_places = places - mx.repeat(shift[self.experts], size)
        self._filled = sorted_places < mx.repeat(behind[self.experts], size)
        self._pairs = order[mx.minimum(sorted_places, R - 1)]
        self._tokens = self._pairs // T
        self._places = mx.argsort(order).astype(mx.int32) + shift[flat]

    def dispatch(self, x: mx.array) -> mx.array:
        """Return the tokens of all blocks: (N, M) -> (B, size, M)."""
        N, T = self.shape

        @mx.custom_function
        def rows(x: mx.array) -> mx.array:
            return x[self._tokens]

        @rows.vjp
        @as_now
        def gradient(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
            # What indexing does by itself scatters, value by value on a CPU.
            return cotangent[self._places].reshape(N, T, -1).sum(axis=1)

        dispatched = cast(mx.array, rows(x))
        return dispatched.reshape(-1, self.size, x.shape[-1])

    def combine(self, y: mx.array) -> mx.array:
        """Return the rows by token and expert: (B, size, M) -> (N, T, M)."""

        @mx.custom_function
        def rows(y: mx.array) -> mx.array:
            return y[self._places]

        @rows.vjp
        @as_now
        def gradient(y: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
            return mx.where(self._filled[:, None], cotangent[self._pairs], 0.0)

        combined = cast(mx.array, rows(y.reshape(-1, y.shape[-1])))
        return combined.reshape(*self.shape, -1)
