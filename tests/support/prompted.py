"""A model that answers by what its prompt says, however often it is asked.

    with prompted(answer_to) as runtime: ...     # answer_to(prompt) -> Harmony text

For programs that send more requests than a script could foresee: titles, summaries,
retries. An answer is found again after a cancel, and from a cached prompt.
"""

import time
from collections.abc import Callable

import mlx.core as mx

from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from tests.support.fakes import (
    SURE,
    FakeCache,
    FakeModel,
    byte_tokenizer,
    last_row,
    token_ids,
)

TURN = "<|start|>assistant"
RAW = " Paris."  # said behind a prompt without messages
ROWS = 300


class PromptedModel(FakeModel):
    """Says `answer_to(prompt)`; `prompts` keeps what was asked."""

    def __init__(self, answer_to: Callable[[str], str], step_seconds: float) -> None:
        super().__init__(lambda _: [])
        self.prompts: list[str] = []
        self.said = 0  # tokens of the latest answer so far
        self._answer_to = answer_to
        self._step_seconds = step_seconds
        self._tokenizer = byte_tokenizer()
        self._turn = token_ids(TURN, self._tokenizer)
        self._start = self._turn[0]
        self._raw = token_ids(RAW, self._tokenizer)
        self._end = self._tokenizer.special("<|return|>")

    def behind(self, tokens: list[int], cache: FakeCache, *, last: bool) -> mx.array:
        time.sleep(self._step_seconds)
        cache.ids += tokens
        if cache.answer and tokens == cache.answer[: len(tokens)]:
            cache.answer = cache.answer[len(tokens) :]
            self.said += len(tokens)
        elif cache.ids[-len(self._turn) :] == self._turn:
            self.said = 0
            self.prompts.append(self._tokenizer.decode(cache.ids))
            cache.answer = token_ids(self._answer_to(self.prompts[-1]), self._tokenizer)
        elif self._start not in cache.ids and cache.ids[-len(self._raw) :] != self._raw:
            cache.answer = [*self._raw]
        else:
            cache.answer = []
        said = cache.answer[0] if cache.answer else self._end
        sure = [SURE if token == said else 0.0 for token in range(ROWS)]
        return last_row(sure, 1 if last else len(tokens))


def prompted(
    answer_to: Callable[[str], str], *, context: int, step_seconds: float = 0
) -> Runtime:
    model = PromptedModel(answer_to, step_seconds)
    return Runtime(
        model,
        tokenizer=byte_tokenizer(),
        context=context,
        cache=CacheOptions(idle=False),
    )
