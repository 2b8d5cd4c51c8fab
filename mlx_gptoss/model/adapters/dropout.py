"""Dropout of adapters in training: on what A multiplies, as peft and mlx-lm have it.

What is dropped is a function of seed, step, batch, layer and module. A run that goes on
drops the same values, and a layer that is computed again does, too.
"""

from zlib import crc32

import mlx.core as mx
import numpy as np

# Where q, k and v are one matrix, they have one mask; so they have one where they are
# apart, and gate and up as well: both layouts then train alike.
SAME_INPUT = {
    "self_attn.q_proj": "self_attn.qkv_proj",
    "self_attn.k_proj": "self_attn.qkv_proj",
    "self_attn.v_proj": "self_attn.qkv_proj",
    "mlp.experts.gate_proj": "mlp.experts.gate_up_proj",
    "mlp.experts.up_proj": "mlp.experts.gate_up_proj",
}
KEY_WORDS = 2  # of 32 bits


class Dropout:
    """Drops a share `rate` of values and scales the others by 1 / (1 - rate).

    `path` are the numbers that choose them: seed, step, batch, and then the layer.
    """

    def __init__(self, rate: float, path: tuple[int, ...]) -> None:
        assert 0 < rate < 1, f"{rate=}"
        self._rate = rate
        self._path = path

    def of(self, number: int) -> "Dropout":
        """Return the dropout of a layer, -1 above all layers, or of a part of one."""
        return Dropout(self._rate, (*self._path, number + 1))

    def apply(self, module: str, x: mx.array) -> mx.array:
        """Drop values of the input of a module."""
        named = crc32(SAME_INPUT.get(module, module).encode())
        words = np.random.SeedSequence([*self._path, named]).generate_state(KEY_WORDS)
        kept = mx.random.bernoulli(1 - self._rate, x.shape, key=mx.array(words))
        return mx.where(kept, x * (1 / (1 - self._rate)), 0.0)
