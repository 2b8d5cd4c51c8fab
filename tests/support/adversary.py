"""A model that tries to break headers: random logits, biased towards wrong tokens.

Logits are a pure function of the ids read, as those of any FakeModel.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from tests.support.fakes import SURE, FakeModel

NOISE = 3.0


def adversary(
    vocab_size: int, control: Sequence[int], *, push: float = 0.5, seed: int = 0
) -> FakeModel:
    """Return a model of random logits that, with probability `push`, is all but sure
    of some control token or of some other token, whichever comes."""

    def logits_of(ids: list[int]) -> np.ndarray:
        key = zlib.crc32(np.array([seed, *ids], np.int32).tobytes())
        random = np.random.default_rng(key)
        logits = random.normal(0, NOISE, vocab_size)
        if random.random() < push:
            any_token = random.integers(vocab_size)
            logits[random.choice(np.array([*control, any_token]))] += SURE
        return logits

    return FakeModel(logits_of)  # pyright: ignore[reportArgumentType]
