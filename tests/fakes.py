"""Stand-ins that behave like the real parts: a vocabulary and a model by script.

    tokenizer = byte_tokenizer()             # 256 bytes + the Harmony tokens
    model = scripted([5, 6, 7], prompt=3)    # says 5, 6, 7 after three tokens

A model keeps what it is fed in its cache and answers from that alone, so that a
test sees a prompt read twice, a token skipped, or a cache of another request.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import cast

import mlx.core as mx
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mlx_gptoss.tokenizer import BYTE_OF_CHARACTER, Tokenizer

SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)
SURE = 20.0  # a logit that leaves the others no chance


def byte_vocabulary(specials: Sequence[str] = SPECIALS) -> tokenizers.Tokenizer:
    """Return a vocabulary whose ids 0..255 are bytes and 256.. the specials."""
    vocabulary = tokenizers.Tokenizer(models.BPE(vocab=BYTE_OF_CHARACTER, merges=[]))
    vocabulary.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    vocabulary.decoder = decoders.ByteLevel()
    vocabulary.add_special_tokens(list(specials))
    return vocabulary


def byte_tokenizer(specials: Sequence[str] = SPECIALS) -> Tokenizer:
    return Tokenizer(byte_vocabulary(specials), "bytes")


def write_tokenizer(folder: Path, specials: Sequence[str] = SPECIALS) -> None:
    byte_vocabulary(specials).save(str(folder / "tokenizer.json"))


class FakeCache:
    """Keeps the very ids it was fed."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.arrays: list[mx.array] = []

    @property
    def offset(self) -> int:
        return len(self.ids)


class FakeModel:
    """Logits as a pure function of everything read so far: `logits_of(ids)` -> (V,)."""

    def __init__(self, logits_of: Callable[[list[int]], Sequence[float]]) -> None:
        self.logits_of = logits_of
        self.feeds: list[list[int]] = []  # what each call of `hidden` was given

    def hidden(self, ids: mx.array, cache: FakeCache) -> mx.array:
        [tokens] = cast("list[list[int]]", ids.tolist())
        self.feeds.append(tokens)
        rows = []
        for token in tokens:
            cache.ids.append(token)
            rows.append(self.logits_of(cache.ids))
        return mx.array([rows], mx.float32)

    def logits(self, hidden: mx.array) -> mx.array:
        return hidden

    def make_cache(self) -> FakeCache:
        return FakeCache()


def scripted(script: Sequence[int], prompt: int, vocab_size: int = 300) -> FakeModel:
    """Return a model that says `script` after any prompt of `prompt` tokens."""

    def logits_of(ids: list[int]) -> list[float]:
        place = len(ids) - prompt
        said = script[place] if 0 <= place < len(script) else 0
        return [SURE if token == said else 0.0 for token in range(vocab_size)]

    return FakeModel(logits_of)


def noisy(vocab_size: int = 11) -> FakeModel:
    """Return a model whose logits depend on every id read, and on their order."""

    def logits_of(ids: list[int]) -> list[float]:
        random = Random(str(ids))
        return [random.gauss(0, 2) for _ in range(vocab_size)]

    return FakeModel(logits_of)
