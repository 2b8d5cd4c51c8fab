"""Conversations of token ids with a real model, with the prompt cache and without it.

A turn follows gpt-oss: reasoning, the end of that message, an answer, and a return; the
next prompt leaves the reasoning out. Tokens are greedy; the ends are forced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gptoss.engine.prompt_cache import BackgroundPrefill, PromptCache
from mlx_gptoss.model.gpt_oss import GptOss

START, END, RETURN, CALL = 290, 291, 292, 293  # of a vocabulary of 301
MESSAGE_ENDS = (END, RETURN, CALL)
ASSISTANT = 294
TEXT = 280  # generated tokens are below
NEAR = 1e-3  # the two best logits may swap if they are this close
TOLERANCE = 5e-4  # float32 sums in another order, for logits of about 4

Ids = list[int]


def message(*ids: int) -> Ids:
    return [START, *ids, END]


OPENING = [START, ASSISTANT]


@dataclass
class LogitComparison:
    """The difference between a cached and an uncached run, over all steps so far."""

    steps: int = 0
    ties: int = 0  # steps with another token, of two that are close
    worst: float = 0.0

    def add(self, logits: mx.array, expected: mx.array) -> None:
        """Compare the logits (V,) of one step."""
        ours, right = np.array(logits), np.array(expected)
        self.steps += 1
        self.worst = max(self.worst, float(np.abs(ours - right).max()))
        if ours.argmax() != right.argmax():
            second, best = np.sort(right)[-2:]
            assert best - second < NEAR, f"{ours.argmax()=} {best=} {second=}"
            self.ties += 1


class CachedConversation:
    """A prompt cache, compared with the model in one pass."""

    def __init__(self, model: GptOss, cache: PromptCache, chunk: int = 512) -> None:
        self.model = model
        self.cache = cache
        self.chunk = chunk
        self.compared = LogitComparison()

    def ask(self, ids: Sequence[int], *parts: int | Sequence[int]) -> tuple[int, Ids]:
        """Prefill a prompt, then generate `parts`: n greedy tokens, or the given ones.

        Returns the number of cached prompt tokens, and the generated tokens.
        """
        said: Ids = []
        rows: list[mx.array] = []
        with self.cache.acquire(ids) as lease:
            logits = mx.zeros(0)
            for start in range(lease.cached_tokens, len(ids), self.chunk):
                part = list(ids[start : start + self.chunk])
                logits = self.model(mx.array([part]), lease.cache)[0, -1]
                mx.eval(logits)
                lease.record(part)
            for part in parts:
                wanted = [None] * part if isinstance(part, int) else part
                for forced in wanted:
                    rows.append(logits)
                    token = int(mx.argmax(logits[:TEXT])) if forced is None else forced
                    logits = self.model(mx.array([[token]]), lease.cache)[0, -1]
                    lease.record([token])
                    said.append(token)
            rows.append(logits)
        self._compare([*ids, *said], rows)
        return lease.cached_tokens, said

    def prepare(self, ids: Sequence[int], steps: int | None = None) -> None:
        """Prefill ahead, completely or for a number of steps."""
        work = BackgroundPrefill(self.model, self.cache, ids, chunk=5)
        while steps != 0 and work.step():
            steps = None if steps is None else steps - 1

    def _compare(self, ids: Ids, rows: list[mx.array]) -> None:
        whole = self.model(mx.array([ids]))[0]
        for row, expected in zip(rows, whole[-len(rows) :], strict=True):
            self.compared.add(row, expected)
        assert self.compared.worst < TOLERANCE
