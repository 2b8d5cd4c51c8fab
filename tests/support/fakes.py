"""Stand-ins that behave like the real parts: a vocabulary and a model by script.

    tokenizer = byte_tokenizer()             # 256 bytes + the Harmony tokens
    model = scripted([5, 6, 7], prompt=3)    # says 5, 6, 7 after three tokens

A model keeps what it is fed in its cache and answers from that alone, so that a
test sees a prompt read twice, a token skipped, or a cache of another request.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import cast

import mlx.core as mx
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mlx_gptoss.checkpoint.tokenizer import BYTE_OF_CHARACTER, Tokenizer
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime

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


@dataclass(frozen=True)
class FakeIds:
    """Ids that stand for the rows of a stretch of tokens: a byte each."""

    ids: tuple[int, ...]
    arrays: tuple[mx.array, ...] = ()

    @property
    def nbytes(self) -> int:
        return len(self.ids)

    def slice(self, start: int, end: int) -> "FakeIds":
        return FakeIds(self.ids[start:end])


@dataclass(frozen=True)
class FakeSnapshot:
    """All ids up to a point, so that it shows when it is put back elsewhere."""

    ids: tuple[int, ...]
    arrays: tuple[mx.array, ...] = ()
    nbytes: int = 3

    @property
    def offset(self) -> int:
        return len(self.ids)


class FakeCache:
    """Keeps the very ids it was fed."""

    base, shared = None, 0  # every cache holds its own ids

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.answer: list[int] = []  # what is left to say
        self.arrays: list[mx.array] = []
        self.marks: set[int] = set()

    @property
    def offset(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return len(self.ids)

    def request_snapshots(self, offsets: Iterable[int]) -> None:
        self.marks = set(offsets)

    def take_snapshots(self) -> list[FakeSnapshot]:
        passed = sorted(mark for mark in self.marks if mark <= self.offset)
        self.marks.difference_update(passed)
        return [FakeSnapshot(tuple(self.ids[:mark])) for mark in passed]

    def snapshot(self) -> FakeSnapshot:
        return FakeSnapshot(tuple(self.ids))

    def copy_segment(self, start: int, end: int) -> FakeIds:
        assert end <= self.offset
        return FakeIds(tuple(self.ids[start:end]))

    def rebuild(
        self,
        length: int,
        rows: Sequence[FakeIds],
        snapshot: FakeSnapshot | None = None,
    ) -> None:
        assert length <= self.offset
        self.ids = self.ids[:length] + [n for part in rows for n in part.ids]
        self.answer = []
        assert snapshot is None or list(snapshot.ids) == self.ids

    def shareable(self, length: int) -> int:
        return length

    def share(self, source: "FakeCache", length: int) -> int:
        assert not self.ids and length <= source.offset
        self.ids = source.ids[:length]
        return length

    def free(self) -> None:
        self.ids, self.answer, self.marks = [], [], set()


class FakePool:
    """Makes FakeCaches and counts what they hold."""

    def __init__(self) -> None:
        self.caches: list[FakeCache] = []

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)

    def make_cache(self) -> FakeCache:
        self.caches.append(FakeCache())
        return self.caches[-1]

    def compact(self) -> None:
        pass


class FakeModel:
    """Logits as a pure function of everything read so far: `logits_of(ids)` -> (V,)."""

    def __init__(self, logits_of: Callable[[list[int]], Sequence[float]]) -> None:
        self.logits_of = logits_of
        self.feeds: list[list[int]] = []  # what each call of `hidden` was given

    def hidden(
        self,
        ids: mx.array,
        cache: FakeCache | list[FakeCache],
        *,
        lengths: Sequence[int] | None = None,
        last: bool = False,
        adapters: Sequence[int] | None = None,
    ) -> mx.array:
        assert adapters is None, "no adapter was loaded"
        [tokens] = cast("list[list[int]]", ids.tolist())
        if not isinstance(cache, list):
            self.feeds.append(tokens)
            return self.behind(tokens, cache, last=last)
        ends = list(accumulate(lengths or [1] * len(cache)))
        rows = [tokens[a:b] for a, b in pairwise([0, *ends])]
        self.feeds += rows
        outputs = [
            self.behind(row, own, last=last)
            for row, own in zip(rows, cache, strict=True)
        ]
        return mx.concatenate(outputs, axis=1)

    def behind(self, tokens: list[int], cache: FakeCache, *, last: bool) -> mx.array:
        """Read tokens into a cache; return what `hidden` gives behind them."""
        cache.ids += tokens
        return last_row(self.logits_of(cache.ids), 1 if last else len(tokens))

    def logits(
        self, hidden: mx.array, *, adapters: Sequence[int] | None = None
    ) -> mx.array:
        assert adapters is None, "no adapter was loaded"
        return hidden

    def make_pool(self) -> FakePool:
        return FakePool()

    def make_cache(self) -> FakeCache:
        return FakeCache()


def last_row(logits: Sequence[float], positions: int) -> mx.array:
    """Return (1, positions, V) with `logits` last: nobody should read the others."""
    rows = np.full((1, positions, len(logits)), np.nan, np.float32)
    rows[0, -1] = logits
    return mx.array(rows)


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


class AnsweringModel(FakeModel):
    """Says the n-th answer after the n-th prompt, whatever the prompt is.

    A prompt is what is fed several tokens at a time; `prompts` keeps all that the
    cache held when an answer began. Running out of answers is an IndexError.
    """

    def __init__(self, answers: Iterable[Sequence[int]], vocab_size: int = 300) -> None:
        super().__init__(self._unused)
        self.answers = [list(answer) for answer in answers]
        self.prompts: list[list[int]] = []
        self.vocab_size = vocab_size

    def behind(self, tokens: list[int], cache: FakeCache, *, last: bool) -> mx.array:
        begins = not cache.answer and tokens == self._next()[:1]
        if begins:
            self.prompts.append(list(cache.ids))
            cache.answer = self.answers[len(self.prompts) - 1]
        cache.ids += tokens
        cache.answer = cache.answer[1:] if len(tokens) == 1 else []
        [said] = (cache.answer or self._next())[:1]
        sure = [SURE if n == said else 0.0 for n in range(self.vocab_size)]
        return last_row(sure, 1 if last else len(tokens))

    def _next(self) -> list[int]:
        """The answer to the prompt being read; 0 past the last, which is not read."""
        asked = len(self.prompts)
        return self.answers[asked] if asked < len(self.answers) else [0]

    @staticmethod
    def _unused(ids: list[int]) -> list[float]:
        raise AssertionError(ids)


def token_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Encode text in which `<|...|>` names are special tokens."""
    pieces = re.split("|".join(f"({re.escape(n)})" for n in tokenizer.specials), text)
    ids: list[int] = []
    for piece in filter(None, pieces):
        named = tokenizer.specials.get(piece)
        ids += tokenizer.encode(piece) if named is None else [named]
    return ids


def answering(*answers: str) -> Runtime:
    """Return a runtime that says `answers` in turn; names of specials are specials."""
    tokenizer = byte_tokenizer()
    model = AnsweringModel([token_ids(answer, tokenizer) for answer in answers])
    return Runtime(model, tokenizer=tokenizer, cache=CacheOptions(idle=False))
